"""The compiled inner loops of :mod:`moeplace.caching.bounds.concave`, which alone imports them, when it runs.

Names: ``experts [A, K]`` experts of each row of a layer, of which the first ``size [A]`` count; rows ``start[c]`` to
``start[c + 1]`` are those of chain ``c``, the radius sets that their demands see, nearest first; ``level [C, N]`` from
which step of a chain on a server belongs to it (``J``: never); ``weight [A, J]`` of a row at each step; ``x [N, E]`` a
fractional placement. Chain by chain a small ``table [E, J]`` holds how much of each expert lies within each radius set,
so that what the rows look up stays in the cache. Some rows of a chain at a time are laid out one after the other, all
their steps in one line for each place in a row: loops over these lines are long and without branches, so that the
compiler turns them into vector instructions.
"""

from __future__ import annotations

import numpy as np

from moeplace.base.compiled import compiled, vectorised
from moeplace.caching.certificates import SHARE_BITS

MASK = (1 << 32) - 1

ROWS = 16
"""Rows laid out at a time: their lines stay in the nearest cache."""

CARRIED = 1 << 8
"""Rows of which the low halves of a sum are added up before they are carried: below ``2**63`` for up to ``2**11``."""


@compiled
def expand(experts, group, count, order, rank, near, floor, steps):
    """Split rows into terms: return (experts, size, chain, weight) of rows whose steps ask for the same experts.

    ``order [G]`` is the chain of a group, ``rank [G, N]`` the step at which a server comes in, ``near [G, N]`` what it
    saves. A row whose experts are partly on the group's device (``floor``) becomes several: for every saving per token
    ``s``, the experts that are asked for are those of which the device saves less than ``s``.
    """
    n_rows, width = experts.shape
    n_servers = near.shape[1]
    n_groups = len(order)
    value = np.zeros((n_groups, steps + 1), np.int64)
    for g in range(n_groups):
        for n in range(n_servers):
            if rank[g, n] < steps:
                value[g, rank[g, n]] = near[g, n]
    total = 0
    for turn in range(2):
        if turn == 1:
            new_experts = np.empty((total, width), np.int32)
            size = np.empty(total, np.int32)
            chain = np.empty(total, np.int32)
            weight = np.zeros((total, steps), np.int64)
        total = 0
        at = np.empty(width, np.int32)
        for r in range(n_rows):
            g = group[r]
            m = 0
            for k in range(width):
                e = experts[r, k]
                if k > 0 and e == experts[r, 0]:
                    continue
                j = m
                while j > 0 and floor[g, at[j - 1]] > floor[g, e]:
                    at[j] = at[j - 1]
                    j -= 1
                at[j] = e
                m += 1
            for i in range(m):
                low = floor[g, at[i]]
                high = value[g, 0] if i == m - 1 else min(value[g, 0], floor[g, at[i + 1]])
                if high <= low:
                    continue
                if turn == 1:
                    members = np.sort(at[: i + 1])
                    for k in range(width):
                        new_experts[total, k] = members[k] if k <= i else members[0]
                    size[total] = i + 1
                    chain[total] = order[g]
                    for j in range(steps):
                        if value[g, j] == 0:
                            break
                        width_here = min(high, value[g, j]) - max(low, value[g, j + 1])
                        if width_here > 0:
                            weight[total, j] = count[r] * width_here
                total += 1
    return new_experts, size, chain, weight


@compiled
def spread(x, level, table):
    """Fill the table of a chain."""
    n_experts, steps = table.shape
    table[:] = 0
    for n in range(len(x)):
        if level[n] < steps:
            for e in range(n_experts):
                table[e, level[n]] += x[n, e]
    for e in range(n_experts):
        for j in range(1, steps):
            table[e, j] += table[e, j - 1]


@compiled
def collect(total, level, gradient):
    """Add to ``gradient [N, E]`` the sums of a chain's ``total [E, J]`` over the radius sets that hold the server."""
    n_experts, steps = total.shape
    for e in range(n_experts):
        for j in range(steps - 2, -1, -1):
            total[e, j] += total[e, j + 1]
    for n in range(len(gradient)):
        if level[n] < steps:
            for e in range(n_experts):
                gradient[n, e] += total[e, level[n]]


@compiled
def collect_exact(total, level, gradient):
    """Do what :func:`collect` does with sums in two halves, ``total [2, E, J]`` and ``gradient [2, N, E]``."""
    n_experts, steps = total.shape[1:]
    for e in range(n_experts):
        for j in range(steps - 2, -1, -1):
            low = total[1, e, j] + total[1, e, j + 1]
            total[0, e, j] += total[0, e, j + 1] + (low >> 32)
            total[1, e, j] = low & MASK
    for n in range(gradient.shape[1]):
        if level[n] < steps:
            for e in range(n_experts):
                low = gradient[1, n, e] + total[1, e, level[n]]
                gradient[0, n, e] += total[0, e, level[n]] + (low >> 32)
                gradient[1, n, e] = low & MASK


@compiled
def steps_of(level, most):
    """Return how many radius sets a chain has, of ``level [N]``: the steps after them have no weight."""
    steps = 0
    for n in range(len(level)):
        if level[n] < most:
            steps = max(steps, level[n] + 1)
    return steps


@vectorised
def look_up(experts, size, table, first, rows, far, z):
    """Copy what the table says of the experts of ``rows`` rows, one after the other, into ``z [K, rows * J]``.

    What is missing to the widest row is ``far``.
    """
    steps = table.shape[1]
    for i in range(rows):
        at = i * steps
        for k in range(experts.shape[1]):
            if k < size[first + i]:
                e = np.uint32(experts[first + i, k])
                for j in range(steps):
                    z[k, at + j] = table[e, j]
            else:
                for j in range(steps):
                    z[k, at + j] = far


@vectorised
def smooth(experts, size, start, weight, level, x, mu):
    """Return the gradient of the smoothed concave function of a layer, float64 ``[N, E]``.

    Per term the multipliers are the point of the simplex that minimises ``alpha . z + mu / 2 |alpha|^2``, ``z`` being
    1 and the row's entries of the table: ``alpha = max(0, tau - z) / mu`` with ``tau`` found by Newton's steps from
    above.
    """
    n_servers, n_experts = x.shape
    width, most = experts.shape[1], weight.shape[1]
    gradient = np.zeros((n_servers, n_experts), np.float64)
    one = np.float32(1)
    zero = np.float32(0)
    mu = np.float32(mu)
    far = one + mu + mu  # no tau is as large
    z = np.empty((width, ROWS * most), np.float32)
    tau = np.empty(ROWS * most, np.float32)
    over = np.empty(ROWS * most, np.float32)
    support = np.empty(ROWS * most, np.float32)
    for c in range(len(level)):
        steps = steps_of(level[c], most)
        table = np.empty((n_experts, steps), np.float32)
        total = np.zeros((n_experts, steps), np.float32)
        spread(x, level[c], table)
        for first in range(start[c], start[c + 1], ROWS):
            rows = min(ROWS, start[c + 1] - first)
            lanes = rows * steps
            look_up(experts, size, table, first, rows, far, z)
            for i in range(lanes):
                tau[i] = one
            for k in range(width):
                here = z[k]
                for i in range(lanes):
                    tau[i] = min(tau[i], here[i])
            for i in range(lanes):
                tau[i] += mu
            for _ in range(3):
                for i in range(lanes):
                    d = tau[i] - one
                    over[i] = d if d > zero else zero
                    support[i] = one if d > zero else zero
                for k in range(width):
                    here = z[k]
                    for i in range(lanes):
                        d = tau[i] - here[i]
                        over[i] += d if d > zero else zero
                        support[i] += one if d > zero else zero
                for i in range(lanes):
                    tau[i] -= (over[i] - mu) / support[i]
            for i in range(lanes):
                d = tau[i] - one
                over[i] = d if d > zero else zero
            for k in range(width):
                here = z[k]
                for i in range(lanes):
                    d = tau[i] - here[i]
                    d = d if d > zero else zero
                    over[i] += d
                    here[i] = d
            for i in range(rows):
                for j in range(steps):
                    support[i * steps + j] = weight[first + i, j] / over[i * steps + j]
            for i in range(rows):
                at = i * steps
                for k in range(size[first + i]):
                    e = np.uint32(experts[first + i, k])
                    for j in range(steps):
                        total[e, j] += z[k, at + j] * support[at + j]
        collect(total, level[c], gradient)
    return gradient


@vectorised
def exact(experts, size, start, weight, level, x, unit, mu):
    """Return the cut of a layer in integers: the multipliers that docs/certificates.md defines, summed up.

    ``x`` holds integers, ``unit`` stands for 1. Floats hold whole numbers below ``2**53`` here, and a quotient of
    two of them below ``2**40`` is rounded down correctly: it is either whole or further from the next whole number than
    an error can reach. Every sum is ``high * 2**32 + low`` in units of ``2**-SHARE_BITS``: weights sum to less than
    ``2**63``, so the high halves never overflow. Returns the slopes ``[2, N, E]`` and, by steps, the constant's parts
    ``[2, J]``.
    """
    n_servers, n_experts = x.shape
    width, most = experts.shape[1], weight.shape[1]
    gradient = np.zeros((2, n_servers, n_experts), np.int64)
    constant = np.zeros((2, most), np.int64)
    one = float(unit)
    far = one + 2.0 * mu + 1.0  # no tau is as large
    whole = float(1 << SHARE_BITS)
    z = np.empty((width, ROWS * most), np.float64)
    share = np.empty((width, ROWS * most), np.int32)
    free = np.empty(ROWS * most, np.int32)
    tau = np.empty(ROWS * most, np.float64)
    over = np.empty(ROWS * most, np.float64)
    support = np.empty(ROWS * most, np.float64)
    low = np.empty(ROWS * most, np.float64)
    left = np.empty(ROWS * most, np.int32)
    for c in range(len(level)):
        steps = steps_of(level[c], most)
        values = np.empty((n_experts, steps), np.float64)
        total = np.zeros((2, n_experts, steps), np.int64)
        carried = start[c]
        spread(x, level[c], values)
        for first in range(start[c], start[c + 1], ROWS):
            rows = min(ROWS, start[c + 1] - first)
            lanes = rows * steps
            look_up(experts, size, values, first, rows, far, z)
            for i in range(lanes):
                low[i] = one
            for k in range(width):
                here = z[k]
                for i in range(lanes):
                    low[i] = min(low[i], here[i])
            for i in range(lanes):
                tau[i] = low[i] + mu
            moving = mu > 0
            while moving:
                for i in range(lanes):
                    d = tau[i] - one
                    over[i] = max(d, 0.0)
                    support[i] = 1.0 if d > 0 else 0.0
                for k in range(width):
                    here = z[k]
                    for i in range(lanes):
                        d = tau[i] - here[i]
                        over[i] += max(d, 0.0)
                        support[i] += 1.0 if d > 0 else 0.0
                moved = 0.0
                for i in range(lanes):
                    step = np.floor((over[i] - mu) / support[i])
                    tau[i] -= step
                    moved = max(moved, step)
                moving = moved > 0
            for i in range(lanes):
                over[i] = max(tau[i] - one, 0.0)
            for k in range(width):
                here = z[k]
                for i in range(lanes):
                    over[i] += max(tau[i] - here[i], 0.0)
            for i in range(lanes):
                over[i] = max(over[i], 1.0)
                free[i] = np.int32(max(tau[i] - one, 0.0) * whole / over[i])
                left[i] = np.int32(1 << SHARE_BITS) - free[i]
            for k in range(width):
                here, of_expert = z[k], share[k]
                for i in range(lanes):
                    of_expert[i] = np.int32(max(tau[i] - here[i], 0.0) * whole / over[i])
                    left[i] -= of_expert[i]
            # What rounding leaves goes to the first of the smallest: 1 itself, then the experts in their order.
            for i in range(lanes):
                if low[i] >= one:
                    free[i] += left[i]
                    left[i] = 0
            for k in range(width):
                here, of_expert = z[k], share[k]
                for i in range(lanes):
                    mine = left[i] if here[i] <= low[i] else np.int32(0)
                    of_expert[i] += mine
                    left[i] -= mine
            for i in range(rows):
                at = i * steps
                for j in range(steps):
                    upper, lower = weight[first + i, j] >> 32, weight[first + i, j] & MASK
                    part = constant[1, j] + lower * np.int64(free[at + j])
                    constant[0, j] += upper * np.int64(free[at + j]) + (part >> 32)
                    constant[1, j] = part & MASK
                for k in range(size[first + i]):
                    e = np.uint32(experts[first + i, k])
                    for j in range(steps):
                        part = np.int64(share[k, at + j])
                        total[0, e, j] += (weight[first + i, j] >> 32) * part
                        total[1, e, j] += (weight[first + i, j] & MASK) * part
            if first + rows - carried > CARRIED:
                carry(total)
                carried = first + rows
        carry(total)
        collect_exact(total, level[c], gradient)
    return gradient, constant


@compiled
def carry(total):
    """Bring low halves ``total [1]`` below ``2**32``."""
    n_experts, steps = total.shape[1:]
    for e in range(n_experts):
        for j in range(steps):
            total[0, e, j] += total[1, e, j] >> 32
            total[1, e, j] &= MASK


@compiled
def project(point, metric, size, capacity, most):
    """Return the nearest point within the capacities and between 0 and ``most``, in a diagonal metric."""
    n_servers, n_items = point.shape
    nearest = np.empty_like(point)
    for n in range(n_servers):
        used = 0.0
        high = 0.0
        for i in range(n_items):
            used += size[i] * min(max(point[n, i], 0.0), most[n, i])
            high = max(high, point[n, i] * metric[n, i] / size[i])
        price, low = 0.0, 0.0
        if used > capacity[n]:
            for _ in range(60):
                price = 0.5 * (low + high)
                used = 0.0
                for i in range(n_items):
                    used += size[i] * min(max(point[n, i] - price * size[i] / metric[n, i], 0.0), most[n, i])
                if used > capacity[n]:
                    low = price
                else:
                    high = price
            price = high
        for i in range(n_items):
            nearest[n, i] = min(max(point[n, i] - price * size[i] / metric[n, i], 0.0), most[n, i])
    return nearest


@compiled
def project_slots(point, metric, size, capacity, most, block, slots):
    """Do what :func:`project` does where block ``b`` fills at most ``slots[n, b]``; ``block [B + 1]``: their bounds."""
    n_servers, n_items = point.shape
    nearest = np.empty_like(point)
    for n in range(n_servers):
        high = 0.0
        for i in range(n_items):
            high = max(high, point[n, i] * metric[n, i] / size[i])
        low, price = 0.0, 0.0
        for turn in range(41):
            used = 0.0
            for b in range(len(block) - 1):
                first, last = block[b], block[b + 1]
                filled = fill_slots(point[n], metric[n], size, most[n], first, last, price, slots[n, b], nearest[n])
                used += filled * size[first]
            if turn == 0 and used <= capacity[n]:
                break
            if turn == 40:
                break
            if turn > 0:
                if used > capacity[n]:
                    low = price
                else:
                    high = price
            price = high if turn == 39 else 0.5 * (low + high)
    return nearest


@compiled
def fill_slots(point, metric, size, most, first, last, price, slots, nearest):
    """Fill in a block's part of a projection at a price of a byte; return how much that is."""
    low, high, level = 0.0, 0.0, 0.0
    for i in range(first, last):
        high = max(high, point[i] * metric[i] - price * size[i])
    filled = 0.0
    for turn in range(41):
        filled = 0.0
        for i in range(first, last):
            nearest[i] = min(max(point[i] - (price * size[i] + level) / metric[i], 0.0), most[i])
            filled += nearest[i]
        if turn == 40 or (turn == 0 and filled <= slots):
            break
        if turn > 0:
            if filled > slots:
                low = level
            else:
                high = level
        level = high if turn == 39 else 0.5 * (low + high)
    return filled


@compiled
def curvature(experts, size, start, weight, level, n_experts):
    """Return the sums of ``W |R|`` over the terms that ask for an expert within a radius set with a server, [N, E]."""
    n_servers = level.shape[1]
    steps = weight.shape[1]
    gradient = np.zeros((n_servers, n_experts), np.float64)
    total = np.empty((n_experts, steps), np.float32)
    within = np.empty(steps, np.float32)
    for c in range(len(level)):
        total[:] = 0
        for j in range(steps):
            within[j] = (level[c] <= j).sum()
        for r in range(start[c], start[c + 1]):
            for k in range(size[r]):
                for j in range(steps):
                    total[experts[r, k], j] += weight[r, j] * within[j]
        collect(total, level[c], gradient)
    return gradient
