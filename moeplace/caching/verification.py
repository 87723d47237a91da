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
from typing import Any

import numpy as np
from msgspec import UNSET

from moeplace.base.arrays import Int64
from moeplace.base.certificates import AnyCertificate, Trusted
from moeplace.base.errors import InputError
from moeplace.caching.certificates import SHARE_BITS, Covering, Cut, Layers, Point
from moeplace.caching.instance import Instance
from moeplace.caching.layer_verification import prove_by_layers
from moeplace.caching.verification_rows import Block, Steps, baseline_ns, demand_steps, loading_ns, row_blocks


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
    if isinstance(certificate.proof, Layers):
        try:
            said_why = prove_by_layers(instance, certificate.bound_ns, certificate.proof)
        except InputError as error:
            said_why = str(error)
        if said_why is not None:
            return Verification((f"proof.{said_why}",), None, None)
        return Verification((), certificate.bound_ns, None)
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


def _prices(instance: Instance, cut: Cut, gradient: list[list[int]]) -> int:
    """Put into a cut's slopes what loading costs and what needs are worth; return the change of its constant.

    All in units of ``2**-SHARE_BITS / weight_unit`` token-ns.
    """
    first = list(itertools.accumulate((m.layers * m.experts for m in instance.models), initial=0))
    for line, loading in zip(gradient, loading_ns(instance) or [], strict=False):
        for item, cost in enumerate(loading):
            line[item] -= cost * cut.weight_unit << SHARE_BITS
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


def _bound(instance: Instance, cut: Cut, placements: list[Int64]) -> int:
    steps = demand_steps(instance)
    servers = len(instance.servers)
    constant = 0
    gradient: list[list[int]] = [[0] * instance.n_items for _ in range(servers)]

    def sums(b: int, block: Block) -> tuple[int, list[list[int]]]:
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

    blocks = row_blocks(instance)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for b, (part, slopes) in enumerate(pool.map(sums, range(len(blocks)), blocks)):
            constant += part
            for line, values in zip(gradient, slopes, strict=True):
                line[int(instance.block_start[b]) : int(instance.block_start[b + 1])] = values
    constant += _prices(instance, cut, gradient)
    saving = _most(instance, cut, constant, gradient) // (cut.price_unit * cut.weight_unit << SHARE_BITS)
    return max(0, baseline_ns(instance, blocks) - saving)


def _cut(steps: Steps, block: Block, placement: Int64, point: Point, unit: int) -> tuple[int, list[list[int]]]:
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
