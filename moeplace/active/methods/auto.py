"""Picking methods for an instance, and saying why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moeplace.active import front
from moeplace.active.bounds import prove_by_front, prove_by_layers, prove_by_price, too_large
from moeplace.active.document import Choice
from moeplace.active.formulations import improve
from moeplace.active.heuristics import filled, walk
from moeplace.active.instance import Instance
from moeplace.active.searching import active_incumbent
from moeplace.base.errors import MethodLimitError
from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping


@dataclass(frozen=True)
class Tuning:
    """When what is tried. Whatever the numbers are, choices are within the budget and bounds hold.

    Attributes
    ----------
    front : moeplace.active.front.Tuning
        A front that is larger is given up for the proof by layers, and for CP-SAT where that does not end in a proof.
    """

    front: front.Tuning = field(default_factory=lambda: front.Tuning(most_points=5_000_000))


USUAL = Tuning()
"""What is used unless something else is asked for."""


@describe(
    MethodInfo(
        summary="Steepest steps and their bound first; then the point of the front, the proof by layers, or CP-SAT.",
        exact=True,
        guarantee="a proven bound; optimal, given time",
        imports=("moeplace.active._front_kernels",),
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
    """Take the steepest steps, bound them by a price, and close what is left by ``front``, ``layers`` or ``cpsat``.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        search = active_incumbent(instance, stop, start, gap, progress)
        return pick(instance, search, threads)


def pick(instance: Instance, search: Incumbent, threads: int, tuning: Tuning = USUAL) -> Outcome:
    """Pick methods for a search's instance and run them, as :func:`auto` does."""
    way = walk(instance)
    search.offer(filled(instance, way))
    prove_by_price(instance, search, way)
    method, because = "greedy", "the steepest steps were enough"
    refused: list[str] = []

    def merge() -> None:
        try:
            prove_by_front(instance, search, tuning.front)
        except MethodLimitError as error:
            refused.append(error.reason)

    if not search.ended:
        method, because = "front", "the steepest steps left a gap, and the front is small enough"
        search.run(lambda: search.attempt("front", merge))
    if not search.ended and too_large(instance) is None:
        method, because = "layers", f"the steepest steps left a gap, and the front is too large: {'; '.join(refused)}"
        search.run(lambda: search.attempt("layers", lambda: prove_by_layers(instance, search, threads)))
    if not search.ended:
        method, because = "cpsat", "neither the front nor the plans near the best are few"
        search.run(lambda: search.attempt("cpsat", lambda: improve("cpsat", instance, search, seed=0, threads=1)))
    return replace(search.outcome(), method=method, picked_because=because)
