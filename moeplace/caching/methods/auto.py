"""Picking methods for an instance, combining them, and saying why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from moeplace.base.documents import Termination
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.bounds import proving
from moeplace.caching.bounds.proving import EVERYTHING, IMPORTS, prices_exactly, prove
from moeplace.caching.formulations import aggregated_rows
from moeplace.caching.formulations import improve as improve_model
from moeplace.caching.heuristics import column_search
from moeplace.caching.heuristics.column_search import ColumnSearch
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent


@dataclass(frozen=True)
class Tuning:
    """When what is tried. Whatever the numbers are, placements fit and bounds hold.

    Attributes
    ----------
    exact_rows : int
        Constraint rows of the aggregated model up to which CP-SAT is given the time that is left.
    kicks : int
        Kicks before CP-SAT has a single thread for itself.
    turns : tuple of int
        Checkpoints that columns and bound have in turn, where they share one thread.
    columns : moeplace.caching.heuristics.column_search.Tuning
    proving : moeplace.caching.bounds.proving.Tuning
    """

    exact_rows: int = 200_000
    kicks: int = 8
    turns: tuple[int, int] = column_search.TURNS
    columns: column_search.Tuning = column_search.USUAL
    proving: proving.Tuning = proving.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""

ENDED: dict[Termination, str] = {
    "interrupted": "interrupted",
    "time_limit": "the time was used up",
    "optimal": "an optimal placement was reached",
    "gap_limit": "the gap asked for was reached",
}
"""How a search may end."""


@describe(
    MethodInfo(
        summary="Exchanges first; then proof and better placements side by side, by methods picked for the instance.",
        exact=True,
        guarantee=f"a proven bound; optimal, given time, up to {USUAL.exact_rows:,} constraint rows",
        limits="with threads=1 bound and placement take turns, with 2 or more they go on at the same time,"
        " the proof of layers on all threads but one",
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
        search = caching_incumbent(instance, stop, start, gap, progress)
        return pick(instance, search, seed, threads, started=start is not None)


def pick(
    instance: Instance,
    search: Incumbent,
    seed: int,
    threads: int,
    *,
    started: bool,
    tuning: Tuning = USUAL,
) -> Outcome:
    """Pick methods for a search's instance and run them, as :func:`auto` does."""
    form = saving_form(instance)
    search.prove(instance.baseline_ns - form.most_ns, EVERYTHING)
    columns = ColumnSearch(form, search, seed=seed, started=started, tuning=tuning.columns)
    most = max((model.experts for model in instance.models), default=0)
    # A small instance is proven from a good placement. To know exactly whether it is takes as long as a climb may.
    at_once = threads > 1 and most > tuning.proving.exact_experts
    if not at_once:
        search.run(lambda: search.attempt("the first climb", columns.begin))
    if ended := search.ended:
        because = f"{ENDED[ended]} by the first climb"
        return replace(search.outcome(), method="local-search", picked_because=because)

    small = prices_exactly(instance, tuning.proving)
    method = "layer-enumeration" if small else "column-generation"
    because = (
        f"layers of {most} experts, up to {tuning.proving.exact_experts} are enumerated"
        if small
        else f"layers of {most} experts on {len(instance.servers)} servers are too large to enumerate"
    )

    def solve() -> None:
        search.attempt("cpsat", lambda: improve_model("cpsat", instance, search, seed=seed, threads=1))

    def prove_in(threads: int) -> None:
        search.attempt("the proof", lambda: prove(form, search, tuning.proving, threads))

    def last() -> bool:
        return (
            not search.ended
            and form.most_terms <= tuning.proving.most_terms
            and aggregated_rows(instance) <= tuning.exact_rows
        )

    def both() -> None:
        prove_in(max(1, threads - 1))  # one is for the placement
        if last():
            tried.append("cpsat")
            solve()
            # Nothing is left that could prove more: without this, kicks would go on for ever where CP-SAT's answer is
            # the best to its own arithmetic but not to the last unit.
            columns.stop.over = True

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
        search.run(lambda: prove_in(1))
        if last():
            search.run(improve(tuning.kicks))
            tried.append("cpsat")
            search.run(solve)
        elif not search.ended:
            search.run(improve(None))
    elif last():
        search.run(improve(tuning.kicks), lambda: prove_in(1), turns=tuning.turns)
        if not search.ended:
            tried.append("cpsat")
            search.run(solve)
    else:
        search.run(improve(None), lambda: prove_in(1), turns=tuning.turns)
    if tried:
        because += "; what ended without a proof was followed by cpsat"
    outcome = search.outcome()
    details = outcome.details | columns.details
    return replace(outcome, method=method, picked_because=because, details=details)
