"""Turns between placement and active experts, where an instance leaves open how many experts each layer uses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moeplace.base.errors import InputError
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.heuristics import joint_search
from moeplace.caching.heuristics.climb import ENUMERATED
from moeplace.caching.heuristics.column_search import ColumnTuning
from moeplace.caching.heuristics.joint import JointForms, refuses
from moeplace.caching.heuristics.joint_search import JointSearch
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import KERNELS
from moeplace.caching.searching import caching_incumbent
from moeplace.layers.merging import KERNELS as MERGING


@dataclass(frozen=True)
class Tuning:
    """How far placements and active experts are improved.

    Attributes
    ----------
    search : moeplace.caching.heuristics.column_search.ColumnTuning
    """

    search: ColumnTuning = joint_search.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""


@describe(
    MethodInfo(
        summary="Takes turns: active experts at a fixed placement, exactly; the placement at fixed active experts.",
        guarantee="never worse than its start, nor than either order by the same climb; no ratio",
        limits="only instances that leave open how many experts are active",
        refuses=refuses,
        imports=(*KERNELS, *MERGING, "moeplace.layers.master"),
        takes=("active",),
    )
)
def alternating(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    kicks: int = 4,
    enumerate: int = ENUMERATED,
) -> Outcome:
    """Take turns between the placement and the active experts until neither helps, from several beginnings.

    While the servers hold the same, what a layer costs with each number of active experts is a table, and the best
    choice within the budget is a knapsack. While the active experts are the same, the placement climbs as in
    ``local-search``. The first turns begin with all experts active; the next ones with a choice at what bytes are worth
    there, which sees that a layer with fewer active experts leaves its bytes to others. Others begin with as many
    experts left out as the budget allows, and with one number for all layers of a model. So the placement is no worse
    than that of either order, placement or choice first, by the same climb. Then columns (a layer's active
    experts and what the servers hold of it) are priced and merged as in ``column-generation``.

    Parameters
    ----------
    kicks : int
        Times that a few servers are emptied and filled anew to find other columns, with a merge after every few.
    enumerate : int
        Most experts of a layer whose sets are all tried where a server is filled.
    """
    if kicks < 0:
        raise InputError(f"kicks must be at least 0, found {kicks}")
    with stopping(time_limit) as stop:
        search = caching_incumbent(instance, stop, start, progress=progress)
        columns = JointSearch(
            JointForms(instance), search, seed=seed, started=start is not None, threads=threads, enumerated=enumerate
        )

        def work() -> None:
            columns.begin()
            columns.improve(kicks)

        search.run(lambda: search.attempt("alternating", work))
        outcome = search.outcome()
        return replace(outcome, termination=search.ended or "completed", details=outcome.details | columns.details)
