"""One bound for each main specification, and the smallest of them for all.

Given the main specification w, a layer's plan costs ``H_w (PT_l + GT_l)`` and what its remote function costs, and the
layers meet in three budgets: the times of the two limits, and the main function's bytes. So for each w there is a proof
by layers (:mod:`moeplace.layers.proof`). A specification whose bound reaches the incumbent holds nothing better.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import UNSET

from moeplace.base.arrays import Int64
from moeplace.base.certificates import AnyCertificate, Trusted
from moeplace.base.incumbent import Incumbent
from moeplace.base.result import relative_gap
from moeplace.layers.listed import ListedOracle
from moeplace.layers.merging import Menu
from moeplace.layers.oracle import LARGEST, Plans, finest
from moeplace.layers.proof import Argument, LayerProof
from moeplace.layers.proof import Tuning as ProofTuning
from moeplace.serverless import layer_verification
from moeplace.serverless.certificate import ListedSpec, Lists, ListStep, ServerlessCertificate
from moeplace.serverless.cost import decode_budget, largest_cost, local_room, prefill_budget
from moeplace.serverless.document import Deployment
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import LayerPlans


def budgets(instance: Instance, main: int) -> Int64:
    """Return the units of the three budgets at a main specification, [3]; one below 0 where nothing fits."""
    return np.array([prefill_budget(instance), decode_budget(instance), local_room(instance, main)], dtype=np.int64)


class SpecBounds:
    """The best bound of each main specification, and the incumbent that they are measured by.

    Parameters
    ----------
    instance : Instance
    search : Incumbent
        Is told of the smallest bound of all.
    source : str
        Whose proof it is.
    gap : float
        A specification is done with when its own gap is at most this.
    verified : moeplace.serverless.layer_verification.Tuning
        How far it is tried whether a certificate can be verified, before it is written.
    """

    def __init__(
        self,
        instance: Instance,
        search: Incumbent,
        source: str,
        gap: float = 0.0,
        verified: layer_verification.Tuning = layer_verification.USUAL,
    ) -> None:
        self.instance, self.search, self.source, self.gap = instance, search, source, gap
        self._verified = verified
        self.nothing = largest_cost(instance)
        self._listed: dict[int, ListedSpec] = {}
        self.bound = dict.fromkeys(instance.main_specs, 0)
        self._lock = threading.Lock()
        self._told(0)  # nothing costs less; and where the incumbent costs nothing, nobody asks further

    def prove(self, main: int, bound: int, listed: ListedSpec | None = None) -> None:
        """Take a proven bound of one specification; ``nothing`` says that it holds no deployment.

        ``listed`` is why, where that is not what the layers cost at least.
        """
        with self._lock:
            if bound > self.bound[main]:
                self.bound[main] = bound
                if listed is not None:
                    self._listed[main] = listed
            least = min(self.bound.values())
        # What is above the incumbent proves no more than that nothing better is there.
        self._told(min(least, self.search.latency_ns))

    def _told(self, bound: int) -> None:
        """Report the smallest bound, with what proves it."""
        listed = [self._listed[main] for main in sorted(self._listed)]
        self.search.prove(bound, self.source, lambda: self._written(bound, listed))

    def _written(self, bound: int, listed: list[ListedSpec]) -> AnyCertificate:
        """Return a certificate by lists, or whose word the bound is where it cannot be verified within limits."""
        proof = Lists(listed)
        said = layer_verification.prove_by_lists(self.instance, bound, proof, self._verified)
        return ServerlessCertificate.make(self.instance, bound, Trusted(self.source) if said else proof)

    def done(self, main: int) -> bool:
        """Return whether nothing that is worth looking for is left at a specification."""
        bound, cost = self.bound[main], self.search.latency_ns
        if bound >= cost:
            return True
        found = relative_gap(cost, bound) if self.search.placement is not None else None
        return found is not None and found <= self.gap


class SpecSide:
    """The problem's side of a proof by layers at one main specification; see :class:`~moeplace.layers.proof.Primal`.

    A plan's value is ``-floor((cost - least) scale / unit)``, the least being that of its layer's plans: a whole number
    of units, rounded so that sums bound costs from below. One of scale and unit is 1.

    Parameters
    ----------
    bounds : SpecBounds
    main : int
    reference : int
        The sum of the layers' least costs.
    lowest : int
        The sum of the layers' lowest values.
    scale, unit : int
    decision : callable
        A deployment of the plans' codes.
    proves : bool
        Whether the layers' plans are all there are; else what is proven of them is no bound.
    """

    def __init__(
        self,
        bounds: SpecBounds,
        main: int,
        reference: int,
        lowest: int,
        scale: int,
        unit: int,
        decision: Callable[[Sequence[Int64]], Deployment],
        proves: bool = True,
    ) -> None:
        self.bounds, self.main, self.reference, self.lowest = bounds, main, reference, lowest
        self.scale, self.unit, self._decision, self._proves = scale, unit, decision, proves
        self._over = False

    @property
    def value(self) -> int:
        """What every combination better than the incumbent exceeds."""
        spare = self.bounds.search.latency_ns - 1 - self.reference
        return max(-(spare * self.scale // self.unit) - 1, self.lowest - 1)

    def stop(self) -> bool:
        """Return whether to end."""
        over = self.bounds.search.checkpoint() is not None or self.bounds.done(self.main)
        return over or self._over

    def prove(self, upper: int, argument: Argument) -> None:
        """Report a bound on the value as one on the cost."""
        if not self._proves:
            self._over = upper <= self.value
        elif upper < self.lowest:
            self.bounds.prove(self.main, self.bounds.nothing, self._listed(argument))
        else:
            bound = self.reference - upper * self.unit // self.scale
            self.bounds.prove(self.main, bound, self._listed(argument))

    def _listed(self, argument: Argument) -> ListedSpec:
        """Return what proves a bound, in price units: prices are of values, of which one is ``unit / scale``."""
        steps = [
            ListStep(layer, [[p * self.unit for p in price] for price in pool.tolist()])
            for layer, pool in argument.merge
        ]
        price = [p * self.unit for p in argument.price.tolist()]
        return ListedSpec(self.main, price, self.scale, steps or UNSET)

    def known(self) -> list[list[Int64]]:
        """Begin with no plans: the master problem asks for them."""
        return [[] for _ in range(self.bounds.instance.layers)]

    def offer(self, codes: Sequence[Int64]) -> bool:
        """Take plans that fit as the incumbent if they are better."""
        return self.bounds.search.offer(self._decision(codes))

    def repair(self, codes: Sequence[Int64]) -> None:
        """Offer plans that may not fit as they are."""
        self.bounds.search.offer(self._decision(codes))

    def polish(self) -> None:
        """Leave the incumbent as it is."""


def least_cost(instance: Instance, main: int, plans: Sequence[LayerPlans]) -> int | None:
    """Return what no deployment of these plans costs less than at a main specification; None where none can fit."""
    budget, total, used = budgets(instance, main), 0, np.zeros(3, dtype=np.int64)
    for layer in plans:
        own = layer.valued(main)
        fits = (own.usage <= budget).all(axis=1)
        if not fits.any():
            return None
        total += int(own.cost[fits].min())
        used += own.usage[fits].min(axis=0)
    return total if (used <= budget).all() else None


def prove_spec(
    bounds: SpecBounds,
    plans: Sequence[LayerPlans],
    main: int,
    *,
    proves: bool = True,
    threads: int = 1,
    tuning: ProofTuning,
) -> None:
    """Prove as much of one main specification as there is time for.

    Parameters
    ----------
    bounds : SpecBounds
    plans : sequence of LayerPlans
        Of each layer.
    main : int
    proves : bool
        Whether these are all plans there are; else they only may lead to better deployments.
    threads : int
        Layers that are looked at at the same time.
    tuning : moeplace.layers.proof.Tuning
    """
    instance, search = bounds.instance, bounds.search
    reference = least_cost(instance, main, plans)
    if proves:
        bounds.prove(main, bounds.nothing if reference is None else reference)
    if reference is None or reference >= search.latency_ns or bounds.done(main):
        return
    budget, spare = budgets(instance, main), search.latency_ns - 1 - reference
    excess: list[tuple[Any, Int64]] = []
    index = []
    for layer in plans:
        own = layer.valued(main)
        fits = np.flatnonzero((own.usage <= budget).all(axis=1))
        more = own.cost[fits] - own.cost[fits].min()
        near = fits[(more <= spare).astype(np.bool_)]  # no other plan is in anything better
        rank = own.cost[near]
        if rank.dtype == object:
            rank = np.unique(rank, return_inverse=True)[1].astype(np.int64)
        kept = Menu(-rank, own.usage[near], near).undominated().index
        excess.append((own.cost[kept] - own.cost[fits].min(), own.usage[kept]))
        index.append(kept)
    size = sum(int(more.max()) for more, _ in excess)
    unit = -(-size // (LARGEST // 2)) if size >= LARGEST // 2 else 1
    scale = 1 if unit > 1 else max(1, finest(2 * size))
    oracles, lowest = [], 0
    for (more, usage), which in zip(excess, index, strict=True):
        value = -np.array([m * scale // unit for m in more.tolist()], dtype=np.int64)
        lowest += int(value.min())
        oracles.append(ListedOracle(Plans(value, usage, which[:, None])))

    def decision(codes: Sequence[Int64]) -> Deployment:
        chosen = [layer.choice(int(code[0])) for layer, code in zip(plans, codes, strict=True)]
        return Deployment.of(main, [(choice.spec, choice.replicas) for choice in chosen])

    side = SpecSide(bounds, main, reference, lowest, scale, unit, decision, proves)
    LayerProof(oracles, budget, side, threads=threads, tuning=tuning).run()
