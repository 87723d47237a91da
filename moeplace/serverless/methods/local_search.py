"""Local search over deployments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moeplace.base.errors import InputError
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics.beginning import begin
from moeplace.serverless.heuristics.climb import Climb, remote_sets
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import KERNELS, layer_tables
from moeplace.serverless.searching import serverless_incumbent


@describe(
    MethodInfo(
        imports=KERNELS,
        seeded=lambda parameters: bool(parameters.get("kicks")),
        summary="Moves experts, specifications and replicas while that is better; kicks if asked for.",
        guarantee="never worse than its start; no ratio",
    )
)
def local_search(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
    kicks: int = 0,
) -> Outcome:
    """Climb from a start, or from several main specifications filled by use, to a local optimum of all moves.

    The moves, all with exact increments: an expert to the other side, two experts exchanged, one out in one layer and
    one in in another, specification and replicas of a layer anew (replicas by LPT), the main specification.

    Parameters
    ----------
    kicks : int
        Times out of a local optimum: a third of the layers get experts moved at random, and the climb begins again.
    """
    if kicks < 0:
        raise InputError(f"kicks must be at least 0, found {kicks}")
    with stopping(time_limit) as stop:
        search = serverless_incumbent(instance, start, stop, 0.0, progress)
        tables = layer_tables(instance)
        moves = begin(instance, tables, search, start)
        generator, climb, done = np.random.default_rng(seed), Climb(instance, tables, lambda: bool(stop)), 0
        while done < kicks and not stop and search.placement is not None:
            sets = remote_sets(instance, search.placement)
            for layer in generator.choice(instance.layers, -(-instance.layers // 3), replace=False).tolist():
                sets[layer] ^= generator.random(instance.experts) < 2 / instance.experts
            search.offer(climb.climb_mains(climb.begin(search.placement.main_spec, sets)).deployment())
            done += 1
        outcome = search.outcome()
        return replace(outcome, termination=stop.termination, details={"kicks": done, "moves": moves + climb.moves})
