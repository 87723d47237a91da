"""The verifier of certificates: trusts nobody, and shares with what makes them only the instance and the document.

It goes back to the definitions (docs/certificates.md), row by row of the instance. For a demand with the distinct times
``theta_0 < theta_1 < ...`` below the cloud's, a row saves ``theta_{j+1} - theta_j`` per token exactly if every expert
that is asked for within ``theta_j`` (those on a device that is nearer are not) is cached on one of the servers within
``theta_j``. Each of these terms gets its multipliers at the certificate's points, all in integers; nothing is merged
or aggregated, and no cut, however it was made, can prove more than is true.

Of version 2 it takes from the document itself: the time that stands in for a cloud, who needs which experts within its
reach, what loading costs, and the slots.

Where active experts are open, a cut is of the rows cut to the fewest experts that count, which wait least; or there is
one for each number, and what layers are worth with each of them at the prices bounds every choice within the budget.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import UNSET

from moeplace.base.arrays import Int64
from moeplace.base.certificates import AnyCertificate, Trusted
from moeplace.base.errors import InputError
from moeplace.caching.certificates import SHARE_BITS, ActiveCut, ActiveCuts, Covering, Cut, Layers, Point
from moeplace.caching.instance import Instance
from moeplace.caching.layer_verification import USUAL, prove_by_layers
from moeplace.caching.verification_choices import fewest_blocks, most_chosen, open_numbers
from moeplace.caching.verification_rows import Block, Steps, baselines_ns, demand_steps, loading_ns, row_blocks


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
    proof = certificate.proof
    if not isinstance(proof, Cut | ActiveCuts | Layers):
        return Verification(("it is of another problem",), None, None)
    try:
        if isinstance(proof, Layers):
            said_why = prove_by_layers(instance, certificate.bound_ns, proof)
            if said_why is not None:
                return Verification((f"proof.{said_why}",), None, None)
            return Verification((), certificate.bound_ns, None)
        if isinstance(proof, Cut):
            bound = _bound(instance, proof)
        else:
            bound = _bound_of_all(instance, certificate.bound_ns, proof)
    except InputError as error:
        return Verification((f"proof.{error}",), None, None)
    problems: tuple[str, ...] = ()
    if bound < certificate.bound_ns:
        what = "its cut proves" if isinstance(proof, Cut) else "its cuts prove"
        problems = (f"bound_ns: the certificate says {certificate.bound_ns}, {what} {bound}",)
    return Verification(problems, bound, None)


def _read(instance: Instance, cut: Cut | ActiveCut, weight_unit: int, layers: Sequence[int]) -> list[Int64]:
    """Check a cut's numbers against the instance and each other; return the placements of its points.

    ``layers``: those in which its weights must add up.
    """
    servers, blocks = len(instance.servers), instance.n_blocks
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
    for b in layers:
        total = sum(point.weights[b] for point in cut.points)
        if total != weight_unit:
            place = f"points[*].weights[{b}]"
            raise InputError(f"the weights sum to {total}, not to the weight_unit {weight_unit}", place=place)
    return placements


def _check_prices(instance: Instance, prices: Sequence[int]) -> None:
    servers = len(instance.servers)
    if len(prices) != servers:
        raise InputError(f"{len(prices)} entries, the instance has {servers} servers", place="prices")


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


def _needs_of(instance: Instance, cut: Cut | ActiveCut, gradient: list[list[int]]) -> list[int]:
    """Put into a cut's slopes what needs are worth; return the change of the constant of every block.

    All in units of ``2**-SHARE_BITS / weight_unit`` token-ns.
    """
    first = list(itertools.accumulate((m.layers * m.experts for m in instance.models), initial=0))
    constant = [0] * instance.n_blocks
    for covering in cut.coverage or []:
        demand = instance.demands[covering.demand]
        begin = next(b for b, model in zip(first, instance.models, strict=False) if model.name == demand.model)
        for n, time in enumerate(demand.server_ns):
            if time is not None:
                for e, price in enumerate(covering.prices):
                    gradient[n][begin + e] += price
        for e, price in enumerate(covering.prices):
            constant[int(instance.item_block[begin + e])] -= price
    return constant


def _bound(instance: Instance, cut: Cut) -> int:
    """Return the lower bound that a cut proves."""
    _check_prices(instance, cut.prices)
    every = range(instance.n_blocks)
    placements = _read(instance, cut, cut.weight_unit, every)
    blocks = fewest_blocks(instance)
    worth = _worths(instance, cut, cut, placements, dict(zip(every, blocks, strict=True)))
    saving = (sum(worth.values()) + _rent(instance, cut)) // (cut.price_unit * cut.weight_unit << SHARE_BITS)
    return max(0, sum(baselines_ns(instance, blocks)) - saving)


def _bound_of_all(instance: Instance, bound_ns: int, proof: ActiveCuts) -> int:
    """Return a bound if cuts for all numbers of active experts prove it, else the lower one that they prove."""
    _check_prices(instance, proof.prices)
    found = open_numbers(instance)
    if found is None:
        raise InputError("there is no choice of active experts in this instance", place="cuts")
    numbers, budget = found
    known: dict[int, int] = {}
    for i, cut in enumerate(proof.cuts):
        if cut.experts in known:
            raise InputError(f"there is one for {cut.experts} active experts already", place=f"cuts[{i}]")
        known[cut.experts] = i
    whole = baselines_ns(instance, row_blocks(instance))
    unit = proof.price_unit * proof.weight_unit << SHARE_BITS
    worths: list[list[tuple[int, int]]] = [[] for _ in numbers]
    for k in sorted({k for own in numbers for k in own}):
        if k not in known:
            raise InputError(f"there is none for {k} active experts", place="cuts")
        own = [b for b, mine in enumerate(numbers) if k in mine]
        try:
            placements = _read(instance, proof.cuts[known[k]], proof.weight_unit, own)
        except InputError as error:
            raise InputError(error.message, place=f"cuts[{known[k]}].{error.place}") from None
        blocks = row_blocks(instance, k)
        empty = baselines_ns(instance, blocks)
        found_worth = _worths(instance, proof, proof.cuts[known[k]], placements, {b: blocks[b] for b in own})
        for b, worth in found_worth.items():
            worths[b].append((worth + (whole[b] - empty[b]) * unit, numbers[b][k]))
    rent = _rent(instance, proof)
    # What saves more than the bound allows.
    beyond = (sum(whole) - bound_ns + 1) * unit - rent
    most = most_chosen(worths, budget, proof.loss_price, beyond, USUAL.most_choices)
    return bound_ns if most is None else max(0, sum(whole) - (most + rent) // unit)


def _worths(
    instance: Instance, proof: Cut | ActiveCuts, cut: Cut | ActiveCut, placements: list[Int64], blocks: dict[int, Block]
) -> dict[int, int]:
    """Return what some blocks are worth at most at the prices: of ``2**-SHARE_BITS / (price_unit * weight_unit)``."""
    steps = demand_steps(instance)
    servers = len(instance.servers)
    gradient: list[list[int]] = [[0] * instance.n_items for _ in range(servers)]

    def sums(b: int) -> tuple[int, list[list[int]]]:
        """Average the cuts of a block at all points, in units of ``2**-SHARE_BITS / weight_unit``."""
        first, last = int(instance.block_start[b]), int(instance.block_start[b + 1])
        total, slopes = 0, [[0] * (last - first) for _ in range(servers)]
        for point, placement in zip(cut.points, placements, strict=True):
            if weight := point.weights[b]:
                part, slope = _cut(steps, blocks[b], placement[:, first:last], point, proof.unit)
                total += weight * part
                slopes = [
                    [a + weight * b for a, b in zip(*lines, strict=True)] for lines in zip(slopes, slope, strict=True)
                ]
        return total, slopes

    constant = _needs_of(instance, cut, gradient)
    for line, loading in zip(gradient, loading_ns(instance) or [], strict=False):
        for item, cost in enumerate(loading):
            line[item] -= cost * proof.weight_unit << SHARE_BITS
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for b, (part, slopes) in zip(blocks, pool.map(sums, blocks), strict=True):
            constant[b] += part
            first = int(instance.block_start[b])
            for line, values in zip(gradient, slopes, strict=True):
                for at, value in enumerate(values, start=first):
                    line[at] += value
    rooms = _rooms(instance)
    return {b: _most(instance, proof, b, constant[b], gradient, rooms) for b in blocks}


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


def _rooms(instance: Instance) -> list[int]:
    """Return the most bytes that can be used of each server: every sum of sizes is a multiple of their divisor."""
    sizes = instance.item_bytes.tolist()
    step = math.gcd(*sizes) if sizes else 1
    return [server.capacity_bytes // step * step for server in instance.servers]


def _rent(instance: Instance, proof: Cut | ActiveCuts) -> int:
    """Return what all storage costs at the prices."""
    return sum(price * room for price, room in zip(proof.prices, _rooms(instance), strict=True))


def _most(
    instance: Instance,
    proof: Cut | ActiveCuts,
    b: int,
    constant: int,
    gradient: list[list[int]],
    rooms: list[int],
) -> int:
    """Bound the cut of a block at the prices: by ``sum max(0, G - p * size)`` for every server.

    Only so many of the most valuable experts count as the server has slots for.
    """
    first, last = int(instance.block_start[b]), int(instance.block_start[b + 1])
    size = int(instance.item_bytes[first])
    most = constant * proof.price_unit
    for values, price, server, room in zip(gradient, proof.prices, instance.servers, rooms, strict=True):
        if size > room:
            continue
        worth = [max(0, value * proof.price_unit - price * size) for value in values[first:last]]
        if server.layer_slots is not UNSET and server.layer_slots < len(worth):
            worth = sorted(worth, reverse=True)[: server.layer_slots]
        most += sum(worth)
    return most
