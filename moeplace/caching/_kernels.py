"""The compiled inner loops of the heuristics. Only :mod:`moeplace.caching.saving` imports this module, when it runs.

All arithmetic is in 64-bit integers; every sum here is a difference of savings, so it fits (the baseline does).
Names: ``items [A, K]`` experts of each row, padded with the row's first; ``group [A]``, ``count [A]``;
``near [G, N]`` saving of a group per token when a server holds the expert; ``floor [G, E]`` the same for the device.
The saving of a row is ``count * min over its experts of the best saving among the holders`` (see ``saving``).
``load [N, E]`` is what holding an expert costs on top; ``full [N]`` says where no more experts of the layer may go.
"""

from __future__ import annotations

import numpy as np

from moeplace.base.compiled import compiled

IMPOSSIBLE = np.iinfo(np.int64).min


@compiled
def two_best(near, floor, held):
    """Return best and second best saving of each (group, expert), and the best holder (-1: device or nobody)."""
    first = np.empty_like(floor)
    second = np.empty_like(floor)
    holder = np.empty(floor.shape, np.int32)
    rank_holders(near, floor, held, np.int64(0), held.shape[1], first, second, holder)
    return first, second, holder


@compiled
def rank_holders(near, floor, held, begin, end, first, second, holder):
    """Fill in what :func:`two_best` returns of the experts from one on, before another one."""
    for g in range(len(near)):
        for e in range(begin, end):
            first[g, e] = floor[g, e]
            second[g, e] = floor[g, e]
            holder[g, e] = -1
        for n in range(near.shape[1]):
            s = near[g, n]
            if s == 0:
                continue
            for e in range(begin, end):
                if held[n, e] and s > second[g, e]:
                    if s > first[g, e]:
                        second[g, e] = first[g, e]
                        first[g, e] = s
                        holder[g, e] = n
                    else:
                        second[g, e] = s


@compiled
def best_without(near, floor, held, server):
    """Return the best saving of each (group, expert) over all holders but one server."""
    n_groups, n_servers = near.shape
    n_experts = held.shape[1]
    best = floor.copy()
    for g in range(n_groups):
        for n in range(n_servers):
            s = near[g, n]
            if s == 0 or n == server:
                continue
            for e in range(n_experts):
                if held[n, e] and s > best[g, e]:
                    best[g, e] = s
    return best


@compiled
def value(items, group, count, best):
    """Return the saving of all rows."""
    n_rows, width = items.shape
    total = 0
    for r in range(n_rows):
        g = group[r]
        low = best[g, items[r, 0]]
        for k in range(1, width):
            low = min(low, best[g, items[r, k]])
        total += count[r] * low
    return total


@compiled
def members(items, n_experts):
    """Return, per expert, the rows that ask for it: ``member[start[e]:start[e + 1]]``, ascending."""
    n_rows, width = items.shape
    start = np.zeros(n_experts + 1, np.int64)
    for r in range(n_rows):
        for k in range(width):
            if k == 0 or items[r, k] != items[r, 0]:
                start[items[r, k] + 1] += 1
    for e in range(n_experts):
        start[e + 1] += start[e]
    member = np.empty(start[n_experts], np.int32)
    at = start[:-1].copy()
    for r in range(n_rows):
        for k in range(width):
            if k == 0 or items[r, k] != items[r, 0]:
                member[at[items[r, k]]] = r
                at[items[r, k]] += 1
    return start, member


@compiled
def peel(items, group, count, start, member, server_near, low, load):
    """Start with all experts on one server and drop the least useful one by one.

    ``server_near [G]`` is the server's saving, ``low [G, E]`` what the other holders save, ``load [E]`` what holding
    costs. Returns the value with ``q`` experts, ``q = 0 .. E``, and the order such that the ``q`` experts are the first
    ``q`` of it.
    """
    n_rows, width = items.shape
    n_groups, n_experts = low.shape
    reached = np.empty(n_rows, np.int64)
    loss = -load
    total = -load.sum()
    here = np.empty(width, np.int64)
    for r in range(n_rows):
        g = group[r]
        least = low[g, items[r, 0]]
        for k in range(width):
            here[k] = low[g, items[r, k]]
            least = min(least, here[k])
        s = max(least, server_near[g])
        reached[r] = s
        total += count[r] * s
        if least == s:  # the others save as much
            continue
        for k in range(width):
            e = items[r, k]
            if k == 0 or e != items[r, 0]:
                loss[e] += count[r] * max(s - here[k], 0)
    values = np.empty(n_experts + 1, np.int64)
    order = np.empty(n_experts, np.int64)
    alive = np.ones(n_experts, np.bool_)
    of_worst = np.empty(n_groups, np.int64)
    values[n_experts] = total
    for q in range(n_experts - 1, -1, -1):
        worst = -1
        for e in range(n_experts):
            if alive[e] and (worst < 0 or loss[e] < loss[worst]):
                worst = e
        alive[worst] = False
        order[q] = worst
        total -= loss[worst]
        values[q] = total
        for g in range(n_groups):
            of_worst[g] = low[g, worst]
        for j in range(start[worst], start[worst + 1]):
            r = member[j]
            g = group[r]
            m, before = of_worst[g], reached[r]
            if m >= before:
                continue
            reached[r] = m
            # Without branches, which nobody could predict; what is said of experts that are gone is not read.
            for k in range(width):
                e = items[r, k]
                if k == 0 or e != items[r, 0]:
                    loss[e] -= count[r] * max(before - max(low[g, e], m), 0)
    return values, order


@compiled
def subsets(items, group, count, server_near, low, load):
    """Try every set of experts on one server; return the best value and set (a bit mask) of each size.

    A row's saving is a sum of terms "all of these experts are here" over its experts that are slowest elsewhere;
    adding every term's weight to its supersets (a zeta transform) values all sets at once.
    """
    n_rows, width = items.shape
    n_experts = low.shape[1]
    table = np.zeros(1 << n_experts, np.int64)
    at = np.empty(width, np.int64)
    for r in range(n_rows):
        g = group[r]
        s = server_near[g]
        for k in range(width):  # insertion sort by what the others save
            e = items[r, k]
            j = k
            while j > 0 and low[g, at[j - 1]] > low[g, e]:
                at[j] = at[j - 1]
                j -= 1
            at[j] = e
        table[0] += count[r] * low[g, at[0]]
        mask = 0
        for k in range(width):
            here = low[g, at[k]]
            if here >= s:
                break
            mask |= 1 << at[k]
            following = s if k == width - 1 else min(s, low[g, at[k + 1]])
            if following > here:
                table[mask] += count[r] * (following - here)
    for e in range(n_experts):
        table[1 << e] -= load[e]
    for e in range(n_experts):
        bit = 1 << e
        for mask in range(1 << n_experts):
            if mask & bit:
                table[mask] += table[mask ^ bit]
    values = np.full(n_experts + 1, IMPOSSIBLE, np.int64)
    best = np.zeros(n_experts + 1, np.int64)
    for mask in range(1 << n_experts):
        size = 0
        rest = mask
        while rest:
            rest &= rest - 1
            size += 1
        if table[mask] > values[size]:
            values[size] = table[mask]
            best[size] = mask
    return values, best


@compiled
def count_moves(items, group, count, rows, near, first, second, holder, sign, add, drop, shift):
    """Add what some rows say of moves to the sums of :func:`moves`, or take it away (``sign`` -1).

    ``add [E, N]`` is what an expert saves more on a server, ``drop [E, N]`` what the saving changes by without it
    there, ``shift [N, E, N]`` what moving it away from its nearest holder changes on top of adding it elsewhere.
    """
    width = items.shape[1]
    n_servers = near.shape[1]
    for r in rows:
        g = group[r]
        slowest = items[r, 0]
        m = first[g, slowest]
        others = np.iinfo(np.int64).max
        for k in range(1, width):
            e = items[r, k]
            if e == items[r, 0]:
                continue
            v = first[g, e]
            if v < m:
                others = m
                m = v
                slowest = e
            elif v < others:
                others = v
        c = sign * count[r]
        for k in range(width):
            e = items[r, k]
            if k > 0 and e == items[r, 0]:
                continue
            h = holder[g, e]
            if e == slowest:
                if others > m:
                    for n in range(n_servers):
                        if near[g, n] > m:
                            extra = c * (min(others, near[g, n]) - m)
                            add[e, n] += extra
                            if h >= 0:
                                shift[h, e, n] -= extra
                limit = others
            else:
                limit = m
            if h >= 0:
                rest = second[g, e]
                lost = min(limit, rest) - m
                drop[e, h] += c * lost
                if lost < 0 or limit > m:
                    for n in range(n_servers):
                        shift[h, e, n] += c * (min(limit, max(rest, near[g, n])) - m)


@compiled
def follow_moves(items, group, count, member, near, floor, held, expert, first, second, holder, add, drop, shift):
    """Bring the sums of :func:`count_moves` up to date after an expert has moved: its rows are ``member``."""
    less, more = np.int64(-1), np.int64(1)  # for literals it would be compiled anew
    count_moves(items, group, count, member, near, first, second, holder, less, add, drop, shift)
    rank_holders(near, floor, held, expert, expert + 1, first, second, holder)
    count_moves(items, group, count, member, near, first, second, holder, more, add, drop, shift)


@compiled
def moves(held, add, drop, shift, load, full):
    """Value every move of one expert: dropped, added, or from one server to another.

    Node ``N`` is "nowhere". Returns ``gain[a, b]``, the best change of the saving by moving some expert from ``a``
    to ``b`` (:data:`IMPOSSIBLE` where there is none), and that expert.
    """
    n_servers, n_experts = held.shape
    gain = np.full((n_servers + 1, n_servers + 1), IMPOSSIBLE, np.int64)
    which = np.full((n_servers + 1, n_servers + 1), -1, np.int32)
    for e in range(n_experts):
        for a in range(n_servers):
            if not held[a, e]:
                if not full[a] and add[e, a] - load[a, e] > gain[n_servers, a]:
                    gain[n_servers, a] = add[e, a] - load[a, e]
                    which[n_servers, a] = e
                continue
            if drop[e, a] + load[a, e] > gain[a, n_servers]:
                gain[a, n_servers] = drop[e, a] + load[a, e]
                which[a, n_servers] = e
            for b in range(n_servers):
                if not held[b, e] and not full[b]:
                    change = add[e, b] + shift[a, e, b] + load[a, e] - load[b, e]
                    if change > gain[a, b]:
                        gain[a, b] = change
                        which[a, b] = e
    return gain, which


@compiled
def convolve(f, g, length):
    """Return ``h(q) = max_a f(a) + g(q - a)`` for ``q < length`` and the smallest best ``a``; f, g not decreasing."""
    h = np.full(length, -1, np.int64)
    split = np.zeros(length, np.int64)
    for a in range(min(len(f), length)):
        for b in range(min(len(g), length - a)):
            if f[a] + g[b] > h[a + b]:
                h[a + b] = f[a] + g[b]
                split[a + b] = a
    return h, split


@compiled
def best_pair(gain, size, slack):
    """Return the best improving move or pair of opposite moves in two layers: (gain, layer, a, b, other layer).

    ``gain [L, N + 1, N + 1]`` and ``size [L]`` are per layer, ``slack [N + 1]`` the free bytes (nowhere: endless).
    The other layer is -1 for a single move; it moves an expert from ``b`` to ``a``.
    """
    n_layers, n_nodes, _ = gain.shape
    best, at, origin, target, other = 0, -1, 0, 0, -1
    for a in range(n_nodes):
        for b in range(n_nodes):
            if a == b:
                continue
            back = IMPOSSIBLE
            for j in range(n_layers):
                back = max(back, gain[j, b, a])
            for i in range(n_layers):
                there = gain[i, a, b]
                if there <= IMPOSSIBLE:
                    continue
                if there > best and size[i] <= slack[b]:
                    best, at, origin, target, other = there, i, a, b, -1
                if a > b or back <= IMPOSSIBLE or there + back <= best:
                    continue
                for j in range(n_layers):
                    if i != j and gain[j, b, a] > IMPOSSIBLE and there + gain[j, b, a] > best:
                        over = size[i] - size[j]
                        if over <= slack[b] and -over <= slack[a]:
                            best, at, origin, target, other = there + gain[j, b, a], i, a, b, j
    return best, at, origin, target, other


@compiled
def thinned(value, delta):
    """Return the indices to keep of an increasing list: drop ``v`` if ``(1 - delta) * v <= last kept``."""
    kept = np.empty(len(value), np.int64)
    n = 0
    last = -1.0
    for i in range(len(value)):
        if (1.0 - delta) * value[i] > last:
            kept[n] = i
            n += 1
            last = float(value[i])
    return kept[:n]


@compiled
def best_cycle(gain, size, slack):
    """Return the best improving cycle of three moves ``a -> b -> c -> a`` in three layers: (gain, layers, places).

    For each pair of places the three best layers are enough, since a cycle uses two others. Sizes are looked at last,
    so with several sizes a cycle that fits may be missed.
    """
    n_layers, n_nodes, _ = gain.shape
    top = np.full((n_nodes, n_nodes, 3), -1, np.int64)
    for a in range(n_nodes):
        for b in range(n_nodes):
            for i in range(n_layers):
                if gain[i, a, b] > IMPOSSIBLE:
                    j = i
                    for k in range(3):
                        if top[a, b, k] < 0 or gain[j, a, b] > gain[top[a, b, k], a, b]:
                            j, top[a, b, k] = top[a, b, k], j
                            if j < 0:
                                break
    best = 0
    layers = np.full(3, -1, np.int64)
    places = np.zeros(3, np.int64)
    for a in range(n_nodes):
        for b in range(a + 1, n_nodes):
            for c in range(a + 1, n_nodes):
                if b == c:
                    continue
                for i in top[a, b]:
                    for j in top[b, c]:
                        if i < 0 or j < 0 or i == j:
                            continue
                        for k in top[c, a]:
                            if k < 0 or k in (i, j):
                                continue
                            change = gain[i, a, b] + gain[j, b, c] + gain[k, c, a]
                            if (
                                change > best
                                and size[i] - size[j] <= slack[b]
                                and size[j] - size[k] <= slack[c]
                                and size[k] - size[i] <= slack[a]
                            ):
                                best = change
                                layers[0], layers[1], layers[2] = i, j, k
                                places[0], places[1], places[2] = a, b, c
    return best, layers, places


@compiled
def adds(items, group, count, near, best, held, load, full):
    """Return what adding each expert to each server saves, ``[N, E]``; :data:`IMPOSSIBLE` where it may not go."""
    n_rows, width = items.shape
    n_servers, n_experts = held.shape
    gain = np.zeros((n_servers, n_experts), np.int64)
    for r in range(n_rows):
        g = group[r]
        slowest = items[r, 0]
        m = best[g, slowest]
        others = np.iinfo(np.int64).max
        for k in range(1, width):
            e = items[r, k]
            if e == items[r, 0]:
                continue
            v = best[g, e]
            if v < m:
                others = m
                m = v
                slowest = e
            elif v < others:
                others = v
        if others > m:
            for n in range(n_servers):
                if near[g, n] > m:
                    gain[n, slowest] += count[r] * (min(others, near[g, n]) - m)
    for n in range(n_servers):
        for e in range(n_experts):
            gain[n, e] = IMPOSSIBLE if held[n, e] or full[n] else gain[n, e] - load[n, e]
    return gain


@compiled
def add_one(group, count, member, near, best, expert):
    """Return what one expert saves on a server (``near [G]``), where every row asks for one expert."""
    gain = 0
    for r in member:
        g = group[r]
        if near[g] > best[g, expert]:
            gain += count[r] * (near[g] - best[g, expert])
    return gain


@compiled
def sort(values):
    """Sort in place, ascending: compiled once for all loops that do."""
    values.sort()


@compiled
def terms(items, group, count, server_near, low):
    """Return the saving of one server's experts as terms: sets ``[T, K]`` padded with their first, and weights.

    A row is worth what the others give its slowest expert, and more with each of its slowest experts on the server.
    """
    n_rows, width = items.shape
    sets = np.empty((n_rows * width, width), np.int64)
    weight = np.empty(n_rows * width, np.int64)
    n = 0
    at = np.empty(width, np.int64)
    chosen = np.empty(width, np.int64)
    for r in range(n_rows):
        g = group[r]
        s = server_near[g]
        size = 0
        for k in range(width):
            e = items[r, k]
            if k > 0 and e == items[r, 0]:
                continue
            j = size
            while j > 0 and low[g, at[j - 1]] > low[g, e]:
                at[j] = at[j - 1]
                j -= 1
            at[j] = e
            size += 1
        for k in range(size):
            here = low[g, at[k]]
            if here >= s:
                break
            following = s if k == size - 1 else min(s, low[g, at[k + 1]])
            if following > here:
                for j in range(k + 1):
                    chosen[j] = at[j]
                sort(chosen[: k + 1])
                for j in range(width):
                    sets[n, j] = chosen[j] if j <= k else chosen[0]
                weight[n] = count[r] * (following - here)
                n += 1
    return sets[:n], weight[:n]


@compiled
def share(sets, weight, t, state, scale, alone, pair):
    """Add a term to what its undecided experts are credited with (or take it away: a negative scale).

    Returns what it adds for sure.
    """
    m = 0
    for k in range(sets.shape[1]):
        e = sets[t, k]
        if k == 0 or e != sets[t, 0]:
            if state[e] < 0:
                return 0
            m += state[e] == 0
    whole = scale * weight[t]
    if m == 0:
        return whole
    for j in range(sets.shape[1]):
        a = sets[t, j]
        if state[a] != 0 or (j > 0 and a == sets[t, 0]):
            continue
        if m == 1:
            alone[a] += whole
            continue
        for k in range(sets.shape[1]):
            b = sets[t, k]
            if a != b and state[b] == 0 and (k == 0 or b != sets[t, 0]):
                pair[a, b] += whole // (m * (m - 1))
    return 0


@compiled
def fix(sets, weight, start, member, e, to, state, scale, alone, pair):
    """Decide (or release) an expert, see :func:`branch`; return the change of what is sure."""
    change = 0
    for j in range(start[e], start[e + 1]):
        change += share(sets, weight, np.int64(member[j]), state, -scale, alone, pair)
    state[e] = to
    for j in range(start[e], start[e + 1]):
        change += share(sets, weight, np.int64(member[j]), state, scale, alone, pair)
    return change


@compiled
def branch(sets, weight, start, member, found, scale, limit):
    """Branch and bound for the best sets of every size at once, where terms "all of these are chosen" add up.

    ``sets [T, K]`` padded with their first, ``weight [T]``; ``start, member`` as from :func:`members`; ``found`` the
    best known value of each size ``0 .. E``; ``scale`` a multiple of ``m * (m - 1)`` for ``m = 2 .. K``. Returns the
    values, the sets ``[E + 1, E]`` where they are better than known, whether they are, and an upper bound on what is
    left unexplored after ``limit`` nodes.

    Bound: a term with ``m`` undecided experts counts ``1 / (m * (m - 1))`` for each ordered pair of them, so of ``k``
    more experts each gets what it adds alone and at most its ``k - 1`` largest pairs; the ``k`` largest of these sums.
    """
    n_experts = len(start) - 1
    best = found.copy()
    chosen = np.zeros((n_experts + 1, n_experts), np.bool_)
    better = np.zeros(n_experts + 1, np.bool_)
    left = np.full(n_experts + 1, -1, np.int64)
    state = np.zeros(n_experts, np.int8)
    taken, released, excluded = np.int64(1), np.int64(0), np.int64(-1)  # for literals ``fix`` would be compiled anew
    alone = np.zeros(n_experts, np.int64)
    pair = np.zeros((n_experts, n_experts), np.int64)
    sure = 0
    for t in range(len(weight)):
        sure += share(sets, weight, t, state, scale, alone, pair)
    path = np.empty(n_experts, np.int64)
    # What a subtree may reach with each number of experts, by depth; the first line is of no limit.
    bound = np.full((n_experts + 2, n_experts + 1), np.iinfo(np.int64).max, np.int64)
    upto = np.zeros((n_experts, n_experts), np.int64)
    undecided = np.empty(n_experts, np.int64)
    largest = np.empty(n_experts, np.int64)
    depth, size, nodes = 0, 0, 0
    while True:
        # A node: experts path[:depth] are decided, ``size`` of them chosen.
        going = nodes < limit
        nodes += 1
        k_most = 0
        for e in range(n_experts):
            if state[e] == 0:
                undecided[k_most] = e
                k_most += 1
        pending = False
        if going:
            value = sure // scale
            if value > best[size]:
                best[size] = value
                for e in range(n_experts):
                    chosen[size, e] = state[e] == 1
                better[size] = True
            for i in range(k_most):
                e = undecided[i]
                total = alone[e]
                upto[i, 0] = total
                for j in range(k_most):
                    largest[j] = pair[e, undecided[j]]
                sort(largest[:k_most])
                for k in range(1, k_most):
                    total += largest[k_most - k]
                    upto[i, k] = total
            for k in range(n_experts + 1):
                bound[depth + 1, k] = -1
            for k in range(1, k_most + 1):
                for i in range(k_most):
                    largest[i] = upto[i, k - 1]
                sort(largest[:k_most])
                total = sure
                for i in range(k_most - k, k_most):
                    total += largest[i]
                reach = min(total // scale, bound[depth, size + k])
                bound[depth + 1, size + k] = reach
                pending |= reach > best[size + k]
        else:
            for k in range(n_experts + 1):
                left[k] = max(left[k], bound[depth, k])
        if pending:
            at = 0
            for i in range(1, k_most):
                if upto[i, k_most - 1] > upto[at, k_most - 1]:
                    at = i
            e = undecided[at]
            path[depth] = e
            depth += 1
            size += 1
            sure += fix(sets, weight, start, member, e, taken, state, scale, alone, pair)
            continue
        # Back to the last expert that was not yet left out, and leave it out.
        while depth > 0 and state[path[depth - 1]] < 0:
            depth -= 1
            sure += fix(sets, weight, start, member, path[depth], released, state, scale, alone, pair)
        if depth == 0:
            return best, chosen, better, left
        size -= 1
        sure += fix(sets, weight, start, member, path[depth - 1], excluded, state, scale, alone, pair)


@compiled
def peel_all(items, group, count, start, member, near, floor, held, cost, load, slots, bonus):
    """Drop the experts of a layer from all servers one by one, the least useful for its cost first.

    ``held [N, E]`` is where it begins, ``cost [N]`` what an expert on a server costs besides its ``load``;
    ``start, member`` as from :func:`members`. Servers that hold more than their ``slots [N]`` drop first. ``bonus`` is
    deducted from the start. Returns the saving and the worth (saving minus cost) before the first drop and after each,
    and the dropped servers and experts in their order.
    """
    n_rows, width = items.shape
    n_groups, n_servers = near.shape
    n_experts = held.shape[1]
    held = held.copy()
    first, second, holder = two_best(near, floor, held)
    following = np.full((n_groups, n_experts), -1, np.int32)
    for g in range(n_groups):
        for e in range(n_experts):
            at, _ = next_best(near, held, g, e, holder[g, e])
            following[g, e] = at
    loss = np.zeros((n_servers, n_experts), np.int64)
    reached = np.empty(n_rows, np.int64)
    saving = -bonus
    for r in range(n_rows):
        g = group[r]
        m = first[g, items[r, 0]]
        for k in range(1, width):
            m = min(m, first[g, items[r, k]])
        reached[r] = m
        saving += count[r] * m
        for k in range(width):
            e = items[r, k]
            if second[g, e] < m and (k == 0 or e != items[r, 0]) and holder[g, e] >= 0:
                loss[holder[g, e], e] += count[r] * (m - second[g, e])
    drops = held.sum()
    savings = np.empty(drops + 1, np.int64)
    worths = np.empty(drops + 1, np.float64)
    server = np.empty(drops, np.int32)
    expert = np.empty(drops, np.int32)
    for n in range(n_servers):
        for e in range(n_experts):
            if held[n, e]:
                saving -= load[n, e]
    worth = float(saving)
    for n in range(n_servers):
        worth -= cost[n] * held[n].sum()
    savings[0] = saving
    worths[0] = worth
    touched = np.zeros(n_groups, np.bool_)
    old_second = np.empty(n_groups, np.int64)
    old_holder = np.empty(n_groups, np.int32)
    over = held.sum(axis=1) - slots
    for i in range(drops):
        n, e = -1, -1
        least = np.inf
        crowded = over.max() > 0
        for a in range(n_servers):
            if crowded and over[a] <= 0:
                continue
            for b in range(n_experts):
                if held[a, b]:
                    net = loss[a, b] - load[a, b] - cost[a]
                    if net < least:
                        least, n, e = net, a, b
        held[n, e] = False
        over[n] -= 1
        server[i], expert[i] = n, e
        saving -= loss[n, e] - load[n, e]
        worth -= least
        savings[i + 1] = saving
        worths[i + 1] = worth
        any_touched = False
        for g in range(n_groups):
            touched[g] = holder[g, e] == n or following[g, e] == n
            if touched[g]:
                any_touched = True
                old_second[g] = second[g, e]
                old_holder[g] = holder[g, e]
                if holder[g, e] == n:
                    first[g, e] = second[g, e]
                    holder[g, e] = following[g, e]
                at, s = next_best(near, held, g, e, holder[g, e])
                following[g, e] = at
                second[g, e] = floor[g, e] if at < 0 else max(s, floor[g, e])
        if not any_touched:
            continue
        for j in range(start[e], start[e + 1]):
            r = member[j]
            g = group[r]
            if not touched[g]:
                continue
            c = count[r]
            m = reached[r]
            low = m if first[g, e] >= m else first[g, e]
            if low == m:
                # The row waits no longer; only what it loses without the new nearest holder of e differs.
                if old_second[g] < m and old_holder[g] >= 0:
                    loss[old_holder[g], e] -= c * (m - old_second[g])
                if second[g, e] < m and holder[g, e] >= 0:
                    loss[holder[g, e], e] += c * (m - second[g, e])
                continue
            reached[r] = low
            for k in range(width):
                b = items[r, k]
                if k > 0 and b == items[r, 0]:
                    continue
                if b == e:
                    if old_second[g] < m and old_holder[g] >= 0:
                        loss[old_holder[g], e] -= c * (m - old_second[g])
                    if second[g, e] < low and holder[g, e] >= 0:
                        loss[holder[g, e], e] += c * (low - second[g, e])
                else:
                    h = holder[g, b]
                    if h >= 0 and second[g, b] < m:
                        loss[h, b] -= c * (m - max(second[g, b], low))
    return savings, worths, server, expert


@compiled
def next_best(near, held, g, e, holder):
    """Return the nearest holder of an expert but one for a group, and what it saves; -1 if no other saves anything."""
    at, best = -1, 0
    for n in range(near.shape[1]):
        if n != holder and held[n, e] and near[g, n] > best:
            at, best = n, near[g, n]
    return at, best
