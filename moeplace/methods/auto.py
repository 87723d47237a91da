"""Picking methods for an instance, combining them, and saying why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moeplace.documents import Termination
from moeplace.incremental import saving_form
from moeplace.instance import Instance
from moeplace.interrupt import stopping
from moeplace.methods.column_generation import (
    EVERYTHING,
    EXACT_EXPERTS,
    IMPORTS,
    MOST_TERMS,
    TURNS,
    ColumnSearch,
    prices_exactly,
    prove,
)
from moeplace.methods.exact import aggregated_rows
from moeplace.placement import Placement
from moeplace.registry import MethodInfo, describe, find_formulation
from moeplace.result import Outcome, ProgressCallback
from moeplace.search import Search

EXACT_ROWS = 200_000
"""Constraint rows of the aggregated model up to which CP-SAT is given the time that is left."""

ENDED: dict[Termination, str] = {
    "interrupted": "interrupted",
    "time_limit": "the time was used up",
    "optimal": "an optimal placement was reached",
    "gap_limit": "the gap asked for was reached",
}
"""How a search may end."""

KICKS = 8
"""Kicks before CP-SAT has a single thread for itself."""


@describe(
    MethodInfo(
        summary="Exchanges first; then proof and better placements side by side, by methods picked for the instance.",
        exact=True,
        guarantee=f"a proven bound; optimal, given time, up to {EXACT_ROWS:,} constraint rows",
        limits="with threads=1 bound and placement take turns, with 2 or more they go on at the same time",
        imports=IMPORTS,  # CP-SAT's take seconds to load and are mostly not needed
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
    """Find a good placement in seconds, then close the gap from both sides until gap, time or interruption.

    Layers of up to 16 experts on a few servers are proven by ``layer-enumeration``; larger ones get its bound or the
    concave bound, while ``column-generation`` goes on improving the placement. Where that ends without a proof and the
    aggregated model is small enough, CP-SAT goes on.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        search = Search(instance, stop, start or Placement.empty(instance), gap, progress)
        form = saving_form(instance)
        search.prove(instance.baseline_ns - form.most_ns, EVERYTHING)
        columns = ColumnSearch(form, search, seed=seed, started=start is not None)
        small = prices_exactly(instance)
        at_once = threads > 1 and not small  # a small instance is proven from a good placement
        if not at_once:
            search.run(lambda: search.attempt("the first climb", columns.begin))
        if ended := search.ended:
            because = f"{ENDED[ended]} by the first climb"
            return replace(search.outcome(), method="local-search", picked_because=because)

        method = "layer-enumeration" if small else "column-generation"
        most = max((model.experts for model in instance.models), default=0)
        because = (
            f"layers of {most} experts, up to {EXACT_EXPERTS} are enumerated"
            if small
            else f"layers of {most} experts on {len(instance.servers)} servers are too large to enumerate"
        )

        def solve() -> None:
            def run() -> None:
                from moeplace.solvers import cpsat

                cpsat.improve(find_formulation("cpsat")(instance), search, seed=seed, threads=1)

            search.attempt("cpsat", run)

        def prove_layers() -> None:
            search.attempt("the proof", lambda: prove(form, search))

        def last() -> bool:
            return not search.ended and form.most_terms <= MOST_TERMS and aggregated_rows(instance) <= EXACT_ROWS

        def both() -> None:
            prove_layers()
            if last():
                tried.append("cpsat")
                solve()

        def improve(kicks: int | None) -> Callable[[], None]:
            def work() -> None:
                if at_once:
                    columns.begin()
                columns.improve(kicks)

            return lambda: search.attempt("column-generation", work)

        tried: list[str] = []
        if threads > 1:
            search.run(both, improve(None))
        elif small:
            search.run(prove_layers)
            if last():
                search.run(improve(KICKS))
                tried.append("cpsat")
                search.run(solve)
            elif not search.ended:
                search.run(improve(None))
        elif last():
            search.run(improve(KICKS), prove_layers, turns=TURNS)
            if not search.ended:
                tried.append("cpsat")
                search.run(solve)
        else:
            search.run(improve(None), prove_layers, turns=TURNS)
        if tried:
            because += "; what ended without a proof was followed by cpsat"
        outcome = search.outcome()
        details = outcome.details | columns.details
        return replace(outcome, method=method, picked_because=because, details=details)
