r"""Proof by layers: prices for storage, every plan of every layer near its best at these prices, and their exact merge.

Layers are coupled by the servers' capacities alone. At prices ``p`` per server and unit of storage (the unit is the
greatest common divisor of the experts' sizes) they fall apart, and::

    UB(p) = sum over layers of max over plans of (saving - p.used)  +  p.capacity

bounds every saving (M1). :mod:`moeplace.bounds.layer_oracle` computes each maximum exactly. The method

1. descends the smoothed bound in shares and prices at once, in floats: a good beginning;
2. minimises ``UB`` exactly by cutting planes: a master problem over the plans found proposes prices, and between
   these and the best ones so far the oracle is asked again (in-out separation);
3. with ``Delta`` growing, lists all plans of each layer whose value is within ``Delta`` of the layer's best, and merges
   the layers (:mod:`moeplace.bounds.merging`). By (M1) that finds a best placement if one saves at least
   ``UB - Delta``, and proves that none does otherwise.

Why the last is a proof: a placement that saves at least ``UB - Delta`` has, by (M1), deficits of at most ``Delta`` in
sum, so each of its layers is on its list, or one that uses the same and saves no less is. ``Delta`` never needs to grow
beyond ``UB`` less what the incumbent saves. All of this is in exact integers, multiples of the greatest common divisor
of the weights, times a scale that gives prices enough digits.
"""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from moeplace.aggregation import AggregatedProblem, aggregate
from moeplace.bounds.layer_oracle import KERNELS as ORACLE
from moeplace.bounds.layer_oracle import MOST_SERVERS, Float, LayerOracle, Plans, Priced
from moeplace.bounds.merging import KERNELS as MERGING
from moeplace.bounds.merging import MOST_STATES, Menu, merge
from moeplace.incremental import KERNELS as HEURISTICS
from moeplace.incremental import each, saving_form
from moeplace.instance import Bool, Instance, Int64
from moeplace.interrupt import stopping
from moeplace.methods.local_search import local_search
from moeplace.placement import Placement
from moeplace.plan import Plan
from moeplace.registry import MethodInfo, describe
from moeplace.result import Outcome, ProgressCallback
from moeplace.search import Search

SOURCE = "layer enumeration"

MOST_CELLS = 1 << 26
"""Terms times the square of the experts that a row asks for (8 bytes each are kept), above which it is refused."""

MOST_MASKS = 1 << 22
"""Experts of a layer times sets of servers, above which it is refused."""

MOST_PLANS = 1 << 20
"""Plans of one layer above which ``Delta`` does not grow any more."""

LARGEST = 1 << 56
"""Coarser weights are taken where the weights' sum is more of their units than this."""

FINE = 1 << 50
"""Savings are scaled up so far."""

Schedule: TypeAlias = tuple[tuple[float, float, int], ...]

SCHEDULE: Schedule = ((0.1, 1.0, 50), (0.03, 0.5, 50), (0.01, 0.3, 50), (0.003, 0.3, 100))
"""Temperature, step length and number of steps of the descent in shares and prices."""

RETUNE: Schedule = ((0.003, 0.3, 50),)
"""The same for shares alone, where cutting planes have moved the prices."""

LATER: Schedule = ((0.001, 0.3, 100),)
"""The same again and again where layers are too large for the search."""

WORTHWHILE = 1e-5
"""Share of the bound that such a round must win for another one."""

EVERY = 25
"""Steps of the descent between two bounds."""

MANY_TERMS = 50_000
"""Terms above which the descent is worth more than one thread."""

ROUNDS, STALLED = 60, 10
"""Most rounds of cutting planes, and most in a row that win next to nothing."""

NODES, FEW_NODES = 50_000, 500
"""Nodes of one search of one layer; the few are tried first, before its shares are tuned."""

FIRST_STATES = 1 << 16
"""States kept by the first try to merge; four times as many by the next ones."""

FEW_STATES, FEW_PLANS = 1 << 13, 64
"""States and plans of a layer where merging only looks for a better placement."""


def refuses(instance: Instance, most_cells: int = MOST_CELLS) -> str | None:
    """Say why an instance is not taken, or None."""
    near = instance.server_ns < instance.cloud_ns[:, None]
    for m, model in enumerate(instance.models):
        sizes = instance.item_bytes[instance.model_items(m)]
        useful = near[instance.demand_model == m].any(axis=0) & (instance.capacity_bytes >= sizes.min())
        if (count := int(useful.sum())) > MOST_SERVERS:
            return f"{count} servers can be of use to a layer, at most {MOST_SERVERS} are handled"
        if (masks := model.experts << count) > MOST_MASKS:
            return f"{masks:,} experts times sets of servers in a layer, at most {MOST_MASKS:,} are handled"
    problem = aggregate(instance)
    width = np.diff(problem.set_start)
    cells = int((np.bincount(problem.term_set, minlength=len(width)) * width**2).sum())
    return f"{cells:,} shares of terms, at most {most_cells:,} are kept" if cells > most_cells else None


@describe(
    MethodInfo(
        summary="Prices storage, lists every plan of every layer near its best, merges the layers exactly.",
        exact=True,
        guarantee="optimal when it ends before its limits; otherwise a proven bound, as far as it came",
        limits=f"{MOST_SERVERS} servers of use to a layer; where the gap at the root is wide it ends with a bound",
        refuses=refuses,
        imports=(*HEURISTICS, *ORACLE, *MERGING),
    )
)
def layer_enumeration(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    gap: float = 0.0,
) -> Outcome:
    """Prove the best placement layer by layer.

    Parameters
    ----------
    gap : float
        Stop at this proven gap.
    """
    with stopping(time_limit) as stop:
        limit = None if stop.remaining is None else stop.remaining / 5
        first = local_search(instance, time_limit=limit, seed=seed, threads=threads, start=start, progress=None)
        search = Search(instance, stop, first.placement, gap, progress)
        if start is not None:
            search.offer(start)
        if not search.ended:
            search.run(lambda: search.attempt("layer-enumeration", lambda: Proof(search, threads).run()))
        return search.outcome()


class Proof:
    """The state of one proof. Savings, prices and values are in scaled units: ``scale / unit`` times token-ns."""

    def __init__(self, search: Search, threads: int) -> None:
        self.search, self.threads = search, threads
        problem = aggregate(search.instance)
        self.unit, weights = _units(problem)
        total = int(weights.sum())
        self.scale = 1 << max(0, (FINE // max(total, 1)).bit_length() - 1)
        asked = problem.instance.item_block[problem.set_item[problem.set_start[problem.term_set]]]
        self.oracles = [LayerOracle(problem, int(b), self.scale, weights) for b in np.unique(asked)]
        self.oracles = [oracle for oracle in self.oracles if len(oracle.experts)]
        self.size_unit = math.gcd(*(oracle.size for oracle in self.oracles)) or 1
        self.sizes = [oracle.size // self.size_unit for oracle in self.oracles]
        # No server needs to hold more than everything.
        most = sum(size * oracle.n_experts for size, oracle in zip(self.sizes, self.oracles, strict=True))
        capacity = search.instance.capacity_bytes // self.size_unit
        self.capacity: Int64 = np.minimum(capacity, most).astype(np.int64)
        self.total = total * self.scale
        self.upper = self.total if self.oracles else 0
        self.price: Int64 = np.zeros(len(capacity), dtype=np.int64)
        self.columns = _Columns(len(self.oracles))

    def stop(self) -> bool:
        """Whether the search has ended."""
        return self.search.ended is not None

    def run(self) -> None:
        """Prove as much as there is time for."""
        self.prove(self.upper)
        if not self.oracles or self.stop():
            return
        price = self.descend(SCHEDULE)
        if self.stop():
            return
        if not self.minimise(price, FEW_NODES):
            # Layers too large for a quick search: the bound (L1) gets better for a while.
            before = 2 * self.upper
            while before - self.upper > WORTHWHILE * self.upper and not self.stop():
                before = self.upper
                price = self.descend(LATER, price)
            if self.stop() or not self.minimise(price, NODES):
                return
        if not self.stop():
            self.enumerate()

    def prove(self, upper: int) -> None:
        """Report a bound on the scaled saving."""
        saving = upper // self.scale * self.unit
        self.search.prove(self.search.instance.baseline_ns - saving, SOURCE)

    @property
    def lower(self) -> int:
        """What the incumbent saves, scaled; rounded down where weights are coarse."""
        return (self.search.instance.baseline_ns - self.search.latency_ns) // self.unit * self.scale

    def prices(self, layer: int, price: Int64) -> Int64:
        """Return what one expert of a layer costs on each server."""
        return price * self.sizes[layer]

    def descend(self, schedule: Schedule, price: Float | None = None) -> Float:
        """Lower the smoothed bound in shares and prices together: mirror descent in the one, steps in the others.

        A price moves against what the layers would like to hold beyond the room, as Newton's method has it for fixed
        shares, times a gain that grows while the sign stays and shrinks when it turns: the shares follow a price and
        take most of its effect back. Bounds are reported on the way.
        """
        layers = range(len(self.oracles))
        size = np.array(self.sizes, dtype=np.float64)
        count = np.array([len(oracle.experts) for oracle in self.oracles])
        room = self.capacity.astype(np.float64)
        worth = self.total / float(size @ count)
        if price is None:
            price = np.full(len(room), min(worth, 0.5 * self.total / max(1.0, room.sum())))
        gain, last = np.full(len(room), 0.3), np.zeros(len(room))
        threads = self.threads if sum(oracle.n_terms for oracle in self.oracles) > MANY_TERMS else 1

        def step(price: Float, temperature: float, rate: float, i: int) -> Float:
            used: Float = self.oracles[i].smooth(price * size[i], temperature, rate)
            used[0] *= size[i]
            used[1] *= size[i] ** 2
            return used

        for temperature, rate, steps in schedule:
            for k in range(steps):
                if self.stop():
                    return price
                used = np.sum(each(functools.partial(step, price, temperature, rate), layers, threads), axis=0)
                over = used[0] - room
                gain = np.clip(np.where(over * last >= 0, 1.2 * gain, 0.5 * gain), 1e-3, 1e3)
                last = over
                most = 0.05 * price + 1e-3 * worth
                price = np.maximum(
                    0,
                    price + np.clip(gain * over / np.maximum(used[1], 1e-9 * np.maximum(room, 1) / worth), -most, most),
                )
                if (k + 1) % EVERY == 0 or k + 1 in (EVERY // 5, steps):
                    self.share(self._sane(price))
        return price

    def share(self, price: Int64) -> None:
        """Take over the shares that the descent has come to, and report the bound that they prove."""
        each(lambda i: self.oracles[i].refresh(), range(len(self.oracles)), self.threads)
        self._lower(
            sum(o.bound(self.prices(i, price)) for i, o in enumerate(self.oracles)) + int(price @ self.capacity), price
        )

    def _sane(self, price: Float) -> Int64:
        """Round prices; together they never cost more than twice all weights, so that no sum overflows."""
        cost = float(price @ self.capacity)
        return np.rint(price * min(1.0, 2 * self.total / max(cost, 1.0))).astype(np.int64)

    def tune(self, price: Int64) -> None:
        """Choose the shares of every layer for these prices."""
        each(lambda i: self.oracles[i].tune(self.prices(i, price), RETUNE), range(len(self.oracles)), self.threads)

    def minimise(self, start: Float, nodes: int) -> bool:
        """Minimise the bound over the prices by cutting planes; say whether the layers were small enough for that.

        They are not where most searches do not end within ``nodes`` at the first prices.
        """
        price = self._sane(start)
        layers = range(len(self.oracles))
        columns = self.columns
        for i, oracle in enumerate(self.oracles):
            columns.add(i, oracle, np.zeros(len(oracle.experts), dtype=np.int64))
            columns.add(i, oracle, oracle.masks(self._part(self.search.placement.cached, oracle)))

        def ask(price: Int64, nodes: int, i: int) -> Priced:
            own = self.prices(i, price)
            floor = columns.best(i, own)
            found = self.oracles[i].best(own, floor=floor, stop=self.stop, nodes=min(nodes, FEW_NODES))
            if not found.exact and nodes > FEW_NODES and not self.stop():
                # Shares for prices far from these make long searches.
                self.oracles[i].tune(own, RETUNE)
                found = self.oracles[i].best(own, floor=floor, stop=self.stop, nodes=nodes)
            return found

        stalled, trust = 0, 0.5
        for turn in range(ROUNDS):
            found = each(functools.partial(ask, price, NODES if turn else nodes), layers, self.threads)
            improved = self._lower(sum(f.bound for f in found) + int(price @ self.capacity), price)
            stalled = 0 if improved else stalled + 1
            # An early master problem knows little: its prices may be far off.
            trust = min(0.5, 1.5 * trust) if improved else max(0.05, 0.5 * trust)
            for i, plan in enumerate(found):
                columns.add(i, self.oracles[i], plan.masks)
            if turn == 0 and 2 * sum(plan.exact for plan in found) < len(found):
                return False
            if self.stop() or stalled == STALLED:
                break
            master = self._master()
            if master is None:
                break
            value, proposed = master
            if self.upper - value <= max(1e-7 * self.upper, 0.01 * (self.upper - self.lower)):
                break
            price = np.rint(self.price + trust * (self._sane(proposed) - self.price)).astype(np.int64)
        if not self.stop():
            self.repair()
            self.combine([columns.plans(i) for i in layers])
        return True

    def repair(self) -> None:
        """Take each layer's best plan, drop the least useful experts from servers that are too full, climb on."""
        held = np.zeros_like(self.search.placement.cached)
        for i, oracle in enumerate(self.oracles):
            self._part(held, oracle)[:] = oracle.held(self.columns.best(i, self.prices(i, self.price)))
        plan = Plan(saving_form(self.search.instance), held, self.threads)
        nowhere = len(held)
        for n in range(nowhere):
            while plan.free[n] < 0 and not self.stop():
                per_byte = [plan.moves(i).gain[n, nowhere] / layer.size for i, layer in enumerate(plan.form.layers)]
                plan.move(int(np.argmax(per_byte)), n, nowhere)
        if not self.stop():
            self.climb(Placement(plan.held))

    def climb(self, start: Placement) -> None:
        """Offer what local search makes of a placement."""
        remaining = self.search.stop.remaining
        found = local_search(
            self.search.instance, time_limit=None if remaining is None else remaining / 5, seed=0,
            threads=self.threads, start=start, progress=None,
        )  # fmt: skip
        self.search.offer(found.placement)

    def combine(self, plans: list[Plans]) -> None:
        """Look for a better placement: merge the plans as far as a few states go, then climb from what that gives."""
        few = []
        for i, some in enumerate(plans):
            value = some.saving - some.used @ self.prices(i, self.price)
            few.append(some.take(np.argsort(-value, kind="stable")[:FEW_PLANS]))
        merged = merge(
            self._menus(few), self.capacity, self.price[None, :], self.lower + 1, most=FEW_STATES, stop=self.stop
        )
        if merged is not None and merged.saving is not None and self._offer(few, merged.choice) and not self.stop():
            self.climb(self.search.placement)

    def _lower(self, upper: int, price: Int64) -> bool:
        """Take over prices with a lower bound."""
        if upper >= self.upper:
            return False
        much = self.upper - upper > 1e-6 * upper
        self.upper, self.price = upper, price
        self.prove(upper)
        return much

    def _part(self, cached: Bool, oracle: LayerOracle) -> Bool:
        first = int(self.search.instance.block_start[oracle.block])
        return cached[:, first : first + oracle.n_experts]

    def _master(self) -> tuple[float, Float] | None:
        """Return the value and the prices of the best convex combinations of the plans found, in floats."""
        unit, saving, used = self.total / 100, self.columns.saving, self.columns.used
        cost = np.array([-s / unit for layer in saving for s in layer])
        scale = np.maximum(self.capacity, 1)
        rows = np.concatenate([np.stack(u) * size for u, size in zip(used, self.sizes, strict=True)]).T / scale[:, None]
        owner = np.repeat(np.arange(len(saving)), [len(layer) for layer in saving])
        one = sp.csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(len(saving), len(owner)))
        result = linprog(
            cost, A_ub=sp.csr_array(rows), b_ub=self.capacity / scale, A_eq=one, b_eq=np.ones(len(saving)),
            method="highs",
        )  # fmt: skip
        if result.status != 0:
            return None
        return -result.fun * unit, np.maximum(0, -result.ineqlin.marginals) * unit / scale

    def enumerate(self) -> None:
        """List plans within a growing Delta and merge them."""
        price, layers = self.price, range(len(self.oracles))
        self.tune(price)
        found = each(lambda i: self.oracles[i].best(self.prices(i, price), stop=self.stop), layers, self.threads)
        if self.stop():
            return
        best = [f.bound for f in found]
        upper = sum(best) + int(price @ self.capacity)
        self._lower(upper, price)
        delta = max(1, (upper - self.lower) // 32)

        def near(within: int, i: int) -> Plans | None:
            own = self.prices(i, price)
            return self.oracles[i].plans(own, best[i] - within, stop=self.stop, most=MOST_PLANS)

        while not self.stop():
            goal = max(upper - delta, self.lower + 1)
            plans = each(functools.partial(near, upper - goal), layers, self.threads)
            complete = [p for p in plans if p is not None]
            if len(complete) < len(plans):
                return
            self.combine(complete)
            if self.stop() or not self._merge(complete, price, goal):
                return
            if upper - goal >= upper - self.lower - 1:
                return
            delta += max(1, delta // 2)

    def _merge(self, plans: list[Plans], price: Int64, goal: int) -> bool:
        """Merge plans; say whether all that reach the goal are known (then it is proven that none did)."""
        menus, most = self._menus(plans), FIRST_STATES
        while True:
            goal = max(goal, self.lower + 1)
            merged = merge(menus, self.capacity, price[None, :], goal, most=most, stop=self.stop)
            if merged is None:
                return False
            if merged.saving is not None:
                self._offer(plans, merged.choice)
            if merged.bound < self.upper:
                self.upper = merged.bound
                self.prove(max(merged.bound, self.lower))
            if merged.bound < goal:
                return True
            if merged.saving == merged.bound:
                return False
            if most == MOST_STATES:
                return False
            most = min(MOST_STATES, 4 * most)

    def _menus(self, plans: list[Plans]) -> list[Menu]:
        return [Menu(p.saving, p.used * s, np.arange(len(p.saving))) for p, s in zip(plans, self.sizes, strict=True)]

    def _offer(self, plans: list[Plans], choice: list[int]) -> bool:
        held = np.zeros_like(self.search.placement.cached)
        for oracle, plan, index in zip(self.oracles, plans, choice, strict=True):
            self._part(held, oracle)[:] = oracle.held(plan.masks[index])
        return self.search.offer(Placement(held))


class _Columns:
    """The plans of each layer that the oracle has returned."""

    def __init__(self, layers: int) -> None:
        self.saving: list[list[int]] = [[] for _ in range(layers)]
        self.used: list[list[Int64]] = [[] for _ in range(layers)]
        self.masks: list[list[Int64]] = [[] for _ in range(layers)]

    def add(self, layer: int, oracle: LayerOracle, masks: Int64) -> None:
        """Keep a plan unless it is there already."""
        if not any(np.array_equal(masks, m) for m in self.masks[layer]):
            self.saving[layer].append(oracle.saving(masks))
            self.used[layer].append(oracle.used(masks))
            self.masks[layer].append(masks)

    def best(self, layer: int, price: Int64) -> Int64:
        """Return the plan of largest value at prices of one expert."""
        return self.masks[layer][int(np.argmax(np.array(self.saving[layer]) - np.array(self.used[layer]) @ price))]

    def plans(self, layer: int) -> Plans:
        """Return all plans of a layer."""
        return Plans(np.array(self.saving[layer]), np.stack(self.used[layer]), np.stack(self.masks[layer]))


def _units(problem: AggregatedProblem) -> tuple[int, Int64]:
    """Return a unit of the savings and the weights in it; rounded up where they would be too many."""
    unit = problem.weight_unit
    while problem.total_weight // unit > LARGEST:
        unit *= 2
    return unit, -(-problem.term_weight // unit)
