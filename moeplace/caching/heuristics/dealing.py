"""Layers dealt to servers: a beginning where every expert must be held somewhere.

Where memory is tight almost everything is a single copy, and most saves the server that holds *all* of a layer, since
a row waits for its slowest expert. Moving experts one by one from a placement that covers does not lead there. So whole
layers on a server, or on a few, are the first columns; prices of storage, found by the master problem, say
which experts are worth a second copy or a place elsewhere; and the master deals layers, as they are then, to servers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.stop import Stop
from moeplace.caching.heuristics.columns import ColumnPool, Float
from moeplace.caching.heuristics.pricing import peeled, price_layers
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.saving import Layer


@dataclass(frozen=True)
class Tuning:
    """How far layers are priced before they are dealt. Whatever the numbers are, placements fit.

    Attributes
    ----------
    sets : int
        Sets of servers up to which all are tried for every layer; beyond, one for each server.
    rounds : int
        Most rounds of pricing.
    moved : float
        Share of the largest price below which a change of prices is none.
    merged : int
        Columns that the master chooses from.
    nodes : int
        Nodes of its branch and bound.
    """

    sets: int = 31
    rounds: int = 6
    moved: float = 0.01
    merged: int = 800
    nodes: int = 200


USUAL = Tuning()
"""What is used unless something else is asked for."""


@dataclass(frozen=True, eq=False)
class Dealt:
    """Layers dealt to servers.

    Attributes
    ----------
    held : bool array [N, I]
        The placement.
    pool : ColumnPool
        The columns that were found for it.
    prices : float array [N]
        At which they were found last, token-ns a byte.
    """

    held: Bool
    pool: ColumnPool
    prices: Float


def deal_layers(plan: WorkingPlacement, covering: Bool, enumerated: int, stop: Stop, tuning: Tuning = USUAL) -> Dealt:
    """Deal layers to servers.

    Parameters
    ----------
    plan : WorkingPlacement
        Some placement, from whose layers columns are priced, too. It is not changed.
    covering : bool array [N, I]
        A placement that keeps requirements, slots and capacities: what is returned is not worse. Where it is much
        worse than the plan, another beginning than the plan comes of it.
    enumerated : int
        Most experts of a layer whose sets are all tried.
    stop : Stop
    tuning : Tuning
    """
    from moeplace.layers.master import Master

    form, pool = plan.form, ColumnPool(plan.form)
    capacity = form.instance.usable_bytes
    prices: Float = np.zeros(len(capacity))
    begin = WorkingPlacement(form, covering.copy())
    pool.add_plan(begin)
    for i, layer in enumerate(form.layers):
        for servers in server_sets(layer, capacity, tuning.sets):
            if stop:
                return Dealt(begin.held, pool, prices)
            pool.add(i, *peeled(layer, np.where(servers, capacity, 0), prices))

    def halted() -> bool:
        return bool(stop)

    for following in range(tuning.rounds):
        found = Master(*pool.table(), capacity).relax(halted)
        if found is None:
            break
        before, prices = prices, (prices + found.prices) / 2 if following else found.prices
        if following and np.abs(prices - before).max() <= tuning.moved * prices.max(initial=0.0):
            break
        if price_layers(pool, plan.part, capacity, prices, enumerated, stop) is None:
            return Dealt(begin.held, pool, prices)
    own = pool.add_plan(begin)
    layers, saving, load = pool.table()
    first = np.searchsorted(layers, np.arange(len(form.layers)))
    worth = saving - prices @ load
    short = np.maximum.reduceat(worth, first)[layers] - worth
    chosen: Int64 = np.union1d(np.argsort(short, kind="stable")[: tuning.merged], first + own)
    merged = Master(layers, saving, load, capacity).merge(chosen, first + own, tuning.nodes, halted)
    return Dealt(pool.placement(first + own if merged is None else merged), pool, prices)


def server_sets(layer: Layer, capacity: Int64, most: int) -> Iterator[Bool]:
    """Yield sets of servers, bool [N], that can hold a whole layer for everybody who needs it.

    All of them where these are at most ``most``; otherwise one around each server: with it, as many of those that
    most need as it takes, beginning with the following ones.

    Parameters
    ----------
    layer : Layer
    capacity : int64 array [N]
        Bytes.
    most : int
    """
    room = np.minimum(layer.slots, np.minimum(capacity // layer.size, layer.n_experts))
    # Of each reach set the most experts that somebody there asks for.
    group, count = np.unique(layer.group[len(layer.group) - layer.covers :], return_counts=True)
    reach, servers = layer.near[group] > 0, len(room)
    if 2**servers - 1 <= most:
        for chosen in itertools.product((False, True), repeat=servers):
            if ((reach & np.array(chosen)) @ room >= count).all():
                yield np.array(chosen)
        return
    for a in range(servers):
        chosen_servers = np.zeros(servers, dtype=np.bool_)
        chosen_servers[a] = True
        while True:
            short = (reach & chosen_servers) @ room < count
            if not short.any():
                yield chosen_servers
                break
            help_ = np.where(chosen_servers, 0, reach[short].sum(axis=0) * np.minimum(room, 1))
            if not help_.any():
                break
            order = np.roll(np.arange(servers), -a)
            chosen_servers[order[int(np.argmax(help_[order]))]] = True
