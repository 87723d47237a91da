"""``moeplace replay``: what is kept, gone on with, refused and shown; its report."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_methods

import moeplace
from moeplace.bench.replays import read_replay
from moeplace.caching.replay import POLICIES
from moeplace.cli import main

INSTANCE: dict[str, Any] = {
    "format": "moeplace/instance",
    "version": 2,
    "name": "day_w01",
    "latency_model": "max",
    "models": [{"name": "m", "layers": 1, "experts": 3, "top_k": 2, "expert_bytes": 10}],
    "servers": [{"name": name, "capacity_bytes": 20, "load_bytes_per_s": 10**9} for name in ("near", "far")],
    "demands": [
        {"user": "u", "model": "m", "tokens": 20, "device_ns": 0, "server_ns": [1, 5], "cloud_ns": None},
    ],
    "activations": {"demand": [0], "layer": [0], "experts": [[0, 1]], "count": [20]},
    "loading": {"weight": 2},
}
ROWS = [[[0, 1]], [[0, 1]], [[0, 2]], [[0, 2]], [[1, 2]]]
"""What all twenty tokens of each window use; the near server holds two of three experts, and loading one costs 20."""

EXACT = "small_methods:counted"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for w, experts in enumerate(ROWS, 1):
        document = copy.deepcopy(INSTANCE) | {"name": f"day_w0{w}"}
        document["activations"]["experts"] = experts
        Path(f"w{w}.json").write_text(json.dumps(document))
    small_methods.calls.clear()
    small_methods.interrupt_at[0] = 0
    yield
    small_methods.interrupt_at[0] = 0


FILES = [f"w{w}.json" for w in range(1, 6)]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    result = main(["replay", *arguments])
    captured = capsys.readouterr()
    assert result == code, captured
    return captured.out, captured.err


def plain(out: str) -> Any:
    """Return the document of a run without what differs between two of them."""
    document = json.loads(out)
    for decision in document["decisions"]:
        del decision["wall_s"]
    document["decisions"].sort(key=lambda decision: decision["key"])
    return document | {"run": ""}


def test_numbers_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong pair near costs 5 a token instead of 1: 100 against 20. Changing one expert near costs 20, far too."""
    out, err = run(capsys, *FILES, "--method", EXACT, "-o", "run", "--csv", "t.csv", "--plot", "p.svg", "--json")
    assert err == ""
    said = json.loads(out)
    assert [window["paid"] for window in said["windows"]] == [False, True, True, True, True]
    costs = {name: [p["cost_ns"] for p in said["payments"] if p["policy"] == name] for name in POLICIES}
    latency = {name: [p["latency_ns"] for p in said["payments"] if p["policy"] == name] for name in POLICIES}
    assert latency["stay"] == costs["stay"] == [20, 100, 100, 100]
    # The far server need only hold what the near one has not: at most two are loaded for a change.
    assert latency["always"] == [20, 100, 20, 100]
    assert latency["hindsight"] == [20, 20, 20, 20]
    assert costs["hindsight"][0] == 20
    assert [w["bound_ns"] for w in said["windows"]] == [20, 20, 20, 20, 20]
    for row in said["payments"]:
        assert row["cost_ns"] == row["latency_ns"] + row["loading_ns"]
        assert row["loading_ns"] == 20 * row["moved_experts"]
        assert row["moved_bytes"] == 10 * row["moved_experts"]
        assert row["regret_ns"] == row["cost_ns"] - 20
        assert (row["requests"], row["rows"]) == (40, 20)
        assert row["rows_away"] == (20 if row["latency_ns"] == 100 else 0)
    for row in said["sums"]:
        own = [p for p in said["payments"] if p["policy"] == row["policy"]]
        for key in ("cost_ns", "moved_bytes", "requests_away", "rows_away", "bound_ns", "regret_ns"):
            assert row[key] == sum(p[key] for p in own)
    table = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [(row["window"], row["policy"], int(row["cost_ns"])) for row in table] == [
        *((str(p["window"]), p["policy"], p["cost_ns"]) for p in said["payments"]),
        *(("sum", s["policy"], s["cost_ns"]) for s in said["sums"]),
    ]
    assert Path("p.svg").read_text().startswith("<?xml")
    out, _ = run(capsys, "run")
    assert "no sequence of placements costs less than 1 ns per token in sum (proven)" in out
    assert "20 of 20 payments in run" in out
    assert "5 windows, 4 of them paid; begins with a placement made on day_w01" in out


def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*FILES, "--method", EXACT, "--json"]
    whole = plain(run(capsys, *arguments, "-o", "whole")[0])
    decisions = len(small_methods.calls)
    assert decisions == len(whole["decisions"]) == 5 + 4 + 4
    for at in (1, 6, decisions):
        small_methods.calls.clear()
        small_methods.interrupt_at[0] = at
        folder = f"stopped{at}"
        out, err = run(capsys, *arguments, "-o", folder, code=130)
        assert err == "moeplace replay: interrupted; the same command goes on from here\n"
        assert len(json.loads(out)["decisions"]) == at - 1 == len(list(Path(folder, "solutions").glob("*.json")))
        small_methods.interrupt_at[0] = 0
        with Path(folder, "records.jsonl").open("ab") as file:
            file.write(b'{"key":"free-00')  # a torn line, as the end of a process leaves it
        assert plain(run(capsys, *arguments, "-o", folder)[0]) == whole
        assert len(small_methods.calls) == decisions + 1  # the one that was stopped was made again
        assert plain(run(capsys, folder, "--json")[0]) == whole
        assert len(small_methods.calls) == decisions + 1


def test_policies_and_windows_are_added(capsys: pytest.CaptureFixture[str]) -> None:
    whole = plain(run(capsys, *FILES, "--method", EXACT, "-o", "whole", "--json")[0])
    run(capsys, *FILES[:3], "--method", EXACT, "--policy", "stay,gate", "-o", "run")
    run(capsys, *FILES, "--method", EXACT, "--policy", "gate", "-o", "run")
    out, _ = run(capsys, "run", "--policy", "always,loading,hindsight", "--json")
    found = plain(out)
    assert found["plan"]["policies"] == ["stay", "gate", "always", "loading", "hindsight"]
    by = {(row["window"], row["policy"]): row for row in whole["payments"]}
    assert {(row["window"], row["policy"]): row for row in found["payments"]} == by
    assert found["decisions"] == whole["decisions"]


def test_a_placement_to_begin_with_is_paid_from_the_first_window(capsys: pytest.CaptureFixture[str]) -> None:
    moeplace.solve(moeplace.load("w5.json"), "small_methods:exhaustive").save("now.json")
    arguments = [*FILES[:2], "--method", EXACT, "--start", "now.json", "-o", "run", "--json"]
    said = json.loads(run(capsys, *arguments)[0])
    assert [p["window"] for p in said["payments"]] == [1] * 5 + [2] * 5
    first = {p["policy"]: p["cost_ns"] for p in said["payments"] if p["window"] == 1}
    assert {name: first[name] for name in POLICIES if name != "hindsight"} == dict.fromkeys(list(POLICIES)[:4], 100)
    # All begin alike, so in the first window the bound that counts loading holds for all.
    assert first["hindsight"] == said["windows"][0]["bound_ns"] > said["windows"][1]["bound_ns"] == 20
    Path("now.json").unlink()
    again = json.loads(run(capsys, "run", "--json")[0])
    assert again["payments"] == said["payments"]
    moeplace.solve(moeplace.load("w1.json"), "small_methods:exhaustive").save("now.json")
    assert "was made with start" in run(capsys, *arguments, code=2)[1]
    one = run(capsys, "w1.json", "--method", EXACT, "--start", "now.json", "--policy", "stay", "-o", "one")[0]
    assert "1 of 1 payment in one" in one


def test_what_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    other = copy.deepcopy(INSTANCE)
    other["servers"][1]["capacity_bytes"] = 30
    Path("other.json").write_text(json.dumps(other))
    for arguments, said in (
        (["w1.json", "other.json", "-o", "run"], "other.json: servers[1].capacity_bytes is 30, in the first window 20"),
        (["w1.json", "-o", "run"], "w1.json: one window: the first placement is made on it"),
        (["w1.json", "w2.json"], "Missing option '-o'"),
        (["w1.json", "w2.json", "-o", "run", "--policy", "gat"], "--policy: no policy 'gat'; did you mean 'gate'?"),
        (["w1.json", "w2.json", "-o", "run", "--policy", "gate,gate"], "--policy: gate is given twice"),
        (["w1.json", "w2.json", "-o", "run", "--start", "w1.json"], "w1.json: format: expected"),
        (["w1.json", "w2.json", "-o", "run", "-p", "kicks=3", "--method", "cpsat"], "kicks"),
        (["."], ".: is no run directory of a replay"),
        (["w1.json", "none.json", "-o", "run"], "none.json: cannot be read"),
    ):
        _, err = run(capsys, *arguments, code=2)
        assert said in err, (arguments, err)
        assert err.count("\n") == 1
        assert not Path("run").exists()
    run(capsys, *FILES[:2], "--method", EXACT, "-o", "run")
    for arguments, said in (
        (["run", "--method", "milp"], "--method: is a run directory, whose plan says it"),
        ([*FILES[:2], "--method", EXACT, "--seed", "1", "-o", "run"], "run: was made with seed 0, not 1"),
        (
            ["w1.json", "w3.json", "--method", EXACT, "-o", "run"],
            "was made with window 2 day_w02, which is day_w03 here",
        ),
    ):
        assert said in run(capsys, *arguments, code=2)[1]
    lines = Path("run/records.jsonl").read_text()
    Path("run/records.jsonl").write_text(lines.replace('"latency_ns":20', '"latency_ns":21'))
    assert "says another payment than its decisions give" in run(capsys, "run", code=2)[1]
    Path("run/records.jsonl").write_text(lines.replace('"source":"free-001"', '"source":null'))
    assert "source: expected one of a payment, found null" in run(capsys, "run", code=2)[1]
    assert main(["bench", "run"]) == 2
    assert "moeplace/run" in capsys.readouterr().err


def test_no_placement_and_false_bounds_end_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    for w in (1, 2):
        document = json.loads(Path(f"w{w}.json").read_text())
        for server in document["servers"]:
            server["capacity_bytes"] = 10
        Path(f"small{w}.json").write_text(json.dumps(document))
    _, err = run(capsys, "small1.json", "small2.json", "--method", EXACT, "-o", "run", code=1)
    assert err.startswith("moeplace replay: infeasible: the instance has no solution: window 1 (day_w01): none of all")
    # Whoever calls a bad placement optimal is refuted by a policy that pays less.
    moeplace.solve(moeplace.load("w3.json"), "small_methods:exhaustive").save("good.json")
    liar = [*FILES[:3], "--method", "small_methods:overclaiming", "--policy", "stay,hindsight", "-o", "liar"]
    run(capsys, *liar)
    records = read_replay(Path("liar")).records
    found = next(r for r in records if r.key == "free-003")
    text = (
        Path("liar/records.jsonl")
        .read_text()
        .replace(f'"cost_ns":{found.cost_ns},"bound_ns":{found.bound_ns}', f'"cost_ns":{found.cost_ns},"bound_ns":999')
    )
    Path("liar/records.jsonl").write_text(text)
    _, err = run(capsys, "liar", code=1)
    assert err.startswith("ERROR window ")
    assert "below the bound 999" in err
    assert main(["report", "liar", "-o", "rep"]) == 1
    assert "Bounds that are false" in Path("rep/index.html").read_text()


def test_the_report_of_a_replay(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, *FILES, "--method", EXACT, "-o", "run")
    assert main(["report", "run", "-o", "rep"]) == 0
    assert capsys.readouterr().out == "20 payments, 5 files written to rep\n"
    page = Path("rep/index.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert page.count("<tr>") == 2 + 20 + 5
    markdown = Path("rep/index.md").read_text()
    assert "| sum | hindsight |" in markdown
    assert Path("rep/replay.csv").read_text().count("\n") == 26
    assert main(["report", "run", "run", "-o", "rep"]) == 2
    assert "is a replay, which is reported alone" in capsys.readouterr().err


def test_free_loading_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for w in (1, 2):
        document = json.loads(Path(f"w{w}.json").read_text())
        del document["loading"]
        for server in document["servers"]:
            del server["load_bytes_per_s"]
        Path(f"free{w}.json").write_text(json.dumps(document))
    _, err = run(capsys, "free1.json", "free2.json", "--method", EXACT, "-o", "run")
    assert err == "note: loading is free here (no load_bytes_per_s): gate and loading have nothing to weigh\n"
