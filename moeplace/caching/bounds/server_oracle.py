r"""One server of one layer: which experts it should hold within its slots, proven by depth-first search.

Where every term of a layer asks for a single server (its users are near to that one and equally far from all others),
the servers of the layer meet only in what must be held somewhere (C1). So the layer is itself a problem of *layers*
(:mod:`moeplace.layers`): its servers. A plan is a set ``X`` of at most ``q`` experts, with the value ``f(X)`` of the
terms within ``X``, less what loading costs; the budgets are the requirements. An expert that must be on one of the
servers ``R`` may be missing on all but one of them: a server's plan uses a unit of the requirement's ``|R| - 1`` where
it does not hold the expert (C7). At prices ``p`` of them a plan is worth ``f(X) + c(X)`` less all prices, with
``c_e = sum of p over the requirements of e, less what loading e costs``.

A term that is worth something has all its experts in ``X``, and beside each of them at most ``q - 1`` others are.
Share its weight out over the ordered pairs of its experts, ``W_t = sum of share[t, i, j]``, ``share >= 0``, and let
``s_ij`` be what is booked with a pair. For any shares (all in integers)::

    f(X) + c(X) <= max over |X| <= q of sum over e in X of (c_e + max over |J| < q of sum over j in J of s_ej)      (C8)

Terms of one expert count for that expert. Where some experts are held and others left out, terms of the latter are
lost, those of the former go on with the experts that are undecided, of which there may be no more than room is left,
and (C8) holds for these. Good shares come from entropic mirror descent on a smoothed (C8), in floats; they decide how
long the search takes, not what is true. It is the dual of the linear program over pairs given the total: ``b_S <= y_ij
<= x_i``, ``sum over j of y_ij <= (q - 1) x_i``, ``sum of x <= q``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import numpy as np

from moeplace.base.arrays import Int64
from moeplace.layers.oracle import Float, Plans, Priced, Schedule, no_stop


@dataclass(frozen=True)
class Tuning:
    """How far one server of a layer is searched. Whatever the numbers are, bounds hold and what is called exact is.

    Attributes
    ----------
    schedule : Schedule
        The mirror descent at given prices.
    chunk : int
        Nodes between two looks at the clock, at least 1.
    first_plans : int
        Plans that a list has room for at first, at least 1.
    """

    schedule: Schedule = ((0.1, 1.0, 30), (0.03, 0.5, 40), (0.01, 0.3, 50))
    chunk: int = 500
    first_plans: int = 1 << 10


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""

KERNELS: Final = ("moeplace.caching.bounds._server_kernels",)


def kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second and most commands never need it."""
    from moeplace.caching.bounds import _server_kernels

    return _server_kernels


class ServerOracle:
    """The terms of one layer at one server, and the search over what the server holds of the layer.

    Parameters
    ----------
    member : int64 array [T, K]
        The experts of each term, ascending, padded with -1; each term has one at least.
    weight : int64 array [T]
        Scaled weights, not negative. Their sum, and what any prices add up to, must each be below 2**60.
    load : int64 array [E]
        What loading each expert costs, in the same units; 0 where it is free or held already.
    slots : int
        How many experts the server takes at most.
    owner : int64 array [B]
        For each requirement of the layer (``B`` of them), the expert that must be on one of its servers; -1 where this
        server is none of them.
    tuning : Tuning

    Attributes
    ----------
    slack : int
        How far a bound may stay above the best plan found: where many plans are almost alike, all this is saved.
    """

    def __init__(
        self, member: Int64, weight: Int64, load: Int64, slots: int, owner: Int64, tuning: Tuning = USUAL
    ) -> None:
        self.tuning = tuning
        self.n_experts = len(load)
        self.slots = min(slots, self.n_experts)
        self._load = load
        self._budget, self._owner = np.flatnonzero(owner >= 0), owner[owner >= 0]
        self._n_budgets = len(owner)
        length = (member >= 0).sum(axis=1)
        alive = (length <= self.slots) & (weight > 0)
        self._member, self._weight, self._length = member[alive], weight[alive], length[alive].astype(np.int64)
        inside = self._member >= 0
        pairs = inside[:, :, None] & inside[:, None, :] & ~np.eye(member.shape[1], dtype=np.bool_)
        self._part: Float = pairs / np.maximum(1, pairs.sum(axis=(1, 2)))[:, None, None]
        self.slack = 0
        # What is taken over from the descent; a bound asked for in between is that of these shares.
        self.refresh()

    @property
    def total(self) -> int:
        """Sum of the weights: no plan saves more."""
        return int(self._weight.sum())

    @property
    def least(self) -> int:
        """What loading everything costs, below nothing."""
        return -int(self._load.sum())

    @property
    def reach(self) -> Int64:
        """A plan goes without each required expert once at most, int64 [B]."""
        reach = np.zeros(self._n_budgets, dtype=np.int64)
        reach[self._budget] = 1
        return reach

    def plan(self, code: Int64) -> tuple[int, Int64]:
        """Return the value and the usage of a plan, ``code [E]`` being 1 for what is held."""
        inside = (code[np.maximum(self._member, 0)] > 0) | (self._member < 0)
        value = int(self._weight[inside.all(axis=1)].sum()) - int(self._load[code > 0].sum())
        return value, self._usage(code)

    def exchanges(self, code: Int64) -> Int64:
        """Return what the value gains by one expert in the place of another one, int64 [E, E]: out, then in."""
        table: Int64 = kernels().exchanges(self._member, self._length, self._weight, -self._load, code)
        return table

    def climbed(self, code: Int64, price: Int64) -> list[Int64]:
        """Return what exchanges make of each of some plans ``[S, E]`` at prices."""
        gain, found = self._gain(price), list(code.copy())
        for held in found:
            kernels().climb(self._member, self._length, self._weight, gain, self.slots, held)
        return found

    def smooth(self, price: Float, temperature: float, rate: float, steps: int = 1) -> Float:
        """Take some steps of mirror descent with the shares at prices (floats, scaled); see ``Tunable``."""
        unit = max(1, self.total) / self.n_experts
        gain = np.bincount(self._owner, price[self._budget], self.n_experts) - self._load
        chosen = np.zeros(self.n_experts)
        kernels().smooth(
            self._member, self._length, self._weight / unit, gain / unit, self.slots, temperature, rate,
            self._part, chosen, steps,
        )  # fmt: skip
        wanted = np.zeros((2, self._n_budgets))
        wanted[0, self._budget] = 1.0 - chosen[self._owner]
        wanted[1, self._budget] = (chosen * (1.0 - chosen))[self._owner] / (temperature * unit)
        return wanted

    def tune(self, price: Int64, schedule: Schedule | None = None) -> None:
        """Choose good shares for prices near these, by the tuning's schedule unless there is another one."""
        for temperature, rate, steps in self.tuning.schedule if schedule is None else schedule:
            self.smooth(price.astype(np.float64), temperature, rate, steps)
        self.refresh()

    def refresh(self) -> None:
        """Take over the shares of :meth:`smooth`."""
        self._taken: Float = self._part.copy()
        self._share: Int64 = kernels().split(self._weight, self._taken, self._length)

    def bound(self, price: Int64) -> int:
        """Return (C8), a bound on what the best plan is worth, at once."""
        return _Search(self, price, 0, every=False).upper() - self._price_of_all(price)

    def best(
        self,
        price: Int64,
        *,
        floor: Int64 | None = None,
        stop: Callable[[], bool] = no_stop,
        nodes: int | None = None,
    ) -> Priced:
        """Find the plan that is worth most; see the engine's ``Oracle``."""
        code = np.zeros(self.n_experts, dtype=np.int64) if floor is None else floor
        value, usage = self.plan(code)
        whole = self._price_of_all(price)
        worth = value - int(price @ usage)
        search = _Search(self, price, worth + whole, every=False)
        bound = search.run(stop, nodes) - whole
        if search.worth > worth + whole:
            code = search.best.copy()
            value, usage = self.plan(code)
            worth = value - int(price @ usage)
        return Priced(max(bound, worth), worth, value, usage, code, search.nodes, self.slack)

    def plans(
        self, price: Int64, least: int, *, stop: Callable[[], bool] = no_stop, most: int | None = None
    ) -> Plans | None:
        """Find the plans worth at least ``least``, of each usage the best; None if stopped or more than ``most``.

        Where loading is free, plans that leave room are left out: another one uses less and is worth no less.
        """
        search = _Search(self, price, least + self._price_of_all(price), every=True)
        search.run(stop, None, most)
        if not search.finished or (most is not None and search.count > most):
            return None
        code = search.plan_held[: search.count]
        usage = np.zeros((len(code), self._n_budgets), dtype=np.int64)
        usage[:, self._budget] = 1 - code[:, self._owner]
        value = search.plan_value[: search.count] - self._price_of_all(price) + usage @ price
        order = np.lexsort((-value, *usage.T))
        again = (usage[order][1:] == usage[order][:-1]).all(axis=1)
        first = order[np.concatenate(([True], ~again))] if len(order) else order
        return Plans(value[first], usage[first], code[first].copy())

    def _usage(self, code: Int64) -> Int64:
        usage = np.zeros(self._n_budgets, dtype=np.int64)
        usage[self._budget] = 1 - code[self._owner]
        return usage

    def _gain(self, price: Int64) -> Int64:
        """Return what each expert brings by itself at prices, int64 [E]."""
        gain = -self._load
        np.add.at(gain, self._owner, price[self._budget])
        return gain

    def _price_of_all(self, price: Int64) -> int:
        """Return what a plan that holds nothing pays."""
        return int(price[self._budget].sum())

    @property
    def fills(self) -> bool:
        """Whether room is never left for a reason."""
        return not bool(self._load.any())


class _Search:
    """The state of a depth-first search; see ``_server_kernels.search``. Worths are without the price of all."""

    def __init__(self, oracle: ServerOracle, price: Int64, known: int, every: bool) -> None:
        n, terms = oracle.n_experts, len(oracle._weight)
        self._oracle, self._every = oracle, every
        self._gain = oracle._gain(price)
        # A list has all that is worth what is known; a search for the best looks for more.
        threshold = known if every else known + 1 + oracle.slack
        self._state = np.array([-1, threshold, 0, known, 0, 0, 0], dtype=np.int64)
        self._status = np.zeros(n, dtype=np.int64)
        self._alive = np.zeros((n + 1, terms), dtype=np.int32)
        self._trail = np.zeros(n, dtype=np.int64)
        # Of each depth: count, room, value, begin, branch, phase, bound.
        self._levels = [np.zeros(n + 1, dtype=np.int64) for _ in range(7)]
        self.best = np.zeros(n, dtype=np.int64)
        entries = oracle.tuning.first_plans if every else 0
        self.plan_value = np.zeros(entries, dtype=np.int64)
        self.plan_held = np.zeros((entries, n), dtype=np.int64)

    @property
    def finished(self) -> bool:
        """Whether the search has ended by itself."""
        return bool(self._state[0] == -2)

    @property
    def count(self) -> int:
        """Plans found."""
        return int(self._state[2])

    @property
    def worth(self) -> int:
        """What the best plan found is worth, or what was known at first."""
        return int(self._state[3])

    @property
    def nodes(self) -> int:
        """Nodes looked at."""
        return int(self._state[4])

    def upper(self) -> int:
        """Return the bound (C8) where nothing is decided."""
        oracle, n = self._oracle, self._oracle.n_experts
        kernel = kernels()
        pair, worth = np.zeros((n, n), dtype=np.int64), self._gain.copy()
        alive = np.arange(len(oracle._weight), dtype=np.int32)
        _, had = kernel.book(
            oracle._member, oracle._length, oracle._weight, oracle._taken, oracle._share, self._status, oracle.slots,
            alive, len(alive), pair, worth,
        )  # fmt: skip
        row, order = np.zeros((2, n), dtype=np.int64)
        return int(had) + int(kernel.bounded(pair, worth, self._status, oracle.slots, row, order)[0])

    def run(self, stop: Callable[[], bool], nodes: int | None, most: int | None = None) -> int:
        """Search until it ends by itself or is stopped; return what no plan exceeds."""
        oracle, kernel = self._oracle, kernels()
        left, chunk = nodes, oracle.tuning.chunk
        while True:
            budget = chunk if left is None else min(chunk, left)
            before = self.nodes
            status = kernel.search(
                oracle._member, oracle._length, oracle._weight, self._gain, oracle.slots, oracle._taken, oracle._share,
                self._state, self._status, self._trail, self._alive, *self._levels, self.best,
                self.plan_value, self.plan_held, self._every, self._every and oracle.fills, oracle.slack, budget,
            )  # fmt: skip
            if status == kernel.FINISHED:
                return self.worth + oracle.slack
            if left is not None:
                left -= self.nodes - before
            if status == kernel.FULL:
                if most is not None and self.count >= most:
                    break
                self._grow()
            if stop() or left == 0:
                break
        return self._open()

    def _open(self) -> int:
        """Return what no plan exceeds after a search that was stopped."""
        depth = int(self._state[0])
        *_, phase, bound = self._levels
        if depth == 0:
            return max(self.worth + self._oracle.slack, self.upper())
        # The node that comes next, and the other sides of the choices above it.
        waiting = bound[:depth][phase[:depth] == kernels().INCLUDED]
        least = self.worth + self._oracle.slack
        return max(least, int(bound[depth - 1]), int(waiting.max(initial=least)))

    def _grow(self) -> None:
        """Make room for more plans."""
        self.plan_value = np.concatenate((self.plan_value, np.zeros_like(self.plan_value)))
        self.plan_held = np.concatenate((self.plan_held, np.zeros_like(self.plan_held)))
