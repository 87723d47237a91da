"""The compiled loops of :mod:`moeplace.caching.layer_verification`, in 64-bit integers; only that imports it.

Written for the verifier alone, so that an error in the loops that make certificates cannot hide in those that check.
``E`` experts in the order in which they are decided, ``Q`` radius sets, ``T`` terms of up to ``K`` members, a *mask*
being a set of servers. Callers see to it that no sum overflows.
"""

from __future__ import annotations

import numpy as np

from moeplace.caching._verification_kernels import compiled
from moeplace.caching.certificates import MANTISSA_BITS, SHARE_BITS

ENDED = 0
PAUSED = 1
FULL = 2


@compiled
def shares(weight, code, length, begin, share):
    """Share the weight of each term out over its members from ``begin`` on, by the rule of docs/certificates.md.

    ``share [T, K]`` is filled; terms of at most ``begin`` members are left out.
    """
    mantissa = 1 << MANTISSA_BITS
    one = 1 << SHARE_BITS
    for t in range(len(weight)):
        share[t, :] = 0
        if length[t] <= begin:
            continue
        largest = begin
        for k in range(begin, length[t]):
            if code[t, k] > code[t, largest]:
                largest = k
        most = code[t, largest] // mantissa
        total = 0
        for k in range(begin, length[t]):
            exponent = SHARE_BITS - (most - code[t, k] // mantissa)
            odds = mantissa + code[t, k] % mantissa
            if exponent >= 0:
                share[t, k] = odds * (1 << exponent)
            elif exponent > -63:
                share[t, k] = odds // (1 << -exponent)
            total += share[t, k]
        left = weight[t]
        for k in range(begin, length[t]):
            part = share[t, k] * one // total
            share[t, k] = weight[t] // one * part + weight[t] % one * part // one
            left -= share[t, k]
        share[t, largest] += left


@compiled
def booked(member, length, radius, share, mass):
    """Add up what is booked with every expert and radius set, ``mass [E, Q]``."""
    for t in range(len(length)):
        for k in range(length[t]):
            mass[member[t, k], radius[t]] += share[t, k]


@compiled
def list_plans(
    # the layer: shares[t, j] is what the members have when the first j of them have hit
    member, length, radius, weight, shares, first_term, term, place,
    # the masks of each expert that count: the radius sets they hit (all bits or none), servers, cost, where they begin
    hit, mask, cost, first, room, slot_price,
    # the state: next mask and chosen one of each depth; masses, values and uses before each depth
    at, chosen, mass, value, used,
    # what is found
    plan_worth, plan_used,
    # numbers: depth, plans, nodes left
    state, threshold,
):  # fmt: skip
    """List all plans worth at least the threshold; may be called again to go on.

    An expert's mass counts while it may still hit. When it does, its shares of terms go on to their other members, and
    the last one makes the term's weight sure; when it misses, all of the term is lost.
    """
    n_experts, n_radii = mass.shape[1], mass.shape[2]
    n_servers = len(room)
    depth = state[0]
    while depth >= 0:
        if state[2] <= 0:
            state[0] = depth
            return PAUSED
        if at[depth] == first[depth + 1]:
            depth -= 1
            continue
        if at[depth] == first[depth]:
            # What the experts after this one may bring on servers that are not full: the same for all its masks.
            full = 0
            for n in range(n_servers):
                if used[depth, n] >= room[n]:
                    full |= 1 << n
            rest = 0
            for e in range(depth + 1, n_experts):
                best = -(1 << 62)
                for c in range(first[e], first[e + 1]):
                    if mask[c] & full:
                        continue
                    worth = -cost[c]
                    for q in range(n_radii):
                        worth += mass[depth, e, q] & hit[c, q]
                    best = max(best, worth)
                if best == -(1 << 62):
                    rest = best
                    break
                rest += best
            value[depth, 1] = rest
            value[depth, 2] = full
        c = at[depth]
        at[depth] += 1
        if value[depth, 1] == -(1 << 62) or mask[c] & value[depth, 2]:
            continue
        bound = value[depth, 0] + value[depth, 1] - cost[c]
        for q in range(n_radii):
            bound += mass[depth, depth, q] & hit[c, q]
        if bound < threshold:
            continue
        state[2] -= 1
        for n in range(n_servers):
            used[depth + 1, n] = used[depth, n] + (mask[c] >> n & 1)
        chosen[depth] = c
        for e in range(depth + 1, n_experts):
            for q in range(n_radii):
                mass[depth + 1, e, q] = mass[depth, e, q]
        sure = value[depth, 0] - cost[c]
        for i in range(first_term[depth], first_term[depth + 1]):
            t, j = term[i], place[i]
            q = radius[t]
            alive = True
            for k in range(j):
                if hit[chosen[member[t, k]], q] == 0:
                    alive = False
                    break
            if not alive:
                continue
            if hit[c, q] == 0:
                for k in range(j + 1, length[t]):
                    mass[depth + 1, member[t, k], q] -= shares[t, j, k]
            elif j + 1 == length[t]:
                sure += weight[t]
            else:
                for k in range(j + 1, length[t]):
                    mass[depth + 1, member[t, k], q] += shares[t, j + 1, k] - shares[t, j, k]
        if depth + 1 == n_experts:
            worth = sure
            for n in range(n_servers):
                worth -= slot_price[n] * (room[n] - used[depth + 1, n])
            if worth < threshold:
                continue
            if state[1] == len(plan_worth):
                at[depth] -= 1
                state[0] = depth
                return FULL
            plan_worth[state[1]] = worth
            for n in range(n_servers):
                plan_used[state[1], n] = used[depth + 1, n]
            state[1] += 1
            continue
        value[depth + 1, 0] = sure
        depth += 1
        at[depth] = first[depth]
    state[0] = -1
    return ENDED


@compiled
def best_worths(value, used, price, best):
    """Fill ``best [K]`` with what no plan of a layer is worth more than at each price ``[K, N]``."""
    for k in range(len(price)):
        for p in range(len(value)):
            worth = value[p]
            for n in range(used.shape[1]):
                worth -= price[k, n] * used[p, n]
            if p == 0 or worth > best[k]:
                best[k] = worth


@compiled
def reaching(value, used, price, others, capacity, goal, keep):
    """Say which plans can be in a combination that reaches the goal; ``others [K]``: what the other layers bring."""
    for p in range(len(value)):
        keep[p] = True
        for k in range(len(price)):
            bound = value[p] + others[k]
            for n in range(used.shape[1]):
                bound += price[k, n] * (capacity[n] - used[p, n])
            if bound < goal:
                keep[p] = False
                break


@compiled
def combine(
    begin,
    state_value,
    state_used,
    plan_value,
    plan_used,
    price,
    after,
    capacity,
    least,
    goal,
    new_value,
    new_used,
    count,
):
    """Add each plan of a layer to the states from ``begin`` on; keep what fits and may still reach the goal.

    ``after [K]``: what the layers that follow bring at each price; ``least [N]``: what counts as used at least, since
    the layers that follow cannot take the rest. Returns the first state that there was no more room for.
    """
    n_servers = len(capacity)
    open_worth = np.empty(len(price), np.int64)
    for s in range(begin, len(state_value)):
        if count[0] + len(plan_value) > len(new_value):
            return s
        for k in range(len(price)):
            open_worth[k] = state_value[s] + after[k]
            for n in range(n_servers):
                open_worth[k] += price[k, n] * (capacity[n] - state_used[s, n])
        for p in range(len(plan_value)):
            keeps = True
            for n in range(n_servers):
                if state_used[s, n] + plan_used[p, n] > capacity[n]:
                    keeps = False
                    break
            if not keeps:
                continue
            for k in range(len(price)):
                bound = open_worth[k] + plan_value[p]
                for n in range(n_servers):
                    bound -= price[k, n] * plan_used[p, n]
                if bound < goal:
                    keeps = False
                    break
            if not keeps:
                continue
            i = count[0]
            new_value[i] = state_value[s] + plan_value[p]
            for n in range(n_servers):
                new_used[i, n] = max(least[n], state_used[s, n] + plan_used[p, n])
            count[0] += 1
    return len(state_value)
