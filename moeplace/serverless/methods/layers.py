"""Exact by layers: all plans of every layer, prices for the three budgets, one proof for each main specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moeplace.base.incumbent import Incumbent
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.layers.merging import KERNELS as MERGING
from moeplace.layers.proof import Tuning as ProofTuning
from moeplace.serverless.bounds.by_specs import SpecBounds, least_cost, prove_spec
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics import beginning
from moeplace.serverless.incumbents import serverless_incumbent
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import KERNELS, LayerTables, all_plans, layer_tables


@dataclass(frozen=True)
class Tuning:
    """What is done for how long. Whatever the numbers are, bounds hold and what is called optimal is.

    Attributes
    ----------
    listed_experts : int
        Experts of a layer up to which all plans are listed.
    beginning : moeplace.serverless.heuristics.beginning.Tuning
    proof : moeplace.layers.proof.Tuning
    """

    listed_experts: int = 10
    beginning: beginning.Tuning = field(default_factory=beginning.Tuning)
    proof: ProofTuning = field(default_factory=ProofTuning)


USUAL = Tuning()
"""What is used unless something else is asked for."""

IMPORTS = (*KERNELS, *MERGING, "moeplace.layers.master")

SOURCE = "prices and merge of the layers' plans"
"""Whose proof the bounds of listed plans are."""


@describe(
    MethodInfo(
        summary="All plans of every layer, prices for both times and the bytes, an exact merge per main specification.",
        exact=True,
        guarantee=f"optimal, given time, up to {USUAL.listed_experts} experts a layer",
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

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        search = serverless_incumbent(instance, start, stop, gap, progress)
        search.run(lambda: search.attempt("layers", lambda: solve_layers(instance, search, start, gap)))
        return search.outcome()


def solve_layers(
    instance: Instance, search: Incumbent, start: Deployment | None, gap: float, tuning: Tuning = USUAL
) -> None:
    """Do what :func:`layers` does, in a search."""
    tables = layer_tables(instance)
    bounds = SpecBounds(instance, search, SOURCE, gap)
    beginning.begin(instance, tables, search, start, tuning.beginning)
    if search.checkpoint() is None:
        prove_listed(instance, tables, bounds, tuning)


def prove_listed(instance: Instance, tables: Sequence[LayerTables], bounds: SpecBounds, tuning: Tuning) -> None:
    """List all plans and prove one main specification after the other."""
    search, plans, least = bounds.search, [], {}
    for own in tables:
        if search.checkpoint() is not None:
            return
        plans.append(all_plans(own))
    for main in instance.main_specs:
        if search.checkpoint() is not None:
            return
        found = least_cost(instance, main, plans)
        bounds.prove(main, bounds.nothing if found is None else found)
        if found is not None:
            least[main] = found
    for main in sorted(least, key=lambda main: (least[main], main)):
        if search.checkpoint() is not None:
            return
        prove_spec(bounds, plans, main, tuning=tuning.proof)
