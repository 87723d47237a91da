"""What is proven by layers: all plans of small layers, merged exactly; of large ones a bound, and what it proposes.

For each main specification the layers meet in three budgets. Up to some experts all plans are listed, and prices and a
merge prove the best deployment. For more, multipliers bound every specification (:mod:`moeplace.serverless.bounds
.alphas`); the sets that the relaxation takes, and those near them, are listed and merged as if they were all, which
gives deployments and proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moeplace.base.incumbent import Incumbent
from moeplace.layers.merging import KERNELS as MERGING
from moeplace.layers.merging import Tuning as MergeTuning
from moeplace.layers.proof import Tuning as ProofTuning
from moeplace.serverless.bounds import alphas
from moeplace.serverless.bounds.alphas import Multipliers
from moeplace.serverless.bounds.by_alphas import AlphaBounds
from moeplace.serverless.bounds.by_specs import SpecBounds, least_cost, prove_spec
from moeplace.serverless.cost import best_all_local
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics import beginning, climb
from moeplace.serverless.heuristics.proposals import proposals
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import KERNELS, LayerTables, all_plans, layer_tables, plans_of_sets


def _quick() -> ProofTuning:
    return ProofTuning(most_plans=1 << 12, first_states=1 << 12, merging=MergeTuning(most_states=1 << 14))


@dataclass(frozen=True)
class Tuning:
    """What is done for how long. Whatever the numbers are, bounds hold and what is called optimal is.

    Attributes
    ----------
    listed_experts : int
        Experts of a layer up to which all plans are listed.
    choices, around : int
        Of the relaxation's proposals: specifications, and experts more or fewer; see
        :func:`~moeplace.serverless.heuristics.proposals.proposals`.
    rounds : int
        Rounds over the main specifications that are not done with.
    beginning : moeplace.serverless.heuristics.beginning.Tuning
    proof : moeplace.layers.proof.Tuning
    merge : moeplace.layers.proof.Tuning
        For what is merged without being all: how far it goes.
    ascent : moeplace.serverless.bounds.alphas.Tuning
    climb : moeplace.serverless.heuristics.climb.Tuning
        From where the large layers' merge has come to.
    """

    listed_experts: int = 10
    choices: int = 6
    around: int = 4
    rounds: int = 3
    beginning: beginning.Tuning = field(default_factory=beginning.Tuning)
    proof: ProofTuning = field(default_factory=ProofTuning)
    merge: ProofTuning = field(default_factory=_quick)
    ascent: alphas.Tuning = field(default_factory=alphas.Tuning)
    climb: climb.Tuning = field(default_factory=climb.Tuning)


USUAL = Tuning()
"""What is used unless something else is asked for."""

IMPORTS = (*KERNELS, *MERGING, *alphas.KERNELS, "moeplace.layers.master")

SOURCE = "prices and merge of the layers' plans"
"""Whose proof the bounds of listed plans are."""


def solve_layers(
    instance: Instance, search: Incumbent, start: Deployment | None, gap: float, tuning: Tuning = USUAL
) -> None:
    """Improve a search's deployment and bound: all plans of small layers, alphas for large ones."""
    tables = layer_tables(instance)
    if instance.experts > tuning.listed_experts:
        bound_large(instance, tables, search, start, gap, tuning)
        return
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


def bound_large(
    instance: Instance,
    tables: Sequence[LayerTables],
    search: Incumbent,
    start: Deployment | None,
    gap: float,
    tuning: Tuning,
) -> None:
    """Bound every main specification by alphas, and look for deployments where the relaxation points."""
    bounds = AlphaBounds(instance, tables, search, gap)

    def ended() -> bool:
        return search.checkpoint() is not None

    mover = climb.Climb(instance, tables, ended, tuning.climb)
    if start is None and (local := best_all_local(instance)) is not None:
        search.offer(local)
    begun = climb.started(instance, tables, mover, start)
    for work in begun:
        search.offer(work.deployment())
    order = [work.main for work in begun]
    order += [main for main in instance.main_specs if main not in order]
    near: Multipliers | None = None
    improved = True
    for _ in range(tuning.rounds):
        for main in order:
            if ended():
                return
            if bounds.done(main):
                continue
            near = bounds.ascend(main, bounds.kept.get(main, near), tuning.ascent)
            if search.placement is None:
                bounds.rays(main, near)
            if not bounds.done(main) and not ended():
                sets = [proposals(instance, own, main, near, tuning.choices, tuning.around) for own in tables]
                plans = [plans_of_sets(own, remote) for own, remote in zip(tables, sets, strict=True)]
                before = search.latency_ns
                prove_spec(bounds, plans, main, proves=False, tuning=tuning.merge)
                improved = improved or search.latency_ns < before
        if ended() or not improved or search.placement is None:
            return
        held = search.placement
        work = mover.begin(held.main_spec, climb.remote_sets(instance, held))
        mover.climb(work)
        search.offer(work.deployment())
        order = sorted((main for main in order if not bounds.done(main)), key=lambda main: bounds.bound[main])
        improved = False
