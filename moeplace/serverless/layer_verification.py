"""Verifies a certificate by lists: all plans of small layers, and that no combination of them costs less than it says.

It shares the instance and the certificate's document with what it verifies, and no arithmetic: plans are listed here a
second time, from (V1) to (V3) of the serverless page. For each main specification w, with the budgets ``b`` of (V4),
prices ``p >= 0``, a scale ``k > 0``, and plans whose cost is ``c`` and usage ``u`` (times and local bytes):

1. A deployment costs at most ``B - 1`` only if each of its plans costs at most what the others leave where they cost
   least. So plans that cost more are put aside, and those that do not fit beside what the others use at least.
2. It then has ``k c`` of at least ``LB = sum over layers of min (k c + p.u) - p.b``. If that exceeds ``k (B - 1)``, or
   what the dearest plans cost, there is none.
3. Otherwise each of its plans has ``k c + p.u`` within ``k (B - 1) - LB`` of the least. The others are put aside, and
   the rest are merged layer by layer: what does not fit, and what 2. rules out at one of the step's prices, is dropped;
   of what uses the same the cheapest is kept. If nothing is left, there is none.

Any prices will do: poor ones leave more to merge, and beyond the limits nothing is proven.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Bool, Int64
from moeplace.serverless.certificate import ListedSpec, Lists
from moeplace.serverless.instance import Instance

MB: Final = 10**6
SAFE: Final = 1 << 62
"""Numbers below this, and sums of two of them, are held in int64; Python's integers are taken where they are not."""

Amounts = npt.NDArray[Any]


@dataclass(frozen=True)
class Tuning:
    """How far is searched. Whatever the numbers are, what is called proven is.

    Attributes
    ----------
    most_experts : int
        Experts of a layer up to which all plans are listed: that takes ``3**E`` steps.
    most_states : int
        States of one step of a merge, before those that are alike become one.
    """

    most_experts: int = 11
    most_states: int = 1 << 22


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""


def prove_by_lists(instance: Instance, bound: int, proof: Lists, tuning: Tuning = USUAL) -> list[str]:
    """Return why a certificate by lists does not prove a bound, a line each; empty where it does.

    Parameters
    ----------
    instance : Instance
    bound : int
        Price units.
    proof : Lists
    tuning : Tuning
    """
    if (experts := instance.model.experts) > tuning.most_experts:
        return [f"layers of {experts} experts: plans are listed up to {tuning.most_experts}"]
    if _largest(instance) >= SAFE:
        return ["times or bytes are beyond 62 bits"]
    given: dict[int, ListedSpec] = {}
    for i, spec in enumerate(proof.specs):
        if spec.main not in instance.main_specs or spec.main in given:
            return [f"specs[{i}]: specification {spec.main} is none, or there twice"]
        for k, step in enumerate(spec.merge or ()):
            if step.layer >= instance.model.layers:
                return [f"specs[{i}].merge[{k}]: there is no layer {step.layer}"]
        given[spec.main] = spec
    layers = [_Plans.of(instance, layer) for layer in range(instance.model.layers)]
    wrong = []
    for main in instance.main_specs:
        said = _prove_main(instance, main, bound, given.get(main, ListedSpec(main, [0, 0, 0])), layers, tuning)
        if said is not None:
            wrong.append(f"specification {main}: {said}")
    return wrong


@dataclass(frozen=True, eq=False)
class _Plans:
    """The plans of a layer that are of use at some main specification (``P`` of them).

    Attributes
    ----------
    mask : int64 array [P]
        The remote experts, a bit each.
    slowest : int64 array [P]
        Of the replicas in the prefill, ns.
    cost : array [P]
        Of the remote function, price units.
    each : int64 array [P]
        Of a remote expert for one output token, ns.
    kinds : int64 array [2**E, Q]
        Output tokens by how many experts they have and how many of these are remote, for each set of remote experts.
    kind : list of (int, int)
    """

    mask: Int64
    slowest: Int64
    cost: Amounts
    each: Int64
    kinds: Int64
    kind: list[tuple[int, int]]

    @classmethod
    def of(cls, instance: Instance, layer: int) -> _Plans:
        """List the plans of a layer."""
        platform, model, request = instance.platform, instance.model, instance.request
        tokens, size = request.prefill[layer], 1 << model.experts
        decode = request.decode
        rows: dict[int, int] = {}
        for at, experts, count in zip(decode.layer, decode.experts, decode.count, strict=True):
            if at == layer:
                key = sum(1 << e for e in experts)
                rows[key] = rows.get(key, 0) + count
        masks, size_of = np.arange(size, dtype=np.int64), _sums([1] * model.experts)
        kind = sorted({(row.bit_count(), far) for row in rows for far in range(row.bit_count() + 1)})
        kinds = np.zeros((size, len(kind)), dtype=np.int64)
        picks = np.zeros(size, dtype=np.int64)
        for row, count in rows.items():
            far = size_of[masks & row]
            kinds[masks, [kind.index((row.bit_count(), int(f))) for f in far]] += count
            picks += count * far
        need = _sums([model.expert_bytes + n * model.token_bytes for n in tokens])
        load = _sums(tokens)
        room = platform.payload_bytes // model.token_bytes
        found: list[tuple[Int64, Int64, Amounts, int]] = [(masks[:1], masks[:1], masks[:1], 0)]  # all local
        work = [
            _sums([(v.prefill_ns + n * v.prefill_ns_per_token if n else 0) + 2 * _link(instance, n) for n in tokens])
            for v in (instance.specs[index] for index in instance.remote_specs)
        ]
        total = np.array(work, dtype=np.int64).reshape(len(work), size)
        fastest = np.full(total.shape, SAFE)
        for z, slowest in enumerate(_splits(total, load <= room, min(platform.most_replicas, model.experts)), start=1):
            for v, index in enumerate(instance.remote_specs):
                spec = instance.specs[index]
                # One replica more is of use only where it is faster: it costs no less.
                fits = np.flatnonzero((need <= spec.mb * MB) & (slowest[v] < fastest[v]))
                each = spec.decode_ns + 2 * _link(instance, 1) + platform.invoke_ns
                busy = z * platform.invoke_ns + total[v, fits] + each * picks[fits]
                cost = _times(platform.cpu_price * spec.mb, busy)
                found.append((fits, platform.invoke_ns + slowest[v, fits], cost, each))
            fastest = np.minimum(fastest, slowest)
        mask, slow, costs = (np.concatenate([one[k] for one in found]) for k in range(3))
        each_ = np.repeat(np.array([one[3] for one in found], dtype=np.int64), [len(one[0]) for one in found])
        keep = _undominated(mask, slow, costs, each_)
        return cls(mask[keep], slow[keep], costs[keep], each_[keep], kinds, kind)

    def valued(self, instance: Instance, layer: int, main: int) -> tuple[Amounts, Int64]:
        """Return what plans cost, and their usage ``PT``, ``GT`` and local bytes, [P] and [P, 3]."""
        platform, own, tokens = instance.platform, instance.specs[main], instance.request.prefill[layer]
        here = [own.prefill_ns + n * own.prefill_ns_per_token if n else 0 for n in tokens]
        local = (1 << instance.model.experts) - 1 - self.mask
        fixed = platform.other_prefill_ns[layer] + platform.switch_prefill_ns
        first = fixed + np.maximum(_sums(here)[local], self.slowest)
        fixed = platform.other_decode_ns[layer] + platform.switch_decode_ns
        every = np.full(len(self.mask), instance.request.tokens_out * fixed, dtype=np.int64)
        for column, (size, far) in enumerate(self.kind):
            every += self.kinds[self.mask, column] * np.maximum((size - far) * own.decode_ns, far * self.each)
        hourly = platform.gpu_price * platform.gpu_mb + platform.cpu_price * own.mb
        cost = _plus(_times(hourly, first + every), self.cost)
        return cost, np.stack(
            (first, every, _sums([instance.model.expert_bytes] * instance.model.experts)[local]), axis=1
        )


def _prove_main(
    instance: Instance, main: int, bound: int, given: ListedSpec, layers: Sequence[_Plans], tuning: Tuning
) -> str | None:
    """Say why a main specification may hold something cheaper than the bound, or None."""
    budget = _budget(instance, main)
    if min(budget) < 0:
        return None  # nothing fits
    most, room = given.scale * (bound - 1), _room(budget)
    cost: list[Amounts] = []
    usage: list[Int64] = []
    for layer, plans in enumerate(layers):
        own, used = plans.valued(instance, layer, main)
        cost.append(_times(given.scale, own))
        usage.append(used)
    nothing = (0, 0, 0)
    steps = [(step.layer, [(p[0], p[1], p[2]) for p in step.prices]) for step in given.merge or ()]
    prices = (given.prices[0], given.prices[1], given.prices[2])
    for price in (nothing, prices, nothing, prices):
        # What does not fit beside what the others use at least, in any of them.
        least = sum((used.min(axis=0) for used in usage), np.zeros(3, dtype=np.int64))
        for layer, used in enumerate(usage):
            fits = (used + (least - used.min(axis=0)) <= room).all(axis=1)
            if not fits.any():
                return None
            cost[layer], usage[layer] = cost[layer][fits], used[fits]
        lower = _least(cost, usage, price) - sum(p * b for p, b in zip(price, budget, strict=True))
        if lower > min(most, sum(int(own.max()) for own in cost)):
            return None
        for layer, (own, used) in enumerate(zip(cost, usage, strict=True)):
            worth = _at(own, used, price)
            near = (worth - worth.min() <= most - lower).astype(np.bool_)
            cost[layer], usage[layer] = own[near], used[near]
    if not steps:
        return f"at its prices it costs at least {-(-lower // given.scale)}, not {bound}"
    order = [layer for layer, _ in steps]
    if sorted(order) != sorted(set(order)):
        return "a layer is merged twice"
    rest = [layer for layer in range(len(layers)) if layer not in order]
    return _merged(
        [(cost[i], usage[i]) for i in order + rest],
        [pool for _, pool in steps] + [[prices]] * len(rest),
        budget,
        most,
        tuning,
    )


def _merged(
    plans: list[tuple[Amounts, Int64]],
    pools: list[list[tuple[int, int, int]]],
    budget: tuple[int, int, int],
    most: int,
    tuning: Tuning,
) -> str | None:
    """Merge layers in order; say what is left of at most so much, or None where nothing is."""
    cost, usage = np.zeros(1, dtype=np.int64), np.zeros((1, 3), dtype=np.int64)
    for at, ((own, used), pool) in enumerate(zip(plans, pools, strict=True)):
        if len(cost) * len(own) > tuning.most_states:
            return f"a merge of {len(cost)} states with {len(own)} plans, at most {tuning.most_states} are looked at"
        cost = _plus(cost[:, None], own[None, :]).ravel()
        usage = (usage[:, None, :] + used[None, :, :]).reshape(-1, 3)
        later = plans[at + 1 :]
        least = sum((used.min(axis=0) for _, used in later), np.zeros(3, dtype=np.int64))
        keep = (usage + least <= _room(budget)).all(axis=1)
        for price in [(0, 0, 0), *pool]:
            rest = _least([c for c, _ in later], [u for _, u in later], price)
            room = most - rest + sum(p * b for p, b in zip(price, budget, strict=True))
            keep &= (_at(cost, usage, price) <= room).astype(np.bool_)
        cost, usage = cost[keep], usage[keep]
        if not len(cost):
            return None
        order = np.argsort(cost, kind="stable")
        cost, usage = cost[order], usage[order]
        _, first = np.unique(usage, axis=0, return_index=True)
        cost, usage = cost[first], usage[first]
    return "a combination of plans costs less"


def _at(cost: Amounts, usage: Amounts, price: tuple[int, int, int]) -> Amounts:
    """Return costs and what usage costs at a price, exactly."""
    if not any(price):
        return cost
    top = int(cost.max()) + sum(p * int(u) for p, u in zip(price, usage.max(axis=0), strict=True))
    if top < SAFE and cost.dtype == np.int64:
        small: Int64 = cost + usage @ np.array(price, dtype=np.int64)
        return small
    exact: Amounts = cost.astype(object) + usage.astype(object) @ np.array(price, dtype=object)
    return exact


def _times(number: int, amounts: Amounts) -> Amounts:
    """Return a number times some amounts, exactly."""
    safe = amounts.dtype == np.int64 and number * int(amounts.max(initial=0)) < SAFE
    product: Amounts = (amounts if safe else amounts.astype(object)) * number
    return product


def _plus(some: Amounts, others: Amounts) -> Amounts:
    """Return sums of amounts, exactly; none is below 0."""
    safe = some.dtype == others.dtype == np.int64 and int(some.max(initial=0)) + int(others.max(initial=0)) < SAFE
    total: Amounts = some + others if safe else some.astype(object) + others.astype(object)
    return total


def _least(cost: Sequence[Amounts], usage: Sequence[Amounts], price: tuple[int, int, int]) -> int:
    """Return what layers cost at least at a price, together."""
    return sum(int(_at(own, used, price).min()) for own, used in zip(cost, usage, strict=True))


def _budget(instance: Instance, main: int) -> tuple[int, int, int]:
    """Return the budgets of (V4): ns of the prefill, ns of all output, bytes of local experts."""
    request, platform = instance.request, instance.platform
    return (
        instance.limits.ttft_ns - platform.cold_ns,
        instance.limits.tpot_ns * request.tokens_out,
        instance.specs[main].mb * MB - platform.main_mb * MB - request.tokens_out * instance.model.token_bytes,
    )


def _room(budget: tuple[int, int, int]) -> Int64:
    """Return budgets to compare usage with, which is always less than :data:`SAFE`."""
    return np.array([min(most, SAFE) for most in budget], dtype=np.int64)


def _link(instance: Instance, tokens: int) -> int:
    """Return the ns that tokens take over the link, rounded up."""
    return -(-tokens * instance.model.token_bytes * 10**9 // instance.platform.link_bytes_per_s)


def _largest(instance: Instance) -> int:
    """Return what all layers together use no more of than: ns of the prefill, of all output tokens, bytes."""
    platform, request, model = instance.platform, instance.request, instance.model
    n, longest = max(map(sum, request.prefill)), 0
    for spec in instance.specs:
        first = spec.prefill_ns + n * spec.prefill_ns_per_token + 2 * _link(instance, n)
        every = (spec.decode_ns + 2 * _link(instance, 1) + platform.invoke_ns) * request.tokens_out
        longest = max(longest, first + every + platform.invoke_ns)
    fixed = max(platform.other_prefill_ns) + platform.switch_prefill_ns
    fixed += (max(platform.other_decode_ns) + platform.switch_decode_ns) * request.tokens_out
    need = model.expert_bytes + n * model.token_bytes
    return model.layers * (max(longest, need) * model.experts + fixed)


def _sums(values: Sequence[int]) -> Int64:
    """Return the sum of each set of some numbers not below 0, [2**E]; sums too large for any limit are as large."""
    total = np.zeros(1, dtype=np.int64)
    for value in values:
        total = np.concatenate((total, np.minimum(total, SAFE - min(value, SAFE)) + min(value, SAFE)))
    return total


@functools.lru_cache(maxsize=4)
def _parts(experts: int) -> list[Int64]:
    """Return, for each set, its subsets that hold its lowest expert; the empty set has none."""
    found = [np.zeros(0, dtype=np.int64)]
    for mask in range(1, 1 << experts):
        low = mask & -mask
        parts = np.array([low], dtype=np.int64)
        for e in range(low.bit_length(), experts):
            if mask >> e & 1:
                parts = np.concatenate((parts, parts | 1 << e))
        found.append(parts)
    return found


def _splits(total: Int64, passes: Bool, most: int) -> Iterator[Int64]:
    """Yield the least time of the slowest of 1 to ``most`` replicas, [V, 2**E]; SAFE where no split passes.

    Parameters
    ----------
    total : int64 array [V, 2**E]
        The time that one replica takes for a set, at each specification.
    passes : bool array [2**E]
        Whether a set's prompt tokens are within one replica's payload.
    most : int
    """
    alone = np.where(passes, total, SAFE)
    alone[:, 0] = SAFE
    parts = _parts(alone.shape[1].bit_length() - 1)
    found = alone
    for z in range(most):
        if z:
            before, found = found, np.full(alone.shape, SAFE)
            for mask in range(1, alone.shape[1]):
                own = parts[mask]
                found[:, mask] = np.maximum(alone[:, own], before[:, mask ^ own]).min(axis=1)
        yield found


def _undominated(mask: Int64, slowest: Int64, cost: Amounts, each: Int64) -> npt.NDArray[np.intp]:
    """Return which plans are kept: of one set, none is nowhere better than another, at no main specification."""
    kept = []
    order = np.argsort(mask, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(mask[order])) + 1):
        left = own[np.lexsort((each[own], slowest[own], _ranks(cost[own])))]
        while len(left):
            best, left = left[0], left[1:]
            kept.append(best)
            left = left[~((slowest[left] >= slowest[best]) & (each[left] >= each[best]))]
    return np.array(kept, dtype=np.intp)


def _ranks(values: Amounts) -> Int64:
    """Return the places of values in their order: numpy sorts no Python integers by several keys."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
