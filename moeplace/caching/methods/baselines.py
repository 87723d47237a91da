"""Baselines that every comparison needs: nothing cached, the most used cached, anything cached."""

from __future__ import annotations

import numpy as np

from moeplace.base.arrays import Int64
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.base.text import number
from moeplace.caching.heuristics.covering import cover
from moeplace.caching.heuristics.servers import fill, most_requested, requests_by_server
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement


def _needs_servers(instance: Instance) -> str | None:
    """Say why empty servers are no placement, or None."""
    coverage = instance.coverage
    if coverage is None:
        return None
    held = number(len(np.unique(coverage.item)), "expert")
    return f"no placement: {held} must be on some server, because demands have no cloud"


@describe(
    MethodInfo(
        summary="Every server empty: everything is served by the device or the cloud.",
        limits="demands without a cloud: empty servers are no placement",
        refuses=_needs_servers,
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

    Where demands have no cloud, the servers begin with a cover (every expert that must be somewhere, at the least loss
    of requests: :func:`moeplace.caching.heuristics.covering.cover`) and are filled beside it.
    """
    with stopping(time_limit) as stop:
        begin = cover(instance, stop, requests_by_server(instance).astype(np.int64))
        return Outcome(most_requested(instance, begin))


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

    Where demands have no cloud, the servers begin with a cover, as for ``popular``, here of values drawn at random.
    """
    with stopping(time_limit) as stop:
        generator = np.random.default_rng(seed)
        cached = cover(instance, stop, _any_value(instance, generator)).cached.copy()
        for n in range(len(cached)):
            fill(cached[n], generator.permutation(instance.n_items), instance, n)
        return Outcome(Placement(cached))


def _any_value(instance: Instance, generator: np.random.Generator) -> Int64:
    """Draw values for a cover, and nothing where no cover is needed: what is drawn next stays what it was."""
    shape = (len(instance.servers), instance.n_items)
    return np.zeros(shape, dtype=np.int64) if instance.coverage is None else generator.integers(1, 2**20, shape)
