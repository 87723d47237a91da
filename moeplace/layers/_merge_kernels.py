"""The compiled loops that merge layers. Only :mod:`moeplace.layers.merging` imports this module, when it runs.

Plans of all layers lie one after the other: layer ``l`` has the plans ``start[l]`` to ``start[l + 1]``, with their
``value [P]`` and ``used [P, N]``. All integers but in :func:`descend`, which only proposes prices.
"""

from __future__ import annotations

import numpy as np

from moeplace.base.compiled import compiled
from moeplace.layers._hash_kernels import place, rehash  # noqa: F401


@compiled
def values(start, value, used, price):
    """Return each layer's largest worth at each price, ``[L, K]``, for ``price [K, N]``."""
    best = np.full((len(start) - 1, len(price)), np.iinfo(np.int64).min)
    for layer in range(len(start) - 1):
        for k in range(len(price)):
            for p in range(start[layer], start[layer + 1]):
                worth = value[p]
                for n in range(used.shape[1]):
                    worth -= price[k, n] * used[p, n]
                best[layer, k] = max(best[layer, k], worth)
    return best


@compiled
def descend(start, value, used, first, last, skip, room, goal, price, scale, steps):
    """Lower the Lagrangian bound of some layers at a room ``[N]`` by subgradient steps in floats, towards a goal.

    The layers from ``first`` to before ``last`` without ``skip``. ``scale [N]`` is how large prices are, step by step.
    Returns the best prices found.
    """
    n_budgets = len(room)
    at = price.copy()
    best_price = price.copy()
    best = np.inf
    slope = np.empty(n_budgets)
    relax = 1.0
    since = 0
    for _ in range(steps):
        bound = 0.0
        for n in range(n_budgets):
            slope[n] = room[n]
            bound += at[n] * room[n]
        for layer in range(first, last):
            if layer == skip:
                continue
            top = -np.inf
            chosen = -1
            for p in range(start[layer], start[layer + 1]):
                worth = float(value[p])
                for n in range(n_budgets):
                    worth -= at[n] * used[p, n]
                if worth > top:
                    top = worth
                    chosen = p
            bound += top
            for n in range(n_budgets):
                slope[n] -= used[chosen, n]
        if bound < best:
            best = bound
            best_price[:] = at
            since = 0
        else:
            since += 1
            if since == 4:
                relax *= 0.6
                since = 0
                at[:] = best_price
        if best < goal:
            break
        norm = 0.0
        for n in range(n_budgets):
            if at[n] > 0 or slope[n] < 0:
                norm += (slope[n] * scale[n]) ** 2
        if norm == 0:
            break
        length = relax * max(bound - goal, 1e-3 * abs(bound - goal) + 1.0) / norm
        for n in range(n_budgets):
            at[n] = max(0.0, at[n] - length * slope[n] * scale[n] ** 2)
    return best_price


@compiled
def plan_bounds(start, value, used, price, others, capacity):
    """Return a bound on every solution with each plan, ``[P]``, the least over the prices, and whose it is.

    ``others [L, K]``: what all other layers are worth at most.
    """
    bound = np.full(len(value), np.iinfo(np.int64).max)
    winner = np.zeros(len(value), np.int64)
    for layer in range(len(start) - 1):
        for p in range(start[layer], start[layer + 1]):
            for k in range(len(price)):
                worth = value[p] + others[layer, k]
                for n in range(used.shape[1]):
                    worth += price[k, n] * (capacity[n] - used[p, n])
                if worth < bound[p]:
                    bound[p] = worth
                    winner[p] = k
    return bound, winner


@compiled
def undominated(value, used):
    """Return which plans of a layer have more value than all that use no more; plans in order of falling value."""
    kept = np.zeros(len(value), np.bool_)
    index = np.empty(len(value), np.int64)
    count = 0
    for p in range(len(value)):
        dominated = False
        for i in range(count):
            covers = True
            for n in range(used.shape[1]):
                if used[index[i], n] > used[p, n]:
                    covers = False
                    break
            if covers:
                dominated = True
                break
        if not dominated:
            kept[p] = True
            index[count] = p
            count += 1
    return kept


@compiled
def extend(
    begin, stop, state_value, state_used, plan_value, plan_used, plan_worth, price, after, capacity, floor, goal,
    table, key, new_value, new_used, new_bound, parent, plan, count, salt,
):  # fmt: skip
    """Add every plan of one layer to the states from ``begin``; keep what may still reach the goal.

    ``plan_worth [P, K]``: worth of the plans at the prices ``[K, N]``, falling in the first; ``after [K]``: what the
    layers that follow are worth at most; ``floor [N]``: what is used at least from here on (the rest of the room is of
    no use to the layers that follow). ``count``: number of new states, changed in place. Returns the state where it
    stopped: ``stop``, or before where the new states' arrays might not be large enough.
    """
    n_budgets = len(capacity)
    n_prices = len(price)
    base = np.empty(n_prices, np.int64)
    total = np.empty(n_budgets, np.int64)
    for i in range(begin, stop):
        if count[0] + len(plan_value) > len(key):
            return i
        for k in range(n_prices):
            base[k] = state_value[i] + after[k]
            for n in range(n_budgets):
                base[k] += price[k, n] * (capacity[n] - state_used[i, n])
        for p in range(len(plan_value)):
            bound = base[0] + plan_worth[p, 0]
            if bound < goal:
                break
            for k in range(1, n_prices):
                bound = min(bound, base[k] + plan_worth[p, k])
            if bound < goal:
                continue
            fits = True
            code = 0
            for n in range(n_budgets):
                if plan_used[p, n] > capacity[n] - state_used[i, n]:
                    fits = False
                    break
                total[n] = max(state_used[i, n] + plan_used[p, n], floor[n])
                code += total[n] * salt[n]
            if not fits:
                continue
            slot = place(table, key, new_used, code, total)
            s = table[slot]
            if s < 0:
                s = count[0]
                count[0] += 1
                table[slot] = s
                key[s] = code
                new_value[s] = np.iinfo(np.int64).min
                for n in range(n_budgets):
                    new_used[s, n] = total[n]
            value = state_value[i] + plan_value[p]
            if value > new_value[s]:
                new_value[s] = value
                new_bound[s] = bound
                parent[s] = i
                plan[s] = p
    return stop
