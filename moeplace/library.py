"""The instances that come with the package: sets of files with their best known solutions.

In a checkout they are in the folder ``instances`` at its top, in an installed wheel inside the package.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from moeplace.base.documents import BestKnown, parse
from moeplace.base.errors import ContradictionError, InputError
from moeplace.base.files import read_json, write_bytes

BEST_KNOWN = "best_known.json"


def instances_folder() -> Path:
    """Return the folder that holds the sets.

    Raises
    ------
    InputError
        The instances are neither beside nor inside the package.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "instances", package.parent / "instances"):
        if folder.is_dir():
            return folder
    raise InputError("the instances are missing from this installation")


def set_names() -> list[str]:
    """Return the names of the sets: generated ones from the smallest instances to the largest, then the real one.

    Examples
    --------
    >>> set_names()
    ['tiny', 'small', 'medium', 'large', 'real']
    """
    found = {folder.name for folder in instances_folder().iterdir() if any(folder.glob("*.json*"))}
    order = ["tiny", "small", "medium", "large", "real"]
    return [name for name in order if name in found] + sorted(found - set(order))


def instance_files(set_name: str | None = None) -> list[Path]:
    """Return the instance files of a set, or of all sets, by name.

    Parameters
    ----------
    set_name : str, optional
        One of :func:`set_names`.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        There is no such set.

    Examples
    --------
    >>> [path.name for path in instance_files("tiny")][-1]
    'tiny_unreachable_server.json'
    """
    if set_name is None:
        return [path for name in set_names() for path in instance_files(name)]
    folder = _set_folder(set_name)
    return sorted(path for path in folder.iterdir() if is_instance(path))


def best_known(set_name: str) -> dict[str, BestKnown]:
    """Return the best known solution values of a set by instance name; empty where none are recorded.

    Raises
    ------
    InputError
        There is no such set, or its file is damaged.

    Examples
    --------
    >>> best_known("tiny")["tiny_top1_greedy_works"].latency_ns
    360000000
    """
    return read_best_known(_set_folder(set_name))


def read_best_known(folder: str | os.PathLike[str]) -> dict[str, BestKnown]:
    """Read the ``best_known.json`` of a folder of instances, by instance name; empty where there is none.

    Raises
    ------
    InputError
        The file cannot be read or is no such document.
    """
    path = Path(folder) / BEST_KNOWN
    if not path.exists():
        return {}
    try:
        return parse(read_json(path), dict[str, BestKnown])
    except InputError as error:
        raise error if error.file else error.in_file(str(path)) from None


def improved(known: BestKnown | None, instance: Any, solution: Any) -> BestKnown:
    """Return what is known of an instance after a solution: the record itself, or a better one.

    Parameters
    ----------
    known : BestKnown or None
        The record so far; one of another instance (by its hash) counts for nothing.
    instance : Instance
    solution : Solution
        Its cost counts if the checker finds it to be true, its bound if it says whose proof it is.

    Returns
    -------
    BestKnown
        ``known`` itself where nothing is better.

    Raises
    ------
    ContradictionError
        The checker rejects the solution, or a cost is below a bound; both are named.
    """
    from moeplace.problems import check

    report = check(instance, solution)
    if not report.ok:
        raise ContradictionError(f"{instance.name}: {solution.method} is wrong: {'; '.join(report.violations)}")
    cost, cost_by = solution.value, solution.method or "unknown"
    bound, bound_by = solution.bound, solution.bound_source
    if bound_by is None:
        bound = None
    if known is not None and known.sha256 == instance.sha256:
        if known.latency_ns <= cost:
            cost, cost_by = known.latency_ns, known.latency_method
        if known.bound_ns is not None and (bound is None or known.bound_ns >= bound):
            bound, bound_by = known.bound_ns, known.bound_method
        if (cost, bound) == (known.latency_ns, known.bound_ns):
            return known
    if bound is not None and cost < bound:
        said = f"the cost {cost} of {cost_by} is below the bound {bound} of {bound_by}"
        raise ContradictionError(f"{instance.name}: {said}: one of the two is wrong, nothing is recorded")
    return BestKnown(
        sha256=instance.sha256,
        latency_ns=cost,
        bound_ns=bound,
        optimal=cost == bound,
        latency_method=cost_by,
        bound_method=bound_by,
        version=version("moeplace"),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def write_best_known(folder: str | os.PathLike[str], records: Mapping[str, BestKnown]) -> None:
    """Write the ``best_known.json`` of a folder, one line an instance, by name; whole or not at all.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    lines = (f"  {json.dumps(name)}: {json.dumps(msgspec.to_builtins(records[name]))}" for name in sorted(records))
    write_bytes(Path(folder) / BEST_KNOWN, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def instance_name(path: Path) -> str:
    """Return the name that an instance file must have inside: the file's, without its endings."""
    return path.name.removesuffix(".gz").removesuffix(".json")


def is_instance(path: Path) -> bool:
    """Return whether a file in a folder of instances is one, by its name."""
    return path.name.endswith((".json", ".json.gz")) and path.name != BEST_KNOWN


def _set_folder(set_name: str) -> Path:
    if set_name not in set_names():
        raise InputError(f"no set of instances {set_name!r}; there are {', '.join(set_names())}")
    return instances_folder() / set_name
