"""Layers that share nothing: each is a problem of its own, with its own proof, incumbent and share of the time.

With slots, a server's storage may hold whatever they let it hold of every layer. Then nothing couples the layers, and
the best placement is the best plan of each. Where every term asks for one server, because its users have one that is
near and all others are equally far, a layer is taken apart further: its servers meet only in what must be held
somewhere, and that is what prices are for (:mod:`moeplace.caching.bounds.server_oracle`). The proof of a layer is the
engine's (:mod:`moeplace.layers.proof`), with the servers as its layers and the requirements as its budgets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.incumbent import Incumbent
from moeplace.base.workers import each
from moeplace.caching import layer_verification
from moeplace.caching.bounds import server_oracle
from moeplace.caching.bounds.by_layers import BRIEFLY, Units, certificate_or_word
from moeplace.caching.bounds.server_oracle import ServerOracle
from moeplace.caching.certificates import CachingCertificate, Layers, LayerWorth
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.terms import AggregatedProblem, aggregate, fits_alone
from moeplace.layers import merging, proof
from moeplace.layers.oracle import Float, Schedule
from moeplace.layers.proof import Argument, LayerProof

SOURCE = "independent layers"


@dataclass(frozen=True)
class Tuning:
    """How far independent layers are proven. Whatever the numbers are, bounds hold and what is called optimal is.

    Attributes
    ----------
    most_cells : int
        Terms times the square of the experts that a row asks for (16 bytes each are kept), above which an instance is
        refused.
    fine : int
        Savings are scaled up so far, at most 2**50; an instance whose weights sum to more units is refused.
    steps : int
        Most exchanges of one climb.
    slacks : tuple of int
        One round of cutting planes after the other: which part of the gap the searches' bounds may stay off, together.
    schedule : Schedule
        The descent of the shares at the first prices.
    first_s : float
        Seconds that a layer's first share of the time has at least.
    verified : moeplace.caching.layer_verification.Tuning
        How far it is tried whether a certificate can be verified.
    server : moeplace.caching.bounds.server_oracle.Tuning
    proof : moeplace.layers.proof.Tuning
    """

    most_cells: int = 1 << 26
    fine: int = 1 << 50
    steps: int = 1000
    slacks: tuple[int, ...] = (16, 16, 16)
    schedule: Schedule = ((0.1, 1.0, 20), (0.03, 0.5, 30), (0.01, 0.3, 30), (0.003, 0.3, 60))
    first_s: float = 0.2
    verified: layer_verification.Tuning = BRIEFLY
    server: server_oracle.Tuning = server_oracle.USUAL
    proof: proof.Tuning = field(
        default_factory=lambda: replace(
            proof.USUAL,
            climbs=100,
            climbs_between=0,
            starts=3,
            climbed=0.0,
            most_plans=1 << 15,
            merging=replace(merging.USUAL, most_states=1 << 17),
        )
    )


USUAL = Tuning()
"""What is used unless something else is asked for."""


def independent(instance: Instance) -> bool:
    """Return whether nothing couples the layers: no server can be full before its slots are."""
    if instance.active is not None:
        return False
    first = instance.block_start[:-1]
    experts = np.diff(instance.block_start)
    most = np.minimum(instance.layer_slots[:, None], experts[None, :])
    # Python's integers: these sums may be beyond 64 bits.
    size = [int(size) for size in instance.item_bytes[first]]
    return all(
        sum(count * own for count, own in zip(counts, size, strict=True)) <= capacity
        for counts, capacity in zip(most.tolist(), instance.capacity_bytes.tolist(), strict=True)
    )


def refuses(instance: Instance, tuning: Tuning = USUAL) -> str | None:
    """Say why an instance is not taken, or None."""
    if not independent(instance):
        return "its layers share the servers' storage"
    problem = aggregate(instance)
    if Units.of(problem).total > tuning.fine:
        return f"its weights sum to more than {tuning.fine:,} units"
    if any(_single(problem, block) is None for block in _blocks(problem)):
        return "several servers are near to the same users"
    width = int(np.diff(problem.set_start).max(initial=1))
    cells = problem.n_terms * width**2
    return f"{cells:,} shares of terms, at most {tuning.most_cells:,} are kept" if cells > tuning.most_cells else None


class IndependentLayers:
    """The layers of an instance for which :func:`refuses` says nothing, with its incumbent.

    Parameters
    ----------
    instance : Instance
    search : Incumbent
        Receives bounds and placements; it has a placement.
    threads : int
        Layers that are worked on at the same time.
    tuning : Tuning
    """

    def __init__(self, instance: Instance, search: Incumbent, threads: int, tuning: Tuning = USUAL) -> None:
        self.instance, self.search, self.threads, self.tuning = instance, search, threads, tuning
        problem = aggregate(instance)
        self.units = Units.of(problem)
        self.lock = threading.RLock()
        self._seen: Placement | None = None
        self._blocks = _blocks(problem)
        self.layers = [Layer(self, problem, block) for block in self._blocks]
        self.look()

    def run(self) -> None:
        """Prove as much as there is time for: all layers once, then again and again those that have a gap."""
        self.report()
        waiting = [layer for layer in self.layers if not layer.proven]
        while waiting and self.search.ended is None:
            waiting.sort(key=lambda layer: -layer.gap)
            began = [(layer.value, layer.upper) for layer in waiting]
            self._round(waiting)
            moved = [(layer.value, layer.upper) for layer in waiting] != began or any(layer.cut for layer in waiting)
            waiting = [layer for layer in waiting if not layer.proven]
            if not moved:
                break  # limits have ended all searches, and would again

    def _round(self, waiting: Sequence[Layer]) -> None:
        """Work on some layers, each for half of its share of the time that is left: the rest is for the gaps."""
        left = len(waiting)

        def work(layer: Layer) -> None:
            nonlocal left
            if (remaining := self.search.stop.remaining) is None:
                layer.go_on(None)
            else:
                layer.go_on(max(self.tuning.first_s, remaining * min(self.threads, left) / max(1, left) / 2))
            with self.lock:
                left -= 1

        each(work, waiting, self.threads)

    def look(self) -> None:
        """Take over the parts of the search's placement that are better than what is known of their layers."""
        with self.lock:
            placement = self.search.placement
            if placement is not self._seen:
                self._seen = placement
                for layer in self.layers:
                    layer.consider(layer.part(placement.cached))

    def report(self) -> None:
        """Report the sum of the layers' bounds."""
        with self.lock:
            upper = sum(layer.upper for layer in self.layers)
            most = {block: int(layer.upper) for block, layer in zip(self._blocks, self.layers, strict=True)}
            bound = self.instance.baseline_ns - upper * self.units.unit
            self.search.prove(bound, SOURCE, lambda: self._certificate(max(bound, 0), most))

    def _certificate(self, bound: int, most: dict[int, int]) -> CachingCertificate:
        """Write down what each layer saves at most, if others can find that out in a short search."""
        layers = [LayerWorth(most.get(b, 0), "") for b in range(self.instance.n_blocks)]
        proof = Layers(self.units.unit, 1, 1, [0] * len(self.instance.servers), layers)
        return certificate_or_word(self.instance, bound, proof, SOURCE, self.tuning.verified)

    def offer(self) -> None:
        """Offer the best plans of all layers."""
        with self.lock:
            cached = self.search.placement.cached.copy()
            for layer in self.layers:
                layer.part(cached)[:] = layer.held
            self.search.offer(Placement(cached))


class Layer:
    """One layer with its proof and its incumbent: the primal side of the engine for this layer alone.

    Attributes
    ----------
    value : int
        Scaled: what every better plan exceeds.
    upper : int
        No plan saves more, in whole units of the weights.
    held : bool array [N, E]
        The best plan.
    cut : bool
        Whether its share of the time has ended before its work.
    """

    def __init__(self, whole: IndependentLayers, problem: AggregatedProblem, block: int) -> None:
        self._whole, self._tuning = whole, whole.tuning
        instance = whole.instance
        first, last = (int(b) for b in instance.block_start[block : block + 2])
        self._items = slice(first, last)
        terms = problem.block_terms(block)
        weight = whole.units.weights[terms]
        loads = whole.units.loads
        n_servers, n_experts = len(instance.servers), last - first
        load = np.zeros((n_servers, n_experts), dtype=np.int64)
        if loads is not None:
            load[:] = loads[:, block][:, None]
            if instance.holds is not None:
                load[instance.holds[:, self._items]] = 0
        self.total = int(weight.sum())
        self.scale = 1 << max(0, (self._tuning.fine // max(self.total + int(load.sum()), 1)).bit_length() - 1)
        self._reach, self._owner = _requirements(instance, self._items)
        fits = fits_alone(instance)[:, first]
        server = _single(problem, block)
        assert server is not None  # refuses() has looked
        length = np.diff(problem.set_start)[problem.term_set[terms]]
        width = int(length.max(initial=1))
        place = np.arange(width)[None, :]
        at = np.minimum(problem.set_start[problem.term_set[terms]][:, None] + place, len(problem.set_item) - 1)
        member = np.where(place < length[:, None], problem.set_item[at].astype(np.int64) - first, -1)
        self.oracles = []
        for n in range(n_servers):
            mine = server == n
            slots = int(min(instance.layer_slots[n], n_experts)) if fits[n] else 0
            owner = np.where(self._reach[:, n], self._owner, -1)
            self.oracles.append(
                ServerOracle(
                    member[mine], weight[mine] * self.scale, load[n] * self.scale, slots, owner, self._tuning.server
                )
            )
        self.budget = self._reach.sum(axis=1).astype(np.int64) - 1
        self.upper = self.total
        self.held: Bool = np.zeros((n_servers, n_experts), dtype=np.bool_)
        self._value = -(1 << 62)
        self._proof: LayerProof | None = None
        self._until: float | None = None
        self.cut = False

    @property
    def proven(self) -> bool:
        """Whether nothing is left to do."""
        return self.upper * self.scale == self._value

    @property
    def gap(self) -> int:
        """How far bound and best plan are apart, in units."""
        return self.upper - self.value // self.scale

    def part(self, cached: Bool) -> Bool:
        """Return the layer's part of a placement, a view [N, E]."""
        view: Bool = cached[:, self._items]
        return view

    def go_on(self, seconds: float | None) -> None:
        """Search and prove for so long, or until nothing is left to try."""
        self._until = None if seconds is None else time.monotonic() + seconds
        self.cut = False
        self._whole.look()
        if self._proof is None:
            self._proof = LayerProof(
                self.oracles, self.budget, self, total=self.total * self.scale, tuning=self._tuning.proof
            )
            price = self._begin(self._proof)
        else:
            price = self._proof.price.astype(np.float64)
        for part in self._tuning.slacks:
            if not self.stop():
                for oracle in self.oracles:
                    oracle.slack = self.gap * self.scale // (part * len(self.oracles))
                self._proof.minimise(price, self._tuning.proof.nodes)
                price = self._proof.price.astype(np.float64)
        if not self.stop():
            self._proof.enumerate()

    def _begin(self, proof: LayerProof) -> Float:
        """Collect plans, make the best placement and the shares of them; return good prices."""
        sites = range(len(self.oracles))
        proof.hear_of_known()
        master = proof.collect(np.zeros(len(self.budget)), self._tuning.proof.climbs)
        price = np.zeros(len(self.budget)) if master is None else master.prices
        if self.stop():
            return price
        proof.combine([proof.pool.plans(i) for i in sites])
        whole = proof.sane(price)
        self.repair([proof.pool.best(i, whole) for i in sites])
        if not self.stop():
            proof.tune(whole, self._tuning.schedule)
            proof.bound(whole)
        return price

    def consider(self, held: Bool) -> None:
        """Take a plan that is within all limits as the layer's best, if it is better."""
        value = sum(oracle.plan(own.astype(np.int64))[0] for oracle, own in zip(self.oracles, held, strict=True))
        with self._whole.lock:  # another layer's thread may hand on a placement of somebody else
            if value > self._value:
                self._value, self.held = value, held.copy()

    # What the engine asks of a primal side.

    @property
    def value(self) -> int:
        """What the layer's best plan saves, scaled, and what is not worth a unit more."""
        self._whole.look()
        return self._value + self.scale - 1

    def stop(self) -> bool:
        """Return whether to end."""
        if self._until is not None and time.monotonic() >= self._until:
            self.cut = True
        return self.cut or self.proven or self._whole.search.checkpoint() is not None

    def prove(self, upper: int, argument: Argument) -> None:
        """Take a bound on the scaled saving; certificates know nothing of pairs."""
        if (whole := upper // self.scale) < self.upper:
            self.upper = whole
            self._whole.report()

    def known(self) -> list[list[Int64]]:
        """Return the best plan."""
        return [[own.astype(np.int64)] for own in self.held]

    def offer(self, codes: Sequence[Int64]) -> bool:
        """Take a plan within the budgets as the incumbent if it is better."""
        before = self._value
        self.consider(np.stack(codes) > 0)
        if self._value == before:
            return False
        self._whole.offer()
        return True

    def repair(self, codes: Sequence[Int64]) -> None:
        """Put in what is missing where that loses least, and climb on."""
        held = np.stack(codes)
        if self._cover(held):
            self._climb(held)

    def polish(self) -> None:
        """Climb on from the best plan."""
        self._climb(self.held.astype(np.int64))

    def _cover(self, held: Int64) -> bool:
        """Place what must be somewhere and is not, in place of what is not needed; say whether that was possible."""
        while True:
            count = (self._reach & (held[:, self._owner] > 0).T).sum(axis=1)
            missing = np.flatnonzero(count == 0)
            if not len(missing):
                return True
            needed = self._needed(held, count)
            best: tuple[int, int, int, int] | None = None
            for n, oracle in enumerate(self.oracles):
                wanted = np.unique(self._owner[missing[self._reach[missing, n]]])
                if not len(wanted) or not oracle.slots:
                    continue
                if held[n].sum() < oracle.slots:
                    table = np.diagonal(oracle.exchanges(held[n]))[None, :]
                    outs = np.array([-1])
                else:
                    outs = np.flatnonzero((held[n] > 0) & ~needed[n])
                    table = oracle.exchanges(held[n])[outs]
                if len(outs):
                    i, k = np.unravel_index(int(np.argmax(table[:, wanted])), (len(outs), len(wanted)))
                    gain = int(table[i, wanted[k]])
                    if best is None or gain > best[0]:
                        best = gain, n, int(outs[i]), int(wanted[k])
            if best is None:
                return False
            _, n, out, into = best
            if out >= 0:
                held[n, out] = 0
            held[n, into] = 1

    def _needed(self, held: Int64, count: Int64) -> Bool:
        """Return what a server may not drop, bool [N, E]: it holds the only copy for some requirement."""
        needed = np.zeros(held.shape, dtype=np.bool_)
        for r in np.flatnonzero(count == 1).tolist():
            e = self._owner[r]
            needed[self._reach[r] & (held[:, e] > 0), e] = True
        return needed

    def _climb(self, held: Int64) -> None:
        """Exchange experts while that gains, on one server or between two; offer what comes of it."""
        n_servers = len(held)
        for _ in range(self._tuning.steps):
            if self.stop():
                break
            count = (self._reach & (held[:, self._owner] > 0).T).sum(axis=1)
            needed = self._needed(held, count)
            # What leaves n for m must be within what is required of it there.
            stuck = np.zeros((n_servers, n_servers, held.shape[1]), dtype=np.bool_)
            for r in np.flatnonzero(count == 1).tolist():
                e = self._owner[r]
                stuck[self._reach[r] & (held[:, e] > 0), :, e] |= ~self._reach[r][None, :]
            nothing = -(1 << 60)
            table = np.stack([oracle.exchanges(own) for oracle, own in zip(self.oracles, held, strict=True)])
            inside = held > 0
            table[~inside[:, :, None] | inside[:, None, :]] = nothing
            best: tuple[int, list[tuple[int, int, int]]] = (0, [])
            free = np.where(needed[:, :, None], nothing, table)
            # Instead of something that is not needed; and what then may go there, from elsewhere.
            instead, out = free.max(axis=1), free.argmax(axis=1)
            for n in range(n_servers):
                e = int(np.argmax(instead[n]))
                if instead[n, e] > best[0]:
                    best = int(instead[n, e]), [(n, int(out[n, e]), e)]
                for m in range(n_servers):
                    if m == n:
                        continue
                    chain = np.where(stuck[n, m] | inside[m], nothing, instead[m])[:, None] + table[n]
                    a, b = np.unravel_index(int(np.argmax(chain)), chain.shape)
                    if table[n, a, b] > nothing and chain[a, b] > best[0]:
                        best = int(chain[a, b]), [(n, int(a), int(b)), (m, int(out[m, a]), int(a))]
                    if m < n:
                        both = table[n] + table[m].T
                        both[stuck[n, m], :] = nothing
                        both[:, stuck[m, n]] = nothing
                        a, b = np.unravel_index(int(np.argmax(both)), both.shape)
                        if both[a, b] > best[0]:
                            best = int(both[a, b]), [(n, int(a), int(b)), (m, int(b), int(a))]
            if not best[1]:
                break
            for n, gone, come in best[1]:
                held[n, gone], held[n, come] = 0, 1
        self.offer(list(held))


def _blocks(problem: AggregatedProblem) -> list[int]:
    """Return the blocks of which anything is asked."""
    coverage = problem.instance.coverage
    required = [] if coverage is None else problem.instance.item_block[coverage.item].tolist()
    return sorted({*problem.blocks, *required})


def _single(problem: AggregatedProblem, block: int) -> Int64 | None:
    """Return the one server that each term of a layer asks for, -1 for none; None where a term may have several."""
    instance = problem.instance
    fits = fits_alone(instance)[:, instance.block_start[block]]
    members = problem.radius[problem.term_radius[problem.block_terms(block)]] & fits
    count = members.sum(axis=1)
    if (count > 1).any():
        return None
    server: Int64 = np.where(count == 1, members.argmax(axis=1), -1)
    return server


def _requirements(instance: Instance, items: slice) -> tuple[Bool, Int64]:
    """Return the servers [B, N] and the expert [B] of each requirement of a layer."""
    if instance.coverage is None:
        return np.zeros((0, len(instance.servers)), dtype=np.bool_), np.zeros(0, dtype=np.int64)
    reach, expert = instance.coverage.of(items)
    return instance.coverage.reach[reach] & fits_alone(instance)[:, items.start], expert.astype(np.int64)
