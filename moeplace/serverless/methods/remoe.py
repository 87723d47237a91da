"""The pipeline of Remoe (arXiv 2512.18674) as a method."""

from __future__ import annotations

from moeplace.base.errors import InputError, MethodError
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics.remoe import Pipeline, Stages
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import KERNELS, layer_tables


@describe(
    MethodInfo(
        summary="Remoe's pipeline: worst-case main memory, remote experts by use, fitted memory, replicas by LPT.",
        guarantee="none for the cost (LPT's 4/3 - 1/(3z) is for the slowest replica of one layer)",
        imports=(*KERNELS, "scipy.optimize"),
        seeded=lambda parameters: False,
    )
)
def remoe(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
    worst_case: bool = True,
    fit: bool = True,
    grow: bool = True,
    tail: float = 1.5,
) -> Outcome:
    """Do the stages of the paper one after the other.

    Parameters
    ----------
    worst_case : bool
        Main memory for the worst case; without, every main specification is tried and the cheapest end kept.
    fit : bool
        Remote memory by the fitted curve and its multiplier; without, by each layer's exact cost.
    grow : bool
        Replicas while they lower the cost; without, as few as payloads allow.
    tail : float
        Of Hoeffding's term ``sqrt(tail n)``: 1.5 holds with 95 %, the paper's 0.75 with 78 %.
    """
    if not 0 <= tail < 1e6:
        raise InputError(f"tail must be from 0 to below 1e6, found {tail}")
    with stopping(time_limit) as stop:
        pipeline = Pipeline(instance, layer_tables(instance), Stages(worst_case, fit, grow, tail), stop)
        found = pipeline.run()
        if found is None:
            raise MethodError("the pipeline comes to no deployment within the limits; others may be")
        return Outcome(found, termination=stop.termination, details={"tried": pipeline.tried})
