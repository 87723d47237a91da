"""The verifier of certificates of kind ``layers``: redoes the argument (docs/certificates.md) by itself, in integers.

It shares with the solver only the instance, the document and the rule by which weights are shared out. From the
instance's rows it makes the terms of every layer anew; with the odds that it is given it bounds the layer, or lists all
plans that a placement better than the bound could have; and it merges these lists at the prices that it is given.
Nothing that is written in a certificate can make it accept a bound that does not hold: prices, odds and steps only
decide how soon it sees that.

Where active experts are open, a layer has the plans of all numbers that count, each from the rows cut to so many, and
the loss is one budget more. What layers are worth with each number at the prices of storage also bounds every choice
within the budget, by sums over layers; where no choice can reach beyond the bound, nothing need be merged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import numpy as np
from msgspec import UNSET

from moeplace.base.arrays import Bool, Int64
from moeplace.base.certificates import unpacked
from moeplace.base.errors import InputError
from moeplace.caching.certificates import MANTISSA_BITS, ActiveOdds, Layers, LayerWorth
from moeplace.caching.instance import Instance
from moeplace.caching.verification_choices import Numbers, fewest_blocks, most_chosen, open_numbers
from moeplace.caching.verification_rows import (
    Block,
    Steps,
    baselines_ns,
    demand_steps,
    loading_ns,
    row_blocks,
)

LARGEST: Final = 1 << 58
"""Weights and loading sum to less than this, and so does what all storage costs, so that no sum overflows."""

NOTHING: Final = -(1 << 62)
"""The worth of no plan."""

MOST_SERVERS: Final = 16
"""Of use to one layer: tables have ``2**servers`` entries for each expert."""


@dataclass(frozen=True)
class Tuning:
    """How much is done for a certificate before it is said to prove nothing. What is said to hold holds at any numbers.

    Attributes
    ----------
    most_nodes : int
        Decisions on experts, all layers together.
    most_plans : int
        Plans of one layer.
    most_states : int
        States of one step of a merge.
    most_choices : int
        Choices of active experts in the first layers that are followed at a time.
    chunk : int
        Decisions, or new states, between two looks at the signals.
    """

    most_nodes: int = 1 << 32
    most_plans: int = 1 << 22
    most_states: int = 1 << 23
    most_choices: int = 1 << 18
    chunk: int = 1 << 20


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""


@dataclass(frozen=True, eq=False)
class Plans:
    """Plans of a layer: value, and what they use of each budget, ``[P, R]``, in units of storage and of loss."""

    value: Int64
    used: Int64

    def take(self, which: Int64 | Bool) -> Plans:
        """Return some of them."""
        return Plans(self.value[which], self.used[which])


def prove_by_layers(instance: Instance, bound_ns: int, proof: Layers, tuning: Tuning = USUAL) -> str | None:
    """Say why a proof does not show that every placement costs at least ``bound_ns``; None if it does.

    With a price of loss it is of all choices of active experts, else of the rows that wait least.

    Raises
    ------
    InputError
        Its numbers do not fit the instance or each other.
    """
    found = open_numbers(instance)
    servers = len(instance.servers)
    joint = found is not None and len(proof.prices) == servers + 1
    _check_lengths(instance, proof, servers + joint)
    if found is not None and joint:
        blocks = row_blocks(instance)
        choices = _choices_of(instance, proof, found[0], baselines_ns(instance, blocks))
        lost = sum(max(own.values()) for own in found[0])
        budget = [min(found[1], lost)]
    else:
        blocks, budget = fewest_blocks(instance), []
        choices = _plain_of(instance, proof, blocks)
    # No server needs to hold more than everything that is of use.
    everything = sum(choice.units for choice in choices)
    capacity = [min(server.capacity_bytes // proof.size_unit, everything) for server in instance.servers] + budget
    _check_sizes(proof, choices, capacity)
    # Savings are whole units: more than this bound allows means at least so much.
    allowed = sum(baselines_ns(instance, blocks)) - bound_ns
    goal = -(-(allowed + 1) // proof.unit) * proof.scale
    if bound_ns <= 0:
        return None
    most = [proof.layers[choice.block].most for choice in choices]
    excess = sum(most) + sum(p * c for p, c in zip(proof.prices, capacity, strict=True)) - goal
    if not choices and excess >= 0:
        return f"layers: they save nothing, but the bound is {-allowed} above the latency with empty servers"
    if excess >= LARGEST:
        return f"layers: at these prices they are worth {excess + 1} units more than the bound allows"
    if joint and excess >= 0 and proof.merge is UNSET:
        beyond = _beyond(proof, choices, capacity, goal, tuning)
        if beyond is not None:
            return f"layers: their worths allow {beyond + 1} units more than the bound, and there is no merge"
        excess = -1
    lists, nodes = [], tuning.most_nodes
    for choice, worth in zip(choices, most, strict=True):
        # What a placement that saves as much as the goal can have in this layer, if the others are worth what is said.
        parts = []
        for option in choice.options:
            gain = option.offset - sum(proof.prices[servers:]) * option.loss
            plans, best, nodes = option.plans(min(worth + 1, worth - excess) - gain, nodes, tuning, joint)
            if best + gain > worth:
                said = f"a plan is worth {best + gain} at these prices, more than {worth}"
                return f"layers[{choice.block}].most: {said}"
            parts.append(plans)
        value = np.concatenate([plans.value for plans in parts])
        lists.append(Plans(value, np.concatenate([plans.used for plans in parts])))
    if excess < 0:
        return None
    if proof.merge is UNSET:
        return f"layers: their worths allow {excess + 1} units more than the bound, and there is no merge"
    return _merge(proof, choices, lists, np.array(capacity, dtype=np.int64), goal, tuning)


def _beyond(proof: Layers, choices: Sequence[_Choice], capacity: list[int], goal: int, tuning: Tuning) -> int | None:
    """Return by how much choices within the budget of loss reach beyond the goal, by sums; None if none reaches it.

    With each number a layer is worth no more than its masks are by themselves, and than what is said of the layer at
    the price of loss.
    """
    storage = sum(p * c for p, c in zip(proof.prices[:-1], capacity[:-1], strict=True))
    worths = [
        [
            (
                min(option.sums() + option.offset, proof.layers[choice.block].most + proof.prices[-1] * option.loss),
                option.loss,
            )
            for option in choice.options
        ]
        for choice in choices
    ]
    reached = most_chosen(worths, capacity[-1], proof.prices[-1], goal - storage, tuning.most_choices)
    return None if reached is None else reached + storage - goal


def _kernels() -> ModuleType:
    """Return the compiled loops; loaded here, since numba takes a second."""
    from moeplace.caching import _layer_verification_kernels

    return _layer_verification_kernels


def _check_lengths(instance: Instance, proof: Layers, budgets: int) -> None:
    servers, blocks = len(instance.servers), instance.n_blocks
    has = f"the instance has {servers} servers" + (", and there is the loss" if budgets > servers else "")
    if len(proof.prices) != budgets:
        raise InputError(f"{len(proof.prices)} entries, {has}", place="prices")
    if len(proof.layers) != blocks:
        raise InputError(f"{len(proof.layers)} entries, {blocks} layers in all", place="layers")
    for b, layer in enumerate(proof.layers):
        if abs(layer.most) >= LARGEST:
            raise InputError(f"{layer.most} is not between -2**58 and 2**58", place=f"layers[{b}].most")
        if layer.active is not UNSET and budgets == servers:
            raise InputError("numbers of active experts, but there is no price of loss", place=f"layers[{b}].active")
        said: list[tuple[LayerWorth | ActiveOdds, str]] = [(layer, f"layers[{b}]")]
        said += [(own, f"layers[{b}].active[{i}]") for i, own in enumerate(layer.active or [])]
        for own, place in said:
            if (prices := own.slot_prices) is not UNSET and len(prices) != servers:
                wrong = f"{len(prices)} entries, the instance has {servers} servers"
                raise InputError(wrong, place=f"{place}.slot_prices")
        numbers = [own.experts for own in layer.active or []]
        if len(set(numbers)) < len(numbers):
            raise InputError("a number of active experts stands there twice", place=f"layers[{b}].active")
    seen: set[int] = set()
    for i, step in enumerate(proof.merge or []):
        if step.layer >= blocks or step.layer in seen:
            wrong = "is merged already" if step.layer in seen else f"there are {blocks} (from 0)"
            raise InputError(f"layer {step.layer}: {wrong}", place=f"merge[{i}].layer")
        seen.add(step.layer)
        for k, prices in enumerate(step.prices):
            if len(prices) != budgets:
                raise InputError(f"{len(prices)} entries, {has}", place=f"merge[{i}].prices[{k}]")


def _check_sizes(proof: Layers, choices: Sequence[_Choice], capacity: list[int]) -> None:
    """Check that no sum of these numbers can overflow."""
    total = sum(choice.total for choice in choices)
    if total >= LARGEST:
        raise InputError(f"weights and loading sum to {total} units, 2**58 or more", place="unit")
    _check_cost(proof.prices, capacity, "prices")
    for i, step in enumerate(proof.merge or []):
        for k, prices in enumerate(step.prices):
            _check_cost(prices, capacity, f"merge[{i}].prices[{k}]")


def _check_cost(prices: list[int], capacity: list[int], place: str) -> None:
    # A price of what nobody can use must not overflow either.
    cost = sum(p * max(c, 1) for p, c in zip(prices, capacity, strict=True))
    if cost >= LARGEST:
        raise InputError(f"all storage costs {cost} units at these, 2**58 or more", place=place)


@dataclass(frozen=True, eq=False)
class _Choice:
    """The plans of a layer, with every number of active experts that counts; with one, where nothing is open."""

    block: int
    options: list[_Option]

    @property
    def units(self) -> int:
        """Units of storage of all its experts; 0 where nothing depends on them."""
        return max(0 if (own := option.layer) is None else own.units * own.n_experts for option in self.options)

    @property
    def total(self) -> int:
        """No sum over its terms, in whatever order, is larger."""
        return max(option.offset + (0 if option.layer is None else option.layer.total) for option in self.options)


@dataclass(frozen=True, eq=False)
class _Option:
    """A layer with a number of active experts.

    Attributes
    ----------
    layer : _Layer or None
        None where nothing depends on what is cached of it.
    offset : int
        What the number saves with empty servers, against all experts active.
    loss : int
    n_servers : int
        Of the instance.
    """

    layer: _Layer | None
    offset: int
    loss: int
    n_servers: int

    def sums(self) -> int:
        """Return what no plan is worth more than, by sums alone, the offset left out."""
        return 0 if self.layer is None else self.layer.root()[0]

    def plans(self, threshold: int, nodes: int, tuning: Tuning, joint: bool) -> tuple[Plans, int, int]:
        """Return the plans worth at least a threshold at the prices of storage, the offset left out.

        Returns
        -------
        Plans
            With the offset, and if ``joint`` with their loss.
        int
            What the best of them is worth, the offset left out; :data:`NOTHING` without one.
        int
            How many nodes are left.
        """
        if self.layer is not None:
            found, best, nodes = self.layer.plans(threshold, nodes, tuning)
        else:
            count, best = (1, 0) if threshold <= 0 else (0, NOTHING)
            found = Plans(np.zeros(count, dtype=np.int64), np.zeros((count, self.n_servers), dtype=np.int64))
        used = found.used
        if joint:
            used = np.column_stack((used, np.full(len(used), self.loss, dtype=np.int64)))
        return Plans(found.value + self.offset, used), best, nodes


def _plain_of(instance: Instance, proof: Layers, blocks: list[Block]) -> list[_Choice]:
    """Make the layers of a proof that chooses nothing; those are left out on which nothing depends."""
    steps, loads = demand_steps(instance), loading_ns(instance)
    found = []
    for b, block in enumerate(blocks):
        if (layer := _Layer.of(instance, proof, b, block, steps, loads, proof.layers[b], f"layers[{b}]")) is not None:
            found.append(_Choice(b, [_Option(layer, 0, 0, len(instance.servers))]))
    return found


def _choices_of(instance: Instance, proof: Layers, numbers: Numbers, whole: list[int]) -> list[_Choice]:
    """Make all layers with every number of active experts that counts; ``whole``: what they cost with all experts."""
    steps, loads = demand_steps(instance), loading_ns(instance)
    options: list[list[_Option]] = [[] for _ in numbers]
    for b, said in enumerate(proof.layers):
        if said.odds or said.slot_prices is not UNSET:
            raise InputError("each number of active experts has odds of its own", place=f"layers[{b}].odds")
    for k in sorted({k for own in numbers for k in own}):
        blocks = row_blocks(instance, k)
        empty = baselines_ns(instance, blocks)
        for b, own in enumerate(numbers):
            if k not in own:
                continue
            active = proof.layers[b].active or []
            at = next((i for i, odds in enumerate(active) if odds.experts == k), None)
            layer = _Layer.of(
                instance, proof, b, blocks[b], steps, loads, ActiveOdds(k, "") if at is None else active[at],
                f"layers[{b}].active[{at}]",
            )  # fmt: skip
            # Rounded up, as weights are: no plan saves more than this says.
            offset = -(-(whole[b] - empty[b]) // proof.unit) * proof.scale
            options[b].append(_Option(layer, offset, own[k], len(instance.servers)))
    return [_Choice(b, own) for b, own in enumerate(options)]


@dataclass(frozen=True, eq=False)
class _Layer:
    """The terms of a layer (``T`` of them, ``Q`` radius sets), and its experts (``E``) and servers (``N``) of use.

    Attributes
    ----------
    block, n_experts, units : int
        Which layer; all its experts; units of storage of one.
    n_servers : int
        Of the instance.
    servers : int64 array [N]
    radius : int64 array [Q]
        Radius sets as masks over the servers of use.
    member, length, term_radius, weight : int64 arrays [T, K], [T], [T], [T]
        Members ascending, by the order in which experts are decided.
    code : int64 array [T, K]
    price, slot_price, room : int64 array [N]
        Of a unit of storage, of a slot; how many experts there is room for.
    load : int64 array [E, N]
    required : list of list of int
        For each expert the masks that its own must hit.
    """

    block: int
    n_experts: int
    units: int
    n_servers: int
    servers: Int64
    radius: Int64
    member: Int64
    length: Int64
    term_radius: Int64
    weight: Int64
    code: Int64
    price: Int64
    slot_price: Int64
    room: Int64
    load: Int64
    required: list[list[int]]

    @property
    def total(self) -> int:
        """Sum of all weights and of all loading."""
        return int(sum(self.weight.tolist()) + sum(self.load.ravel().tolist()))

    @classmethod
    def of(
        cls,
        instance: Instance,
        proof: Layers,
        b: int,
        block: Block,
        steps: Steps,
        loads: list[list[int]] | None,
        said: LayerWorth | ActiveOdds,
        place: str,
    ) -> _Layer | None:
        """Make a layer from the instance's rows; None where nothing depends on what is cached of it.

        ``said``: its odds and slot prices, which stand at this place in the proof.
        """
        first, last = int(instance.block_start[b]), int(instance.block_start[b + 1])
        size, n_experts = int(instance.item_bytes[first]), last - first
        fits = [
            server.capacity_bytes >= size and (server.layer_slots is UNSET or server.layer_slots > 0)
            for server in instance.servers
        ]
        needs = _needs(instance, b)
        radius_id, member, length, weight = _terms(steps, block, n_experts)
        within = steps.members & fits
        some = within[radius_id].any(axis=1)
        radius_id, member, length, weight = radius_id[some], member[some], length[some], weight[some]
        if not len(weight) and not needs:
            return None
        useful = within[radius_id].any(axis=0)
        for expert, reach in needs:
            if not any(near and n_fits for near, n_fits in zip(reach, fits, strict=True)):
                raise InputError(f"expert {expert} can be nowhere, so there is no placement", place=f"layers[{b}]")
            useful |= np.array(reach) & fits
        servers = np.flatnonzero(useful)
        if len(servers) > MOST_SERVERS:
            raise InputError(
                f"{len(servers)} servers are of use, at most {MOST_SERVERS} are verified", place=f"layers[{b}]"
            )
        if size % proof.size_unit:
            raise InputError(f"{proof.size_unit} does not divide {size}, bytes of an expert", place="size_unit")
        bits = 1 << np.arange(len(servers), dtype=np.int64)
        radius, term_radius = np.unique(within[radius_id][:, servers] @ bits, return_inverse=True)
        scaled = [-(-w // proof.unit) * proof.scale for w in weight.tolist()]
        load = [
            [0 if loads is None else loads[n][item] // proof.unit * proof.scale for n in servers.tolist()]
            for item in range(first, last)
        ]
        if sum(scaled) + sum(map(sum, load)) >= LARGEST:
            raise InputError("weights and loading sum to 2**58 units or more", place="unit")
        # Experts that take part in the most are decided first.
        part = np.zeros(n_experts + 1, dtype=np.int64)
        np.add.at(part, member.ravel(), np.repeat(np.array(scaled, dtype=np.int64), member.shape[1]))
        needed = {expert for expert, _ in needs}
        order = [e for e in np.argsort(-part[:n_experts], kind="stable").tolist() if part[e] > 0 or e in needed]
        position = np.full(n_experts + 1, n_experts, dtype=np.int64)
        position[order] = np.arange(len(order))
        codes = _codes(said.odds, place, len(radius), n_experts)
        codes = np.concatenate((codes, np.zeros((len(radius), 1), dtype=np.int64)), 1)
        members = np.sort(position[member], axis=1)
        back = np.array([*order, *[n_experts] * (n_experts + 1 - len(order))], dtype=np.int64)
        room = [
            min(
                instance.servers[n].capacity_bytes // size,
                n_experts,
                n_experts if (slots := instance.servers[n].layer_slots) is UNSET else slots,
            )
            for n in servers.tolist()
        ]
        slot_prices = said.slot_prices or [0] * len(instance.servers)
        _check_cost(slot_prices, [n_experts] * len(slot_prices), f"{place}.slot_prices")
        storage = proof.prices[: len(instance.servers)]
        _check_cost(storage, [size // proof.size_unit] * len(storage), "prices")
        required: list[list[int]] = [[] for _ in order]
        for expert, reach in needs:
            required[position[expert]].append(int((np.array(reach) & fits)[servers] @ bits))
        return cls(
            block=b, n_experts=n_experts, units=size // proof.size_unit, n_servers=len(instance.servers),
            servers=servers, radius=radius, member=members, length=length, term_radius=term_radius,
            weight=np.array(scaled, dtype=np.int64), code=codes[term_radius[:, None], back[members]],
            price=np.array(storage, dtype=np.int64)[servers],
            slot_price=np.array(slot_prices, dtype=np.int64)[servers], room=np.array(room, dtype=np.int64),
            load=np.array(load, dtype=np.int64).reshape(n_experts, len(servers))[order],
            required=[sorted(set(masks)) for masks in required],
        )  # fmt: skip

    def root(self) -> tuple[int, Int64, Int64]:
        """Return what no plan is worth more than, by sums alone; what is booked with experts, and what masks bring."""
        kernels = _kernels()
        share = np.zeros(self.member.shape, dtype=np.int64)
        kernels.shares(self.weight, self.code, self.length, 0, share)
        mass = np.zeros((len(self.required), len(self.radius)), dtype=np.int64)
        kernels.booked(self.member, self.length, self.term_radius, share, mass)
        worth = self._worths(mass)
        return sum(worth.max(axis=1, initial=NOTHING).tolist()) + int(self.slot_price @ self.room), mass, worth

    def plans(self, threshold: int, nodes: int, tuning: Tuning) -> tuple[Plans, int, int]:
        """Return all plans worth at least a threshold, the best of each usage; what the best of them is worth, or
        :data:`NOTHING`; and how many nodes are left.
        """  # noqa: D205
        kernels, n = _kernels(), len(self.required)
        bound, mass, worth = self.root()
        if bound < threshold:
            none = Plans(np.zeros(0, dtype=np.int64), np.zeros((0, self.n_servers), dtype=np.int64))
            return none, NOTHING, nodes
        best = worth.max(axis=1, initial=NOTHING)
        rooms = int(self.slot_price @ self.room)
        share = np.zeros(self.member.shape, dtype=np.int64)
        hit, mask, cost, first = self._masks(worth, threshold - bound + best)
        width = self.member.shape[1]
        shares = np.zeros((len(self.weight), width, width), dtype=np.int64)
        for j in range(width):
            kernels.shares(self.weight, self.code, self.length, j, share)
            shares[:, j] = share
        first_term, term, place = self._terms_of()
        at, chosen = np.zeros(n + 1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
        at[0] = first[0]
        masses = np.zeros((n + 1, n, len(self.radius)), dtype=np.int64)
        masses[0] = mass
        value = np.zeros((n + 1, 3), dtype=np.int64)
        value[0, 0] = rooms
        used = np.zeros((n + 1, len(self.servers)), dtype=np.int64)
        entries = min(1 << 14, tuning.most_plans)
        found_worth = np.zeros(entries, dtype=np.int64)
        found_used = np.zeros((entries, len(self.servers)), dtype=np.int64)
        state = np.zeros(3, dtype=np.int64)
        while True:
            state[2] = given = min(tuning.chunk, nodes)
            status = kernels.list_plans(
                self.member, self.length, self.term_radius, self.weight, shares, first_term, term, place,
                hit, mask, cost, first, self.room, self.slot_price,
                at, chosen, masses, value, used, found_worth, found_used, state, threshold,
            )  # fmt: skip
            nodes -= given - int(state[2])
            if status == kernels.ENDED:
                break
            if nodes <= 0:
                text = f"more than {tuning.most_nodes:,} decisions are needed to list the plans"
                raise InputError(text, place=f"layers[{self.block}]")
            if status == kernels.FULL:
                keep = _best_of_each(found_worth, found_used)
                if len(keep) > tuning.most_plans:
                    text = f"more than {tuning.most_plans:,} plans may be in a better placement"
                    raise InputError(text, place=f"layers[{self.block}]")
                entries = max(len(found_worth), 4 * len(keep))
                found_worth, found_used = _longer(found_worth[keep], entries), _longer(found_used[keep], entries)
                state[1] = len(keep)
        count = int(state[1])
        keep = _best_of_each(found_worth[:count], found_used[:count])
        worths, counts = found_worth[keep], found_used[keep]
        usage = np.zeros((len(keep), self.n_servers), dtype=np.int64)
        usage[:, self.servers] = counts * self.units
        plans = Plans(worths + counts @ (self.price * self.units), usage)
        return plans, int(worths.max(initial=NOTHING)), nodes

    def _cost(self) -> Int64:
        """Return what each expert costs on each mask, storage and slots and loading, ``[E, 2**N]``."""
        cost = np.zeros((len(self.required), 1 << len(self.servers)), dtype=np.int64)
        for n, (price, slot) in enumerate(zip(self.price.tolist(), self.slot_price.tolist(), strict=True)):
            cost[:, 1 << n : 2 << n] = cost[:, : 1 << n] + (price * self.units + slot) + self.load[:, n : n + 1]
        return cost

    def _worths(self, mass: Int64) -> Int64:
        """Return what is hit of each expert's mass on each mask, less the cost, ``[E, 2**N]``."""
        n_masks = 1 << len(self.servers)
        missed = np.zeros((len(mass), n_masks), dtype=np.int64)
        missed[:, self.radius] = mass
        for n in range(len(self.servers)):  # sums over all subsets
            halves = missed.reshape(len(mass), -1, 2, 1 << n)
            halves[:, :, 1] += halves[:, :, 0]
        worth: Int64 = mass.sum(axis=1)[:, None] - missed[:, ::-1] - self._cost()
        for line, masks in zip(worth, self.required, strict=True):
            for needed in masks:
                line[np.arange(n_masks) & needed == 0] = NOTHING
        return worth

    def _masks(self, worth: Int64, least: Int64) -> tuple[Int64, Int64, Int64, Int64]:
        """Return the masks worth trying, expert by expert: what they hit, themselves, their cost, where each begins.

        Left out are those worth less than ``least [E]``, and those with a server that adds nothing: without it the plan
        saves the same, uses less and costs no more.
        """
        asked = np.zeros((len(self.required), len(self.radius)), dtype=np.bool_)
        inside = np.arange(self.member.shape[1]) < self.length[:, None]
        asked[self.member[inside], np.broadcast_to(self.term_radius[:, None], inside.shape)[inside]] = True
        cost, chosen, costs, first = self._cost(), [], [], [0]
        for e, masks in enumerate(self.required):
            keep = np.flatnonzero((worth[e] >= least[e]) & (worth[e] > NOTHING))
            sets = np.concatenate((self.radius[asked[e]], np.array(masks, dtype=np.int64)))
            needed = np.ones(len(keep), dtype=np.bool_)
            for n in range(len(self.servers)):
                alone = np.zeros(len(keep), dtype=np.bool_)
                for one in sets.tolist():
                    alone |= keep & one == 1 << n
                needed &= alone | (keep >> n & 1 == 0)
            chosen.append(keep[needed])
            costs.append(cost[e, keep[needed]])
            first.append(first[-1] + int(needed.sum()))
        mask = np.concatenate(chosen).astype(np.int64)
        hit = -((mask[:, None] & self.radius) > 0).astype(np.int64)
        return hit, mask, np.concatenate(costs), np.array(first, dtype=np.int64)

    def _terms_of(self) -> tuple[Int64, Int64, Int64]:
        """Return the terms of each expert, and its place among their members."""
        term, place = np.nonzero(np.arange(self.member.shape[1]) < self.length[:, None])
        expert = self.member[term, place]
        order = np.argsort(expert, kind="stable")
        first = np.searchsorted(expert[order], np.arange(len(self.required) + 1)).astype(np.int64)
        return first, term[order].astype(np.int64), place[order].astype(np.int64)


def _codes(odds: str, place: str, n_radii: int, n_experts: int) -> Int64:
    """Return the codes of a layer's odds, ``[Q, E]``."""
    if odds == "":
        return np.zeros((n_radii, n_experts), dtype=np.int64)
    try:
        codes = unpacked(odds, n_radii * n_experts, f"{n_radii} radius sets, {n_experts} experts", 4)
    except InputError as error:
        raise InputError(error.message, place=f"{place}.odds") from None
    if (codes >> MANTISSA_BITS).max(initial=0) >= 1 << 10:
        raise InputError(f"expected numbers below 2**{MANTISSA_BITS + 10}", place=f"{place}.odds")
    return codes.reshape(n_radii, n_experts)


def _needs(instance: Instance, b: int) -> list[tuple[int, tuple[bool, ...]]]:
    """Return what demands without a cloud need of a layer: which expert, and on which servers one of it must be."""
    found: dict[tuple[int, tuple[bool, ...]], None] = {}
    for demand in instance.demands:
        if demand.cloud_ns is not None:
            continue
        begin = 0
        for model in instance.models:
            if model.name == demand.model and begin <= b < begin + model.layers:
                reach = tuple(time is not None for time in demand.server_ns)
                device = {(layer, expert) for layer, expert in demand.device_experts or []}
                for expert in range(model.experts):
                    if (b - begin, expert) not in device:
                        found[expert, reach] = None
            begin += model.layers
    return list(found)


def _terms(steps: Steps, block: Block, n_experts: int) -> tuple[Int64, Int64, Int64, Int64]:
    """Return the terms of a block, equal ones added up: radius set, members (padded), how many, weight in token-ns."""
    radii, members, weights = [], [], []
    for j in range(steps.width.shape[1]):
        width = steps.width[block.demand, j]
        asked = block.asked & ~(block.on_device & steps.device[block.demand, j][:, None])
        live = (width > 0) & asked.any(axis=1)
        radii.append(steps.radius[block.demand, j][live])
        members.append(np.sort(np.where(asked, block.expert, n_experts)[live], axis=1))
        weights.append((block.tokens * width)[live])
    width = block.asked.shape[1]
    member = np.concatenate([np.zeros((0, width), dtype=np.int64), *members])
    radius, weight = (np.concatenate([np.zeros(0, dtype=np.int64), *parts]) for parts in (radii, weights))
    # One number for each different radius set and members: it never exceeds what is numbered times the experts.
    key = radius
    for column in member.T:
        key = np.unique(key * (n_experts + 1) + column, return_inverse=True)[1]
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    total = np.zeros(len(first), dtype=np.int64)
    np.add.at(total, which, weight)  # at most the latency with empty servers
    member = member[first]
    return radius[first], member, (member < n_experts).sum(axis=1), total


def _best_of_each(value: Int64, used: Int64) -> Int64:
    """Return where the largest value of each different use is (some twice, where two uses have one hash)."""
    salt = np.random.default_rng(0).integers(1, 2**62, used.shape[1]) | 1
    key = (used * salt).sum(axis=1)  # wraps around
    order = np.lexsort((-value, key))
    ordered = used[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order[new].astype(np.int64)


def _longer(array: Int64, length: int) -> Int64:
    longer = np.zeros((length, *array.shape[1:]), dtype=np.int64)
    longer[: len(array)] = array
    return longer


def _undominated(plans: Plans, most: int = 20_000) -> Plans:
    """Return the plans without those for which another one uses no more and is worth no less."""
    if len(plans.value) > most:
        return plans
    plans = plans.take(np.lexsort((plans.used.sum(axis=1), -plans.value)))
    kept = np.zeros((0, plans.used.shape[1]), dtype=np.int64)
    which = []
    for i, used in enumerate(plans.used):
        if not (kept <= used).all(axis=1).any():
            which.append(i)
            kept = plans.used[which]
    return plans.take(np.array(which, dtype=np.int64))


def _merge(
    proof: Layers, layers: Sequence[_Choice], lists: Sequence[Plans], capacity: Int64, goal: int, tuning: Tuning
) -> str | None:
    """Combine plans, one a layer; say so if a combination within the capacities may reach the goal."""
    kernels = _kernels()
    at = {layer.block: i for i, layer in enumerate(layers)}
    steps = [(at[step.layer], np.array(step.prices, dtype=np.int64)) for step in proof.merge or [] if step.layer in at]
    own = np.array([proof.prices], dtype=np.int64)
    missing = sorted(set(range(len(layers))) - {i for i, _ in steps})
    steps += [(i, steps[-1][1] if steps else own) for i in missing]
    menus = [_undominated(plans.take(np.flatnonzero((plans.used <= capacity).all(axis=1)))) for plans in lists]
    prices = np.unique(np.concatenate([own, *(prices for _, prices in steps)]), axis=0)
    count = -1
    while count != (count := sum(len(menu.value) for menu in menus)):
        if any(not len(menu.value) for menu in menus):
            return None
        best = _most_worth(menus, prices)
        others = best.sum(axis=0) - best
        for i, menu in enumerate(menus):
            keep = np.zeros(len(menu.value), dtype=np.bool_)
            kernels.reaching(menu.value, menu.used, prices, others[i], capacity, goal, keep)
            menus[i] = menu.take(keep)
    value, used = np.zeros(1, dtype=np.int64), np.zeros((1, len(capacity)), dtype=np.int64)
    for k, (i, prices) in enumerate(steps):
        later = [menus[j] for j, _ in steps[k + 1 :]]
        prices = np.concatenate((own, prices))
        after = _most_worth(later, prices).sum(axis=0) if later else np.zeros(len(prices), dtype=np.int64)
        takes = np.minimum(capacity, sum((menu.used.max(axis=0) for menu in later), np.zeros_like(capacity)))
        value, used = _step(value, used, menus[i], prices, after, capacity, capacity - takes, goal, tuning)
        if k + 1 == len(steps):
            value = value[value >= goal]  # what is left free is worth nothing
        if not len(value):
            return None
        if len(value) > tuning.most_states:
            return f"merge: more than {tuning.most_states:,} combinations of plans may be in a better placement"
    return f"merge: plans within the capacities are worth {int(value.max()) - goal} units more than the bound allows"


def _most_worth(menus: Sequence[Plans], prices: Int64) -> Int64:
    """Return what no plan of each layer is worth more than at each price, ``[L, K]``; sums over layers are safe."""
    best = np.zeros((len(menus), len(prices)), dtype=np.int64)
    for line, menu in zip(best, menus, strict=True):
        _kernels().best_worths(menu.value, menu.used, prices, line)
    return np.maximum(best, -((1 << 60) // max(1, len(menus))))


def _step(
    value: Int64, used: Int64, menu: Plans, prices: Int64, after: Int64, capacity: Int64, least: Int64, goal: int,
    tuning: Tuning,
) -> tuple[Int64, Int64]:  # fmt: skip
    """Add a layer's plans to all states; of states that use the same, the best is kept."""
    entries = max(tuning.chunk, 2 * len(menu.value))
    room_value, room_used = np.zeros(entries, dtype=np.int64), np.zeros((entries, len(capacity)), dtype=np.int64)
    values, uses, total = [value[:0]], [used[:0]], 0
    begin = 0
    combine = functools.partial(
        _kernels().combine, plan_value=menu.value, plan_used=menu.used, price=prices, after=after, capacity=capacity,
        least=least, goal=goal, new_value=room_value, new_used=room_used,
    )  # fmt: skip
    while begin < len(value):
        count = np.zeros(1, dtype=np.int64)
        begin = combine(begin, value, used, count=count)
        keep = _best_of_each(room_value[: count[0]], room_used[: count[0]])
        values.append(room_value[keep])
        uses.append(room_used[keep])
        total += len(keep)
        if total > 2 * tuning.most_states:
            keep = _best_of_each(np.concatenate(values), np.concatenate(uses))
            values, uses, total = [np.concatenate(values)[keep]], [np.concatenate(uses)[keep]], len(keep)
            if total > tuning.most_states:
                break
    value, used = np.concatenate(values), np.concatenate(uses)
    keep = _best_of_each(value, used)
    return value[keep], used[keep]
