r"""Proof by layers: prices for the budgets, every plan of every layer near its best, and their exact merge.

Layers meet in the budgets alone. At prices ``p`` per unit of each budget they fall apart, and::

    UB(p) = sum over layers of max over plans of (value - p . usage)  +  p . budget

bounds every value (M1). An oracle (:mod:`moeplace.layers.oracle`) bounds or computes each maximum. The proof

1. descends the smoothed bound in multipliers and prices at once, in floats, where the oracles can: a good beginning;
2. minimises ``UB`` exactly by cutting planes: a master problem over the plans found proposes prices, and between
   these and the best ones so far the oracles are asked again (in-out separation); where oracles can climb, plans are
   collected that way first, since a master problem that knows few plans proposes prices that are far off;
3. with ``Delta`` growing, lists all plans of each layer that are worth at least the layer's best less ``Delta``, and
   merges the layers (:mod:`moeplace.layers.merging`). By (M1) that finds a best combination if one reaches
   ``UB - Delta``, and proves that none does otherwise.

Why the last is a proof: a combination that reaches ``UB - Delta`` has, by (M1), deficits of at most ``Delta`` in sum,
so each of its plans is on its layer's list, or one that uses the same and is worth no less is. ``Delta`` never needs
to grow beyond ``UB`` less the value of the incumbent. All of this is in exact integers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int64
from moeplace.base.errors import MethodLimitError
from moeplace.base.workers import each
from moeplace.layers import merging
from moeplace.layers.master import Master, Relaxed
from moeplace.layers.merging import Menu, merge
from moeplace.layers.oracle import LARGEST, Climbing, Float, Oracle, Plans, Priced, Schedule, Tunable, whole


@dataclass(frozen=True)
class Tuning:
    """How far a proof goes. Whatever the numbers are, bounds hold and what is called optimal is.

    Attributes
    ----------
    schedule : Schedule
        The descent in multipliers and prices: temperature, step length, number of steps.
    later : Schedule
        The same again and again, where layers are too large for the search.
    retune : Schedule
        For multipliers alone, where cutting planes have moved the prices.
    given : Schedule
        For multipliers alone, at prices that somebody knows.
    worthwhile : float
        Share of the bound that such a round must win for another one.
    every : int
        Steps of the descent between two bounds.
    falling : float
        Share of the bound by which each of these must be lower than the one before, or the temperature's steps end.
    climbs, climbs_between, starts : int
        Most rounds in a row in which plans are collected by climbing at prices, in the beginning and between rounds of
        cutting planes, and from how many plans each time.
    climbed : float
        Share of the bound that such a round must win in the master problem for another one.
    rounds, stalled : int
        Most rounds of cutting planes, and most in a row that win next to nothing.
    nodes, few_nodes : int
        Nodes of one search of one layer; the few are tried first, before its multipliers are tuned.
    most_plans : int
        Plans of one layer above which ``Delta`` does not grow any more.
    first_states : int
        States kept, about, by the first try to merge; four times as many by the next ones.
    few_states, few_plans : int
        States, and plans of a layer, where merging only looks for a better combination.
    merging : moeplace.layers.merging.Tuning
    """

    schedule: Schedule = (
        (0.1, 1.0, 15), (0.05, 0.7, 15), (0.03, 0.5, 15), (0.017, 0.4, 15), (0.01, 0.3, 15), (0.0055, 0.3, 15),
        (0.003, 0.1, 50), (0.001, 0.03, 50),
    )  # fmt: skip
    later: Schedule = ((0.0003, 0.01, 100),)
    retune: Schedule = ((0.003, 0.3, 50),)
    given: Schedule = ((0.1, 1.0, 30), (0.03, 0.5, 40), (0.01, 0.3, 50))
    worthwhile: float = 1e-5
    every: int = 25
    falling: float = 5e-4
    climbs: int = 12
    climbs_between: int = 1
    starts: int = 2
    climbed: float = 5e-4
    rounds: int = 60
    stalled: int = 10
    nodes: int = 50_000
    few_nodes: int = 500
    most_plans: int = 1 << 20
    first_states: int = 1 << 16
    few_states: int = 1 << 13
    few_plans: int = 64
    merging: merging.Tuning = merging.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""


@dataclass(frozen=True, eq=False)
class Argument:
    """Why no combination has more value than was proven: all that a proof of one's own needs beside the layers.

    Attributes
    ----------
    price : int64 array [R]
    most : list of int
        What no plan of each layer is worth more than at these prices.
    exact : bool
        Whether each of them is what a plan is worth, as a search has found out, not only a bound.
    merge : list of (int, int64 array [K, R])
        The steps of a merge of all plans that (M1) leaves, see :attr:`~moeplace.layers.merging.Merged.steps`; empty
        where (M1) alone says it.
    """

    price: Int64
    most: list[int]
    exact: bool = False
    merge: list[tuple[int, Int64]] = field(default_factory=list)


@dataclass
class Counts:
    """What a proof has done, in counts: on one machine the same each time, whatever else runs there.

    Attributes
    ----------
    rounds : int
        Of cutting planes.
    asked, nodes : int
        Best plans that oracles were asked for, and the nodes of the searches that answered.
    listed : int
        Plans listed, all layers and all ``Delta`` together.
    merges, states : int
        Merges, and the states they kept.
    """

    rounds: int = 0
    asked: int = 0
    nodes: int = 0
    listed: int = 0
    merges: int = 0
    states: int = 0

    def answered(self, found: Sequence[Priced]) -> None:
        """Count answers of oracles."""
        self.asked += len(found)
        self.nodes += sum(answer.nodes for answer in found)

    def merged(self, merged: merging.Merged | None) -> None:
        """Count a merge; one that was stopped has no states."""
        self.merges += 1
        self.states += merged.states if merged is not None else 0


class Primal(Protocol):
    """The problem's side of a proof: its incumbent, and what it makes of plans."""

    @property
    def value(self) -> int:
        """What every combination better than the incumbent exceeds; without one, less than any combination has."""

    def stop(self) -> bool:
        """Return whether to end; a work that takes turns waits here for its next one."""

    def prove(self, upper: int, argument: Argument) -> None:
        """Take a proven bound on the value of every combination within the budgets, and why it holds."""

    def known(self) -> list[list[Int64]]:
        """Return, for each layer, codes of plans to begin with; the incumbent's are among them."""

    def offer(self, codes: Sequence[Int64]) -> bool:
        """Take one plan a layer, within the budgets, as the incumbent if it is better; say whether it was."""

    def repair(self, codes: Sequence[Int64]) -> None:
        """Make what can be made of plans that may take more than the budgets have."""

    def polish(self) -> None:
        """Improve the incumbent, which a merge has just found."""


class LayerProof:
    """The state of one proof.

    Parameters
    ----------
    oracles : sequence of Oracle
        Of each layer.
    budget : int64 array_like [R]
        Units of each budget.
    primal : Primal
    total : int, optional
        A bound on the value of every combination; else the sum of the oracles' totals.
    threads : int
        Threads that ask oracles.
    descent_threads : int
        Threads that take the steps of the descent: small layers are not worth more than one.
    tuning : Tuning

    Attributes
    ----------
    upper : int
        The best bound so far. ``price [R]``: the prices that prove it.
    span : int
        How far values lie apart, at the most: the measure of prices.
    counts : Counts
        What was done for it.

    Raises
    ------
    ValueError
        Budgets are no signed integers.
    MethodLimitError
        Values are so large that sums might overflow; see :data:`~moeplace.layers.oracle.LARGEST`.
    """

    def __init__(
        self,
        oracles: Sequence[Oracle],
        budget: npt.ArrayLike,
        primal: Primal,
        *,
        total: int | None = None,
        threads: int = 1,
        descent_threads: int = 1,
        tuning: Tuning = USUAL,
    ) -> None:
        self.oracles, self.budget, self.primal = list(oracles), whole(budget, "budget"), primal
        self.threads, self.descent_threads, self.tuning = threads, descent_threads, tuning
        self.total = sum(oracle.total for oracle in self.oracles) if total is None else total
        self.upper = self.total
        # Without an incumbent, its value is that of the ceiling.
        size = max(sum(max(abs(o.total), abs(o.least)) for o in self.oracles), abs(self.total), -primal.value)
        if size >= LARGEST:
            raise MethodLimitError("proof by layers", f"its values sum to {size:,}, at most 2**57 - 1 is handled")
        # Values may be negative, and so may their total.
        self.span = max(1, self.total, self.total - sum(oracle.least for oracle in self.oracles))
        self.price: Int64 = np.zeros(len(self.budget), dtype=np.int64)
        self.counts = Counts()
        self.pool = PlanPool(len(self.oracles))

    def run(self, price: Float | None = None) -> None:
        """Prove as much as there is time for.

        Parameters
        ----------
        price : float64 array [R], optional
            Prices known to be good, which need no descent.
        """
        stop, tuning = self.primal.stop, self.tuning
        if self.budget.min(initial=0) < 0:  # no plan takes less than nothing
            self.upper = self.primal.value
        elif not self.oracles and self.total > self.primal.value:
            self.primal.offer([])
        self.primal.prove(self.upper, Argument(self.price, [oracle.total for oracle in self.oracles]))
        if not self.oracles or self.budget.min(initial=0) < 0 or stop():
            return
        if price is None:
            price = self.descend(tuning.schedule)
        else:
            self.tune(self.sane(price), tuning.given)
            self.bound(self.sane(price))
            if stop() or not self.minimise(price, tuning.nodes):
                return
            self.enumerate()
            return
        if stop():
            return
        # The last prices may be worse than the best.
        if not self.minimise(self.price.astype(np.float64), tuning.few_nodes):
            # Layers too large for a quick search: the bound at once gets better for a while.
            before = self.upper + self.span
            while before - self.upper > tuning.worthwhile * abs(self.upper) and not stop():
                before = self.upper
                price = self.descend(tuning.later, price)
            if stop() or not self.minimise(self.price.astype(np.float64), tuning.nodes):
                return
        if not stop():
            self.enumerate()

    def descend(self, schedule: Schedule, price: Float | None = None) -> Float:
        """Lower the smoothed bound in multipliers and prices together; prices of 0 where an oracle has none to lower.

        A price moves against what the layers would like to take beyond the budget, as Newton's method has it for fixed
        multipliers, times a gain that grows while the sign stays and shrinks when it turns: the multipliers follow a
        price and take most of its effect back. Bounds are reported on the way.
        """
        layers = self._tunable()
        budget = self.budget.astype(np.float64)
        if len(layers) < len(self.oracles):
            return np.zeros(len(budget)) if price is None else price
        # What prices are measured by, each in its budget's unit; at first, all budgets cost half of what there is.
        reach = np.maximum(1.0, np.sum([oracle.reach for oracle in layers], axis=0))
        worth = self.span / reach
        if price is None:
            alike = np.array([(budget * (own / reach)).sum() for own in reach])
            price = np.minimum(worth, 0.5 * self.span / np.maximum(1.0, alike))
        gain, last = np.full(len(budget), 0.3), np.zeros(len(budget))

        def step(price: Float, temperature: float, rate: float, oracle: Tunable) -> Float:
            return oracle.smooth(price, temperature, rate)

        for temperature, rate, steps in schedule:
            before: float = math.inf
            for k in range(steps):
                if self.primal.stop():
                    return price
                wanted = each(functools.partial(step, price, temperature, rate), layers, self.descent_threads)
                used = np.sum(wanted, axis=0)
                over = used[0] - budget
                gain = np.clip(np.where(over * last >= 0, 1.2 * gain, 0.5 * gain), 1e-3, 1e3)
                last = over
                most = 0.05 * price + 1e-3 * worth
                price = np.maximum(
                    0,
                    price
                    + np.clip(gain * over / np.maximum(used[1], 1e-9 * np.maximum(budget, 1) / worth), -most, most),
                )
                if (k + 1) % self.tuning.every == 0 or k + 1 in (self.tuning.every // 5, steps):
                    upper = self.bound(self.sane(price))
                    if before - upper < self.tuning.falling * abs(upper):
                        break
                    before = upper
        return price

    def hear_of_known(self) -> None:
        """Put the plans into the pool that the problem knows."""
        for i, codes in enumerate(self.primal.known()):
            for code in codes:
                self.pool.add(i, *self.oracles[i].plan(code), code)

    def collect(self, price: Float, rounds: int) -> Relaxed | None:
        """Collect plans by climbing at prices, first these and then the master problem's over those collected.

        Climbing takes a small part of what a search takes, and proves nothing: searches begin where it ends.

        Returns
        -------
        Relaxed or None
            What :meth:`propose` says at the end; None where nobody climbs, or where a layer has no plan to begin with.
        """
        pool, before = self.pool, -math.inf
        climbing = [(i, oracle) for i, oracle in enumerate(self.oracles) if isinstance(oracle, Climbing)]

        def climb(price: Int64, one: tuple[int, Climbing]) -> list[Int64]:
            i, oracle = one
            if self.primal.stop():
                return []
            plans = pool.plans(i)
            worth = plans.value - plans.usage @ price
            return oracle.climbed(plans.code[np.argsort(-worth, kind="stable")[: self.tuning.starts]], price)

        if not climbing or not rounds or not all(map(pool.known, range(len(self.oracles)))):
            return None
        for _ in range(rounds):
            known = len(pool)
            found = each(functools.partial(climb, self.sane(price)), climbing, self.threads)
            for (i, _), codes in zip(climbing, found, strict=True):
                for code in codes:
                    pool.add(i, *self.oracles[i].plan(code), code)
            if self.primal.stop() or len(pool) == known or (master := self.propose()) is None:
                break
            if master.value - before <= self.tuning.climbed * abs(self.upper):
                return master
            before, price = master.value, master.prices
        return None if self.primal.stop() else self.propose()

    def tune(self, price: Int64, schedule: Schedule) -> None:
        """Choose good multipliers of all oracles."""
        each(lambda oracle: None if self.primal.stop() else oracle.tune(price, schedule), self._tunable(), self.threads)

    def _tunable(self) -> list[Tunable]:
        return [oracle for oracle in self.oracles if isinstance(oracle, Tunable)]

    def bound(self, price: Int64) -> int:
        """Take over the multipliers that the descent has come to; report and return the bound that they prove at once.

        It may be above :attr:`upper`.
        """
        each(lambda oracle: oracle.refresh(), self._tunable(), self.threads)
        most = [oracle.bound(price) for oracle in self.oracles]
        self.lower_upper(most, price)
        return sum(most) + int(price @ self.budget)

    def sane(self, price: Float) -> Int64:
        """Round prices; none is negative, as (M1) needs it, and the budgets cost so little that no sum overflows."""
        price = np.maximum(price, 0)
        cost = float(price @ self.budget)
        # The minimum is for budgets of nothing, which cost nothing. Rounding up is at most doubling.
        rounded = np.rint(price * min(1.0, 2 * self.span / max(cost, 1.0)))
        return np.minimum(rounded, 2 * self.span).astype(np.int64)

    def minimise(self, start: Float, nodes: int) -> bool:
        """Minimise the bound over the prices by cutting planes; say whether the layers were small enough for that.

        They are not where most searches do not end within ``nodes`` at the first prices.
        """
        price, pool, tuning = self.sane(start), self.pool, self.tuning
        layers = range(len(self.oracles))
        self.hear_of_known()
        self.collect(start, tuning.climbs)
        stalled, trust = 0, 0.5
        for turn in range(tuning.rounds):
            found = each(functools.partial(self._ask, price, tuning.nodes if turn else nodes), layers, self.threads)
            self.counts.rounds += 1
            self.counts.answered(found)
            improved = self.lower_upper([f.bound for f in found], price, all(f.exact for f in found))
            stalled = 0 if improved else stalled + 1
            # An early master problem knows little: its prices may be far off.
            trust = min(0.5, 1.5 * trust) if improved else max(0.05, 0.5 * trust)
            for i, plan in enumerate(found):
                pool.add(i, plan.value, plan.usage, plan.code)
            if turn == 0 and 2 * sum(plan.exact for plan in found) < len(found):
                return False
            if self.primal.stop() or stalled == tuning.stalled:
                break
            master = self.propose()
            if master is not None:
                master = self.collect(master.prices, tuning.climbs_between) or master
            if master is None:
                break
            slack = sum(plan.slack for plan in found)
            if self.upper - slack - master.value <= max(
                1e-7 * abs(self.upper), 0.01 * (self.upper - self.primal.value)
            ):
                break
            price = np.rint(self.price + trust * (self.sane(master.prices) - self.price)).astype(np.int64)
        if not self.primal.stop():
            self.primal.repair([pool.best(i, self.price) for i in layers])
            self.combine([pool.plans(i) for i in layers])
        return True

    def _ask(self, price: Int64, nodes: int, i: int) -> Priced:
        oracle, stop = self.oracles[i], self.primal.stop
        floor = self.pool.best(i, price) if self.pool.known(i) else None
        few = self.tuning.few_nodes
        found = oracle.best(price, floor=floor, stop=stop, nodes=min(nodes, few))
        if not found.exact and nodes > few and not stop():
            # Multipliers for prices far from these make long searches.
            if isinstance(oracle, Tunable):
                oracle.tune(price, self.tuning.retune)
            found = oracle.best(price, floor=floor, stop=stop, nodes=nodes)
        return found

    def combine(self, plans: list[Plans]) -> None:
        """Look for a better incumbent: merge the plans as far as a few states go, then polish what that gives."""
        few = []
        for some in plans:
            worth = some.value - some.usage @ self.price
            few.append(some.take(np.argsort(-worth, kind="stable")[: self.tuning.few_plans]))
        merged = merge(
            _menus(few), self.budget, self.price[None, :], self.primal.value + 1, most=self.tuning.few_states,
            stop=self.primal.stop, tuning=self.tuning.merging,
        )  # fmt: skip
        self.counts.merged(merged)
        better = merged is not None and merged.value is not None and self._offer(few, merged.choice)
        if better and not self.primal.stop():
            self.primal.polish()

    def lower_upper(self, most: list[int], price: Int64, exact: bool = False) -> bool:
        """Take over prices, and what layers are worth at most, with a lower bound; say whether it is notably lower."""
        return self.take_upper(sum(most) + int(price @ self.budget), price, Argument(price, most, exact))

    def take_upper(self, upper: int, price: Int64, argument: Argument) -> bool:
        """Take over prices with a lower bound, which an argument proves; say whether it is notably lower."""
        if upper >= self.upper:
            return False
        much = self.upper - upper > 1e-6 * abs(upper)
        self.upper, self.price = upper, price
        self.primal.prove(upper, argument)
        return much

    def propose(self) -> Relaxed | None:
        """Return the best convex combinations of the plans found, in floats."""
        layer, value, usage = self.pool.table()
        return Master(layer, value, usage, self.budget).relax(self.primal.stop, self.span)

    def enumerate(self) -> None:
        """List plans within a growing Delta and merge them."""
        price, stop = self.price, self.primal.stop
        self.tune(price, self.tuning.retune)
        found = each(lambda oracle: oracle.best(price, stop=stop), self.oracles, self.threads)
        if stop():
            return
        self.counts.answered(found)
        best = [f.bound for f in found]
        upper = sum(best) + int(price @ self.budget)
        self.lower_upper(best, price, all(f.exact for f in found))
        delta = max(1, (upper - self.primal.value) // 32)

        def near(within: int, i: int) -> Plans | None:
            return self.oracles[i].plans(price, best[i] - within, stop=stop, most=self.tuning.most_plans)

        while not stop():
            goal = max(upper - delta, self.primal.value + 1)
            plans = each(functools.partial(near, upper - goal), range(len(self.oracles)), self.threads)
            complete = [p for p in plans if p is not None]
            self.counts.listed += sum(map(len, complete))
            if len(complete) < len(plans):
                return
            self.combine(complete)
            if stop() or not self._merge(complete, price, found, goal):
                return
            if upper - goal >= upper - self.primal.value - 1:
                return
            delta += max(1, delta // 2)

    def _merge(self, plans: list[Plans], price: Int64, found: list[Priced], goal: int) -> bool:
        """Merge plans; say whether all that reach the goal are known (then it is proven that none did)."""
        menus, most = _menus(plans), self.tuning.first_states
        while True:
            goal = max(goal, self.primal.value + 1)
            merged = merge(
                menus, self.budget, price[None, :], goal, most=most, stop=self.primal.stop, tuning=self.tuning.merging
            )
            self.counts.merged(merged)
            if merged is None:
                return False
            if merged.value is not None:
                self._offer(plans, merged.choice)
            if merged.bound < self.upper:
                self.upper = merged.bound
                # Where the incumbent has as much, fewer plans than were merged are left by (M1).
                argument = Argument(price, [f.bound for f in found], all(f.exact for f in found), merged.steps)
                self.primal.prove(max(merged.bound, self.primal.value), argument)
            if merged.bound < goal:
                return True
            if merged.value == merged.bound or most == self.tuning.merging.most_states:
                return False
            most = min(self.tuning.merging.most_states, 4 * most)

    def _offer(self, plans: list[Plans], choice: list[int]) -> bool:
        return self.primal.offer([some.code[index] for some, index in zip(plans, choice, strict=True)])


class PlanPool:
    """The plans of each layer that are known, each once."""

    def __init__(self, layers: int) -> None:
        self._value: list[list[int]] = [[] for _ in range(layers)]
        self._usage: list[list[Int64]] = [[] for _ in range(layers)]
        self._code: list[list[Int64]] = [[] for _ in range(layers)]
        self._keys: list[set[bytes]] = [set() for _ in range(layers)]

    def __len__(self) -> int:
        return sum(map(len, self._value))

    def known(self, layer: int) -> int:
        """Return how many plans of a layer are known."""
        return len(self._value[layer])

    def codes(self, layer: int) -> list[Int64]:
        """Return the codes of a layer's plans, in the order in which they came."""
        return list(self._code[layer])

    def add(self, layer: int, value: int, usage: Int64, code: Int64) -> None:
        """Keep a plan unless it is there already."""
        if (key := code.tobytes()) not in self._keys[layer]:
            self._keys[layer].add(key)
            self._value[layer].append(value)
            self._usage[layer].append(usage)
            self._code[layer].append(code)

    def best(self, layer: int, price: Int64) -> Int64:
        """Return the code of the plan that is worth most."""
        worth = np.array(self._value[layer]) - np.array(self._usage[layer]) @ price
        return self._code[layer][int(np.argmax(worth))]

    def plans(self, layer: int) -> Plans:
        """Return all plans of a layer."""
        return Plans(np.array(self._value[layer]), np.stack(self._usage[layer]), np.stack(self._code[layer]))

    def table(self) -> tuple[Int64, Int64, Int64]:
        """Return layer [P], value [P] and usage [R, P] of all plans, layer by layer."""
        layer = np.repeat(np.arange(len(self._value)), [len(values) for values in self._value])
        value = np.array([v for values in self._value for v in values], dtype=np.int64)
        usage = np.stack([u for usages in self._usage for u in usages])
        return layer, value, np.ascontiguousarray(usage.T)


def _menus(plans: list[Plans]) -> list[Menu]:
    return [Menu(some.value, some.usage, np.arange(len(some))) for some in plans]
