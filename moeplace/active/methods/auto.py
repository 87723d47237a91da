"""Picking methods for an instance, and saying why."""

from __future__ import annotations

from dataclasses import replace

from moeplace.active.bounds import prove_by_layers, prove_by_price, too_large
from moeplace.active.cost import choice_of
from moeplace.active.document import Choice
from moeplace.active.front import front
from moeplace.active.heuristics import filled, walk
from moeplace.active.instance import Instance
from moeplace.active.searching import active_incumbent
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping

FRONT = "the exact front"
"""Whose proof a bound is that is a point of the front."""


@describe(
    MethodInfo(
        summary="Steepest steps and their bound first; then the proof by layers, or the exact front.",
        exact=True,
        guarantee="a proven bound; optimal, given time and memory",
        seeded=lambda parameters: False,
    )
)
def auto(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Choice | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Take the steepest steps, bound them by a price, and close what is left by ``layers``, or by the front.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        search = active_incumbent(instance, stop, start, gap, progress)
        way = walk(instance)
        search.offer(filled(instance, way))
        prove_by_price(instance, search, way)
        if search.ended:
            return replace(search.outcome(), method="greedy", picked_because="the steepest steps were enough")
        method, because = "layers", "the steepest steps left a gap, which prices and a merge of the layers close"
        if reason := too_large(instance):
            because = reason
        else:
            search.run(lambda: search.attempt("layers", lambda: prove_by_layers(instance, search, threads)))
            because += "" if search.ended else "; what ended without a proof was followed by the front"
        if not search.ended:
            method = "front"
            search.run(lambda: search.attempt("the front", lambda: _prove_by_front(instance, search)))
        return replace(search.outcome(), method=method, picked_because=because)


def _prove_by_front(instance: Instance, search: Incumbent) -> None:
    """Take the point of the front that the budget allows."""
    try:
        found = front(instance, stop=lambda: search.checkpoint() is not None)
    except InterruptedError:
        return
    lossy = instance.minimises == "time_ns"
    at = found.at(loss=instance.budget) if lossy else found.at(time_ns=instance.budget)
    assert at is not None, "the incumbent is within the budget"
    search.offer(choice_of(found.active([at])[0]))
    search.prove(int((found.time_ns if lossy else found.loss)[at]), FRONT)
