"""Baselines that every comparison needs: nothing cached, the most used cached, anything cached."""

from __future__ import annotations

import numpy as np

from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.caching.heuristics.covering import cover
from moeplace.caching.heuristics.servers import fill, most_requested
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement


@describe(
    MethodInfo(
        summary="Every server empty: everything is served by the device or the cloud.",
        seeded=lambda parameters: False,
    )
)
def no_cache(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Cache nothing (the baseline that savings are counted from). Ignores ``start``."""
    return Outcome(Placement.empty(instance))


@describe(
    MethodInfo(
        summary="Each server caches what its own users use most often per byte.", seeded=lambda parameters: False
    )
)
def popular(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Fill each server with the experts its users use most often per byte. Ignores ``start``.

    The users of a server are the demands for which no server is nearer, and which it serves faster than the
    cloud. Experts on the user's own device do not count. What nobody near uses is not cached.

    Where demands have no cloud, the servers begin with a cover (every expert that must be somewhere, as
    :func:`moeplace.caching.heuristics.covering.cover` places it) and are filled beside it.
    """
    with stopping(time_limit) as stop:
        return Outcome(most_requested(instance, cover(instance, stop)))


@describe(MethodInfo(summary="Each server caches experts in a random order (seeded) until nothing more fits."))
def random(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Fill each server in a random order of all experts. Ignores ``start``.

    Where demands have no cloud, the servers begin with a cover, as for ``popular``.
    """
    with stopping(time_limit) as stop:
        cached = cover(instance, stop).cached.copy()
        generator = np.random.default_rng(seed)
        for n in range(len(cached)):
            fill(cached[n], generator.permutation(instance.n_items), instance, n)
        return Outcome(Placement(cached))
