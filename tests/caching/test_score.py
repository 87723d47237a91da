"""moeplace score: a placement on another instance, its numbers against evaluation by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import moeplace
from moeplace.base.errors import InputError
from moeplace.caching.scoring import Reference, Score, score
from moeplace.cli import main

DAY: dict[str, Any] = {
    "format": "moeplace/instance",
    "version": 1,
    "name": "today",
    "latency_model": "max",
    "models": [{"name": "m", "layers": 1, "experts": 4, "top_k": 2, "expert_bytes": 10}],
    "servers": [{"name": "s", "capacity_bytes": 20}],
    "demands": [
        {"user": "u", "model": "m", "tokens": 100, "device_ns": 0, "server_ns": [1000], "cloud_ns": 5000},
        {"user": "v", "model": "m", "tokens": 100, "device_ns": 0, "server_ns": [None], "cloud_ns": 7000},
    ],
    "activations": {
        "demand": [0, 0, 1], "layer": [0, 0, 0], "experts": [[0, 1], [2, 3], [0, 1]], "count": [60, 40, 100],
    },
}  # fmt: skip


def next_day(**changes: Any) -> dict[str, Any]:
    document = copy.deepcopy(DAY)
    document["name"] = "tomorrow"
    document["activations"]["count"] = [30, 70, 100]
    return {**document, **changes}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("today.json").write_text(json.dumps(DAY))
    Path("tomorrow.json").write_text(json.dumps(next_day()))
    moeplace.solve(moeplace.load("today.json"), "cpsat").save("solution.json")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["score", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_numbers_by_hand(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Today experts 0 and 1 are cached (60 tokens); tomorrow 2 and 3 would be better (70 tokens)."""
    out, _ = run(capsys, "tomorrow.json", "solution.json", "--method", "cpsat", "--json")
    said = json.loads(out)
    baseline = 100 * 5000 + 100 * 7000
    here, best = 30 * 1000 + 70 * 5000 + 700_000, 70 * 1000 + 30 * 5000 + 700_000
    assert (said["latency_ns"], said["baseline_ns"]) == (here, baseline)
    assert (said["reference_latency_ns"], said["reference_by"], said["bound_ns"]) == (best, "cpsat", best)
    assert said["regret_ns"] == here - best == 160_000
    assert said["saving"] == (baseline - here) / baseline
    assert said["saving_lost"] == 160_000 / (baseline - best)
    assert said["gap"] == 160_000 / here
    assert said["solution"]["saving"] == 60 * 4000 / baseline
    assert said["solution"]["instance"]["name"] == "today"


def test_the_table_says_the_same(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "tomorrow.json", "solution.json", "--method", "cpsat")
    assert "made for today by cpsat; saved 20.00 % there" in out
    assert "6 µs → 5.4 µs per token, 10.00 % saved here" in out
    assert "cpsat: 4.6 µs per token, 23.33 % saved" in out
    assert "800 ns per token, 57.14 % of what cpsat saves" in out
    assert "no placement here is below 4.6 µs per token (cpsat)" in out
    out, _ = run(capsys, "today.json", "solution.json")
    assert "made for this very instance" in out
    assert "nothing to compare with" in out
    assert "no bound" in out


def test_best_known_beside_the_instance_counts_if_it_is_of_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tomorrow = moeplace.load("tomorrow.json")
    entry = {
        "sha256": tomorrow.sha256, "latency_ns": 920_000, "bound_ns": 900_000, "optimal": False,
        "latency_method": "x", "bound_method": "y", "version": "0", "date": "2026-11-22",
    }  # fmt: skip
    Path("best_known.json").write_text(json.dumps({"tomorrow": entry}))
    said = json.loads(run(capsys, "tomorrow.json", "solution.json", "--json")[0])
    assert (said["reference_latency_ns"], said["bound_ns"], said["regret_ns"]) == (920_000, 900_000, 160_000)
    Path("best_known.json").write_text(json.dumps({"tomorrow": {**entry, "sha256": "0" * 64}}))
    said = json.loads(run(capsys, "tomorrow.json", "solution.json", "--json")[0])
    assert said["reference_latency_ns"] is None
    Path("best_known.json").write_text(
        json.dumps({"tomorrow": {**entry, "latency_ns": 1_200_000, "bound_ns": 1_100_000}})
    )
    out, error = run(capsys, "tomorrow.json", "solution.json", code=1)
    assert "below the bound 1100000 of best_known.json: one of them is wrong" in error
    assert "better than best_known.json by" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"servers": [{"name": "t", "capacity_bytes": 20}]}, "placement[0].server: the instance has no server 's'"),
        ({"servers": [{"name": "s", "capacity_bytes": 19}]}, "server 's' holds 20 bytes, its capacity is 19"),
        (
            {"models": [{**DAY["models"][0], "name": "n"}], "demands": [{**d, "model": "n"} for d in DAY["demands"]]},
            "placement[0].model: the instance has no model 'm'",
        ),
    ],
)
def test_other_servers_or_models_are_one_line(
    change: dict[str, Any], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other.json").write_text(json.dumps(next_day(**change)))
    _, error = run(capsys, "other.json", "solution.json", code=2)
    assert error.startswith("moeplace score: solution.json: ")
    assert message in error
    assert "(scored on other.json)" in error
    assert error.count("\n") == 1


def test_fewer_experts_are_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {
        "models": [{**DAY["models"][0], "experts": 1, "top_k": 1}],
        "activations": {"demand": [], "layer": [], "experts": [], "count": []},
    }
    Path("other.json").write_text(json.dumps(next_day(**small)))
    assert "no expert [0, 1], the model has" in run(capsys, "other.json", "solution.json", code=2)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time-limit", "5"], "--method is missing"),
        (["-p", "kicks=3"], "--method is missing"),
        (["--method", "nonesuch"], "nonesuch"),
        (["--method", "greedy", "-p", "kicks=3"], "kicks"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_bad_usage(arguments: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, error = run(capsys, "today.json", "solution.json", *arguments, code=2)
    assert message in error
    assert error.count("\n") == 1


def test_the_function_checks_capacities_and_does_without_references() -> None:
    today = moeplace.Instance.from_document(DAY)
    placement = moeplace.solve(today, "greedy").placement_on(today)
    assert score(today, placement).latency_ns == moeplace.latency_ns(today, placement)
    assert score(today, placement).regret_ns is None
    tight = moeplace.Instance.from_document({**DAY, "servers": [{"name": "s", "capacity_bytes": 0}]})
    full = moeplace.solve(today, "cpsat").placement_on(today)
    with pytest.raises(InputError, match="holds 20 bytes"):
        score(tight, full)


def test_nothing_to_save_is_no_division_by_zero() -> None:
    result = Score(0, 0, (Reference("x", 0, 0),))
    assert (result.saving, result.saving_lost, result.gap, result.regret_ns) == (0.0, None, 0.0, 0)


def test_loading_and_coverage_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the servers of the other day do not hold is loaded, at its price; an expert that is nowhere is refused."""
    document = next_day(version=2, loading={"weight": 3})
    held = {"model": "m", "experts": [[0, 0]]}
    document["servers"] = [{"name": "s", "capacity_bytes": 40, "load_bytes_per_s": 2, "holds": [held]}]
    del document["demands"][1]
    document["activations"] = {"demand": [0], "layer": [0], "experts": [[0, 1]], "count": [5]}
    instance = moeplace.Instance.from_document(document)
    placement = moeplace.Placement.from_pairs(instance, [(0, 0), (0, 1)])
    found = score(instance, placement, [Reference("other", 20_000, 10_000)])
    assert (found.latency_ns, found.loading_ns, found.cost_ns) == (5000, 15 * 10**9, 15 * 10**9 + 5000)
    assert (found.regret_ns, found.gap) == (15 * 10**9 - 15_000, (15 * 10**9 - 5000) / (15 * 10**9 + 5000))
    assert found.document()["cost_ns"] == found.cost_ns
    document["demands"][0]["cloud_ns"] = None
    with pytest.raises(InputError, match=r"\[0, 2\] of 'm' is on none of 's'"):
        score(moeplace.Instance.from_document(document), placement)
