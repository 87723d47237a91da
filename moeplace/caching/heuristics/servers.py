"""Servers one after the other: which are of use, in which order, and who gains most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool
from moeplace.base.documents import UNREACHABLE
from moeplace.base.stop import Stop
from moeplace.caching.heuristics.working_placement import Refill, WorkingPlacement
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import SavingForm

Order: TypeAlias = Literal["gain", "given", "capacity", "demand", "random"]


def by_gain(
    plan: WorkingPlacement, servers: Iterable[int], refill: Callable[[WorkingPlacement, int], Refill], stop: Stop
) -> Iterator[Refill]:
    """Yield the best refill of the server that gains most, again and again, each server once; the caller takes it.

    Gains are computed lazily, as greedy's are: one that was computed before the plan changed counts until it is the
    largest. It is an upper bound where the saving is submodular and the value functions are exact.
    """
    gain: dict[int, float] = dict.fromkeys(servers, math.inf)
    current: dict[int, Refill] = {}
    while gain and not stop:
        n = max(gain, key=gain.__getitem__)
        if n not in current:
            current[n] = refill(plan, n)
            gain[n] = current[n].gain
            continue
        del gain[n]
        chosen = current.pop(n)
        if chosen.gain > 0:
            current.clear()
        yield chosen


def server_order(instance: Instance, order: Order, seed: int) -> list[int]:
    """Return the servers in the order in which they are filled."""
    servers = np.arange(len(instance.servers))
    if order == "capacity":
        servers = np.argsort(-instance.capacity_bytes, kind="stable")
    elif order == "demand":
        servers = np.argsort(-requests_by_server(instance).sum(axis=1), kind="stable")
    elif order == "random":
        servers = np.random.default_rng(seed).permutation(len(servers))
    found: list[int] = servers.tolist()
    return found


def useful_servers(form: SavingForm) -> list[int]:
    """Return the servers that have room for some expert which somebody would have from them."""
    return [
        n
        for n, capacity in enumerate(form.instance.capacity_bytes.tolist())
        if any(layer.size <= capacity and layer.near[:, n].any() for layer in form.layers)
    ]


def requests_by_server(instance: Instance) -> npt.NDArray[np.float64]:
    """Return how often the users nearest to each server request each expert, tokens, [N, I].

    Demands that no server serves faster than the cloud count nowhere. Of equally near servers the first counts.
    """
    use = np.zeros((len(instance.servers), instance.n_items))
    if not len(instance.servers) or not len(instance.demands):
        return use
    home = np.argmin(instance.server_ns, axis=1)
    time = instance.server_ns[np.arange(len(home)), home]
    served = ((time < instance.cloud_ns) | ~instance.has_cloud) & (time != UNREACHABLE)
    length = np.diff(instance.rows.start)
    demand = np.repeat(instance.rows.demand, length)
    count = np.repeat(instance.rows.count, length)
    keep = served[demand]
    if len(instance.device_item):
        held = instance.device_demand.astype(np.int64) * instance.n_items + instance.device_item
        keep &= ~np.isin(demand.astype(np.int64) * instance.n_items + instance.rows.item, held)
    flat = home[demand[keep]] * instance.n_items + instance.rows.item[keep]
    use += np.bincount(flat, weights=count[keep], minlength=use.size).reshape(use.shape)
    return use


def most_requested(instance: Instance, begin: Placement | None = None) -> Placement:
    """Return what each server holds if it takes what the users nearest to it request most often per byte.

    It takes them beside what it has to ``begin`` with; nothing without. What loading costs does not count.
    """
    use = requests_by_server(instance)
    cached = np.zeros(use.shape, dtype=np.bool_) if begin is None else begin.cached.copy()
    for n in range(len(cached)):
        rate = use[n] / instance.item_bytes
        fill(cached[n], np.argsort(-rate, kind="stable")[: np.count_nonzero(rate)], instance, n)
    return Placement(cached)


def fill(cached: Bool, order: npt.NDArray[np.intp], instance: Instance, server: int) -> None:
    """Let a server, which has ``cached`` [I], take items in the given order, passing over what no longer fits."""
    free = int(instance.capacity_bytes[server]) - sum(instance.item_bytes[cached].tolist())
    limit = int(instance.layer_slots[server])
    of_block = np.bincount(instance.item_block[cached], minlength=instance.n_blocks).tolist()
    order = order[~cached[order]]
    sizes, blocks = instance.item_bytes[order].tolist(), instance.item_block[order].tolist()
    smallest = min(sizes, default=0)
    for item, size, block in zip(order.tolist(), sizes, blocks, strict=True):
        if size <= free and of_block[block] < limit:
            cached[item] = True
            free -= size
            of_block[block] += 1
        if free < smallest:
            break
