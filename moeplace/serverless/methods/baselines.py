"""Baselines: all local, all remote, the best split alike in all layers."""

from __future__ import annotations

from moeplace.base.errors import MethodError
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.serverless.cost import best_all_local, why_infeasible
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics.baselines import best_split as split
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import KERNELS, layer_tables


def _none(what: str) -> MethodError:
    return MethodError(f"no deployment {what} is within the limits; others may be")


@describe(
    MethodInfo(
        summary="Every expert local, at the cheapest main specification within the limits.",
        guarantee="the cheapest without remote experts",
        seeded=lambda parameters: False,
    )
)
def all_local(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Keep every expert local, at the cheapest main specification."""
    best = best_all_local(instance)
    if best is None:
        raise MethodError(f"no deployment without remote experts is within the limits: {why_infeasible(instance)}")
    return Outcome(best)


@describe(
    MethodInfo(
        summary="Every expert remote, with one remote specification and replicas by LPT.",
        imports=KERNELS,
        seeded=lambda parameters: False,
    )
)
def all_remote(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Put every expert into remote functions, at the cheapest pair of specifications."""
    with stopping(time_limit) as stop:
        found = split(instance, layer_tables(instance), [instance.experts], stop, none=False)
        if found is None:
            raise _none("with every expert remote")
        return Outcome(found, termination=stop.termination)


@describe(
    MethodInfo(
        summary="The best share of remote experts and the best specification, alike in all layers.",
        imports=KERNELS,
        seeded=lambda parameters: False,
    )
)
def best_split(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Try every main specification, number of remote experts (those of least use) and remote specification."""
    with stopping(time_limit) as stop:
        found = split(instance, layer_tables(instance), range(1, instance.experts + 1), stop)
        if found is None:
            raise _none("that is alike in all layers")
        return Outcome(found, termination=stop.termination)
