"""The checker: accepts what is right, rejects everything else with the place, and shares no code with the rest."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from cases import looped
from mutations import mutations
from random_instances import naive_cost, pairs_of, random_document, random_instance, random_placement

import moeplace
from moeplace import Instance, Outcome, Placement, Solution
from moeplace.caching.checking import check
from moeplace.caching.solution import Assignment
from moeplace.solving import _finish


def finished(instance: Instance, placement: Placement, bound_ns: int | None) -> Solution:
    return _finish(instance, "test", Outcome(placement, bound_ns, bound_ns and "test"), {}, 0, 1, 0.1)


def cases(seed: int) -> list[tuple[Instance, Solution]]:
    """A random placement with its cost, half of it and nothing as its bound."""
    instance = random_instance(seed)
    placement = random_placement(instance, np.random.default_rng(seed))
    cost = moeplace.latency_ns(instance, placement)
    return [(instance, finished(instance, placement, bound)) for bound in (cost, cost // 2, None)]


@looped("seed", range(40))
def test_accepts_what_is_right_and_rejects_every_mutation(seed: int) -> None:
    for instance, solution in cases(seed):
        report = check(instance, solution)
        assert report.ok, report.violations
        assert report.bound == ("none claimed" if solution.objective.bound_ns is None else "claimed, not verified")
        if solution.objective.bound_ns is None:
            continue
        n = 0
        for what, wrong, place in mutations(instance, solution):
            violations = check(instance, wrong).violations
            assert any(line.startswith(place) for line in violations), (what, place, violations)
            assert all("\n" not in line for line in violations)
            n += 1
        assert n > 20


@looped("seed", range(40))
def test_numbers_are_those_of_the_definition(seed: int) -> None:
    document = random_document(np.random.default_rng(seed))
    instance = Instance.from_document(document)
    placement = random_placement(instance, np.random.default_rng(seed))
    report = check(instance, finished(instance, placement, None))
    assert report.latency_ns == naive_cost(document, pairs_of(instance, placement))
    assert report.baseline_ns == naive_cost(document, set())


@looped("seed", range(20))
def test_another_placement_costs_something_else(seed: int) -> None:
    instance = random_instance(seed)
    rng = np.random.default_rng(seed)
    solution = finished(instance, random_placement(instance, rng), None)
    for _ in range(10):
        other = finished(instance, random_placement(instance, rng), None)
        mixed = msgspec.structs.replace(solution, placement=other.placement)
        same = other.objective.latency_ns == solution.objective.latency_ns
        assert check(instance, mixed).ok == same


def test_numbers_without_a_bound_are_refused() -> None:
    instance, solution = cases(1)[2]
    change = msgspec.structs.replace
    wrong = {
        "objective.gap:": change(solution, objective=change(solution.objective, gap=0.0)),
        "objective.saving_ratio:": change(solution, objective=change(solution.objective, saving_ratio=1.0)),
        "bound_source:": change(solution, bound_source="somebody"),
        "status:": change(solution, status=change(solution.status, solution="optimal")),
    }
    wrong["status: "] = change(solution, status=change(solution.status, termination="optimal"))
    for place, bad in wrong.items():
        (line,) = check(instance, bad).violations
        assert line.startswith(place)


def test_one_byte_over_capacity_is_named_with_its_amounts() -> None:
    document = random_document(np.random.default_rng(0))
    document["models"] = [{"name": "m", "layers": 2, "experts": 2, "top_k": 1, "expert_bytes": [2**60, 2**60 + 1]}]
    document["servers"] = [{"name": "s", "capacity_bytes": 2**61 + 1}, {"name": "t", "capacity_bytes": 2**61}]
    document["demands"], document["activations"] = [], {"demand": [], "layer": [], "experts": [], "count": []}
    instance = Instance.from_document(document)
    solution = finished(instance, Placement.from_pairs(instance, [(0, 0), (0, 2)]), 0)
    assert check(instance, solution).ok
    over = msgspec.structs.replace(solution, placement=[Assignment("t", "m", [(0, 0), (1, 0)])])
    (line,) = check(instance, over).violations
    assert line == f"server 't': {2**61 + 1} bytes cached, 1 more than its capacity {2**61}"


def test_every_violation_is_listed_and_an_unknown_name_leaves_the_cost_open() -> None:
    instance, solution = cases(1)[0]
    parts = [*solution.placement, Assignment("nobody", "nothing", [(0, 0)])]
    bad = msgspec.structs.replace(
        solution,
        placement=parts,
        instance=msgspec.structs.replace(solution.instance, sha256="?" * 5000),
        objective=msgspec.structs.replace(solution.objective, baseline_ns=-5),
    )
    report = check(instance, bad)
    assert report.latency_ns is None
    assert [line.partition(":")[0] for line in report.violations] == [
        "instance.sha256",
        f"placement[{len(parts) - 1}].server",
        f"placement[{len(parts) - 1}].model",
        "objective.baseline_ns",
    ]
    assert all(len(line) < 300 for line in report.violations)


def test_a_gap_of_few_digits_is_accepted_and_a_rounded_zero_is_not() -> None:
    instance, solution = cases(2)[1]
    objective = solution.objective
    assert objective.gap is not None
    near = msgspec.structs.replace(objective, gap=float(f"{objective.gap:.12g}"))
    assert check(instance, msgspec.structs.replace(solution, objective=near)).ok
    document = random_document(np.random.default_rng(0))
    document["demands"] = [
        {"user": "u", "model": "m0", "tokens": 2**62, "device_ns": 0, "server_ns": [None], "cloud_ns": 1}
    ]
    document["servers"] = [{"name": "s", "capacity_bytes": 0}]
    document["activations"] = {"demand": [0], "layer": [0], "experts": [[0]], "count": [2**62]}
    instance = Instance.from_document(document)
    solution = finished(instance, Placement.empty(instance), 2**62 - 1)
    assert solution.objective.gap == 2.0**-62
    assert check(instance, solution).ok
    zero = msgspec.structs.replace(solution, objective=msgspec.structs.replace(solution.objective, gap=0.0))
    assert check(instance, zero).violations[0].startswith("objective.gap:")


def test_imports_nothing_that_computes_costs() -> None:
    # What files say, as validated structures; the verifier of certificates is held to the same (test_certificates).
    allowed = {
        "moeplace.caching.document",
        "moeplace.caching.instance",
        "moeplace.caching.solution",
        "moeplace.base.certificates",
        "moeplace.caching.verification",
    }
    tree = ast.parse(inspect.getsource(sys.modules["moeplace.caching.checking"]))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in found if name and name.startswith("moeplace")} == allowed
    code = (
        "import moeplace.caching.checking, sys;"
        "print([m for m in sys.modules if m.split('.')[0] in ('highspy', 'ortools', 'pyomo', 'scipy', 'pandas',"
        " 'moeplace_models') or m.startswith(('moeplace.solv', 'moeplace.caching.method', 'moeplace.caching.terms',"
        " 'moeplace.caching.eval', 'moeplace.base.incumbent'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_recomputes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    instance, solution = cases(3)[0]

    def broken(*args: object) -> int:
        raise AssertionError("the checker called the evaluator")

    for name in ("latency_ns", "Evaluation", "_reach"):
        monkeypatch.setattr(f"moeplace.caching.evaluation.{name}", broken)
    monkeypatch.setattr("moeplace.caching.instance.baseline_ns", broken)
    monkeypatch.setattr("moeplace.caching.terms.aggregate", broken)
    monkeypatch.setattr("moeplace.base.result.relative_gap", broken)
    monkeypatch.setattr("moeplace.base.result.saving_ratio", broken)
    assert check(replace(instance, baseline_ns=-1), solution).ok
