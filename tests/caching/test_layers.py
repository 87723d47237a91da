"""Proof by layers: every search, list and merge against enumeration, bounds that hold wherever they are stopped."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import looped
from random_instances import brute_force, random_document, random_document_2, random_instance, random_placement
from solved import assert_honest, assert_optimal, choice, larger, solved

import moeplace
from moeplace import Instance, MethodLimitError, Placement, Progress
from moeplace.base.arrays import Int64
from moeplace.base.errors import NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop
from moeplace.caching.bounds import by_layers, layer_oracle
from moeplace.caching.bounds.by_layers import CachingLayers
from moeplace.caching.bounds.layer_oracle import LayerOracle
from moeplace.caching.heuristics import column_search
from moeplace.caching.heuristics.climb import climbed
from moeplace.caching.heuristics.column_search import ColumnSearch
from moeplace.caching.saving import saving_form
from moeplace.caching.searching import caching_incumbent
from moeplace.caching.terms import aggregate
from moeplace.layers import merging, proof
from moeplace.layers.merging import Menu, merge
from moeplace.library import best_known, instance_files

TESTS = Path(__file__).resolve().parents[1]
METHOD = "layer-enumeration"


def wide(servers: int, seed: int = 0, share: int = 4) -> Instance:
    """One layer of six experts, every server the nearest one for somebody."""
    rng = np.random.default_rng(seed)
    document = random_document(rng, latency_model="max")
    document["models"] = [{"name": "m", "layers": 1, "experts": 6, "top_k": 3, "expert_bytes": 10}]
    document["servers"] = [{"name": f"s{n}", "capacity_bytes": 10 * share} for n in range(servers)]
    document["demands"] = [
        {
            "user": f"u{n}",
            "model": "m",
            "tokens": 100,
            "device_ns": 0,
            "server_ns": rng.permutation(servers).tolist(),
            "cloud_ns": 50,
        }
        for n in range(servers)
    ]
    document["activations"] = {
        "demand": [d for d in range(servers) for _ in range(4)],
        "layer": [0] * 4 * servers,
        "experts": [rng.permutation(6)[: rng.integers(1, 4)].tolist() for _ in range(4 * servers)],
        "count": rng.integers(1, 20, 4 * servers).tolist(),
    }
    return Instance.from_document(document)


# --- one layer -----------------------------------------------------------------------------------------------------


def all_plans(oracle: LayerOracle, price: Int64) -> dict[tuple[int, ...], int]:
    """Return the largest value of each usage vector, over all plans within the room."""
    values: dict[tuple[int, ...], int] = {}
    for plan in itertools.product(range(1 << len(oracle.servers)), repeat=len(oracle.experts)):
        masks = np.array(plan, dtype=np.int64)
        used = oracle.usage(masks)
        if np.all(used[oracle.servers] <= oracle.room):
            key = tuple(used.tolist())
            values[key] = max(values.get(key, -(10**18)), oracle.saving(masks) - int(price @ used))
    return values


@looped("seed", range(90))
def test_a_layer_equals_enumeration(seed: int) -> None:
    instance, rng = random_instance(seed), np.random.default_rng(seed)
    problem = aggregate(instance)
    for block in range(instance.n_blocks):
        oracle = LayerOracle(problem, block, scale=int(rng.integers(1, 4)))
        if (1 << len(oracle.servers)) ** len(oracle.experts) > 5000:
            continue
        high = 1 + oracle.total // max(1, 2 * len(oracle.experts))
        price = rng.integers(0, high if seed % 4 else 1, len(instance.servers))
        values = all_plans(oracle, price)
        best = max(values.values())
        for tuned in (False, True):
            if tuned:
                oracle.tune(price)
            assert oracle.bound(price) >= best
            found = oracle.best(price)
            assert (found.worth, found.bound, found.exact) == (best, best, True)
            assert found.value - int(price @ found.usage) == best
            assert found.value == oracle.saving(found.code)
            assert np.array_equal(oracle.masks(oracle.held(found.code)), found.code)
            for nodes in (0, 1, 2, 5):
                cut = oracle.best(price, nodes=nodes)
                assert cut.bound >= best >= cut.worth
            least = best - int(rng.integers(0, 1 + oracle.total))
            plans = oracle.plans(price, least)
            assert plans is not None
            listed = {tuple(u.tolist()): int(s - price @ u) for s, u in zip(plans.value, plans.usage, strict=True)}
            assert len(listed) == len(plans.value)
            for masks, saving, used in zip(plans.code, plans.value, plans.usage, strict=True):
                assert oracle.saving(masks) == saving
                assert np.array_equal(oracle.usage(masks), used)
            assert all(least <= v <= values[key] for key, v in listed.items())
            # Where a plan is left out or listed with less, another one that uses no more saves as much.
            for key, value in values.items():
                if value >= least and listed.get(key, value - 1) < value:
                    saving = value + int(price @ np.array(key))
                    assert any(
                        all(a <= b for a, b in zip(other, key, strict=True))
                        and v + int(price @ np.array(other)) >= saving
                        for other, v in listed.items()
                    )


def test_a_layer_saves_what_the_evaluator_says() -> None:
    for seed in range(40):
        instance = random_instance(seed)
        problem = aggregate(instance)
        placement = random_placement(instance, np.random.default_rng(seed), fits=False)
        saving = 0
        for block in range(instance.n_blocks):
            oracle = LayerOracle(problem, block)
            items = slice(int(instance.block_start[block]), int(instance.block_start[block + 1]))
            # A server without room for one expert never counts: nothing can be put there.
            held = placement.cached[:, items] & (instance.capacity_bytes >= oracle.size)[:, None]
            placement.cached.setflags(write=True)
            placement.cached[:, items] = held
            saving += oracle.saving(oracle.masks(held))
        assert saving == instance.baseline_ns - moeplace.latency_ns(instance, placement)


def test_a_layer_that_is_stopped_still_has_a_bound() -> None:
    instance = wide(5)
    oracle = LayerOracle(aggregate(instance), 0, tuning=layer_oracle.Tuning(chunk=3))
    price = np.full(5, oracle.total // 40)
    best = oracle.best(price)
    assert best.exact
    for asked in (1, 2, 5, 20):
        calls = itertools.count(1)
        found = oracle.best(price, stop=lambda calls=calls, asked=asked: next(calls) >= asked)
        assert found.worth <= best.worth <= found.bound
    assert oracle.plans(price, best.worth - oracle.total, stop=lambda: True) is None
    assert oracle.plans(price, best.worth - oracle.total, most=100) is None


def test_tables_that_would_be_too_large_leave_the_quick_bound() -> None:
    instance = wide(5)
    oracle = LayerOracle(aggregate(instance), 0)
    price = np.full(5, oracle.total // 40)
    best = oracle.best(price).worth
    oracle = LayerOracle(aggregate(instance), 0, tuning=layer_oracle.Tuning(most_cells=10))
    found = oracle.best(price)
    assert found.bound == oracle.bound(price) >= best >= found.worth == 0
    assert oracle.plans(price, 0) is None
    assert_honest(instance, METHOD, assert_optimal_with(instance, "cpsat"))


def assert_optimal_with(instance: Instance, method: str) -> int:
    solution = solved(instance, method)
    assert solution.status.termination == "optimal"
    return solution.objective.latency_ns


# --- merging -------------------------------------------------------------------------------------------------------


@looped("seed", range(80))
def test_merging_equals_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, servers = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    menus = []
    for _ in range(layers):
        used = np.unique(rng.integers(0, 4, (int(rng.integers(1, 9)), servers)), axis=0) * int(rng.integers(1, 4))
        menus.append(Menu(rng.integers(0, 100, len(used)) + 5 * used.sum(axis=1), used, np.arange(len(used))))
    capacity = rng.integers(0, 12, servers)

    def total(choice: tuple[int, ...] | list[int]) -> tuple[int, Int64]:
        picked = list(zip(menus, choice, strict=True))
        return sum(int(m.value[i]) for m, i in picked), np.sum([m.usage[i] for m, i in picked], axis=0)

    savings = [
        saving
        for saving, used in map(total, itertools.product(*(range(len(m.value)) for m in menus)))
        if np.all(used <= capacity)
    ]
    best = max(savings, default=None)
    prices = rng.integers(0, 20, (3, servers))
    around = 50 if best is None else best
    for goal in (0, around - 3, around, around + 1, around + 20):
        merged = merge(menus, capacity, prices, goal)
        assert merged is not None
        if best is not None and best >= goal:
            assert merged.value == merged.bound == best
            saving, used = total(merged.choice)
            assert saving == best
            assert np.all(used <= capacity)
        else:
            assert merged.value is None or merged.value < goal
            assert merged.bound == goal - 1
        for most in (1, 3, 10):  # too few states for a proof
            merged = merge(menus, capacity, prices, goal, most=most)
            assert merged is not None
            if best is not None:
                assert merged.bound >= min(best, goal - 1)
                assert best < goal or merged.bound >= best
            assert merged.value is None or merged.value in savings
    if best is not None:
        assert merge(menus, capacity, prices, best, stop=lambda: True) is None


# --- the method ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(10))
def test_equal_to_brute_force(part: int) -> None:
    for seed in range(25 * part, 25 * part + 25):
        instance = random_instance(seed, 12)
        assert_optimal(instance, METHOD, brute_force(instance))


FEW = by_layers.Tuning(
    oracle=layer_oracle.Tuning(chunk=2), proof=proof.Tuning(first_states=4, merging=merging.Tuning(chunk=2))
)


def stopped_after(instance: Instance, asked: int, placement: Placement | None = None) -> tuple[Incumbent, int]:
    """Run a proof until it has asked so often whether to stop."""
    search = caching_incumbent(instance, Stop(), placement or Placement.empty(instance))
    calls = itertools.count()

    class Stopped(CachingLayers):
        def stop(self) -> bool:
            return next(calls) >= asked or super().stop()

    Stopped(saving_form(instance), search, 1, FEW).proof().run()
    return search, next(calls)


@pytest.mark.parametrize("part", range(5))
def test_the_bound_never_passes_the_optimum_wherever_it_is_stopped(part: int) -> None:
    reached = 0
    for seed in range(1000 + 20 * part, 1020 + 20 * part):
        instance, rng = random_instance(seed, 12), np.random.default_rng(seed)
        optimum = brute_force(instance)
        full, asked = stopped_after(instance, 10**9)
        assert (full.latency_ns, full.bound_ns) == (optimum, optimum)
        for _ in range(3):
            search, _ = stopped_after(instance, int(rng.integers(0, asked + 1)), random_placement(instance, rng))
            assert search.bound_ns is not None
            assert search.bound_ns <= optimum <= search.latency_ns
            reached += search.bound_ns < optimum
    assert reached > 2  # some were stopped before the bound was closed


def test_what_a_layer_climbs_to_are_plans_within_its_limits() -> None:
    better = covered = limited = 0
    for seed in range(240):
        rng = np.random.default_rng(seed)
        instance = random_instance(seed, 12) if seed < 20 else Instance.from_document(random_document_2(rng, 12))
        try:
            search = caching_incumbent(instance, Stop())
        except NoSolutionError:
            continue
        layers = CachingLayers(saving_form(instance), search, 1)
        price = (rng.random(len(layers.capacity)) * rng.random() * layers.total / max(1, layers.capacity.sum())).astype(
            np.int64
        )
        for oracle in layers.oracles:
            empty = np.zeros(
                (int(oracle.covers(np.zeros(len(oracle.experts), np.int64))), len(oracle.experts)), np.int64
            )
            found = oracle.climbed(empty, price)
            best = oracle.best(price)
            for code in found:
                value, usage = oracle.plan(code)
                assert value - int(price @ usage) <= best.bound, seed
                assert oracle.covers(code), seed
                assert (usage[oracle.servers] <= oracle.room * oracle.units).all(), seed
                better += value > int(price @ usage)
            covered += len(found) > 0 and len(empty) == 0
            limited += len(found) > 0 and oracle.slotted
    assert min(better, covered, limited) > 1, (better, covered, limited)


def test_plans_collected_by_climbing_make_prices_good_sooner() -> None:
    instance = larger(users=8, layers=6, experts=10)
    # Rounds end sooner where no good placement is known.
    best = climbed(saving_form(instance), Placement.empty(instance), None, 1)
    rounds, lowest = [], []
    for climbs in (0, proof.USUAL.climbs):
        search = caching_incumbent(instance, Stop(), best)
        tuning = by_layers.Tuning(proof=proof.Tuning(climbs=climbs, climbs_between=min(climbs, 1)))
        proving = CachingLayers(saving_form(instance), search, 1, tuning).proof()
        price = proving.descend(proof.USUAL.schedule)
        assert proving.minimise(price, proof.USUAL.nodes)
        rounds.append(proving.counts.rounds)
        lowest.append(proving.upper)
    assert rounds[1] < rounds[0], rounds
    assert lowest[1] < lowest[0] * (1 + 1e-4), lowest


def test_a_search_by_columns_hears_of_the_plans_that_a_proof_collects() -> None:
    instance = larger(users=8, layers=4, experts=10)
    form = saving_form(instance)
    search = caching_incumbent(instance, Stop(), climbed(form, Placement.empty(instance), None, 1))
    layers = CachingLayers(form, search, 1)
    layers.proof().run()
    after = [0] * len(layers.oracles)
    collected = [(block, part.tobytes()) for block, part in layers.collected(after)]
    assert len(set(collected)) == len(collected) == sum(after) > len(layers.oracles)
    assert not list(layers.collected(after))
    # Without pricing and kicks of its own, what it merges can only be theirs.
    other = caching_incumbent(instance, Stop(), Placement.empty(instance))
    columns = ColumnSearch(form, other, seed=0, started=True, tuning=column_search.Tuning(rounds=0))
    columns.listen(layers)
    columns.improve(0)
    assert search.bound_ns is not None
    assert search.bound_ns <= other.latency_ns
    assert int(columns.details["merges"]) > 0
    deaf = caching_incumbent(instance, Stop(), Placement.empty(instance))
    ColumnSearch(form, deaf, seed=0, started=True, tuning=column_search.Tuning(rounds=0)).improve(0)
    assert deaf.latency_ns > other.latency_ns


def test_a_proof_is_the_same_on_any_number_of_threads() -> None:
    for seed in range(3):
        instance, found = random_instance(seed, 12), []
        for threads in (1, 3):
            search = caching_incumbent(instance, Stop(), Placement.empty(instance))
            proving = CachingLayers(saving_form(instance), search, threads).proof()
            proving.run()
            found.append((search.bound_ns, search.latency_ns, proving.upper, proving.price.tolist()))
            found[-1] += (search.placement.cached.tobytes(),)
        assert found[0] == found[1], seed


def test_a_time_limit_ends_it() -> None:
    instance = larger(users=40, layers=6, experts=14)
    bounds = []
    for limit in (0, 0.3):
        solution = solved(instance, METHOD, time_limit=limit)
        bounds.append(solution.objective.bound_ns)
        assert solution.status.termination == "time_limit"
    assert bounds[0] is None


FILES = [
    path
    for path in instance_files()
    if path.parent.name in ("tiny", "small") or "gpt-oss-20b_melbourne_cut" in path.name
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.split(".json")[0])
def test_the_library_is_proven_to_the_last_unit(path: Path) -> None:
    instance = moeplace.load(path)
    known = best_known(path.parent.name)[instance.name]
    assert known.optimal
    assert_optimal(instance, METHOD, known.latency_ns, threads=2)


def test_threads_and_seeds_change_nothing() -> None:
    instance = moeplace.load(next(path for path in FILES if "sizes" in path.name))
    one = solved(instance, METHOD)
    for other in (solved(instance, METHOD), solved(instance, METHOD, threads=2), solved(instance, METHOD, seed=5)):
        assert one.placement == other.placement


def test_a_gap_limit_stops() -> None:
    solution = solved(larger(users=8, layers=4, experts=10), METHOD, gap=0.5)
    assert solution.status.termination == "gap_limit"
    assert solution.objective.gap is not None
    assert 0 < solution.objective.gap <= 0.5


def test_progress_only_gets_better_and_ends_where_the_solution_is() -> None:
    told: list[Progress] = []
    solution = solved(larger(users=4, layers=2, experts=6), METHOD, progress=told.append)
    costs = [p.latency_ns for p in told if p.latency_ns is not None]
    bounds = [p.bound_ns for p in told if p.bound_ns is not None]
    assert costs == sorted(costs, reverse=True)
    assert bounds == sorted(bounds)
    assert (costs[-1], bounds[-1]) == (solution.objective.latency_ns, solution.objective.bound_ns)


def test_a_start_is_never_made_worse() -> None:
    for seed in range(6):
        instance = random_instance(seed, 14)
        start = random_placement(instance, np.random.default_rng(seed))
        cost = moeplace.latency_ns(instance, start)
        assert moeplace.solve(instance, METHOD, start=start, time_limit=0).objective.latency_ns <= cost


def test_more_servers_than_masks_are_refused() -> None:
    with pytest.raises(MethodLimitError, match="17 servers can be of use to a layer, at most 16"):
        moeplace.solve(wide(17), METHOD)
    solution = solved(wide(16), METHOD, progress=interrupt_at_the_first_bound())
    assert solution.objective.bound_ns is not None
    with pytest.raises(ValueError, match="17 servers"):
        LayerOracle(aggregate(wide(17)), 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(servers=[], demands=[{**d, "server_ns": []} for d in document["demands"]]),
        lambda document: document.update(activations={"demand": [], "layer": [], "experts": [], "count": []}),
        lambda document: document.update(servers=[{**s, "capacity_bytes": 0} for s in document["servers"]]),
        lambda document: document.update(servers=[{**s, "capacity_bytes": 2**62} for s in document["servers"]]),
    ],
)
def test_degenerate_instances(change: Callable[[dict[str, Any]], None]) -> None:
    for seed in range(8):
        document = random_document(np.random.default_rng(seed))
        change(document)
        instance = Instance.from_document(document)
        everything = Placement(np.ones((len(instance.servers), instance.n_items)))
        useful = all(s["capacity_bytes"] > 2**61 for s in document["servers"])
        assert_optimal(instance, METHOD, moeplace.latency_ns(instance, everything) if useful else instance.baseline_ns)


@pytest.mark.parametrize("weights", [[2**62 - 1, 2**62], [2**61 + 1, 2**61 - 1, 2**61], [2**62 + 2**61]])
def test_costs_near_the_end_of_63_bits(weights: list[int]) -> None:
    instance = choice(weights)
    solution = assert_honest(instance, METHOD, sum(weights) - max(weights))
    assert solution.objective.gap is not None
    assert solution.objective.gap < 1e-12


@pytest.mark.parametrize("weight", [10**15, 2**53 - 1, 2**53 + 1, 2**54])
def test_placements_that_differ_by_one_token_ns(weight: int) -> None:
    for weights in ([weight, weight + 1], [weight + 1, weight]):
        for per_row in (1, 2):
            assert_optimal(choice(weights, per_row, "max", per_row), METHOD, weight)


@pytest.mark.parametrize("size", [10**6, 10**9, 10**15, 2**58])
def test_sizes_that_miss_by_one_byte(size: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        document = random_document(rng, 9)
        sizes = []
        for model in document["models"]:
            model["expert_bytes"] = [
                size * int(rng.integers(1, 3)) + int(rng.integers(-1, 2)) for _ in range(model["layers"])
            ]
            sizes += [b for b in model["expert_bytes"] for _ in range(model["experts"])]
        for server in document["servers"]:
            some = rng.permutation(len(sizes))[: rng.integers(1, 4)].tolist()
            server["capacity_bytes"] = sum(sizes[i] for i in some) - int(rng.integers(0, 2))
        instance = Instance.from_document(document)
        assert_optimal(instance, METHOD, brute_force(instance))


def interrupt_at_the_first_bound() -> Callable[[Progress], None]:
    asked = []

    def interrupt(progress: Progress) -> None:
        if progress.bound_ns is not None and not asked:  # a second one ends without a placement
            asked.append(True)
            signal.raise_signal(signal.SIGINT)

    return interrupt


def test_an_interruption_keeps_the_incumbent_and_the_bound() -> None:
    instance = larger(users=10, layers=4, experts=12)
    solution = solved(instance, METHOD, progress=interrupt_at_the_first_bound())
    assert solution.status.termination == "interrupted"
    assert solution.objective.bound_ns is not None
    assert moeplace.check(instance, solution).ok
