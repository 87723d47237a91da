"""Picking a method for an instance, and saying why."""

from __future__ import annotations

from dataclasses import replace

from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.serverless.bounds.proving import IMPORTS, USUAL, prove_by_layers
from moeplace.serverless.document import Deployment
from moeplace.serverless.instance import Instance


@describe(
    MethodInfo(
        summary="Climbs first, then proves by layers: all plans of small layers, certified alphas of large ones.",
        exact=True,
        guarantee=f"a proven bound; optimal, given time, up to {USUAL.listed_experts} experts a layer",
        imports=IMPORTS,
        seeded=lambda parameters: False,
    )
)
def auto(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Run ``layers``, and say which of its two proofs this instance gets.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    outcome = prove_by_layers(instance, time_limit=time_limit, threads=threads, start=start, progress=progress, gap=gap)
    most = USUAL.listed_experts
    because = (
        f"layers of {instance.experts} experts: up to {most} all plans are listed"
        if instance.experts <= most
        else f"layers of {instance.experts} experts are too large to list: from {most + 1} on their bound is by alphas"
    )
    return replace(outcome, method="layers", picked_because=because)
