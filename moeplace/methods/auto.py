"""Picking a method for an instance, and saying why."""

from __future__ import annotations

from dataclasses import replace

from moeplace.instance import Instance
from moeplace.methods.baselines import popular
from moeplace.methods.exact import CPSAT_IMPORTS, aggregated_rows, cpsat
from moeplace.placement import Placement
from moeplace.registry import MethodInfo, describe
from moeplace.result import Outcome, ProgressCallback

EXACT_ROWS = 50_000
"""Constraint rows of the aggregated model up to which an exact method is worth its time."""


@describe(
    MethodInfo(
        summary="Picks a method by the size of the instance and says which and why.",
        guarantee="that of the method it picks",
        imports=CPSAT_IMPORTS,
    )
)
def auto(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Run an exact method where the instance is small enough to prove something, else the best heuristic.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    rows = aggregated_rows(instance)
    if rows <= EXACT_ROWS:
        outcome = cpsat(
            instance, time_limit=time_limit, seed=seed, threads=threads, start=start, progress=progress, gap=gap
        )
        because = f"exact, and small enough: {rows:,} constraint rows (up to {EXACT_ROWS:,})"
        return replace(outcome, method="cpsat", picked_because=because)
    outcome = popular(instance, time_limit=time_limit, seed=seed, threads=threads, start=start, progress=progress)
    because = f"too large for the exact methods: {rows:,} constraint rows (up to {EXACT_ROWS:,})"
    return replace(outcome, method="popular", picked_because=because)
