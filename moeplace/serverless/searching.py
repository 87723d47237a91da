"""The incumbent of a search for a deployment."""

from __future__ import annotations

from moeplace.base.incumbent import Incumbent
from moeplace.base.result import ProgressCallback
from moeplace.base.stop import Stop
from moeplace.serverless.cost import cost, largest_cost, refuses, why_infeasible
from moeplace.serverless.document import Deployment
from moeplace.serverless.instance import Instance


def serverless_incumbent(
    instance: Instance, start: Deployment | None, stop: Stop, gap: float, progress: ProgressCallback | None
) -> Incumbent:
    """Return an incumbent that begins with a deployment or without one."""
    return Incumbent(
        start,
        cost=lambda deployment: cost(instance, deployment),
        fits=lambda deployment: refuses(instance, deployment) is None,
        stop=stop,
        gap=gap,
        progress=progress,
        ceiling=largest_cost(instance),
        none=why_infeasible(instance),
    )
