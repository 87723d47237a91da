"""How long it takes to have one expert run somewhere else: radio, backhaul, wide area.

The token's hidden state goes up, the expert runs, a result of the same size comes down. Every parameter
below has its unit in its name and its origin beside it; those without a citation are assumptions, stated as such in
the README of the instances. Each *part* of a path (radio, backhaul, wide area) is rounded to whole
``GRID_US`` by itself, so that two users at one station see the same differences between servers.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

GRID_US: Final = 50
"""Times are multiples of this: keeps costs small integers (see the README)."""

# Radio: 3GPP TR 38.901 V16.1, Table 7.4.1-1, UMi street canyon, NLOS (optional form), heights of Table 7.2-1.
CARRIER_GHZ: Final = 3.5  # band n78
PATH_LOSS_AT_1M_1GHZ_DB: Final = 32.4
PATH_LOSS_DB_PER_DECADE: Final = 31.9  # exponent 3.19
STATION_HEIGHT_M: Final = 10.0
DEVICE_HEIGHT_M: Final = 1.5
DEVICE_POWER_DBM: Final = 23.0  # 3GPP TS 38.101-1, power class 3
STATION_POWER_DBM: Final = 33.0  # 3GPP TR 38.802, micro station
THERMAL_NOISE_DBM_PER_HZ: Final = -174.0  # at 290 K
STATION_NOISE_FIGURE_DB: Final = 5.0  # 3GPP TR 38.802
DEVICE_NOISE_FIGURE_DB: Final = 9.0  # 3GPP TR 38.802
BANDWIDTH_HZ: Final = 20_000_000  # one user's share; assumption
MOST_BIT_PER_S_HZ: Final = 7.4063  # 256-QAM, 3GPP TS 38.214, Table 5.1.3.1-2
ACCESS_US: Final = 500  # user-plane delay a direction: the URLLC target of 3GPP TR 38.913, section 7.5

# Backhaul between stations: fibre along a minimum spanning tree.
FIBRE_M_PER_US: Final = 200.0  # light in glass, two thirds of c
FIBRE_DETOUR: Final = 1.5  # street route over straight line; assumption
LINK_BIT_PER_US: Final = 1_000.0  # 1 Gbit/s; assumption
HOP_US: Final = 100  # switching and forwarding, a hop and direction; assumption

# Wide area and compute.
WAN_ROUND_TRIP_US: Final = 12_000  # Melbourne to a data centre in Sydney and back; assumption
EDGE_COMPUTE_US: Final = 50  # read 13 MB of weights at 300 GB/s (a small inference GPU); assumption
CLOUD_COMPUTE_US: Final = 0  # below the rounding
DEVICE_US: Final = 1_000  # not used: no device holds experts in this set

Int64 = npt.NDArray[np.int64]


def grid(us: float) -> int:
    """Round microseconds to the grid and return nanoseconds."""
    return 1000 * GRID_US * math.floor(us / GRID_US + 0.5)


def path_loss_db(distance_m: float) -> float:
    """Return the UMi path loss over a distance on the ground, dB."""
    slant_m = math.hypot(distance_m, STATION_HEIGHT_M - DEVICE_HEIGHT_M)
    return PATH_LOSS_AT_1M_1GHZ_DB + 20 * math.log10(CARRIER_GHZ) + PATH_LOSS_DB_PER_DECADE * math.log10(slant_m)


def rate_bit_per_us(distance_m: float, power_dbm: float, noise_figure_db: float) -> float:
    """Return the Shannon rate of a link, at most that of the best modulation, bit/us."""
    noise_dbm = THERMAL_NOISE_DBM_PER_HZ + 10 * math.log10(BANDWIDTH_HZ) + noise_figure_db
    snr = 10 ** ((power_dbm - path_loss_db(distance_m) - noise_dbm) / 10)
    return BANDWIDTH_HZ / 1e6 * min(math.log2(1 + snr), MOST_BIT_PER_S_HZ)


def access_ns(distance_m: float, bits: int) -> int:
    """Return the time for ``bits`` up to the user's station and ``bits`` down again, ns."""
    up = bits / rate_bit_per_us(distance_m, DEVICE_POWER_DBM, STATION_NOISE_FIGURE_DB)
    down = bits / rate_bit_per_us(distance_m, STATION_POWER_DBM, DEVICE_NOISE_FIGURE_DB)
    return grid(2 * ACCESS_US + up + down)


def backhaul_ns(stations_m: Int64, bits: int) -> Int64:
    """Return the time for ``bits`` from each station to each other and back, ns, int64 [N, N].

    Parameters
    ----------
    stations_m : int64 array [N, 2]
        Positions, whole metres.
    bits : int
        Size of the message in each direction.
    """
    n = len(stations_m)
    us = np.full((n, n), math.inf)
    np.fill_diagonal(us, 0.0)
    for a, b, metres in _spanning_tree(stations_m):
        us[a, b] = us[b, a] = 2 * (metres * FIBRE_DETOUR / FIBRE_M_PER_US + bits / LINK_BIT_PER_US + HOP_US)
    for via in range(n):  # Floyd and Warshall
        us = np.minimum(us, us[:, via, None] + us[None, via, :])
    return np.array([[grid(value) for value in row] for row in us.tolist()], dtype=np.int64)


def cloud_ns(bits: int) -> int:
    """Return the time from any station to the cloud and back, expert included, ns."""
    return grid(WAN_ROUND_TRIP_US + 2 * bits / LINK_BIT_PER_US + CLOUD_COMPUTE_US)


def _spanning_tree(points_m: Int64) -> list[tuple[int, int, float]]:
    """Return the edges (a, b, metres) of a minimum spanning tree, by Prim; ties go to the lower numbers."""
    square = distance_squared(points_m, points_m)
    inside, edges = [0], []
    while len(inside) < len(points_m):
        outside = [b for b in range(len(points_m)) if b not in inside]
        length, a, b = min((int(square[a, b]), a, b) for a in inside for b in outside)
        edges.append((a, b, math.sqrt(length)))
        inside.append(b)
    return edges


def distance_squared(a: Int64, b: Int64) -> Int64:
    """Return squared distances between two lists of points, m^2, int64 [A, B]: exact integers."""
    return ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
