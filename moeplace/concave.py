"""An upper bound on the saving of every placement that is proven in integers and needs no solver: the concave bound.

Fold the rows of an instance into terms ``W * [every expert of S is cached within the radius set R]`` (formulation,
section 3.1). With ``x(R, e)`` the number of copies of ``e`` within ``R``, every placement saves at most::

    Phi(x) = sum over terms of  W * min(1, min over e in S of x(R, e))

a concave function. For any multipliers ``alpha >= 0`` with ``alpha_1 + sum over e in S of alpha_e = 1`` in each term,
``Phi(x) <= c + G . x`` with ``c = sum W alpha_1`` and ``G[n, e] = sum over R with n, S with e of W alpha_e``: a *cut*.
So no placement saves more than ``c`` plus the most valuable fractional filling of each server at values ``G``. The
multipliers are taken at a fractional placement ``x``, by :func:`moeplace.verification.shares`, so that ``x`` and one
number, the smoothing, are all that a certificate needs to hold. The search for a good ``x`` is in floats; a bound is
only ever reported from integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from moeplace.certificates import Certificate, Cut, Point
from moeplace.incremental import Layer, SavingForm
from moeplace.instance import Instance, Int32, Int64
from moeplace.keys import row_keys

A = TypeVar("A")
Float = npt.NDArray[np.float64]

UNIT: Final = 2**15
"""What stands for 1 in a certificate's placements."""

PRICE_UNIT: Final = 2**20


def kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second."""
    from moeplace import _concave_kernels

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
    chain : int32 array [A]
    weight : int64 array [A, J]
        Token-ns; 0 where a chain is shorter.
    level : int64 array [C, N]
        The radius set of a chain with which a server comes in; ``J`` where it never does.
    """

    items: slice
    experts: Int32
    size: Int32
    chain: Int32
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
        chain=chain[rows],
        weight=np.add.reduceat(weight[order], first) if len(rows) else weight,
        level=level.astype(np.int64),
    )


class _Oracle(NamedTuple):
    """The smoothed function at a point: gradient [N, I], constant, value, and the function without smoothing."""

    gradient: Float
    constant: float
    smoothed: float
    value: float


class ConcaveBound:
    """The best bound on the saving so far, and how to improve it; usable at any moment.

    Parameters
    ----------
    form : SavingForm
        The instance in saving form.
    threads : int
        Threads that :meth:`improve` uses.

    Attributes
    ----------
    instance : Instance
    saving_bound : int
        No placement saves more, token-ns. Exact, always valid, only ever falls.
    x : float64 array [N, I]
        The fractional placement at which the present cut was taken: between 0 and 1, about within the capacities.
    prices : float64 array [N]
        What a byte of each server is worth, token-ns, by the present cut.
    """

    def __init__(self, form: SavingForm, threads: int = 1) -> None:
        self.instance: Instance = form.instance
        self.layers = [layer_terms(layer) for layer in form.layers]
        self._threads = threads
        self._total = sum(layer.total_weight for layer in self.layers)
        scale = 1 / max(self._total, 1)
        self._weights = [(layer.weight * scale).astype(np.float32) for layer in self.layers]
        sizes, capacity = self.instance.item_bytes, self.instance.capacity_bytes
        largest = int(sizes.max(initial=1))
        self._size = sizes / largest
        self._capacity = capacity / largest
        self._most = (sizes[None, :] <= capacity[:, None]).astype(np.float64)
        # No placement saves more than all servers holding everything do: the cut of alpha_1 = 1 everywhere.
        self.x: Float = np.ones((len(capacity), self.instance.n_items))
        self._smoothing = 0
        self.saving_bound = self._total
        self.prices: Float = np.zeros(len(capacity))
        self._price_units = [0] * len(capacity)

    @property
    def bound_ns(self) -> int:
        """No placement costs less, token-ns."""
        return max(0, self.instance.baseline_ns - self.saving_bound)

    def certificate(self) -> Certificate:
        """Return what proves :attr:`bound_ns`."""
        instance = self.instance
        point = Point.make(self._smoothing, [1] * instance.n_blocks, _units(self.x))
        return Certificate.make(instance, self.bound_ns, Cut(UNIT, [point], 1, self._price_units, PRICE_UNIT))

    def improve(self, stop: Callable[[], bool], report: Callable[[int, ConcaveBound], None] | None = None) -> None:
        """Improve the bound until it hardly moves any more or somebody says stop.

        Parameters
        ----------
        stop : callable
            Asked after every pass over the terms; True ends the work.
        report : callable, optional
            Told of every better bound, with this object: its attributes then belong to that bound.
        """
        if not self._total:
            return
        work = _Ascent(self)
        best = math.inf
        for mu in (0.1, 0.03, 0.01, 0.004):
            for x, oracle in work.at_smoothing(mu, 150):
                bound = oracle.constant + work.knapsack(oracle.gradient)
                if bound < best - 1e-3:
                    best = bound
                    if self._take(x, max(1, round(mu * UNIT))) and report is not None:
                        report(self.saving_bound, self)
                if stop():
                    return

    def _take(self, x: Float, smoothing: int) -> bool:
        """Compute the cut at a point in integers and keep it if it is better."""
        units = _units(x).astype(np.int64)
        constant, gradient = self._cut(units, smoothing)
        bound, prices = self._maximum(constant, gradient)
        if bound >= self.saving_bound:
            return False
        self.x, self._smoothing, self.saving_bound = units / UNIT, smoothing, bound
        self._price_units = prices
        self.prices = np.array(prices, dtype=np.float64) / (PRICE_UNIT << kernels().SHARE_BITS)
        return True

    def _cut(self, units: Int64, smoothing: int) -> tuple[int, npt.NDArray[np.object_]]:
        """Return constant and gradient [N, I] of a cut, Python ints in units of ``2**-SHARE_BITS`` token-ns."""
        k = kernels()
        constant = 0
        gradient = np.zeros(units.shape, dtype=object)

        def cut(layer: LayerTerms) -> tuple[int, Int64]:
            table = k.spread(np.ascontiguousarray(units[:, layer.items]), layer.level, layer.steps)
            total, high, low = k.exact(
                layer.experts, layer.size, layer.chain, layer.weight, table, layer.steps, UNIT, smoothing
            )
            return (int(high) << 32) + int(low), k.collect_exact(total, layer.level, layer.steps)

        for layer, (part, halves) in zip(self.layers, self._each(cut), strict=True):
            constant += part
            gradient[:, layer.items] = halves[0].astype(object) * 2**32 + halves[1].astype(object)
        return constant, gradient

    def _maximum(self, constant: int, gradient: npt.NDArray[np.object_]) -> tuple[int, list[int]]:
        """Return a bound on the maximum of a cut within the capacities, token-ns, and the prices that prove it."""
        instance = self.instance
        sizes = instance.item_bytes.tolist()
        unit = math.gcd(*sizes) if sizes else 1
        total = constant * PRICE_UNIT
        prices = []
        for n, capacity in enumerate(instance.capacity_bytes.tolist()):
            room = capacity // unit * unit
            values = gradient[n].tolist()
            price = _price(values, sizes, room)
            prices.append(price)
            total += price * room + sum(
                max(0, value * PRICE_UNIT - price * size)
                for value, size in zip(values, sizes, strict=True)
                if size <= room
            )
        return total // (PRICE_UNIT << kernels().SHARE_BITS), prices

    def _each(self, function: Callable[[LayerTerms], A]) -> list[A]:
        if self._threads == 1:
            return [function(layer) for layer in self.layers]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(function, self.layers))


def _units(x: Float) -> npt.NDArray[np.uint16]:
    return np.clip(np.rint(x * UNIT), 0, UNIT).astype(np.uint16)


def _price(values: list[int], sizes: list[int], room: int) -> int:
    """Return the price of a byte at which the best fractional filling is just within the room, in price units."""
    left = room
    fitting = [(value / size, i) for i, (value, size) in enumerate(zip(values, sizes, strict=True)) if size <= room]
    for _, i in sorted(fitting, reverse=True):
        if values[i] <= 0:
            return 0
        left -= sizes[i]
        if left < 0:
            return values[i] * PRICE_UNIT // sizes[i]
    return 0


class _Ascent:
    """Accelerated gradient ascent on the smoothed function, in floats."""

    def __init__(self, bound: ConcaveBound) -> None:
        self._bound = bound
        k = kernels()
        size, capacity = bound._size, bound._capacity
        self.x: Float = np.minimum(1, capacity[:, None] / max(size.sum(), 1e-9)) * bound._most
        metric = np.zeros_like(self.x)
        for layer, weight in zip(bound.layers, bound._weights, strict=True):
            within = (layer.level[:, :, None] <= np.arange(layer.steps)).sum(axis=1).astype(np.float32)
            shape = (layer.items.stop - layer.items.start, len(layer.level) * layer.steps)
            table = k.curvature(layer.experts, layer.size, layer.chain, weight, shape, layer.steps, within)
            metric[:, layer.items] = k.collect(table, layer.level, layer.steps)
        self._metric = np.maximum(metric, 1e-6 * metric.max(initial=1e-9))

    def knapsack(self, gradient: Float) -> float:
        """Return the most valuable fractional filling."""
        bound = self._bound
        total = 0.0
        for values, capacity, most in zip(gradient, bound._capacity, bound._most, strict=True):
            order = np.argsort(-values / bound._size * most)
            size = bound._size[order]
            taken = np.clip((capacity - np.cumsum(size) + size) / size, 0, 1) * most[order]
            total += float(taken @ values[order])
        return total

    def oracle(self, x: Float, mu: float) -> _Oracle:
        """Evaluate the smoothed function."""
        bound, k = self._bound, kernels()
        weight_of = dict(zip(map(id, bound.layers), bound._weights, strict=True))
        gradient = np.zeros_like(x)

        def one(layer: LayerTerms) -> tuple[float, float]:
            table = k.spread(np.ascontiguousarray(x[:, layer.items], dtype=np.float32), layer.level, layer.steps)
            weight = weight_of[id(layer)]
            total, constant, value, _ = k.smooth(layer.experts, layer.size, layer.chain, weight, table, layer.steps, mu)
            gradient[:, layer.items] = k.collect(total, layer.level, layer.steps)
            return constant, value

        parts = bound._each(one)
        constant, value = (float(sum(column)) for column in zip(*parts, strict=True))
        return _Oracle(gradient, constant, 0.0, value)

    def at_smoothing(self, mu: float, most: int) -> Iterator[tuple[Float, _Oracle]]:
        """Yield the points of an ascent with one smoothing."""
        bound = self._bound
        x = y = self.x
        momentum = 1.0
        metric = self._metric / mu
        for _ in range(most):
            oracle = self.oracle(y, mu)
            yield y, oracle
            following = kernels().project(
                y + oracle.gradient / metric, metric, bound._size, bound._capacity, bound._most
            )
            if float((oracle.gradient * (following - x)).sum()) < 0:
                momentum = 1.0
            grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            y = np.clip(following + (momentum - 1) / grown * (following - x), 0, 1)
            x, momentum = following, grown
            self.x = x
