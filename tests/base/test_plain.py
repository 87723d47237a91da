"""The common envelope of solutions around a decision: what is written can be read, and what is read is checked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from msgspec import Struct, field

from moeplace import solving
from moeplace.base.documents import Status
from moeplace.base.errors import InputError, MethodError
from moeplace.base.plain import plain_problem
from moeplace.base.result import Finished


class Case:
    """An instance of no problem."""

    name, sha256 = "case", "0" * 64


class Choice(Struct, frozen=True):
    chosen: list[int]


class StrictChoice(Struct, frozen=True, forbid_unknown_fields=True):
    chosen: list[int]


class RenamedChoice(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="renamed"):
    chosen: list[int] = field(name="picked")


def problem(kind: type[Struct] = Choice, **options: Any) -> Any:
    return plain_problem(
        **{
            "name": "p", "instance_format": "p/instance", "solution_format": "p/solution", "instance_type": Case,
            "decision_type": kind, "from_document": lambda document: Case(), "cost": lambda instance, decision: 3,
            "refuses": lambda instance, decision: None, "recompute": lambda instance, decision: ([], 3), **options,
        }
    )  # fmt: skip


def finished(made: Any, decision: Any) -> Any:
    status = Status("optimal", "optimal")
    return made.finish(Case(), Finished(decision, 3, 3, status, "m", None, {}, 0, 1, 0.1, "x", None, {}, {}))


def test_a_decision_that_takes_no_other_keys_is_read_back() -> None:
    for kind in (Choice, StrictChoice, RenamedChoice):
        made = problem(kind)
        solution = finished(made, kind([1]))
        document = json.loads(solution.to_json())
        assert made.read_solution(document) == solution, kind
        assert made.read_solution(document | {"of_a_later_version": 5}) == solution, kind
        with pytest.raises(InputError, match="expected a list"):
            made.read_solution({key: "a" if key in ("chosen", "picked") else said for key, said in document.items()})


def test_a_decision_with_a_key_of_the_envelope_is_refused() -> None:
    class Taken(Struct):
        own: int = field(name="status")

    with pytest.raises(ValueError, match=r"\['status'\] of the decision are keys of every solution"):
        problem(Taken)


def test_every_number_of_the_objective_is_checked() -> None:
    for said in ((1, 2), [1, 2], np.array([1, 2]), np.int64(5), {"a": (1,)}, 0.1, None):
        made = problem(numbers=lambda instance, decision, said=said: {"used": said})
        solution = finished(made, Choice([1]))
        document = json.loads(solution.to_json())
        for held in (solution, made.read_solution(document)):
            assert made.check(Case(), held, None).violations == (), said
        document["objective"]["used"] = 99
        report = made.check(Case(), made.read_solution(document), None)
        assert [line.partition(":")[0] for line in report.violations] == ["objective.used"], said
        del document["objective"]["used"]
        report = made.check(Case(), made.read_solution(document), None)
        assert [line.partition(":")[0] for line in report.violations] == ["objective.used"], said
        document["objective"] |= {"used": json.loads(solution.to_json())["objective"]["used"], "saving_ratio": 99}
        report = made.check(Case(), made.read_solution(document), None)
        assert report.violations == ("objective.saving_ratio: the solution says 99, which is no number of p",), said


def test_a_number_that_no_document_can_hold_is_refused() -> None:
    made = problem(numbers=lambda instance, decision: {"used": object()})
    with pytest.raises(MethodError, match="the problem p says numbers that cannot be written"):
        finished(made, Choice([1]))


def test_amounts_of_numpy_are_plain_numbers_and_fractions_are_refused() -> None:
    made = problem(reference=lambda instance: np.int64(4), recompute=lambda instance, decision: ([], np.int64(3)))
    solution = finished(made, Choice([1]))
    assert made.read_solution(json.loads(solution.to_json())) == solution
    report = made.check(Case(), solution, None)
    assert json.loads(json.dumps(report.document()))["reference"] == 4
    assert report.ok
    with pytest.raises(MethodError, match=r"the problem p says the amount 4\.5, which is no integer"):
        finished(problem(reference=lambda instance: 4.5), Choice([1]))


def test_a_cost_of_numpy_is_solved_as_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for cost, expected in ((np.int64(3), 3), (3.5, None)):
        made = problem(cost=lambda instance, decision, cost=cost: cost)
        monkeypatch.setattr(solving, "problem_of", lambda instance, made=made: made)
        if expected is None:
            with pytest.raises(MethodError, match="is no integer"):
                solving.solve(Case(), f"{__name__}:choose")
        else:
            solution = solving.solve(Case(), f"{__name__}:choose")
            assert json.loads(solution.to_json())["objective"]["value"] == expected


def choose(instance: Case, **options: Any) -> Choice:
    return Choice([1])
