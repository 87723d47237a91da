"""The compiled loops of :mod:`moeplace.caching.bounds.layer_oracle`, which alone imports them, when it runs.

Names: ``E`` experts of the layer in the order in which the search decides them, ``Q`` radius sets (bit masks over
``N`` servers), ``T`` terms. A term has a radius set, members (positions of its experts, ascending, padded with -1) and
a weight. A *mask* is the set of servers that hold an expert; it *hits* a radius set when they have a server in common.
``mass[e, q]`` is the part of the terms' weights that is booked with expert ``e`` and radius set ``q``. All integers.
"""

from __future__ import annotations

import numpy as np

from moeplace.base.compiled import compiled
from moeplace.caching.certificates import MANTISSA_BITS, SHARE_BITS
from moeplace.layers._hash_kernels import place, rehash  # noqa: F401


@compiled
def smooth(
    radius, term_radius, member, length, weight, price, load, covers, within, temperature, rate, odds, part, share_out,
    n_experts, usage, steps,
):  # fmt: skip
    """Move shares by entropic mirror descent on the smoothed bound of a layer; all in floats, none of it a proof.

    ``part [T, K]``: each member's part of the weight, changed in place; in proportion to its ``odds [E, Q]``, which are
    changed first, unless room counts. ``usage [2, N]`` gets the expected number of experts on each server at the last
    point, and its variance. ``load [E, N]``, no rows where loading is free,
    ``covers [E, 2**N]``, none where every mask may be taken, ``within [Q]``, nothing where room does not count: as
    :func:`room_mass` has it, with ``share_out [T, K, K]``, changed in place. Returns the smoothed bound there.
    """
    n_radii = len(radius)
    n_servers = len(price)
    n_masks = 1 << n_servers
    mask_price = np.zeros(n_masks)
    for n in range(n_servers):
        for m in range(1 << n):
            mask_price[m + (1 << n)] = mask_price[m] + price[n]
    mass = np.zeros((n_experts, n_radii))
    hit = np.zeros((n_experts, n_radii))
    felt = np.zeros(member.shape[1])
    inside = np.zeros(n_masks)
    cost = mask_price
    if len(load):
        cost = np.zeros(n_masks)
    counted = np.ones((n_experts if len(within) else 0, n_radii, n_experts))
    beside = np.zeros(counted.shape)
    bound = 0.0
    for _ in range(steps):
        mass[:] = 0.0
        for t in range(len(weight)):
            for j in range(length[t]):
                mass[member[t, j], term_radius[t]] += part[t, j] * weight[t]
        if len(within):
            beside[:] = 0.0
            for t in range(len(weight)):
                for j in range(length[t]):
                    for k in range(length[t]):
                        if k != j:
                            more = part[t, j] * weight[t] * share_out[t, j, k]
                            beside[member[t, j], term_radius[t], member[t, k]] += more
            for e in range(n_experts):
                for q in range(n_radii):
                    others = within[q] - 1
                    if others >= n_experts - 1:
                        continue
                    order = np.sort(beside[e, q])
                    least = order[n_experts - others] if others > 0 else 1e300
                    mass[e, q] -= order[: n_experts - max(0, others)].sum()
                    for k in range(n_experts):
                        counted[e, q, k] = 1.0 if beside[e, q, k] >= least else 0.0
        bound = 0.0
        usage[:] = 0.0
        for e in range(n_experts):
            inside[:] = 0.0
            whole = 0.0
            for q in range(n_radii):
                inside[radius[q]] += mass[e, q]
                whole += mass[e, q]
            subset_sums(inside)
            if len(load):
                for n in range(n_servers):
                    for m in range(1 << n):
                        cost[m + (1 << n)] = cost[m] + price[n] + load[e, n]
            top = -1e300
            for m in range(n_masks // 2):  # the sum over subsets of m is what m's complement misses
                k = n_masks - 1 - m
                a, b = inside[m], inside[k]
                inside[k] = whole - a - cost[k]
                inside[m] = whole - b - cost[m]
                top = max(top, inside[k], inside[m])
            if len(covers):
                top = -1e300
                for m in range(n_masks):
                    if not covers[e, m]:
                        inside[m] = -1e300
                    top = max(top, inside[m])
            total = 0.0
            for m in range(n_masks):
                inside[m] = np.exp((inside[m] - top) / temperature)
                total += inside[m]
            bound += top + temperature * np.log(total)
            for m in range(n_masks):
                inside[m] /= total
            subset_sums(inside)
            for n in range(n_servers):
                held = 1.0 - inside[n_masks - 1 - (1 << n)]
                usage[0, n] += held
                usage[1, n] += held * (1.0 - held)
            for q in range(n_radii):
                hit[e, q] = 1.0 - inside[n_masks - 1 - radius[q]]
        if not len(within):
            # A step multiplies parts by what depends on the expert and the radius set alone: odds of these say it all.
            for q in range(n_radii):
                top = 0.0
                for e in range(n_experts):
                    odds[e, q] *= np.exp(-rate * hit[e, q])
                    top = max(top, odds[e, q])
                for e in range(n_experts):
                    if odds[e, q] > 0.0:
                        odds[e, q] = max(LEAST_ODDS, odds[e, q] / top)
            for t in range(len(weight)):
                total = 0.0
                for j in range(length[t]):
                    total += odds[member[t, j], term_radius[t]]
                for j in range(length[t]):
                    part[t, j] = odds[member[t, j], term_radius[t]] / total
            continue
        for t in range(len(weight)):
            if length[t] == 1:
                continue
            q = term_radius[t]
            low = 2.0
            for j in range(length[t]):
                felt[j] = hit[member[t, j], q]
                some, whole = 0.0, 0.0
                for k in range(length[t]):
                    if k != j:
                        some += counted[member[t, j], q, member[t, k]] * share_out[t, j, k]
                # What does not count is free: let it have more.
                for k in range(length[t]):
                    if k != j:
                        if counted[member[t, j], q, member[t, k]] > 0.0:
                            share_out[t, j, k] = max(SMALLEST, share_out[t, j, k] * (1.0 - rate * hit[member[t, j], q]))
                        whole += share_out[t, j, k]
                for k in range(length[t]):
                    share_out[t, j, k] /= whole
                felt[j] *= some
                low = min(low, felt[j])
            total = 0.0
            for j in range(length[t]):
                step = rate * (felt[j] - low)
                # Near enough to exp(-step), and a tenth of its time.
                part[t, j] = max(SMALLEST, part[t, j] * (1.0 - step * (1.0 - step * (0.5 - step / 6.0))))
                total += part[t, j]
            for j in range(length[t]):
                part[t, j] /= total
    return bound


@compiled
def subset_sums(table):
    """Replace ``table[m]`` by the sum over all subsets of ``m``, in place."""
    bit = 1
    while bit < len(table):
        for m in range(len(table)):
            if m & bit:
                table[m] += table[m ^ bit]
        bit <<= 1


@compiled
def mask_values(mass, radius, mask_price):
    """Return what each expert is worth on each mask, ``[E, 2**N]``: the mass hit, less the price."""
    n_masks = len(mask_price)
    values = np.empty((mass.shape[0], n_masks), np.int64)
    inside = np.zeros(n_masks, np.int64)
    for e in range(mass.shape[0]):
        inside[:] = 0
        whole = 0
        for q in range(len(radius)):
            inside[radius[q]] += mass[e, q]
            whole += mass[e, q]
        subset_sums(inside)
        for m in range(n_masks):
            values[e, m] = whole - inside[n_masks - 1 - m] - mask_price[m]
    return values


@compiled
def redundant(asked, n_servers):
    """Return which masks of which experts hit no more than a smaller one, bool ``[E, 2**N]``.

    The smaller one takes no more room and costs no more to load. ``asked [E, Q]``: the radius sets (masks) that the
    terms of each expert have, and those that must be hit, padded with 0.
    """
    n_masks = 1 << n_servers
    found = np.zeros((asked.shape[0], n_masks), np.bool_)
    for e in range(asked.shape[0]):
        for m in range(1, n_masks):
            for n in range(n_servers):
                if not (m >> n) & 1:
                    continue
                needed = False
                for q in range(asked.shape[1]):
                    if asked[e, q] & m == 1 << n:  # only this server hits it
                        needed = True
                        break
                if not needed:
                    found[e, m] = True
                    break
    return found


@compiled
def split_shares(weight, code, length, hits):
    """Return what is booked with each member once the first ``j < hits`` members hit, int64 ``[T, hits, K]``.

    ``code [T, K]``: the members' odds, see :func:`~moeplace.caching.certificates.odds_codes`. Members before ``j`` get
    nothing, the others the whole weight in proportion to their odds, in integers that are not negative and add up to
    the weight exactly: the rule is part of the format of certificates (docs/certificates.md).
    """
    n_terms, width = code.shape
    share = np.zeros((n_terms, hits, width), np.int64)
    part = np.zeros(width, np.int64)
    for t in range(n_terms):
        for j in range(min(hits, length[t])):
            top = j
            for i in range(j, length[t]):
                if code[t, i] > code[t, top]:
                    top = i
            total = 0
            for i in range(j, length[t]):
                shift = (code[t, i] >> MANTISSA_BITS) - (code[t, top] >> MANTISSA_BITS) + SHARE_BITS
                odds = (1 << MANTISSA_BITS) + (code[t, i] & ((1 << MANTISSA_BITS) - 1))
                part[i] = odds << shift if shift >= 0 else odds >> -shift
                total += part[i]
            left = weight[t]
            for i in range(j, length[t]):
                own = (part[i] << SHARE_BITS) // total
                share[t, j, i] = (weight[t] >> SHARE_BITS) * own
                share[t, j, i] += ((weight[t] & ((1 << SHARE_BITS) - 1)) * own) >> SHARE_BITS
                left -= share[t, j, i]
            share[t, j, top] += left
    return share


@compiled
def first_mass(term_radius, member, length, share, n_experts, n_radii):
    """Return the mass booked before anything is decided, int64 ``[E, Q]``."""
    mass = np.zeros((n_experts, n_radii), np.int64)
    for t in range(len(length)):
        for i in range(length[t]):
            mass[member[t, i], term_radius[t]] += share[t, 0, i]
    return mass


@compiled
def pair_changes(radius, begin, mask, owner, term_start, term, term_radius, member, share, n_experts, change, pending):
    """Fill in what deciding on each (expert, mask) does to the mass of later experts, for terms of two members.

    ``change[begin[c]:begin[c + 1]]`` is the change of the mass of the experts after ``owner[c]``, ``[E - e - 1, Q]``;
    ``pending[c]`` is the mass hit by the expert that moves on to the other members.
    """
    n_radii = len(radius)
    for c in range(len(mask)):
        e = owner[c]
        for k in range(term_start[e], term_start[e + 1]):
            t = term[k]
            q = term_radius[t]
            other = member[t, 1]
            at = begin[c] + (other - e - 1) * n_radii + q
            if mask[c] & radius[q]:
                change[at] += share[t, 0, 0]
                pending[c] += share[t, 0, 0]
            else:
                change[at] -= share[t, 0, 1]


@compiled
def room_mass(term_radius, member, length, share, share_out, within, n_experts, n_radii):
    """Return what of the first mass can be hit within the room, int64 ``[E, Q]``.

    At most ``within[q]`` experts are within radius set ``q``. So of what is booked with an expert, shared out once more
    over the other members of its terms (``share_out [T, K, K]``, in floats), only the parts of ``within[q] - 1`` others
    count: the largest.
    """
    beside = np.zeros((n_experts, n_radii, n_experts), np.int64)
    mass = np.zeros((n_experts, n_radii), np.int64)
    for t in range(len(length)):
        q, m = term_radius[t], length[t]
        if m == 1:
            mass[member[t, 0], q] += share[t, 0, 0]
            continue
        for i in range(m):
            left = share[t, 0, i]
            last = m - 1 if i < m - 1 else m - 2
            for k in range(last):
                if k != i:
                    own = min(left, max(0, int(share[t, 0, i] * share_out[t, i, k])))
                    beside[member[t, i], q, member[t, k]] += own
                    left -= own
            beside[member[t, i], q, member[t, last]] += left
    for e in range(n_experts):
        for q in range(n_radii):
            order = np.sort(beside[e, q])
            mass[e, q] += order[max(0, n_experts - max(0, within[q] - 1)) :].sum()
    return mass


SMALLEST = 1e-9  # a share that is nothing could never grow again
LEAST_ODDS = 2.0**-1000  # what codes hold
FINISHED = 0
PAUSED = 1
FULL = 2
NOTHING = -(1 << 61)  # what is worth less than any plan


@compiled
def search(
    # the layer
    radius, term_radius, member, length, share, long_start, long_term, long_place,
    # the masks under consideration
    first, mask, price, hits, begin, change, pending, room, slot_price,
    # the state of the search, changed in place
    state, mass, value, used, child, child_bound, children, chosen, best_mask, nodes,
    # what is found, when all plans are asked for
    table, key, plan_value, plan_used, plan_mask, salt,
    # parameters
    every, tight, budget,
):  # fmt: skip
    """Depth-first search over the masks of the experts in order; may be called again to go on.

    Prices contain the multipliers ``slot_price`` of the room, and ``value[0]`` what all room costs at these: what a
    plan leaves free is deducted where it is complete. ``tight``: experts are bounded without masks for which a server
    is full.

    ``state``: depth (-1 before the first call, -2 when finished), threshold, plans found, best value. A node is left
    when its bound is below the threshold. With ``every`` the threshold stays, and the best plan of each usage vector
    goes to the table; otherwise the best plan goes to ``best_mask`` and the threshold above it.

    Returns FINISHED, PAUSED after ``budget`` nodes, or FULL where the table must grow first.
    """
    n_experts, n_radii = mass.shape[1], mass.shape[2]
    n_servers = len(room)
    depth = state[0]
    if depth == -2:
        return FINISHED
    expand = False
    if depth == -1:
        depth = 0
        expand = True
    spent = 0
    while depth >= 0:
        if expand:
            # The masks of the expert whose bound is high enough, best first. Others keep their best masks.
            expand = False
            rest = 0
            if tight:
                rest = fitting_worth(mass[depth], hits, price, mask, first, depth + 1, used[depth], room)
            else:
                for e in range(depth + 1, n_experts):
                    rest += best_worth(mass[depth, e], hits, price, first[e], first[e + 1])
            count = 0
            for c in range(first[depth], first[depth + 1]):
                if rest == NOTHING:
                    break
                bound = value[depth] + rest - price[c]
                for q in range(n_radii):
                    bound += mass[depth, depth, q] & hits[c, q]
                if bound < state[1]:
                    continue
                fits = True
                for n in range(n_servers):
                    if (mask[c] >> n) & 1 and used[depth, n] >= room[n]:
                        fits = False
                        break
                if not fits:
                    continue
                at = count
                while at > 0 and child_bound[depth, at - 1] < bound:
                    child_bound[depth, at] = child_bound[depth, at - 1]
                    child[depth, at] = child[depth, at - 1]
                    at -= 1
                child_bound[depth, at] = bound
                child[depth, at] = c
                count += 1
            children[depth, 0] = 0
            children[depth, 1] = count
        at = children[depth, 0]
        if at == children[depth, 1] or child_bound[depth, at] < state[1]:
            children[depth, 0] = children[depth, 1]
            depth -= 1
            continue
        if spent >= budget:
            state[0] = depth
            return PAUSED
        c = child[depth, at]
        if depth == n_experts - 1:
            total = child_bound[depth, at]
            for n in range(n_servers):
                total -= slot_price[n] * (room[n] - used[depth, n] - ((mask[c] >> n) & 1))
            chosen[depth] = c
            if total < state[1]:
                pass
            elif every:
                code = 0
                for n in range(n_servers):
                    used[depth + 1, n] = used[depth, n] + ((mask[c] >> n) & 1)
                    code += used[depth + 1, n] * salt[n]
                slot = place(table, key, plan_used, code, used[depth + 1])
                p = table[slot]
                if p < 0:
                    p = state[2]
                    if p == len(key) or 2 * p >= len(table):
                        state[0] = depth
                        return FULL
                    state[2] = p + 1
                    table[slot] = p
                    key[p] = code
                    plan_value[p] = total - 1
                    for n in range(n_servers):
                        plan_used[p, n] = used[depth + 1, n]
                if total > plan_value[p]:
                    plan_value[p] = total
                    for e in range(n_experts):
                        plan_mask[p, e] = mask[chosen[e]]
            else:
                state[1] = total + 1
                state[3] = total
                for e in range(n_experts):
                    best_mask[e] = mask[chosen[e]]
            children[depth, 0] = at + 1
            spent += 1
            continue
        children[depth, 0] = at + 1
        spent += 1
        chosen[depth] = c
        # What the expert's decision does to the mass of the others: what it hits, others may still lose.
        below = depth + 1
        moved = pending[c]
        source = begin[c]
        if begin[c + 1] > source:
            for e in range(below, n_experts):
                for q in range(n_radii):
                    mass[below, e, q] = mass[depth, e, q] + change[source + q]
                source += n_radii
        else:
            for e in range(below, n_experts):
                for q in range(n_radii):
                    mass[below, e, q] = mass[depth, e, q]
        for k in range(long_start[depth], long_start[depth + 1]):
            t = long_term[k]
            j = long_place[k]
            r = radius[term_radius[t]]
            alive = True
            for i in range(j):
                if not mask[chosen[member[t, i]]] & r:
                    alive = False
                    break
            if not alive:
                continue
            if mask[c] & r:
                moved += share[t, j, j]
                for i in range(j + 1, length[t]):
                    mass[below, member[t, i], term_radius[t]] += share[t, j + 1, i] - share[t, j, i]
            else:
                for i in range(j + 1, length[t]):
                    mass[below, member[t, i], term_radius[t]] -= share[t, j, i]
        worth = -price[c]
        for q in range(n_radii):
            worth += mass[depth, depth, q] & hits[c, q]
        value[below] = value[depth] + worth - moved
        for n in range(n_servers):
            used[below, n] = used[depth, n] + ((mask[c] >> n) & 1)
        bound = value[below]
        if tight:
            rest = fitting_worth(mass[below], hits, price, mask, first, below, used[below], room)
            bound = NOTHING if rest == NOTHING else bound + rest
        else:
            for e in range(below, n_experts):
                bound += best_worth(mass[below, e], hits, price, first[e], first[e + 1])
        if bound < state[1]:
            continue
        nodes[0] += 1
        depth = below
        expand = True
    state[0] = -2
    return FINISHED


@compiled
def fitting_worth(mass, hits, price, mask, first, begin, used, room):
    """Return the sum of the largest worths of the experts from ``begin`` on, on servers that are not full."""
    full = 0
    for n in range(len(room)):
        if used[n] >= room[n]:
            full |= 1 << n
    total = 0
    for e in range(begin, len(mass)):
        best = NOTHING
        for c in range(first[e], first[e + 1]):
            if mask[c] & full:
                continue
            worth = -price[c]
            for q in range(mass.shape[1]):
                worth += mass[e, q] & hits[c, q]
            best = max(best, worth)
        if best == NOTHING:
            return NOTHING
        total += best
    return total


@compiled
def best_worth(mass, hits, price, first, last):
    """Return the largest mass hit, less the price, among some masks."""
    best = np.iinfo(np.int64).min
    for c in range(first, last):
        worth = -price[c]
        for q in range(len(mass)):
            worth += mass[q] & hits[c, q]
        best = max(best, worth)
    return best
