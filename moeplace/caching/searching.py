"""The incumbent of a search for a placement."""

from __future__ import annotations

from moeplace.base.incumbent import Incumbent
from moeplace.base.result import ProgressCallback
from moeplace.base.stop import Stop
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.heuristics.covering import cover
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement


def caching_incumbent(
    instance: Instance,
    stop: Stop,
    start: Placement | None = None,
    gap: float = 0.0,
    progress: ProgressCallback | None = None,
) -> Incumbent:
    """Return the incumbent of a search on an instance, valued by its cost (latency and loading).

    What the servers hold now, where the instance says it and it is a placement, is an incumbent as well: no search that
    keeps one ends with anything worse than changing nothing.

    Parameters
    ----------
    instance : Instance
    stop : Stop
        Time limit and interruption.
    start : Placement, optional
        The first incumbent. Without one it is :func:`~moeplace.caching.heuristics.covering.cover`: every server empty
        or, where demands have no cloud, every expert that they need somewhere; with the first choice of active experts
        (:attr:`~moeplace.caching.active.Choices.first`), where that is open.
    gap : float
        The search may end when the gap is proven to be at most this.
    progress : callable, optional
        Told of every improvement.

    Returns
    -------
    Incumbent

    Raises
    ------
    NoSolutionError
        There is no start, and it is proven that there is no placement.
    MethodError
        There is no start, and none was found before the time was over.
    """
    if start is None:
        start = cover(instance.first_cut, stop).at(None if instance.choices is None else instance.choices.first)
    incumbent = Incumbent(
        start,
        cost=lambda placement: cost_ns(instance, placement),
        fits=lambda placement: placement.fits(instance),
        stop=stop,
        gap=gap,
        progress=progress,
    )
    if instance.holds is not None:
        incumbent.offer(Placement(instance.holds, start.active))
    return incumbent
