"""Pricing columns: what a layer may best hold on all servers at a price of every byte."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moeplace.base.arrays import Bool, Int32, Int64
from moeplace.base.stop import Stop
from moeplace.caching.heuristics.columns import ColumnPool, Float
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.saving import Layer, MoveValues


def price_layers(
    pool: ColumnPool, own: Callable[[int], Bool], capacity: Int64, prices: Float, enumerated: int, stop: Stop
) -> bool | None:
    """Price every layer from three beginnings: peeled, its own, and the best column; say whether a column is new.

    Parameters
    ----------
    pool : ColumnPool
        Gets what is found.
    own : callable
        What the servers hold of a layer now.
    capacity, prices, enumerated
        As for :func:`price`.
    stop : Stop
        Ends it: None.
    """
    news = False
    for i, layer in enumerate(pool.form.layers):
        starts = [peeled(layer, capacity, prices)[0], own(i), pool.best(i, prices).part]
        seen: set[bytes] = set()
        for start in starts:
            if stop:
                return None
            if (key := start.tobytes()) not in seen:
                seen.add(key)
                for part, saving in price(layer, start, capacity, prices, enumerated):
                    news |= pool.add(i, part, saving)
    return news


def storage_prices(plan: WorkingPlacement, capacity: Int64, enumerated: int, halvings: int, stop: Stop) -> Float:
    """Return what the last bytes of each server are worth, the others fixed: the slope of its value functions.

    Parameters
    ----------
    plan : WorkingPlacement
    capacity : int64 array [N]
        Bytes.
    enumerated : int
        Most experts of a layer whose sets are all tried.
    halvings : int
        Steps to the price of each server.
    stop : Stop
        Ends it: prices of 0 are left.

    Returns
    -------
    float64 array [N]
        Token-ns a byte.
    """
    layers, prices = plan.form.layers, np.zeros(len(capacity))
    sizes = [layer.size for layer in layers]
    for n, room in enumerate(capacity.tolist() if layers else ()):
        if stop:
            break
        functions = [plan.function(i, n, enumerated) for i in range(len(layers))]
        # What only this server holds is not for sale.
        room -= sum(f.required * s for f, s in zip(functions, sizes, strict=True))
        values = [f.values[f.required :] for f in functions]
        low, high = 0.0, max(float(v[-1] - v[0]) / s for v, s in zip(values, sizes, strict=True)) + 1.0
        for _ in range(halvings):
            middle = (low + high) / 2
            wanted = sum(
                int(np.argmax(v - middle * s * np.arange(len(v)))) * s for v, s in zip(values, sizes, strict=True)
            )
            low, high = (middle, high) if wanted > room else (low, middle)
        prices[n] = high
    return prices


def price(layer: Layer, part: Bool, capacity: Int64, prices: Float, enumerated: int) -> list[tuple[Bool, int]]:
    """Return good columns of a layer at some prices, found from a first one by exchanges and by filling servers anew.

    First the best move of one expert (between servers, dropped, added) is made while it pays for itself; then one
    server after the other gets the experts that are worth most there (:meth:`Layer.value_function`), the others fixed,
    until that improves nothing.

    Parameters
    ----------
    layer : Layer
    part : bool array [N, E]
        Where to begin.
    capacity : int64 array [N]
        Bytes; a column must fit alone.
    prices : float array [N]
        Token-ns a byte.
    enumerated : int
        Most experts of a layer whose sets are all tried.

    Returns
    -------
    list of (bool array [N, E], int)
        Columns and their savings, the last one the best.
    """
    # No more than there are experts: on a server without end the next number of experts would overflow.
    cost, room = prices * layer.size, np.minimum(capacity // layer.size, layer.n_experts)
    found = [exchanged(layer, part, room, cost)]
    part, saving = found[0]
    part = part.copy()
    same, n = 0, 0
    while same < len(part):
        same += 1
        if room[n]:
            function = layer.value_function(part, n, enumerated)
            values = function.values[: room[n] + 1]
            net = values - cost[n] * np.arange(len(values))
            q, now = int(np.argmax(net)), int(part[n].sum())
            if net[q] - (saving - cost[n] * now) > 1e-9 * max(saving, 1):
                part[n] = function.kept[q]
                saving = int(function.values[q])
                found.append((part.copy(), saving))
                same = 0
        n = (n + 1) % len(part)
    return found


def exchanged(layer: Layer, part: Bool, room: Int64, cost: Float) -> tuple[Bool, int]:
    """Make the best move of one expert of a layer while it gains more than it costs; return the column and its saving.

    Parameters
    ----------
    layer : Layer
    part : bool array [N, E]
    room : int64 array [N]
        Most experts on a server.
    cost : float array [N]
        Of one expert on a server, token-ns.
    """
    part, saving, nowhere = part.copy(), layer.saving_ns(part), len(part)
    paid, values = np.append(cost, 0.0), MoveValues(layer, part)
    for _ in range(layer.n_experts * len(part)):
        moves = values.moves()
        full = np.append(part.sum(axis=1) >= room, False)
        net = np.where((moves.expert >= 0) & ~full, moves.gain - (paid[None, :] - paid[:, None]), -np.inf)
        origin, target = divmod(int(np.argmax(net)), nowhere + 1)
        if net[origin, target] <= 1e-9 * max(saving, 1):
            break
        expert = int(moves.expert[origin, target])
        for place, held in ((origin, False), (target, True)):
            if place < nowhere:
                part[place, expert] = held
        saving += int(moves.gain[origin, target])
        values.follow(part)
    return part, saving


def peeled(layer: Layer, capacity: Int64, prices: Float) -> tuple[Bool, int]:
    """Return a column of a layer at some prices: from everything everywhere, what is not worth its price is dropped.

    The experts are dropped from the servers one by one, the one that loses least for its price first, until none is
    left; of all these columns the best is returned that keeps slots and requirements, if there is one: otherwise the
    first that keeps slots. It sees sets of experts that help only together.
    """
    held = np.broadcast_to((capacity >= layer.size)[:, None], (len(capacity), layer.n_experts)).copy()
    savings, worths, server, expert = layer.peel(held, prices * layer.size)
    first, last = _allowed(layer, held, server, expert)
    best = first + int(np.argmax(worths[first : max(first, last) + 1]))
    held[server[:best], expert[:best]] = False
    return held, int(savings[best])


def _allowed(layer: Layer, held: Bool, server: Int32, expert: Int32) -> tuple[int, int]:
    """Return after how many drops of :meth:`Layer.peel` slots are kept, and after how many requirements still are."""
    first, last = 0, len(server)
    for n in np.flatnonzero(held.sum(axis=1) > layer.slots).tolist():
        dropped = np.flatnonzero(server == n)
        first = max(first, int(dropped[int(held[n].sum() - layer.slots[n]) - 1]) + 1)
    if layer.covers:
        when = np.full(held.shape, -1, dtype=np.int64)
        when[server, expert] = np.arange(len(server))
        group, needed = layer.group[-layer.covers :], layer.experts[-layer.covers :, 0]
        last = int(np.where(layer.near[group] > 0, when.T[needed], -1).max(axis=1).min())
    return first, last
