"""Rules for servers that collaborate: who holds what where an expert that is not at home is called on another server.

They come from systems that serve Mixture-of-Experts models on several machines, and are what those are compared
with: ``uniform`` and ``redundant`` deal experts out, ``balanced`` replicates by load, ``two-stage`` follows DanceMoE.
All count requests (how often the users of a machine ask for an expert) and look at no latency and no loading; none
guarantees more than that it fits and, where demands have no cloud, holds every expert that must be somewhere.

Servers that are equally far from everybody are the GPUs of one *machine*: rules decide for machines, whose experts are
then packed on its GPUs. What a rule leaves without a place, by unequal sizes, slots or users who do not reach
everything, is repaired: a cover of least loss comes first (:func:`moeplace.caching.heuristics.covering.cover`), then
what the rule wants and still fits; ``details`` say how many requirements it had not met (``repaired``).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cached_property

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, ProgressCallback
from moeplace.base.stop import Stop, stopping
from moeplace.caching.heuristics.covering import cover
from moeplace.caching.heuristics.servers import fill, requests_by_server
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement

ENTROPY_UNIT = 2**20
"""Entropies are rounded to this part of a nat, so that what is decided by them is the same everywhere."""


class _Machines:
    """The machines of an instance (``K`` of them), what they still have room for, and what is held so far.

    Unless they are taken ``together``, each server is a machine of its own.
    """

    def __init__(self, instance: Instance, together: bool = True) -> None:
        self.instance = instance
        alike: dict[object, list[int]] = {}
        for n in range(len(instance.servers)):
            times = instance.server_ns[:, n].tobytes()
            alike.setdefault(times if together and times else n, []).append(n)
        self.servers = list(alike.values())
        self.machine = {n: k for k, servers in enumerate(self.servers) for n in servers}
        self.held = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
        self.free = instance.capacity_bytes.copy()
        self.of_block = np.zeros((len(instance.servers), instance.n_blocks), dtype=np.int64)

    @cached_property
    def use(self) -> Int64:
        """How often the users of each machine ask for each item, tokens, int64 [K, I]."""
        by_server = requests_by_server(self.instance).astype(np.int64)
        return np.array([by_server[servers].sum(axis=0) for servers in self.servers]).reshape(-1, self.instance.n_items)

    @cached_property
    def order(self) -> list[list[int]]:
        """The items that each machine's users ask for, most often per byte first, then lower item."""
        size = self.instance.item_bytes
        return [
            [i for i in np.argsort(-use / size, kind="stable").tolist() if use[i]] for use in self.use
        ]  # fmt: skip

    @cached_property
    def needed(self) -> list[int]:
        """The items that must be somewhere; none where everybody has a cloud."""
        coverage = self.instance.coverage
        return [] if coverage is None else np.unique(coverage.item).tolist()

    def holds(self, k: int, item: int) -> bool:
        """Return whether some GPU of a machine holds an item."""
        return bool(self.held[self.servers[k], item].any())

    def nowhere(self) -> list[int]:
        """Return the items of :attr:`needed` that are on no machine."""
        return [i for i in self.needed if not self.held[:, i].any()]

    def room(self, k: int, item: int) -> int:
        """Return the GPU of a machine on which an item goes, the one with most free bytes; -1 where it fits on none."""
        size, block = int(self.instance.item_bytes[item]), int(self.instance.item_block[item])
        fitting = [
            n for n in self.servers[k]
            if self.free[n] >= size and self.of_block[n, block] < self.instance.layer_slots[n]
        ]  # fmt: skip
        return max(fitting, key=lambda n: (int(self.free[n]), -n), default=-1)

    def put(self, k: int, item: int) -> bool:
        """Put an item on a machine that has it not, if it fits; say whether it did."""
        if self.holds(k, item) or (n := self.room(k, item)) < 0:
            return False
        self._change(n, item, 1)
        return True

    def drop(self, k: int, item: int) -> None:
        """Take an item off a machine."""
        for n in self.servers[k]:
            if self.held[n, item]:
                self._change(n, item, -1)

    def _change(self, n: int, item: int, sign: int) -> None:
        self.held[n, item] = sign > 0
        self.free[n] -= sign * int(self.instance.item_bytes[item])
        self.of_block[n, int(self.instance.item_block[item])] += sign

    def deal(self, items: Iterable[int]) -> None:
        """Deal items out, one each, to the machines in turn; one without room is passed over."""
        at = 0
        for item in items:
            for step in range(len(self.servers)):
                if self.put((at + step) % len(self.servers), item):
                    at += step + 1
                    break

    def outcome(self, stop: Stop) -> Outcome:
        """Return what is held, repaired where it does not cover."""
        placement = Placement(self.held)
        missing = len(placement.uncovered(self.instance))
        if missing:
            # A wanted expert is worth more to the cover than any that is not.
            wanted = self.held * (1 + int(self.use.max(initial=0)))
            value = np.array([self.use[self.machine[n]] for n in range(len(self.held))]).reshape(self.held.shape)
            cached = cover(self.instance, stop, value + wanted).cached.copy()
            for n in range(len(cached)):
                order = np.argsort(-value[n], kind="stable")
                fill(cached[n], order[self.held[n, order]], self.instance, n)
            placement = Placement(cached)
        return Outcome(placement, termination=stop.termination, details={"repaired": missing})


_LIMITS = "looks at no latency; with unequal sizes or slots it may have to be repaired (details: repaired)"


@describe(
    MethodInfo(
        summary="Deals the experts out to the servers, one copy each.", limits=_LIMITS, seeded=lambda parameters: False
    )
)
def uniform(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Deal the experts out in order, one to each machine in turn, and leave the rest of the storage empty.

    Dealt out is what must be somewhere and what somebody asks for. Ignores ``start``.
    """
    with stopping(time_limit) as stop:
        machines = _Machines(instance)
        asked = np.flatnonzero(machines.use.any(axis=0)).tolist()
        machines.deal(sorted({*machines.needed, *asked}))
        return machines.outcome(stop)


@describe(
    MethodInfo(
        summary="Servers take what their own users ask for most while the rest still fits, which is then dealt out.",
        limits=_LIMITS,
        seeded=lambda parameters: False,
    )
)
def redundant(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Let the machines, in turn, take the next expert that their own users ask for most often per byte.

    Where demands have no cloud, a machine takes one only while the bytes and slots that are left on all machines
    together suffice for all experts that are nowhere yet; these are then dealt out, largest first. Ignores ``start``.
    """
    with stopping(time_limit) as stop:
        machines = _Machines(instance)
        size = instance.item_bytes.tolist()
        needed = set(machines.needed)
        spare = sum(machines.free.tolist()) - sum(size[i] for i in needed)
        block = instance.item_block.tolist()
        all_slots = sum(instance.layer_slots.tolist())
        in_layer = np.bincount(instance.item_block[machines.needed], minlength=instance.n_blocks).tolist()
        spare_slots = [all_slots - number for number in in_layer]
        queues = {k: iter(order) for k, order in enumerate(machines.order)}
        while queues and not stop:
            for k, queue in list(queues.items()):
                for item in queue:
                    copy = item not in needed
                    if copy and (size[item] > spare or spare_slots[block[item]] < 1):
                        continue
                    if machines.put(k, item):
                        needed.discard(item)
                        spare -= size[item] * copy
                        spare_slots[block[item]] -= copy
                        break
                else:
                    del queues[k]
        machines.deal(sorted(machines.nowhere(), key=lambda i: (-size[i], i)))
        return machines.outcome(stop)


@describe(
    MethodInfo(
        summary="Copies of an expert by its load, packed on the least loaded servers (after EPLB).",
        limits=_LIMITS,
        seeded=lambda parameters: False,
    )
)
def balanced(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Balance the load of the servers, whoever asks: DeepSeek's expert-parallelism load balancer, by its description.

    A server has about equally many slots in every layer. In each layer the next copy goes to the expert with the
    largest load of a copy (:func:`copies`); the copies are then packed, largest load first, on the least loaded server
    that has a slot and not that expert. Every server counts alone, GPUs of one machine as well. Ignores ``start``.
    """
    with stopping(time_limit) as stop:
        machines = _Machines(instance, together=False)
        total = machines.use.sum(axis=0)
        needed = np.zeros(instance.n_items, dtype=np.bool_)
        needed[machines.needed] = True
        slots = _even_slots(instance, machines.use.any(axis=0) | needed)
        for b in range(instance.n_blocks):
            if stop:
                break
            first, last = int(instance.block_start[b]), int(instance.block_start[b + 1])
            of_block = (total[first:last] > 0) | needed[first:last]
            items = [first + int(e) for e in np.flatnonzero(of_block)]
            left = slots[:, b].tolist()
            number = copies([int(total[i]) for i in items], sum(left), sum(room > 0 for room in left))
            parts = [(Fraction(int(total[i]), c), i) for i, c in zip(items, number, strict=True) for _ in range(c)]
            load = [Fraction(0)] * len(left)
            for part, item in sorted(parts, key=lambda one: (-one[0], one[1])):
                free = [n for n, room in enumerate(left) if room and not machines.held[n, item]]
                for n in sorted(free, key=lambda n: (load[n], -left[n], n)):
                    if machines.put(n, item):
                        left[n] -= 1
                        load[n] += part
                        break
        return machines.outcome(stop)


def copies(loads: Sequence[int], slots: int, most: int) -> list[int]:
    """Return how many copies each expert gets: one each, the largest loads first, then the largest load of a copy next.

    Parameters
    ----------
    loads : sequence of int
        Of the experts of a layer, at least 0.
    slots : int
        Copies in all.
    most : int
        Copies of one expert.

    Returns
    -------
    list of int
        With ``slots`` for one copy each, no other numbers have a smaller largest load of a copy.
    """
    number = [0] * len(loads)
    if most <= 0:
        return number
    by_load = sorted(range(len(loads)), key=lambda e: (-loads[e], e))
    for e in by_load[:slots]:
        number[e] = 1
    queue = [(Fraction(-loads[e]), e) for e in by_load[:slots] if loads[e] and most > 1]
    heapq.heapify(queue)
    for _ in range(slots - sum(number)):
        if not queue:
            break
        _, e = heapq.heappop(queue)
        number[e] += 1
        if number[e] < most:
            heapq.heappush(queue, (Fraction(-loads[e], number[e]), e))
    return number


def _even_slots(instance: Instance, asked: Bool) -> Int64:
    """Return the slots of each server for each layer that anybody asks for, [N, B]: equally many, then by turns."""
    experts = np.add.reduceat(asked, instance.block_start[:-1], dtype=np.int64).tolist() if instance.n_blocks else []
    size = instance.item_bytes[instance.block_start[:-1]].tolist()
    slots = np.zeros((len(instance.servers), instance.n_blocks), dtype=np.int64)
    for n, free in enumerate(instance.capacity_bytes.tolist()):
        most = [min(count, int(instance.layer_slots[n])) for count in experts]
        open_layers = [b for b, count in enumerate(most) if count]
        while open_layers:
            still = []
            for b in open_layers:
                if size[b] <= free and slots[n, b] < most[b]:
                    slots[n, b] += 1
                    free -= size[b]
                    still.append(b)
            open_layers = still
    return slots


@describe(
    MethodInfo(
        summary="Slots by the entropy of requests, own most used experts, missing for duplicates (after DanceMoE).",
        limits=_LIMITS,
        seeded=lambda parameters: False,
    )
)
def two_stage(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    entropy: bool = True,
    balance: bool = True,
    replace: bool = True,
) -> Outcome:
    """Share the storage of each machine among the layers, then choose experts: the placement of DanceMoE.

    After arXiv 2508.12851, as its abstract and others restate it; what they leave open is ours. Ignores ``start``.

    1. A machine shares its storage among the layers in proportion to the entropy of what its users ask for there.
       While a layer has fewer slots on all machines than experts that must be somewhere, machines give it slots of
       layers that have more, the largest machine first.
    2. Each machine takes the experts that its users ask for most. Experts that are nowhere then go where there is room,
       else in the place of the duplicate of their layer that its machine's users ask for least.

    Parameters
    ----------
    entropy : bool
        Share by entropy; otherwise evenly.
    balance : bool
        Move slots to layers that have too few.
    replace : bool
        Put experts that are nowhere in the place of duplicates; otherwise they are left to the repair.
    """
    with stopping(time_limit) as stop:
        machines = _Machines(instance)
        quotas = _Quotas(machines, entropy)
        if balance:
            quotas.balance()
        for k, use in enumerate(machines.use):
            for b in range(instance.n_blocks):
                first, last = int(instance.block_start[b]), int(instance.block_start[b + 1])
                order = np.argsort(-use[first:last], kind="stable")[: quotas.count[k, b]]
                for e in order[use[first:last][order] > 0].tolist():
                    machines.put(k, first + e)
        if replace:
            _replace(machines)
        return machines.outcome(stop)


class _Quotas:
    """How many experts of each layer each machine takes: ``count`` [K, B]."""

    def __init__(self, machines: _Machines, entropy: bool) -> None:
        instance = machines.instance
        self.machines = machines
        self.size = instance.item_bytes[instance.block_start[:-1]].tolist()
        self.need = np.bincount(instance.item_block[machines.needed], minlength=instance.n_blocks).tolist()
        self.free = [sum(instance.capacity_bytes[servers].tolist()) for servers in machines.servers]
        self.capacity = list(self.free)
        experts = np.diff(instance.block_start).tolist()
        slots = [sum(instance.layer_slots[servers].tolist()) for servers in machines.servers]
        self.most = [[min(count, limit) for count in experts] for limit in slots]
        self.count = np.zeros((len(slots), instance.n_blocks), dtype=np.int64)
        for k, use in enumerate(machines.use):
            weight = [
                _entropy(use[int(a) : int(b)]) if entropy else 1 for a, b in itertools.pairwise(instance.block_start)
            ]
            self._share(k, weight if any(weight) else [1] * len(weight))

    def _share(self, k: int, weight: list[int]) -> None:
        """Give layers what their weights entitle them to, rounded down; then what is left to whom most is owed."""
        due = [Fraction(self.capacity[k] * w, sum(weight) * size) for w, size in zip(weight, self.size, strict=True)]
        for b, share in enumerate(due):
            self._add(k, b, min(int(share), self.most[k][b]))
        owed = [(self.count[k, b] - share, b) for b, share in enumerate(due)]
        heapq.heapify(owed)
        while owed:
            behind, b = heapq.heappop(owed)
            if self._fits(k, b):
                self._add(k, b, 1)
                heapq.heappush(owed, (behind + 1, b))

    def _fits(self, k: int, b: int) -> bool:
        return bool(self.size[b] <= self.free[k] and self.count[k, b] < self.most[k][b])

    def _add(self, k: int, b: int, number: int) -> None:
        self.count[k, b] += number
        self.free[k] -= number * self.size[b]

    def balance(self) -> None:
        """Give layers with fewer slots than experts that must be somewhere the slots of layers that have more."""
        largest_first = sorted(range(len(self.capacity)), key=lambda k: (-self.capacity[k], k))
        total = self.count.sum(axis=0).tolist()
        for b, need in enumerate(self.need):
            for k in largest_first:
                while total[b] < need and self.count[k, b] < self.most[k][b]:
                    if self._fits(k, b):
                        self._add(k, b, 1)
                        total[b] += 1
                        continue
                    surplus = [(total[a] - self.need[a], -a) for a in range(len(total)) if a != b and self.count[k, a]]
                    most, giver = max(surplus, default=(0, 0))
                    if most <= 0:
                        break
                    self._add(k, -giver, -1)
                    total[-giver] -= 1


def _entropy(use: Int64) -> int:
    """Return the entropy of requests for the experts of a layer, in parts of :data:`ENTROPY_UNIT`."""
    counts = use[use > 0].tolist()
    total = sum(counts)
    return round(ENTROPY_UNIT * -math.fsum(c / total * math.log(c / total) for c in counts)) if counts else 0


def _replace(machines: _Machines) -> None:
    """Place what is nowhere: where there is room, else for the least used duplicate of its layer."""
    instance, use = machines.instance, machines.use
    for item in sorted(machines.nowhere(), key=lambda i: (-int(use[:, i].sum()), i)):
        open_to = [k for k in range(len(use)) if machines.room(k, item) >= 0]
        if open_to:
            machines.put(max(open_to, key=lambda k: (int(use[k, item]), -k)), item)
            continue
        b = int(instance.item_block[item])
        layer = slice(int(instance.block_start[b]), int(instance.block_start[b + 1]))
        held = np.array([machines.held[servers][:, layer].any(axis=0) for servers in machines.servers])
        k, e = np.nonzero(held & (held.sum(axis=0) > 1))
        if len(k):
            least = int(np.lexsort((e, k, use[:, layer][k, e]))[0])
            machines.drop(int(k[least]), layer.start + int(e[least]))
            machines.put(int(k[least]), item)
