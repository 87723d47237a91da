"""Column generation: what a layer may hold on all servers is a column; prices per byte keep the layers in step.

The restricted master problem picks one column a layer within the capacities: its LP gives prices, its MIP merges the
columns of different placements into a better one, and dives round its LP layer by layer with new columns for what is
left (:mod:`moeplace.caching.heuristics.diving`). Pricing finds columns at given prices
(:mod:`moeplace.caching.heuristics.column_search`), with the exchanges of ``local-search``. The LP over *all*
columns is a bound: where layers are small they are priced exactly, which proves it. Where they are large, a weaker
bound is proven beside it (:mod:`moeplace.caching.bounds.proving`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moeplace.base.errors import InputError
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.bounds import proving
from moeplace.caching.bounds.by_layers import CachingLayers
from moeplace.caching.bounds.proving import IMPORTS, prices_exactly, prove, prove_everything
from moeplace.caching.heuristics import column_search
from moeplace.caching.heuristics.column_search import ColumnSearch
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent


@dataclass(frozen=True)
class Tuning:
    """How columns and bound share the time.

    Attributes
    ----------
    turns : tuple of int
        Checkpoints that columns and bound have in turn, where they share one thread.
    columns : moeplace.caching.heuristics.column_search.Tuning
    proving : moeplace.caching.bounds.proving.Tuning
    """

    turns: tuple[int, int] = column_search.TURNS
    columns: column_search.Tuning = column_search.USUAL
    proving: proving.Tuning = proving.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""


@describe(
    MethodInfo(
        summary="Prices storage, generates columns (one layer on all servers), merged by a small MIP and dives.",
        guarantee="a proven bound: by exact pricing in layers of up to 16 experts, else by layers or the concave bound",
        limits="the bound is that of a relaxation: it rarely reaches the optimum",
        imports=IMPORTS,
    )
)
def column_generation(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
    kicks: int = 16,
    enumerate: int = 12,
) -> Outcome:
    """Improve a placement by columns from pricing and from kicks, and prove a bound beside it.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    kicks : int
        Times that a few servers are emptied and filled anew to find other columns, with a merge and dives after every
        eight.
    enumerate : int
        Most experts of a layer whose sets are all tried where a server is filled.
    """
    if kicks < 0:
        raise InputError(f"kicks must be at least 0, found {kicks}")
    with stopping(time_limit) as stop:
        search = caching_incumbent(instance, stop, start, gap, progress)
        details = generate(
            instance, search, seed, threads, started=start is not None, kicks=kicks, enumerated=enumerate
        )
        outcome = search.outcome()
        return replace(outcome, termination=search.ended or "completed", details=outcome.details | details)


def generate(
    instance: Instance,
    search: Incumbent,
    seed: int,
    threads: int,
    *,
    started: bool,
    kicks: int,
    enumerated: int,
    tuning: Tuning = USUAL,
) -> dict[str, int | float | str]:
    """Improve a search's placement and bound as :func:`column_generation` does; return what it counted."""
    form = saving_form(instance)
    prove_everything(form, search)
    details: dict[str, int | float | str] = {}
    small = prices_exactly(instance, tuning.proving)
    # What only covers is far from good: the bound, whose turns are long, waits for a first climb.
    waiting = threads == 1 and not small and instance.coverage is not None
    columns: list[ColumnSearch] = []

    def begin() -> None:
        exact = CachingLayers(form, search, threads, tuning.proving.layers) if small else None
        found = ColumnSearch(
            form, search, seed=seed, started=started, enumerated=enumerated, exact=exact, tuning=tuning.columns
        )
        columns.append(found)
        found.begin()

    def improve() -> None:
        if not columns:
            begin()
        columns[0].improve(kicks)
        details.update(columns[0].details)

    if waiting:
        search.run(lambda: search.attempt("column-generation", begin))
    if small:
        search.run(lambda: search.attempt("column-generation", improve))
    else:
        search.run(
            lambda: search.attempt("column-generation", improve),
            lambda: search.attempt("the proof", lambda: prove(form, search, tuning.proving, max(1, threads - 1))),
            turns=tuning.turns if threads == 1 else None,
        )
    return details
