"""An instance's rows and times by their definitions, for the verifiers of certificates and nobody else.

Nothing is merged or aggregated here, and nothing is shared with what makes certificates.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from moeplace.base.arrays import Bool, Int64
from moeplace.base.documents import UNREACHABLE
from moeplace.caching.instance import Instance


def farthest(instance: Instance) -> Int64:
    """Return the time of every demand's cloud, or that of the farthest place an expert can be on without one."""
    far = []
    for demand in instance.demands:
        places = [t for t in demand.server_ns if t is not None] + [demand.device_ns] * bool(demand.device_experts)
        far.append(max(places, default=0) if demand.cloud_ns is None else demand.cloud_ns)
    return np.array(far, dtype=np.int64)


class Steps(NamedTuple):
    """The steps of every demand: ``[D, J]`` radius set, width (0: no such step), and whether the device is within."""

    members: Bool
    radius: Int64
    width: Int64
    device: Bool


def demand_steps(instance: Instance) -> Steps:
    """Return the steps of all demands."""
    number: dict[tuple[bool, ...], int] = {}
    found: list[list[tuple[int, int, bool]]] = []
    cloud_ns, device_ns = farthest(instance).tolist(), instance.device_ns.tolist()
    for times, cloud, device in zip(instance.server_ns.tolist(), cloud_ns, device_ns, strict=True):
        thetas = sorted({t for t in [*times, device] if t < cloud and t != UNREACHABLE})
        steps = []
        for theta, following in itertools.pairwise([*thetas, cloud]):
            within = tuple(t <= theta and t != UNREACHABLE for t in times)
            steps.append((number.setdefault(within, len(number)), following - theta, device <= theta))
        found.append(steps)
    most = max(map(len, found), default=0)
    table = np.array([steps + [(0, 0, False)] * (most - len(steps)) for steps in found], dtype=np.int64)
    table = table.reshape(len(found), most, 3)
    members = np.array(list(number), dtype=np.bool_).reshape(len(number), len(instance.servers))
    return Steps(members, table[:, :, 0], table[:, :, 1], table[:, :, 2].astype(np.bool_))


class Block(NamedTuple):
    """The rows of a block, padded: demand, tokens [A]; experts (ascending), whether asked for, on the device [A, K]."""

    demand: Int64
    tokens: Int64
    expert: Int64
    asked: Bool
    on_device: Bool


def row_blocks(instance: Instance, active: int | None = None) -> list[Block]:
    """Return the rows of every block; of each row only the first ``active`` experts, if that is given."""
    rows = instance.rows
    start, demand, count, item = rows.start, rows.demand.astype(np.int64), rows.count, rows.item.astype(np.int64)
    if active is not None:  # of ranked rows
        rank = np.arange(len(item)) - np.repeat(start[:-1], np.diff(start))
        item, start = item[rank < active], np.concatenate(([0], np.cumsum(np.minimum(np.diff(start), active))))
    if instance.latency_model == "sum":  # one expert after the other: each is a row
        demand, count = np.repeat(demand, np.diff(start)), np.repeat(count, np.diff(start))
        start = np.arange(len(item) + 1)
    held = instance.device_demand.astype(np.int64) * instance.n_items + instance.device_item
    size = np.diff(start)
    on_device = np.isin(np.repeat(demand, size) * instance.n_items + item, held)
    block_of = instance.item_block[item[start[:-1]]] if len(item) else np.zeros(0, dtype=np.int32)
    order = np.argsort(block_of, kind="stable")
    bounds = np.searchsorted(block_of[order], np.arange(instance.n_blocks + 1))
    blocks = []
    for b in range(instance.n_blocks):
        chosen = order[bounds[b] : bounds[b + 1]]
        column = np.arange(int(size[chosen].max(initial=1)))
        asked = column < size[chosen][:, None]
        at = np.where(asked, start[chosen][:, None] + column, 0)
        expert = np.where(asked, item[at] - instance.block_start[b], instance.n_items) if len(item) else at
        device = asked & on_device[at] if len(item) else asked
        ascending = np.argsort(expert, axis=1)  # what is missing comes last, so that ``asked`` stays as it is
        expert, device = (np.take_along_axis(table, ascending, axis=1) for table in (expert, device))
        blocks.append(Block(demand[chosen], count[chosen], np.where(asked, expert, 0), asked, device))
    return blocks


def baselines_ns(instance: Instance, rows: list[Block]) -> list[int]:
    """Return the latency of every block with empty servers, token-ns."""
    far = farthest(instance)
    found = []
    for block in rows:
        away = (block.asked & ~block.on_device).any(axis=1)
        near = np.minimum(instance.device_ns, far)[block.demand]
        # The instance was refused if its latency with empty servers did not fit in 63 bits.
        found.append(int(np.dot(block.tokens, np.where(away, far[block.demand], near))))
    return found


def loading_ns(instance: Instance) -> list[list[int]] | None:
    """Return what loading each item onto each server costs, token-ns, ``[N][I]``; None where no server has a rate."""
    if all(server.load_bytes_per_s is UNSET for server in instance.servers):
        return None
    weight = 1 if instance.loading is UNSET else instance.loading.weight
    table = []
    for server in instance.servers:
        rate = server.load_bytes_per_s
        there = {(part.model, layer, expert) for part in server.holds or [] for layer, expert in part.experts}
        line = []
        for model in instance.models:
            for layer, expert in itertools.product(range(model.layers), range(model.experts)):
                size = model.expert_bytes if isinstance(model.expert_bytes, int) else model.expert_bytes[layer]
                there_already = (model.name, layer, expert) in there
                line.append(0 if rate is UNSET or there_already else weight * -(-size * 10**9 // rate))
        table.append(line)
    return table
