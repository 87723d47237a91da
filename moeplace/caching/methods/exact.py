"""Exact methods: a formulation, its solver, and the search that keeps incumbent and bound."""

from __future__ import annotations

from typing import Any

from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.decided import ACTIVE
from moeplace.caching.formulations import MOST_ROWS, improve, refuses
from moeplace.caching.heuristics.servers import most_requested
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.searching import caching_incumbent

CPSAT_IMPORTS = ("moeplace_models.caching.cpsat", "moeplace.solvers.cpsat")


_PROOF = "optimal when it ends before its limits; otherwise a proven bound, as far as it came"


@describe(
    MethodInfo(
        summary="Aggregated radius model (Pyomo), solved by HiGHS.",
        exact=True,
        guarantee=_PROOF,
        limits=f"{MOST_ROWS:,} constraint rows",
        refuses=refuses("milp"),
        imports=("moeplace_models.caching.milp", "moeplace.solvers.highs"),
        takes=(ACTIVE,),
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
        refuses=refuses("milp-textbook"),
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
        refuses=refuses("cpsat"),
        imports=CPSAT_IMPORTS,
        takes=(ACTIVE,),
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
        search = caching_incumbent(instance, stop, start, gap, progress)
        begin = search.placement
        filled = most_requested(instance, begin if instance.coverage is not None else None)
        search.offer(filled.at(begin.active))
        search.run(
            lambda: search.attempt(name, lambda: improve(name, instance, search, seed=seed, threads=threads, **options))
        )
        return search.outcome()
