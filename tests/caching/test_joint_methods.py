"""Methods that choose active experts together with the placement: optimum, bounds, beginnings, limits, interrupts."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from random_instances import brute_force_joint, random_joint_document

import moeplace
from moeplace import Instance, MethodLimitError, Placement, Progress
from moeplace.base.errors import NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import stopping
from moeplace.caching.bounds import joint_layers, joint_proving
from moeplace.caching.bounds.joint_proving import JointProving
from moeplace.caching.evaluation import cost_ns
from moeplace.caching.heuristics.joint import JointForms
from moeplace.caching.searching import caching_incumbent
from moeplace.layers import merging
from moeplace.layers.choosing import choose

METHODS = ("auto", "layer-enumeration", "alternating")
LIMIT = 3600.0
"""Seconds, so many that none of these is ended by them on a busy machine that has to compile first."""


def document(seed: int, **changes: Any) -> dict[str, Any]:
    return random_joint_document(np.random.default_rng(seed), **changes)


def joint(seed: int, **changes: Any) -> Instance:
    return Instance.from_document(document(seed, **changes))


# --- one choice a layer within a budget ----------------------------------------------------------------------------


def test_choosing_equals_enumeration() -> None:
    for seed in range(150):
        rng = np.random.default_rng(seed)
        layers, choices = int(rng.integers(0, 6)), int(rng.integers(1, 5))
        unit = int(rng.choice([1, 10**6, 10**9]))
        value = rng.integers(-100, 100, (layers, choices)) * int(rng.choice([1, 10**9, 10**13, 10**16]))
        usage = rng.integers(0, 20, (layers, choices)) * unit
        budget = int(rng.integers(0, 60)) * unit + int(rng.integers(0, unit))
        best = max(
            (
                sum(int(value[i, k]) for i, k in enumerate(chosen))
                for chosen in itertools.product(range(choices), repeat=layers)
                if sum(int(usage[i, k]) for i, k in enumerate(chosen)) <= budget
            ),
            default=None,
        )
        for tuning in (merging.USUAL, merging.Tuning(most_states=1)):
            found = choose(value, usage, budget, tuning=tuning)
            if best is None:
                assert found is None, seed
                continue
            assert found is not None, seed
            at = np.arange(layers), found.choice
            assert int(usage[at].sum()) <= budget, seed
            assert found.value == int(value[at].sum()) <= best <= found.bound, seed
            assert tuning is not merging.USUAL or best > 2**56 or found.value == found.bound, seed


# --- forms ---------------------------------------------------------------------------------------------------------


def test_forms_cost_what_the_evaluator_says() -> None:
    for seed in range(60):
        instance, rng = joint(seed), np.random.default_rng(seed)
        try:
            forms = JointForms(instance)
        except NoSolutionError:
            assert instance.choices is not None
            assert instance.choices.shortage is not None
            continue
        held = rng.random((len(instance.servers), instance.n_items)) < 0.5
        if instance.coverage is not None and not instance.coverage.met(held).all():
            continue
        for _ in range(3):
            active = np.array([rng.choice(own) for own in forms.options], dtype=np.int64)
            cost = cost_ns(instance, Placement(held, active))
            assert forms.cost_ns(active, held) == cost, seed
            form = forms.form(active)
            # Layers without rows have no form, but what they hold may have to be loaded.
            if len(form.layers) == instance.n_blocks or instance.load_block_ns is None:
                assert form.instance.baseline_ns - form.saving_ns(held) == cost, seed
        chosen = forms.choice(held)
        assert forms.within(chosen), seed
        others = [np.array(own) for own in itertools.product(*forms.options)]
        assert forms.cost_ns(chosen, held) == min(forms.cost_ns(o, held) for o in others if forms.within(o)), seed


# --- methods against brute force -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_joint_methods_equal_brute_force(method: str) -> None:
    proven = 0
    for seed in range(60):
        raw = document(seed)
        instance, best = Instance.from_document(raw), brute_force_joint(raw)
        if best is None:
            with pytest.raises(NoSolutionError):
                moeplace.solve(instance, method, seed=seed, time_limit=LIMIT)
            continue
        solution = moeplace.solve(instance, method, seed=seed, threads=1 + seed % 2, time_limit=LIMIT)
        assert moeplace.check(instance, solution).ok, seed
        cost, bound = cost_ns(instance, solution.placement_on(instance)), solution.objective.bound_ns
        assert bound is None or bound <= best, seed
        assert cost >= best, seed
        if method != "alternating":
            assert cost == best == bound, (seed, cost, best, bound)
            proven += solution.status.termination == "optimal"
    assert method == "alternating" or proven > 20


def test_larger_instances_agree_and_keep_bounds() -> None:
    for seed in range(12):
        instance = joint(seed, max_variables=40)
        try:
            found = [moeplace.solve(instance, method, seed=1, time_limit=LIMIT) for method in METHODS]
        except NoSolutionError:
            continue
        costs = [cost_ns(instance, s.placement_on(instance)) for s in found]
        bounds = [s.objective.bound_ns for s in found if s.objective.bound_ns is not None]
        assert all(moeplace.check(instance, s).ok for s in found), seed
        assert max(bounds) <= min(costs), seed
        assert costs[0] == costs[1] <= costs[2], seed


# --- beginnings, refusals, limits ----------------------------------------------------------------------------------


def test_a_start_is_never_lost() -> None:
    for seed in range(20):
        instance = joint(seed)
        try:
            best = moeplace.solve(instance, "auto", time_limit=LIMIT)
        except NoSolutionError:
            continue
        for method in METHODS:
            again = moeplace.solve(instance, method, start=best, time_limit=LIMIT)
            assert cost_ns(instance, again.placement_on(instance)) == cost_ns(instance, best.placement_on(instance))


def test_instances_without_a_choice_are_refused_by_alternating() -> None:
    raw = document(3)
    del raw["active"]
    with pytest.raises(MethodLimitError, match="the instance leaves no number of active experts open"):
        moeplace.solve(Instance.from_document(raw), "alternating")


def test_a_budget_that_leaves_no_choice_is_the_problem_without() -> None:
    compared = 0
    for seed in range(40):
        raw = document(seed, max_variables=12)
        for table in raw["active"]["loss"].values():
            for losses in table:
                losses[:] = [len(losses) - k for k in range(1, len(losses) + 1)]
        raw["active"]["budget"] = 0
        instance = Instance.from_document(raw)
        try:
            solution = moeplace.solve(instance, "auto", seed=1, time_limit=LIMIT)
        except NoSolutionError:
            continue
        whole = moeplace.solve(instance.cut(instance.block_top_k), "auto", seed=1, time_limit=LIMIT)
        assert solution.placement == whole.placement, seed
        assert solution.objective.bound_ns == whole.objective.bound_ns, seed
        compared += 1
    assert compared > 20


# --- bounds and limits ---------------------------------------------------------------------------------------------


def judged(instance: Instance, search: Incumbent, optimum: int, told: object) -> None:
    assert search.placement.fits(instance), told
    assert search.latency_ns == cost_ns(instance, search.placement), told
    assert search.bound_ns is None or search.bound_ns <= optimum <= search.latency_ns, told
    assert search.failures == [], told


def solvable(seeds: Iterable[int]) -> Iterator[tuple[int, Instance, int]]:
    """Yield seed, instance and optimum of those that have a solution and leave something open."""
    for seed in seeds:
        raw = document(seed)
        optimum = brute_force_joint(raw)
        if optimum is not None:
            yield seed, Instance.from_document(raw), optimum


def test_concave_bounds_hold_and_say_something() -> None:
    tuning = joint_proving.Tuning(layers=joint_layers.Tuning(most_shares=0))
    better, near = 0, 0
    for seed, instance, optimum in solvable(range(60)):
        with stopping(None) as stop:
            search = caching_incumbent(instance, stop)
            forms = JointForms(instance)
            search.prove(instance.baseline_ns - forms.most_saving, "everything")
            before = search.bound_ns
            JointProving(forms, search, tuning).run(1)
        judged(instance, search, optimum, seed)
        assert before is not None
        assert search.bound_ns is not None
        better += search.bound_ns > before
        near += search.bound_ns * 10 > optimum * 9
    assert better > 5
    assert near > 10


@pytest.mark.parametrize("method", ["auto", "layer-enumeration", "alternating"])
def test_interrupted_at_any_moment_the_best_is_kept(method: str) -> None:
    instance = joint(6)
    for moment in (1, 2, 3):
        seen: list[int] = []

        def interrupt(progress: Progress, moment: int = moment, seen: list[int] = seen) -> None:
            assert progress.latency_ns is not None
            seen.append(progress.latency_ns)
            if len(seen) == moment:
                signal.raise_signal(signal.SIGINT)

        solution = moeplace.solve(instance, method, seed=1, progress=interrupt, time_limit=LIMIT)
        assert moeplace.check(instance, solution).ok
        cost = cost_ns(instance, solution.placement_on(instance))
        assert cost <= min(seen)
        assert solution.objective.bound_ns is None or solution.objective.bound_ns <= cost
        assert len(seen) < moment or solution.status.termination in ("interrupted", "optimal")


def test_slots_loading_and_coverage_are_kept_with_open_active_experts() -> None:
    """Every feature of version 2 is in some of the instances that are compared with brute force."""
    found = set()
    for seed in range(60):
        raw = document(seed)
        if brute_force_joint(raw) is None:
            continue
        instance = Instance.from_document(raw)
        found |= {
            *(["loading"] if instance.load_block_ns is not None else []),
            *(["coverage"] if instance.coverage is not None else []),
            *(["slots"] if any("layer_slots" in server for server in raw["servers"]) else []),
            *(["open"] if any(len(own) > 1 for own in JointForms(instance).options) else []),
            instance.latency_model,
        }
    assert found == {"loading", "coverage", "slots", "open", "max", "sum"}


def test_alternating_is_never_worse_than_either_order() -> None:
    """Placement first and then the best choice for it; as many experts left out as may be, and then the placement."""
    differs = 0
    for seed in range(40):
        instance = joint(seed, max_variables=24)
        try:
            solution = moeplace.solve(instance, "alternating", time_limit=LIMIT, kicks=0)
        except NoSolutionError:
            continue
        forms, cost = JointForms(instance), cost_ns(instance, solution.placement_on(instance))
        orders = []
        for first in forms.beginnings():
            assert forms.within(first), seed
            climbed = moeplace.solve(instance.cut(first), "local-search", time_limit=LIMIT, kicks=0)
            held = climbed.placement_on(instance.cut(first)).cached
            for active in (first, forms.choice(held)):
                orders.append(cost_ns(instance, Placement(held, active)))
        assert cost <= min(orders), seed
        differs += len(set(orders)) > 1
    assert differs > 2


def test_beginnings_are_the_least_loss_the_fewest_experts_and_one_number_a_model() -> None:
    for seed in range(60):
        instance = joint(seed)
        try:
            forms = JointForms(instance)
        except NoSolutionError:
            continue
        found = [tuple(active.tolist()) for active in forms.beginnings()]
        assert found[0] == tuple(forms.first), seed
        assert len(set(found)) == len(found) <= 2 + len(instance.models), seed
        within = [own for own in itertools.product(*forms.options) if forms.within(np.array(own))]
        assert set(found) <= set(within), seed
        assert min(map(sum, within)) in map(sum, found), seed
