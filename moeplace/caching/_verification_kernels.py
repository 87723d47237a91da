"""The compiled inner loop of :mod:`moeplace.caching.verification`, in 64-bit integers; only that imports it.

Written for the verifier alone, so that an error in the loops that make certificates cannot hide in those that check.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from moeplace.caching.certificates import SHARE_BITS

HALF = 31


def compiled(function):
    """Compile a function, kept on disk where there is a place to write."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)


@compiled
def shares(values, smoothing, share, ascending):
    """Fill ``share`` with the multipliers of one term, whole numbers of ``2**-SHARE_BITS`` that sum to 1.

    In proportion to ``max(0, tau - values)``, rounded down, where ``tau`` is the least integer at which these sum to at
    least ``smoothing``; what rounding leaves goes to the first of the smallest values. ``ascending`` is scratch space.
    """
    n = len(values)
    smallest = 0
    for k in range(n):
        value = values[k]
        if value < values[smallest]:
            smallest = k
        at = k
        while at > 0 and ascending[at - 1] > value:
            ascending[at] = ascending[at - 1]
            at -= 1
        ascending[at] = value
    # Where only the first k values lie below tau, the sum is k * tau - their sum.
    below, tau = 0, 0
    for k in range(1, n + 1):
        below += ascending[k - 1]
        tau = (smoothing + below + k - 1) // k
        if k == n or tau <= ascending[k]:
            break
    total = 0
    for value in values:
        total += max(0, tau - value)
    left = 1 << SHARE_BITS
    for k in range(n):
        share[k] = ((tau - values[k]) << SHARE_BITS) // total if values[k] < tau else 0
        left -= share[k]
    share[smallest] += left


@compiled
def add_terms(demand, tokens, expert, asked, on_device, radius, width, device, copies, unit, smoothing):
    """Add up the multipliers of all terms of a block's rows, times their weights.

    Returns
    -------
    int64 array [2, R, E], int64 array [2]
        Of every radius set and expert, and of the constant: high and low half, ``high * 2**HALF + low``.
    """
    n_radii, n_experts = copies.shape
    total = np.zeros((2, n_radii, n_experts), np.int64)
    constant = np.zeros(2, np.int64)
    most = asked.shape[1]
    members = np.empty(most, np.int64)
    values = np.empty(most + 1, np.int64)
    share = np.empty(most + 1, np.int64)
    ascending = np.empty(most + 1, np.int64)
    low_bits = (1 << HALF) - 1
    for row in range(len(demand)):
        d = demand[row]
        for j in range(width.shape[1]):
            if width[d, j] == 0:
                break
            r = radius[d, j]
            values[0] = unit
            n = 0
            for k in range(most):
                if asked[row, k] and not (device[d, j] and on_device[row, k]):
                    members[n] = expert[row, k]
                    n += 1
                    values[n] = copies[r, expert[row, k]]
            if n == 0:  # all of them are on the device by now: saved without any server
                continue
            shares(values[: n + 1], smoothing, share, ascending)
            weight = tokens[row] * width[d, j]
            high, low = weight >> HALF, weight & low_bits
            for k in range(n + 1):
                if share[k] == 0:
                    continue
                target = constant if k == 0 else total[:, r, members[k - 1]]
                part = target[1] + low * share[k]
                target[0] += high * share[k] + (part >> HALF)
                target[1] = part & low_bits
    return total, constant
