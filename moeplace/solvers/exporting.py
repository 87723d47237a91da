"""Algebraic models written for other solvers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from moeplace.base.errors import InputError
from moeplace.base.files import write_whole

FORMATS: Final = {".mps": "mps", ".lp": "cpxlp"}
"""Forms of an exported model, by the ending of the file's name, and Pyomo's names for them."""


def check_ending(path: str | Path) -> str:
    """Return the ending of a file's name, which chooses the form.

    Raises
    ------
    InputError
        It is none of :data:`FORMATS`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"the name must end in .mps or .lp, found {suffix or 'no ending'!r}", file=str(path))
    return suffix


def write_model(model: Any, name: str, path: str | Path) -> None:
    """Write a Pyomo model in MPS or LP format, by the ending of the file's name, whole or not at all.

    Parameters
    ----------
    model : pyomo.environ.ConcreteModel
    name : str
        What its formulation is called.
    path : path-like

    Raises
    ------
    InputError
        Another ending, or a model that Pyomo cannot write.
    """
    form = FORMATS[check_ending(path)]
    if not hasattr(model, "component_data_objects"):
        raise InputError(f"{name} is not an algebraic model that MPS or LP can hold; Pyomo's are, such as milp")

    def write(temporary: Path) -> None:
        model.write(str(temporary), format=form, io_options={"symbolic_solver_labels": True})

    write_whole(path, write)
