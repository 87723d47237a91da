"""Climbing: a deployment under change, moves with exact increments, taken only where they are better.

Better is what breaks the limits by less, bytes before times, and costs less where neither does. Everything that decides
is a whole number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.serverless.bounds.by_specs import budgets
from moeplace.serverless.cost import main_price
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics.baselines import by_use
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import Chosen, LayerTables, choose


@dataclass(frozen=True)
class Tuning:
    """How far a climb looks.

    Attributes
    ----------
    sweeps : int
        Most rounds over all layers at one main specification.
    swaps : int
        Experts next in use, on either side, that an expert changes places with.
    pairs : int
        Best moves of each direction that are tried together, in two layers.
    """

    sweeps: int = 50
    swaps: int = 4
    pairs: int = 12


USUAL = Tuning()
"""What is used unless something else is asked for."""

Key = tuple[int, int, int]


class WorkingDeployment:
    """One main specification, and a plan of each layer, with their sums."""

    def __init__(self, instance: Instance, tables: Sequence[LayerTables], main: int, remote: Sequence[Bool]) -> None:
        self.instance, self.tables, self.main = instance, tables, main
        self.budget = budgets(instance, main).tolist()
        self.price = main_price(instance, main)
        self.layers = [self.plan(i, own) or self._none(i) for i, own in enumerate(remote)]
        self._sum()

    def plan(self, layer: int, remote: Bool) -> Chosen | None:
        """Return the plan of a set: the cheapest, or the fastest while a limit on time is broken."""
        price = float(self.price)
        return choose(self.tables[layer], remote, self.main, price, price)

    def fast(self, layer: int, remote: Bool) -> Chosen | None:
        """Return the fastest plan of a set, whatever it costs."""
        return choose(self.tables[layer], remote, self.main, 2.0**90, 2.0**90)

    def _none(self, layer: int) -> Chosen:
        plan = self.plan(layer, np.zeros(self.instance.experts, dtype=np.bool_))
        assert plan is not None
        return plan

    def _sum(self) -> None:
        self.first = sum(plan.first for plan in self.layers)
        self.every = sum(plan.every for plan in self.layers)
        self.remote_cost = sum(plan.remote_cost for plan in self.layers)
        self.held = sum(self.instance.experts - plan.away for plan in self.layers)

    def key(self, *changes: tuple[int, Chosen]) -> Key:
        """Return how much over its bytes, how much over its times, and cost, after changes of some layers."""
        first, every, cost, held = self.first, self.every, self.remote_cost, self.held
        for layer, plan in changes:
            old = self.layers[layer]
            first += plan.first - old.first
            every += plan.every - old.every
            cost += plan.remote_cost - old.remote_cost
            held += old.away - plan.away
        over = max(0, held * self.instance.model.expert_bytes - self.budget[2])
        late = max(0, first - self.budget[0]) + max(0, every - self.budget[1])
        return over, late, (first + every) * self.price + cost

    def take(self, *changes: tuple[int, Chosen]) -> None:
        """Change some layers."""
        for layer, plan in changes:
            self.layers[layer] = plan
        self._sum()

    def deployment(self) -> Deployment:
        """Return what stands here now."""
        return Deployment.of(self.main, [(plan.choice.spec, plan.choice.replicas) for plan in self.layers])


class Climb:
    """Climbs from deployments to local optima.

    Parameters
    ----------
    instance : Instance
    tables : sequence of LayerTables
    stop : callable
        Asked between two moves.
    tuning : Tuning
    """

    def __init__(
        self, instance: Instance, tables: Sequence[LayerTables], stop: Callable[[], bool], tuning: Tuning = USUAL
    ) -> None:
        self.instance, self.tables, self.stop, self.tuning = instance, tables, stop, tuning
        self.order = [by_use(own) for own in tables]
        self.moves = 0

    def begin(self, main: int, remote: Sequence[Bool]) -> WorkingDeployment:
        """Return a deployment to climb from."""
        return WorkingDeployment(self.instance, self.tables, main, remote)

    def climb(self, work: WorkingDeployment) -> Key:
        """Move while anything is better at this main specification; return what it has come to."""
        for _ in range(self.tuning.sweeps):
            before = work.key()
            for layer in range(len(self.tables)):
                if self.stop():
                    return work.key()
                self._layer(work, layer)
            self._pairs(work)
            if work.key() == before or self.stop():
                break
        return work.key()

    def climb_mains(self, work: WorkingDeployment) -> WorkingDeployment:
        """Climb, then go on with the next larger or smaller main specification while that is better."""
        best = self.climb(work)
        mains = self.instance.main_specs
        moved = True
        while moved and not self.stop():
            moved, at = False, mains.index(work.main)
            for step in (1, -1, 2, -2, 4, -4):
                if not 0 <= at + step < len(mains) or self.stop():
                    continue
                other = self.begin(mains[at + step], [plan.remote for plan in work.layers])
                reached = self.climb(other)
                if reached < best:
                    work, best, moved = other, reached, True
                    self.moves += 1
                    break
        return work

    def _try(self, work: WorkingDeployment, layer: int, remote: Bool) -> bool:
        key = work.key()
        for plan in (work.plan(layer, remote), work.fast(layer, remote) if key[1] else None):
            if plan is not None and work.key((layer, plan)) < key:
                work.take((layer, plan))
                self.moves += 1
                return True
        return False

    def _layer(self, work: WorkingDeployment, layer: int) -> None:
        """Try every expert on the other side, and exchanges of experts of like use."""
        self._try(work, layer, work.layers[layer].remote)  # its specification and replicas anew
        order = self.order[layer].tolist()
        for e in order:
            remote = work.layers[layer].remote.copy()
            remote[e] = not remote[e]
            self._try(work, layer, remote)
        for at, e in enumerate(order):
            for f in order[at + 1 : at + 1 + self.tuning.swaps]:
                now = work.layers[layer].remote
                if now[e] != now[f]:
                    remote = now.copy()
                    remote[e], remote[f] = now[f], now[e]
                    self._try(work, layer, remote)

    def _pairs(self, work: WorkingDeployment) -> None:
        """Move one expert out in one layer and one in in another: what the bytes allow together only."""
        out: list[tuple[int, int, Chosen]] = []
        back: list[tuple[int, int, Chosen]] = []
        for layer, order in enumerate(self.order):
            now = work.layers[layer]
            local, far = [e for e in order if not now.remote[e]], [e for e in order if now.remote[e]]
            for e, found in [(e, out) for e in local[: self.tuning.swaps]] + [
                (e, back) for e in far[-self.tuning.swaps :]
            ]:
                remote = now.remote.copy()
                remote[e] = not remote[e]
                plan = work.plan(layer, remote)
                if plan is not None:
                    found.append((work.key((layer, plan))[2], layer, plan))
        most = self.tuning.pairs
        for _, a, one in sorted(out, key=lambda move: move[0])[:most]:
            for _, b, other in sorted(back, key=lambda move: move[0])[:most]:
                fresh = one.away == work.layers[a].away + 1 and other.away == work.layers[b].away - 1
                if a != b and fresh and work.key((a, one), (b, other)) < work.key():
                    work.take((a, one), (b, other))
                    self.moves += 1


def remote_sets(instance: Instance, deployment: Deployment) -> list[Bool]:
    """Return each layer's remote experts as an array of bool."""
    result = []
    for choice in deployment.layers:
        remote = np.zeros(instance.experts, dtype=np.bool_)
        remote[[k for replica in choice.replicas for k in replica]] = True
        result.append(remote)
    return result


def started(
    instance: Instance, tables: Sequence[LayerTables], climb: Climb, start: Deployment | None
) -> list[WorkingDeployment]:
    """Return deployments to climb from: the given one; else, for some main specifications, what fills their bytes.

    All layers keep those experts local that have most output tokens, as many as there is room for.
    """
    if start is not None:
        return [climb.begin(start.main_spec, remote_sets(instance, start))]
    use = np.stack([instance.decoded[i] for i in range(instance.layers)])
    order = np.argsort(-use.reshape(-1), kind="stable")
    made = []
    for main in instance.main_specs:
        room = budgets(instance, main)[2] // instance.model.expert_bytes
        if room < 0 and not instance.remote_specs:
            continue
        remote = np.ones(use.size, dtype=np.bool_)
        remote[order[: max(0, int(room))]] = False
        made.append(climb.begin(main, list(remote.reshape(use.shape))))
    return sorted(made, key=lambda work: work.key())
