"""Heuristics: what the steepest steps reach, the best schedule, the best single number."""

from __future__ import annotations

from collections.abc import Callable

from moeplace.active.bounds import prove_by_price
from moeplace.active.cost import choice_of, least
from moeplace.active.document import Choice
from moeplace.active.heuristics import Family, filled, schedules, walk
from moeplace.active.heuristics import uniform as uniform_family
from moeplace.active.instance import Instance
from moeplace.active.searching import active_incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping


@describe(
    MethodInfo(
        summary="Steepest steps along the layers' convex hulls, then changes of single layers, as many as fit.",
        guarantee="a bound: the linear relaxation's, proven by one price; what is left open is less than one step",
        seeded=lambda parameters: False,
    )
)
def greedy(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Choice | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Take the steps that save most per unit of the budget, and prove the bound of the linear relaxation."""
    with stopping(time_limit) as stop:
        search = active_incumbent(instance, stop, start, progress=progress)
        way = walk(instance)
        search.offer(filled(instance, way))
        prove_by_price(instance, search, way)
        return search.outcome()


def _none_of(what: str, family: Callable[[Instance], Family]) -> Callable[[Instance], str | None]:
    """Return what says why a method has no choice for an instance that has some, or None."""

    def refuses(instance: Instance) -> str | None:
        if instance.least_usage > instance.budget or family(instance).best(instance) is not None:
            return None
        return f"no {what} is within the budget of {instance.budget:,}, though other choices are"

    return refuses


def _best_of(instance: Instance, family: Callable[[Instance], Family]) -> Choice:
    least(instance)  # raises where no choice is within the budget
    found = family(instance)
    at = found.best(instance)
    assert at is not None, "the method refuses such an instance"
    return choice_of(found.active[at])


@describe(
    MethodInfo(
        summary="The best schedule with one bend: straight from the first layer to the bend, and on to the last.",
        limits="instances for which none of these is within the budget",
        refuses=_none_of("schedule", schedules),
        seeded=lambda parameters: False,
    )
)
def schedule(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Choice | None,
    progress: ProgressCallback | None,
) -> Choice:
    """Try all schedules with one bend; the family follows Yang et al. (arXiv 2505.03531)."""
    return _best_of(instance, schedules)


@describe(
    MethodInfo(
        summary="The best single number of active experts for all layers.",
        limits="instances for which no single number is within the budget",
        refuses=_none_of("single number", uniform_family),
        seeded=lambda parameters: False,
    )
)
def uniform(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Choice | None,
    progress: ProgressCallback | None,
) -> Choice:
    """Try every number of active experts, the same in all layers."""
    return _best_of(instance, uniform_family)
