"""The saving form, the knapsack and the heuristics against brute force on tiny instances."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cases import looped
from random_instances import brute_force, random_document, random_instance

import moeplace
from moeplace import Instance, MethodLimitError, Placement, latency_ns, solve
from moeplace.caching.heuristics.knapsack import fill
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.methods import layer_enumeration, local_search
from moeplace.caching.saving import MoveValues, SavingForm, saving_form
from moeplace.library import instance_files

HEURISTICS = ["local-search", "max-convolution", "successive-greedy", "greedy"]


def saving(instance: Instance, solution: moeplace.Solution) -> int:
    return instance.baseline_ns - solution.objective.latency_ns


def document(
    capacities: list[int], server_ns: list[list[int | None]], rows: list[tuple[int, int, list[int], int]], **model: Any
) -> dict[str, Any]:
    """One model of single-byte experts, one demand a line of ``server_ns``, the cloud 10 ns away."""
    demands = [
        {"user": f"u{d}", "model": "m", "tokens": 1000, "device_ns": 0, "server_ns": times, "cloud_ns": 10}
        for d, times in enumerate(server_ns)
    ]
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": "small",
        "latency_model": "max",
        "models": [{"name": "m", "layers": 2, "experts": 4, "top_k": 2, "expert_bytes": 1, **model}],
        "servers": [{"name": f"s{n}", "capacity_bytes": c} for n, c in enumerate(capacities)],
        "demands": demands,
        "activations": {key: [row[i] for row in rows] for i, key in enumerate(("demand", "layer", "experts", "count"))},
    }


# --- the saving form ------------------------------------------------------------------------------------------


@looped("seed", range(60))
def test_saving_form_is_exact(seed: int) -> None:
    instance = random_instance(seed, max_variables=24)
    form = saving_form(instance)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        held = rng.random((len(instance.servers), instance.n_items)) < rng.random()
        assert form.saving_ns(held) == instance.baseline_ns - latency_ns(instance, Placement(held))


@looped("seed", range(60))
def test_moves_equal_recomputation(seed: int) -> None:
    instance = random_instance(seed, max_variables=24)
    rng = np.random.default_rng(seed)
    nowhere = len(instance.servers)
    for layer in saving_form(instance).layers:
        held = rng.random((nowhere, layer.n_experts)) < rng.random()
        now, moves = layer.saving_ns(held), layer.moves(held)
        for a, b in itertools.permutations(range(nowhere + 1), 2):
            changes = []
            for e in range(layer.n_experts):
                if (a == nowhere or held[a, e]) and (b == nowhere or not held[b, e]):
                    after = held.copy()
                    if a < nowhere:
                        after[a, e] = False
                    if b < nowhere:
                        after[b, e] = True
                    changes.append(layer.saving_ns(after) - now)
            if changes:
                assert moves.gain[a, b] == max(changes)
            else:
                assert moves.expert[a, b] == -1


@looped("seed", range(20))
def test_moves_are_followed_from_one_placement_to_the_next(seed: int) -> None:
    instance = random_instance(seed, max_variables=24)
    rng = np.random.default_rng(seed)
    form = saving_form(instance)
    for layer in form.layers:
        held = rng.random((len(instance.servers), layer.n_experts)) < rng.random()
        values = MoveValues(layer, held)
        for _ in range(6):
            n, e = rng.integers(len(held)), rng.integers(layer.n_experts, size=int(rng.integers(1, 3)))
            held[n, e] ^= True
            values.follow(held)
            found, anew = values.moves(), layer.moves(held)
            assert np.array_equal(found.gain, anew.gain)
            assert np.array_equal(found.expert, anew.expert)
    # Neither does it matter where they take too much room to be followed.
    held = np.zeros((len(instance.servers), instance.n_items), dtype=np.bool_)
    followed, valued = WorkingPlacement(form, held.copy()), WorkingPlacement(form, held.copy(), most_cells=0)
    for i in range(len(form.layers)):
        for _ in range(3):
            pair = [plan.moves(i) for plan in (followed, valued)]
            assert np.array_equal(pair[0].gain, pair[1].gain)
            origin, target = divmod(int(np.argmax(pair[0].gain)), pair[0].gain.shape[1])
            if pair[0].expert[origin, target] < 0:
                break
            followed.move(i, origin, target)
            valued.move(i, origin, target)
            assert np.array_equal(followed.held, valued.held)


@looped("seed", range(60))
def test_value_functions(seed: int) -> None:
    instance = random_instance(seed, max_variables=24)
    rng = np.random.default_rng(seed)
    for layer in saving_form(instance).layers:
        held = rng.random((len(instance.servers), layer.n_experts)) < rng.random()
        n = int(rng.integers(len(held)))
        peeled, enumerated = layer.value_function(held, n), layer.value_function(held, n, enumerated=20)
        cut, branched = layer.value_function(held, n, cuts=True), layer.value_function(held, n, nodes=10**6)
        assert enumerated.exact
        assert branched.exact
        assert peeled.values[held[n].sum()] >= layer.saving_ns(held)
        for q in range(layer.n_experts + 1):
            values = []
            for chosen in itertools.combinations(range(layer.n_experts), q):
                after = held.copy()
                after[n] = np.isin(np.arange(layer.n_experts), chosen)
                values.append(layer.saving_ns(after))
            assert enumerated.values[q] == max(values)
            assert peeled.values[q] <= max(values)
            assert peeled.values[q] <= cut.values[q] <= max(values)
            for function in (peeled, enumerated, cut, branched):
                if function.proven[q]:
                    assert function.values[q] == max(values)
                after = held.copy()
                after[n] = function.kept[q]
                assert layer.saving_ns(after) == function.values[q]
                assert after[n].sum() <= q


@looped("seed", range(20))
def test_cuts_find_the_corners_of_the_envelope(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(0, 0, sorted(rng.choice(7, 3, replace=False).tolist()), int(rng.integers(1, 9))) for _ in range(12)]
    instance = Instance.from_document(document([7], [[2]], rows, experts=7, top_k=3))
    layer = saving_form(instance).layers[0]
    held = np.zeros((1, 7), dtype=np.bool_)
    exact, cut = layer.value_function(held, 0, enumerated=7), layer.value_function(held, 0, cuts=True)
    slopes = [(int(exact.values[b] - exact.values[a]), b - a) for a, b in itertools.combinations(range(8), 2)]
    for rise, width in slopes:  # the best sets at this price
        at_price = exact.values * width - rise * np.arange(8)
        corner = np.flatnonzero(at_price == at_price.max())
        if len(corner) == 1:
            assert cut.values[corner[0]] == exact.values[corner[0]]
            assert cut.proven[corner[0]]


@pytest.mark.parametrize("top_k", [2, 3, 4, 5])
@looped("seed", range(10))
def test_branch_and_bound_within_a_limit_is_between_peeling_and_enumeration(seed: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    n = 10
    rows = [
        (int(rng.integers(0, 3)), 0, sorted(rng.choice(n, int(rng.integers(1, top_k + 1)), replace=False).tolist()), c)
        for c in rng.integers(1, 16, 60).tolist()
    ]
    base = document([n, n], [[2, 5], [4, 3], [1, 8]], rows, experts=n, top_k=top_k)
    layer = saving_form(Instance.from_document(base)).layers[0]
    held = rng.random((2, n)) < 0.3
    exact, peeled = layer.value_function(held, 0, enumerated=n), layer.value_function(held, 0)
    proven = []
    for nodes in (1, 5, 20, 100, 10**6):
        branched = layer.value_function(held, 0, nodes=nodes)
        assert (peeled.values <= branched.values).all()
        assert (branched.values <= exact.values).all()
        assert (branched.values[branched.proven] == exact.values[branched.proven]).all()
        for q, kept in enumerate(branched.kept):
            after = held.copy()
            after[0] = kept
            assert kept.sum() <= q
            assert layer.saving_ns(after) == branched.values[q]
        proven.append(branched.proven.sum())
    assert proven[0] < proven[-1] == n + 1


def test_branch_and_bound_leaves_weights_alone_that_are_too_large_for_it() -> None:
    base = document([3], [[0]], [(0, 0, [0, 1, 2], 900), (0, 0, [0, 3], 60)], top_k=3)
    base["demands"][0]["cloud_ns"] = 2**62 // 1000
    layer = saving_form(Instance.from_document(base)).layers[0]
    held = np.zeros((1, 4), dtype=np.bool_)
    peeled, branched = layer.value_function(held, 0), layer.value_function(held, 0, nodes=100)
    assert branched.values.tolist() == peeled.values.tolist()
    assert branched.proven.tolist() == peeled.proven.tolist()


def test_demands_at_equal_savings_are_one_group() -> None:
    base = document([1, 1], [[2, 5], [2, 5]], [(0, 0, [0, 1], 3), (1, 0, [1, 0], 4)])
    for demand in (base["demands"][1],):
        demand.update(server_ns=[102, 105], cloud_ns=110)  # further away, by as much from everywhere
    form = saving_form(Instance.from_document(base))
    assert form.n_rows == 1
    assert form.layers[0].count.tolist() == [7]


def test_times_and_tokens_near_the_limit_do_not_overflow() -> None:
    far = 2**57
    base = document([8, 8], [[far // 4, far // 2]], [(0, 0, [0, 1], 30), (0, 1, [2, 3], 30)])
    base["demands"][0]["cloud_ns"] = far
    instance = Instance.from_document(base)
    assert instance.baseline_ns > 2**62
    for method in HEURISTICS:
        assert saving(instance, solve(instance, method)) == 60 * (far - far // 4)


# --- the knapsack ---------------------------------------------------------------------------------------------


def draw_functions(rng: np.random.Generator, sizes: list[int]) -> list[np.ndarray]:
    functions = []
    for _ in sizes:
        steps = rng.integers(0, 50, int(rng.integers(1, 6)))
        if rng.random() < 0.4:
            steps = np.sort(steps)[::-1]
        functions.append(np.concatenate(([0], np.cumsum(steps))) + int(rng.integers(0, 10)))
    return functions


def grid_optimum(functions: list[np.ndarray], sizes: list[int], capacity: int) -> int:
    """The textbook dynamic program over every byte."""
    best = np.zeros(capacity + 1, dtype=np.int64)
    for values, size in zip(functions, sizes, strict=True):
        following = np.full(capacity + 1, -1)
        for q, value in enumerate(values.tolist()):
            if q * size <= capacity:
                shifted = best[: capacity + 1 - q * size] + value
                following[q * size :] = np.maximum(following[q * size :], shifted)
        best = following
    return int(best.max())


@looped("seed", range(100))
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.1, 0.5])
def test_knapsack_keeps_its_share_of_the_dynamic_program(seed: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    pool = rng.integers(1, 30, int(rng.integers(1, 6)))
    sizes = rng.choice(pool, n).tolist()
    functions, capacity = draw_functions(rng, sizes), int(rng.integers(0, 300))
    best = grid_optimum(functions, sizes, capacity)
    filling = fill(functions, sizes, capacity, epsilon)
    assert sum(s * q for s, q in zip(sizes, filling.counts, strict=True)) <= capacity
    assert filling.value == sum(int(f[q]) for f, q in zip(functions, filling.counts, strict=True))
    base = sum(int(f[0]) for f in functions)
    assert filling.value - base >= (1 - epsilon) * (best - base)
    if epsilon == 0.0 or len(set(sizes)) <= 2:
        assert filling.value == best


def test_knapsack_with_gigabytes_and_coprime_sizes() -> None:
    sizes = [13_253_761, 8_650_753, 176_160_769, 2**62 - 57]
    functions = [np.arange(33) ** 2, 40 * np.arange(65), 900 * np.arange(9), np.array([0, 1])]
    for epsilon in (0.0, 0.05):
        filling = fill(functions, sizes, 2_000_000_000, epsilon)
        assert sum(s * q for s, q in zip(sizes, filling.counts, strict=True)) <= 2_000_000_000
        assert filling.counts[3] == 0
    options = itertools.product(range(33), range(65), range(9))
    best = max(
        a * a + 40 * b + 900 * c for a, b, c in options if sizes[0] * a + sizes[1] * b + sizes[2] * c <= 2_000_000_000
    )
    assert fill(functions, sizes, 2_000_000_000).value == best


def test_knapsack_thins_out_lists_that_grow_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    sizes = [101, 103, 107, 109, 113]
    functions, capacity = draw_functions(rng, sizes), 1100
    functions = [np.cumsum(rng.integers(1, 1000, 9)) for _ in sizes]
    best = grid_optimum(functions, sizes, capacity)
    assert fill(functions, sizes, capacity).ratio == 1.0
    monkeypatch.setattr("moeplace.caching.heuristics.knapsack.MOST_ENTRIES", 16)
    filling = fill(functions, sizes, capacity)
    assert 0 < filling.ratio < 1
    assert filling.value >= filling.ratio * best


# --- successive greedy and max-convolution --------------------------------------------------------------------


@looped("seed", range(40))
def test_one_server_is_solved_to_optimality(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = random_document(rng)
    base["servers"] = base["servers"][:1]
    for demand in base["demands"]:
        demand["server_ns"] = demand["server_ns"][:1]
    instance = Instance.from_document(base)
    solution = solve(instance, "successive-greedy")
    assert solution.objective.latency_ns == brute_force(instance)
    assert solution.status.solution == "optimal"
    peeled = solve(instance, "successive-greedy", enumerate=0)
    if peeled.status.solution == "optimal":
        assert peeled.objective.latency_ns == brute_force(instance)


@looped("seed", range(40))
@pytest.mark.parametrize("method", ["successive-greedy", "max-convolution"])
def test_half_of_the_best_saving_where_that_is_claimed(seed: int, method: str) -> None:
    instance = random_instance(seed, latency_model="sum")
    best = instance.baseline_ns - brute_force(instance)
    for order in ("gain", "given", "capacity", "demand", "random"):
        solution = solve(instance, method, order=order, passes=1)
        assert solution.guarantee is not None
        assert 2 * saving(instance, solution) >= best


def test_the_server_that_gains_most_comes_first() -> None:
    # The popular expert belongs on the second server, near most users; the first then takes the other one.
    rows = [(0, 0, [0], 10), (0, 0, [1], 9), (1, 0, [0], 90)]
    instance = Instance.from_document(document([1, 1], [[1, 3], [5, 1]], rows, top_k=1))
    best = instance.baseline_ns - brute_force(instance)
    assert saving(instance, solve(instance, "max-convolution")) == best
    assert saving(instance, solve(instance, "max-convolution", order="given")) < best


@looped("seed", range(10))
def test_branch_and_bound_goes_on_where_peeling_ends(seed: int) -> None:
    instance = random_instance(seed, max_variables=60)
    peeled, branched = (solve(instance, "successive-greedy", enumerate=0, nodes=nodes) for nodes in (0, 10**6))
    assert branched.objective.latency_ns <= peeled.objective.latency_ns
    assert branched.details["exact_layers"] == branched.details["layers"]
    assert branched.details["proven_values"] == 1.0


def test_nothing_is_claimed_for_pairs() -> None:
    instance = Instance.from_document(document([1, 1], [[2, 2]], [(0, 0, [0, 1], 100)]))
    for method in ("successive-greedy", "max-convolution"):
        assert solve(instance, method).guarantee is None


def test_no_constant_for_successive_greedy_under_max() -> None:
    # Room for one expert each, two experts always used together: neither server gains alone.
    rows = [(0, 0, [0, 1], 100), (0, 1, [2], 1)]
    instance = Instance.from_document(document([1, 1], [[2, 2]], rows))
    solution = solve(instance, "successive-greedy")
    assert instance.baseline_ns - brute_force(instance) == 800
    assert saving(instance, solution) == 8


@looped("seed", range(20))
@pytest.mark.parametrize("method", ["successive-greedy", "max-convolution", "local-search"])
def test_a_start_is_never_made_worse(seed: int, method: str) -> None:
    instance = random_instance(seed, max_variables=24)
    start = solve(instance, "random", seed=seed)
    solution = solve(instance, method, start=start)
    assert solution.objective.latency_ns <= start.objective.latency_ns


@looped("seed", range(10))
def test_more_passes_are_never_worse(seed: int) -> None:
    instance = random_instance(seed, max_variables=40)
    costs = [solve(instance, "successive-greedy", passes=p).objective.latency_ns for p in (1, 2, 3)]
    costs.append(solve(instance, "successive-greedy").objective.latency_ns)
    assert costs == sorted(costs, reverse=True)


# --- greedy ---------------------------------------------------------------------------------------------------

RATIOS = {"1 - 1/e": 1 - 1 / math.e, "(1 - 1/e)/2": (1 - 1 / math.e) / 2, "1/2": 0.5}


def claimed(guarantee: str | None) -> float | None:
    return None if guarantee is None else RATIOS[guarantee.split(" at least ")[1].split(" of the best")[0]]


@looped("seed", range(120))
@pytest.mark.parametrize("enumerate", [0, 1, 3])
def test_greedy_keeps_what_it_claims(seed: int, enumerate: int) -> None:
    rng = np.random.default_rng(seed)
    base = random_document(rng, latency_model="sum" if seed % 3 else None, max_variables=10)
    n_servers = len(base["servers"]) if seed % 2 else 1
    base["servers"] = base["servers"][:n_servers]
    for demand in base["demands"]:
        demand["server_ns"] = demand["server_ns"][:n_servers]
    instance = Instance.from_document(base)
    solution = solve(instance, "greedy", enumerate=enumerate)
    ratio = claimed(solution.guarantee)
    if ratio is not None:
        assert saving(instance, solution) >= ratio * (instance.baseline_ns - brute_force(instance)) - 1e-9
    elif base["latency_model"] == "sum":
        assert n_servers > 1
        assert len(set(instance.item_bytes.tolist())) > 1


def test_every_claim_of_greedy_is_made_somewhere() -> None:
    rows = [(0, 0, [0], 5), (0, 1, [1], 4)]
    one, two = ([2], [[2]]), ([2, 2], [[2, 3]])
    sizes = {"expert_bytes": [1, 2]}
    cases = [
        (document(*one, rows), 0, "1 - 1/e"),
        (document(*two, rows), 0, "1/2"),
        (document(*one, rows, **sizes), 0, "(1 - 1/e)/2"),
        (document(*one, rows, **sizes), 3, "1 - 1/e"),
        (document(*two, rows, **sizes), 3, None),
        (document(*one, [(0, 0, [0, 1], 5)]), 0, None),
    ]
    for base, enumerate, expected in cases:
        solution = solve(Instance.from_document(base), "greedy", enumerate=enumerate)
        assert claimed(solution.guarantee) == (RATIOS[expected] if expected else None)


@looped("seed", range(60))
def test_lazy_greedy_chooses_as_naive_greedy(seed: int) -> None:
    instance = random_instance(seed, max_variables=60)
    lazy, naive = (solve(instance, "greedy", lazy=value) for value in (True, False))
    assert lazy.placement == naive.placement
    assert lazy.details["evaluations"] <= naive.details["evaluations"]


def test_greedy_misses_a_pair_and_the_decomposition_does_not() -> None:
    # Nothing is gained by either alone, so greedy takes the first two experts instead.
    instance = Instance.from_document(document([2], [[2]], [(0, 0, [2, 3], 100)]))
    assert saving(instance, solve(instance, "greedy")) == 0
    assert saving(instance, solve(instance, "greedy", enumerate=2)) == 800
    assert saving(instance, solve(instance, "successive-greedy")) == 800
    assert saving(instance, solve(instance, "max-convolution")) == 800


def test_greedy_by_density_alone_would_be_unbounded() -> None:
    # A small expert with more saving per byte keeps the large one out; the run by gain takes the large one.
    rows = [(0, 0, [0], 2), (0, 1, [0], 100)]
    instance = Instance.from_document(document([100], [[2]], rows, expert_bytes=[1, 100]))
    assert saving(instance, solve(instance, "greedy")) == 800


def test_greedy_refuses_too_many_starting_sets() -> None:
    rows = [(0, layer, [e], 1) for layer in range(8) for e in range(16)]
    base = document([9], [[2]], rows, layers=8, experts=16)
    with pytest.raises(MethodLimitError, match="starting sets"):
        solve(Instance.from_document(base), "greedy", enumerate=3)


# --- local search ---------------------------------------------------------------------------------------------


@looped("seed", range(30))
def test_kicks_are_never_worse_and_plans_stay_exact(seed: int) -> None:
    instance = random_instance(seed, max_variables=40)
    costs = [solve(instance, "local-search", kicks=k, seed=seed).objective.latency_ns for k in (0, 3, 20)]
    assert costs == sorted(costs, reverse=True)
    seen: list[int | None] = []
    solution = solve(instance, "local-search", kicks=5, progress=lambda p: seen.append(p.latency_ns))
    assert seen[-1] == solution.objective.latency_ns


def test_exchange_between_layers_and_servers() -> None:
    # Each server holds what the other's user needs; only two moves together make room.
    rows = [(0, 0, [0], 10), (1, 1, [0], 10)]
    instance = Instance.from_document(document([1, 1], [[1, 9], [9, 1]], rows, top_k=1))
    start = Placement.from_pairs(instance, [(0, instance.item(0, 1, 0)), (1, instance.item(0, 0, 0))])
    solution = solve(instance, "local-search", start=start)
    assert solution.objective.latency_ns == 20


# --- all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", HEURISTICS)
@looped("seed", range(30))
def test_never_better_than_the_optimum(seed: int, method: str) -> None:
    instance = random_instance(seed)
    solution = solve(instance, method, seed=seed)
    assert solution.objective.latency_ns >= brute_force(instance)
    assert moeplace.check(instance, solution).ok


@pytest.mark.parametrize("method", HEURISTICS)
def test_degenerate_instances(method: str) -> None:
    rows = [(0, 0, [0, 1], 5)]
    cases = {
        "no servers": document([], [[]], rows),
        "no demands": document([3], [], []),
        "no rows": document([3], [[2]], []),
        "no room": document([0, 0], [[2, 3]], rows),
        "out of reach": document([4], [[None]], rows),
        "no nearer than the cloud": document([4], [[10]], rows),
    }
    for base in cases.values():
        solution = solve(Instance.from_document(base), method)
        assert solution.placement == []
        assert solution.objective.latency_ns == solution.objective.baseline_ns


@pytest.mark.parametrize("method", HEURISTICS)
def test_no_time_still_gives_a_placement(method: str) -> None:
    instance = random_instance(3, max_variables=40)
    solution = solve(instance, method, time_limit=0.0)
    assert solution.status.termination == "time_limit"
    assert solution.guarantee is None


@pytest.mark.parametrize("method", HEURISTICS)
def test_interruption_returns_the_best_so_far(method: str) -> None:
    instance = random_instance(3, max_variables=40)
    parameters = {"kicks": 10**9} if method == "local-search" else {"enumerate": 1} if method == "greedy" else {}
    seen: list[int | None] = []

    def interrupt(progress: moeplace.Progress) -> None:
        seen.append(progress.latency_ns)
        if len(seen) == 1:
            signal.raise_signal(signal.SIGINT)

    solution = solve(instance, method, progress=interrupt, **parameters)
    assert solution.status.termination == "interrupted"
    assert seen[0] is not None
    assert solution.objective.latency_ns <= seen[0]


@pytest.mark.parametrize("method", HEURISTICS)
def test_deterministic_on_one_and_two_threads(method: str) -> None:
    instance = random_instance(5, max_variables=60)
    runs = [solve(instance, method, seed=7, threads=threads) for threads in (1, 1, 2)]
    assert runs[0].placement == runs[1].placement == runs[2].placement


@pytest.mark.parametrize("method", HEURISTICS)
def test_progress_ends_at_the_cost(method: str) -> None:
    instance = random_instance(8, max_variables=40)
    seen: list[int | None] = []
    solution = solve(instance, method, progress=lambda p: seen.append(p.latency_ns))
    costs = [cost for cost in seen if cost is not None]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == solution.objective.latency_ns


def test_what_local_search_reports_it_also_returns() -> None:
    # One layer: a view of its part of the placement would be the whole placement.
    path = next(path for path in instance_files("tiny") if "pair_across_servers" in path.name)
    costs: list[int | None] = []
    solution = solve(moeplace.load(path), "local-search", progress=lambda progress: costs.append(progress.latency_ns))
    assert min(cost for cost in costs if cost is not None) == solution.objective.latency_ns == 190_000_000


def test_numba_is_not_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, moeplace, moeplace.base.registry as r\n"
        "for name in ('local-search', 'max-convolution', 'successive-greedy', 'greedy'):\n"
        "    r.method_info(r.find_method(name))\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_saving_form_is_built_once_and_no_instance_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[bool] = []

    def counted(instance: Instance, **others: Any) -> SavingForm:
        assert instance is given
        built.append(bool(others))
        return saving_form(instance, **others)

    for module in (local_search, layer_enumeration):
        monkeypatch.setattr(module, "saving_form", counted)
    given = random_instance(3, 12)
    for method in ("local-search", "layer-enumeration"):
        solve(given, method)
        # One of the instance; one of its servers' storage in one pool.
        assert sorted(built) in ([False], [False, True]), method
        built.clear()
