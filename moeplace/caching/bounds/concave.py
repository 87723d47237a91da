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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int32, Int64, row_keys
from moeplace.base.certificates import SHARE_BITS, Certificate, Cut, Point
from moeplace.base.workers import each
from moeplace.caching.bounds import cut_program
from moeplace.caching.bounds.cut_program import maximise
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
    program : moeplace.caching.bounds.cut_program.Tuning
    """

    stages: tuple[tuple[float, int], ...] = ((0.05, 25), (0.02, 50))
    every: int = 5
    cut_smoothing: float = 0.01
    loose: float = 0.5
    most_cuts: int = 120
    most_numbers: int = 16_000_000
    least_cuts: int = 12
    close: float = 1e-7
    patience: int = 10
    progress: float = 1e-5
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
    """

    items: slice
    experts: Int32
    size: Int32
    start: Int64
    weight: Int64
    level: Int64

    @property
    def steps(self) -> int:
        """Radius sets of a chain."""
        return int(self.weight.shape[1])

    @cached_property
    def total_weight(self) -> int:
        """Saving if every server held everything, token-ns."""
        return int(self.weight.sum())


def layer_terms(layer: Layer) -> LayerTerms:
    """Split the rows of a layer into terms; demands that see the same chain are one."""
    near = layer.near
    distinct = [np.unique(-row[row > 0]) for row in near]
    steps = max(map(len, distinct))
    rank = np.array([np.where(row > 0, np.searchsorted(d, -row), steps) for row, d in zip(near, distinct, strict=True)])
    level, chain_of = np.unique(rank, axis=0, return_inverse=True)
    experts, size, chain, weight = kernels().expand(
        layer.experts,
        layer.group,
        layer.count,
        chain_of.reshape(-1).astype(np.int32),
        rank.astype(np.int64),
        near,
        layer.floor,
        steps,
    )
    key = row_keys([chain, size, *experts.T])
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    rows = order[first]
    return LayerTerms(
        items=layer.items,
        experts=experts[rows],
        size=size[rows],
        start=np.searchsorted(chain[rows], np.arange(len(level) + 1)),
        weight=np.add.reduceat(weight[order], first) if len(rows) else weight,
        level=level.astype(np.int64),
    )


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
    """

    instance: Instance
    saving_bound: int
    points: list[tuple[int, list[int], npt.NDArray[np.uint16]]]
    price_units: list[int]
    x: Float

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

    def certificate(self) -> Certificate:
        """Return the document that proves :attr:`bound_ns`."""
        points = [Point.make(*point) for point in self.points]
        cut = Cut(UNIT, points, WEIGHT_UNIT, self.price_units, PRICE_UNIT)
        return Certificate.make(self.instance, self.bound_ns, cut)


class _Cut:
    """The cut at a point, layer by layer: exact, in two halves, and as floats relative to the total weight."""

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
            self.halves[:, :, layer.items] = slopes
            return sum((high << 32) + low for high, low in constant.T.tolist())

        self.constants = bound.each(cut)
        scale = 2.0**-SHARE_BITS / bound.total_weight
        self.constant = np.array([constant * scale for constant in self.constants])
        self.gradient = (self.halves[0] * 2.0**32 + self.halves[1]) * scale
        value = self.gradient * (units / UNIT)
        self.value = float(self.constant.sum() + value.sum())
        """The smoothed function at the point, never below ``Phi``."""


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
    passes, made : int
        Steps of the ascent, and cuts made, so far.
    total_weight : int
        Saving if every server held everything, token-ns.
    best : ConcaveResult
        The best bound so far. Always valid; replaced, never changed, so that any thread may read it.
    """

    def __init__(self, form: SavingForm, threads: int = 1, tuning: Tuning = USUAL) -> None:
        self.tuning = tuning
        self.instance: Instance = form.instance
        self.layers = each(layer_terms, form.layers, threads)
        self.total_weight = sum(layer.total_weight for layer in self.layers)
        self._threads = threads
        self._items = [layer.items for layer in self.layers]
        self._cuts: list[_Cut] = []
        self.passes, self.made = 0, 0
        # The first proof: no placement saves more than everything everywhere does, the cut of alpha_1 = 1.
        shape = (len(self.instance.servers), self.instance.n_items)
        everything = (0, [WEIGHT_UNIT] * self.instance.n_blocks, np.full(shape, UNIT, dtype=np.uint16))
        self.best = ConcaveResult(self.instance, self.total_weight, [everything], [0] * shape[0], np.ones(shape))

    @property
    def saving_bound(self) -> int:
        """No placement saves more, token-ns."""
        return self.best.saving_bound

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
        if not self.total_weight:
            return
        report = report or (lambda bound, proof: None)
        search = _Search(self)
        every = self.tuning.every
        for mu, steps in self.tuning.stages:
            averaged, counts = list[_Cut](), list[float]()
            for step, (x, count) in enumerate(search.ascend(mu, steps)):
                self.passes += 1
                if step % every == every - 1:
                    averaged.append(self._cut(x, mu))
                    counts.append(count)
                    self._offer(averaged[-1:], np.ones((len(self.layers), 1)), search.x, report)
                    share = np.array(counts) / sum(counts)
                    self._offer(averaged, np.tile(share, (len(self.layers), 1)), search.x, report)
                if stop():
                    return
            self._cuts += averaged
        if not self._cuts:  # an ascent of fewer steps than there are between two cuts
            self._cuts.append(self._cut(search.x, self.tuning.cut_smoothing))
        self._cut_planes(stop, report)

    def _cut_planes(self, stop: Callable[[], bool], report: Callable[[int, ConcaveResult], None]) -> None:
        """Go on with cutting planes until the bound hardly moves any more or somebody says stop."""
        t = self.tuning
        smoothing, best = t.cut_smoothing, max(cut.value for cut in self._cuts)
        bounds = [self.saving_bound / self.total_weight]
        while not stop():
            found = self._optimum(max(t.loose * (bounds[-1] - best), t.close), stop)
            if found is None:
                return
            upper, x, weights = found
            self._offer(self._cuts, weights, x, report)
            bounds.append(self.saving_bound / self.total_weight)
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

    def _optimum(self, tolerance: float, stop: Callable[[], bool]) -> tuple[float, Float, Float] | None:
        """Maximise the least of all cuts, layer by layer, within the capacities.

        Returns
        -------
        float, float64 array [N, I], float64 array [L, P]
            The maximum (relative to the total weight), where it is, and the weight of each cut in each layer. None
            where there is no time.
        """
        size, room, most = _scaled(self.instance)
        found = maximise(
            [np.array([cut.constant[i] for cut in self._cuts]) for i in range(len(self.layers))],
            [np.array([cut.gradient[:, i] * most[:, i] for cut in self._cuts]) for i in self._items],
            self._items,
            size * most,
            room,
            tolerance,
            stop,
            self.tuning.program,
        )
        return None if found is None else (found.value, found.x, np.array(found.weights))

    def _offer(self, cuts: list[_Cut], weights: Float, x: Float, report: Callable[[int, ConcaveResult], None]) -> None:
        """Take the average of some cuts, weights ``[L, P]``, as the bound if it is better; all in integers."""
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
        gradient = ((sums[0].astype(object) << 26) + sums[1] << 32) + sums[2]
        bound, prices = _maximum(instance, constant, gradient)
        if bound < self.saving_bound:
            points = [
                (cut.smoothing, block_weight.tolist(), cut.units)
                for cut, block_weight in zip(cuts, block_weights, strict=True)
                if block_weight.any()
            ]
            self.best = ConcaveResult(instance, bound, points, prices, x)
            report(bound, self.best)


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


def _rooms(instance: Instance) -> Int64:
    """Return what the experts on each server can fill at most, bytes: all sums of sizes are multiples of one unit."""
    unit = np.gcd.reduce(instance.item_bytes, initial=0) or 1
    return instance.capacity_bytes // unit * unit


def _scaled(instance: Instance) -> tuple[Float, Float, Float]:
    """Return sizes and rooms relative to the largest expert, and which experts fit: 0 or 1, [N, I]."""
    sizes, rooms = instance.item_bytes, _rooms(instance)
    largest = int(sizes.max(initial=1))
    most = (sizes[None, :] <= rooms[:, None]).astype(np.float64)
    return sizes / largest, np.minimum(rooms / largest, sizes.sum(dtype=np.float64) / largest), most


def _maximum(instance: Instance, constant: int, gradient: npt.NDArray[np.object_]) -> tuple[int, list[int]]:
    """Return a bound on the maximum of a cut within the capacities, token-ns, and the prices that prove it."""
    sizes = instance.item_bytes.tolist()
    total = constant * PRICE_UNIT
    prices = []
    for values, room in zip(gradient.tolist(), _rooms(instance).tolist(), strict=True):
        fitting = [(value, size) for value, size in zip(values, sizes, strict=True) if size <= room]
        price = _price(fitting, room)
        prices.append(price)
        total += price * room + sum(max(0, value * PRICE_UNIT - price * size) for value, size in fitting)
    return total // (PRICE_UNIT * WEIGHT_UNIT << SHARE_BITS), prices


def _price(fitting: list[tuple[int, int]], room: int) -> int:
    """Return the price of a byte, in price units, at which the best fractional filling is just within the room."""
    left = room
    for value, size in sorted(fitting, key=lambda item: item[0] / item[1], reverse=True):
        left -= size
        if left < 0 or value == 0:
            return value * PRICE_UNIT // size
    return 0


class _Search:
    """Accelerated gradient ascent on the smoothed function, in floats; all values relative to the total weight."""

    def __init__(self, bound: ConcaveBound) -> None:
        self._bound = bound
        self._size, self._capacity, self._most = _scaled(bound.instance)
        scale = 1 / bound.total_weight
        self._weight = {id(layer): (layer.weight * scale).astype(np.float32) for layer in bound.layers}
        self.x: Float = np.minimum(1, self._capacity[:, None] / self._size.sum()) * self._most
        k = kernels()
        metric = np.zeros_like(self.x)

        def curvature(layer: LayerTerms) -> None:
            n_experts = layer.items.stop - layer.items.start
            weight = self._weight[id(layer)]
            metric[:, layer.items] = k.curvature(layer.experts, layer.size, layer.start, weight, layer.level, n_experts)

        bound.each(curvature)
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
            following = kernels().project(y + gradient / metric, metric, self._size, self._capacity, self._most)
            grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            y = np.clip(following + (momentum - 1) / grown * (following - x), 0, 1)
            self.x = x = following
            momentum = grown

    def _pass(self, x: Float, mu: float) -> Float:
        """Return the gradient at a point."""
        k = kernels()
        gradient = np.zeros_like(x)

        def one(layer: LayerTerms) -> None:
            at = np.ascontiguousarray(x[:, layer.items], dtype=np.float32)
            weight = self._weight[id(layer)]
            gradient[:, layer.items] = k.smooth(layer.experts, layer.size, layer.start, weight, layer.level, at, mu)

        self._bound.each(one)
        return gradient
