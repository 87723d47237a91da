"""An upper bound on the saving of every placement that is proven in integers and needs no solver: the concave bound.

Fold the rows of an instance into terms ``W * [every expert of S is cached within the radius set R]`` (formulation,
section 3.1). With ``x(R, e)`` the number of copies of ``e`` within ``R``, every placement saves at most::

    Phi(x) = sum over terms of  W * min(1, min over e in S of x(R, e))

a concave function. For any multipliers ``alpha >= 0`` with ``alpha_1 + sum over e in S of alpha_e = 1`` in each term,
``Phi(x) <= c + G . x`` with ``c = sum W alpha_1`` and ``G[n, e] = sum over R with n, S with e of W alpha_e``: a *cut*.
So no placement saves more than ``c`` plus the most valuable fractional filling of each server at values ``G``. The
multipliers are taken at a fractional placement, a *point*, by a rule (docs/certificates.md), so that points are all
that a certificate needs to hold. The average of cuts with weights that sum to 1 in every layer is a cut again.

Points come from two sources. First accelerated gradient ascent on a smoothed ``Phi`` (Nesterov 2005): the minimum is
replaced by ``min over alpha of alpha . z + mu / 2 |alpha|^2``, with ``mu`` falling; the cuts at its points, averaged,
are near the optimum before single ones are. Then cutting planes, layer by layer (Kelley 1960): the linear program over
all cuts so far gives the best weights and a placement ``x``, where the next cut is made. The program is not solved to
its end, so that ``x`` is central among the good placements and no corner (Gondzio, Gonzalez-Brevis and Munari 2013).
The search is in floats, cuts and bounds are in integers.

Of version 2, what loading costs is deducted from the slopes of every cut, and slots leave each server the most valuable
experts of a layer only: both exactly. What demands without a cloud need is priced: for multipliers ``nu >= 0`` of the
requirements "``e`` is on some server of ``R``", every placement that meets them saves at most what the cut says with
``nu`` more on these experts and servers, less the sum of all ``nu`` (C4). In the program over cuts they are rows, whose
multipliers are the best ``nu`` for these cuts; in the ascent a copy that is missing costs something.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from moeplace.base.arrays import Bool, Int32, Int64, row_keys
from moeplace.base.documents import UNREACHABLE
from moeplace.base.workers import each
from moeplace.caching.bounds import cut_program
from moeplace.caching.bounds.cut_program import Sides, maximise
from moeplace.caching.certificates import SHARE_BITS, CachingCertificate, Covering, Cut, Point
from moeplace.caching.instance import Instance
from moeplace.caching.saving import Layer, SavingForm

A = TypeVar("A")
Float = npt.NDArray[np.float64]

UNIT: Final = 2**15
"""What stands for 1 in a certificate's placements."""

PRICE_UNIT: Final = 2**20
WEIGHT_UNIT: Final = 2**15


@dataclass(frozen=True)
class Tuning:
    """How far the bound is improved. Whatever the numbers are, it holds.

    Attributes
    ----------
    stages : tuple of (float, int)
        Smoothing and steps of the ascent.
    many_terms, short_stages : int, tuple of (float, int)
        With more terms than this, which a row has one of for each nearer server, the ascent takes these steps: where a
        step takes a second, cutting planes get further in the first minute. In the long run ``stages`` are as good.
    many_pairs, long_stages : int, tuple of (float, int)
        Else, with at least so many pairs of a server and an expert, it takes these: there the program over the cuts
        takes seconds, and a step of the ascent a tenth of one.
    every : int
        Steps of the ascent between two cuts that are kept.
    cut_smoothing : float
        Of the cuts of the cutting planes, until they no longer help; then none.
    loose : float
        How exactly the program over the cuts is solved, as a share of what is still open: its points are central then.
    most_cuts, most_numbers : int
        Cuts, and numbers in all of them, that the program is given at most; with more, those that count least are let
        go.
    least_cuts : int
        Cuts that it is given whatever their numbers.
    close : float
        Share of the total weight that is no difference any more.
    patience, progress : int, float
        Cutting planes no longer help when the bound fell by no more than this share in so many rounds, at least 1.
    missing : float
        What a missing copy costs at first, in layers' mean weights of an expert and in what it costs to load.
    dearer, dearest : float
        How much more it costs where copies are still missing, step by step, and at most.
    lacking : float
        Share of a copy whose lack is none.
    program : moeplace.caching.bounds.cut_program.Tuning
    """

    stages: tuple[tuple[float, int], ...] = ((0.05, 25), (0.02, 50))
    many_terms: int = 1 << 24
    short_stages: tuple[tuple[float, int], ...] = ((0.05, 15), (0.02, 25))
    many_pairs: int = 100_000
    long_stages: tuple[tuple[float, int], ...] = ((0.05, 25), (0.02, 50), (0.01, 100))
    every: int = 5
    cut_smoothing: float = 0.01
    loose: float = 0.5
    most_cuts: int = 120
    most_numbers: int = 16_000_000
    least_cuts: int = 12
    close: float = 1e-7
    patience: int = 10
    progress: float = 1e-5
    missing: float = 2.0
    dearer: float = 4.0
    dearest: float = 256.0
    lacking: float = 1e-3
    program: cut_program.Tuning = cut_program.USUAL


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""


def kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second."""
    from moeplace.caching.bounds import _concave_kernels

    return _concave_kernels


@dataclass(frozen=True, eq=False, repr=False)
class LayerTerms:
    """The terms of one layer (``A`` rows, ``K`` experts of the widest, ``C`` chains of ``J`` radius sets).

    A chain is the sequence of radius sets that a demand sees, nearest first. Row ``i`` stands for the terms
    ``weight[i, j] * [its experts are cached within radius set j of its chain]``.

    Attributes
    ----------
    items : slice
        The layer's items in the instance.
    experts : int32 array [A, K]
        Experts of each row, padded with the first.
    size : int32 array [A]
        How many of them count.
    start : int64 array [C + 1]
        The rows of chain ``c`` are ``start[c]`` to ``start[c + 1]``.
    weight : int64 array [A, J]
        Token-ns; 0 where a chain is shorter.
    level : int64 array [C, N]
        The radius set of a chain with which a server comes in; ``J`` where it never does.
    load : int64 array [N, E]
        What it costs that a server holds an expert, token-ns.
    slots : int64 array [N]
        Most experts of the layer on each server.
    reach : bool array [R, N]
        Within each of these sets of servers some must hold ...
    needed : int64 array [R]
        ... this expert.
    """

    items: slice
    experts: Int32
    size: Int32
    start: Int64
    weight: Int64
    level: Int64
    load: Int64
    slots: Int64
    reach: Bool
    needed: Int64

    @property
    def steps(self) -> int:
        """Radius sets of a chain."""
        return int(self.weight.shape[1])

    @cached_property
    def total_weight(self) -> int:
        """Saving if every server held everything, token-ns."""
        return int(self.weight.sum())


def layer_terms(layer: Layer) -> LayerTerms:
    """Split the rows of a layer into terms; demands that see the same chain are one, requirements stay as they are."""
    rows = len(layer.count) - layer.covers
    sides: dict[str, Any] = {
        "items": layer.items,
        "load": layer.load,
        "slots": layer.slots,
        "reach": layer.near[layer.group[rows:]] > 0,
        "needed": layer.experts[rows:, 0].astype(np.int64),
    }
    near = layer.near if not layer.covers else layer.near[: int(layer.group[rows])]
    distinct = [np.unique(-row[row > 0]) for row in near]
    steps = max(map(len, distinct), default=0)
    if not rows or not steps:
        width, servers = layer.experts.shape[1], layer.near.shape[1]
        return LayerTerms(
            experts=np.zeros((0, width), dtype=np.int32),
            size=np.zeros(0, dtype=np.int32),
            start=np.zeros(1, dtype=np.int64),
            weight=np.zeros((0, 1), dtype=np.int64),
            level=np.zeros((0, servers), dtype=np.int64),
            **sides,
        )
    rank = np.array([np.where(row > 0, np.searchsorted(d, -row), steps) for row, d in zip(near, distinct, strict=True)])
    level, chain_of = np.unique(rank, axis=0, return_inverse=True)
    experts, size, chain, weight = kernels().expand(
        layer.experts[:rows],
        layer.group[:rows],
        layer.count[:rows],
        chain_of.reshape(-1).astype(np.int32),
        rank.astype(np.int64),
        near,
        layer.floor,
        steps,
    )
    key = row_keys([chain, size, *experts.T])
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    chosen = order[first]
    return LayerTerms(
        experts=experts[chosen],
        size=size[chosen],
        start=np.searchsorted(chain[chosen], np.arange(len(level) + 1)),
        weight=np.add.reduceat(weight[order], first) if len(chosen) else weight,
        level=level.astype(np.int64),
        **sides,
    )


@dataclass(frozen=True, eq=False, repr=False)
class _Needs:
    """All requirements of all layers (``C`` of them), one after the other.

    Attributes
    ----------
    reach : bool array [C, N]
        Within each of these sets of servers some must hold ...
    item : int64 array [C]
        ... this item.
    layer : int64 array [C]
        Which of the layers it belongs to.
    """

    reach: Bool
    item: Int64
    layer: Int64

    @classmethod
    def of(cls, layers: list[LayerTerms], n_servers: int) -> _Needs:
        """Gather what layers need."""
        return cls(
            np.concatenate([np.zeros((0, n_servers), dtype=np.bool_), *(layer.reach for layer in layers)]),
            np.concatenate([np.zeros(0, dtype=np.int64), *(layer.needed + layer.items.start for layer in layers)]),
            np.repeat(np.arange(len(layers)), [len(layer.needed) for layer in layers]),
        )

    def __len__(self) -> int:
        return len(self.item)

    def copies(self, x: Float) -> Float:
        """Return how much of each is there in a fractional placement ``[N, I]``."""
        copies: Float = (x[:, self.item].T * self.reach).sum(axis=1)
        return copies

    def spread(self, values: Float, table: Float) -> None:
        """Add a value of each requirement to all pairs of server and item that meet it, in ``table [N, I]``."""
        np.add.at(table.T, self.item, values[:, None] * self.reach)


@dataclass(frozen=True, eq=False, repr=False)
class ConcaveResult:
    """A bound on the saving and what proves it.

    Attributes
    ----------
    instance : Instance
    saving_bound : int
        No placement saves more, token-ns.
    points : list of (int, list of int, uint16 array [N, I])
        Where the cut's multipliers are taken: smoothing, weights and placement, as a certificate's :class:`Point`.
    price_units : list of int
        What a byte of each server costs in the proof, as a certificate holds it.
    x : float64 array [N, I]
        The fractional placement that is best for the cuts that were known: between 0 and 1, within the capacities.
        Before there were cuts, everything everywhere.
    needs : list of int
        Multipliers of the requirements that :class:`ConcaveBound` has, as a certificate holds them.
    """

    instance: Instance
    saving_bound: int
    points: list[tuple[int, list[int], npt.NDArray[np.uint16]]]
    price_units: list[int]
    x: Float
    needs: list[tuple[Bool, int, int]]

    @property
    def bound_ns(self) -> int:
        """No placement costs less, token-ns."""
        return max(0, self.instance.baseline_ns - self.saving_bound)

    @property
    def prices(self) -> Float:
        """What a byte of each server is worth, token-ns, float64 [N]."""
        return np.array(self.price_units, dtype=np.float64) / (PRICE_UNIT * WEIGHT_UNIT << SHARE_BITS)

    @property
    def block_bytes(self) -> Float:
        """Bytes of each block (layer of a model) on each server in ``x``, float64 [N, B]."""
        starts = self.instance.block_start[:-1]
        held = self.x * self.instance.item_bytes
        return np.add.reduceat(held, starts, axis=1) if len(starts) else held

    def certificate(self) -> CachingCertificate:
        """Return the document that proves :attr:`bound_ns`."""
        points = [Point.make(*point) for point in self.points]
        coverage = UNSET if self.instance.coverage is None else covered(self.instance, self.needs)
        cut = Cut(UNIT, points, WEIGHT_UNIT, self.price_units, PRICE_UNIT, coverage)
        return CachingCertificate.make(self.instance, self.bound_ns, cut)


def covered(instance: Instance, needs: list[tuple[Bool, int, int]]) -> list[Covering]:
    """Write multipliers of requirements (reach set, item, multiplier) down with demands that have these."""
    without = np.flatnonzero(~instance.has_cloud).tolist()
    reaches = {d: (instance.server_ns[d] != UNREACHABLE).tobytes() for d in without}
    found: dict[int, list[int]] = {}
    for reach, item, value in needs:
        if not value:
            continue
        for d in without:
            items = instance.model_items(int(instance.demand_model[d]))
            if (
                reaches[d] == reach.tobytes()
                and items.start <= item < items.stop
                and item not in instance.device_items(d)
            ):
                found.setdefault(d, [0] * (items.stop - items.start))[item - items.start] = value
                break
        else:
            raise AssertionError("a requirement that no demand has")
    return [Covering(d, prices) for d, prices in sorted(found.items())]


class _Cut:
    """The cut at a point, layer by layer: exact, in two halves, and as floats relative to the scale."""

    def __init__(self, bound: ConcaveBound, x: Float, smoothing: int) -> None:
        k = kernels()
        units = np.clip(np.rint(x * UNIT), 0, UNIT).astype(np.int64)
        self.units, self.smoothing = units.astype(np.uint16), smoothing
        self.halves = np.zeros((2, *units.shape), dtype=np.int64)

        def cut(layer: LayerTerms) -> int:
            at = np.ascontiguousarray(units[:, layer.items])
            slopes, constant = k.exact(
                layer.experts, layer.size, layer.start, layer.weight, layer.level, at, UNIT, smoothing
            )
            if layer.load.any():  # shifted by SHARE_BITS, and a borrow: low halves are never negative
                slopes[0] -= layer.load >> (32 - SHARE_BITS)
                slopes[1] -= (layer.load & ((1 << (32 - SHARE_BITS)) - 1)) << SHARE_BITS
                slopes[0] += slopes[1] >> 32
                slopes[1] &= k.MASK
            self.halves[:, :, layer.items] = slopes
            return sum((high << 32) + low for high, low in constant.T.tolist())

        self.constants = bound.each(cut)
        scale = 2.0**-SHARE_BITS / bound.scale
        self.constant = np.array([constant * scale for constant in self.constants])
        self.gradient = (self.halves[0] * 2.0**32 + self.halves[1]) * scale
        value = self.gradient * (units / UNIT)
        self.value = float(self.constant.sum() + value.sum())
        """The smoothed function at the point, never below ``Phi``, less what missing copies cost."""
        self.needs: Float = np.zeros(len(bound.needs))
        if len(bound.needs):
            copies, missing = bound.needs.copies(units / UNIT), bound.missing[bound.needs.layer]
            self.needs = missing * _missed(copies, smoothing / UNIT)
            self.value -= float((missing * np.maximum(0, 1 - copies)).sum())


class ConcaveBound:
    """The best bound on the saving so far, and how to improve it; usable at any moment.

    Parameters
    ----------
    form : SavingForm
        The instance in saving form.
    threads : int
        Threads that :meth:`improve` uses.
    tuning : Tuning

    Attributes
    ----------
    instance : Instance
    layers : list of LayerTerms
    stages : tuple of (float, int)
        Smoothing and steps of the ascent.
    passes, made : int
        Steps of it, and cuts made, so far.
    total_weight : int
        Saving if every server held everything and loading were free, token-ns.
    scale : int
        Of floats: the total weight and what loading must cost.
    best : ConcaveResult
        The best bound so far. Always valid; replaced, never changed, so that any thread may read it.
    """

    def __init__(self, form: SavingForm, threads: int = 1, tuning: Tuning = USUAL) -> None:
        self.tuning = tuning
        self.instance: Instance = form.instance
        self.layers = each(layer_terms, form.layers, threads)
        self.total_weight = sum(layer.total_weight for layer in self.layers)
        self._threads = threads
        self.needs = _Needs.of(self.layers, len(self.instance.servers))
        loads = [self._must_load(layer) for layer in self.layers]
        self.scale = self.total_weight + sum(loads)
        # What a missing copy costs, relative to the scale, layer by layer.
        per_byte = self.scale / max(1, int(self.instance.item_bytes.sum(dtype=np.float64)))
        costs = [
            max(layer.total_weight / (layer.items.stop - layer.items.start), per_byte * size)
            + float(layer.load.max(initial=0))
            for layer, size in zip(self.layers, (layer.size for layer in form.layers), strict=True)
        ]
        self.missing: Float = np.array(costs, dtype=np.float64) * (tuning.missing / max(1, self.scale))
        self._first_missing = self.missing.copy()
        self._items = [layer.items for layer in self.layers]
        self._cuts: list[_Cut] = []
        self.passes, self.made = 0, 0
        shape = (len(self.instance.servers), self.instance.n_items)
        if form.most_terms > tuning.many_terms:
            self.stages = tuning.short_stages
        else:
            self.stages = tuning.stages if math.prod(shape) < tuning.many_pairs else tuning.long_stages
        # The first proof: no placement saves more than everything everywhere does, the cut of alpha_1 = 1.
        everything = (0, [WEIGHT_UNIT] * self.instance.n_blocks, np.full(shape, UNIT, dtype=np.uint16))
        self.best = ConcaveResult(self.instance, self.total_weight, [everything], [0] * shape[0], np.ones(shape), [])

    @property
    def saving_bound(self) -> int:
        """No placement saves more, token-ns."""
        return self.best.saving_bound

    @staticmethod
    def _must_load(layer: LayerTerms) -> int:
        """Return what loading costs at least where every need of a layer has a server of its own, token-ns."""
        costs = np.where(layer.reach, layer.load[:, layer.needed].T, np.iinfo(np.int64).max)
        return sum(costs.min(axis=1)[layer.reach.any(axis=1)].tolist()) if len(layer.needed) else 0

    def each(self, function: Callable[[LayerTerms], A]) -> list[A]:
        """Return ``function`` of every layer."""
        return each(function, self.layers, self._threads)

    def improve(self, stop: Callable[[], bool], report: Callable[[int, ConcaveResult], None] | None = None) -> None:
        """Improve the bound until it hardly moves any more or somebody says stop.

        Parameters
        ----------
        stop : callable
            Asked after every pass over the terms; True ends the work.
        report : callable, optional
            Told of every better bound on the saving, and its proof.
        """
        if not self.scale:
            return
        report = report or (lambda bound, proof: None)
        search = _Search(self)
        every = self.tuning.every
        for mu, steps in self.stages:
            averaged, counts = list[_Cut](), list[float]()
            for step, (x, count) in enumerate(search.ascend(mu, steps)):
                self.passes += 1
                if step % every == every - 1:
                    averaged.append(self._cut(x, mu))
                    counts.append(count)
                    last = averaged[-1]
                    self._offer([last], np.ones((len(self.layers), 1)), last.needs, search.x, report)
                    share = np.array(counts) / sum(counts)
                    needs = np.sum([part * cut.needs for part, cut in zip(share, averaged, strict=True)], axis=0)
                    self._offer(averaged, np.tile(share, (len(self.layers), 1)), needs, search.x, report)
                if stop():
                    return
            self._cuts += averaged
        if not self._cuts:  # an ascent of fewer steps than there are between two cuts
            self._cuts.append(self._cut(search.x, self.tuning.cut_smoothing))
        self._cut_planes(stop, report)

    def layer_cuts(self) -> dict[int, tuple[int, npt.NDArray[np.object_]]]:
        """Return the cut that proves :attr:`best`, layer by layer, in whole numbers.

        Returns
        -------
        dict of int to (int, object array [N, E])
            By the layer's first item: constant and slopes, in ``2**-SHARE_BITS / WEIGHT_UNIT`` token-ns. No placement
            that meets the requirements saves more in the layer than ``constant + sum of slopes of what is held``.
        """
        best, instance = self.best, self.instance
        if not self.scale:  # nothing saves anything
            return {}
        cuts = [_Cut(self, units / UNIT, smoothing) for smoothing, _, units in best.points]
        found = {}
        for i, layer in enumerate(self.layers):
            block = int(instance.item_block[layer.items.start])
            constant = 0
            slopes = np.zeros((len(instance.servers), layer.items.stop - layer.items.start), dtype=object)
            for cut, (_, weights, _) in zip(cuts, best.points, strict=True):
                if weight := weights[block]:
                    high, low = cut.halves[:, :, layer.items].astype(object)
                    slopes += weight * ((high << 32) + low)
                    constant += weight * cut.constants[i]
            for reach, item, value in best.needs:
                if layer.items.start <= item < layer.items.stop:
                    slopes[reach, item - layer.items.start] += value
                    constant -= value
            found[layer.items.start] = constant, slopes
        return found

    def _cut_planes(self, stop: Callable[[], bool], report: Callable[[int, ConcaveResult], None]) -> None:
        """Go on with cutting planes until the bound hardly moves any more or somebody says stop."""
        t = self.tuning
        smoothing, best = t.cut_smoothing, max(cut.value for cut in self._cuts)
        bounds = [self.saving_bound / self.scale]
        while not stop():
            found = self._optimum(max(t.loose * (bounds[-1] - best), t.close), stop)
            if found is None:
                return
            upper, x, weights, needs = found
            self._offer(self._cuts, weights, needs, x, report)
            bounds.append(self.saving_bound / self.scale)
            still = [
                len(bounds) > many and bounds[-many] - bounds[-1] <= t.progress for many in (t.patience, 2 * t.patience)
            ]
            if still[0] and smoothing:
                smoothing, best = 0.0, 0.0
            elif still[1]:
                return
            cut = self._cut(x, smoothing)
            best = max(best, cut.value)
            if not smoothing and upper - best < t.close:
                return
            if len(self._cuts) >= min(t.most_cuts, max(t.least_cuts, t.most_numbers // x.size)):
                del self._cuts[int(weights.sum(axis=0).argmin())]
            self._cuts.append(cut)

    def _cut(self, x: Float, mu: float) -> _Cut:
        self.made += 1
        return _Cut(self, x, round(mu * UNIT))

    def _optimum(self, tolerance: float, stop: Callable[[], bool]) -> tuple[float, Float, Float, Float] | None:
        """Maximise the least of all cuts, layer by layer, within the capacities.

        Returns
        -------
        float, float64 array [N, I], float64 array [L, P], float64 array [C]
            The maximum (relative to the scale), where it is, the weight of each cut in each layer, and the multipliers
            of the requirements. None where there is no time.
        """
        size, room, most = _scaled(self.instance)
        limited = any((layer.slots < layer.items.stop - layer.items.start).any() for layer in self.layers)
        sides = None
        if limited or len(self.needs):
            sides = [
                Sides(
                    np.where(layer.slots < layer.items.stop - layer.items.start, layer.slots, np.inf),
                    layer.reach,
                    layer.needed,
                    missing,
                )
                for layer, missing in zip(self.layers, self.missing.tolist(), strict=True)
            ]
        found = maximise(
            [np.array([cut.constant[i] for cut in self._cuts]) for i in range(len(self.layers))],
            [np.array([cut.gradient[:, i] * most[:, i] for cut in self._cuts]) for i in self._items],
            self._items,
            size * most,
            room,
            tolerance,
            stop,
            self.tuning.program,
            sides,
        )
        if found is None:
            return None
        needs = np.concatenate([np.zeros(0), *found.needs])
        if len(self.needs):
            short = np.array([short.max(initial=0) for short in found.short])
            dearest = self.tuning.dearest * self._first_missing
            dearer = np.minimum(self.tuning.dearer * self.missing, dearest)
            self.missing = np.where(short > self.tuning.lacking, np.maximum(dearer, self.missing), self.missing)
        return found.value, found.x, np.array(found.weights), needs

    def _offer(
        self,
        cuts: list[_Cut],
        weights: Float,
        needs: Float,
        x: Float,
        report: Callable[[int, ConcaveResult], None],
    ) -> None:
        """Take the average of some cuts, weights ``[L, P]``, as the bound if it is better; all in integers.

        ``needs [C]``: multipliers of the requirements, relative to the scale.
        """
        whole = _whole(weights)
        instance = self.instance
        # Whole sums of weight * value, the value's high half (below 2**51) once more in two: no sum reaches 2**48.
        sums = np.zeros((3, len(instance.servers), instance.n_items), dtype=np.int64)
        constant = 0
        block_weights = np.zeros((len(cuts), instance.n_blocks), dtype=np.int64)
        block_weights[0] = WEIGHT_UNIT  # of layers without rows, where any cut is zero
        for i, layer in enumerate(self.layers):
            block_weights[:, instance.item_block[layer.items.start]] = whole[i]
            for cut, weight in zip(cuts, whole[i].tolist(), strict=True):
                if weight:
                    high, low = cut.halves[:, :, layer.items]
                    sums[:, :, layer.items] += weight * np.stack((high >> 26, high & (2**26 - 1), low))
                    constant += weight * cut.constants[i]
        priced = self._priced(needs)
        slopes = _Slopes.of(sums)
        for reach, item, value in priced:
            slopes.add(reach, item, value)
            constant -= value
        bound, prices = _maximum(instance, constant, slopes)
        if bound < self.saving_bound:
            points = [
                (cut.smoothing, block_weight.tolist(), cut.units)
                for cut, block_weight in zip(cuts, block_weights, strict=True)
                if block_weight.any()
            ]
            self.best = ConcaveResult(instance, bound, points, prices, x, priced)
            report(bound, self.best)

    def _priced(self, needs: Float) -> list[tuple[Bool, int, int]]:
        """Return the requirements that have a price, with it in whole units; see :class:`Covering`."""
        if not len(needs):
            return []
        unit = self.scale * WEIGHT_UNIT << SHARE_BITS
        return [
            (reach, item, int(need * unit))
            for reach, item, need in zip(self.needs.reach, self.needs.item.tolist(), needs.tolist(), strict=True)
            if need > 0 and math.isfinite(need)
        ]


def _missed(copies: Float, mu: float) -> Float:
    """Return the share of a missing copy's cost that a smoothed count of copies has as its slope."""
    if not mu:
        return (copies < 1).astype(np.float64)
    share: Float = np.clip((1 - copies + mu) / (2 * mu), 0, 1)
    return share


def _whole(weights: Float) -> Int64:
    """Round each layer's weights ``[L, P]`` to multiples of ``1 / WEIGHT_UNIT`` that sum to 1."""
    whole = np.floor(weights * WEIGHT_UNIT).astype(np.int64)
    missing = WEIGHT_UNIT - whole.sum(axis=1)
    # Those that lost most gain one; sums of floats that are off by a rounding error are mended by the largest.
    rank = np.argsort(np.argsort(whole - weights * WEIGHT_UNIT, axis=1, kind="stable"), axis=1, kind="stable")
    whole += rank < missing[:, None]
    whole[np.arange(len(whole)), whole.argmax(axis=1)] += WEIGHT_UNIT - whole.sum(axis=1)
    if whole.min(initial=0) < 0:  # only averages of cuts are cuts
        raise AssertionError("weights of cuts must not be negative")
    return whole


def _scaled(instance: Instance) -> tuple[Float, Float, Float]:
    """Return sizes and rooms relative to the largest expert, and which experts fit: 0 or 1, [N, I]."""
    sizes, room = instance.item_bytes, instance.usable_bytes
    largest = int(sizes.max(initial=1))
    most = (sizes[None, :] <= room[:, None]).astype(np.float64)
    return sizes / largest, np.minimum(room / largest, sizes.sum(dtype=np.float64) / largest), most


_LOW = 58
"""Bits of the lower part of a slope of many cuts."""


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Whole numbers of up to 120 bits, ``high * 2**58 + low``, as two arrays: Python's own take eight times as long.

    Attributes
    ----------
    high, low : int64 array [N, I]
        Lower parts are at least 0 and below ``2**58``.
    """

    high: Int64
    low: Int64

    @classmethod
    def of(cls, sums: Int64) -> _Slopes:
        """Return ``sums[0] * 2**58 + sums[1] * 2**32 + sums[2]``, each of these below ``2**60``."""
        middle = sums[1] + (sums[2] >> 32)
        return cls(sums[0] + (middle >> 26), ((middle & (2**26 - 1)) << 32) + (sums[2] & (2**32 - 1)))

    def add(self, reach: Bool, item: int, value: int) -> None:
        """Add a number, not negative, to an item's slopes on some servers."""
        low = self.low[reach, item] + (value & (2**_LOW - 1))
        self.high[reach, item] += (value >> _LOW) + (low >> _LOW)
        self.low[reach, item] = low & (2**_LOW - 1)

    def order(self, server: int, size: Int64) -> npt.NDArray[np.intp]:
        """Return a server's items by value a byte, the most valuable first."""
        value = self.high[server] * 2.0**_LOW + self.low[server]
        order: npt.NDArray[np.intp] = np.argsort(-(value / size), kind="stable")
        return order

    def above(self, server: int, bounds: dict[int, int], size: Int64) -> Bool:
        """Return which of a server's items are worth more than what is the bound at their size."""
        high = np.array([bound >> _LOW for bound in bounds.values()], dtype=np.int64)
        low = np.array([bound & (2**_LOW - 1) for bound in bounds.values()], dtype=np.int64)
        at = np.searchsorted(np.array(list(bounds)), size)
        mine = self.high[server]
        above: Bool = (mine > high[at]) | ((mine == high[at]) & (self.low[server] > low[at]))
        return above

    def at(self, server: int, item: int) -> int:
        """Return one slope."""
        return (int(self.high[server, item]) << _LOW) + int(self.low[server, item])

    def sum(self, server: int, items: Bool) -> int:
        """Return the sum of some of a server's."""
        high: int = sum(self.high[server, items].tolist())
        low: int = sum(self.low[server, items].tolist())
        return (high << _LOW) + low


def _maximum(instance: Instance, constant: int, slopes: _Slopes) -> tuple[int, list[int]]:
    """Return a bound on the maximum of a cut within the capacities, token-ns, and the prices that prove it."""
    sizes = instance.item_bytes
    different = np.unique(sizes).tolist()
    total = constant * PRICE_UNIT
    prices = []
    for n, (room, limit) in enumerate(zip(instance.usable_bytes.tolist(), instance.layer_slots.tolist(), strict=True)):
        fitting = _within_slots(instance, slopes, n, limit) & (sizes <= room)
        price = _price(slopes, n, sizes, fitting, room)
        prices.append(price)
        # Worth more than its bytes: value * PRICE_UNIT > price * size, of whole numbers.
        chosen = fitting & slopes.above(n, {size: price * size // PRICE_UNIT for size in different}, sizes)
        total += price * (room - sum(sizes[chosen].tolist())) + slopes.sum(n, chosen) * PRICE_UNIT
    return total // (PRICE_UNIT * WEIGHT_UNIT << SHARE_BITS), prices


def _within_slots(instance: Instance, slopes: _Slopes, server: int, limit: int) -> Bool:
    """Return the items that count on a server: of each layer, whose experts are alike in size, the most valuable."""
    counts = np.ones(instance.n_items, dtype=np.bool_)
    for first, last in itertools.pairwise(instance.block_start.tolist()):
        if limit < last - first:
            items = slice(first, last)
            order = np.lexsort((slopes.low[server, items], slopes.high[server, items]))
            counts[first + order[: last - first - limit]] = False
    return counts


def _price(slopes: _Slopes, server: int, sizes: Int64, fitting: Bool, room: int) -> int:
    """Return the price of a byte, in price units, at which the best fractional filling is just within the room."""
    order = slopes.order(server, sizes)
    order = order[fitting[order]]
    # Sums of sizes as floats are whole below 2**53, and what they are off above is of no account: any price proves.
    over = np.flatnonzero(np.cumsum(sizes[order], dtype=np.float64) > room)
    if not len(over):
        return 0
    last = int(order[over[0]])
    return max(0, slopes.at(server, last)) * PRICE_UNIT // int(sizes[last])


class _Search:
    """Accelerated gradient ascent on the smoothed function, in floats; all values relative to the scale."""

    def __init__(self, bound: ConcaveBound) -> None:
        self._bound = bound
        self._size, self._capacity, self._most = _scaled(bound.instance)
        scale = 1 / bound.scale
        self._weight = {id(layer): (layer.weight * scale).astype(np.float32) for layer in bound.layers}
        self._load = {id(layer): layer.load * scale for layer in bound.layers if layer.load.any()}
        self.x: Float = np.minimum(1, self._capacity[:, None] / self._size.sum()) * self._most
        experts = np.diff(bound.instance.block_start)
        self._slots = np.minimum(bound.instance.layer_slots[:, None], experts).astype(np.float64)
        self._limited = bool((self._slots < experts).any())
        if self._limited:
            self.x = np.minimum(self.x, (self._slots / experts)[:, bound.instance.item_block])
        k = kernels()
        metric = np.zeros_like(self.x)

        def curvature(layer: LayerTerms) -> None:
            n_experts = layer.items.stop - layer.items.start
            weight = self._weight[id(layer)]
            metric[:, layer.items] = k.curvature(layer.experts, layer.size, layer.start, weight, layer.level, n_experts)

        bound.each(curvature)
        bound.needs.spread(bound.missing[bound.needs.layer], metric)
        self._metric = np.maximum(metric, 1e-6 * metric.max(initial=1e-9))

    def ascend(self, mu: float, steps: int) -> Iterator[tuple[Float, float]]:
        """Yield the points of an ascent at one smoothing, and what their cuts count in an average.

        By these weights, which grow, the average of all cuts is as near to the optimum as the ascent itself
        (Nesterov 2005, theorem 3), while single cuts still swing.
        """
        x = y = self.x
        momentum = 1.0
        metric = self._metric / mu
        for _ in range(steps):
            yield y, momentum
            gradient = self._pass(y, mu)
            following = self._project(y + gradient / metric, metric)
            grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            y = np.clip(following + (momentum - 1) / grown * (following - x), 0, 1)
            self.x = x = following
            momentum = grown

    def _project(self, point: Float, metric: Float) -> Float:
        """Return the nearest point that fits."""
        k = kernels()
        if not self._limited:
            nearest: Float = k.project(point, metric, self._size, self._capacity, self._most)
            return nearest
        starts = self._bound.instance.block_start
        within: Float = k.project_slots(point, metric, self._size, self._capacity, self._most, starts, self._slots)
        return within

    def _pass(self, x: Float, mu: float) -> Float:
        """Return the gradient at a point."""
        k = kernels()
        gradient = np.zeros_like(x)

        def one(layer: LayerTerms) -> None:
            at = np.ascontiguousarray(x[:, layer.items], dtype=np.float32)
            weight = self._weight[id(layer)]
            gradient[:, layer.items] = k.smooth(layer.experts, layer.size, layer.start, weight, layer.level, at, mu)

        self._bound.each(one)
        for layer in self._bound.layers:
            if (load := self._load.get(id(layer))) is not None:
                gradient[:, layer.items] -= load
        if len(needs := self._bound.needs):
            needs.spread(self._bound.missing[needs.layer] * _missed(needs.copies(x), mu), gradient)
        return gradient
