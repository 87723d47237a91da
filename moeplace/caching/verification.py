"""The verifier of certificates: trusts nobody, and shares with what makes them only the instance and the document.

It goes back to the definitions (docs/certificates.md), row by row of the instance. For a demand with the distinct times
``theta_0 < theta_1 < ...`` below the cloud's, a row saves ``theta_{j+1} - theta_j`` per token exactly if every expert
that is asked for within ``theta_j`` (those on a device that is nearer are not) is cached on one of the servers within
``theta_j``. Each of these terms gets its multipliers at the certificate's points, all in integers; nothing is merged
or aggregated, and no cut, however it was made, can prove more than is true.

Of version 2 it takes from the document itself: the time that stands in for a cloud, who needs which experts within its
reach, what loading costs, and the slots.
"""

from __future__ import annotations

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET

from moeplace.base.arrays import Bool, Int64
from moeplace.base.certificates import AnyCertificate, Trusted
from moeplace.base.documents import UNREACHABLE
from moeplace.base.errors import InputError
from moeplace.caching.certificates import SHARE_BITS, Covering, Cut, Point
from moeplace.caching.instance import Instance


@dataclass(frozen=True)
class Verification:
    """What a certificate proves.

    Attributes
    ----------
    problems : tuple of str
        Why it does not prove what it says, one line each; empty if it does.
    bound_ns : int or None
        The lower bound on the cost of every placement that it proves, token-ns; None where it proves none.
    trusted : str or None
        The solver whose word the bound rests on; None where it rests on nothing but arithmetic.
    """

    problems: tuple[str, ...]
    bound_ns: int | None
    trusted: str | None

    @property
    def ok(self) -> bool:
        """Whether the certificate proves what it says."""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """Return the findings as a plain dict."""
        return {
            "ok": self.ok,
            "problems": list(self.problems),
            "bound_ns": self.bound_ns,
            "trusted": self.trusted,
        }


def verify(instance: Instance, certificate: AnyCertificate) -> Verification:
    """Recompute the bound that a certificate proves.

    Parameters
    ----------
    instance : Instance
    certificate : Certificate

    Returns
    -------
    Verification
    """
    said = certificate.instance.sha256
    if said != instance.sha256:
        wrong = f"instance.sha256: the certificate is for {said[:64]!r}, this is {instance.sha256}"
        return Verification((wrong,), None, None)
    if isinstance(certificate.proof, Trusted):
        return Verification((), certificate.bound_ns, certificate.proof.source)
    if instance.active is not None:
        # Of all experts of every row: fewer may be active, and then less is waited for.
        return Verification(("it says nothing of fewer active experts, which are open in this instance",), None, None)
    if not isinstance(certificate.proof, Cut):
        return Verification(("it is of another problem",), None, None)
    try:
        placements = _read(instance, certificate.proof)
    except InputError as error:
        return Verification((f"proof.{error}",), None, None)
    bound = _bound(instance, certificate.proof, placements)
    problems: tuple[str, ...] = ()
    if bound < certificate.bound_ns:
        problems = (f"bound_ns: the certificate says {certificate.bound_ns}, its cut proves {bound}",)
    return Verification(problems, bound, None)


def _read(instance: Instance, cut: Cut) -> list[Int64]:
    """Check a cut's numbers against the instance and each other; return the placements of its points."""
    servers, blocks = len(instance.servers), instance.n_blocks
    if len(cut.prices) != servers:
        raise InputError(f"{len(cut.prices)} entries, the instance has {servers} servers", place="prices")
    placements = []
    for i, point in enumerate(cut.points):
        if len(point.weights) != blocks:
            raise InputError(f"{len(point.weights)} entries, {blocks} layers in all", place=f"points[{i}].weights")
        try:
            placements.append(point.unpacked(servers, instance.n_items))
        except InputError as error:
            raise InputError(error.message, place=f"points[{i}].placement") from None
    for i, covering in enumerate(cut.coverage or []):
        try:
            _check_covering(instance, covering)
        except InputError as error:
            raise InputError(error.message, place=f"coverage[{i}].{error.place}") from None
    for b in range(blocks):
        total = sum(point.weights[b] for point in cut.points)
        if total != cut.weight_unit:
            place = f"points[*].weights[{b}]"
            raise InputError(f"the weights sum to {total}, not to the weight_unit {cut.weight_unit}", place=place)
    return placements


def _check_covering(instance: Instance, covering: Covering) -> None:
    """Check that the demand must reach all experts that have a multiplier."""
    if covering.demand >= len(instance.demands):
        message = f"{covering.demand}, the instance has {len(instance.demands)} demands (from 0)"
        raise InputError(message, place="demand")
    demand = instance.demands[covering.demand]
    if demand.cloud_ns is not None:
        raise InputError(f"demands[{covering.demand}] has a cloud and needs nothing", place="demand")
    model = next(model for model in instance.models if model.name == demand.model)
    if len(covering.prices) != model.layers * model.experts:
        found = f"{len(covering.prices)} entries, {model.name!r} has {model.layers * model.experts} experts"
        raise InputError(found, place="prices")
    for layer, expert in demand.device_experts or []:
        if covering.prices[layer * model.experts + expert]:
            place = f"prices[{layer * model.experts + expert}]"
            raise InputError(f"[{layer}, {expert}] is on the device of demands[{covering.demand}]", place=place)


def _farthest(instance: Instance) -> Int64:
    """Return the time of every demand's cloud, or that of the farthest place an expert can be on without one."""
    far = []
    for demand in instance.demands:
        places = [t for t in demand.server_ns if t is not None] + [demand.device_ns] * bool(demand.device_experts)
        far.append(max(places, default=0) if demand.cloud_ns is None else demand.cloud_ns)
    return np.array(far, dtype=np.int64)


def _prices(instance: Instance, cut: Cut, gradient: list[list[int]]) -> int:
    """Put into a cut's slopes what loading costs and what needs are worth; return the change of its constant.

    All in units of ``2**-SHARE_BITS / weight_unit`` token-ns.
    """
    first = list(itertools.accumulate((m.layers * m.experts for m in instance.models), initial=0))
    weight = 1 if instance.loading is UNSET else instance.loading.weight
    for server, line in zip(instance.servers, gradient, strict=True):
        if server.load_bytes_per_s is UNSET:
            continue
        there = {(part.model, layer, expert) for part in server.holds or [] for layer, expert in part.experts}
        for begin, model in zip(first, instance.models, strict=False):
            for layer, expert in itertools.product(range(model.layers), range(model.experts)):
                if (model.name, layer, expert) not in there:
                    size = model.expert_bytes if isinstance(model.expert_bytes, int) else model.expert_bytes[layer]
                    loading = weight * -(-size * 10**9 // server.load_bytes_per_s)
                    line[begin + layer * model.experts + expert] -= loading * cut.weight_unit << SHARE_BITS
    constant = 0
    for covering in cut.coverage or []:
        demand = instance.demands[covering.demand]
        begin = next(b for b, model in zip(first, instance.models, strict=False) if model.name == demand.model)
        for n, time in enumerate(demand.server_ns):
            if time is not None:
                for e, price in enumerate(covering.prices):
                    gradient[n][begin + e] += price
        constant -= sum(covering.prices)
    return constant


class _Steps(NamedTuple):
    """The steps of every demand: ``[D, J]`` radius set, width (0: no such step), and whether the device is within."""

    members: Bool
    radius: Int64
    width: Int64
    device: Bool


def _steps(instance: Instance) -> _Steps:
    number: dict[tuple[bool, ...], int] = {}
    found: list[list[tuple[int, int, bool]]] = []
    cloud_ns, device_ns = _farthest(instance).tolist(), instance.device_ns.tolist()
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
    return _Steps(members, table[:, :, 0], table[:, :, 1], table[:, :, 2].astype(np.bool_))


class _Block(NamedTuple):
    """The rows of a block, padded: demand, tokens [A]; experts (ascending), whether asked for, on the device [A, K]."""

    demand: Int64
    tokens: Int64
    expert: Int64
    asked: Bool
    on_device: Bool


def _blocks(instance: Instance) -> list[_Block]:
    rows = instance.rows
    start, demand, count, item = rows.start, rows.demand.astype(np.int64), rows.count, rows.item.astype(np.int64)
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
        blocks.append(_Block(demand[chosen], count[chosen], np.where(asked, expert, 0), asked, device))
    return blocks


def _bound(instance: Instance, cut: Cut, placements: list[Int64]) -> int:
    steps = _steps(instance)
    servers = len(instance.servers)
    constant = 0
    gradient: list[list[int]] = [[0] * instance.n_items for _ in range(servers)]
    baseline = 0

    def sums(b: int, block: _Block) -> tuple[int, list[list[int]]]:
        """Average the cuts of a block at all points, in units of ``2**-SHARE_BITS / weight_unit``."""
        first, last = int(instance.block_start[b]), int(instance.block_start[b + 1])
        total, slopes = 0, [[0] * (last - first) for _ in range(servers)]
        for point, placement in zip(cut.points, placements, strict=True):
            if weight := point.weights[b]:
                part, slope = _cut(steps, block, placement[:, first:last], point, cut.unit)
                total += weight * part
                slopes = [
                    [a + weight * b for a, b in zip(*lines, strict=True)] for lines in zip(slopes, slope, strict=True)
                ]
        return total, slopes

    blocks = _blocks(instance)
    far = _farthest(instance)
    for block in blocks:
        away = (block.asked & ~block.on_device).any(axis=1)
        near = np.minimum(instance.device_ns, far)[block.demand]
        # The instance was refused if its latency with empty servers did not fit in 63 bits.
        baseline += int(np.dot(block.tokens, np.where(away, far[block.demand], near)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for b, (part, slopes) in enumerate(pool.map(sums, range(len(blocks)), blocks)):
            constant += part
            for line, values in zip(gradient, slopes, strict=True):
                line[int(instance.block_start[b]) : int(instance.block_start[b + 1])] = values
    constant += _prices(instance, cut, gradient)
    saving = _most(instance, cut, constant, gradient) // (cut.price_unit * cut.weight_unit << SHARE_BITS)
    return max(0, baseline - saving)


def _cut(steps: _Steps, block: _Block, placement: Int64, point: Point, unit: int) -> tuple[int, list[list[int]]]:
    """Return constant and slopes [N][E] of a block's cut at a point, in units of ``2**-SHARE_BITS`` token-ns."""
    from moeplace.caching._verification_kernels import HALF, add_terms  # numba takes a second to load

    members = steps.members.astype(np.int64)
    (high, low), constant = add_terms(*block, *steps[1:], members @ placement, unit, point.smoothing)
    # Sums over radius sets: the halves stay below 2**52 and 2**31 times their number.
    slopes = [
        [(a << HALF) + b for a, b in zip(*lines, strict=True)]
        for lines in zip((members.T @ high).tolist(), (members.T @ low).tolist(), strict=True)
    ]
    return (int(constant[0]) << HALF) + int(constant[1]), slopes


def _most(instance: Instance, cut: Cut, constant: int, gradient: list[list[int]]) -> int:
    """Bound the cut over the capacities: by ``sum max(0, G - p * size) + p * capacity`` for every server.

    Of a layer only so many of the most valuable experts count as the server has slots for.
    """
    sizes, bounds = instance.item_bytes.tolist(), instance.block_start.tolist()
    # Every sum of sizes is a multiple of their greatest common divisor.
    step = math.gcd(*sizes) if sizes else 1
    most = constant * cut.price_unit
    for values, price, server in zip(gradient, cut.prices, instance.servers, strict=True):
        room = server.capacity_bytes // step * step
        most += price * room
        for first, last in itertools.pairwise(bounds):
            worth = [
                max(0, value * cut.price_unit - price * size)
                for value, size in zip(values[first:last], sizes[first:last], strict=True)
                if size <= room
            ]
            if server.layer_slots is not UNSET and server.layer_slots < len(worth):
                worth = sorted(worth, reverse=True)[: server.layer_slots]
            most += sum(worth)
    return most
