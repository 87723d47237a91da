"""The compiled loops over sets of remote experts. Only :mod:`moeplace.serverless.plans` imports this module.

A set of experts is a mask of bits where all sets are listed, and an array of bool elsewhere. All integers.
"""

from __future__ import annotations

import numpy as np

from moeplace.base.compiled import compiled

NEVER = 1 << 62


@compiled
def histograms(start, expert, count, remote, column, columns):
    """Return how many tokens have (experts, remote experts) of each kind, ``[P, columns]``, for ``remote [P, E]``.

    ``column [k, n]`` is the number of the kind: k experts, n of them remote.
    """
    result = np.zeros((len(remote), columns), dtype=np.int64)
    for p in range(len(remote)):
        for i in range(len(start) - 1):
            n = 0
            for j in range(start[i], start[i + 1]):
                if remote[p, expert[j]]:
                    n += 1
            result[p, column[start[i + 1] - start[i], n]] += count[i]
    return result


@compiled
def makespans(work, load, room, most):
    """Split every set into exactly z parts, the longest as short as can be; no part loads more than ``room``.

    ``work [E]`` and ``load [E]`` of each expert. Returns the longest part's work ``[most + 1, 2**E]`` (NEVER where no
    split is allowed) and its first part.
    """
    n = 1 << len(work)
    best = np.full((most + 1, n), NEVER, dtype=np.int64)
    first = np.zeros((most + 1, n), dtype=np.int64)
    for s in range(1, n):
        total = 0
        loaded = 0
        for e in range(len(work)):
            if s >> e & 1:
                total += work[e]
                loaded += load[e]
        if loaded <= room:
            best[1, s] = total
            first[1, s] = s
    for z in range(2, most + 1):
        for s in range(1, n):
            lowest = s & -s
            others = s ^ lowest
            part = others
            while part:  # what the first part has beside the lowest expert: every proper subset of the others
                part = (part - 1) & others
                own = part | lowest
                if best[1, own] < best[z, s]:
                    longest = max(best[1, own], best[z - 1, s ^ own])
                    if longest < best[z, s]:
                        best[z, s] = longest
                        first[z, s] = own
                if part == 0:
                    break
    return best, first


@compiled
def candidates(best, first, allowed, experts):
    """Return set, parts and each expert's part (-1: local) of every split that is faster than with fewer parts."""
    most = len(best) - 1
    total = 0
    for s in range(1, len(allowed)):
        if allowed[s]:
            for z in range(1, most + 1):
                if best[z, s] < best[z - 1, s]:
                    total += 1
    mask = np.empty(total, dtype=np.int64)
    parts = np.empty(total, dtype=np.int64)
    part = np.full((total, experts), -1, dtype=np.int8)
    at = 0
    for s in range(1, len(allowed)):
        if not allowed[s]:
            continue
        for z in range(1, most + 1):
            if best[z, s] >= best[z - 1, s]:
                continue
            mask[at] = s
            parts[at] = z
            rest = s
            for j in range(z, 0, -1):
                own = first[j, rest]
                for e in range(experts):
                    if own >> e & 1:
                        part[at, e] = z - j
                rest ^= own
            at += 1
    return mask, parts, part


@compiled
def undominated(start, slowest, each, price):
    """Say which plans of each set no other plan of it beats in all three numbers; plans of a set lie together."""
    keep = np.ones(len(slowest), dtype=np.bool_)
    for i in range(len(start) - 1):
        for p in range(start[i], start[i + 1]):
            for q in range(start[i], start[i + 1]):
                if q == p or not keep[q]:
                    continue
                if slowest[q] <= slowest[p] and each[q] <= each[p] and price[q] <= price[p]:
                    keep[p] = False
                    break
    return keep


@compiled
def longest_first(order, work, load, remote, parts, room, part):
    """Deal remote experts out to parts, the longest first to the part that has least (LPT); return the longest part.

    A part that would load more than ``room`` is passed over; -1 where an expert finds none, or a part stays empty.
    """
    total = np.zeros(parts, dtype=np.int64)
    loaded = np.zeros(parts, dtype=np.int64)
    held = np.zeros(parts, dtype=np.int64)
    for e in order:
        part[e] = -1
        if not remote[e]:
            continue
        at = -1
        for j in range(parts):
            if loaded[j] + load[e] <= room and (
                at < 0 or total[j] < total[at] or (total[j] == total[at] and held[j] < held[at])
            ):
                at = j
        if at < 0:
            return -1
        part[e] = at
        total[at] += work[e]
        loaded[at] += load[e]
        held[at] += 1
    for j in range(parts):
        if held[j] == 0:
            return -1
    return total.max()


@compiled
def plans_of_sets(remote, order, load, work, room, memory, bytes_each, token_bytes, most, fill, spec, part, longest):
    """Split every set by LPT for every specification and number of parts; return how many plans that gives.

    ``remote [S, E]``, ``work [V, E]``, ``memory [V]``. With ``fill`` the plans are written to ``spec [P]``,
    ``part [P, E]`` and ``longest [P]``; without, they are counted. More parts that are no faster are no plan.
    """
    trial = np.empty(remote.shape[1], dtype=np.int8)
    at = 0
    for s in range(len(remote)):
        n_remote = 0
        loaded = 0
        for e in range(remote.shape[1]):
            if remote[s, e]:
                n_remote += 1
                loaded += load[e]
        for v in range(len(work)):
            if n_remote == 0 or n_remote * bytes_each + loaded * token_bytes > memory[v]:
                continue
            before = NEVER
            for z in range(1, min(most, n_remote) + 1):
                found = longest_first(order, work[v], load, remote[s], z, room, trial)
                if found < 0 or found >= before:
                    continue
                before = found
                if fill:
                    spec[at] = v
                    part[at] = trial
                    longest[at] = found
                at += 1
    return at


@compiled
def fastest_choice(
    remote,
    order,
    load,
    start,
    expert,
    count,
    work,
    each,
    busy_price,
    room,
    memory,
    bytes_each,
    token_bytes,
    invoke,
    start_ns,
    token_ns,
    g,
    weight_first,
    weight_every,
    most,
    part,
    found,
):
    """Choose specification and parts of a remote set by LPT, at weights in floats of the two times.

    ``work [V, E]``, ``each [V]``, ``busy_price [V]``, ``memory [V]``: of each remote specification. ``start_ns``,
    ``token_ns``, ``g``: prefill and output time of a local expert. ``part [E]`` and ``found`` are filled, the latter
    with specification, remote experts, prefill and output time beside the fixed ones, remote time that is paid, and
    whether anything fits.
    """
    k_most = 0
    for i in range(len(start) - 1):
        k_most = max(k_most, start[i + 1] - start[i])
    kinds = np.zeros((k_most + 1, k_most + 1), dtype=np.int64)
    far = 0
    for i in range(len(start) - 1):
        n = 0
        for j in range(start[i], start[i + 1]):
            if remote[expert[j]]:
                n += 1
        kinds[start[i + 1] - start[i], n] += count[i]
        far += n * count[i]
    n_remote = 0
    loaded = 0
    local_ns = 0
    for e in range(len(remote)):
        if remote[e]:
            n_remote += 1
            loaded += load[e]
        elif load[e] > 0:
            local_ns += start_ns + token_ns * load[e]
    best = np.inf
    found[1] = n_remote
    if n_remote == 0:
        found[2] = local_ns
        for k in range(k_most + 1):
            found[3] += kinds[k, 0] * k * g
        found[5] = 1
        return
    trial = np.empty(len(remote), dtype=np.int8)
    for v in range(len(each)):
        if n_remote * bytes_each + loaded * token_bytes > memory[v]:
            continue
        every = 0
        for k in range(k_most + 1):
            for n in range(k + 1):
                if kinds[k, n]:
                    every += kinds[k, n] * max((k - n) * g, n * each[v])
        total = 0
        for e in range(len(remote)):
            if remote[e]:
                total += work[v, e]
        base = weight_every * every + busy_price[v] * (total + far * each[v])
        if base + weight_first * local_ns >= best:
            continue  # more parts only cost more
        for z in range(1, min(most, n_remote) + 1):
            longest = longest_first(order, work[v], load, remote, z, room, trial)
            if longest < 0:
                continue
            slowest = invoke + longest
            score = base + weight_first * max(local_ns, slowest) + busy_price[v] * z * invoke
            if score < best:
                best = score
                found[0] = v
                found[2] = max(local_ns, slowest)
                found[3] = every
                found[4] = z * invoke + total + far * each[v]
                found[5] = 1
                part[:] = trial
            if slowest <= local_ns:
                break
