"""The bound by layers for caching: layers, budgets and incumbent as the engine (:mod:`moeplace.layers`) takes them.

A layer's plan has the value that it saves; the budgets are the servers' storage, in units of the greatest common
divisor of the experts' sizes. Savings are in multiples of the greatest common divisor of the weights, and of what
loading costs, times a scale that gives prices enough digits. Coverage, loading and slots (version 2) are within a
layer: its oracle keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET, UnsetType

from moeplace.base.arrays import Bool, Int64
from moeplace.base.certificates import Trusted, packed
from moeplace.base.errors import InputError
from moeplace.base.incumbent import Incumbent
from moeplace.caching import layer_verification
from moeplace.caching.bounds import layer_oracle
from moeplace.caching.bounds.layer_oracle import KERNELS as ORACLE
from moeplace.caching.bounds.layer_oracle import LayerOracle
from moeplace.caching.certificates import CachingCertificate, Layers, LayerWorth, MergeStep
from moeplace.caching.heuristics import pricing
from moeplace.caching.heuristics.climb import climbed
from moeplace.caching.heuristics.pricing import peeled
from moeplace.caching.heuristics.repairing import without_excess
from moeplace.caching.instance import Instance
from moeplace.caching.layer_verification import prove_by_layers
from moeplace.caching.placement import Placement
from moeplace.caching.saving import KERNELS as HEURISTICS
from moeplace.caching.saving import Layer, SavingForm
from moeplace.caching.terms import AggregatedProblem, aggregate
from moeplace.layers import proof
from moeplace.layers.merging import KERNELS as MERGING
from moeplace.layers.oracle import Float
from moeplace.layers.proof import Argument, LayerProof, PlanPool

SOURCE = "layer enumeration"

IMPORTS = (*HEURISTICS, *ORACLE, *MERGING, "moeplace.layers.master")
"""What a proof imports when it runs."""

LARGEST = 1 << 56
"""Coarser weights are taken where the weights' sum is more of their units than this: sums must not overflow."""


BRIEFLY = layer_verification.Tuning(most_nodes=1 << 16)
"""How far it is tried whether a certificate can be verified, where that is in doubt."""


@dataclass(frozen=True)
class Tuning:
    """Which layers are taken, and how finely. Whatever the numbers are, bounds hold and what is called optimal is.

    Attributes
    ----------
    most_cells : int
        Terms times the square of the experts that a row asks for (8 bytes each are kept), above which it is refused.
    most_masks : int
        Experts of a layer times sets of servers, above which it is refused.
    coarse : int
        Weights are rounded where their sum is more of their units than this, at most :data:`LARGEST`.
    fine : int
        Savings are scaled up so far, at most 2**50.
    many_terms : int
        Terms above which the descent is worth more than one thread.
    enumerated : int
        Most experts of a layer whose sets are all tried when it climbs.
    oracle : moeplace.caching.bounds.layer_oracle.Tuning
    proof : moeplace.layers.proof.Tuning
    verified : moeplace.caching.layer_verification.Tuning
        How far it is tried whether a certificate can be verified, where that is in doubt.
    """

    most_cells: int = 1 << 26
    most_masks: int = 1 << 22
    coarse: int = LARGEST
    fine: int = 1 << 50
    many_terms: int = 50_000
    enumerated: int = 12
    oracle: layer_oracle.Tuning = layer_oracle.USUAL
    proof: proof.Tuning = proof.USUAL
    verified: layer_verification.Tuning = BRIEFLY


USUAL = Tuning()
"""What is used unless something else is asked for."""


def refuses(instance: Instance, most_cells: int | None = None, tuning: Tuning = USUAL) -> str | None:
    """Say why an instance is not taken, or None."""
    most_cells = tuning.most_cells if most_cells is None else most_cells
    if (said := too_wide(instance, tuning)) is not None:
        return said
    problem = aggregate(instance)
    width = np.diff(problem.set_start)
    cells = int((np.bincount(problem.term_set, minlength=len(width)) * width**2).sum())
    return f"{cells:,} shares of terms, at most {most_cells:,} are kept" if cells > most_cells else None


def too_wide(instance: Instance, tuning: Tuning = USUAL) -> str | None:
    """Say why the servers that can be of use to a layer are too many, or None."""
    most_servers = tuning.oracle.most_servers
    for model, count in zip(instance.models, _useful_servers(instance), strict=True):
        if count > most_servers:
            return f"{count} servers can be of use to a layer, at most {most_servers} are handled"
        if (masks := model.experts << count) > tuning.most_masks:
            return f"{masks:,} experts times sets of servers in a layer, at most {tuning.most_masks:,} are handled"
    return None


def _useful_servers(instance: Instance) -> list[int]:
    """Return how many servers can be of use to a layer of each model."""
    near = instance.server_ns < instance.cloud_ns[:, None]
    coverage, counts = instance.coverage, []
    for m in range(len(instance.models)):
        items = instance.model_items(m)
        useful = near[instance.demand_model == m].any(axis=0)
        if coverage is not None:
            useful |= coverage.reach[coverage.of(items)[0]].any(axis=0)
        useful &= instance.capacity_bytes >= instance.item_bytes[items].min()
        counts.append(int(useful.sum()))
    return counts


def table_cells(instance: Instance) -> int:
    """Return experts times sets of servers, all layers together: what a step of the descent goes through."""
    counts = _useful_servers(instance)
    return sum(model.layers * model.experts << count for model, count in zip(instance.models, counts, strict=True))


def certificate_or_word(
    instance: Instance, bound: int, proof: Layers, source: str, tuning: layer_verification.Tuning
) -> CachingCertificate:
    """Return the certificate of a proof if it can be verified within limits, else whose word the bound is."""
    try:
        said = prove_by_layers(instance, bound, proof, tuning)
    except InputError as error:
        said = str(error)
    return CachingCertificate.make(instance, bound, proof if said is None else Trusted(source))


def packed_odds(oracle: LayerOracle, codes: Int64, slot_price: Int64) -> tuple[str, list[int] | UnsetType]:
    """Return the odds and the slot prices that an oracle has had as a certificate holds them."""
    slots = np.zeros(oracle.n_servers, dtype=np.int64)
    slots[oracle.servers] = slot_price
    return packed(oracle.odds_table(codes), 4), slots.tolist() if slot_price.any() else UNSET


def written(
    instance: Instance, bound: int, units: tuple[int, int, int], argument: Argument, layers: list[LayerWorth],
    blocks: list[int], slotted: bool, tuning: layer_verification.Tuning,
) -> CachingCertificate:  # fmt: skip
    """Write down what proves a bound.

    Parameters
    ----------
    instance : Instance
    bound : int
    units : (int, int, int)
        Token-ns of a weight, scale of prices and worths, bytes of storage.
    argument : Argument
    layers : list of LayerWorth
        Of each block.
    blocks : list of int
        Of the layers of the argument.
    slotted : bool
        Whether slots limit a layer: what is bounded at once then takes (C6), of which certificates know nothing. Others
        will have to search, which is not always possible.
    tuning : moeplace.caching.layer_verification.Tuning
        How far that is tried.
    """
    merge = [MergeStep(blocks[layer], prices.tolist()) for layer, prices in argument.merge]
    proof = Layers(*units, argument.price.tolist(), layers, merge or UNSET)
    if slotted and not argument.exact:
        return certificate_or_word(instance, bound, proof, SOURCE, tuning)
    return CachingCertificate.make(instance, bound, proof)


class ClimbingOracle(LayerOracle):
    """A layer that climbs as the search for placements does, see :mod:`moeplace.caching.heuristics.pricing`.

    Parameters
    ----------
    problem, block, scale
        As for :class:`LayerOracle`.
    units : Units
        Weights and what loading costs.
    layer : Layer or None
        The layer in saving form; without, nothing is found.
    tuning : Tuning
    """

    def __init__(
        self, problem: AggregatedProblem, block: int, scale: int, units: Units, layer: Layer | None, tuning: Tuning
    ) -> None:
        super().__init__(problem, block, scale, units.weights, units.loads, tuning.oracle)
        self._layer, self._enumerated = layer, tuning.enumerated
        self._capacity = problem.instance.capacity_bytes
        # Of a price of a unit of storage, what a byte costs in token-ns.
        self._token_ns = units.unit / scale / self.size

    def climbed(self, code: Int64, price: Int64) -> list[Int64]:
        """Return codes of plans at prices, climbed to from some, and from everything by dropping what pays least.

        Layers whose experts are worth something one by one are searched faster than they climb: they do not.
        """
        if self._layer is None or self._layer.additive:
            return []
        per_byte: Float = (price * self.units * self._token_ns).astype(np.float64)
        starts = [*map(self.held, code), peeled(self._layer, self._capacity, per_byte)[0]]
        found = []
        for part in {start.tobytes(): start for start in starts}.values():
            climbs = pricing.price(self._layer, part, self._capacity, per_byte, self._enumerated)
            found += [self.masks(held) for held, _ in climbs]
        limit = self.room * self.units
        return [code for code in found if self.covers(code) and (self.usage(code)[self.servers] <= limit).all()]


class CachingLayers:
    """The layers of a caching instance with its incumbent: the primal side of a proof by layers.

    Values and prices are in scaled units: ``scale / unit`` times token-ns, prices per ``size_unit`` bytes.

    Parameters
    ----------
    form : SavingForm
    search : Incumbent
        Receives bounds and placements.
    threads : int
    tuning : Tuning
    checkpoint : callable, optional
        Whether to end, asked now and then; else the search's own.
    """

    def __init__(
        self,
        form: SavingForm,
        search: Incumbent,
        threads: int,
        tuning: Tuning = USUAL,
        checkpoint: Callable[[], bool] | None = None,
    ) -> None:
        self.form, self.search, self.threads, self.tuning = form, search, threads, tuning
        self._checkpoint = checkpoint
        self.instance = form.instance
        problem = aggregate(self.instance)
        units = Units.of(problem, tuning.coarse)
        self.unit = units.unit
        self.scale = 1 << max(0, (tuning.fine // max(units.total, 1)).bit_length() - 1)
        blocks = problem.blocks
        if (coverage := self.instance.coverage) is not None:
            blocks = sorted({*blocks, *self.instance.item_block[coverage.item].tolist()})
        layers = {self.instance.item_block[layer.items.start]: layer for layer in form.layers}
        oracles = [ClimbingOracle(problem, block, self.scale, units, layers.get(block), tuning) for block in blocks]
        self.oracles = [oracle for oracle in oracles if len(oracle.experts)]
        self.size_unit = math.gcd(*(oracle.size for oracle in self.oracles)) or 1
        for oracle in self.oracles:
            oracle.units = oracle.size // self.size_unit
        # No server needs to hold more than everything.
        most = sum(oracle.units * oracle.n_experts for oracle in self.oracles)
        capacity = self.instance.capacity_bytes // self.size_unit
        self.capacity: Int64 = np.minimum(capacity, most).astype(np.int64)
        total = int(units.weights.sum()) * self.scale - sum(oracle.least_loading for oracle in self.oracles)
        self.total = total if self.oracles else 0
        self._pool = PlanPool(len(self.oracles))

    def proof(self) -> LayerProof:
        """Return a proof over these layers."""
        many = sum(oracle.n_terms for oracle in self.oracles) > self.tuning.many_terms
        proof = LayerProof(
            self.oracles, self.capacity, self, total=self.total, threads=self.threads,
            descent_threads=self.threads if many else 1, tuning=self.tuning.proof,
        )  # fmt: skip
        self._pool = proof.pool
        return proof

    def collected(self, after: list[int]) -> Iterator[tuple[int, Bool]]:
        """Yield the plans that the proof has collected, by any thread, beyond the first so many of each layer.

        Parameters
        ----------
        after : list of int
            So many; what is yielded is added to it.

        Yields
        ------
        (int, bool array [N, E])
            A block and what the servers hold of it.
        """
        for i, oracle in enumerate(self.oracles):
            for code in self._pool.codes(i)[after[i] :]:
                after[i] += 1
                yield oracle.block, oracle.held(code)

    def prices(self, per_byte: Float) -> Int64:
        """Return the prices of a unit of storage, scaled, for prices of a byte in token-ns.

        Sums of prices must not overflow, so what all storage costs is limited; a bound holds at any price.
        """
        wanted = per_byte * (self.size_unit * self.scale / self.unit)
        most = max(self.total, self.total - sum(oracle.least for oracle in self.oracles))
        sane = min(1.0, 2 * most / max(float(wanted @ self.capacity), 1.0))
        price: Int64 = np.rint(wanted * sane).astype(np.int64)
        return price

    @property
    def value(self) -> int:
        """What the incumbent saves, scaled; rounded down where weights are coarse."""
        return (self.instance.baseline_ns - self.search.latency_ns) // self.unit * self.scale

    def stop(self) -> bool:
        """Return whether the search has ended."""
        return self.search.checkpoint() is not None if self._checkpoint is None else self._checkpoint()

    def prove(self, upper: int, argument: Argument) -> None:
        """Report a bound on the scaled saving, with what proves it."""
        bound = self.instance.baseline_ns - upper // self.scale * self.unit
        multipliers = [(oracle.odds, oracle.slot_price) for oracle in self.oracles]

        def certificate() -> CachingCertificate:
            return self._certificate(max(bound, 0), argument, multipliers)

        self.search.prove(bound, SOURCE, certificate)

    def _certificate(
        self, bound: int, argument: Argument, multipliers: list[tuple[Int64, Int64]]
    ) -> CachingCertificate:
        """Write down what proves a bound: the argument, and the odds and slot prices that the oracles had."""
        layers = [LayerWorth(0, "")] * self.instance.n_blocks
        for oracle, most, said in zip(self.oracles, argument.most, multipliers, strict=True):
            layers[oracle.block] = LayerWorth(most, *packed_odds(oracle, *said))
        return written(
            self.instance, bound, (self.unit, self.scale, self.size_unit), argument, layers,
            [oracle.block for oracle in self.oracles], any(oracle.slotted for oracle in self.oracles),
            self.tuning.verified,
        )  # fmt: skip

    def known(self) -> list[list[Int64]]:
        """Return, for each layer, the empty plan where nothing must be held, and the incumbent's."""
        cached = self.search.placement.cached
        plans = []
        for oracle in self.oracles:
            empty = np.zeros(len(oracle.experts), dtype=np.int64)
            plans.append([empty] * oracle.covers(empty) + [oracle.masks(self._part(cached, oracle))])
        return plans

    def offer(self, codes: Sequence[Int64]) -> bool:
        """Take plans that fit as the incumbent if they are better."""
        return self.search.offer(Placement(self._held(codes)))

    def repair(self, codes: Sequence[Int64]) -> None:
        """Drop the least useful experts from servers that are too full, and climb on.

        Where experts must be somewhere, they may also go to a server with room; if that is of no help, there is nothing
        to climb from.
        """
        repaired = Placement(without_excess(self.form, self._held(codes), self.threads, self.stop))
        if not self.stop() and (self.instance.coverage is None or repaired.fits(self.instance)):
            self._climb(repaired)

    def polish(self) -> None:
        """Climb on from the incumbent."""
        self._climb(self.search.placement)

    def _climb(self, start: Placement) -> None:
        """Offer what local search makes of a placement."""
        remaining = self.search.stop.remaining
        limit = None if remaining is None else remaining / 5
        self.search.offer(climbed(self.form, start, limit, self.threads))

    def _held(self, codes: Sequence[Int64]) -> Bool:
        held: Bool = np.zeros_like(self.search.placement.cached)
        for oracle, code in zip(self.oracles, codes, strict=True):
            self._part(held, oracle)[:] = oracle.held(code)
        return held

    def _part(self, cached: Bool, oracle: LayerOracle) -> Bool:
        first = int(self.instance.block_start[oracle.block])
        part: Bool = cached[:, first : first + oracle.n_experts]
        return part


def loading_of_everything(instance: Instance) -> int:
    """Return what it costs to load every expert onto every server, token-ns."""
    if instance.load_block_ns is None:
        return 0
    # Python's integers: these sums may be beyond 64 bits.
    experts = np.diff(instance.block_start).tolist()
    lines = instance.load_block_ns.tolist()
    return sum(cost * count for line in lines for cost, count in zip(line, experts, strict=True))


@dataclass(frozen=True, eq=False)
class Units:
    """Weights and what loading costs in whole units, token-ns: no plan saves more than these say.

    Attributes
    ----------
    unit : int
        Token-ns.
    weights : int64 array [T]
        Rounded up where they would be too many.
    loads : int64 array [N, B] or None
        Of an expert of each block on each server, rounded down there.
    total : int
        What all weights and all loading sum to.
    """

    unit: int
    weights: Int64
    loads: Int64 | None
    total: int

    @classmethod
    def of(cls, problem: AggregatedProblem, most: int = LARGEST) -> Units:
        """Return the largest units that all numbers are multiples of; larger ones where these would be too many."""
        instance, loads = problem.instance, problem.instance.load_block_ns
        loading = loading_of_everything(instance)
        unit = problem.weight_unit
        if loads is not None and loading:
            unit = math.gcd(int(np.gcd.reduce(problem.term_weight)), int(np.gcd.reduce(loads, axis=None)))
        while (problem.total_weight + loading) // unit > most:
            unit *= 2
        weights = -(-problem.term_weight // unit)
        return cls(unit, weights, loads if loads is None else loads // unit, int(weights.sum()) + -(-loading // unit))
