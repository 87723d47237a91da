"""The compiled inner loops of routing and counting: integer arithmetic alone, so every platform gets the same.

Only :mod:`moeplace.scenarios.routing` and :mod:`moeplace.scenarios.counting` import this module.
"""

from __future__ import annotations

import numpy as np
from numba import njit


def compiled(function):
    """Compile a function, kept on disk where there is a place to write; it releases the interpreter's lock."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)


# --- random numbers: SplitMix64 (Steele, Lea, Flood 2014), wrap-around 64-bit arithmetic ---------------------

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)
S27 = np.uint64(27)
S30 = np.uint64(30)
S31 = np.uint64(31)
S32 = np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)


@compiled
def mix(z):
    """Scramble 64 bits."""
    z = (z ^ (z >> S30)) * MIX_A
    z = (z ^ (z >> S27)) * MIX_B
    return z ^ (z >> S31)


@compiled
def below(bits, limit):
    """Return an integer from 0 to ``limit - 1`` made of the lower 32 bits (``limit`` below 2**31)."""
    return np.int64(((bits & LOW) * np.uint64(limit)) >> S32)


# --- routing -------------------------------------------------------------------------------------------------


@compiled
def shuffled(n, seed):
    """Return a random order of 0 ... n - 1 (Fisher and Yates)."""
    order = np.arange(n)
    for i in range(n - 1, 0, -1):
        j = below(mix(seed + np.uint64(i) * GOLDEN), i + 1)
        order[i], order[j] = order[j], order[i]
    return order


@compiled
def normals(bell, n, seed):
    """Return random entries of a table of normal quantiles."""
    result = np.empty(n, np.int64)
    for i in range(n):
        result[i] = bell[below(mix(seed + np.uint64(i) * GOLDEN), len(bell))]
    return result


@compiled
def fill_alias(weight, cut, alias, total):
    """Make the table of the alias method (Walker 1977, Vose 1991) of integer weights that sum to ``total``.

    A draw takes column j evenly and u from 0 to total - 1; it gives j where u < cut[j], else alias[j].
    """
    n = len(weight)
    scaled = np.empty(n, np.int64)
    small = np.empty(n, np.int64)
    large = np.empty(n, np.int64)
    n_small = n_large = 0
    for j in range(n):
        scaled[j] = np.int64(weight[j]) * n
        alias[j] = j
        if scaled[j] < total:
            small[n_small] = j
            n_small += 1
        else:
            large[n_large] = j
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        a = small[n_small]
        b = large[n_large - 1]
        cut[a] = scaled[a]
        alias[a] = b
        scaled[b] -= total - scaled[a]
        if scaled[b] < total:
            n_large -= 1
            small[n_small] = b
            n_small += 1
    for i in range(n_small):
        cut[small[i]] = total
    for i in range(n_large):
        cut[large[i]] = total


@compiled
def routing_tables(base, own, shared, family, group, families, power, bell, seed, weight, cut, alias, total):
    """Fill the weights of every (layer, kind of token, expert) and their alias tables.

    ``base [L, E]`` logits by expert; ``own [L]`` and ``shared [L]`` scales of what a kind of token adds to one expert
    and to a group of experts, ``family [L]`` of what its family adds to one expert; ``group [L, E]`` the groups; all
    in 1/256. ``bell`` is the normal quantile table, ``power`` the exponential one; ``weight``, ``cut``,
    ``alias [L, V, E]`` and ``total [L, V]`` are filled.
    """
    n_layers, n_kinds, n_experts = weight.shape
    logit = np.empty(n_experts, np.int64)
    for layer in range(n_layers):
        for kind in range(n_kinds):
            here = mix(seed + np.uint64(layer * n_kinds + kind) * GOLDEN)
            there = mix(here)
            kin = mix(mix(seed ^ GOLDEN) + np.uint64(layer * families + kind % families) * GOLDEN)
            top = -(1 << 40)
            for e in range(n_experts):
                alone = bell[below(mix(here + np.uint64(e) * GOLDEN), len(bell))]
                joint = bell[below(mix(there + np.uint64(group[layer, e]) * GOLDEN), len(bell))]
                common = bell[below(mix(kin + np.uint64(e) * GOLDEN), len(bell))]
                added = own[layer] * alone + shared[layer] * joint + family[layer] * common
                logit[e] = base[layer, e] + (added >> 8)
                top = max(top, logit[e])
            s = 0
            for e in range(n_experts):
                w = power[min(top - logit[e], len(power) - 1)]
                weight[layer, kind, e] = w
                s += w
            total[layer, kind] = s
            fill_alias(weight[layer, kind], cut[layer, kind], alias[layer, kind], s)


@compiled
def sample_tokens(
    out, weight, cut, alias, total, kind_cut, kind_alias, kind_total, context, request, novelty, stay, seed
):
    """Draw the experts of a run of tokens into ``out [T, L, K]``.

    The kind of a token is new (from the task's table) or one that stood earlier in its request (an urn: new with
    probability novelty / (novelty + position)). The request also has a current subject, a kind that stays with
    probability ``stay / 2**16``; a layer goes by the subject with probability ``context[layer] / 2**16``, else
    by the token. Experts are then drawn one after the other without replacement, by weight.
    """
    n_tokens, n_layers, top_k = out.shape
    n_kinds, n_experts = weight.shape[1:]
    history = np.empty(request, np.int64)
    subject = 0
    state = seed
    for t in range(n_tokens):
        at = t % request
        state += GOLDEN
        r = mix(state)
        if below(r, novelty + at) < novelty:
            state += GOLDEN
            r = mix(state)
            kind = below(r, n_kinds)
            if np.int64(((r >> S32) * np.uint64(kind_total)) >> S32) >= kind_cut[kind]:
                kind = kind_alias[kind]
        else:
            kind = history[below(r >> S32, at)]
        history[at] = kind
        state += GOLDEN
        r = mix(state)
        if at == 0 or below(r, 1 << 16) >= stay:
            subject = history[below(r >> S32, at + 1)]
        for layer in range(n_layers):
            state += GOLDEN
            r = mix(state)
            v = subject if below(r, 1 << 16) < context[layer] else kind
            s = total[layer, v]
            left = s
            for i in range(top_k):
                for _ in range(8):
                    state += GOLDEN
                    r = mix(state)
                    e = below(r, n_experts)
                    if np.int64(((r >> S32) * np.uint64(s)) >> S32) >= cut[layer, v, e]:
                        e = np.int64(alias[layer, v, e])
                    new = True
                    for j in range(i):
                        if out[t, layer, j] == e:
                            new = False
                            break
                    if new:
                        break
                if not new:  # what is left has little weight: one draw from it, by walking along it
                    state += GOLDEN
                    u = np.int64(((mix(state) >> S32) * np.uint64(left)) >> S32)
                    for f in range(n_experts):
                        taken = False
                        for j in range(i):
                            if out[t, layer, j] == f:
                                taken = True
                                break
                        if not taken:
                            e = f
                            u -= weight[layer, v, f]
                            if u < 0:
                                break
                out[t, layer, i] = e
                left -= weight[layer, v, e]


# --- counting ------------------------------------------------------------------------------------------------


@compiled
def pack(experts, group, bits, ranked, key, order):
    """Pack a group number and a set of experts (-1: none) into words; return the first expert seen twice, or -1.

    The group takes the upper half of the first word; each expert, from the smallest (``ranked``: as they stand),
    ``bits`` bits as its number plus one, the most significant first, so that words are ordered as (group, experts) are.
    """
    size = 0
    for i in range(len(experts)):
        e = np.int64(experts[i])
        if e < 0:
            continue
        j = size
        if ranked:
            for before in range(size):
                if order[before] == e:
                    return e
            order[size] = e
            size += 1
            continue
        while j and order[j - 1] > e:
            order[j] = order[j - 1]
            j -= 1
        if j and order[j - 1] == e:
            return e
        order[j] = e
        size += 1
    for w in range(len(key)):
        key[w] = np.uint64(0)
    key[0] = np.uint64(group) << S32
    for i in range(size):
        code = np.uint64(order[i] + 1)
        place = 32 + bits * i  # from the most significant bit on
        word, inside = place >> 6, place & 63
        spare = 64 - inside - bits
        if spare >= 0:
            key[word] |= code << np.uint64(spare)
        else:
            key[word] |= code >> np.uint64(-spare)
            key[word + 1] |= code << np.uint64(64 + spare)
    return -1


@compiled
def find(table, count, key):
    """Return the slot of a key, or the empty one where it belongs (open addressing, linear probing)."""
    hashed = np.uint64(0)
    for w in range(len(key)):
        hashed = mix(hashed + key[w] + GOLDEN)
    slot = np.int64(hashed & np.uint64(len(count) - 1))
    while count[slot] != 0:
        same = True
        for w in range(len(key)):
            if table[slot, w] != key[w]:
                same = False
                break
        if same:
            break
        slot = (slot + 1) & (len(count) - 1)
    return slot


@compiled
def count_rows(experts, group, first, n_experts, bits, ranked, table, count, used, room):
    """Count rows ``experts [R, K]`` of ``group [R]`` from ``first`` on, until ``room`` keys are in the table.

    Return (next row, keys used, fault): fault 0 none, 1 an expert out of range, 2 an expert twice, 3 no expert at
    all; with a fault, the next row is the bad one and nothing of it is counted.
    """
    n_rows, top_k = experts.shape
    key = np.empty(table.shape[1], np.uint64)
    order = np.empty(top_k, np.int64)
    for r in range(first, n_rows):
        if used >= room:
            return r, used, 0
        any_expert = False
        for i in range(top_k):
            if experts[r, i] >= n_experts or experts[r, i] < -1:
                return r, used, 1
            any_expert |= experts[r, i] >= 0
        if not any_expert:
            return r, used, 3
        if pack(experts[r], group[r], bits, ranked, key, order) >= 0:
            return r, used, 2
        slot = find(table, count, key)
        if count[slot] == 0:
            used += 1
            for w in range(len(key)):
                table[slot, w] = key[w]
        count[slot] += 1
    return n_rows, used, 0


@compiled
def check_rows(experts, n_experts):
    """Return what is wrong with each row: 0 nothing, 1 an expert out of range, 2 an expert twice, 3 no expert."""
    n_rows, top_k = experts.shape
    fault = np.zeros(n_rows, np.uint8)
    for r in range(n_rows):
        known = 0
        for i in range(top_k):
            e = experts[r, i]
            if e >= n_experts or e < -1:
                fault[r] = 1
                break
            if e < 0:
                continue
            known += 1
            for j in range(i):
                if experts[r, j] == e:
                    fault[r] = 2
        if known == 0 and fault[r] == 0:
            fault[r] = 3
    return fault


@compiled
def rehash(table, count, new_table, new_count):
    """Move every key to a larger table."""
    for slot in range(len(count)):
        if count[slot] != 0:
            there = find(new_table, new_count, table[slot])
            new_count[there] = count[slot]
            for w in range(table.shape[1]):
                new_table[there, w] = table[slot, w]


@compiled
def unpack(keys, bits, size, expert, start):
    """Write the experts of sorted keys one after the other; ``start [R + 1]`` bounds each row's."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    n = 0
    for r in range(len(keys)):
        start[r] = n
        for i in range(size):
            place = 32 + bits * i
            word, inside = place >> 6, place & 63
            spare = 64 - inside - bits
            if spare >= 0:
                code = (keys[r, word] >> np.uint64(spare)) & mask
            else:
                code = ((keys[r, word] << np.uint64(-spare)) | (keys[r, word + 1] >> np.uint64(64 + spare))) & mask
            if code == 0:
                break
            expert[n] = np.int64(code) - 1
            n += 1
    start[len(keys)] = n
    return n
