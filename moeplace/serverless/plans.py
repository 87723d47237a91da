"""Plans of one layer: remote experts, their specification and their replicas, with what does not depend on the rest.

What a plan costs depends on the main function's specification w in two ways only: how fast local experts are and what
the main function's time costs. So a layer's plans are listed once, and valued for each w by whole arrays.

With few experts *all* plans are listed: every set, every specification, and for each number of replicas the split whose
slowest replica is fastest (by dynamic programming over sets). Of two plans of one set the one that is nowhere better,
in its slowest replica, its time per output token and its own cost, is dropped: it is nowhere better for any w. With
many experts plans are made by whoever asks, their replicas by LPT (Graham 1969): the slowest of z replicas is within
``4/3 - 1/(3z)`` of the fastest possible one where payloads do not bind; that is all that is known of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int64
from moeplace.serverless.cost import largest_cost, main_price, remote_decode_ns, remote_prefill_ns
from moeplace.serverless.document import MB, LayerChoice
from moeplace.serverless.instance import Instance

KERNELS: Final = ("moeplace.serverless._plan_kernels",)

MOST_LISTED: Final = 16
"""Experts of a layer above which no list of all sets is made, whatever is asked for: splits take ``3**E`` steps."""

NEVER: Final = 1 << 62
"""Costs below this are held in int64."""


def kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second and most commands never need it."""
    from moeplace.serverless import _plan_kernels

    return _plan_kernels


@dataclass(frozen=True, eq=False)
class LayerTables:
    """One layer in arrays (``V`` remote specifications).

    Attributes
    ----------
    instance : Instance
    layer : int
    work : int64 array [V, E]
        What each expert adds to its replica's time at each remote specification, ns.
    each : int64 array [V]
        Time of one remote expert for one output token, ns.
    amounts : type
        What arrays of costs hold: int64, or Python's integers where a deployment may cost too much for it.
    """

    instance: Instance
    layer: int
    work: Int64
    each: Int64
    amounts: type

    @property
    def tokens(self) -> Int64:
        """Prompt tokens of each expert, [E]."""
        own: Int64 = self.instance.prefill[self.layer]
        return own

    @cached_property
    def order(self) -> Int64:
        """Experts in falling work, which is the same at all specifications, [E]."""
        order: Int64 = np.argsort(-self.tokens, kind="stable").astype(np.int64)
        return order

    @cached_property
    def fitting(self) -> Fitting:
        """What remote functions hold."""
        instance = self.instance
        platform, size, token = instance.platform, instance.model.expert_bytes, instance.model.token_bytes
        need = (size + token * self.tokens).astype(np.int64)
        memory = [MB * instance.specs[v].mb for v in instance.remote_specs]
        allowed = np.array([(need <= m) & (self.tokens <= self.room) for m in memory], dtype=np.bool_)
        allowed = allowed.reshape(len(memory), instance.experts)
        most = np.zeros((len(memory), min(platform.most_replicas, instance.experts)), dtype=np.int64)
        for v, (m, own) in enumerate(zip(memory, allowed, strict=True)):
            held = int((np.cumsum(np.sort(need[own])) <= m).sum())
            passed = np.cumsum(np.sort(self.tokens[own]))
            for z in range(most.shape[1]):
                most[v, z] = min(held, int((passed <= (z + 1) * self.room).sum()))
        return Fitting(allowed, most)

    @cached_property
    def memory(self) -> Int64:
        """Bytes of each remote specification, [V]."""
        return np.array([MB * self.instance.specs[v].mb for v in self.instance.remote_specs], dtype=np.int64)

    @cached_property
    def busy_price(self) -> npt.NDArray[np.float64]:
        """What a ns of each remote specification costs, [V], price units, rounded: for choosing only."""
        price = [self.instance.platform.cpu_price * self.instance.specs[v].mb for v in self.instance.remote_specs]
        return np.array([float(own) for own in price])

    @cached_property
    def room(self) -> int:
        """Prompt tokens that one replica's payload holds."""
        return self.instance.platform.payload_bytes // self.instance.model.token_bytes

    @cached_property
    def first_base(self) -> int:
        """What ``PT_l`` has beside the experts, ns."""
        return self.instance.platform.other_prefill_ns[self.layer] + self.instance.platform.switch_prefill_ns

    @cached_property
    def every_base(self) -> int:
        """What ``GT_l`` has beside the experts, ns."""
        platform = self.instance.platform
        return self.instance.request.tokens_out * (platform.other_decode_ns[self.layer] + platform.switch_decode_ns)


@dataclass(frozen=True, eq=False)
class Fitting:
    """What the remote functions of a layer hold, whatever else is chosen.

    Attributes
    ----------
    allowed : bool array [V, E]
        Whether an expert fits the memory, and its prompt tokens a payload, by itself.
    most : int64 array [V, Z]
        How many experts fit the memory and the payloads of ``z + 1`` replicas at the most: the smallest of them.
    """

    allowed: Bool
    most: Int64


def layer_tables(instance: Instance) -> list[LayerTables]:
    """Return the tables of every layer."""
    amounts = np.int64 if largest_cost(instance) < NEVER else object
    each = np.array([remote_decode_ns(instance, v) for v in instance.remote_specs], dtype=np.int64)
    shape, result = (len(instance.remote_specs), instance.experts), []
    for layer in range(instance.layers):
        tokens = instance.prefill[layer].tolist()
        work = [[remote_prefill_ns(instance, v, n) for n in tokens] for v in instance.remote_specs]
        result.append(LayerTables(instance, layer, np.array(work, dtype=np.int64).reshape(shape), each, amounts))
    return result


@dataclass(frozen=True, eq=False)
class LayerPlans:
    """Plans of one layer (``P`` of them; the first has no remote experts).

    Attributes
    ----------
    tables : LayerTables
    spec : int64 array [P]
        Position among the remote specifications, -1 without remote experts.
    part : int8 array [P, E]
        Replica of each expert, -1 for a local one.
    slowest, busy : int64 array [P]
        Time of the slowest replica in the prefill, and of all remote work together, ns.
    kinds : int64 array [P, Q]
        Output tokens by kind; ``kind [Q, 2]``: how many experts, how many of them remote.
    """

    tables: LayerTables
    spec: Int64
    part: npt.NDArray[np.int8]
    slowest: Int64
    busy: Int64
    kinds: Int64
    kind: Int64

    @classmethod
    def of(
        cls, tables: LayerTables, spec: Int64, part: npt.NDArray[np.int8], slowest: Int64, busy: Int64
    ) -> LayerPlans:
        """Count the tokens of plans."""
        rows = tables.instance.rows[tables.layer]
        sizes = sorted(set(rows.size.tolist()))
        kind = [(k, n) for k in sizes for n in range(k + 1)]
        column = np.zeros((max(sizes) + 1, max(sizes) + 1), dtype=np.int64)
        for at, (k, n) in enumerate(kind):
            column[k, n] = at
        kinds = kernels().histograms(rows.start, rows.expert, rows.count, part >= 0, column, len(kind))
        return cls(tables, spec.astype(np.int64), part, slowest, busy, kinds, np.array(kind, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.spec)

    def choice(self, plan: int) -> LayerChoice:
        """Return a plan as a deployment has it."""
        if self.spec[plan] < 0:
            return LayerChoice(None, [])
        parts = self.part[plan]
        replicas = [np.flatnonzero(parts == j).tolist() for j in range(int(parts.max()) + 1)]
        return LayerChoice(self.tables.instance.remote_specs[int(self.spec[plan])], sorted(replicas))

    @cached_property
    def _local(self) -> tuple[Int64, Int64, Int64]:
        """Local experts, those with prompt tokens, and their prompt tokens, of each plan."""
        local = (self.part < 0).astype(np.int64)
        tokens = self.tables.tokens
        return local.sum(axis=1), local @ (tokens > 0).astype(np.int64), local @ tokens

    def valued(self, main: int) -> Valued:
        """Return times, bytes and costs of all plans where the main function has the specification ``main``."""
        tables, instance = self.tables, self.tables.instance
        own, (held, busy, tokens) = instance.specs[main], self._local
        first = tables.first_base + np.maximum(self.slowest, own.prefill_ns * busy + own.prefill_ns_per_token * tokens)
        each = np.append(tables.each, 0)[self.spec]
        every = np.full(len(self), tables.every_base, dtype=np.int64)
        for column, (size, far) in enumerate(self.kind.tolist()):
            every += self.kinds[:, column] * np.maximum((size - far) * own.decode_ns, far * each)
        kind = tables.amounts
        price = [*(instance.platform.cpu_price * instance.specs[v].mb for v in instance.remote_specs), 0]
        cost = (first + every).astype(kind) * main_price(instance, main)
        cost += np.array(price, dtype=kind)[self.spec] * self.busy.astype(kind)
        return Valued(cost, np.stack((first, every, held * instance.model.expert_bytes), axis=1))


@dataclass(frozen=True, eq=False)
class Valued:
    """What plans come to at one main specification.

    Attributes
    ----------
    cost : int64 array [P]
        Price units; of Python's integers where int64 does not suffice.
    usage : int64 array [P, 3]
        ``PT_l`` and ``GT_l``, ns, and bytes of local experts.
    """

    cost: npt.NDArray[Any]
    usage: Int64


def all_plans(tables: LayerTables) -> LayerPlans:
    """Return all plans of a layer that may be in a best deployment, whatever the main specification is.

    Raises
    ------
    ValueError
        There are more than :data:`MOST_LISTED` experts.
    """
    instance, kernel = tables.instance, kernels()
    experts, platform = instance.experts, instance.platform
    if experts > MOST_LISTED:
        raise ValueError(f"{experts} experts are too many for all sets")
    masks = np.arange(1 << experts, dtype=np.int64)
    member = (masks[:, None] >> np.arange(experts) & 1).astype(np.int64)
    need = member.sum(axis=1) * instance.model.expert_bytes + member @ tables.tokens * instance.model.token_bytes
    decoded = member @ instance.decoded[tables.layer]
    most = min(platform.most_replicas, experts)
    mask, spec, part = [np.zeros(1, dtype=np.int64)], [np.full(1, -1)], [np.full((1, experts), -1, dtype=np.int8)]
    slowest, busy = [np.zeros(1, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    for v, index in enumerate(instance.remote_specs):
        best, first = kernel.makespans(tables.work[v], tables.tokens, tables.room, most)
        found, parts, own = kernel.candidates(best, first, need <= MB * instance.specs[index].mb, experts)
        mask.append(found)
        spec.append(np.full(len(found), v))
        part.append(own)
        slowest.append(platform.invoke_ns + best[parts, found])
        busy.append(parts * platform.invoke_ns + member[found] @ tables.work[v] + decoded[found] * tables.each[v])
    joined = [np.concatenate(column) for column in (mask, spec, part, slowest, busy)]
    order = np.argsort(joined[0], kind="stable")
    mask_, spec_, part_, slowest_, busy_ = (column[order] for column in joined)
    start = np.flatnonzero(np.concatenate(([True], mask_[1:] != mask_[:-1], [True])))
    each = np.append(tables.each, 0)[spec_]
    mb = np.array([*(instance.specs[v].mb for v in instance.remote_specs), 0], dtype=object)[spec_]
    price = np.unique(mb * busy_.astype(object), return_inverse=True)[1].astype(np.int64)  # ranks are enough
    keep = kernel.undominated(start, slowest_, each, price)
    return LayerPlans.of(tables, spec_[keep], part_[keep], slowest_[keep], busy_[keep])


def plans_of_sets(tables: LayerTables, remote: Bool) -> LayerPlans:
    """Return the plans of some remote sets, at every specification and number of replicas, split by LPT.

    Parameters
    ----------
    tables : LayerTables
    remote : bool array [S, E]
        All different; empty sets are passed over. The plan without remote experts comes first.
    """
    instance, kernel = tables.instance, kernels()
    most = instance.platform.most_replicas

    def run(fill: bool, spec: Int64, part: npt.NDArray[np.int8], longest: Int64) -> int:
        made: int = kernel.plans_of_sets(
            remote, tables.order, tables.tokens, tables.work, tables.room, tables.memory, instance.model.expert_bytes,
            instance.model.token_bytes, min(most, instance.experts), fill, spec, part, longest,
        )  # fmt: skip
        return made

    none = np.zeros(0, dtype=np.int64)
    n = run(False, none, np.zeros((0, instance.experts), dtype=np.int8), none)
    spec, longest = np.full(n + 1, -1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    part = np.full((n + 1, instance.experts), -1, dtype=np.int8)
    run(True, spec[1:], part[1:], longest[1:])
    away = part >= 0
    each, invoke = np.append(tables.each, 0)[spec], instance.platform.invoke_ns
    parts = part.max(axis=1).astype(np.int64) + 1
    work = np.append(tables.work, np.zeros((1, instance.experts), dtype=np.int64), axis=0)[spec]
    busy = parts * invoke + (work * away).sum(axis=1) + (away @ instance.decoded[tables.layer]) * each
    return LayerPlans.of(tables, spec, part, longest + np.where(parts > 0, invoke, 0), busy)


@dataclass(frozen=True, eq=False)
class Chosen:
    """One plan of a layer at one main specification, all its numbers exact.

    Attributes
    ----------
    remote : bool array [E]
    away : int
        How many are remote.
    spec : int or None
        Index of the specification of the remote ones.
    part : int8 array [E]
        Each expert's replica, -1 where it is local.
    first, every : int
        ``PT_l`` and ``GT_l``, ns.
    remote_cost : int
        Price units.
    """

    remote: Bool
    away: int
    spec: int | None
    part: npt.NDArray[np.int8]
    first: int
    every: int
    remote_cost: int

    @property
    def choice(self) -> LayerChoice:
        """The plan as it is written; most plans never are."""
        parts = range(int(self.part.max()) + 1)
        return LayerChoice(self.spec, [np.flatnonzero(self.part == j).tolist() for j in parts])


def choose(tables: LayerTables, remote: Bool, main: int, first_price: float, every_price: float) -> Chosen | None:
    """Return the plan of a remote set that costs least, by LPT, at prices of the two times; None where none fits.

    Parameters
    ----------
    tables : LayerTables
    remote : bool array [E]
    main : int
    first_price, every_price : float
        What a ns of ``PT_l`` and of ``GT_l`` is worth, price units. Only the choice depends on them.
    """
    instance, own = tables.instance, tables.instance.specs[main]
    platform, rows = instance.platform, instance.rows[tables.layer]
    part, found = np.full(len(remote), -1, dtype=np.int8), np.zeros(6, dtype=np.int64)
    kernels().fastest_choice(
        remote, tables.order, tables.tokens, rows.start, rows.expert, rows.count, tables.work, tables.each,
        tables.busy_price, tables.room, tables.memory, instance.model.expert_bytes, instance.model.token_bytes,
        platform.invoke_ns, own.prefill_ns, own.prefill_ns_per_token, own.decode_ns, first_price, every_price,
        platform.most_replicas, part, found,
    )  # fmt: skip
    v, away, first, every, busy, fits = found.tolist()
    if not fits:
        return None
    spec = None if away == 0 else instance.remote_specs[v]
    dear = 0 if spec is None else platform.cpu_price * instance.specs[spec].mb * busy
    return Chosen(remote, away, spec, part, tables.first_base + first, tables.every_base + every, dear)
