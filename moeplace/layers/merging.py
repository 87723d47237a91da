r"""Merging layers exactly: the best combination of one plan a layer within the capacities, or a proof of none.

At prices ``p`` (of one unit of each capacity, integers not negative) and with ``v_l(p)`` the largest value
``value - p.usage`` of layer ``l``, every choice of plans within the capacities has, by weak duality::

    value = sum_l v_l(p) + p.capacity - sum_l deficit_l - p.(capacity - usage)                                      (M1)

where a plan's deficit is what its value falls short of ``v_l``. Nothing subtracted is negative. So ``UB(p) = sum_l
v_l(p) + p.capacity`` bounds every value, and a value of at least ``UB - Delta`` takes plans with deficits that add up
to at most ``Delta``, unused room counted at its price. If all plans with a deficit of at most ``Delta`` are known, one
of each usage vector, the best, then they contain a best solution among those of at least ``UB - Delta``: merging them
finds it, or proves ``value < UB - Delta``.

The layers are merged one after the other. A state is what the layers so far use; of equal states the one with the
larger value is kept. It is dropped if it cannot reach the goal, by (M1) for the layers that follow, and that at each
of several prices: where a state has used much of one capacity, other prices than the best for the whole prove more.
Room that the layers that follow cannot fill counts as used, so that states which differ only there are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int64, hash_salt
from moeplace.layers.oracle import no_stop

_DEAREST: Final = 2.0**58
"""What the capacities cost at any prices that are found here is below this."""

_DEEPEST: Final = 1 << 61
"""Bounds of layers are not followed further below nothing, all layers together: that bounds them still."""


@dataclass(frozen=True)
class Tuning:
    """How far layers are merged. Whatever the numbers are, what is called a proof is one.

    Attributes
    ----------
    most_states : int
        About how many states are kept of one step: where there are as many and their table is full, those of the
        smallest bounds are dropped, and the result's bound is one of theirs.
    first_entries : int
        States that a step's table has room for at first, or four times the layer's plans where that is more.
    most_prices : int
        Prices at which states and plans are bounded, at least 1.
    samples : int
        States or plans drawn to find better prices for.
    judges : int
        States drawn to tell which prices bound best.
    rounds : int
        Times that plans are dropped before the merge begins.
    descent : int
        Steps to better prices.
    chunk : int
        Pairs of a state and a plan between two looks at the clock.
    """

    most_states: int = 1 << 21
    first_entries: int = 1 << 12
    most_prices: int = 32
    samples: int = 16
    judges: int = 256
    rounds: int = 4
    descent: int = 60
    chunk: int = 1 << 21


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""

KERNELS: Final = ("moeplace.layers._merge_kernels",)


def kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second and most commands never need it."""
    from moeplace.layers import _merge_kernels

    return _merge_kernels


@dataclass(frozen=True, eq=False)
class Menu:
    """The plans of one layer that are left to choose from.

    Attributes
    ----------
    value : int64 array [P]
    usage : int64 array [P, N]
        Units of each capacity.
    index : int64 array [P]
        Where the plan stands in the list that it comes from.
    """

    value: Int64
    usage: Int64
    index: Int64

    def take(self, which: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Menu:
        """Return some of the plans."""
        return Menu(self.value[which], self.usage[which], self.index[which])

    def within(self, capacity: Int64) -> Menu:
        """Return the plans that fit by themselves."""
        return self.take(np.flatnonzero((self.usage <= capacity).all(axis=1)))

    def undominated(self) -> Menu:
        """Return the plans of more value than all that use no more anywhere."""
        ordered = self.take(np.lexsort((self.usage.sum(axis=1), -self.value)))
        return ordered.take(kernels().undominated(ordered.value, ordered.usage))


@dataclass(frozen=True)
class Merged:
    """The result of merging.

    Attributes
    ----------
    value : int or None
        Of the best combination found, None without one that reaches the goal.
    choice : list of int
        Plan of each layer, by :attr:`Menu.index`.
    bound : int
        No combination has more value; at least ``goal - 1``. It is ``value`` where no state was dropped that might have
        had more.
    states : int
        States that were kept, all steps together.
    steps : list of (int, int64 array [K, N])
        The layer of each step that was done and the prices that states were bounded at: who has these and the plans
        can do the same again. Where no plan was left to begin with, the first step alone.
    """

    value: int | None
    choice: list[int]
    bound: int
    states: int = 0
    steps: list[tuple[int, Int64]] = field(default_factory=list)


def merge(
    menus: Sequence[Menu],
    capacity: Int64,
    prices: Int64,
    goal: int,
    *,
    most: int | None = None,
    stop: Callable[[], bool] = no_stop,
    tuning: Tuning = USUAL,
) -> Merged | None:
    """Find the combination of largest value, if one has at least ``goal``.

    Parameters
    ----------
    menus : sequence of Menu
        Of each layer.
    capacity : int64 array [N]
        Units of what the layers share.
    prices : int64 array [K, N]
        The first ones are those of (M1); not negative.
    goal : int
    most : int, optional
        States kept of one step, where not the tuning's.
    stop : callable
        Asked now and then whether to give up.
    tuning : Tuning

    Returns
    -------
    Merged or None
        None where it was stopped.
    """
    # Dropped first, since numbers of what takes far more than there is would overflow.
    menus = [menu.within(capacity) for menu in menus]
    if any(not len(menu.value) for menu in menus):
        return Merged(None, [], goal - 1)
    rng = np.random.default_rng(0)
    menus, pool = _shrink([menu.undominated() for menu in menus], capacity, prices, goal, rng, tuning)
    if any(not len(menu.value) for menu in menus):
        return Merged(None, [], goal - 1, steps=[(0, pool)])
    order = np.argsort([-len(menu.value) for menu in menus], kind="stable")
    menus = [menus[i] for i in order]
    tree = _Tree(menus, capacity, goal, tuning.most_states if most is None else most, stop, pool, rng, tuning)
    found = tree.grow()
    if found is None:
        return None
    steps = [(int(order[layer]), pool) for layer, pool in enumerate(tree.pools)]
    choice = [0] * len(found.choice)
    for layer, plan in zip(order.tolist(), found.choice, strict=False):
        choice[layer] = plan
    return replace(found, choice=choice, steps=steps)


@dataclass(frozen=True, eq=False)
class _Flat:
    """Menus one after the other, as the kernels take them."""

    start: Int64
    value: Int64
    usage: Int64

    @classmethod
    def of(cls, menus: Sequence[Menu]) -> _Flat:
        start = np.concatenate(([0], np.cumsum([len(menu.value) for menu in menus]))).astype(np.int64)
        return cls(start, np.concatenate([m.value for m in menus]), np.concatenate([m.usage for m in menus]))

    def values(self, prices: Int64) -> Int64:
        """Return what no plan of each layer is worth more than at each price, [L, K]; sums over layers are safe."""
        best = kernels().values(self.start, self.value, self.usage, prices)
        no_less: Int64 = np.maximum(best, -(_DEEPEST // len(best)))
        return no_less


def _shrink(
    menus: list[Menu], capacity: Int64, prices: Int64, goal: int, rng: np.random.Generator, tuning: Tuning
) -> tuple[list[Menu], Int64]:
    """Drop plans that are in no combination that reaches the goal, by (M1) at many prices; return these, too."""
    pool = prices
    for _ in range(tuning.rounds):
        flat = _Flat.of(menus)
        best = flat.values(pool)
        bound, winner = kernels().plan_bounds(
            flat.start, flat.value, flat.usage, pool, best.sum(axis=0) - best, capacity
        )
        keep = bound >= goal
        menus = [menu.take(keep[a:b]) for menu, a, b in zip(menus, flat.start[:-1], flat.start[1:], strict=True)]
        pool = _most_useful(pool, winner, tuning.most_prices)
        if any(not len(menu.value) for menu in menus):
            break
        flat = _Flat.of(menus)
        drawn = rng.integers(0, len(flat.value), tuning.samples)
        layer = np.searchsorted(flat.start, drawn, side="right") - 1
        asked = [
            (0, len(menus), int(i), capacity - flat.usage[p], goal - int(flat.value[p]))
            for p, i in zip(drawn, layer, strict=True)
        ]
        pool = np.concatenate((pool, _descended(flat, asked, prices[0], capacity, tuning.descent)))
    return menus, _most_useful(pool, np.arange(len(pool)), tuning.most_prices)


def _most_useful(pool: Int64, winner: Int64, most: int) -> Int64:
    """Return the prices that most often bound best, the first ones first."""
    wins = np.bincount(winner, minlength=len(pool))
    wins[0] = len(winner) + 1
    chosen: Int64 = pool[np.argsort(-wins, kind="stable")[:most]]
    return chosen


def _descended(
    flat: _Flat, asked: Sequence[tuple[int, int, int, Int64, int]], price: Int64, capacity: Int64, steps: int
) -> Int64:
    """Return better prices for each of some first and last layers, a layer without, the room and a goal: [len, N]."""
    descend, largest = kernels().descend, max(1, int(price.max(initial=0)))
    begin, scale = price.astype(np.float64), np.maximum(price, max(1, largest // 20)).astype(np.float64)
    found = np.empty((len(asked), len(price)))
    for i, (first, last, skip, room, goal) in enumerate(asked):
        found[i] = descend(
            flat.start, flat.value, flat.usage, first, last, skip, room.astype(np.float64), float(goal), begin, scale,
            steps,
        )  # fmt: skip
    # No bound may overflow; and prices that are this far off prove nothing.
    most = np.minimum(8.0 * largest, _DEAREST / (float(len(price)) * np.maximum(capacity, 1)))
    rounded: Int64 = np.floor(np.minimum(found, most)).astype(np.int64)
    return rounded


class _Tree:
    """The states of all steps, and how they came about."""

    def __init__(
        self,
        menus: list[Menu],
        capacity: Int64,
        goal: int,
        most: int,
        stop: Callable[[], bool],
        pool: Int64,
        rng: np.random.Generator,
        tuning: Tuning,
    ) -> None:
        self.menus, self.capacity, self.goal, self.most, self.stop = menus, capacity, goal, most, stop
        self.pool, self.rng, self.tuning = pool, rng, tuning
        self.flat = _Flat.of(menus)
        self.salt = hash_salt(len(capacity))
        self.value = np.zeros(1, dtype=np.int64)
        self.usage = np.zeros((1, len(capacity)), dtype=np.int64)
        self.steps: list[tuple[Int64, Int64]] = []
        self.pools: list[Int64] = []
        self.dropped = goal - 1
        self.sizes: list[int] = []

    def grow(self) -> Merged | None:
        """Add layer after layer."""
        # What the layers that follow can take of the capacity.
        reach = [np.zeros_like(self.capacity)]
        for menu in self.menus[:0:-1]:
            reach.append(reach[-1] + np.minimum(menu.usage.max(axis=0), self.capacity - reach[-1]))
        for layer in range(len(self.menus)):
            if not self.step(layer, reach[-1 - layer]):
                return None
            self.sizes.append(len(self.value))
            if not len(self.value):
                return Merged(None, [], self.dropped, sum(self.sizes))
        best = int(np.argmax(self.value))
        value = int(self.value[best])
        choice = []
        for (parent, plan), menu in zip(reversed(self.steps), reversed(self.menus), strict=True):
            choice.append(int(menu.index[plan[best]]))
            best = int(parent[best])
        return Merged(value, choice[::-1], max(value, self.dropped), sum(self.sizes))

    def step(self, layer: int, reach: Int64) -> bool:
        """Add one layer to all states; say whether that was not stopped."""
        menu, kernel = self.menus[layer], kernels()
        pool = self._prices(layer)
        self.pools.append(pool)
        worth = menu.value[:, None] - menu.usage @ pool.T
        order = np.argsort(-worth[:, 0], kind="stable")
        menu = self.menus[layer] = menu.take(order)
        best = self.flat.values(pool)
        after = best[layer + 1 :].sum(axis=0)
        goal = self.goal
        new = _States(max(4 * len(menu.value), self.tuning.first_entries), len(self.capacity))
        at, chunk = 0, max(1, self.tuning.chunk // len(menu.value))
        while at < len(self.value):
            if self.stop():
                return False
            end = min(len(self.value), at + chunk)
            at = kernel.extend(
                at, end, self.value, self.usage, menu.value, menu.usage, np.ascontiguousarray(worth[order]), pool,
                after, self.capacity, self.capacity - reach, goal, new.table, new.key,
                new.value, new.usage, new.bound, new.parent, new.plan, new.count, self.salt,
            )  # fmt: skip
            if at == end:
                continue
            if int(new.count[0]) >= self.most:
                cut = int(np.partition(new.bound[: int(new.count[0])], int(new.count[0]) // 2)[int(new.count[0]) // 2])
                new = new.select(new.bound[: int(new.count[0])] > cut, len(new.key))
                goal = cut + 1
                self.dropped = max(self.dropped, cut)
            else:
                new = new.select(np.ones(int(new.count[0]), dtype=np.bool_), 2 * len(new.key) + len(menu.value))
        count = int(new.count[0])
        keep = new.bound[:count] >= goal
        self.value, self.usage = new.value[:count][keep], new.usage[:count][keep]
        self.steps.append((new.parent[:count][keep], new.plan[:count][keep]))
        return True

    def _prices(self, layer: int) -> Int64:
        """Return prices to bound the next step with: some that suit states drawn at random, and what was good."""
        if layer == 0 or layer == len(self.menus) - 1:
            return self.pool
        tuning = self.tuning
        drawn = self.rng.integers(0, len(self.value), tuning.samples)
        asked = [
            (layer, len(self.menus), -1, self.capacity - self.usage[i], self.goal - int(self.value[i])) for i in drawn
        ]
        found = _descended(self.flat, asked, self.pool[0], self.capacity, tuning.descent)
        pool = np.concatenate((self.pool, found))
        if len(pool) > tuning.most_prices:
            # Those that bound some states drawn at random best.
            best = self.flat.values(pool)
            some = self.rng.integers(0, len(self.value), tuning.judges)
            bound = (
                self.value[some, None] + (self.capacity - self.usage[some]) @ pool.T + best[layer:].sum(axis=0)[None, :]
            )
            pool = _most_useful(pool, bound.argmin(axis=1), tuning.most_prices)
        self.pool = pool
        return pool


class _States:
    """States under construction, in a hash table by what they use."""

    def __init__(self, entries: int, width: int) -> None:
        size = 1 << (2 * entries - 1).bit_length()
        self.table = np.full(size, -1, dtype=np.int64)
        self.key, self.value, self.bound, self.parent, self.plan = (np.zeros(entries, dtype=np.int64) for _ in range(5))
        self.usage = np.zeros((entries, width), dtype=np.int64)
        self.count = np.zeros(1, dtype=np.int64)

    def select(self, keep: npt.NDArray[np.bool_], entries: int) -> _States:
        """Return some of the states, with room for more."""
        new = _States(entries, self.usage.shape[1])
        count, old = int(keep.sum()), len(keep)
        for name in ("key", "value", "bound", "parent", "plan", "usage"):
            getattr(new, name)[:count] = getattr(self, name)[:old][keep]
        new.count[0] = count
        kernels().rehash(new.key, count, new.table)
        return new
