"""Points, distances and who is near whom, in whole metres."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


EARTH_RADIUS_M: Final = 6_371_000


MOST_SITES: Final = 5000
"""Stations are chosen from at most so many sites: the choice looks at all pairs."""


class Fibre(NamedTuple):
    """A link between two nodes of the backhaul; no rate: the default of :class:`Links`."""

    a: int
    b: int
    metres: float
    bit_per_us: float | None = None


def _spanning_tree(points_m: Int64) -> Iterable[Fibre]:
    """Yield a minimum spanning tree by straight lines; equal lengths are told apart by the order of the points."""
    import networkx as nx

    square = distance_squared(points_m, points_m)
    graph: Any = nx.Graph()
    graph.add_nodes_from(range(len(points_m)))
    graph.add_edges_from((a, b, {"square": int(square[a, b])}) for b in range(len(points_m)) for a in range(b))
    for a, b, data in nx.minimum_spanning_edges(graph, algorithm="kruskal", weight="square"):
        yield Fibre(a, b, math.sqrt(data["square"]))


def distance_squared(a: Int64, b: Int64) -> Int64:
    """Return squared distances between two lists of points, m^2, int64 [A, B]: exact integers."""
    square: Int64 = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    return square


def whole_metres(a: Int64, b: Int64) -> Int64:
    """Return distances between two lists of points rounded down, m, int64 [A, B] (exact up to 2^26 m)."""
    metres: Int64 = np.sqrt(distance_squared(a, b)).astype(np.int64)
    return metres


def great_circle_m(a: tuple[float, float], b: tuple[float, float]) -> int:
    """Return the length of the great circle between two (latitude, longitude), whole metres (haversine formula)."""
    (lat_a, lon_a), (lat_b, lon_b) = ([math.radians(x) for x in point] for point in (a, b))
    h = math.sin((lat_a - lat_b) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_a - lon_b) / 2) ** 2
    return round(2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(h))))


def on_plane(degrees: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> Int64:
    """Return (latitude, longitude) as whole metres east and north of the south-west corner of ``reference``.

    Equirectangular at the middle latitude of ``reference``: within a city right to about a metre.
    """
    low, high = reference.min(axis=0), reference.max(axis=0)
    metres = np.array([1.0, math.cos(math.radians((low[0] + high[0]) / 2))]) * EARTH_RADIUS_M * math.pi / 180
    result: Int64 = np.rint((degrees - low) * metres)[:, ::-1].astype(np.int64)
    return result


def k_median(distance: Int64, number: int) -> list[int]:
    """Choose columns that are near to all rows: by greedy choice, then swaps while they help; ties go to the first.

    Parameters
    ----------
    distance : int64 array [U, S]
        Whole numbers, so that totals and ties are the same everywhere.
    number : int
        How many of the ``S`` to choose.

    Returns
    -------
    list of int
        Ascending, all different.
    """
    far = np.full(len(distance), np.iinfo(np.int64).max // (len(distance) + 1))
    chosen: list[int] = []
    nearest = far
    for _ in range(number):
        total = np.minimum(nearest[:, None], distance).sum(axis=0)
        total[chosen] = np.iinfo(np.int64).max
        chosen.append(int(total.argmin()))
        nearest = np.minimum(nearest, distance[:, chosen[-1]])
    while True:
        best, swap = int(nearest.sum()), None
        for i in range(number):
            rest = [*chosen[:i], *chosen[i + 1 :]]
            others = distance[:, rest].min(axis=1) if rest else far
            total = np.minimum(others[:, None], distance).sum(axis=0)
            total[rest] = np.iinfo(np.int64).max
            if total.min() < best:
                best, swap = int(total.min()), (i, int(total.argmin()))
        if swap is None:
            return sorted(chosen)
        chosen[swap[0]] = swap[1]
        nearest = distance[:, chosen].min(axis=1)


def users_around(station_m: Int64, number: int, radius_m: int, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Draw users uniformly on discs around the stations, dealt to the stations in turn.

    Returns
    -------
    user_m : int64 array [U, 2]
    home : int64 array [U]
        The station of each.
    """
    home = np.arange(number, dtype=np.int64) % len(station_m)
    offset = np.empty((number, 2), dtype=np.int64)
    for u in range(number):
        while True:
            offset[u] = rng.integers(-radius_m, radius_m + 1, 2)
            if int(offset[u, 0]) ** 2 + int(offset[u, 1]) ** 2 <= radius_m**2:
                break
    return station_m[home] + offset, home
