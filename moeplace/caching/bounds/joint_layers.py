"""The bound by layers where the experts that are active are chosen, too: one budget more, the loss of quality.

Layers, budgets and incumbent as the engine takes them, as :mod:`moeplace.caching.bounds.by_layers` has them without
that choice. Values are savings against the instance's baseline, that of all experts active; units of storage are as
there, units of loss the instance's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.incumbent import Incumbent
from moeplace.caching.bounds import by_layers, joint_oracle
from moeplace.caching.bounds.by_layers import SOURCE, packed_odds, written
from moeplace.caching.bounds.joint_oracle import JointOracle, Option
from moeplace.caching.bounds.layer_oracle import NOTHING, LayerOracle
from moeplace.caching.certificates import ActiveOdds, CachingCertificate, LayerWorth
from moeplace.caching.heuristics.joint import JointForms, PartStop, alternate
from moeplace.caching.heuristics.repairing import without_excess
from moeplace.caching.placement import Placement
from moeplace.layers.choosing import choose
from moeplace.layers.oracle import Float, Schedule
from moeplace.layers.proof import Argument, LayerProof


@dataclass(frozen=True)
class Tuning:
    """Which layers are taken, and how finely. Whatever the numbers are, bounds hold and what is called optimal is.

    Attributes
    ----------
    most_shares : int
        Experts that the terms of all layers with all numbers of active experts ask for in sum, above which the instance
        is refused: each takes 40 bytes.
    oracle : moeplace.caching.bounds.joint_oracle.Tuning
    layers : moeplace.caching.bounds.by_layers.Tuning
        As without the choice.
    """

    most_shares: int = 1 << 26
    oracle: joint_oracle.Tuning = joint_oracle.USUAL
    layers: by_layers.Tuning = by_layers.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""


def refuses(forms: JointForms, tuning: Tuning = USUAL) -> str | None:
    """Say why a joint instance is not taken, or None."""
    if (said := by_layers.too_wide(forms.instance, tuning.layers)) is not None:
        return said
    shares = 0
    for k in forms.numbers:
        problem = forms.problem(k)
        own = np.array([k in options for options in forms.options], dtype=np.bool_)
        width = np.diff(problem.set_start)
        block = forms.instance.item_block[problem.set_item[problem.set_start[:-1]]]
        count = np.bincount(problem.term_set, minlength=len(width))
        shares += int((count * width)[own[block]].sum())
    most = tuning.most_shares
    return f"{shares:,} shares of terms, at most {most:,} are kept" if shares > most else None


class JointLayers:
    """The layers of a joint instance with its incumbent: the primal side of a proof by layers.

    Parameters
    ----------
    forms : JointForms
        Some choice is within the budget of loss.
    search : Incumbent
        Receives bounds and placements with their active experts.
    threads : int
    tuning : Tuning
    """

    def __init__(self, forms: JointForms, search: Incumbent, threads: int, tuning: Tuning = USUAL) -> None:
        self.forms, self.search, self.threads, self.tuning = forms, search, threads, tuning
        self._proof: _JointProof | None = None
        self.instance = instance = forms.instance
        blocks, layers = range(instance.n_blocks), tuning.layers
        offsets = {(b, k): forms.offset(b, k) for b in blocks for k in forms.options[b]}
        units = _Units.of(forms, offsets, layers.coarse)
        self.unit = units.unit
        self.scale = 1 << max(0, (layers.fine // max(units.total, 1)).bit_length() - 1)
        self.oracles = [
            JointOracle(
                [
                    Option(
                        k,
                        int(forms.loss[b, k - 1]),
                        -(-offsets[b, k] // self.unit) * self.scale,
                        LayerOracle(forms.problem(k), b, self.scale, units.weights[k], units.loads, layers.oracle),
                    )
                    for k in forms.options[b]
                ],
                tuning.oracle,
            )
            for b in blocks
        ]  # fmt: skip
        self.size_unit = math.gcd(*(oracle.size for oracle in self.oracles)) or 1
        for oracle in self.oracles:
            for option in oracle.options:
                option.oracle.units = oracle.size // self.size_unit
        # No server needs to hold more than everything, and nothing loses more than all that may be lost.
        most = sum(oracle.size // self.size_unit * oracle.n_experts for oracle in self.oracles)
        lost = sum(max(option.loss for option in oracle.options) for oracle in self.oracles)
        capacity = np.minimum(instance.capacity_bytes // self.size_unit, most)
        self.budget: Int64 = np.append(capacity, min(forms.budget, lost)).astype(np.int64)

    def proof(self) -> LayerProof:
        """Return a proof over these layers."""
        many = sum(oracle.n_terms for oracle in self.oracles) > self.tuning.layers.many_terms
        self._proof = _JointProof(
            self.oracles, self.budget, self, threads=self.threads, descent_threads=self.threads if many else 1,
            tuning=self.tuning.layers.proof,
        )  # fmt: skip
        return self._proof

    def prices(self) -> Float | None:
        """Return the best prices of a byte on each server and of a unit of loss that the proof has come to, token-ns.

        None where it has none yet.
        """
        proof = self._proof
        if proof is None or not proof.price.any():
            return None
        price: Float = proof.price.astype(np.float64) * (self.unit / self.scale)
        price[:-1] /= self.size_unit
        return price

    @property
    def value(self) -> int:
        """What the incumbent saves, scaled; rounded down where weights are coarse."""
        return (self.instance.baseline_ns - self.search.latency_ns) // self.unit * self.scale

    def stop(self) -> bool:
        """Return whether the search has ended."""
        return self.search.checkpoint() is not None

    def prove(self, upper: int, argument: Argument) -> None:
        """Report a bound on the scaled saving, with what proves it."""
        bound = self.instance.baseline_ns - upper // self.scale * self.unit
        odds = [[(o, o.oracle.odds, o.oracle.slot_price) for o in own.options] for own in self.oracles]

        def certificate() -> CachingCertificate:
            layers = [
                LayerWorth(most, "", active=[ActiveOdds(o.k, *packed_odds(o.oracle, *said)) for o, *said in own])
                for most, own in zip(argument.most, odds, strict=True)
            ]
            slotted = any(option.oracle.slotted for oracle in self.oracles for option in oracle.options)
            return written(
                self.instance, max(bound, 0), (self.unit, self.scale, self.size_unit), argument, layers,
                [oracle.block for oracle in self.oracles], slotted, self.tuning.layers.verified,
            )  # fmt: skip

        self.search.prove(bound, SOURCE, certificate)

    def known(self) -> list[list[Int64]]:
        """Return, for each layer, the empty plans where nothing must be held, and the incumbent's."""
        active, cached = self.forms.decision(self.search.placement)
        plans = []
        for b, oracle in enumerate(self.oracles):
            nothing = np.zeros((oracle.n_servers, oracle.n_experts), dtype=np.bool_)
            empty = [oracle.code(option.k, nothing) for option in oracle.options]
            own = np.ascontiguousarray(cached[:, self.forms.items(b)])
            plans.append([code for code in empty if oracle.covers(code)] + [oracle.code(int(active[b]), own)])
        return plans

    def offer(self, codes: Sequence[Int64]) -> bool:
        """Take plans that fit as the incumbent if they are better."""
        active, held = self._decided(codes)
        return self.search.offer(self.forms.placement(active, held))

    def repair(self, codes: Sequence[Int64]) -> None:
        """Let layers lose less until the budget is kept, drop the least useful experts, and climb on."""
        active, held = self._decided(codes)
        if not self.forms.within(active):
            active = self.forms.choice(held, self.stop)
        form = self.forms.form(active)
        held = without_excess(form, held, self.threads, self.stop)
        allowed = self.instance.coverage is None or Placement(held).fits(form.instance)
        if not self.stop() and allowed:
            self._climb(active, held)

    def polish(self) -> None:
        """Climb on from the incumbent."""
        self._climb(*self.forms.decision(self.search.placement))

    def _climb(self, active: Int64, held: Bool) -> None:
        alternate(self.forms, active, held, PartStop(self.search, 5), self._found, self.threads)

    def _found(self, active: Int64, held: Bool) -> None:
        self.search.offer(self.forms.placement(active, held))

    def _decided(self, codes: Sequence[Int64]) -> tuple[Int64, Bool]:
        held = np.zeros((len(self.instance.servers), self.instance.n_items), dtype=np.bool_)
        active = np.zeros(len(codes), dtype=np.int64)
        for b, (oracle, code) in enumerate(zip(self.oracles, codes, strict=True)):
            active[b], held[:, self.forms.items(b)] = oracle.decode(code)
        return active, held


class _JointProof(LayerProof):
    """A proof whose quick bounds have the budget of loss kept by whole layers, not in the mean."""

    oracles: list[JointOracle]  # type: ignore[assignment]

    def descend(self, schedule: Schedule, price: Float | None = None) -> Float:
        """Descend as ever; then choose multipliers at the best prices.

        The steps of a descent are shared out over the numbers of active experts, so it ends with worse multipliers.
        """
        price = super().descend(schedule, price)
        if not self.primal.stop():
            self.tune(self.price, self.tuning.retune)
            self.bound(self.price)
        return price

    def bound(self, price: Int64) -> int:
        """Report and return the bound at once: the best choice within the budget of loss of what the layers are worth.

        For each choice of active experts the layers are worth no more than (J6) without the price of loss; so the
        knapsack over them bounds all choices that are within the budget, and by no more than (M1) does.
        """
        upper = super().bound(price)
        bounds = [oracle.bounds(price) for oracle in self.oracles]
        width = max(map(len, bounds))
        value = np.full((len(bounds), width), NOTHING, dtype=np.int64)
        loss = np.full(value.shape, int(self.budget[-1]) + 1, dtype=np.int64)
        for i, (own, oracle) in enumerate(zip(bounds, self.oracles, strict=True)):
            value[i, : len(own)] = own
            loss[i, : len(own)] = np.where(own == NOTHING, loss[i, : len(own)], [o.loss for o in oracle.options])
        # What may not be chosen must not make the numbers large.
        least = value.max(axis=1, keepdims=True, where=value > NOTHING, initial=NOTHING)
        found = choose(np.where(value > NOTHING, value, least), loss, int(self.budget[-1]), stop=self.primal.stop)
        if found is not None and (value.max(axis=1) > NOTHING).all():
            upper = min(upper, found.bound + int(price[:-1] @ self.budget[:-1]))
            self.take_upper(upper, price, self._chosen(bounds, price, found.price))
        return upper

    def _chosen(self, bounds: list[Int64], price: Int64, loss_price: int) -> Argument:
        """Return what bounds with each number of active experts come to at a price of loss, from which all follows."""
        # A bound holds at any price; what all loss costs must not overflow.
        dear = min(loss_price, 2 * self.span // max(1, int(self.budget[-1])))
        most = [
            max(value - dear * o.loss for value, o in zip(own.tolist(), oracle.options, strict=True))
            for own, oracle in zip(bounds, self.oracles, strict=True)
        ]
        return Argument(np.append(price[:-1], dear), most)


@dataclass(frozen=True, eq=False)
class _Units:
    """Weights and what loading costs in whole units, as ``by_layers`` has them, for every number of active experts."""

    unit: int
    weights: dict[int, Int64]
    loads: Int64 | None
    total: int

    @classmethod
    def of(cls, forms: JointForms, offsets: dict[tuple[int, int], int], most: int) -> _Units:
        """Return the largest units that all numbers are multiples of; larger ones where these would be too many."""
        instance, loads = forms.instance, forms.instance.load_block_ns
        weights = {k: forms.problem(k).term_weight for k in forms.numbers}
        loading = by_layers.loading_of_everything(instance)
        unit = math.gcd(*(int(np.gcd.reduce(w)) for w in weights.values()), *offsets.values()) or 1
        if loads is not None and loading:
            unit = math.gcd(unit, int(np.gcd.reduce(loads, axis=None)))
        total = max((sum(w.tolist()) for w in weights.values()), default=0) + loading
        total += sum(max(offsets.get((b, k), 0) for k in own) for b, own in enumerate(forms.options))
        while total // unit > most:
            unit *= 2
        rounded = {k: -(-w // unit) for k, w in weights.items()}
        whole = max((int(w.sum()) for w in rounded.values()), default=0) + total // unit
        return cls(unit, rounded, loads if loads is None else loads // unit, whole)
