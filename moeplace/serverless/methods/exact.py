"""Exact methods by a formulation and its solver: independent of the plans and prices of ``layers``."""

from __future__ import annotations

from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.serverless.bounds.by_specs import SpecBounds
from moeplace.serverless.cost import best_all_local
from moeplace.serverless.document import Deployment
from moeplace.serverless.formulations import (
    MOST_VARIABLES,
    improve_cpsat,
    improve_milp,
    refuses_cpsat,
    refuses_milp,
)
from moeplace.serverless.instance import Instance
from moeplace.serverless.searching import serverless_incumbent

_PROOF = "optimal when it ends before its limits; otherwise a proven bound, as far as it came"


@describe(
    MethodInfo(
        summary="The equations (V1) to (V4) in Pyomo, one model for each main specification, solved by HiGHS.",
        exact=True,
        guarantee=_PROOF,
        limits=f"{MOST_VARIABLES:,} variables a model; costs of more than 1e9 units are proven to a relative 1e-9",
        refuses=refuses_milp,
        imports=("moeplace_models.serverless.milp", "moeplace.solvers.highs"),
    )
)
def milp(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Solve one mixed-integer program for each main specification with HiGHS, one after the other.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        begin = start if start is not None else best_all_local(instance)
        search = serverless_incumbent(instance, begin, stop, gap, progress)
        bounds = SpecBounds(instance, search, "HiGHS", gap)

        def work() -> None:
            for main in instance.main_specs:
                if search.checkpoint() is None:
                    improve_milp(instance, main, bounds, seed=seed, threads=threads)

        search.run(lambda: search.attempt("milp", work))
        return search.outcome()


@describe(
    MethodInfo(
        summary="The equations (V1) to (V4) with all main specifications in one model in integers, solved by CP-SAT.",
        exact=True,
        guarantee=_PROOF,
        limits=f"{MOST_VARIABLES:,} variables, costs below 2**60;"
        " with threads=2 or more it runs at least the 8 workers of its portfolio",
        refuses=refuses_cpsat,
        imports=("moeplace_models.serverless.cpsat", "moeplace.solvers.cpsat"),
    )
)
def cpsat(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Solve one model of all main specifications with CP-SAT.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        begin = start if start is not None else best_all_local(instance)
        search = serverless_incumbent(instance, begin, stop, gap, progress)
        search.run(lambda: search.attempt("cpsat", lambda: improve_cpsat(instance, search, seed=seed, threads=threads)))
        return search.outcome()
