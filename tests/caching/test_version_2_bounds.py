"""Bounds of version 2: no cloud, loading, slots. Oracles, proofs and certificates against enumeration."""

from __future__ import annotations

import collections
import copy
import itertools
import json
import math
from bisect import bisect_left
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs
from random_instances import brute_force_2, random_document_2
from scipy.optimize import linprog

import moeplace
from moeplace import Instance
from moeplace.base.arrays import Int64
from moeplace.base.documents import parse
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.base.stop import Stop
from moeplace.caching.bounds import by_layers, concave, layer_oracle
from moeplace.caching.bounds.by_layers import CachingLayers
from moeplace.caching.bounds.concave import ConcaveBound, ConcaveResult
from moeplace.caching.bounds.layer_oracle import NOTHING, LayerOracle
from moeplace.caching.certificates import SHARE_BITS, CachingCertificate, Cut
from moeplace.caching.saving import Layer, saving_form
from moeplace.caching.searching import caching_incumbent
from moeplace.caching.terms import aggregate
from moeplace.caching.verification import verify
from moeplace.layers import merging, proof

Float = npt.NDArray[np.float64]


def drawn(seed: int, max_variables: int = 10) -> Instance:
    """Return the instance of a seed."""
    return Instance.from_document(random_document_2(np.random.default_rng(seed), max_variables))


# --- one layer -----------------------------------------------------------------------------------------------------


def all_plans(oracle: LayerOracle, layer: Layer | None, price: Int64, seed: int) -> dict[tuple[int, ...], int]:
    """Return the largest value of each usage, over all plans that cover and keep room and slots."""
    values: dict[tuple[int, ...], int] = {}
    for plan in itertools.product(range(1 << len(oracle.servers)), repeat=len(oracle.experts)):
        masks = np.array(plan, dtype=np.int64)
        held = oracle.held(masks)
        assert np.array_equal(oracle.masks(held), masks)
        saving = oracle.saving(masks)
        assert oracle.least <= saving, seed
        if layer is not None:
            short = saving != oracle.scale * layer.saving_ns(held)
            covers = oracle.covers(masks)
            assert short == (not covers), seed
        if covers and (held.sum(axis=1)[oracle.servers] <= oracle.room).all():
            assert saving <= oracle.total, seed
            used = oracle.usage(masks)
            key = tuple(used.tolist())
            values[key] = max(values.get(key, NOTHING), saving - int(price @ used))
    return values


def check_plans(oracle: LayerOracle, price: Int64, least: int, values: dict[tuple[int, ...], int], seed: int) -> None:
    plans = oracle.plans(price, least)
    assert plans is not None, seed
    listed = {tuple(u.tolist()): int(s - price @ u) for s, u in zip(plans.value, plans.usage, strict=True)}
    assert len(listed) == len(plans.value), seed
    for masks, saving, used in zip(plans.code, plans.value, plans.usage, strict=True):
        assert oracle.covers(masks), seed
        assert (oracle.saving(masks), oracle.usage(masks).tolist()) == (saving, used.tolist()), seed
    assert all(least <= v <= values[key] for key, v in listed.items()), seed
    # Where a plan is left out or listed with less, another one that uses no more saves as much.
    for key, value in values.items():
        if value >= least and listed.get(key, value - 1) < value:
            saving = value + int(price @ np.array(key))
            assert any(
                all(a <= b for a, b in zip(other, key, strict=True)) and v + int(price @ np.array(other)) >= saving
                for other, v in listed.items()
            ), seed


def test_a_layer_equals_enumeration() -> None:
    none = limited = loaded = 0
    for seed in range(150):
        instance, rng = drawn(seed, 12), np.random.default_rng(seed)
        problem, layers = aggregate(instance), {layer.items.start: layer for layer in saving_form(instance).layers}
        for block in range(instance.n_blocks):
            oracle = LayerOracle(problem, block, scale=int(rng.integers(1, 4)))
            if (1 << len(oracle.servers)) ** len(oracle.experts) > 1100 or not len(oracle.experts):
                continue
            high = 1 + (oracle.total - oracle.least) // max(1, 2 * len(oracle.experts))
            price = rng.integers(0, high if seed % 4 else 1, len(instance.servers))
            values = all_plans(oracle, layers.get(int(instance.block_start[block])), price, seed)
            best = max(values.values(), default=NOTHING)
            none += not values
            limited += bool((instance.layer_slots < oracle.n_experts).any())
            loaded += oracle.least < 0
            for tuned in (False, True):
                if tuned:
                    oracle.tune(price)
                assert oracle.bound(price) >= best, seed
                found = oracle.best(price)
                assert (found.worth, found.bound) == (best, best), seed
                if values:
                    assert found.value - int(price @ found.usage) == best, seed
                    assert found.value == oracle.saving(found.code), seed
                    assert oracle.covers(found.code), seed
                    again = oracle.best(price, floor=found.code)
                    assert (again.worth, again.bound) == (best, best), seed
                for nodes in (0, 1, 2, 5):
                    cut = oracle.best(price, nodes=nodes)
                    assert cut.bound >= best >= cut.worth, seed
                    assert cut.worth == NOTHING or oracle.covers(cut.code), seed
                check_plans(
                    oracle, price, best - int(rng.integers(0, 1 + oracle.total - oracle.least)), values, seed
                ) if values else check_plans(oracle, price, oracle.least * 2 - int(price.sum()) * 20, values, seed)
    assert min(none, limited, loaded) > 10, (none, limited, loaded)


FEW = by_layers.Tuning(
    oracle=layer_oracle.Tuning(chunk=2, most_mask_cells=0),
    proof=proof.Tuning(first_states=4, merging=merging.Tuning(chunk=2)),
)


def test_layer_enumeration_and_auto_equal_brute_force() -> None:
    solved = none = 0
    for seed in range(110):
        document = random_document_2(np.random.default_rng(seed), 9)
        instance = Instance.from_document(document)
        optimum = brute_force_2(document)
        for method in ("layer-enumeration", "auto"):
            try:
                solution = moeplace.solve(instance, method)
            except NoSolutionError:
                assert optimum is None, (seed, method)
                none += 1
                continue
            assert solution.value == optimum == solution.objective.bound_ns, (seed, method)
            assert moeplace.check(instance, solution).ok, (seed, method)
            solved += 1
    assert solved > 100
    assert none > 10


def test_the_bound_by_layers_never_passes_the_optimum_wherever_it_is_stopped() -> None:
    reached = 0
    for seed in range(400, 460):
        document = random_document_2(np.random.default_rng(seed), 10)
        instance, optimum, rng = Instance.from_document(document), brute_force_2(document), np.random.default_rng(seed)
        if optimum is None:
            continue
        for asked in (10**9, *rng.integers(0, 40, 2).tolist()):
            search = caching_incumbent(instance, Stop())
            calls = itertools.count()

            class Stopped(CachingLayers):
                def stop(self, calls: itertools.count[int] = calls, asked: int = asked) -> bool:
                    return next(calls) >= asked or super().stop()

            Stopped(saving_form(instance), search, 1, FEW).proof().run()
            assert not search.failures, (seed, search.failures)
            if search.bound_ns is not None:
                assert search.bound_ns <= optimum <= search.latency_ns, seed
                reached += search.bound_ns < optimum
            if asked == 10**9:
                assert search.bound_ns == optimum == search.latency_ns, seed
    assert reached > 5


# --- the concave bound ---------------------------------------------------------------------------------------------


def proofs(
    instance: Instance, stop_after: int | None = None, tuning: concave.Tuning = concave.USUAL
) -> list[ConcaveResult]:
    """All proofs in the order in which they are found, the first of them before any work."""
    bound = ConcaveBound(saving_form(instance), tuning=tuning)
    found, asked = [bound.best], itertools.count()
    bound.improve(lambda: stop_after is not None and next(asked) >= stop_after, lambda _, proof: found.append(proof))
    assert found[-1] is bound.best
    return found


def lp_optimum(instance: Instance) -> float | None:
    """The largest saving of a fractional placement that covers and keeps slots; None where there is none."""
    problem = aggregate(instance)
    servers, items = len(instance.servers), instance.n_items
    pairs, need = problem.covers
    n_x, n_p, n_t = servers * items, len(pairs), problem.n_terms
    lines: list[Float] = []
    right: list[float] = []

    def row(limit: float, *parts: tuple[list[int], float | Float]) -> None:
        line = np.zeros(n_x + n_p + n_t)
        for places, value in parts:
            line[places] = value
        lines.append(line)
        right.append(limit)

    for p, (radius, item) in enumerate(pairs.tolist()):
        row(0, ([n_x + p], 1.0), ([int(n) * items + item for n in np.flatnonzero(problem.radius[radius])], -1.0))
    for t, (a, b) in enumerate(itertools.pairwise(problem.term_start.tolist())):
        for p in need[a:b].tolist():
            row(0, ([n_x + n_p + t], 1.0), ([n_x + p], -1.0))
    step = np.gcd.reduce(instance.item_bytes)
    for n, capacity in enumerate(instance.capacity_bytes.tolist()):
        row(capacity // step * step, (list(range(n * items, (n + 1) * items)), instance.item_bytes.astype(float)))
        for first, last in itertools.pairwise(instance.block_start.tolist()):
            row(
                min(last - first, int(instance.layer_slots[n])), (list(range(n * items + first, n * items + last)), 1.0)
            )
    if (coverage := instance.coverage) is not None:
        for reach, item in zip(coverage.reach_of.tolist(), coverage.item.tolist(), strict=True):
            row(-1, ([int(n) * items + item for n in np.flatnonzero(coverage.reach[reach])], -1.0))
    fits = instance.item_bytes[None, :] <= instance.capacity_bytes[:, None]
    most = np.concatenate((fits.ravel(), np.ones(n_p + n_t)))
    load = instance.load_ns(slice(0, items))
    cost = np.concatenate((np.zeros(n_x) if load is None else load.ravel(), np.zeros(n_p), -problem.term_weight))
    scale = max(1.0, float(np.abs(cost).max(initial=0)))
    found = linprog(cost / scale, np.array(lines), right, bounds=np.column_stack((np.zeros(len(most)), most)))
    if found.status == 2:
        return None
    assert found.status == 0
    return -float(found.fun) * scale


def test_the_concave_bound_never_passes_the_optimum_wherever_it_is_stopped() -> None:
    reported = exact = 0
    for seed in range(160):
        document = random_document_2(np.random.default_rng(seed), 9)
        instance, optimum = Instance.from_document(document), brute_force_2(document)
        found = proofs(instance, stop_after=seed * 7 % 60 if seed // 10 % 5 else None)
        for one in found if optimum is not None else []:
            assert one.bound_ns <= optimum, seed
        bounds = [one.saving_bound for one in found]
        assert bounds == sorted(bounds, reverse=True)
        certificate = found[-1].certificate()
        last = verify(instance, certificate)
        assert (last.problems, last.bound_ns, last.trusted) == ((), found[-1].bound_ns, None), seed
        assert (b'"coverage"' in certificate.to_json()) == (instance.coverage is not None)
        reported += len(found) - 1
        exact += found[-1].bound_ns == optimum
    assert reported > 60
    assert exact > 30


def test_the_concave_bound_reaches_the_optimum_of_the_linear_program() -> None:
    covered = limited = loaded = 0
    for seed in range(40):
        instance = drawn(seed, 24)
        optimum = lp_optimum(instance)
        if optimum is None:
            continue
        bound = ConcaveBound(saving_form(instance))
        bound.improve(lambda: False)
        assert optimum * (1 - 1e-9 * np.sign(optimum)) - 1 <= bound.saving_bound, seed
        assert bound.saving_bound <= optimum + 1e-3 * max(bound.scale, 1) + 1, (seed, bound.saving_bound, optimum)
        covered += instance.coverage is not None
        limited += bool((instance.layer_slots < 5).any())
        loaded += instance.load_block_ns is not None
    assert min(covered, limited, loaded) > 3


def by_definition(instance: Instance, cut: Cut) -> int:
    """The bound that a cut proves, from the text of docs/certificates.md, in Python's fractions."""
    constant, gradient = Fraction(0), collections.Counter[tuple[int, int]]()
    points = [(p, p.unpacked(len(instance.servers), instance.n_items)) for p in cut.points]
    document = instance.document()
    first = {model.name: instance.model_items(m) for m, model in enumerate(instance.models)}
    baseline = 0
    rows = instance.rows
    for i, d in enumerate(rows.demand.tolist()):
        demand = document["demands"][d]
        requested = rows.item[rows.start[i] : rows.start[i + 1]].tolist()
        held = set(instance.device_items(d).tolist())
        places = [t for t in demand["server_ns"] if t is not None] + [demand["device_ns"]] * bool(held)
        far, device = demand["cloud_ns"], demand["device_ns"]
        far = max(places, default=0) if far is None else far
        for row in [requested] if instance.latency_model == "max" else [[e] for e in requested]:
            baseline += int(rows.count[i]) * (far if set(row) - held else min(far, device))
            levels = sorted({t for t in [*places, device] if t < far})
            for theta, following in itertools.pairwise([*levels, far]):
                near = [n for n, t in enumerate(demand["server_ns"]) if t is not None and t <= theta]
                asked = sorted(e for e in row if not (e in held and device <= theta))
                if not asked:
                    continue
                weight = int(rows.count[i]) * (following - theta)
                for point, x in points:
                    average = Fraction(point.weights[instance.item_block[row[0]]], cut.weight_unit)
                    values = [cut.unit, *(int(x[near, e].sum()) for e in asked)]
                    taus = range(min(values), min(values) + point.smoothing + 1)
                    at = bisect_left(taus, point.smoothing, key=lambda tau: sum(max(0, tau - z) for z in values))
                    over = [max(0, taus[at] - z) for z in values]
                    share = [o * 2**SHARE_BITS // sum(over) if sum(over) else 0 for o in over]
                    share[values.index(min(values))] += 2**SHARE_BITS - sum(share)
                    constant += average * weight * Fraction(share[0], 2**SHARE_BITS)
                    for e, part in zip(asked, share[1:], strict=True):
                        for n in near:
                            gradient[n, e] += average * weight * Fraction(part, 2**SHARE_BITS)
    for covering in cut.coverage or []:
        demand = document["demands"][covering.demand]
        for e, price in zip(range(*first[demand["model"]].indices(10**9)), covering.prices, strict=True):
            constant -= Fraction(price, cut.weight_unit * 2**SHARE_BITS)
            for n, t in enumerate(demand["server_ns"]):
                if t is not None:
                    gradient[n, e] += Fraction(price, cut.weight_unit * 2**SHARE_BITS)
    step = int(np.gcd.reduce(instance.item_bytes))
    total = constant
    for n, server in enumerate(document["servers"]):
        rate, weight = server.get("load_bytes_per_s"), document.get("loading", {"weight": 1})["weight"]
        holds = {
            first[part["model"]].start + layer * next(m.experts for m in instance.models if m.name == part["model"]) + e
            for part in server.get("holds", [])
            for layer, e in part["experts"]
        }
        price = Fraction(cut.prices[n], cut.price_unit * cut.weight_unit * 2**SHARE_BITS)
        room = server["capacity_bytes"] // step * step
        total += price * room
        worth: dict[int, list[Fraction]] = {}
        for e, size in enumerate(instance.item_bytes.tolist()):
            loading = weight * -(-(10**9) * size // rate) if rate and e not in holds else 0
            if size <= room:
                worth.setdefault(int(instance.item_block[e]), []).append(gradient[n, e] - loading - price * size)
        for values in worth.values():
            best = sorted((value for value in values if value > 0), reverse=True)
            total += sum(best[: server.get("layer_slots", len(best))])
    return max(0, baseline - math.floor(total))


def test_the_verifier_computes_what_the_format_says() -> None:
    for seed in range(24):
        instance, rng = drawn(seed), np.random.default_rng(seed)
        result = proofs(instance, stop_after=int(rng.integers(120)))[-1]
        cut = result.certificate().proof
        assert isinstance(cut, Cut)
        assert by_definition(instance, cut) == result.bound_ns, seed
        # And for any numbers, however useless.
        document = json.loads(result.certificate().to_json())
        document["bound_ns"] = 0
        document["proof"]["prices"] = [int(p) for p in rng.integers(0, 2**50, len(instance.servers))]
        for covering in document["proof"].get("coverage", []):
            covering["prices"] = [
                int(p) * (q > 0) for q, p in zip(covering["prices"], rng.integers(0, 2**50, 99), strict=False)
            ]
        other = parse(document, CachingCertificate)
        assert isinstance(other.proof, Cut)
        found = verify(instance, other)
        assert found.ok, seed
        assert found.bound_ns == by_definition(instance, other.proof), seed


def changes(instance: Instance, document: dict[str, Any]) -> list[tuple[dict[str, Any], bool]]:
    """Certificates with one number of their coverage changed, and whether nothing may be proven by them."""
    found: list[tuple[dict[str, Any], bool]] = []
    coverage = document["proof"]["coverage"]

    def change(wrong: bool, i: int, **keys: Any) -> None:
        other = copy.deepcopy(document)
        other["proof"]["coverage"][i] |= keys
        found.append((other, wrong))

    for i, covering in enumerate(coverage):
        prices = covering["prices"]
        change(True, i, prices=prices[1:])
        change(True, i, prices=[*prices, 0])
        change(True, i, prices=[-1, *prices[1:]])
        change(True, i, demand=len(instance.demands))
        change(True, i, demand=-1)
        for d, demand in enumerate(instance.demands):
            if demand.cloud_ns is not None or demand.model != instance.demands[covering["demand"]].model:
                change(demand.cloud_ns is not None or len(prices) != _experts(instance, d), i, demand=d)
        for e, price in enumerate(prices):
            held = instance.model_items(int(instance.demand_model[covering["demand"]])).start + e
            on_device = held in instance.device_items(covering["demand"])
            for value in (price + 1, price * 2, price // 2, 10**30):
                change(on_device and value > 0, i, prices=[*prices[:e], value, *prices[e + 1 :]])
    other = copy.deepcopy(document)
    del other["proof"]["coverage"]
    found.append((other, False))
    return found


def _experts(instance: Instance, demand: int) -> int:
    items = instance.model_items(int(instance.demand_model[demand]))
    return items.stop - items.start


def test_coverage_changed_proves_something_true_or_is_rejected() -> None:
    rejected = weaker = wrong_ones = 0
    for seed in range(110):
        document = random_document_2(np.random.default_rng(seed), 9)
        instance, optimum = Instance.from_document(document), brute_force_2(document)
        if instance.coverage is None or optimum is None:
            continue
        certificate = proofs(instance, stop_after=90)[-1].certificate()
        for changed, wrong in changes(instance, json.loads(certificate.to_json())):
            wrong_ones += wrong
            try:
                found = verify(instance, parse(changed, CachingCertificate))
            except InputError:
                rejected += 1  # no certificate document any more
                continue
            assert not (wrong and found.ok), (seed, found)
            # Whatever is accepted is true, and what is not proven is not accepted.
            assert found.bound_ns is None or found.bound_ns <= optimum, seed
            assert found.ok == (found.bound_ns is not None and found.bound_ns >= changed["bound_ns"]), seed
            rejected += not found.ok
            weaker += found.ok
    assert rejected > 80, rejected
    assert weaker > 20, weaker
    assert wrong_ones > 50, wrong_ones


def test_a_certificate_for_another_instance_of_the_same_shape_proves_what_is_true_there() -> None:
    """What loading, slots and clouds change in the inequality: a proof without them proves too much."""
    refused = 0
    for seed in range(40):
        document = random_document_2(np.random.default_rng(seed), 9)
        if (optimum := brute_force_2(document)) is None:
            continue
        instance = Instance.from_document(document)
        for dearer in (tighter(document), slower(document)):
            certificate = proofs(Instance.from_document(dearer), stop_after=85)[-1].certificate()
            other = structs.replace(
                certificate, instance=structs.replace(certificate.instance, sha256=instance.sha256), bound_ns=0
            )
            found = verify(instance, other)
            assert found.bound_ns is None or found.bound_ns <= optimum, seed
            refused += found.bound_ns is None or found.bound_ns < certificate.bound_ns
    assert refused > 10, refused


def tighter(document: dict[str, Any]) -> dict[str, Any]:
    """Give every server one slot a layer."""
    return document | {"servers": [server | {"layer_slots": 1} for server in document["servers"]]}


def slower(document: dict[str, Any]) -> dict[str, Any]:
    """Let every server begin empty, and load slowly."""
    servers = [{k: v for k, v in server.items() if k != "holds"} for server in document["servers"]]
    return document | {"servers": [server | {"load_bytes_per_s": 10**6} for server in servers]}


def crowded(seed: int) -> Instance:
    """One layer of seven experts, rows of up to four, two servers with slots for two or three."""
    rng = np.random.default_rng(seed)
    demands = [
        {"user": f"u{n}", "model": "m", "tokens": 10**6, "device_ns": 0, "server_ns": times, "cloud_ns": 9}
        for n, times in enumerate([[1, 5], [5, 1], [2, 2], [1, None]])
    ]
    return Instance.from_document(
        {
            "format": "moeplace/instance",
            "version": 2,
            "name": "crowded",
            "latency_model": "max",
            "models": [{"name": "m", "layers": 1, "experts": 7, "top_k": 4, "expert_bytes": 1}],
            "servers": [
                {"name": f"s{n}", "capacity_bytes": 7, "layer_slots": int(rng.integers(2, 4))} for n in range(2)
            ],
            "demands": demands,
            "activations": {
                "demand": [d for d in range(4) for _ in range(12)],
                "layer": [0] * 48,
                "experts": [rng.permutation(7)[: rng.integers(1, 5)].tolist() for _ in range(48)],
                "count": rng.integers(1, 50, 48).tolist(),
            },
        }
    )


def test_few_slots_make_the_quick_bound_stronger_and_never_false() -> None:
    stronger = 0
    for seed in range(8):
        instance = crowded(seed)
        (layer,) = saving_form(instance).layers
        sets = [
            [np.isin(np.arange(7), chosen) for k in range(slots + 1) for chosen in itertools.combinations(range(7), k)]
            for slots in instance.layer_slots.tolist()
        ]
        best = max(layer.saving_ns(np.stack(held)) for held in itertools.product(*sets))
        oracle, price = LayerOracle(aggregate(instance), 0, scale=1 << 10), np.zeros(2, dtype=np.int64)
        for schedule in ((), ((0.1, 1.0, 20),), ((0.01, 0.3, 40),), ((0.003, 0.1, 40),)):
            oracle.tune(price, schedule)
            assert oracle.bound(price) >= best << 10, (seed, schedule)
            found = oracle.best(price)
            assert (found.worth, found.bound) == (best << 10, best << 10), (seed, schedule)
            assert oracle.best(price, nodes=1).bound <= oracle.bound(price), seed
        with_room = oracle.bound(price)
        oracle._hit = oracle._mass
        stronger += with_room < oracle.bound(price)
    assert stronger == 8
