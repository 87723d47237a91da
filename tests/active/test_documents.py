"""Documents of active experts: what is refused and where, what comes back, and wrong solutions that are found out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from active_instances import TOY, every_choice, instance
from jsonschema import Draft202012Validator

import moeplace
from moeplace.active.front import Front, Tuning, front
from moeplace.active.instance import Instance
from moeplace.base.documents import INT64_MAX
from moeplace.problems import find_problem
from moeplace.schemas import read_schema

BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    'model.top_k: expected at most the 4 experts of a layer, found 5': lambda d: d["model"].update(top_k=5),
    "time_ns: expected a list for each of 2 layers, found 1": lambda d: d["time_ns"].pop(),
    "loss[1]: expected 3 integers, for 1 to 3 active experts, found [500, 200]": lambda d: d["loss"][1].pop(),
    "time_ns[0][0]: expected an integer >= 0, found -1": lambda d: d["time_ns"][0].__setitem__(0, -1),
    "loss[0][1]: expected an integer, found 0.5": lambda d: d["loss"][0].__setitem__(1, 0.5),
    'expected one of "loss_budget" and "time_budget_ns", found neither': lambda d: d.pop("loss_budget"),
    'expected one of "loss_budget" and "time_budget_ns", found both': lambda d: d.update(time_budget_ns=1),
    "loss_budget: expected an integer, found null": lambda d: d.update(loss_budget=None),
    "tokens_per_step: expected an integer >= 1, found 0": lambda d: d.update(tokens_per_step=0),
    'the key "fixed_ns" is missing': lambda d: d.pop("fixed_ns"),
    'unknown key "budget"': lambda d: d.update(budget=3),
    'model: unknown key "width"': lambda d: d["model"].update(width=3),
    f"time_ns: a step may take {INT64_MAX + 170} ns": lambda d: d.update(fixed_ns=INT64_MAX - 10),
    "loss: layers may lose": lambda d: d["loss"][0].__setitem__(0, INT64_MAX),
    "time_ns: expected a list of length >= 1, found []": lambda d: (d.update(time_ns=[])),
}  # fmt: skip


def test_bad_documents_are_one_line_with_the_place() -> None:
    for said, change in BAD.items():
        document = copy.deepcopy(TOY)
        change(document)
        with pytest.raises(moeplace.InputError) as caught:
            Instance.from_document(document)
        assert said in str(caught.value), (said, str(caught.value))
        assert "\n" not in str(caught.value)


def test_documents_come_back(tmp_path: Path) -> None:
    for seed in range(20):
        one = instance(seed)
        path = tmp_path / f"{seed}.json.gz"
        one.save(path)
        again = moeplace.load(path)
        assert isinstance(again, Instance)
        assert again.document() == one.document(), seed
        assert again.sha256 == one.sha256, seed
        assert (again.time_ns == one.time_ns).all()
        assert not again.time_ns.flags.writeable
        Draft202012Validator(read_schema("active_experts")).validate(one.document())
    noted = Instance.from_document(TOY | {"notes": "", "source": {}})
    assert noted.sha256 != Instance.from_document(TOY).sha256
    assert noted.document() == TOY | {"notes": "", "source": {}}
    other = noted.with_budget(time_ns=120)
    assert (other.minimises, other.budget, other.document()["notes"]) == ("loss", 120, "")
    with pytest.raises(moeplace.InputError, match="found both"):
        noted.with_budget(time_ns=1, loss=1)


def test_solutions_fit_their_schema(tmp_path: Path) -> None:
    toy, validator = Instance.from_document(TOY), Draft202012Validator(read_schema("active_experts_solution"))
    for method in ("auto", "greedy", "uniform"):
        solution = moeplace.solve(toy, method)
        validator.validate(json.loads(solution.to_json()))
        solution.save(tmp_path / "out.json")
        assert moeplace.read_solution(tmp_path / "out.json").document() == solution.document()
    assert not validator.is_valid(solution.document() | {"active_experts": [0, 3]})
    assert not validator.is_valid({k: v for k, v in solution.document().items() if k != "active_experts"})


def test_the_checker_finds_every_broken_rule() -> None:
    problem, tried = find_problem("active-experts"), 0
    for toy in (Instance.from_document(TOY), Instance.from_document(
        {k: v for k, v in TOY.items() if k != "loss_budget"} | {"time_budget_ns": 160})):  # fmt: skip
        good = moeplace.solve(toy).document()
        assert problem.check(toy, problem.read_solution(good), None).ok
        over = "loss_budget: the layers lose 800 of 250" if toy.minimises == "time_ns" else "objective.value: "
        broken: dict[str, Callable[[dict[str, Any]], object]] = {
            "instance.sha256": lambda d: d["instance"].update(sha256="0"),
            "active_experts: 1 numbers for 2 layers": lambda d: d.update(active_experts=[3]),
            "active_experts[1]: 4 active experts, there can be 1 to 3": lambda d: d.update(active_experts=[3, 4]),
            over: lambda d: d.update(active_experts=[1, 1]),
            "objective.value: the solution says": lambda d: d["objective"].update(value=d["objective"]["value"] + 1),
            "objective.time_ns: ": lambda d: d["objective"].update(time_ns=1),
            "objective.loss: ": lambda d: d["objective"].update(loss=d["objective"]["loss"] + 1),
            "objective.tokens_per_s: ": lambda d: d["objective"].update(
                tokens_per_s=d["objective"]["tokens_per_s"] * 1.000001
            ),
            "objective.tokens_per_s: it is missing": lambda d: d["objective"].pop("tokens_per_s"),
            "objective.tokens_per_s: the solution says None": lambda d: d["objective"].update(tokens_per_s=None),
            "objective.reference: ": lambda d: d["objective"].update(reference=1),
            "objective.gap: ": lambda d: d["objective"].update(gap=0.5),
            "objective.bound: ": lambda d: d["objective"].update(bound=d["objective"]["value"] + 1),
            "objective.cost: ": lambda d: d["objective"].update(cost=3),
            "status.solution: ": lambda d: d["status"].update(solution="feasible"),
        }  # fmt: skip
        for said, change in broken.items():
            document = copy.deepcopy(good)
            change(document)
            report = problem.check(toy, problem.read_solution(document), None)
            assert any(line.startswith(said) for line in report.violations), (said, report.violations)
            tried += 1
        document = copy.deepcopy(good)
        document["objective"]["tokens_per_s"] *= 1 + 1e-12  # others print fewer digits
        assert problem.check(toy, problem.read_solution(document), None).ok
    assert tried == 30
    slow = Instance.from_document({k: v for k, v in TOY.items() if k != "loss_budget"} | {"time_budget_ns": 100})
    document = moeplace.solve(slow).document() | {"active_experts": [3, 3]}
    report = problem.check(slow, problem.read_solution(document), None)
    assert "time_budget_ns: the layers take 180 ns of 100" in report.violations


def pareto(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted({p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)})


def test_the_front_is_that_of_all_choices() -> None:
    for seed in range(150):
        one = instance(seed)
        document = one.document()
        every = every_choice(document)
        found = front(one, tuning=Tuning(piece=1 + seed % 7))
        points = list(zip(found.loss.tolist(), found.time_ns.tolist(), strict=True))
        assert points == pareto(list({(loss, time_ns) for _, time_ns, loss in every})), seed
        sums = {chosen: (loss, time_ns) for chosen, time_ns, loss in every}
        assert [sums[tuple(row)] for row in found.active(range(len(found))).tolist()] == points, seed
        _look_up(found, points, seed)


def _look_up(found: Front, points: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for budget in rng.integers(-2, max(max(p) for p in points) + 3, 10).tolist():
        within = [i for i, (loss, _) in enumerate(points) if loss <= budget]
        assert found.at(loss=budget) == (within[-1] if within else None), (seed, budget)
        soon = [i for i, (_, time_ns) in enumerate(points) if time_ns <= budget]
        assert found.at(time_ns=budget) == (soon[0] if soon else None), (seed, budget)
    with pytest.raises(ValueError, match="expected a loss or a time"):
        found.at()


def test_a_front_can_be_stopped() -> None:
    with pytest.raises(InterruptedError):
        front(instance(4), stop=lambda: True)
