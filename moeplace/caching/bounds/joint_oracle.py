"""One layer of one model where the experts that are active are chosen, too: an oracle over those of every number.

With its rows cut to ``k`` experts a layer is one as ever (:mod:`moeplace.caching.bounds.layer_oracle`). A plan is now
``k`` and what the servers hold; its value is what it saves against *one* baseline, that of all experts active, so that
baselines which differ with ``k`` are inside the value; and its usage has one budget more, the loss of quality. At
prices for bytes and for loss the layer is worth the most over ``k`` of::

    (value of the layer with k experts at the prices of bytes) + offset_k - price of loss * loss_k                  (J6)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.caching.bounds.layer_oracle import NOTHING, LayerOracle
from moeplace.layers.oracle import Float, Plans, Priced, Schedule, no_stop


@dataclass(frozen=True)
class Tuning:
    """Which numbers of active experts a descent follows. Whatever the numbers are, bounds hold.

    Attributes
    ----------
    far : float
        Temperatures that a number of active experts is worth less than the best, beyond which it mostly waits.
    wait : int
        Steps that it waits before it is looked at again, at least 1.
    """

    far: float = 10.0
    wait: int = 10


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""


@dataclass(eq=False)
class Option:
    """A number of active experts of the layer.

    Attributes
    ----------
    k : int
        Active experts.
    loss : int
        Units of the budget of loss that it takes.
    offset : int
        What it saves where the servers hold nothing, scaled.
    oracle : LayerOracle
        The layer with its rows cut to so many.
    """

    k: int
    loss: int
    offset: int
    oracle: LayerOracle

    def __post_init__(self) -> None:
        servers = self.oracle.n_servers
        self.smoothed: float | None = None
        self.wanted: Float = np.zeros((2, servers))
        self.price: Float = np.zeros(servers)
        self.waited = 0

    def gain(self, price: Int64) -> int:
        """Return what is added to the value of the layer's own oracle."""
        return self.offset - int(price[-1]) * self.loss

    def bound(self, price: Int64) -> int:
        """Return what no plan with so many active experts is worth more than."""
        found = self.oracle.bound(price[:-1])
        return NOTHING if found == NOTHING else found + self.gain(price)


class JointOracle:
    """The plans of one layer with every number of active experts; see :class:`~moeplace.layers.oracle.Oracle`.

    A code is the number of active experts and then the masks as the oracle of that number has them, with zeros behind.

    Parameters
    ----------
    options : sequence of Option
        At least one, by rising ``k``; all of one layer.
    tuning : Tuning
    """

    def __init__(self, options: Sequence[Option], tuning: Tuning = USUAL) -> None:
        self.options, self.tuning = list(options), tuning
        first = self.options[0].oracle
        self.block, self.n_experts, self.n_servers, self.size = (
            first.block, first.n_experts, first.n_servers, first.size,
        )  # fmt: skip
        self._of = {option.k: option for option in self.options}
        self._known: list[Int64] = []

    @property
    def total(self) -> int:
        """No plan's value is larger."""
        return max(option.oracle.total + option.offset for option in self.options)

    @property
    def least(self) -> int:
        """No plan's value is smaller."""
        return min(option.oracle.least + option.offset for option in self.options)

    @property
    def reach(self) -> Int64:
        """Units of each budget that a plan may take at most."""
        storage = np.max([option.oracle.reach for option in self.options], axis=0)
        return np.append(storage, max(option.loss for option in self.options))

    @property
    def n_terms(self) -> int:
        """Number of terms, all numbers of active experts together."""
        return sum(option.oracle.n_terms for option in self.options)

    def code(self, k: int, held: Bool) -> Int64:
        """Return the code of ``k`` active experts and what the servers hold, ``held [N, E]``."""
        return self._code(k, self._of[k].oracle.masks(held))

    def decode(self, code: Int64) -> tuple[int, Bool]:
        """Return active experts and what the servers hold, bool [N, E]."""
        option, masks = self._masks(code)
        return option.k, option.oracle.held(masks)

    def covers(self, code: Int64) -> bool:
        """Return whether a plan meets every requirement of the layer."""
        option, masks = self._masks(code)
        return option.oracle.covers(masks)

    def plan(self, code: Int64) -> tuple[int, Int64]:
        """Return the value and the usage of a plan."""
        option, masks = self._masks(code)
        saving, usage = option.oracle.plan(masks)
        return saving + option.offset, np.append(usage, option.loss)

    def bound(self, price: Int64) -> int:
        """Return at once what no plan is worth more than."""
        return max(option.bound(price) for option in self.options)

    def bounds(self, price: Int64) -> Int64:
        """Return at once what no plan of each option is worth more than, the price of loss left out, int64 [K]."""
        storage = np.append(price[:-1], 0)
        return np.array([option.bound(storage) for option in self.options], dtype=np.int64)

    def best(
        self, price: Int64, *, floor: Int64 | None = None, stop: Callable[[], bool] = no_stop, nodes: int | None = None
    ) -> Priced:
        """Return the plan that is worth most; numbers of active experts that may be worth most are searched first."""
        begin = None if floor is None else self._masks(floor)
        top: Priced | None = None
        if floor is not None:
            value, usage = self.plan(floor)
            worth = value - int(price @ usage)
            top = Priced(worth, worth, value, usage, floor)
        bounds = [option.bound(price) for option in self.options]
        most, looked = NOTHING, 0
        for i in np.argsort([-bound for bound in bounds], kind="stable").tolist():
            option, bound, gain = self.options[i], bounds[i], self.options[i].gain(price)
            if (top is not None and bound <= top.worth) or bound == NOTHING:
                break  # so are all that follow
            own = begin[1] if begin is not None and begin[0] is option else None
            found = option.oracle.best(
                price[:-1], floor=own, above=None if top is None else top.worth - gain, stop=stop, nodes=nodes
            )
            looked += found.nodes
            if found.bound != NOTHING:
                most = max(most, min(bound, found.bound + gain))
            if found.worth != NOTHING and (top is None or found.worth + gain > top.worth):
                usage = np.append(found.usage, option.loss)
                code = self._code(option.k, found.code)
                worth = found.worth + gain
                top = Priced(worth, worth, found.value + option.offset, usage, code)
        if top is None:
            nothing = np.zeros(1 + self.n_experts, dtype=np.int64)
            nothing[0] = self.options[0].k
            return Priced(most, NOTHING, 0, np.zeros(self.n_servers + 1, dtype=np.int64), nothing, looked)
        self._known = [top.code]
        return Priced(max(most, top.worth), top.worth, top.value, top.usage, top.code, looked)

    def plans(
        self, price: Int64, least: int, *, stop: Callable[[], bool] = no_stop, most: int | None = None
    ) -> Plans | None:
        """Return the plans worth at least ``least``, of each usage the best; None if stopped or more than ``most``."""
        values, usages, codes = [], [], []
        count = 0
        for option in self.options:
            if option.bound(price) < least:
                continue
            left = None if most is None else max(0, most - count)
            found = option.oracle.plans(price[:-1], least - option.gain(price), stop=stop, most=left)
            if found is None:
                return None
            count += len(found)
            code = np.zeros((len(found), 1 + self.n_experts), dtype=np.int64)
            code[:, 0] = option.k
            code[:, 1 : 1 + found.code.shape[1]] = found.code
            values.append(found.value + option.offset)
            usages.append(np.column_stack((found.usage, np.full(len(found), option.loss, dtype=np.int64))))
            codes.append(code)
        if not values:
            return Plans(
                np.zeros(0, dtype=np.int64),
                np.zeros((0, self.n_servers + 1), dtype=np.int64),
                np.zeros((0, 1 + self.n_experts), dtype=np.int64),
            )
        return Plans(np.concatenate(values), np.concatenate(usages), np.concatenate(codes))

    def smooth(self, price: Float, temperature: float, rate: float) -> Float:
        """Take a step of descent of the smoothed bound; see :class:`~moeplace.layers.oracle.Tunable`.

        The most over the options is smoothed, too, at the same temperature. An option that is far from the best waits.
        """
        storage, loss = price[:-1], float(price[-1])
        unit = temperature * max(option.oracle.unit for option in self.options)

        def worth(option: Option) -> float:
            """Return what an option is worth; where the price has changed since it was looked at, about that."""
            assert option.smoothed is not None
            moved = float(option.wanted[0] @ (storage - option.price))
            return option.smoothed - moved + option.offset - loss * option.loss

        known = [option for option in self.options if option.smoothed is not None]
        lead = max(map(worth, known), default=-np.inf)
        for option in self.options:
            near = option.smoothed is None or worth(option) > lead - self.tuning.far * unit
            option.waited += 1
            if near or option.waited >= self.tuning.wait:
                option.wanted = option.oracle.smooth(storage, temperature, rate)
                option.smoothed = option.oracle.smoothed
                option.price, option.waited = storage.copy(), 0
        worths = np.array([worth(option) for option in self.options])
        share = np.exp(np.maximum(-700.0, (worths - worths.max()) / unit))
        share /= share.sum()
        wanted = np.array([np.append(option.wanted[0], option.loss) for option in self.options])
        falls = np.array([np.append(option.wanted[1], 0.0) for option in self.options])
        mean = share @ wanted
        return np.stack((mean, share @ falls + share @ (wanted - mean) ** 2 / unit))

    def refresh(self) -> None:
        """Take over what :meth:`smooth` has come to."""
        for option in self.options:
            option.oracle.refresh()

    def tune(self, price: Int64, schedule: Schedule) -> None:
        """Choose good multipliers for prices near these, for the options that bound the layer there.

        The option of the largest bound comes first. One whose bound is no larger than that of one that is tuned already
        does not matter.
        """
        most = max((value - int(price @ usage) for value, usage in map(self.plan, self._known)), default=NOTHING)
        for option in sorted(self.options, key=lambda option: -option.bound(price)):
            if option.bound(price) > most:
                option.oracle.tune(price[:-1], schedule)
                most = max(most, option.bound(price))

    def _code(self, k: int, masks: Int64) -> Int64:
        code = np.zeros(1 + self.n_experts, dtype=np.int64)
        code[0], code[1 : 1 + len(masks)] = k, masks
        return code

    def _masks(self, code: Int64) -> tuple[Option, Int64]:
        option = self._of[int(code[0])]
        return option, np.ascontiguousarray(code[1 : 1 + len(option.oracle.experts)])
