"""The serverless methods: exact ones equal brute force, no bound is crossed, what nothing meets is found and said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import looped
from serverless_instances import brute_force, random_document, toy

from moeplace.base.errors import InputError, MethodError, NoSolutionError
from moeplace.base.stop import Stop
from moeplace.layers.merging import Tuning as MergeTuning
from moeplace.layers.proof import Tuning as ProofTuning
from moeplace.serverless.bounds import proving
from moeplace.serverless.bounds.by_specs import SpecBounds
from moeplace.serverless.checking import recompute
from moeplace.serverless.cost import best_all_local, cost, layer_times
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics import beginning, climb
from moeplace.serverless.instance import Instance
from moeplace.serverless.methods import auto, baselines, exact, layers, local_search, remoe
from moeplace.serverless.plans import all_plans, choose, layer_tables, plans_of_sets
from moeplace.serverless.searching import serverless_incumbent

COMMON: dict[str, Any] = {"time_limit": None, "seed": 0, "threads": 1, "start": None, "progress": None}
EXACT = (layers.layers, exact.milp, exact.cpsat)
OTHERS = (
    auto.auto, local_search.local_search, remoe.remoe, baselines.best_split, baselines.all_remote, baselines.all_local,
)  # fmt: skip


def check_exact(seed: int, *methods: Any) -> None:
    instance = Instance.from_document(random_document(seed))
    best = brute_force(instance)
    for method in methods:
        if best is None:
            with pytest.raises(NoSolutionError, match="with everything local at the largest specification"):
                method(instance, **COMMON)
            continue
        outcome = method(instance, **COMMON)
        wrong, value = recompute(instance, outcome.placement)
        assert (wrong, value, outcome.bound_ns) == ([], best[0], best[0]), method.__name__


@looped("seed", range(150))
def test_exact_methods_equal_brute_force(seed: int) -> None:
    check_exact(seed, *EXACT)


@looped("seed", range(150, 300))
def test_exact_methods_equal_brute_force_on_others(seed: int) -> None:
    check_exact(seed, *EXACT)


def test_other_methods_fit_and_are_never_below_the_optimum() -> None:
    missed: list[tuple[int, str]] = []
    found = [seed for seed in range(80) if _compare(seed, missed)]
    assert len(found) > 40
    # A climb comes to a deployment wherever there is one here; pipelines and baselines need not.
    assert not {seed for seed, name in missed if name in ("auto", "local_search")} & set(found)


def _compare(seed: int, missed: list[tuple[int, str]]) -> bool:
    """Compare all other methods with brute force; say whether there is a deployment."""
    instance = Instance.from_document(random_document(seed))
    best = brute_force(instance)
    for method in OTHERS:
        if method is auto.auto and best is None:
            with pytest.raises(NoSolutionError):
                method(instance, **COMMON)
            continue
        try:
            outcome = method(instance, **COMMON)
        except MethodError:
            missed.append((seed, method.__name__))
            continue
        assert best is not None, method
        wrong, value = recompute(instance, outcome.placement)
        assert wrong == [], method
        assert value is not None
        assert (outcome.bound_ns or 0) <= best[0] <= value, method
        assert method is not auto.auto or outcome.bound_ns == value
    return best is not None


def test_limits_on_the_way_change_no_proof() -> None:
    few = MergeTuning(most_states=2, first_entries=1, most_prices=1, samples=1, judges=1, rounds=1, descent=1, chunk=1)
    tiny = [
        ProofTuning(rounds=1),
        ProofTuning(most_plans=1),
        ProofTuning(first_states=1, few_states=1, few_plans=1, merging=few),
    ]
    start = beginning.Tuning(starts=1, climb=climb.Tuning(sweeps=1, swaps=0, pairs=1))
    proven = 0
    for proof in tiny:
        for seed in range(25):
            instance = Instance.from_document(random_document(seed))
            best = brute_force(instance)
            search = serverless_incumbent(instance, None, Stop(None), 0.0, None)
            proving.solve_layers(instance, search, None, 0.0, tuning=proving.Tuning(beginning=start, proof=proof))
            if best is None:
                assert search.placement is None, seed
            else:
                assert search.bound_ns is None or search.bound_ns <= best[0] <= search.latency_ns, seed
                proven += search.bound_ns == best[0]
    assert proven > 20


def test_costs_beyond_int64_are_proven_exactly() -> None:
    for seed in range(12):
        document = random_document(seed)
        document["platform"]["gpu_price"] = 2**58 + seed
        document["platform"]["gpu_mb"] = 7
        instance = Instance.from_document(document)
        best = brute_force(instance)
        if best is not None:
            outcome = layers.layers(instance, **COMMON)
            assert best[0] > 2**60
            # Values are rounded to units there: a bound may fall short by a unit a layer, no more.
            assert outcome.bound_ns is not None
            assert 0 <= best[0] - outcome.bound_ns <= instance.layers * (best[0] // 2**50), seed
            assert cost(instance, outcome.placement) == best[0], seed


def test_plans_of_sets_and_choices_are_what_the_cost_says() -> None:
    rng = np.random.default_rng(2)
    checked = 0
    for seed in range(60):
        instance = Instance.from_document(random_document(seed))
        for table in layer_tables(instance):
            remote = rng.random((3, instance.experts)) < 0.5
            for plans in (plans_of_sets(table, np.unique(remote, axis=0)), all_plans(table)):
                for main in instance.main_specs:
                    valued = plans.valued(main)
                    for at in range(len(plans)):
                        first, every, _ = layer_times(instance, table.layer, main, plans.choice(at))
                        assert valued.usage[at, :2].tolist() == [first, every], seed
                        checked += 1
                    own = choose(table, remote[0], main, 3.0, 2.0)
                    if own is not None:
                        times = layer_times(instance, table.layer, main, own.choice)
                        assert (own.first, own.every, own.remote_cost) == times, seed
    assert checked > 1000


def test_lpt_is_within_its_guarantee_of_the_fastest_split() -> None:
    compared = 0
    for seed in range(80):
        document = random_document(seed, layers=1, experts=6, tokens_out=2)
        document["platform"] |= {"payload_bytes": 10**9, "most_replicas": 3}
        for spec in document["specs"]:
            spec["mb"] += 1000
        instance = Instance.from_document(document)
        (table,) = layer_tables(instance)
        everything = np.ones((1, instance.experts), dtype=np.bool_)
        best = {}
        exact_plans = all_plans(table)
        for at in range(len(exact_plans)):
            z = int(exact_plans.part[at].max()) + 1
            if (exact_plans.part[at] >= 0).all():
                best[int(exact_plans.spec[at]), z] = int(exact_plans.slowest[at]) - instance.platform.invoke_ns
        greedy = plans_of_sets(table, everything)
        for at in range(1, len(greedy)):
            z = int(greedy.part[at].max()) + 1
            fastest = best.get((int(greedy.spec[at]), z))
            if fastest is not None:
                slowest = int(greedy.slowest[at]) - instance.platform.invoke_ns
                assert fastest <= slowest, seed
                assert 3 * z * slowest <= (4 * z - 1) * fastest, seed
                compared += 1
    assert compared > 30


def test_a_start_is_never_lost_and_a_gap_ends() -> None:
    for seed in range(30):
        instance = Instance.from_document(random_document(seed))
        best = brute_force(instance)
        if best is None:
            continue
        for method in (*EXACT, local_search.local_search):
            outcome = method(instance, **COMMON | {"start": best[1]})
            assert cost(instance, outcome.placement) == best[0], (seed, method)
        outcome = layers.layers(instance, **COMMON, gap=0.5)
        assert outcome.bound_ns is not None
        assert cost(instance, outcome.placement) <= 2 * outcome.bound_ns or not outcome.bound_ns


def test_kicks_depend_on_the_seed_alone() -> None:
    instance = Instance.from_document(random_document(18))
    found = [local_search.local_search(instance, **COMMON | {"seed": 3}, kicks=4) for _ in range(2)]
    assert found[0].placement == found[1].placement
    assert found[0].details["kicks"] == 4
    with pytest.raises(InputError, match="kicks must be at least 0"):
        local_search.local_search(instance, **COMMON, kicks=-1)


def test_stages_of_the_pipeline_switch_off() -> None:
    ended: dict[tuple[bool, bool, bool], int] = {}
    better = 0
    for seed in range(60):
        instance = Instance.from_document(random_document(seed))
        reached = {}
        for stages in ((True, True, True), (False, True, True), (True, False, True), (True, True, False),
                       (False, False, True)):  # fmt: skip
            worst_case, fit, grow = stages
            try:
                outcome = remoe.remoe(instance, **COMMON, worst_case=worst_case, fit=fit, grow=grow)
            except MethodError:
                continue
            reached[stages] = cost(instance, outcome.placement)
            ended[stages] = ended.get(stages, 0) + 1
        better += len(set(reached.values())) > 1
    assert len(ended) == 5
    assert better > 5
    with pytest.raises(InputError, match="tail must be"):
        remoe.remoe(Instance.from_document(toy()), **COMMON, tail=-1.0)


def test_baselines_that_do_not_fit_say_so() -> None:
    instance = Instance.from_document(toy(limits={"tpot_ns": 700_000}))
    for method in (baselines.all_remote, baselines.all_local):
        with pytest.raises(MethodError, match="within the limits"):
            method(instance, **COMMON)
    local = best_all_local(Instance.from_document(toy()))
    assert baselines.all_local(Instance.from_document(toy()), **COMMON).placement == local


def test_a_bound_of_some_specifications_is_none_of_all() -> None:
    instance = Instance.from_document(toy())
    start = Deployment.of(1, [(None, [])])
    search = serverless_incumbent(instance, start, Stop(None), 0.0, None)
    bounds = SpecBounds(instance, search, "somebody")
    bounds.prove(1, bounds.nothing)
    assert search.bound_ns == 0
    assert bounds.done(1)
    assert not bounds.done(0)
    bounds.prove(0, 5)
    assert search.bound_ns == 5


def test_threads_change_no_result() -> None:
    for seed in range(6):
        instance = Instance.from_document(random_document(seed))
        for tuning in (proving.Tuning(), proving.Tuning(listed_experts=0)):
            found = []
            for threads in (1, 3):
                search = serverless_incumbent(instance, None, Stop(None), 0.0, None)
                proving.solve_layers(instance, search, None, 0.0, threads, tuning)
                found.append((search.placement, search.latency_ns, search.bound_ns))
            assert found[0] == found[1], seed
