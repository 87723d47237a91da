"""Placement and active experts together: exact methods against brute force, the terms of all choices against each."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_instances import brute_force_joint, random_joint_document

import moeplace
from moeplace import Instance, Placement
from moeplace.base.errors import InputError, MethodLimitError, NoSolutionError
from moeplace.caching.evaluation import latency_ns
from moeplace.caching.formulations import export, placement_of_values, refuses
from moeplace.caching.open_terms import open_problem
from moeplace.caching.terms import aggregate


def feasible(seeds: range, max_variables: int = 8, **options: Any) -> list[tuple[int, Instance]]:
    """Return the random instances with a choice within the budget."""
    found = []
    for seed in seeds:
        document = random_joint_document(np.random.default_rng(seed), max_variables, **options)
        instance = Instance.from_document(document)
        assert instance.choices is not None
        if instance.choices.shortage is None:
            found.append((seed, instance))
    return found


def any_choice(instance: Instance, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    assert instance.choices is not None
    return np.array([rng.choice(numbers) for numbers in instance.choices.useful], dtype=np.int64)


@pytest.mark.parametrize("method", ["milp", "cpsat"])
def test_exact_methods_find_the_best_of_all_placements_and_choices(method: str) -> None:
    found = none = fewer = 0
    seeds = range(250) if method == "milp" else range(250, 500)
    for seed in seeds:
        document = random_joint_document(np.random.default_rng(seed), max_variables=7)
        best = brute_force_joint(document)
        instance = Instance.from_document(document)
        if best is None:
            none += 1
            with pytest.raises(NoSolutionError):
                moeplace.solve(instance, method)
            continue
        solution = moeplace.solve(instance, method)
        assert (solution.value, solution.bound) == (best, best), seed
        assert solution.status.solution == "optimal", seed
        report = moeplace.check(instance, solution)
        assert report.ok, (seed, report.violations)
        active = solution.placement_on(instance).active
        assert active is not None
        fewer += int((active < instance.block_top_k).any())
        found += 1
    assert found > 80
    assert none > 50
    assert fewer > 40


def test_the_terms_of_all_choices_are_those_of_each() -> None:
    shared = limited = 0
    for seed, instance in feasible(range(150), max_variables=14):
        rng = np.random.default_rng(seed)
        problem = open_problem(instance)
        assert all(piece.weight > 0 for piece in problem.pieces), seed
        assert {piece.term for piece in problem.pieces} == set(range(problem.terms.n_terms)), seed
        for _ in range(3):
            cached = rng.random((len(instance.servers), instance.n_items)) < 0.6
            placement = Placement(cached, any_choice(instance, rng))
            if placement.uncovered(instance):
                continue
            covered, satisfied, made, parts = problem.satisfied(placement)
            assert made.sum() == instance.n_blocks, seed
            cost = problem.constant + sum(itertools.compress(problem.open.extra, made))
            cost -= sum(piece.weight for piece in itertools.compress(problem.pieces, satisfied))
            assert cost == latency_ns(instance, placement), seed
            assert parts.sum() == covered[list(problem.open.split)].sum(), seed
            assert instance.choices is not None
            lost = sum(itertools.compress(problem.open.loss, made)) - problem.open.spare
            assert lost == instance.choices.loss(placement.active) - instance.choices.budget, seed
        shared += sum(piece.choices is None or len(piece.choices) > 1 for piece in problem.pieces)
        limited += sum(piece.choices is not None for piece in problem.pieces)
    assert shared > 50
    assert limited > 50


def test_what_is_saved_whatever_is_chosen_needs_no_choice() -> None:
    """Rows of one expert are the same with every number of active experts: no limit and no difference."""
    document = random_joint_document(np.random.default_rng(3), latency_model="max")
    document["activations"]["experts"] = [experts[:1] for experts in document["activations"]["experts"]]
    document["active"]["budget"] = 10**6
    instance = Instance.from_document(document)
    problem, plain = open_problem(instance), aggregate(instance.first_cut)
    assert [piece.choices for piece in problem.pieces] == [None] * plain.n_terms
    assert not problem.open.split
    assert not any(problem.open.extra)
    assert len(problem.open.choices) > instance.n_blocks


def test_with_one_choice_it_is_the_problem_without() -> None:
    """The budget leaves one number for each layer: same terms, same optimum as the instance that is cut to it."""
    compared = 0
    for seed, instance in feasible(range(120)):
        choices = instance.choices
        assert choices is not None
        if any(len(useful) > 1 for useful in choices.useful):
            continue
        cut = instance.cut(choices.first)
        problem, plain = open_problem(instance), aggregate(cut)
        assert not problem.open.split, seed
        assert problem.constant == cut.baseline_ns, seed
        assert sorted(piece.weight for piece in problem.pieces) == sorted(plain.term_weight.tolist()), seed
        try:
            joint = moeplace.solve(instance, "milp")
        except NoSolutionError:
            with pytest.raises(NoSolutionError):
                moeplace.solve(cut, "milp")
            continue
        assert joint.value == moeplace.solve(cut, "milp").value, seed
        # A method that knows nothing of it proves the same, since there is nothing to choose.
        layers = moeplace.solve(instance, "milp-textbook")
        assert (layers.value, layers.bound) == (joint.value, joint.bound), seed
        compared += 1
    assert compared > 5


def test_no_bound_is_above_a_placement_on_larger_instances() -> None:
    compared = 0
    for seed, instance in feasible(range(10), max_variables=30):
        values, bounds = {}, {}
        for method in ("milp", "cpsat", "local-search", "layer-enumeration"):
            try:
                solution = moeplace.solve(instance, method, time_limit=20)
            except NoSolutionError:
                continue
            assert moeplace.check(instance, solution).ok, (seed, method)
            values[method], bounds[method] = solution.value, solution.bound
        if not values:
            continue
        for method, bound in bounds.items():
            assert bound is None or bound <= min(values.values()), (seed, method)
        assert values["milp"] == bounds["milp"] == values["cpsat"] == bounds["cpsat"], seed
        compared += 1
    assert compared > 3


def test_a_start_is_never_lost_and_loading_and_slots_are_kept() -> None:
    for seed, instance in feasible(range(40)):
        try:
            begin = moeplace.solve(instance, "popular")
        except NoSolutionError:
            continue
        for method in ("milp", "cpsat"):
            solution = moeplace.solve(instance, method, start=begin, time_limit=0)
            assert solution.value <= begin.value, (seed, method)
            assert moeplace.check(instance, solution).ok, (seed, method)


def test_exported_models_are_read_back_with_the_choice(tmp_path: Path) -> None:
    _, instance = next((seed, i) for seed, i in feasible(range(60)) if _solved(i) is not None)
    solution = _solved(instance)
    assert solution is not None
    export(instance, "milp", tmp_path / "m.lp")
    text = (tmp_path / "m.lp").read_text()
    placement = solution.placement_on(instance)
    values = {f"x({n}_{i})": 1.0 for n, i in np.argwhere(placement.cached).tolist()}
    values |= {f"uses({b}_{k})": 1.0 for b, k in enumerate(placement.active.tolist())}
    assert all(name in text for name in values if name.startswith("uses"))
    back = placement_of_values(instance, values)
    assert (back.cached == placement.cached).all()
    assert (back.active == placement.active).all()
    block, k = 0, int(placement.active[0])
    for changes, why in (
        ({f"uses({block}_{k})": 0.0}, "there can be 1 to"),
        ({f"uses({block}_{k})": 0.5}, "neither 0 nor 1"),
        ({f"uses({block}_{k + 1})": 1.0}, "the layer uses"),
        ({f"uses({instance.n_blocks}_1)": 1.0}, "layers"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            placement_of_values(instance, values | changes)
    with pytest.raises(MethodLimitError, match="only milp and cpsat"):
        export(instance, "milp-textbook", tmp_path / "t.lp")
    assert refuses("milp")(instance) is None


def _solved(instance: Instance) -> Any:
    try:
        return moeplace.solve(instance, "milp")
    except NoSolutionError:
        return None


def test_the_largest_losses_and_costs_that_there_can_be() -> None:
    """CP-SAT takes sums below 2**62 only: beyond, its model is a relaxation, and what it says still holds."""
    checked = 0
    for seed in range(30):
        document = random_joint_document(np.random.default_rng(seed), max_variables=6)
        losses = document["active"]["loss"]
        layers = sum(map(len, losses.values()))
        scale = (2**63 - 1) // (10 * layers)
        document["active"] = {
            "loss": {name: [[loss * scale + 1 for loss in layer] for layer in table] for name, table in losses.items()},
            "budget": document["active"]["budget"] * scale + layers,
        }
        best = brute_force_joint(document)
        if best is None:
            continue
        instance = Instance.from_document(document)
        for method in ("milp", "cpsat"):
            solution = moeplace.solve(instance, method, time_limit=20)
            assert moeplace.check(instance, solution).ok, (seed, method)
            assert solution.bound is None or solution.bound <= best <= solution.value, (seed, method)
            checked += solution.value == best
    assert checked > 10
