"""Picking methods for an instance, and saying why."""

from __future__ import annotations

from dataclasses import replace

from moeplace.incremental import KERNELS
from moeplace.instance import Instance
from moeplace.interrupt import stopping
from moeplace.methods.exact import CPSAT_IMPORTS, aggregated_rows, cpsat
from moeplace.methods.local_search import local_search
from moeplace.placement import Placement
from moeplace.registry import MethodInfo, describe
from moeplace.result import Outcome, ProgressCallback

EXACT_ROWS = 200_000
"""Constraint rows of the aggregated model up to which an exact method is given the rest of the time."""


@describe(
    MethodInfo(
        summary="Local search first; then CP-SAT from there, where the instance is small. Says which and why.",
        exact=True,
        guarantee=f"optimal, or a proven bound, up to {EXACT_ROWS:,} constraint rows; above, that of local-search",
        imports=(*CPSAT_IMPORTS, *KERNELS),
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
    """Find a good placement, then prove it as far as the size of the instance allows.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        found = local_search(
            instance, time_limit=time_limit, seed=seed, threads=threads, start=start, progress=progress
        )
        if stop.interrupted:
            return replace(found, method="local-search", picked_because="interrupted before anything was proven")
        rows = aggregated_rows(instance)
        if rows > EXACT_ROWS:
            because = f"exact models of up to {EXACT_ROWS:,} constraint rows are tried, this one has {rows:,}"
            return replace(found, method="local-search", picked_because=because)
        proven = cpsat(
            instance,
            time_limit=stop.remaining,
            seed=seed,
            threads=threads,
            start=found.placement,
            progress=progress,
            gap=gap,
        )
        because = f"its model has {rows:,} constraint rows, up to {EXACT_ROWS:,} are tried; begun from local-search"
        return replace(proven, method="cpsat", picked_because=because)
