"""Filling one server: value functions of layers combined by max-plus convolution.

A layer is worth ``values[q]`` with ``q`` experts of ``size`` bytes. The server's problem is::

    maximise  sum over layers of values_l[q_l]   subject to   sum of size_l * q_l <= capacity

Value functions of one size are combined two by two, ``h(q) = max_a f(a) + g(q - a)`` (S4), on the grid of that size:
this is the knapsack dynamic program, and where both are concave the two lists of increments are merged in linear time.
Different sizes meet as lists of (bytes, value) in which every entry is worth more than all that take less, so memory
follows the number of distinct fillings, not the bytes. The last two lists are only scanned for the best pair.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int64
from moeplace.caching.saving import kernels

MOST_ENTRIES = 1 << 20
"""Entries of a list of (bytes, value) above which it is thinned out even if exactness was asked for."""

Counts: TypeAlias = list[tuple[int, int]]


@dataclass(frozen=True)
class Filling:
    """How many experts of each layer a server takes.

    Attributes
    ----------
    counts : list of int
        Experts of each layer.
    value : int
        Sum of the layers' values.
    ratio : float
        The value is at least this share of the best possible one (1.0: optimal).
    """

    counts: list[int]
    value: int
    ratio: float


@dataclass(frozen=True, eq=False)
class _Node:
    """A combination: entry ``i`` takes ``weight[i]``, is worth ``value[i]``, comes from ``left[i]``, ``right[i]``."""

    weight: Int64
    value: Int64
    left: npt.NDArray[np.int64] | None = None
    right: npt.NDArray[np.int64] | None = None
    parts: tuple[_Node, _Node] | None = None
    layer: int = -1

    def counts(self, entry: int) -> Counts:
        """Return the (layer, number of experts) pairs of an entry."""
        found: Counts = []
        pending = [(self, entry)]
        while pending:
            node, i = pending.pop()
            if node.parts is None:
                found.append((node.layer, i))
            else:
                assert node.left is not None
                assert node.right is not None
                pending += [(node.parts[0], int(node.left[i])), (node.parts[1], int(node.right[i]))]
        return found


def fill(functions: Sequence[Int64], sizes: Sequence[int], capacity: int, epsilon: float = 0.0) -> Filling:
    r"""Choose how many experts of each layer a server takes.

    Parameters
    ----------
    functions : sequence of int64 array
        ``values[q]`` for ``q = 0, 1, ...``, not negative, never decreasing. Their last values sum to less than 2**63.
    sizes : sequence of int
        Bytes of one expert of each layer.
    capacity : int
        Bytes.
    epsilon : float
        The value is at least ``1 - epsilon`` of the best; 0 asks for the best itself.

    Returns
    -------
    Filling

    Notes
    -----
    With one or two sizes the result is exact for every ``epsilon``. With ``m > 2`` sizes, each of the ``m - 2`` lists
    that are formed on the way is thinned out with ``delta = epsilon / (m - 2)``: in order of bytes, an entry is
    dropped if ``(1 - delta)`` times its value is not more than the last kept one's. For every dropped entry there is
    then a kept one with no more bytes and at least ``1 - delta`` of its value (C). Let an optimal filling take the
    entry ``(b, v)`` of a list's two parts together. By induction over the lists: if the parts hold entries with no more
    bytes than the optimal filling's and at least ``(1 - delta)^i`` and ``(1 - delta)^j`` of its values, where ``i`` and
    ``j`` count the thinnings below, then their sum is a candidate of the list with no more bytes and at least
    ``(1 - delta)^(i + j)`` of the value, and by (C) an entry with ``(1 - delta)^(i + j + 1)`` of it survives. At the
    end ``i + j <= m - 2``, and ``(1 - delta)^(m - 2) >= 1 - (m - 2) delta = 1 - epsilon`` (Bernoulli).

    A list of more than :data:`MOST_ENTRIES` entries is thinned out with the smallest power of two times 2^-40 that is
    enough; :attr:`Filling.ratio` accounts for it.
    """
    fits = [(layer, size) for layer, size in enumerate(sizes) if 0 < size <= capacity]
    counts = [0] * len(functions)
    base = sum(int(values[0]) for values in functions)
    nodes = [
        _one_size([(layer, functions[layer] - functions[layer][0]) for layer, s in fits if s == size], size, capacity)
        for size in sorted({size for _, size in fits})
    ]
    if not nodes:
        return Filling(counts, base, 1.0)
    thinnings = len(nodes) - 2
    delta = epsilon / thinnings if thinnings > 0 else 0.0
    ratio = 1.0
    queue = [(len(node.value), i, node) for i, node in enumerate(nodes)]
    heapq.heapify(queue)
    for i in range(thinnings):
        (_, _, a), (_, _, b) = heapq.heappop(queue), heapq.heappop(queue)
        node, kept = _merge(a, b, capacity, delta)
        ratio *= kept
        heapq.heappush(queue, (len(node.value), len(nodes) + i, node))
    chosen: Counts
    if len(queue) == 1:
        best = int(np.argmax(nodes[0].value))  # the first of equals: no bytes for nothing
        chosen, value = nodes[0].counts(best), int(nodes[0].value[best])
    else:
        a, b = queue[0][2], queue[1][2]
        # The most valuable entry of b beside each entry of a is the last one that fits.
        beside = np.searchsorted(b.weight, capacity - a.weight, side="right") - 1
        total = a.value + b.value[beside]
        best = int(np.argmax(total))
        chosen, value = a.counts(best) + b.counts(int(beside[best])), int(total[best])
    for layer, count in chosen:
        counts[layer] = count
    return Filling(counts, base + value, ratio)


def _one_size(functions: list[tuple[int, Int64]], size: int, capacity: int) -> _Node:
    """Combine the value functions of one size, halves first, on the grid of that size."""
    most = capacity // size
    level = [_grid(values[: most + 1], size, layer=layer) for layer, values in functions]
    while len(level) > 1:
        level = [
            _convolved(level[i], level[i + 1], size, most) if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
    return level[0]


def _grid(values: Int64, size: int, layer: int = -1) -> _Node:
    return _Node(np.arange(len(values)) * size, values, layer=layer)


def _convolved(a: _Node, b: _Node, size: int, most: int) -> _Node:
    length = min(most + 1, len(a.value) + len(b.value) - 1)
    f, g = np.diff(a.value), np.diff(b.value)
    if np.all(f[1:] <= f[:-1]) and np.all(g[1:] <= g[:-1]):
        # Both concave: the best first increments of both are the best increments, and both come sorted already.
        steps = np.argsort(-np.concatenate((f, g)), kind="stable")[: length - 1]
        left = np.concatenate(([0], np.cumsum(steps < len(f))))
        value = a.value[left] + b.value[np.arange(length) - left]
    else:
        value, left = kernels().convolve(a.value, b.value, length)
    return _Node(np.arange(length) * size, value, left, np.arange(length) - left, (a, b))


def _merge(a: _Node, b: _Node, capacity: int, delta: float) -> tuple[_Node, float]:
    """Combine two lists of different sizes; return the list and the share of each value that thinning has kept."""
    if len(a.value) > len(b.value):
        a, b = b, a
    weight = np.zeros(0, dtype=np.int64)
    value, left, right = weight, weight, weight
    # In chunks, so that the candidates never take much more memory than the entries that remain.
    chunk = max(1, 4 * MOST_ENTRIES // len(b.value))
    for first in range(0, len(a.value), chunk):
        rows = slice(first, first + chunk)
        i, j = np.nonzero(b.weight <= capacity - a.weight[rows, None])
        weight = np.concatenate((weight, a.weight[rows][i] + b.weight[j]))
        value = np.concatenate((value, a.value[rows][i] + b.value[j]))
        left, right = np.concatenate((left, i + first)), np.concatenate((right, j))
        order = np.lexsort((-value, weight))
        best = np.maximum.accumulate(value[order])
        keep = order[np.concatenate(([True], best[1:] > best[:-1]))]
        weight, value, left, right = weight[keep], value[keep], left[keep], right[keep]
    keep = _thinned(value, delta)
    needed = 2.0**-40
    while len(keep) > MOST_ENTRIES:
        keep, delta = _thinned(value, needed), max(delta, needed)
        needed *= 2
    return _Node(weight[keep], value[keep], left[keep], right[keep], (a, b)), max(0.0, 1.0 - delta)


def _thinned(value: Int64, delta: float) -> npt.NDArray[np.int64]:
    """Return the entries to keep so that each dropped one has a kept one before it of at least 1 - delta its value."""
    if delta <= 0:
        return np.arange(len(value))
    # The margin is more than what rounding in floating point can do.
    kept: npt.NDArray[np.int64] = kernels().thinned(value, delta * 0.999)
    return kept
