"""Exact methods: the engine of layers, the whole front, and two formulations with their solvers."""

from __future__ import annotations

from collections.abc import Callable

from moeplace.active.bounds import prove_by_front, prove_by_layers, too_large
from moeplace.active.document import Choice
from moeplace.active.formulations import improve
from moeplace.active.front import USUAL
from moeplace.active.instance import Instance
from moeplace.active.searching import active_incumbent
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping

_PROOF = "optimal when it ends before its limits; otherwise a proven bound, as far as it came"


@describe(
    MethodInfo(
        summary="Price the budget, list each layer's choices near its best, merge them.",
        exact=True,
        guarantee=_PROOF,
        limits="what all layers may cost sums to less than 2**57",
        refuses=too_large,
        imports=("moeplace.layers._merge_kernels",),
        seeded=lambda parameters: False,
    )
)
def layers(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Choice | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Prove the best choice with the engine of layers (:mod:`moeplace.layers`) and one budget.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    return _run(
        "layers", lambda search: prove_by_layers(instance, search, threads), instance, time_limit, start, progress, gap
    )


@describe(
    MethodInfo(
        summary="Compute the whole Pareto front of time and loss, and take its point within the budget.",
        exact=True,
        guarantee="optimal when it ends; nothing before",
        imports=("moeplace.active._front_kernels",),
        limits=f"fronts of up to {USUAL.most_points:,} points, all numbers of layers together",
        seeded=lambda parameters: False,
    )
)
def front(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Choice | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Merge the layers' choices into the front (:mod:`moeplace.active.front`)."""
    return _run("front", lambda search: prove_by_front(instance, search), instance, time_limit, start, progress, 0.0)


@describe(
    MethodInfo(
        summary="Multiple-choice knapsack (Pyomo), solved by HiGHS.",
        exact=True,
        guarantee=_PROOF,
        limits="what decides by less than 1e-9 of the largest amount may stay open",
        imports=("moeplace_models.active.milp", "moeplace.solvers.highs"),
    )
)
def milp(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Choice | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Solve the multiple-choice knapsack with HiGHS.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    return _run(
        "milp",
        lambda search: improve("milp", instance, search, seed=seed, threads=threads),
        instance, time_limit, start, progress, gap,
    )  # fmt: skip


@describe(
    MethodInfo(
        summary="Multiple-choice knapsack in integers, solved by OR-Tools CP-SAT.",
        exact=True,
        guarantee=_PROOF,
        limits="with threads=2 or more it runs at least the 8 workers of its portfolio",
        imports=("moeplace_models.active.cpsat", "moeplace.solvers.cpsat"),
    )
)
def cpsat(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Choice | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Solve the multiple-choice knapsack with CP-SAT.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    return _run(
        "cpsat",
        lambda search: improve("cpsat", instance, search, seed=seed, threads=threads),
        instance, time_limit, start, progress, gap,
    )  # fmt: skip


def _run(
    name: str,
    work: Callable[[Incumbent], None],
    instance: Instance,
    time_limit: float | None,
    start: Choice | None,
    progress: ProgressCallback | None,
    gap: float,
) -> Outcome:
    with stopping(time_limit) as stop:
        search = active_incumbent(instance, stop, start, gap, progress)
        search.run(lambda: search.attempt(name, lambda: work(search)))
        return search.outcome()
