"""The checker of deployments: each broken rule is found, by its name and by how much."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from serverless_instances import TOY, brute_force, random_document, toy

from moeplace.base.documents import Status
from moeplace.base.result import Finished
from moeplace.serverless.checking import recompute
from moeplace.serverless.document import Choices, Deployment, LayerChoice
from moeplace.serverless.instance import Instance
from moeplace.serverless.problem import PROBLEM

LOCAL = (None, [])


def lines(document: dict[str, Any], main: int, *layers: tuple[int | None, list[list[int]]]) -> list[str]:
    choices = Choices(main, [LayerChoice(*layer) for layer in layers])
    return recompute(Instance.from_document(document), Deployment(choices))[0]


def test_each_limit_just_kept_and_just_broken_by_name() -> None:
    far: tuple[int | None, list[list[int]]] = (0, [[1], [2]])
    # The limit's key, a deployment, the smallest value that it keeps, and the line of one less.
    cases: list[tuple[str, str, int, tuple[int | None, list[list[int]]], str]] = [
        ("limits", "ttft_ns", 3_005_900_000, LOCAL, "limits.ttft_ns: 3,005,900,000 ns to the first token, 1 above "),
        ("limits", "tpot_ns", 900_000, LOCAL, "limits.tpot_ns: 3,600,000 ns for 4 output tokens, 4 above 3,599,996"),
        ("platform", "payload_bytes", 8 * 1536, far,
         "platform.payload_bytes: 12,288 bytes that replica 0 of layer 0 is passed, 1 above 12,287"),
        ("platform", "most_replicas", 2, far, "platform.most_replicas: 2 replicas of layer 0, 1 above 1"),
    ]  # fmt: skip
    for section, key, smallest, layer, line in cases:
        assert lines(toy(**{section: {key: smallest}}), 1, layer) == [], key
        (said,) = lines(toy(**{section: {key: smallest - 1}}), 1, layer)
        assert said.startswith(line), said
    # Memory of the main function (three experts, four output tokens) and of a remote one (two, eleven prompt tokens).
    for layer, token_bytes, expert_bytes, line in (
        (LOCAL, 2000, 66_664_000, "specs[0].mb: 200,000,003 bytes of the main function, 3 above 200,000,000"),
        ((0, [[1, 2]]), 2000, 99_989_000,
         "specs[0].mb: 200,000,002 bytes of the remote function of layer 0, 2 above 200,000,000"),
    ):  # fmt: skip
        document = toy(platform={"main_mb": 0}, model={"token_bytes": token_bytes, "expert_bytes": expert_bytes})
        assert lines(document, 0, layer) == []
        document["model"]["expert_bytes"] += 1
        assert lines(document, 0, layer) == [line]


def test_what_is_no_deployment_is_named() -> None:
    cases: dict[str, tuple[int, list[tuple[int | None, list[list[int]]]]]] = {
        "deployment.main_spec: 2 is none of main_specs": (2, [LOCAL]),
        "deployment.layers: 2 of them, the model has 1": (0, [LOCAL, LOCAL]),
        "deployment.layers[0].spec: null, though there are remote experts": (0, [(None, [[1]])]),
        "deployment.layers[0].replicas: none, though there is a specification": (0, [(0, [])]),
        "deployment.layers[0].spec: 7 is none of remote_specs": (0, [(7, [[1]])]),
        "deployment.layers[0].replicas: no expert 3, the model has 3": (0, [(0, [[3]])]),
        "deployment.layers[0].replicas: the expert 1 stands there 2 times": (0, [(0, [[1], [1, 2]])]),
        "deployment.layers[0].replicas[1]: it is empty": (0, [(0, [[1], []])]),
    }
    for line, (main, layers) in cases.items():
        assert lines(TOY, main, *layers) == [line]


def test_every_wrong_number_of_a_solution_is_found() -> None:
    def edit(*path: str, by: Any) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            at = document
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = by(at[path[-1]])

        return change

    edits = {
        "objective.value": edit("objective", "value", by=lambda v: v + 1),
        "objective.reference": edit("objective", "reference", by=lambda v: (v or 0) + 1),
        "objective.ttft_ns": edit("objective", "ttft_ns", by=lambda v: v - 1),
        "objective.tpot_ns": edit("objective", "tpot_ns", by=lambda v: v - 1),
        "objective.bound": edit("objective", "bound", by=lambda v: v + 1),
        "instance.sha256": edit("instance", "sha256", by=lambda v: "0" * 64),
        "status.solution": edit("status", "solution", by=lambda v: "feasible"),
    }
    checked = 0
    for seed in range(40):
        instance = Instance.from_document(random_document(seed))
        best = brute_force(instance)
        if best is None:
            continue
        run = Finished(best[1], best[0], best[0], Status("optimal", "optimal"), "m", None, {}, 0, 1, 0.0, "b", None,
                       {}, {})  # fmt: skip
        document = json.loads(PROBLEM.finish(instance, run).to_json())
        assert PROBLEM.check(instance, PROBLEM.read_solution(document), None).violations == (), seed
        for place, change in edits.items():
            wrong = copy.deepcopy(document)
            change(wrong)
            report = PROBLEM.check(instance, PROBLEM.read_solution(wrong), None)
            assert any(line.startswith(place) for line in report.violations), (seed, place, report.violations)
        checked += 1
    assert checked > 20
