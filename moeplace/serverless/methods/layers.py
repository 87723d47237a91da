"""By layers, which meet in three budgets for each main specification (:mod:`moeplace.serverless.bounds.proving`)."""

from __future__ import annotations

from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.serverless.bounds.proving import IMPORTS, USUAL, prove_by_layers
from moeplace.serverless.document import Deployment
from moeplace.serverless.instance import Instance


@describe(
    MethodInfo(
        summary="All plans of every layer, prices for both times and the bytes, an exact merge per main specification.",
        exact=True,
        guarantee=f"optimal, given time, up to {USUAL.listed_experts} experts a layer; else a bound with certificate",
        imports=IMPORTS,
        seeded=lambda parameters: False,
    )
)
def layers(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Climb first; then prove one main specification after the other, the most promising first.

    Layers of more experts than are listed get a bound that ``check --certificate`` verifies.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    return prove_by_layers(instance, time_limit=time_limit, threads=threads, start=start, progress=progress, gap=gap)
