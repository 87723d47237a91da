r"""One layer of one model at a price per server: its best plan, proven by depth-first search, and all plans near it.

A *plan* says which servers hold each expert of the layer, ``q_n`` experts on server ``n``. At prices ``p_n`` the
layer's *value* is ``max over plans with q_n <= room_n of saving(plan) - sum_n p_n q_n`` (all integers).

Bound
-----
Write the layer's part of (A1) as terms ``W_t * [every e in S_t is held within R_t]`` and share each weight out over the
term's experts, ``W_t = sum_e share[t, e]``, ``share >= 0``. Since the least of some numbers in {0, 1} is at most their
weighted mean::

    value <= sum over e of  max over masks m of  sum over t with e in S_t, m hits R_t of share[t, e]  -  p(m)      (L1)

for any shares: integers, so (L1) is exact. Where some experts are decided, a term with an expert that misses ``R_t`` is
lost for the others, too, and the share of one that hits moves to the rest, in the same proportions. The search decides
experts in order of the weight they take part in, and follows masks in order of their bounds. Good shares come from
entropic mirror descent on the smoothed (L1), in floats; they decide how long the search takes, not what is true.

What version 2 adds stays within the layer. An expert that demands without a cloud need (C1) has only the masks that hit
every reach set required of it; the layer may then have no plan at all. Loading (C2) is a price on pairs of server and
expert, deducted from a plan's saving. Slots are a smaller ``room``; since many experts want to be on the same server
then, (L1) is taken at prices that are higher by multipliers ``slot_price >= 0``, plus what all the room costs at these.
And where only so many experts can be within a radius set, only so many others count beside an expert: what is booked
with it is shared out over them, and the largest parts are taken (C6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int64, hash_salt
from moeplace.caching.certificates import odds_codes
from moeplace.caching.instance import Instance
from moeplace.caching.terms import AggregatedProblem
from moeplace.layers.oracle import Float, Plans, Priced, Schedule, no_stop


@dataclass(frozen=True)
class Tuning:
    """How far one layer is searched. Whatever the numbers are, bounds hold and what is called exact is.

    Attributes
    ----------
    most_servers : int
        Servers that can be of use to one layer; tables have ``2**servers`` entries for each expert.
    most_cells : int
        Entries of the tables of a search (masks times radius sets) above which only the bound (L1) is computed.
    most_mask_cells : int
        Work (masks times experts times radius sets times servers) above which masks that are of no use are not sorted
        out beforehand.
    schedule : Schedule
        The mirror descent at given prices.
    chunk : int
        Nodes between two looks at the clock, at least 1.
    first_plans : int
        Plans that a list has room for at first, a power of two.
    """

    most_servers: int = 16
    most_cells: int = 1 << 24
    most_mask_cells: int = 1 << 28
    schedule: Schedule = ((0.1, 1.0, 30), (0.03, 0.5, 40), (0.01, 0.3, 50))
    chunk: int = 20_000
    first_plans: int = 1 << 10


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""

NOTHING: Final = -(1 << 61)
"""The worth of no plan, less than that of any."""

KERNELS: Final = ("moeplace.caching.bounds._layer_kernels",)


def kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second and most commands never need it."""
    from moeplace.caching.bounds import _layer_kernels

    return _layer_kernels


class LayerOracle:
    """The terms of one layer of one model, and the search over its plans.

    :attr:`odds` and :attr:`slot_price` are the multipliers that its bounds use at the time, as certificates hold them.

    Parameters
    ----------
    problem : AggregatedProblem
    block : int
        The layer's block in the instance.
    scale : int
        Savings, prices and values are ``scale`` times token-ns. The scaled sum of the layer's weights and the
        prices of any plan must each be below 2**60.
    weights : int64 array [T], optional
        Weights to take instead of the problem's; a bound on the value then holds for these.
    loads : int64 array [N, B], optional
        What loading an expert of each block costs, to take instead of the instance's.
    tuning : Tuning

    Raises
    ------
    ValueError
        More than :attr:`Tuning.most_servers` servers can be of use to the layer.
    """

    def __init__(
        self,
        problem: AggregatedProblem,
        block: int,
        scale: int = 1,
        weights: Int64 | None = None,
        loads: Int64 | None = None,
        tuning: Tuning = USUAL,
    ) -> None:
        self.tuning = tuning
        instance = problem.instance
        first, last = (int(b) for b in instance.block_start[block : block + 2])
        terms = problem.block_terms(block)
        weight = problem.term_weight if weights is None else weights
        self.block, self.scale = block, scale
        self.n_servers = len(instance.servers)
        self.n_experts = last - first
        self.size = int(instance.item_bytes[first])
        self.units = 1
        fits = (instance.capacity_bytes >= self.size) & (instance.layer_slots > 0)
        radii, radius_of = np.unique(problem.term_radius[terms], return_inverse=True)
        members = problem.radius[radii] & fits
        reach, required = _requirements(instance, slice(first, last))
        reach = reach & fits
        self.servers = np.flatnonzero(members.any(axis=0) | reach.any(axis=0))
        if len(self.servers) > tuning.most_servers:
            raise ValueError(f"{len(self.servers)} servers, at most {tuning.most_servers}")
        room = np.minimum(instance.capacity_bytes[self.servers] // self.size, self.n_experts).astype(np.int64)
        self.room = np.minimum(room, instance.layer_slots[self.servers])
        bits = (1 << np.arange(len(self.servers))).astype(np.int64)
        self._radius, alike = np.unique(members[:, self.servers] @ bits, return_inverse=True)
        length = np.diff(problem.set_start)[problem.term_set[terms]]
        width = int(length.max(initial=1))
        expert = np.full((len(terms), width), -1, dtype=np.int64)
        row = np.repeat(np.arange(len(terms)), length)
        place = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
        start = problem.set_start[problem.term_set[terms]]
        expert[row, place] = problem.set_item[np.repeat(start, length) + place] - first
        # Terms that no server with room can satisfy are worth nothing.
        alive = self._radius[alike[radius_of]] > 0
        expert, length = expert[alive], length[alive].astype(np.int64)
        self._term_radius = alike[radius_of][alive].astype(np.int64)
        self._weight = weight[terms][alive] * scale
        used_by = np.zeros(self.n_experts, dtype=np.int64)
        np.add.at(used_by, expert[expert >= 0], np.broadcast_to(self._weight[:, None], expert.shape)[expert >= 0])
        order = np.argsort(-used_by, kind="stable")
        wanted = used_by > 0
        wanted[required] = True
        self.experts = order[wanted[order]]
        position = np.full(self.n_experts + 1, np.iinfo(np.int64).max)
        position[self.experts] = np.arange(len(self.experts))
        member = np.sort(position[expert], axis=1)
        self._member = np.where(member < len(self.experts), member, -1)
        self._length = length
        self._part = (self._member >= 0) / length[:, None]
        # What the parts are in proportion to: equal at first, nothing where no term asks for the expert.
        self._odds: Float = np.zeros((len(self.experts), len(self._radius)))
        inside = self._member >= 0
        asked = np.broadcast_to(self._term_radius[:, None], inside.shape)[inside]
        self._odds[self._member[inside], asked] = 1.0
        self._load = self._loads(instance, slice(first, last), loads)
        self._required = position[required], reach[:, self.servers] @ bits
        self._covers = self._covering()
        self._allowed = self._masks()
        # Multipliers of the room, where slots make it smaller than storage does: see _SlotPrice.
        self._slots = _SlotPrice(self.room) if (self.room < room).any() else None
        self.slot_price: Int64 = np.zeros(len(self.servers), dtype=np.int64)
        self.smoothed = 0.0  # the smoothed bound, as the last step of :meth:`smooth` has found it
        within = (self._radius[:, None] >> np.arange(len(self.servers)) & 1) @ self.room
        self._within: Int64 = within if self._slots is not None else np.zeros(0, dtype=np.int64)
        # Of what is booked with one member of a term, the parts of the others; nothing without slots.
        even = 1 / np.maximum(1, length - 1)[:, None, None] * (1 - np.eye(width))
        self._beside: Float = even if self._slots is not None else np.zeros((0, width, width))
        self._shared()

    @property
    def slotted(self) -> bool:
        """Whether slots leave less room than storage does."""
        return self._slots is not None

    @property
    def total(self) -> int:
        """Sum of the weights, scaled, less what loading must cost: no plan saves more."""
        return int(self._weight.sum()) - self.least_loading

    @property
    def least(self) -> int:
        """A plan saves nothing at least, but for what loading everything costs."""
        return -sum(self._load.ravel().tolist())

    @cached_property
    def unit(self) -> float:
        """What an expert is worth in the mean, were everything held, scaled: what temperatures are measured by."""
        return max(1, int(self._weight.sum()) + self.least_loading) / max(1, len(self.experts))

    @property
    def reach(self) -> Int64:
        """Units of storage that everything of use would take on each server."""
        return np.full(self.n_servers, self.units * len(self.experts), dtype=np.int64)

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return len(self._weight)

    def held(self, masks: Int64) -> Bool:
        """Return a plan as a matrix of servers and experts, in the instance's order, bool [N, E]."""
        held = np.zeros((self.n_servers, self.n_experts), dtype=np.bool_)
        bits = (masks[None, :] >> np.arange(len(self.servers))[:, None]) & 1
        held[self.servers[:, None], self.experts[None, :]] = bits > 0
        return held

    def masks(self, held: Bool) -> Int64:
        """Return a matrix ``held [N, E]`` as a plan, without what is of no use."""
        bits = (1 << np.arange(len(self.servers))).astype(np.int64)
        masks: Int64 = bits @ held[self.servers][:, self.experts].astype(np.int64)
        return masks

    def saving(self, masks: Int64) -> int:
        """Return the scaled saving of a plan, less what it costs to load."""
        hit = (masks[np.maximum(self._member, 0)] & self._radius[self._term_radius][:, None]) > 0
        saving = int(self._weight[(hit | (self._member < 0)).all(axis=1)].sum())
        if len(self._load):
            saving -= int(self._load[(masks[:, None] >> np.arange(len(self.servers))) & 1 > 0].sum())
        return saving

    def covers(self, masks: Int64) -> bool:
        """Return whether a plan meets every requirement of the layer."""
        expert, reach = self._required
        return bool((masks[expert] & reach > 0).all())

    def usage(self, masks: Int64) -> Int64:
        """Return the units of storage that a plan takes on each server of the instance, int64 [N]."""
        usage = np.zeros(self.n_servers, dtype=np.int64)
        usage[self.servers] = ((masks[None, :] >> np.arange(len(self.servers))[:, None]) & 1).sum(axis=1)
        return usage * self.units

    def plan(self, code: Int64) -> tuple[int, Int64]:
        """Return the saving and the usage of a plan."""
        return self.saving(code), self.usage(code)

    def smooth(self, price: Float, temperature: float, rate: float, steps: int = 1) -> Float:
        """Take some steps of mirror descent with the shares at prices (floats, scaled); see :class:`Tunable`."""
        used = np.zeros((2, self.n_servers))
        if not len(self._weight) and not len(self._required[0]):
            return used
        price = price[self.servers] * float(self.units)
        unit = self.unit
        mine = np.zeros((2, len(self.servers)))
        slots = self._slots
        for _ in range(1 if slots is None else steps):
            self.smoothed = unit * kernels().smooth(
                self._radius, self._term_radius, self._member, self._length, self._weight / unit,
                (price if slots is None else price + slots.price) / unit, self._load / unit, self._covers, self._within,
                temperature, rate, self._odds, self._part, self._beside, len(self.experts), mine,
                steps if slots is None else 1,
            )  # fmt: skip
            if slots is not None:
                self.smoothed += float(slots.price @ self.room)
                slots.move(mine, temperature, unit)
        used[:, self.servers] = mine
        used[1] /= temperature * unit
        used[0] *= self.units
        used[1] *= float(self.units) ** 2
        return used

    def odds_table(self, codes: Int64) -> Int64:
        """Return :attr:`odds` as a certificate has them: by radius sets with servers, of all experts of the layer."""
        some = self._radius > 0
        table = np.zeros((int(some.sum()), self.n_experts), dtype=np.int64)
        table[:, self.experts] = codes[:, some].T
        return table

    def tune(self, price: Int64, schedule: Schedule | None = None) -> None:
        """Choose good shares for prices near these, by the tuning's schedule unless there is another one."""
        for temperature, rate, steps in self.tuning.schedule if schedule is None else schedule:
            self.smooth(price.astype(np.float64), temperature, rate, steps)
        self._shared()

    def refresh(self) -> None:
        """Take over the shares of :meth:`smooth`."""
        self._shared()

    def bound(self, price: Int64) -> int:
        """Return (L1), a bound on the layer's value, at once; :data:`NOTHING` where an expert can be nowhere."""
        if not len(self.experts):
            return 0
        best = self._values(price).max(axis=1)
        return NOTHING if best.min() == NOTHING else int(best.sum()) + int(self.slot_price @ self.room)

    def best(
        self,
        price: Int64,
        *,
        floor: Int64 | None = None,
        above: int | None = None,
        stop: Callable[[], bool] = no_stop,
        nodes: int | None = None,
    ) -> Priced:
        """Find the plan of largest value at prices.

        Parameters
        ----------
        price : int64 array [N]
            Price of a unit of storage on each server, scaled; not negative.
        floor : int64 array [E'], optional
            A plan within the room, which covers, to begin with, else the empty one where it covers. It is returned
            where nothing is better.
        above : int, optional
            A plan that is worth no more than this is of no use: it need not be found, and the bound may be this.
        stop : callable
            Asked now and then; when it says so, what is known so far is returned.
        nodes : int, optional
            Most nodes to look at.

        Returns
        -------
        Priced
            Its bound is proven whatever has ended the search. Without a plan its worth is :data:`NOTHING` and its code
            means nothing; so is its bound where it is proven that there is none.
        """
        masks = np.zeros(len(self.experts), dtype=np.int64) if floor is None else floor
        saving, usage = self.plan(masks)
        worth = saving - int(price @ usage)
        if not len(self.experts):
            return Priced(worth, worth, saving, usage, masks)
        if floor is None and not self.covers(masks):
            worth = NOTHING
        threshold = max(worth + 1, NOTHING // 2 if above is None else above + 1)
        search = _Search.prepare(self, price, threshold, every=False)
        if isinstance(search, int):
            return Priced(max(search, worth), worth, saving, usage, masks)
        bound = search.run(stop, nodes)
        if self._slots is not None:  # the search itself does not know what room is within radius sets
            bound = max(threshold - 1, min(bound, self.bound(price)))
        if worth == NOTHING and bound < threshold and above is None:
            bound = NOTHING  # the search has ended and found nothing
        if search.worth >= threshold:
            worth, masks = search.worth, search.best_mask.copy()
            usage = self.usage(masks)
            saving = worth + int(price @ usage)
        return Priced(max(bound, worth), worth, saving, usage, masks, search.nodes)

    def plans(
        self,
        price: Int64,
        least: int,
        *,
        stop: Callable[[], bool] = no_stop,
        nodes: int | None = None,
        most: int | None = None,
    ) -> Plans | None:
        """Find all plans whose value at prices is at least ``least``, the best of each usage vector.

        Returns
        -------
        Plans or None
            None where the search was stopped, or there are more than ``most``.
        """
        if not len(self.experts):
            none = np.zeros((1, 0), dtype=np.int64)
            found = Plans(np.zeros(1, dtype=np.int64), np.zeros((1, self.n_servers), dtype=np.int64), none)
            return found if least <= 0 else found.take(np.zeros(1, dtype=np.bool_))
        search = _Search.prepare(self, price, least, every=True)
        if isinstance(search, int):
            none = np.zeros((0, len(self.experts)), dtype=np.int64)
            empty = Plans(np.zeros(0, dtype=np.int64), np.zeros((0, self.n_servers), dtype=np.int64), none)
            return empty if search == NOTHING else None
        search.run(stop, nodes, most)
        if search.state[0] != -2:
            return None
        count = int(search.state[2])
        usage = np.zeros((count, self.n_servers), dtype=np.int64)
        usage[:, self.servers] = search.plan_used[:count] * self.units
        return Plans(search.plan_worth[:count] + usage @ price, usage, search.plan_mask[:count].copy())

    def _masks(self) -> Bool:
        """Return which masks are worth looking at, bool [E', 2**N']: without servers that add nothing to a mask."""
        n_masks = 1 << len(self.servers)
        expert, reach = self._required
        asked = np.zeros((len(self.experts), len(self._radius) + len(np.unique(reach))), dtype=np.int64)
        inside = self._member >= 0
        rows = np.broadcast_to(self._term_radius[:, None], self._member.shape)[inside]
        asked[self._member[inside], rows] = self._radius[rows]
        asked[expert, len(self._radius) + np.unique(reach, return_inverse=True)[1]] = reach
        allowed: Bool
        if n_masks * asked.size * max(1, len(self.servers)) > self.tuning.most_mask_cells:
            allowed = np.ones((len(self.experts), n_masks), dtype=np.bool_)
        else:
            allowed = ~kernels().redundant(asked, len(self.servers))
        return allowed & self._covers if len(self._covers) else allowed

    def _loads(self, instance: Instance, items: slice, loads: Int64 | None) -> Int64:
        """Return what loading costs, scaled, int64 [E', N']; no rows where it is free."""
        loads = instance.load_block_ns if loads is None else loads
        if loads is None or not loads[self.servers, self.block].any():
            return np.zeros((0, len(self.servers)), dtype=np.int64)
        load = np.repeat(loads[None, self.servers, self.block] * self.scale, len(self.experts), axis=0)
        if instance.holds is not None:
            load[instance.holds[:, items][self.servers][:, self.experts].T] = 0
        return load

    def _covering(self) -> Bool:
        """Return which masks hit every reach set required of an expert, bool [E', 2**N']; no rows where none is."""
        masks, n_experts = np.arange(1 << len(self.servers)), len(self.experts)
        covers = np.ones((n_experts if len(self._required[0]) else 0, len(masks)), dtype=np.bool_)
        for expert, reach in zip(*(column.tolist() for column in self._required), strict=True):
            covers[expert] &= masks & reach > 0
        self.least_loading = 0
        if len(self._load) and len(covers):
            loading = self._mask_loads()
            least = np.where(covers, loading, np.iinfo(np.int64).max).min(axis=1)
            self.least_loading = sum(least[covers.any(axis=1)].tolist())
        return covers

    def _mask_loads(self) -> Int64:
        """Return what loading each expert onto each mask costs, int64 [E', 2**N']."""
        table = np.zeros((len(self._load), 1 << len(self.servers)), dtype=np.int64)
        for n, load in enumerate(self._load.T):
            table[:, 1 << n : 2 << n] = table[:, : 1 << n] + load[:, None]
        return table

    def _shared(self) -> None:
        """Turn parts into integer shares, and these into what is booked at the root."""
        if self._slots is None:
            self.odds = odds_codes(self._odds)
            code = self.odds[np.maximum(self._member, 0), self._term_radius[:, None]]
        else:
            code = odds_codes(self._part)
        # Shares of what is left once some members hit are made when a search needs them: they are many.
        self._shared_code: Int64 = code
        first = kernels().split_shares(self._weight, code, self._length, 1)
        self._mass: Int64 = kernels().first_mass(
            self._term_radius, self._member, self._length, first, len(self.experts), len(self._radius)
        )
        self._hit = self._mass
        if self._slots is not None:
            # Terms have parts of their own here; what comes nearest, for who verifies what a search has found.
            most = kernels().first_mass(
                self._term_radius, self._member, self._length, np.repeat(self._weight, self._member.shape[1])
                .reshape(first.shape), len(self.experts), len(self._radius),
            )  # fmt: skip
            self.odds = odds_codes(self._mass / np.maximum(1, most))
            self.slot_price = np.rint(self._slots.price).astype(np.int64)
            self._hit = kernels().room_mass(
                self._term_radius, self._member, self._length, first, self._beside, self._within,
                len(self.experts), len(self._radius),
            )  # fmt: skip

    def _shares(self) -> Int64:
        """Return what is booked with each member of a term once the first ones hit, int64 [T, K, K]."""
        shares: Int64 = kernels().split_shares(
            self._weight, self._shared_code, self._length, self._shared_code.shape[1]
        )
        return shares

    def _mask_price(self, price: Int64) -> Int64:
        """Return what a mask costs, the multipliers of the room included, int64 [2**N']."""
        table = np.zeros(1 << len(self.servers), dtype=np.int64)
        for n, p in enumerate((price[self.servers] * self.units + self.slot_price).tolist()):
            table[1 << n : 2 << n] = table[: 1 << n] + p
        return table

    def _values(self, price: Int64) -> Int64:
        """Return what each expert is worth on each mask, int64 [E', 2**N']; :data:`NOTHING` where it may not be."""
        values: Int64 = kernels().mask_values(self._hit, self._radius, self._mask_price(price))
        if len(self._load):
            values -= self._mask_loads()
        if len(self._covers):
            values[~self._covers] = NOTHING
        return values


def _requirements(instance: Instance, items: slice) -> tuple[Bool, Int64]:
    """Return the servers [C, N] and the expert [C] of each requirement of a layer."""
    if instance.coverage is None:
        return np.zeros((0, len(instance.servers)), dtype=np.bool_), np.zeros(0, dtype=np.int64)
    reach, expert = instance.coverage.of(items)
    return instance.coverage.reach[reach], expert.astype(np.int64)


class _SlotPrice:
    """Multipliers of a layer's room, moved as the engine moves its prices (:meth:`LayerProof.descend`)."""

    def __init__(self, room: Int64) -> None:
        self._room = room.astype(np.float64)
        self.price: Float = np.zeros(len(room))
        self._gain, self._last = np.full(len(room), 0.3), np.zeros(len(room))

    def move(self, used: Float, temperature: float, unit: float) -> None:
        """Take a step against what is used beyond the room, ``used [2, N']`` being its expectation and variance."""
        over = used[0] - self._room
        self._gain = np.clip(np.where(over * self._last >= 0, 1.2 * self._gain, 0.5 * self._gain), 1e-3, 1e3)
        self._last = over
        most = 0.05 * self.price + 0.02 * unit
        step = self._gain * over * (temperature * unit) / np.maximum(used[1], 1e-6)
        self.price = np.maximum(0, self.price + np.clip(step, -most, most))


@dataclass(eq=False)
class _Search:
    """The state of a depth-first search; see ``_layer_kernels.search``."""

    oracle: LayerOracle
    every: bool
    shares: Int64
    first: Int64
    mask: Int64
    price: Int64
    hits: Int64
    begin: Int64
    change: Int64
    pending: Int64
    long: tuple[Int64, Int64, Int64]
    state: Int64
    bounds: tuple[int, ...]
    arrays: dict[str, Int64] = field(default_factory=dict)

    @classmethod
    def prepare(cls, oracle: LayerOracle, price: Int64, threshold: int, every: bool) -> _Search | int:
        """Set a search up; return the bound (L1) alone where its tables would be too large."""
        n, n_radii = len(oracle.experts), len(oracle._radius)
        values = oracle._values(price)
        best = values.max(axis=1)
        if best.min() == NOTHING:
            return NOTHING
        whole = int(oracle.slot_price @ oracle.room)
        root = int(best.sum()) + whole
        # A mask that is so much worse than the expert's best is in no plan that is looked for.
        keep = (values >= threshold - root + best[:, None]) & oracle._allowed
        # Contiguous, as a single mask is by itself: the loops are compiled for one layout.
        owner, mask = map(np.ascontiguousarray, np.nonzero(keep))
        most_cells = oracle.tuning.most_cells
        if max(len(mask), n * n) * n_radii > most_cells:
            return root
        first = np.searchsorted(owner, np.arange(n + 1)).astype(np.int64)
        hits = -((mask[:, None] & oracle._radius) > 0).astype(np.int64)
        cells = np.where(len(mask) * n * n_radii <= most_cells, (n - 1 - owner) * n_radii, 0)
        begin = np.concatenate(([0], np.cumsum(cells))).astype(np.int64)
        pending, change = np.zeros(len(mask), dtype=np.int64), np.zeros(int(begin[-1]), dtype=np.int64)
        shares = oracle._shares()
        pair = oracle._length == 2
        if len(change):
            start, term, _ = _among_first(oracle, np.where(pair, 1, 0))
            kernels().pair_changes(
                oracle._radius, begin, mask, owner, start, term, oracle._term_radius, oracle._member,
                shares, n, change, pending,
            )  # fmt: skip
            long = _among_first(oracle, np.where(pair, 0, oracle._length - 1))
        else:
            long = _among_first(oracle, oracle._length - 1)
        state = np.array([-1, threshold, 0, threshold - 1], dtype=np.int64)
        cost = oracle._mask_price(price)[mask]
        if len(oracle._load):
            cost = cost + oracle._mask_loads()[owner, mask]
        search = cls(oracle, every, shares, first, mask, cost, hits, begin, change, pending, long, state, ())
        widest = int(np.diff(first).max(initial=0))
        servers = len(oracle.servers)
        shapes = {
            "mass": (n + 1, n, n_radii), "value": (n + 1,), "used": (n + 1, servers), "child": (n, widest),
            "child_bound": (n, widest), "children": (n, 2), "chosen": (n,), "best_mask": (n,), "nodes": (1,),
        }  # fmt: skip
        search.arrays = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}
        search.arrays["mass"][0] = oracle._mass
        search.arrays["value"][0] = whole
        search._grow(oracle.tuning.first_plans if every else 1)
        return search

    @property
    def worth(self) -> int:
        """What the best plan found is worth, below the first threshold where there is none."""
        return int(self.state[3])

    @property
    def best_mask(self) -> Int64:
        """The best plan found."""
        return self.arrays["best_mask"]

    @property
    def plan_worth(self) -> Int64:
        """What all plans found are worth."""
        return self.arrays["plan_value"]

    @property
    def plan_used(self) -> Int64:
        """Their usage vectors."""
        return self.arrays["plan_used"]

    @property
    def plan_mask(self) -> Int64:
        """Their masks."""
        return self.arrays["plan_mask"]

    @property
    def nodes(self) -> int:
        """Inner nodes looked at."""
        return int(self.arrays["nodes"][0])

    def run(self, stop: Callable[[], bool], nodes: int | None, most: int | None = None) -> int:
        """Search until it ends by itself or is stopped; return what no plan exceeds."""
        oracle, a = self.oracle, self.arrays
        kernel = kernels()
        left, chunk = nodes, oracle.tuning.chunk
        tight = oracle._slots is not None or len(oracle._covers) > 0
        while True:
            budget = chunk if left is None else min(chunk, left)
            status = kernel.search(
                oracle._radius, oracle._term_radius, oracle._member, oracle._length, self.shares, *self.long,
                self.first, self.mask, self.price, self.hits, self.begin, self.change, self.pending, oracle.room,
                oracle.slot_price,
                self.state, a["mass"], a["value"], a["used"], a["child"], a["child_bound"], a["children"], a["chosen"],
                a["best_mask"], a["nodes"], a["table"], a["key"], a["plan_value"], a["plan_used"], a["plan_mask"],
                hash_salt(len(oracle.room)), self.every, tight, budget,
            )  # fmt: skip
            if status == kernel.FINISHED:
                return self.worth
            if status == kernel.FULL:
                if most is not None and self.state[2] >= most:
                    break
                self._grow(4 * len(a["key"]))
                continue
            if left is not None:
                left -= budget
            if stop() or left == 0:
                break
        open_bounds = [
            int(a["child_bound"][d, a["children"][d, 0]])
            for d in range(int(self.state[0]) + 1)
            if a["children"][d, 0] < a["children"][d, 1]
        ]
        return max([self.worth, *open_bounds])

    def _grow(self, entries: int) -> None:
        """Make room for more plans."""
        oracle, a, count = self.oracle, self.arrays, int(self.state[2])
        shapes: dict[str, tuple[int, ...]] = {
            "key": (entries,), "plan_value": (entries,), "plan_used": (entries, len(oracle.servers)),
            "plan_mask": (entries, len(oracle.experts)),
        }  # fmt: skip
        for name, shape in shapes.items():
            larger = np.zeros(shape, dtype=np.int64)
            if name in a:
                larger[:count] = a[name][:count]
            a[name] = larger
        a["table"] = np.full(2 * entries, -1, dtype=np.int64)
        kernels().rehash(a["key"], count, a["table"])


def _among_first(oracle: LayerOracle, places: npt.NDArray[np.int64]) -> tuple[Int64, Int64, Int64]:
    """List, for each expert, the terms where it is among the first ``places`` members, and at which place."""
    term, place = np.nonzero(np.arange(oracle._member.shape[1])[None, :] < places[:, None])
    expert = oracle._member[term, place]
    order = np.argsort(expert, kind="stable")
    start = np.searchsorted(expert[order], np.arange(len(oracle.experts) + 1)).astype(np.int64)
    return start, term[order].astype(np.int64), place[order].astype(np.int64)
