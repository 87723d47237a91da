"""Exact methods: a formulation, its solver, and the search that keeps incumbent and bound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moeplace.base.errors import InputError, MethodLimitError
from moeplace.base.files import write_whole
from moeplace.base.registry import MethodInfo, describe, find_formulation
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.evaluation import caching_incumbent
from moeplace.caching.instance import Instance
from moeplace.caching.methods.baselines import popular
from moeplace.caching.placement import Placement
from moeplace.caching.terms import aggregated_rows, textbook_rows

MOST_ROWS = 500_000
"""Constraint rows above which a model is not built: it would take tens of seconds and gigabytes."""

CPSAT_IMPORTS = ("moeplace_models.caching.cpsat", "moeplace.solvers.cpsat")


def _refuses(rows: Callable[[Instance], int]) -> Callable[[Instance], str | None]:
    def refuses(instance: Instance) -> str | None:
        needed = rows(instance)
        return f"{needed:,} constraint rows, at most {MOST_ROWS:,} are built" if needed > MOST_ROWS else None

    return refuses


_PROOF = "optimal when it ends before its limits; otherwise a proven bound, as far as it came"


@describe(
    MethodInfo(
        summary="Aggregated radius model (Pyomo), solved by HiGHS.",
        exact=True,
        guarantee=_PROOF,
        limits=f"{MOST_ROWS:,} constraint rows",
        refuses=_refuses(aggregated_rows),
        imports=("moeplace_models.caching.milp", "moeplace.solvers.highs"),
    )
)
def milp(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
    rlt: bool = True,
) -> Outcome:
    """Solve the aggregated radius model with HiGHS.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    rlt : bool
        Add the RLT rows (5) of the model. On the small set they prove 1.4 times as fast (docs/benchmarks/exact.md).
    """
    return _solve("milp", instance, time_limit, seed, threads, start, progress, gap, {"rlt": rlt})


@describe(
    MethodInfo(
        summary="Textbook model with one assignment variable per demand, expert and place (Pyomo), solved by HiGHS.",
        exact=True,
        guarantee=_PROOF,
        limits=f"{MOST_ROWS:,} constraint rows; for teaching and comparison, much slower than milp",
        refuses=_refuses(textbook_rows),
        imports=("moeplace_models.caching.milp_textbook", "moeplace.solvers.highs"),
    )
)
def milp_textbook(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Solve the textbook model with HiGHS.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    return _solve("milp-textbook", instance, time_limit, seed, threads, start, progress, gap, {})


@describe(
    MethodInfo(
        summary="Aggregated radius model in integers, solved by OR-Tools CP-SAT.",
        exact=True,
        guarantee=_PROOF,
        limits=f"{MOST_ROWS:,} constraint rows; with threads=2 or more it runs at least the 8 workers of its portfolio",
        refuses=_refuses(aggregated_rows),
        imports=CPSAT_IMPORTS,
    )
)
def cpsat(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Solve the aggregated radius model with CP-SAT.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    return _solve("cpsat", instance, time_limit, seed, threads, start, progress, gap, {})


def _solve(
    name: str,
    instance: Instance,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float,
    options: dict[str, Any],
) -> Outcome:
    with stopping(time_limit) as stop:
        first = popular(instance, time_limit=None, seed=seed, threads=1, start=None, progress=None).placement
        search = caching_incumbent(instance, stop, first, gap, progress)
        if start is not None:
            search.offer(start)

        def work() -> None:
            model = find_formulation(name)(instance, **options)
            if name == "cpsat":
                from moeplace.solvers import cpsat as solver
            else:
                from moeplace.solvers import highs as solver  # type: ignore[no-redef]
            solver.improve(model, search, seed=seed, threads=threads)

        search.run(lambda: search.attempt(name, work))
        return search.outcome()


def export(instance: Instance, model: str, path: str | Path) -> None:
    """Write an algebraic model in MPS or LP format, by the name's ending, whole or not at all.

    Parameters
    ----------
    instance : Instance
    model : str
        A Pyomo formulation in the entry point group ``moeplace.models``.
    path : path-like
        Ends in ``.mps`` or ``.lp``.

    Raises
    ------
    InputError
        Unknown model or ending, or a model that Pyomo cannot write.
    MethodLimitError
        The model would be larger than is built.
    """
    formats = {".mps": "mps", ".lp": "cpxlp"}
    suffix = Path(path).suffix.lower()
    if suffix not in formats:
        raise InputError(f"the name must end in .mps or .lp, found {suffix or 'no ending'!r}", file=str(path))
    build = find_formulation(model)
    for method, rows in (("milp", aggregated_rows), ("milp-textbook", textbook_rows)):
        if model == method and (reason := _refuses(rows)(instance)):
            raise MethodLimitError(model, reason)
    built = build(instance)
    if not hasattr(built, "component_data_objects"):
        raise InputError(f"{model} is not an algebraic model that MPS or LP can hold; milp and milp-textbook are")

    def write(temporary: Path) -> None:
        built.write(str(temporary), format=formats[suffix], io_options={"symbolic_solver_labels": True})

    write_whole(path, write)
