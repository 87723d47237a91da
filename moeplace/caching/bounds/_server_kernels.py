"""The compiled loops of :mod:`moeplace.caching.bounds.server_oracle`, which alone imports them, when it runs.

Names: ``E`` experts, ``T`` terms of up to ``K`` experts each (``member [T, K]``, padded with -1; ``length [T]``) with
a ``weight``; ``gain [E]`` is what an expert brings by itself, at prices. ``part [T, K, K]`` are shares in floats: how
much of a term's weight is booked with each ordered pair of its experts; nothing on the diagonal. All that bounds is in
integers.
"""

from __future__ import annotations

import numpy as np

from moeplace.base.compiled import compiled

SMALLEST = 1e-9  # a share that is nothing could never grow again
FINISHED = 0
PAUSED = 1
FULL = 2
INCLUDED = 1
EXCLUDED = 2


@compiled
def soft_top(value, count, most, temperature, chosen):
    """Choose up to ``most`` of the first ``count`` values, the largest, softly: ``chosen`` gets how likely each is."""
    if most <= 0:
        chosen[:count] = 0.0
        return
    low, high = 0.0, 0.0
    for i in range(count):
        high = max(high, value[i])
    high += 40.0 * temperature
    level = 0.0
    for step in range(40):
        some, slope = 0.0, 0.0
        for i in range(count):
            z = (value[i] - level) / temperature
            p = 1.0 if z > 35.0 else 0.0 if z < -35.0 else 1.0 / (1.0 + np.exp(-z))
            chosen[i] = p
            some += p
            slope += p * (1.0 - p)
        over = some - most
        if (step == 0 and over <= 0.0) or abs(over) < 0.01:
            return
        if over > 0.0:
            low = level
        else:
            high = level
        level += over * temperature / max(slope, 1e-9)
        if not low < level < high:
            level = 0.5 * (low + high)


@compiled
def smooth(member, length, weight, gain, most, temperature, rate, part, chosen, steps):
    """Move shares by entropic mirror descent on the smoothed bound (C8); all in floats, none of it a proof.

    ``part`` is changed in place; ``chosen [E]`` gets how likely each expert is to be taken at the last point.
    """
    n_experts = len(gain)
    pair = np.zeros((n_experts, n_experts))
    beside = np.zeros((n_experts, n_experts))
    worth = np.zeros(n_experts)
    row = np.zeros(n_experts)
    soft = np.zeros(n_experts)
    for _ in range(steps):
        pair[:] = 0.0
        worth[:] = gain
        for t in range(len(length)):
            if length[t] == 1:
                worth[member[t, 0]] += weight[t]
            for i in range(length[t]):
                for j in range(length[t]):
                    if i != j:
                        pair[member[t, i], member[t, j]] += part[t, i, j] * weight[t]
        for e in range(n_experts):
            count = 0
            for j in range(n_experts):
                if j != e:
                    row[count] = pair[e, j]
                    count += 1
            soft_top(row, count, most - 1, temperature, soft)
            count = 0
            for j in range(n_experts):
                beside[e, j] = 0.0
                if j != e:
                    beside[e, j] = soft[count]
                    worth[e] += row[count] * soft[count]
                    count += 1
        soft_top(worth, n_experts, most, 2.0 * temperature, chosen)
        for t in range(len(length)):
            if length[t] == 1:
                continue
            low = 2.0
            for i in range(length[t]):
                for j in range(length[t]):
                    if i != j:
                        low = min(low, chosen[member[t, i]] * beside[member[t, i], member[t, j]])
            total = 0.0
            for i in range(length[t]):
                for j in range(length[t]):
                    if i != j:
                        step = rate * (chosen[member[t, i]] * beside[member[t, i], member[t, j]] - low)
                        # Near enough to exp(-step), and a tenth of its time.
                        slower = 1.0 - step * (1.0 - step * (0.5 - step / 6.0))
                        part[t, i, j] = max(SMALLEST, part[t, i, j] * slower)
                        total += part[t, i, j]
            for i in range(length[t]):
                for j in range(length[t]):
                    part[t, i, j] /= total


@compiled
def split(weight, part, length):
    """Return the shares of terms of which nothing is decided, int64 ``[T, K, K]``; they add up to the weights."""
    share = np.zeros(part.shape, np.int64)
    for t in range(len(length)):
        n, rest = length[t], weight[t]
        if n == 1:
            continue
        total = 0.0
        for i in range(n):
            for j in range(n):
                if i != j:
                    total += part[t, i, j]
        for i in range(n):
            for j in range(n):
                if i != j and not (i == n - 1 and j == n - 2):
                    own = min(rest, max(0, int(weight[t] / total * part[t, i, j])))
                    share[t, i, j] = own
                    rest -= own
        share[t, n - 1, n - 2] = rest
    return share


@compiled
def book(member, length, weight, part, share, status, room, alive, count, pair, worth):
    """Book the terms that can still be had; return how many are left and what those are worth that are had.

    ``alive[:count]``: the terms to look at, in place reduced to those of which no expert is left out (``status`` -1)
    and no more than ``room`` are undecided (0). A term of which one expert is undecided goes to ``worth``, one of more
    to ``pair``: its weight in integers, in proportion to the parts of the pairs that are left, the last one taking what
    remains. That is ``share`` (:func:`split`) where nothing of it is decided.
    """
    left, had = 0, 0
    undecided = np.zeros(member.shape[1], np.int64)
    for k in range(count):
        t = alive[k]
        n, dead = 0, False
        for i in range(length[t]):
            s = status[member[t, i]]
            if s < 0:
                dead = True
                break
            if s == 0:
                undecided[n] = i
                n += 1
        if dead or n > room:
            continue
        alive[left] = t
        left += 1
        if n == 0:
            had += weight[t]
        elif n == 1:
            worth[member[t, undecided[0]]] += weight[t]
        elif n == length[t]:
            for i in range(n):
                line = pair[member[t, i]]
                for j in range(n):
                    if i != j:
                        line[member[t, j]] += share[t, i, j]
        else:
            total = 0.0
            for a in range(n):
                for b in range(n):
                    if a != b:
                        total += part[t, undecided[a], undecided[b]]
            rest, factor = weight[t], weight[t] / total
            for a in range(n):
                i = undecided[a]
                for b in range(n):
                    if a == b or (a == n - 1 and b == n - 2):
                        continue
                    j = undecided[b]
                    own = min(rest, max(0, int(factor * part[t, i, j])))
                    pair[member[t, i], member[t, j]] += own
                    rest -= own
            pair[member[t, undecided[n - 1]], member[t, undecided[n - 2]]] += rest
    return left, had


@compiled
def largest(values, count, most):
    """Return the sum of the ``most`` largest of the first ``count`` values, which are positive."""
    if most <= 0:
        return 0
    total = 0
    if most < count:
        order = np.sort(values[:count])
        for i in range(count - most, count):
            total += order[i]
    else:
        for i in range(count):
            total += values[i]
    return total


@compiled
def bounded(pair, worth, status, room, row, order):
    """Add to ``worth`` what the pairs of each undecided expert bring at most, and return what all of them do: (C8).

    ``order`` gets what the undecided experts are worth, ascending, those at the end that are counted.
    """
    n_experts = len(worth)
    free = 0
    for e in range(n_experts):
        if status[e] != 0:
            continue
        count = 0
        for j in range(n_experts):
            if pair[e, j] > 0:
                row[count] = pair[e, j]
                count += 1
        worth[e] += largest(row, count, room - 1)
        order[free] = worth[e]
        free += 1
    order[:free].sort()
    total = 0
    for i in range(max(0, free - room), free):
        total += max(0, order[i])
    return total, free


@compiled
def search(
    # the layer at a server
    member, length, weight, gain, most, part, share,
    # the state of the search, changed in place
    state, status, trail, alive, count, room, value, begin, branch, phase, bound, best,
    # what is found, when all plans are asked for
    plan_value, plan_held,
    # parameters
    every, fill, slack, budget,
):  # fmt: skip
    """Depth-first search over which experts are held; may be called again to go on.

    The undecided expert that matters most is held first, then left out. ``state``: depth (-1 before the first call,
    -2 when finished), threshold, plans found, worth of the best one, nodes, whether the node at this depth is new,
    length of the trail (the experts decided, in order; those of the node at a depth and below begin at ``begin``). A
    node is left when its bound is below the threshold, and an expert is decided where the other decision's bound is.
    With ``every`` the threshold stays and all plans go to the list; otherwise the best plan goes to ``best`` and the
    threshold above it, by 1 and the ``slack``. ``fill``: plans that leave room are not asked for.

    Returns FINISHED, PAUSED after ``budget`` nodes, or FULL where the list must grow first.
    """
    n_experts = len(gain)
    pair = np.zeros((n_experts, n_experts), np.int64)
    worth = np.zeros(n_experts, np.int64)
    row = np.zeros(n_experts, np.int64)
    order = np.zeros(n_experts, np.int64)
    depth = state[0]
    if depth == -2:
        return FINISHED
    if depth == -1:
        depth = 0
        room[0] = most
        count[0] = len(length)
        for t in range(len(length)):
            alive[0, t] = t
        state[5] = 1
    spent = 0
    while depth >= 0:
        if state[5] == 1:
            if spent >= budget:
                state[0] = depth
                return PAUSED
            if every and state[2] >= len(plan_value):
                state[0] = depth
                return FULL
            spent += 1
            state[4] += 1
            state[5] = 0
            here, upper, free = 0, 0, 0
            while True:
                pair[:] = 0
                worth[:] = gain
                left, had = book(
                    member, length, weight, part, share, status, room[depth], alive[depth], count[depth], pair, worth
                )
                count[depth] = left
                here = value[depth] + had
                rest, free = bounded(pair, worth, status, room[depth], row, order)
                upper = here + rest
                if upper < state[1] or (fill and free < room[depth]):
                    upper = state[1] - 1
                    break
                # The last that is counted and the first that is not: what another decision would cost.
                last = max(0, order[free - room[depth]]) if 0 < room[depth] <= free else 0
                following = max(0, order[free - room[depth] - 1]) if room[depth] < free else 0
                decided, inside = False, room[depth]
                for e in range(n_experts):
                    if status[e] != 0:
                        continue
                    if worth[e] <= last and upper - last + worth[e] < state[1]:
                        status[e] = -1
                        decided = True
                    if status[e] == 0 and worth[e] >= last and worth[e] > 0 and inside > 0:
                        lost = worth[e] - following
                        if fill and free == room[depth]:
                            lost = upper - state[1] + 1  # nobody else is left
                        if upper - lost < state[1]:
                            status[e] = 1
                            value[depth] += gain[e]
                            inside -= 1
                            decided = True
                    if status[e] != 0:
                        trail[state[6]] = e
                        state[6] += 1
                room[depth] = inside
                if not decided:
                    break
            # What is held so far is a plan. A list gets it where nothing more will be held: at the last choice.
            ends = free == 0 or room[depth] == 0
            if every:
                if ends and here >= state[1] and upper >= state[1]:
                    plan_value[state[2]] = here
                    for e in range(n_experts):
                        plan_held[state[2], e] = 1 if status[e] > 0 else 0
                    state[2] += 1
            elif here > state[3]:
                state[3], state[1] = here, here + 1 + slack
                for e in range(n_experts):
                    best[e] = 1 if status[e] > 0 else 0
            at = -1
            if upper >= state[1] and not ends:
                heaviest = 0
                for e in range(n_experts):
                    if status[e] != 0:
                        continue
                    weighs = worth[e]
                    for j in range(n_experts):
                        if status[j] == 0:
                            weighs += pair[j, e]
                    if at < 0 or weighs > heaviest:
                        at, heaviest = e, weighs
                branch[depth], phase[depth], bound[depth] = at, INCLUDED, upper
                status[at] = 1
                follow(alive, count, depth)
                room[depth + 1] = room[depth] - 1
                value[depth + 1] = value[depth] + gain[at]
                begin[depth + 1] = state[6]
                trail[state[6]] = at
                state[6] += 1
                depth += 1
                state[5] = 1
                continue
        # Go back to the last choice of which only one side is known.
        while depth >= 0:
            while state[6] > begin[depth]:
                state[6] -= 1
                status[trail[state[6]]] = 0
            depth -= 1
            if depth < 0 or phase[depth] == INCLUDED:
                break
        if depth < 0:
            break
        at = branch[depth]
        status[at] = -1
        phase[depth] = EXCLUDED
        follow(alive, count, depth)
        room[depth + 1] = room[depth]
        value[depth + 1] = value[depth]
        begin[depth + 1] = state[6]
        trail[state[6]] = at
        state[6] += 1
        depth += 1
        state[5] = 1
    state[0] = -2
    return FINISHED


@compiled
def follow(alive, count, depth):
    """Let the node below look at the terms of the one at a depth."""
    count[depth + 1] = count[depth]
    for k in range(count[depth]):
        alive[depth + 1, k] = alive[depth, k]


@compiled
def exchanges(member, length, weight, gain, held):
    """Return what a plan would gain by one expert in the place of another one, int64 ``[E, E]``: out, then in.

    On the diagonal: what an expert that is not held brings without another one's place.
    """
    n_experts = len(gain)
    table = np.zeros((n_experts, n_experts), np.int64)
    loss = np.zeros(n_experts, np.int64)
    more = np.zeros(n_experts, np.int64)
    for e in range(n_experts):
        loss[e] = gain[e]
        more[e] = gain[e]
    for t in range(len(length)):
        missing, which = 0, -1
        for i in range(length[t]):
            if held[member[t, i]] == 0:
                missing += 1
                which = member[t, i]
                if missing > 1:
                    break
        if missing == 0:
            for i in range(length[t]):
                loss[member[t, i]] += weight[t]
        elif missing == 1:
            more[which] += weight[t]
            for i in range(length[t]):
                if member[t, i] != which:
                    table[member[t, i], which] -= weight[t]
    for a in range(n_experts):
        for b in range(n_experts):
            table[a, b] += more[b] - (loss[a] if a != b else 0)
    return table


@compiled
def climb(member, length, weight, gain, most, held):
    """Improve a plan, ``held [E]``, in place: put in what gains, then exchange experts while that gains."""
    n_experts = len(gain)
    room = most
    for e in range(n_experts):
        room -= held[e]
    while True:
        table = exchanges(member, length, weight, gain, held)
        at, out, best = -1, -1, 0
        for b in range(n_experts):
            if held[b]:
                continue
            if room > 0:
                # Instead of nothing: what it brings beside all that is held.
                more = table[b, b]
                if more > best:
                    at, out, best = b, -1, more
                continue
            for a in range(n_experts):
                if held[a] and table[a, b] > best:
                    at, out, best = b, a, table[a, b]
        if at < 0:
            return
        held[at] = 1
        if out >= 0:
            held[out] = 0
        else:
            room -= 1
