"""Greedy: the expert on the server that saves most, again and again."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.documents import INT64_MAX
from moeplace.base.errors import InputError, MethodLimitError
from moeplace.base.registry import MethodInfo, describe
from moeplace.base.result import Outcome, Progress, ProgressCallback
from moeplace.base.stop import Stop, stopping
from moeplace.caching.heuristics.servers import useful_servers
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import KERNELS, SavingForm, held_by, saving_form


@dataclass(frozen=True)
class Tuning:
    """What is refused.

    Attributes
    ----------
    most_starts : int
        Starting sets that ``enumerate`` may try.
    """

    most_starts: int = 50_000


USUAL = Tuning()
"""What is used unless something else is asked for."""


@describe(
    MethodInfo(
        imports=KERNELS,
        seeded=lambda parameters: False,
        summary="Adds the expert and server of largest saving, or saving per byte, one by one; lazily where exact.",
        guarantee="top-1 or sum, a cloud, free loading; by servers, sizes and slots: 1 - 1/e, (1 - 1/e)/2 or 1/2"
        " of the best saving; else none",
        limits="top-2 and more under max: experts that only help together are not seen",
    )
)
def greedy(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
    enumerate: int = 0,
    lazy: bool = True,
) -> Outcome:
    """Add the most useful expert that still fits until no more fits; the best of a few such runs.

    One run takes the largest gain (so the best single expert comes first), one the largest gain per byte. With
    ``enumerate`` = k, runs by gain per byte begin with every set of at most k experts on servers that fits, too.

    Parameters
    ----------
    enumerate : int
        Largest starting sets that are all tried, 0 to 3.
    lazy : bool
        Compute again only gains that may have changed: where the saving is submodular, those that come to the top of a
        priority queue (Minoux 1978; CELF), otherwise those of the layer that changed. False computes all gains in
        every step. The placement is the same.

    Notes
    -----
    Ties go to the lower server, then the lower item. Where rows ask for several experts, those that gain nothing are
    added as well, since they may gain together with the next: nothing else gets greedy anywhere there. Where loading
    costs something these gain less than nothing, and a run ends at the best of what it has been through.

    Where demands have no cloud, an expert that must be held and is not yet gains more than anything else, so every run
    begins with them; where a run gets stuck before all have a place it counts for nothing, and there is one more, by
    gain, from a first placement that covers (or from what is held now, where loading costs something).

    What is claimed for a monotone submodular saving (top-1, or ``sum``; free loading, and a cloud behind everybody):

    - one server, equal sizes: 1 - 1/e of the best saving (Nemhauser, Wolsey, Fisher 1978);
    - one server, any sizes: 1 - 1/e with all triples (Sviridenko 2004), (1 - 1/e)/2 by the better of density greedy
      and the best single expert;
    - several servers, equal sizes: the capacities are a partition matroid, 1/2 (Fisher, Nemhauser, Wolsey 1978), and
      with slots a laminar one, on one server too.

    Nothing is claimed for several servers with several sizes, for slots with several sizes, or for rows of several
    experts under "max".

    Raises
    ------
    MethodLimitError
        More than :attr:`Tuning.most_starts` starting sets.
    """
    if not 0 <= enumerate <= 3:
        raise InputError(f"enumerate must be from 0 to 3, found {enumerate}")
    with stopping(time_limit) as stop:
        form, covering = saving_form(instance), held_by(instance, start, stop)
        begin = covering if start is not None else np.zeros_like(covering)
        one_size = len({layer.size for layer in form.layers}) <= 1
        starts = list(_starts(form, begin, enumerate)) if enumerate else []
        runs = (
            [(False, begin, ())] + [(True, begin, ())] * (not one_size) + [(True, begin, chosen) for chosen in starts]
        )
        if begin is not covering and covering.any():
            runs.insert(0, (False, covering, ()))
        best: WorkingPlacement | None = None
        evaluations = 0
        for done, (density, first, chosen) in zip(itertools.count(1), runs, strict=False):
            held = first.copy()
            for n, item in chosen:
                held[n, item] = True
            plan = WorkingPlacement(form, held, threads)
            evaluations += _Growth(plan, density, lazy, stop).run()
            if plan.allowed() and (best is None or plan.saving > best.saving):
                best = plan
            assert best is not None  # the first run begins with what covers
            if progress is not None:
                progress(Progress(stop.elapsed, instance.baseline_ns - best.saving, share=done / len(runs)))
            if stop:
                break
        assert best is not None
        complete = start is None and not stop
        return Outcome(
            Placement(best.held),
            termination=stop.termination,
            guarantee=_guarantee(form, one_size, enumerate) if complete else None,
            details={"evaluations": evaluations, "runs": len(runs)},
        )


def _guarantee(form: SavingForm, one_size: bool, enumerated: int) -> str | None:
    if not form.theorems:
        return None
    rooms = (np.minimum(form.capacity_bytes // layer.size, layer.n_experts) for layer in form.layers)
    if any((layer.slots < room).any() for layer, room in zip(form.layers, rooms, strict=True)):
        matroid = "equal sizes and slots, a laminar matroid"
        return f"saving at least 1/2 of the best: {matroid} (Fisher, Nemhauser, Wolsey 1978)" if one_size else None
    if len(useful_servers(form)) <= 1:
        if one_size:
            return "saving at least 1 - 1/e of the best: one server, equal sizes (Nemhauser, Wolsey, Fisher 1978)"
        if enumerated == 3:
            return "saving at least 1 - 1/e of the best: one server, all triples tried (Sviridenko 2004)"
        return "saving at least (1 - 1/e)/2 of the best: one server, better of density greedy and best single expert"
    if one_size:
        return "saving at least 1/2 of the best: equal sizes, a partition matroid (Fisher, Nemhauser, Wolsey 1978)"
    return None


def _starts(
    form: SavingForm, begin: Bool, largest: int, tuning: Tuning = USUAL
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the sets of 1 to ``largest`` (server, item) pairs that fit beside what there is and that are of use."""
    instance = form.instance
    free = (instance.capacity_bytes - begin @ instance.item_bytes).tolist()
    pairs = [
        (n, item)
        for layer in form.layers
        for n in range(len(free))
        if layer.size <= free[n] and layer.near[:, n].any()
        for item in range(layer.items.start, layer.items.stop)
        if not begin[n, item]
    ]
    count = sum(math.comb(len(pairs), k) for k in range(1, largest + 1))
    if count > tuning.most_starts:
        raise MethodLimitError("greedy", f"{count} starting sets, its limit is {tuning.most_starts}: lower enumerate")
    size = instance.item_bytes.tolist()
    for k in range(1, largest + 1):
        for chosen in itertools.combinations(pairs, k):
            used = [0] * len(free)
            for n, item in chosen:
                used[n] += size[item]
            if all(u <= f for u, f in zip(used, free, strict=True)) and not _crowded(form, begin, chosen):
                yield chosen


def _crowded(form: SavingForm, begin: Bool, chosen: tuple[tuple[int, int], ...]) -> bool:
    """Return whether some more experts are more of a layer than a server has slots for."""
    if (form.instance.layer_slots >= form.instance.n_items).all():
        return False
    held = begin.copy()
    for n, item in chosen:
        held[n, item] = True
    return any((held[:, layer.items].sum(axis=1) > layer.slots).any() for layer in form.layers)


class _Growth:
    """One greedy run on a plan."""

    def __init__(self, plan: WorkingPlacement, density: bool, lazy: bool, stop: Stop) -> None:
        self.plan, self.lazy, self.stop = plan, lazy, stop
        layers = plan.form.layers
        self.free = plan.free.tolist()
        self.slots = [(layer.slots - plan.part(i).sum(axis=1)).tolist() for i, layer in enumerate(layers)]
        self.added: list[tuple[int, int, int, int]] = []
        sizes = [layer.size for layer in layers]
        # Gains per byte are compared as integers: all brought to one denominator.
        common = math.lcm(*sizes) if density else 1
        self.weight = [common // size if density else 1 for size in sizes]
        self.evaluations = 0

    def run(self) -> int:
        """Add experts until nothing can be gained; return how many gains were computed."""
        if self.lazy and self.plan.form.additive:
            self._by_queue()
        else:
            self._by_layers()
        self._back_to_the_best()
        return self.evaluations

    def _gains(self, i: int) -> Int64:
        layer = self.plan.form.layers[i]
        self.evaluations += len(self.free) * layer.n_experts
        return layer.gains(self.plan.part(i))

    def _by_queue(self) -> None:
        """Add by a queue of gains, right since they only fall, and only when the same expert is added elsewhere."""
        layers = self.plan.form.layers
        best = [layer.best(self.plan.part(i)) for i, layer in enumerate(layers)]
        queue = []
        for i, layer in enumerate(layers):
            gains = self._gains(i)
            for n, e in zip(*(axis.tolist() for axis in np.nonzero(gains > 0)), strict=True):
                queue.append((-int(gains[n, e]) * self.weight[i], n, layer.items.start + e, 0, i))
        heapq.heapify(queue)
        copies = [0] * self.plan.form.instance.n_items
        while queue and not self.stop:
            key, n, item, seen, i = heapq.heappop(queue)
            layer = layers[i]
            if layer.size > self.free[n] or not self.slots[i][n]:
                continue
            e = item - layer.items.start
            if seen == copies[item]:
                self._add(i, n, e, -key // self.weight[i])
                best[i][:, e] = np.maximum(best[i][:, e], layer.near[:, n])
                copies[item] += 1
                continue
            self.evaluations += 1
            gain = layer.gain(best[i], n, e)
            if gain > 0:
                heapq.heappush(queue, (-gain * self.weight[i], n, item, copies[item], i))

    def _by_layers(self) -> None:
        layers = self.plan.form.layers
        # Where rows ask for several experts, what costs something to load may gain together with the next.
        priced = any(layer.load.any() for layer in layers)
        least = 1 if self.plan.form.additive else -INT64_MAX if priced else 0
        top = [self._top(i) for i in range(len(layers))]
        while not self.stop:
            keys = [
                (-gain * self.weight[i], n, layers[i].items.start + e, i)
                for i, row in enumerate(top)
                for n, (gain, e) in enumerate(row)
                if gain >= least and layers[i].size <= self.free[n]
            ]
            if not keys:
                return
            key, n, item, i = min(keys)
            self._add(i, n, item - layers[i].items.start, -key // self.weight[i])
            if self.lazy:
                top[i] = self._top(i)
            else:
                top = [self._top(j) for j in range(len(layers))]

    def _top(self, i: int) -> list[tuple[int, int]]:
        """Return (gain, expert) of the best expert to add on each server."""
        gains = self._gains(i)
        experts = gains.argmax(axis=1)
        return list(zip(gains.max(axis=1).tolist(), experts.tolist(), strict=True))

    def _add(self, i: int, n: int, e: int, gain: int) -> None:
        layer = self.plan.form.layers[i]
        self.plan.held[n, layer.items.start + e] = True
        self.plan.layer_saving[i] += gain
        self.free[n] -= layer.size
        self.slots[i][n] -= 1
        self.added.append((i, n, e, gain))

    def _back_to_the_best(self) -> None:
        """Take back what was added after the saving was largest; nothing where every gain was at least 0."""
        sums = [0, *itertools.accumulate(gain for *_, gain in self.added)]
        best = max(range(len(sums)), key=lambda k: (sums[k], k))
        for i, n, e, gain in self.added[best:]:
            self.plan.held[n, self.plan.form.layers[i].items.start + e] = False
            self.plan.layer_saving[i] -= gain
