"""The formulations: what their relaxations prove, what the optional rows may cut off, what other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highspy
import numpy as np
import pyomo.environ as pyo
import pytest
from cases import looped
from random_instances import all_placements, brute_force, random_document, random_instance

import moeplace
from moeplace import InputError, Instance, Placement
from moeplace.base.registry import find_formulation
from moeplace.caching.formulations import export
from moeplace.caching.terms import aggregate
from moeplace.solvers.highs import compile_model

FORMULATIONS = [("milp", {"rlt": False}), ("milp", {"rlt": True}), ("milp-textbook", {})]


def linear_program(matrix: Any) -> highspy.Highs:
    """Return HiGHS with a compiled model, all columns continuous, token-ns."""
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    none = np.zeros(0, dtype=np.int32)
    for j, cost in enumerate(matrix.cost):
        highs.addCol(float(cost) * matrix.column_unit[j], matrix.lower[j], matrix.upper[j], 0, none, [])
    start = matrix.rows.indptr
    for r, (lower, upper) in enumerate(zip(matrix.row_lower, matrix.row_upper, strict=True)):
        part = slice(start[r], start[r + 1])
        index = matrix.rows.indices[part].astype(np.int32)
        highs.addRow(lower, upper, len(index), index, matrix.rows.data[part].astype(float))
    return highs


def relaxed(instance: Instance, name: str, **options: Any) -> float:
    """Return the optimum of the LP relaxation, token-ns."""
    matrix = compile_model(find_formulation(name)(instance, **options))
    if not matrix.columns:
        return float(matrix.constant)
    highs = linear_program(matrix)
    highs.run()
    assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return float(highs.getInfo().objective_function_value + matrix.constant)


@looped("seed", range(40))
def test_relaxations_in_order(seed: int) -> None:
    """Textbook <= aggregated <= aggregated with RLT rows <= optimum."""
    instance = random_instance(seed, 14)
    optimum = brute_force(instance)
    bounds = [relaxed(instance, "milp-textbook"), *(relaxed(instance, "milp", rlt=rlt) for rlt in (False, True))]
    slack = 1e-6 * max(instance.baseline_ns, 1)
    assert bounds[0] <= bounds[1] + slack
    assert bounds[1] <= bounds[2] + slack
    assert bounds[2] <= optimum + slack


def test_the_aggregated_relaxation_is_stronger_and_rlt_stronger_still() -> None:
    gains = np.zeros(2)
    for seed in range(40):
        instance = random_instance(seed, 14, "max")
        bounds = [relaxed(instance, "milp-textbook"), *(relaxed(instance, "milp", rlt=rlt) for rlt in (False, True))]
        gains += np.diff(bounds) > 1e-3 * max(instance.baseline_ns, 1)
    assert gains[0] > 3
    assert gains[1] > 3


@pytest.mark.parametrize(("name", "options"), FORMULATIONS)
@looped("seed", range(12))
def test_every_placement_is_a_solution_of_the_model_with_its_cost(
    seed: int, name: str, options: dict[str, bool]
) -> None:
    """With the binaries fixed, the model's optimum is the exact cost: no row cuts off a placement."""
    instance = random_instance(seed, 7)
    model = find_formulation(name)(instance, **options)
    matrix = compile_model(model)
    column = {id(v): j for j, v in enumerate(matrix.columns)}
    highs = linear_program(matrix)
    for cached in list(all_placements(instance))[:12]:
        placement = Placement(np.array(cached).reshape(len(instance.servers), instance.n_items))
        for (n, i), variable in model.x.items():
            if id(variable) in column:
                value = float(placement.cached[n, i])
                highs.changeColBounds(column[id(variable)], value, value)
        highs.run()
        cost = matrix.constant + (highs.getInfo().objective_function_value if matrix.columns else 0)
        assert cost == pytest.approx(moeplace.latency_ns(instance, placement), rel=1e-9, abs=1e-6)


@looped("seed", range(25))
def test_rlt_rows_leave_the_optimum(seed: int) -> None:
    instance = random_instance(seed, 14, "max")
    solution = moeplace.solve(instance, "milp", rlt=True)
    assert (solution.objective.latency_ns, solution.objective.bound_ns) == (brute_force(instance),) * 2
    assert solution.parameters == {"rlt": True}


@pytest.mark.parametrize("name", ["milp", "milp-textbook"])
@pytest.mark.parametrize("suffix", [".mps", ".lp"])
def test_exported_models_have_our_optimum(name: str, suffix: str, tmp_path: Path) -> None:
    for seed in range(8):
        instance = random_instance(seed, 14)
        if not aggregate(instance).n_terms:
            continue
        path = tmp_path / f"model{seed}{suffix}"
        export(instance, name, path)
        highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("mip_rel_gap", 0.0)
        assert highs.readModel(str(path)) == highspy.HighsStatus.kOk
        highs.run()
        assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        # Pyomo writes the constant of the objective as a column fixed to 1.
        assert highs.getInfo().objective_function_value == pytest.approx(brute_force(instance), abs=0.4)


def test_exports_name_what_they_cannot_do(tmp_path: Path) -> None:
    instance = random_instance(0)
    with pytest.raises(InputError, match=r"must end in \.mps or \.lp, found '\.txt'"):
        export(instance, "milp", tmp_path / "model.txt")
    with pytest.raises(InputError, match="cpsat is not an algebraic model"):
        export(instance, "cpsat", tmp_path / "model.mps")
    with pytest.raises(InputError, match="no model 'nothing'; there are cpsat, milp, milp-textbook"):
        export(instance, "nothing", tmp_path / "model.mps")
    assert not list(tmp_path.iterdir())


@looped("seed", range(20))
def test_compiled_models_keep_integers_and_have_powers_of_two_as_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    document = random_document(rng, 14)
    for demand in document["demands"]:
        demand["tokens"] = 2**62
    rows = document["activations"]
    rows["count"] = [2**53 + c for c in rows["count"]] if len(rows["count"]) < 9 else rows["count"]
    document["demands"] = [
        {**d, "cloud_ns": 3, "server_ns": [t and 1 for t in d["server_ns"]]} for d in document["demands"]
    ]
    instance = Instance.from_document(document)
    problem = aggregate(instance)
    matrix = compile_model(find_formulation("milp")(instance))
    assert all(type(cost) is int for cost in matrix.cost)
    assert matrix.constant == instance.baseline_ns
    assert -sum(matrix.cost) == problem.total_weight
    for name, options in FORMULATIONS:
        matrix = compile_model(find_formulation(name)(instance, **options))
        assert (np.frexp(matrix.column_unit)[0] == 0.5).all()
        assert matrix.upper.max(initial=0) <= 1
        assert abs(matrix.rows.data).max(initial=0) <= 2**10


def test_servers_that_cannot_help_have_no_variables() -> None:
    document = random_document(np.random.default_rng(0))
    document["servers"] = [{"name": "near", "capacity_bytes": 99}, {"name": "far", "capacity_bytes": 99}]
    demand = {"user": "u", "model": "m0", "tokens": 60, "device_ns": 0, "server_ns": [1, 9], "cloud_ns": 9}
    document["demands"] = [demand]
    document["activations"] = {"demand": [0], "layer": [0], "experts": [[0]], "count": [3]}
    instance = Instance.from_document(document)
    assert list(find_formulation("milp")(instance).x) == [(0, 0)]
    assert list(find_formulation("cpsat")(instance).x) == [(0, 0)]
    assert pyo.value(len(find_formulation("milp-textbook")(instance).x)) == 2
