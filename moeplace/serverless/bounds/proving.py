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
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import stopping
from moeplace.base.workers import each
from moeplace.layers.merging import KERNELS as MERGING
from moeplace.layers.merging import Tuning as MergeTuning
from moeplace.layers.proof import Tuning as ProofTuning
from moeplace.serverless import layer_verification
from moeplace.serverless.bounds import alphas
from moeplace.serverless.bounds.alphas import Multipliers
from moeplace.serverless.bounds.by_alphas import AlphaBounds
from moeplace.serverless.bounds.by_specs import SpecBounds, least_cost, prove_spec
from moeplace.serverless.cost import best_all_local
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics import beginning, climb
from moeplace.serverless.heuristics.proposals import proposals
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import (
    KERNELS,
    MOST_LISTED,
    LayerPlans,
    LayerTables,
    all_plans,
    layer_tables,
    plans_of_sets,
)
from moeplace.serverless.searching import serverless_incumbent


def _quick() -> ProofTuning:
    return ProofTuning(most_plans=1 << 14, first_states=1 << 14, merging=MergeTuning(most_states=1 << 17))


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
    last_plans : int
        Plans, all layers together, up to which they are listed where alphas find neither a deployment nor a proof.
    beginning : moeplace.serverless.heuristics.beginning.Tuning
    proof : moeplace.layers.proof.Tuning
    merge : moeplace.layers.proof.Tuning
        For what is merged without being all: how far it goes.
    ascent : moeplace.serverless.bounds.alphas.Tuning
    limits : moeplace.serverless.bounds.alphas.Tuning
        For proofs that nothing is within the limits. ``hopeless``: for a first look, one main specification after the
        other until it does not prove it. ``reasons``: to say why, where lists have proven it.
    climb : moeplace.serverless.heuristics.climb.Tuning
        From where the large layers' merge has come to.
    verified : moeplace.serverless.layer_verification.Tuning
        How far it is tried whether a certificate by lists can be verified, before it is written.
    """

    listed_experts: int = 10
    choices: int = 12
    around: int = 8
    rounds: int = 3
    last_plans: int = 1 << 21
    beginning: beginning.Tuning = field(default_factory=beginning.Tuning)
    proof: ProofTuning = field(default_factory=ProofTuning)
    merge: ProofTuning = field(default_factory=_quick)
    ascent: alphas.Tuning = field(default_factory=alphas.Tuning)
    limits: alphas.Tuning = field(default_factory=alphas.Tuning)
    hopeless: alphas.Tuning = field(default_factory=lambda: alphas.Tuning(steps=40, later=20, every=20))
    reasons: alphas.Tuning = field(default_factory=lambda: alphas.Tuning(steps=100, later=50, every=25))
    climb: climb.Tuning = field(default_factory=climb.Tuning)
    verified: layer_verification.Tuning = layer_verification.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""

IMPORTS = (*KERNELS, *MERGING, *alphas.KERNELS, "moeplace.layers.master")

SOURCE = "prices and merge of the layers' plans"
"""Whose proof the bounds of listed plans are."""


def prove_by_layers(
    instance: Instance,
    *,
    time_limit: float | None,
    threads: int,
    start: Deployment | None,
    progress: ProgressCallback | None,
    gap: float,
) -> Outcome:
    """Solve an instance by layers; what the methods of that proof share.

    Parameters
    ----------
    instance, time_limit, threads, start, progress
        As a method gets them.
    gap : float
        End at this proven gap.
    """
    with stopping(time_limit) as stop:
        search = serverless_incumbent(instance, start, stop, gap, progress)
        search.run(lambda: search.attempt("layers", lambda: solve_layers(instance, search, start, gap, threads)))
        # Here, since a search that has ended gives its works a second, which on a busy machine may not do.
        if search.placement is None and search.bound_ns == search.latency_ns and search.bound_source == SOURCE:
            explain(instance, search, threads)
        return search.outcome()


def solve_layers(
    instance: Instance,
    search: Incumbent,
    start: Deployment | None,
    gap: float,
    threads: int = 1,
    tuning: Tuning = USUAL,
) -> None:
    """Improve a search's deployment and bound: all plans of small layers, alphas for large ones.

    Layers are looked at on several threads where that saves time; what is found does not depend on how many.
    """
    tables = layer_tables(instance)
    if instance.experts > tuning.listed_experts:
        bound_large(instance, tables, search, start, gap, threads, tuning)
        return
    beginning.begin(instance, tables, search, start, tuning.beginning)
    if search.checkpoint() is None:
        prove_listed(instance, tables, search, gap, threads, tuning)


def explain(instance: Instance, search: Incumbent, threads: int = 1, tuning: Tuning = USUAL) -> None:
    """Say why nothing is within the limits where lists have proven it: by alphas, where these prove it, too."""
    own = serverless_incumbent(instance, None, search.stop, 0.0, None)
    bounds = AlphaBounds(instance, layer_tables(instance), own, 0.0, threads)
    within: Multipliers | None = None
    for main in instance.main_specs:
        if not bounds.done(main):
            within = bounds.limits(main, Multipliers.middle(instance), within, tuning.reasons)
        if not bounds.done(main):
            return
    _say(bounds, search)


def _say(bounds: AlphaBounds, search: Incumbent) -> None:
    if (why := bounds.why()) is not None:
        search.none = f"{why}; {search.none}"


def prove_listed(
    instance: Instance, tables: Sequence[LayerTables], search: Incumbent, gap: float, threads: int, tuning: Tuning
) -> None:
    """List all plans and prove one main specification after the other."""
    bounds = SpecBounds(instance, search, SOURCE, gap, tuning.verified)
    listed = each(lambda own: None if search.checkpoint() is not None else all_plans(own), tables, threads)
    plans, least = [own for own in listed if own is not None], {}
    if len(plans) < len(listed):
        return
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
        prove_spec(bounds, plans, main, threads=threads, tuning=tuning.proof)


def bound_large(
    instance: Instance,
    tables: Sequence[LayerTables],
    search: Incumbent,
    start: Deployment | None,
    gap: float,
    threads: int,
    tuning: Tuning,
) -> None:
    """Bound every main specification by alphas, and look for deployments where the relaxation points.

    Where that comes to nothing, neither a deployment nor a proof that there is none, and the layers are not so large
    after all, their plans are listed.
    """
    bounds = AlphaBounds(instance, tables, search, gap, threads)
    _bound_large(instance, tables, bounds, start, threads, tuning)
    if search.placement is not None:
        return
    if search.bound_ns == search.latency_ns:
        _say(bounds, search)
        return
    splits = len(instance.remote_specs) * min(instance.platform.most_replicas, instance.experts)
    few = instance.layers * splits << min(instance.experts, 64) <= tuning.last_plans
    if few and instance.experts <= MOST_LISTED and search.checkpoint() is None:
        prove_listed(instance, tables, search, gap, threads, tuning)


def _bound_large(
    instance: Instance,
    tables: Sequence[LayerTables],
    bounds: AlphaBounds,
    start: Deployment | None,
    threads: int,
    tuning: Tuning,
) -> None:
    search = bounds.search

    def ended() -> bool:
        return search.checkpoint() is not None

    def merged(main: int, by: Multipliers) -> None:
        """Merge what the relaxation proposes."""

        def listed(table: LayerTables) -> LayerPlans:
            return plans_of_sets(table, proposals(instance, table, main, by, tuning.choices, tuning.around))

        plans = each(listed, tables, threads)
        prove_spec(bounds, plans, main, proves=False, threads=threads, tuning=tuning.merge)

    mover = climb.Climb(instance, tables, ended, tuning.climb)
    if start is None and (local := best_all_local(instance)) is not None:
        search.offer(local)
    begun = climb.started(instance, tables, mover, start)
    for work in begun:
        search.offer(work.deployment())
    order = [work.main for work in begun]
    order += [main for main in instance.main_specs if main not in order]
    near: Multipliers | None = None
    within: Multipliers | None = None
    for main in order if search.placement is None else ():  # far too tight limits are proven so before anything else
        if ended():
            return
        if not bounds.done(main):
            within = bounds.limits(main, Multipliers.middle(instance), within, tuning.hopeless)
        if not bounds.done(main):
            within = None
            break
    improved = True
    for _ in range(tuning.rounds):
        for main in order:
            if ended():
                return
            if bounds.done(main):
                continue
            near = bounds.ascend(main, bounds.kept.get(main, near), tuning.ascent)
            before = search.latency_ns
            if not bounds.done(main) and not ended():
                merged(main, near)
            if search.placement is None and not bounds.done(main) and not ended():
                within = bounds.limits(main, near, within, tuning.limits)
                if not bounds.done(main) and not ended():
                    merged(main, within)
            improved = improved or search.latency_ns < before
        if search.placement is None:
            for work in begun[: tuning.beginning.starts]:
                search.offer(mover.climb_mains(work).deployment())
        if ended() or not improved or search.placement is None:
            return
        held = search.placement
        work = mover.begin(held.main_spec, climb.remote_sets(instance, held))
        mover.climb(work)
        search.offer(work.deployment())
        order = sorted((main for main in order if not bounds.done(main)), key=lambda main: bounds.bound[main])
        improved = False
