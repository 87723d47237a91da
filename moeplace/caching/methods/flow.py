"""The exact method for instances that are one minimum-cost flow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.base.text import number
from moeplace.caching.heuristics import nested_flow
from moeplace.caching.heuristics.nested_flow import best_flow, pairs_of, shared_worth, uneven
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.searching import caching_incumbent
from moeplace.caching.terms import aggregate

SOURCE = "minimum-cost flow by OR-Tools: totally unimodular, nested sets of servers and equal sizes"


@dataclass(frozen=True)
class Tuning:
    """What the flow takes.

    Attributes
    ----------
    flow : moeplace.caching.heuristics.nested_flow.Tuning
    """

    flow: nested_flow.Tuning = nested_flow.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""


def refuses(instance: Instance) -> str | None:
    """Say which condition of the theorem an instance does not meet, or None."""
    problem = aggregate(instance)
    several = int(np.count_nonzero(np.diff(problem.set_start)[problem.term_set] > 1))
    if several:
        return (
            f"the saving is not linear: {number(several)} of {number(problem.n_terms, 'term')} ask for several experts "
            'under "max", and what one of them saves depends on the others'
        )
    worth = shared_worth(instance)
    if worth.crossing is not None:
        one, other = (_names(instance, servers) for servers in worth.crossing)
        return f"sets of servers that are equally near must be nested or disjoint: {one} and {other} are not"
    if (found := uneven(instance, pairs_of(instance, worth))) is not None:
        n, least, most = found
        name = instance.servers[n].name
        return f"experts on one server must have one size: {name!r} may hold some of {least} and some of {most} bytes"
    return None


@describe(
    MethodInfo(
        summary="One minimum-cost flow (OR-Tools) over experts and servers, with coverage, loading and slots.",
        exact=True,
        guarantee="optimal: the constraint matrix is totally unimodular (the linear program has integer corners)",
        limits='"sum" or top-1; sets of equally near servers nested; one size of experts on a server',
        refuses=refuses,
        imports=("ortools.graph.python.min_cost_flow",),
        seeded=lambda parameters: False,
    )
)
def flow(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Solve instances whose saving is a sum over experts and nested sets of servers, exactly.

    That is so where a row asks for one expert at a time ("sum", or top-1) and where, for every model, the sets of
    servers within some time of a user (and those that users without a cloud reach) are nested or disjoint: one near
    server or machine and everything else far; racks within rooms within sites. The proof:
    :mod:`moeplace.caching.heuristics.nested_flow`.
    """
    with stopping(time_limit) as stop:
        search = caching_incumbent(instance, stop, start, progress=progress)
        search.run(lambda: search.attempt("flow", lambda: improve(instance, search)))
        return search.outcome()


def improve(instance: Instance, search: Incumbent, tuning: Tuning = USUAL) -> None:
    """Give a search the best placement and its proof; the instance must be none that :func:`refuses` refuses."""
    if search.checkpoint():
        return
    best = best_flow(instance, shared_worth(instance), tuning.flow)
    if best is None:
        search.prove_none(SOURCE)
        return
    search.offer(Placement(best.held))
    search.prove(instance.baseline_ns - best.worth, SOURCE)


def _names(instance: Instance, servers: Bool) -> str:
    names = [repr(instance.servers[n].name) for n in np.flatnonzero(servers).tolist()]
    return "{" + ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") + "}"
