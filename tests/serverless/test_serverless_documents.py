"""Serverless solutions and certificates validate against their schemas and go through the commands of every problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from serverless_instances import random_document, toy

import moeplace
from moeplace import cli
from moeplace.base.errors import NoSolutionError
from moeplace.schemas import read_schema
from moeplace.serverless.bounds.proving import Tuning, solve_layers
from moeplace.serverless.instance import Instance
from moeplace.solving import certified, solve

LAYERS = "moeplace.serverless.methods.layers:layers"


def validate(name: str, document: Any) -> None:
    Draft202012Validator(read_schema(name)).validate(document)


def test_documents_fit_their_schemas() -> None:
    for seed in range(8):
        document = random_document(seed)
        validate("serverless", document)
        instance = Instance.from_document(document)
        try:
            solution, certificate = certified(instance, LAYERS)
        except NoSolutionError:
            continue
        validate("serverless_solution", json.loads(solution.to_json()))
        assert certificate is not None
        assert moeplace.check(instance, solution).ok


def test_large_layers_come_with_a_certificate(tmp_path: Path) -> None:
    from moeplace.base.stop import Stop
    from moeplace.serverless.searching import serverless_incumbent

    instance = Instance.from_document(toy())
    search = serverless_incumbent(instance, None, Stop(None), 0.0, None)
    solve_layers(instance, search, None, 0.0, tuning=Tuning(listed_experts=0))
    made = search.outcome().certificate
    assert callable(made)
    validate("serverless_certificate", json.loads(made().to_json()))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*args: str, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        assert cli.main(args) == code, capfd.readouterr()
        return capfd.readouterr()

    return call


def test_solve_check_info_and_gap(run: Any) -> None:
    Path("toy.json").write_text(json.dumps(toy()))
    out, _ = run("solve", "toy.json", "--method", LAYERS, "-o", "out.json", "--certificate", "proof.json")
    for said in ("toy: 1 layer of 3 experts, top-2", "first token  3.006 s of 8 s", "0 %: proven optimal", "µUSD"):
        assert said in out, out
    assert " valid (recomputed: cost, limits" in run("check", "toy.json", "out.json", "--certificate", "proof.json")[0]
    assert "3 experts" in run("info", "toy.json")[0]
    broken = json.loads(Path("out.json").read_text())
    broken["deployment"]["main_spec"] = 1 - broken["deployment"]["main_spec"]
    Path("broken.json").write_text(json.dumps(broken))
    assert "objective.value" in run("check", "toy.json", "broken.json", code=1)[0]
    broken["deployment"]["layers"][0] = {"spec": 0, "replicas": []}
    Path("broken.json").write_text(json.dumps(broken))
    assert "though there is a specification" in run("check", "toy.json", "broken.json", code=1)[0]
    out, _ = run("gap", "toy.json", "--methods", LAYERS)
    assert "cost µUSD" in out
    Path("none.json").write_text(json.dumps(toy(limits={"ttft_ns": 5}, name="none")))
    out, err = run("solve", "none.json", "--method", LAYERS, "-o", "no.json", code=1)
    assert err.count("\n") == 1
    assert "infeasible: the instance has no solution: with everything local at the largest specification" in err
    assert not Path("no.json").exists()
    Path("late.json").write_text(json.dumps(toy(limits={"tpot_ns": 400_000}, name="late")))
    _, err = run("solve", "late.json", "--method", LAYERS, "-o", "no.json", code=1)
    assert err.count("\n") == 1
    assert "where all other limits are kept, the time of all output tokens is at least" in err


def test_a_start_of_a_file_is_taken(run: Any) -> None:
    Path("toy.json").write_text(json.dumps(toy()))
    run("solve", "toy.json", "--method", "moeplace.serverless.methods.baselines:all_local", "-o", "start.json")
    run("solve", "toy.json", "--method", LAYERS, "--start", "start.json", "-o", "out.json")
    start, out = (moeplace.read_solution(name) for name in ("start.json", "out.json"))
    assert out.value <= start.value == start.reference
    assert solve(moeplace.load("toy.json"), LAYERS, start=start).value == out.value


def test_plot_deployment(run: Any) -> None:
    Path("toy.json").write_text(json.dumps(toy()))
    run("solve", "toy.json", "--method", "moeplace.serverless.methods.baselines:all_remote", "-o", "out.json")
    for picture in ("out.png", "out.svg"):
        run("plot", "deployment", "toy.json", "out.json", "-o", picture)
        assert Path(picture).stat().st_size > 5000
    tiny = str(Path(__file__).resolve().parents[2] / "instances" / "tiny" / "tiny_sum_adds_up.json")
    _, err = run("plot", "deployment", tiny, "out.json", "-o", "no.png", code=2)
    assert "is an instance of caching, not of serverless" in err
    Path("none.json").write_text(json.dumps(toy(limits={"tpot_ns": 5}, name="none")))
    _, err = run("plot", "deployment", "none.json", "out.json", "-o", "no.png", code=2)
    assert "out.json: " in err
    assert err.count("\n") == 1
    assert not Path("no.png").exists()
