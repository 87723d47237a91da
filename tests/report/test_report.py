"""``moeplace report`` and ``moeplace plot``: what they write, and what they refuse."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import random
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cases import looped
from random_instances import random_document
from run_directories import make_plan, planned, record, solved_run, write_run

import moeplace
from moeplace import Evaluation, Instance, Placement
from moeplace.base.errors import InputError
from moeplace.bench.records import RECORDS, RUN, BenchPlan, KnownValues, PlannedInstance, Record, Run
from moeplace.caching.pictures import block_tokens, item_tokens, lift, pair_tokens
from moeplace.caching.view import ViewsOf, layout
from moeplace.cli import main
from moeplace.library import instance_files, instances_folder
from moeplace.report.collect import collect
from moeplace.report.placements import choose
from moeplace.report.statistics import TARGET, Summary
from moeplace.report.tables import SUMMARY_FIELDS, cells, markdown, summary_csv
from moeplace.report.writing import PAGE, PICTURES, RUN_FIELDS, TITLE, documents, runs_csv, write_report
from moeplace.report.writing import markdown as report_markdown

TINY = instance_files("tiny")
METHODS = ["cpsat", "greedy", "popular", "random"]
Cli = Callable[..., tuple[str, str]]


RUNS = 6 * len(METHODS) * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run directory of real solves on five tiny instances and a small one."""
    paths = [*TINY[:5], instance_files("small")[2]]
    # A limit that nothing reaches, also on a busy machine.
    return solved_run(tmp_path_factory.mktemp("runs") / "run", paths, METHODS, [0, 1], time_limit=60.0)


@pytest.fixture(scope="module")
def written(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of that run."""
    folder = tmp_path_factory.mktemp("written") / "new" / "folder"
    assert main(["report", str(run), "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)

    def call(*args: object, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        result = main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        assert result == code, (out, err)
        return out, err

    return call


def made_up(n: int, **changes: Any) -> list[PlannedInstance]:
    """Make up instances that are nowhere on the disk."""
    base = planned(TINY[0], moeplace.load(TINY[0]))
    fields = {"path": "/nowhere/x.json", "best_known": None, "items": 10, "servers": 2} | changes
    return [msgspec.structs.replace(base, name=f"i{i}", sha256=f"{i:064}", **fields) for i in range(n)]


# --- report ----------------------------------------------------------------------------------------------------


def test_report_writes_everything(run: Path, written: Path) -> None:
    names = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    pictures = {f"pictures/{name}.{kind}" for name in PICTURES for kind in ("png", "svg")}
    assert names == {"index.html", "index.md", "summary.csv", "pairs.csv", "runs.csv"} | pictures
    for name in PICTURES:
        assert (written / f"pictures/{name}.png").read_bytes().startswith(b"\x89PNG")
        ET.parse(written / f"pictures/{name}.svg")
    text = (written / "index.md").read_text()
    assert all(f"(pictures/{name}.svg)" in text for name in PICTURES)
    assert len((written / PAGE).read_bytes()) < 5_000_000
    # All but the page, in which Bokeh draws ids anew, is the same byte for byte when it is written again.
    again = documents(collect([run]), title=TITLE, introduction="", target=TARGET, placements=0, page=False)
    assert {name: (written / name).read_bytes() for name in names if name != PAGE} == again


def test_tables_say_what_the_records_say(run: Path, written: Path) -> None:
    with (written / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == RUN_FIELDS
    assert len(rows) == RUNS
    known = {i.name: i.best_known for i in msgspec.json.decode((run / RUN).read_bytes(), type=Run).instances}
    for row in rows:
        best = known[row["instance"]]
        assert best is not None
        assert best.optimal
        cost = int(row["latency_ns"])
        assert int(row["best_ns"]) == int(row["best_bound_ns"]) == best.latency_ns <= cost
        assert float(row["gap"]) == pytest.approx((cost - best.latency_ns) / cost)
        assert float(row["excess"]) == pytest.approx(cost / best.latency_ns - 1)
        assert 0 <= float(row["primal_integral"]) <= 1
    with (written / "summary.csv").open(newline="") as file:
        summaries = list(csv.DictReader(file))
    assert list(summaries[0]) == SUMMARY_FIELDS
    assert [(s["set"], s["method"]) for s in summaries] == [(s, m) for s in ("tiny", "small") for m in METHODS]
    for line in summaries:
        own = [row for row in rows if (row["set"], row["method"]) == (line["set"], line["method"])]
        assert int(line["runs"]) == int(line["solved"]) == len(own)
        assert float(line["gap_max"]) == max(float(row["gap"]) for row in own)
        assert float(line["gap_mean"]) == pytest.approx(sum(float(row["gap"]) for row in own) / len(own))
    exact = summaries[0]
    assert exact["proven"] == exact["optimal"] == exact["runs"]
    assert exact["gap_max"] == "0.0"


def test_pairs_of_methods_are_in_every_form(tmp_path: Path) -> None:
    plan = make_plan(["a", "b", "=c"], seeds=list(range(6)))
    instances = made_up(7)
    cost = {"a": lambda i, seed: 100, "b": lambda i, seed: 110 + i + seed, "=c": lambda i, seed: 100}
    records = [
        record(i, plan, m, seed, latency_ns=of(n, seed), baseline_ns=400)
        for n, i in enumerate(instances)
        for m, of in cost.items()
        for seed in range(6)
    ]
    collection = collect([write_run(tmp_path / "run", plan, instances, records)])
    out = documents(collection, title=TITLE, introduction="", target=TARGET, placements=0, page=True)
    first, second, third = csv.DictReader(out["pairs.csv"].decode().splitlines())
    expected = {"set": "tiny", "method": "a", "other": "b", "instances": "7", "wins": "7", "ties": "0", "losses": "0"}
    assert {key: first[key] for key in expected} == expected
    assert float(first["p"]) == pytest.approx(2 / 2**7)
    assert (second["other"], second["ties"], second["p"]) == ("'=c", "7", "")
    assert (third["method"], third["wins"], third["losses"]) == ("b", "0", "7")
    text = out["index.md"].decode()
    assert "| method | against | instances | wins | ties | losses | p |" in text
    assert "| a | b | 7 | 7 | 0 | 0 | 0.016 |" in text
    assert "| a | =c | 7 | 0 | 7 | 0 | - |" in text
    page = out[PAGE].decode()
    assert "<summary>Methods in pairs (3)</summary>" in page
    assert re.search(r'<td data-sort="0.015625">0.016</td>', page)
    assert re.search(r'<td data-sort="">-</td></tr>', page)
    # The mean of b is 0.13 and half a seed; seeds are 1 % apart, and its interval is rounded outwards.
    line = {line.method: line for line in collection.summaries()["tiny"]}["b"]
    assert line.excess_interval is not None
    low, high = line.excess_interval
    assert 0.13 <= low < 0.155 < high <= 0.18
    shown = cells(line)[12]
    assert 0 <= 100 * low - float(shown.split()[0]) <= 0.001
    assert 0 <= float(shown.split()[2]) - 100 * high <= 0.001
    (row,) = csv.DictReader(summary_csv([line]).decode().splitlines())
    assert (float(row["excess_low"]), float(row["excess_high"])) == (low, high)
    assert [cells(line)[12] for line in collection.summaries()["tiny"] if line.method != "b"] == ["0 to 0 %"] * 2


def test_what_is_not_known_is_a_dash_in_tables_and_empty_in_csv(tmp_path: Path) -> None:
    plan = make_plan(["lost"])
    (instance,) = made_up(1)
    lost = record(instance, plan, "lost", status="crashed", message="signal 11", wall_s=None)
    folder = write_run(tmp_path / "run", plan, [instance], [lost])
    collection = collect([folder])
    ((line,),) = collection.summaries().values()
    assert cells(line)[6:13] == ["-"] * 7
    assert cells(line)[-1] == "1 crashed"
    assert line.time_s == pytest.approx(plan.time_limit)
    (row,) = csv.DictReader(summary_csv([line]).decode().splitlines())
    assert row["gap_mean"] == row["excess_max"] == ""
    assert row["failures"] == "crashed:1"
    (row,) = csv.DictReader(runs_csv(collection).decode().splitlines())
    assert row["latency_ns"] == row["gap"] == row["best_ns"] == row["wall_s"] == ""


def test_bounds_of_all_methods_count_and_false_ones_do_not(cli: Cli, tmp_path: Path) -> None:
    plan = make_plan(["prover", "finder", "liar"])
    (instance,) = made_up(1)
    records = [
        record(instance, plan, "prover", latency_ns=200, bound_ns=90, baseline_ns=400),
        record(instance, plan, "finder", latency_ns=100, baseline_ns=400),
        record(instance, plan, "liar", latency_ns=150, bound_ns=120, baseline_ns=400),
    ]
    folder = write_run(tmp_path / "run", plan, [instance], records)
    by_method = {line.method: line for line in collect([folder]).summaries()["tiny"]}
    assert by_method["finder"].gap_mean == pytest.approx(0.1)
    assert by_method["prover"].gap_mean == pytest.approx(0.55)
    assert by_method["prover"].excess_mean == pytest.approx(1.0)
    assert by_method["liar"].failures == {"false_bound": 1}
    out, err = cli("report", folder, "-o", "out", code=1)
    assert "120" in err
    assert "100" in err
    assert "liar" in err
    assert "false" in Path("out/index.md").read_text()
    assert "written to out" in out


def test_runs_are_put_together(tmp_path: Path) -> None:
    one, two = make_plan(["m"], time_limit=10.0), make_plan(["m", "n"], time_limit=60.0)
    (instance,) = made_up(1)
    first = write_run(tmp_path / "a", one, [instance], [record(instance, one, "m", latency_ns=200)])
    later = [record(instance, two, "m", latency_ns=150), record(instance, two, "n", latency_ns=100, bound_ns=100)]
    second = write_run(tmp_path / "b", two, [instance], later)
    collection = collect([first, second])
    # The same method with two limits is two lines; the best of both runs is what all are compared with.
    assert collection.methods == ["m, 10 s", "m, 60 s", "n"]
    assert [line.excess_mean for line in collection.summaries()["tiny"]] == [1.0, 0.5, 0.0]
    assert [line.gap_mean for line in collection.summaries()["tiny"]] == pytest.approx([0.5, 1 / 3, 0.0])
    copy = write_run(tmp_path / "c", one, [instance], [record(instance, one, "m", latency_ns=120)])
    collection = collect([first, copy])
    assert [entry.trial.latency_ns for entry in collection.entries] == [120]
    assert collection.notes == ["1 run recorded in several run directories: counted once, as in the last"]


def test_best_known_values_of_several_runs_are_put_together(tmp_path: Path) -> None:
    folders = []
    (instance,) = made_up(1)
    for i, known in enumerate([KnownValues(100, 70, False), KnownValues(90, 60, False), None]):
        plan = make_plan(["m"], seeds=[i])
        changed = msgspec.structs.replace(instance, best_known=known)
        made = record(instance, plan, "m", seed=i, latency_ns=140)
        folders.append(write_run(tmp_path / str(i), plan, [changed], [made]))
    (problem,) = collect(folders).problems
    assert (problem.best_ns, problem.bound_ns) == (90, 70)
    # A bound that one run's records hold and another run's contradict is named and does not count.
    plan = make_plan(["m"], seeds=[9])
    wrong = msgspec.structs.replace(instance, best_known=KnownValues(140, 95, False))
    folders.append(write_run(tmp_path / "wrong", plan, [wrong], [record(instance, plan, "m", seed=9, latency_ns=140)]))
    collection = collect(folders)
    assert "95" in collection.contradictions[0]
    assert "90" in collection.contradictions[0]
    assert collection.problems[0].bound_ns is None


def test_a_run_that_is_still_going_on_says_what_is_missing(tmp_path: Path) -> None:
    plan = make_plan(["m", "n"], seeds=[0, 1])
    instances = made_up(2)
    folder = write_run(tmp_path / "run", plan, instances, [record(instances[0], plan, "m", latency_ns=100)])
    with (folder / RECORDS).open("ab") as file:
        file.write(b'{"key": "torn')
    collection = collect([folder])
    assert collection.notes == ["1 of 8 planned runs are recorded; the others are not counted anywhere"]
    assert "1 of 8 planned runs" in report_markdown(collection, TITLE, "", TARGET)


def test_placement_view_is_of_the_best_run_and_leaves_out_what_is_gone(run: Path, tmp_path: Path) -> None:
    collection = collect([run])
    shown = choose(collection, 3)
    assert len(shown.instances) == 3
    assert {document["set"] for document in shown.instances} == {"tiny", "small"}
    for document in shown.instances:
        costs = [placement["latency_ns"] for placement in document["placements"]]
        assert costs == sorted(costs)
        assert len(costs) == len(METHODS)
        entry = next(p for p in collection.problems if p.name == document["name"])
        assert costs[0] == entry.best_ns
        assert document["baseline_ns"] == entry.baseline_ns
    plan = make_plan(["m"])
    instances = made_up(2)
    gone = write_run(
        tmp_path / "gone", plan, instances,
        [record(i, plan, "m", latency_ns=9, solution="solutions/x") for i in instances],
        {record(i, plan, "m").key: b"{}" for i in instances},
    )  # fmt: skip
    left_out = choose(collect([gone]), 5)
    assert left_out.instances == []
    assert "2 others are not where they were" in left_out.facts


def test_a_report_on_odd_names_and_without_any_bound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evil = '</script><script>document.title="x"</script>'
    plan = make_plan([evil, "_hidden", "a|b", "$x$", "\u4e16\u754c"])
    (instance,) = made_up(1, set="<b>set</b>")
    records = [record(instance, plan, method.name, latency_ns=100 + i) for i, method in enumerate(plan.methods)]
    folder = write_run(tmp_path / "run", plan, [instance], records)
    write_report(collect([folder]), tmp_path / "out", title="<i>title</i>")
    assert caplog.text == ""  # Bokeh logs what it does not like
    page = (tmp_path / "out" / PAGE).read_text()
    assert evil not in page
    assert "<b>set</b>" not in page
    assert "<i>title</i>" not in page
    assert "no instance has a proven bound" in page
    table = (tmp_path / "out/index.md").read_text()
    assert r"a\|b" in table
    # Five lines of methods and ten pairs of them, under a heading and a rule each.
    counts = Counter(line.count(" | ") for line in table.splitlines() if line.startswith("| "))
    assert counts == {15: 5 + 2, 6: 10 + 2}


def test_markdown_escapes_what_would_break_the_table() -> None:
    line = Summary("s", "a|b*c", 1, 1, 0, 0, 0, None, None, None, 0.0, 0.0, 0.0, None, 1.0, None, {})
    assert markdown([line]).splitlines()[2].startswith(r"| a\|b\*c | 1 | 1 |")


def test_a_run_directory_that_was_tampered_with_is_one_line(
    tmp_path: Path, cli: Cli, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = solved_run(tmp_path / "run", TINY[:2], ["greedy", "popular"], [0, 1])
    monkeypatch.chdir(tmp_path)
    whole = {name: (run / name).read_bytes() for name in (RUN, RECORDS)}
    lines = [json.loads(line) for line in whole[RECORDS].splitlines()]

    def told(*arguments: str) -> str:
        capfd.readouterr()
        assert main(["report", "run", *(arguments or ("-o", "out"))]) == 2, lines[0]
        _, err = capfd.readouterr()
        assert err.count("\n") == 1, err
        assert not Path("out").exists()
        return err

    wrong: list[tuple[str, Any, str]] = [
        ("latency_ns", None, "latency_ns: expected a cost where the status is ok, found null"),
        ("status", "failed", "latency_ns: expected null where the status is failed"),
        ("wall_s", -1, "wall_s"),
        ("seed", 7, "no run of the plan"),
        ("method", "cpsat", "no run of the plan"),
        ("sha256", "0", "no run of the plan"),
        ("key", "0", "no run of the plan"),
        ("solution", "../run.json", "solution: expected a file in solutions"),
        ("bound_ns", 10**400, "an integer of more than 40 digits"),
        ("trajectory", [[0.0, 10**400, None]], "an integer of more than 40 digits"),
    ]
    for field, value, message in wrong:
        changed = [lines[0] | {field: value}, *lines[1:]]
        (run / RECORDS).write_text("".join(json.dumps(line) + "\n" for line in changed))
        said = told()
        expected = "the plan has" if message == "no run of the plan" and field != "key" else message
        assert f"run/{RECORDS}: line 1: " in said, said
        assert expected in said, said
    (run / RECORDS).write_text("".join(json.dumps(line | {"set": "other"}) + "\n" for line in lines))
    assert "is of the set other, there of tiny" in told()
    (run / RECORDS).write_bytes(whole[RECORDS])
    for i in ("run", "run/solutions"):
        assert "is the run itself" in told("-o", i)
    # Whatever else is changed: a report, or one line.

    def without_pictures(collection: Any, *_: Any, **__: Any) -> list[Path]:
        summary_csv(line for lines in collection.summaries().values() for line in lines)
        runs_csv(collection)
        report_markdown(collection, TITLE, "", TARGET)
        choose(collection, 5)
        return []

    monkeypatch.setattr("moeplace.report.writing.write_report", without_pictures)
    rng = random.Random(4)
    values = [None, True, -1, 0, 1.5, 2**63, 10**400, "", "x", [], {}, [[]]]
    for _ in range(300):
        name = rng.choice([RUN, RECORDS])
        documents = [json.loads(line) for line in (whole[RECORDS].splitlines() if name == RECORDS else [whole[RUN]])]
        at: Any = rng.choice(documents)
        while True:
            key = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
            if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.2:
                break
            at = at[key]
        before, at[key] = at[key], rng.choice(values)
        (run / name).write_text("".join(json.dumps(document) + "\n" for document in documents))
        capfd.readouterr()
        code = main(["report", "run", "-o", "out"])
        _, err = capfd.readouterr()
        (run / name).write_bytes(whole[name])
        assert code in (0, 1, 2), (name, key, before, at[key], err)
        assert "internal error" not in err, (name, key, before, at[key], err)
        assert code != 2 or err.count("\n") == 1, (name, key, before, at[key], err)
    for solution in (run / "solutions").iterdir():
        solution.write_text("{}")
    with pytest.raises(InputError, match=r"solutions/\w+\.json: the key"):
        choose(collect([run]), 5)


def test_names_are_no_markdown_and_no_formulas(cli: Cli, tmp_path: Path) -> None:
    odd = ["=1+1", "+x", "-x", "@x", "\tx", "\rx", "'x", "# a *b* <i>"]
    own = tmp_path / "own.json"
    document = json.loads((instances_folder() / "tiny" / "tiny_two_servers_share.json").read_text())
    for i, name in enumerate(odd):
        own.write_text(json.dumps(document | {"name": name}))
        plan = make_plan([f"{name}m"])
        instance = planned(own, moeplace.load(own), set_name=name)
        done = record(instance, plan, f"{name}m", latency_ns=10**9, baseline_ns=10**9, message=name)
        collection = collect([write_run(tmp_path / f"run{i}", plan, [instance], [done])])
        collection.notes.append(name)
        mark = "" if name.startswith("#") else "'"
        summaries = [line for lines in collection.summaries().values() for line in lines]
        written = ((runs_csv(collection), "set instance method message"), (summary_csv(summaries), "set method"))
        for data, columns in written:
            (row,) = csv.DictReader(io.StringIO(data.decode(), newline=""))
            for column in columns.split():
                assert row[column].startswith(mark + name), (name, column)
        text = report_markdown(collection, name, "", TARGET)
        if not mark:
            for line in ("# ", "## ", "- "):
                assert f"{line}\\# a \\*b\\* \\<i\\>\n" in text, text
        cli("gap", own, "--methods", "no-cache", "--csv", tmp_path / "gap.csv")
        (row,) = csv.DictReader(io.StringIO((tmp_path / "gap.csv").read_bytes().decode(), newline=""))
        assert row["instance"] == mark + name
        assert row["latency_ns"] == row["baseline_ns"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing", "-o", "out"], "nothing: is no run directory"),
        (["empty", "-o", "out"], "no run has been recorded yet"),
        (["good", "good", "-o", "out"], "good: is given twice"),
        (["good", "-o", "file.txt"], "file.txt: is a file; a folder was expected"),
        (["good", "-o", "file.txt/out"], "is no folder to write to"),
        (["good", "-o", "out", "--target", "-1"], "--target: expected a share >= 0, found -1.0"),
        (["good", "-o", "out", "--placements", "-1"], "--placements: expected a number >= 0"),
        (["damaged", "-o", "out"], "damaged/records.jsonl: line 1: no record"),
    ],
)
def test_report_refuses(cli: Cli, args: list[str], message: str) -> None:
    plan = make_plan(["m"])
    (instance,) = made_up(1)
    write_run(Path("empty"), plan, [instance], [])
    write_run(Path("good"), plan, [instance], [record(instance, plan, "m", latency_ns=1)])
    write_run(Path("damaged"), plan, [instance], [])
    Path("damaged", RECORDS).write_text("{}\n")
    Path("file.txt").touch()
    out, err = cli("report", *args, code=2)
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


# --- where stations and users are drawn --------------------------------------------------------------------------


def test_layout_takes_positions_and_else_lays_out_by_times() -> None:
    real = moeplace.load(instances_folder() / "real" / "gpt-oss-20b_melbourne_cut_l04_s3_u12_c264.json")
    placed = layout(real)
    assert placed.is_map
    assert placed.station.tolist() == [list(server.position_m) for server in real.servers]  # type: ignore[arg-type]
    document = real.document()
    for part in (*document["servers"], *document["demands"]):
        del part["position_m"]
    by_times = layout(Instance.from_document(document))
    assert not by_times.is_map
    # The station drawn nearest to a user is one that is nearest in time.
    drawn = np.linalg.norm(by_times.user[:, None] - by_times.station[None, :], axis=2).argmin(axis=1)
    times = real.server_ns[: len(by_times.users)]
    assert np.mean(times[np.arange(len(drawn)), drawn] == times.min(axis=1)) > 0.8


@looped("seed", range(30))
def test_views_of_random_instances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = Instance.from_document(random_document(rng))
    placed = layout(instance)
    assert np.isfinite(placed.station).all()
    assert np.isfinite(placed.user).all()
    apart = np.linalg.norm(placed.station[:, None] - placed.station[None, :], axis=2)
    assert (apart + np.eye(len(apart)) > 0).all()
    placement = moeplace.solve(instance, "greedy").placement_on(instance)
    view = ViewsOf(instance).view(placement)
    assert view.latency_ns == moeplace.latency_ns(instance, placement)
    tokens = dict.fromkeys(placed.users, 0)
    for demand in instance.demands:
        tokens[demand.user] += demand.tokens
    weights = np.array(list(tokens.values()))
    assert view.after_ns @ weights == pytest.approx(view.latency_ns)
    assert view.before_ns @ weights == pytest.approx(instance.baseline_ns)
    # The page reads the caches from bits.
    held = np.zeros_like(placement.cached)
    for m, rows in enumerate(view.document()["cached"]):
        items = instance.model_items(m)
        for n, text in enumerate(rows):
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
            held[n, items] = bits[: items.stop - items.start]
    assert (held == placement.cached).all()


# --- co-activation -------------------------------------------------------------------------------------------------


def test_pairs_are_counted_and_compared_with_chance() -> None:
    document: dict[str, Any] = {
        "format": "moeplace/instance", "version": 1, "name": "x", "latency_model": "max",
        "models": [{"name": "m", "layers": 2, "experts": 3, "top_k": 2, "expert_bytes": 1}],
        "servers": [],
        "demands": [
            {"user": u, "model": "m", "tokens": 10, "device_ns": 0, "server_ns": [], "cloud_ns": 5} for u in "ab"
        ],
        "activations": {
            "demand": [0, 0, 1, 1], "layer": [0, 0, 0, 1], "experts": [[0, 1], [0, 2], [1], [2]], "count": [4, 2, 2, 7],
        },
    }  # fmt: skip
    instance = Instance.from_document(document)
    assert item_tokens(instance).tolist() == [6, 6, 2, 0, 0, 7]
    assert block_tokens(instance).tolist() == [8, 7]
    pairs = pair_tokens(instance, 0)
    assert pairs.tolist() == [[6, 4, 2], [4, 6, 0], [2, 0, 2]]
    ratio = lift(pairs, 8)
    assert ratio[0, 1] == pytest.approx((4 / 8) / (6 / 8 * 6 / 8))
    assert ratio[0, 2] == pytest.approx((2 / 8) / (6 / 8 * 2 / 8))
    assert ratio[1, 2] == 0.0
    assert np.isnan(np.diagonal(ratio)).all()
    assert np.isnan(lift(pair_tokens(instance, 1), 7)).all()


@looped("seed", range(10))
def test_pairs_against_counting_by_hand(seed: int) -> None:
    document = random_document(np.random.default_rng(seed))
    instance = Instance.from_document(document)
    rows = document["activations"]
    for block in range(instance.n_blocks):
        model, layer = int(instance.block_model[block]), int(instance.block_layer[block])
        expected = np.zeros_like(pair_tokens(instance, block))
        for d, at, experts, count in zip(rows["demand"], rows["layer"], rows["experts"], rows["count"], strict=True):
            if at == layer and document["demands"][d]["model"] == instance.models[model].name:
                for i in experts:
                    for j in experts:
                        expected[i, j] += count
        assert pair_tokens(instance, block).tolist() == expected.tolist()


# --- plot ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_map(cli: Cli, suffix: str) -> None:
    instance = instance_files("small")[2]
    cli("solve", instance, "--method", "greedy", "-o", "solution.json")
    cli("plot", "map", instance, "solution.json", "-o", f"a.{suffix}")
    cli("plot", "map", instance, "solution.json", "-o", f"b.{suffix}")
    data = Path(f"a.{suffix}").read_bytes()
    assert data == Path(f"b.{suffix}").read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])


def test_plot_of_every_kind(cli: Cli, run: Path) -> None:
    instance = instance_files("small")[2]
    cli("plot", "capacity", instance, "--methods", "greedy,popular", "--factors", "0,0.5,1", "-o", "capacity.svg")
    cli("plot", "coactivation", instance, "--layers", "1,0", "-o", "coactivation.svg")
    cli("plot", "popularity", instance, "-o", "popularity.svg")
    cli("plot", "progress", instance, "--method", "cpsat,greedy", "--time-limit", 10, "-o", "searched.svg")
    cli("plot", "progress", run, "--instance", moeplace.load(instance).name, "-o", "recorded.svg")
    for name in ("capacity", "coactivation", "popularity", "searched", "recorded"):
        assert ET.parse(f"{name}.svg").getroot().tag.endswith("svg")


def test_plot_of_open_active_experts(cli: Cli) -> None:
    from moeplace.caching.pictures import BudgetPoint, active_layers, budget_curve

    path = next(path for path in instance_files("joint") if path.stem == "joint_tiny_two_models")
    cli("solve", path, "--method", "milp", "-o", "exact.json")
    cli("solve", path, "--method", "greedy", "-o", "greedy.json")
    cli("plot", "active", path, "exact.json", "greedy.json", "-o", "layers.svg")
    cli("plot", "budget", path, "--methods", "milp,greedy", "--budgets", "0,60,120", "-o", "budget.svg")
    for name in ("layers", "budget"):
        assert ET.parse(f"{name}.svg").getroot().tag.endswith("svg")
    instance = moeplace.load(path)
    figure = active_layers(instance.models, [("both", [1, 2]), ("neither", [2, 2])], "two models")
    drawn = [axes.get_images()[0].get_array().tolist() for axes in figure.axes[:2]]
    assert drawn == [[[1], [2]], [[2], [2]]]  # a panel for each model, a line for each choice
    points = [BudgetPoint("milp", 60, 32, 30), BudgetPoint("milp", 0, 140, None), BudgetPoint("greedy", 60, 80, None)]
    lines = budget_curve(points, 1, "latency").axes[0].get_lines()
    assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in map(_plain, lines)] == [
        ([0, 60], [140, 32]), ([60], [30]), ([60], [80])
    ]  # fmt: skip


def _plain(line: Any) -> Any:
    """Return a line with its data as arrays."""
    line.set_data(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
    return line


@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
def test_plot_takes_every_tiny_instance(cli: Cli, path: Path) -> None:
    cli("solve", path, "--method", "greedy", "-o", "solution.json")
    for kind in (["map", path, "solution.json"], ["coactivation", path], ["popularity", path]):
        cli("plot", *kind, "-o", f"{kind[0]}.png")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.0, 3.75, ["1", "2", "3"]),
        (0.004, 0.03, ["0.005", "0.01", "0.02"]),
        (0.001, 100.0, ["0.001", "0.01", "0.1", "1", "10", "100"]),
    ],
)
def test_logarithmic_axes_have_labels_enough(low: float, high: float, expected: list[str]) -> None:
    from moeplace.base import style

    figure = style.new_figure(6, 4)
    axes = figure.subplots()
    axes.plot([low, high], [1, 2])
    style.log_x(axes)
    axes.set_xlim(low, high)
    style.rendered(figure, "svg")
    shown = {
        tick.get_loc(): tick.label1.get_text()
        for tick in (*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks())
        if tick.label1.get_text() and low * 0.999 <= tick.get_loc() <= high * 1.001
    }
    assert [shown[at] for at in sorted(shown)] == expected


def test_capacity_is_scaled_exactly(tmp_path: Path) -> None:
    from moeplace.cli.plot import _scaled

    instance = moeplace.load(TINY[0])
    document = instance.document()
    for server in document["servers"]:
        server["capacity_bytes"] = 2**62 + 1
    big = Instance.from_document(document)
    assert _scaled(big, 1.0).capacity_bytes.tolist() == big.capacity_bytes.tolist()
    assert _scaled(big, 0.5).capacity_bytes.tolist() == [2**61] * len(big.servers)
    for server in document["servers"]:
        server["capacity_bytes"] = 10
    assert _scaled(Instance.from_document(document), 0.3).capacity_bytes.tolist() == [3] * len(big.servers)
    everything = Placement(np.ones((len(instance.servers), instance.n_items), dtype=bool))
    assert Evaluation(_scaled(instance, 1e5), everything).latency_ns <= instance.baseline_ns


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["map", "i.json", "s.json", "-o", "x.gif"], "x.gif: expected a name that ends in .png, .svg or .pdf"),
        (["map", "i.json", "i.json", "-o", "x.png"], "i.json"),
        (["map", "i.json", "other.json", "-o", "x.png"], "other.json: placement[0].server: the instance has no server"),
        (["map", "none.json", "s.json", "-o", "x.png"], "none.json: cannot be read"),
        (["map", "i.json", "s.json", "-o", "no/x.png"], "the folder no does not exist"),
        (["capacity", "i.json", "--factors", "a,b", "-o", "x.png"], "--factors: expected numbers with commas"),
        (["capacity", "i.json", "--factors", "nan", "-o", "x.png"], "--factors: expected numbers from 0"),
        (["capacity", "i.json", "--factors", "1e300", "-o", "x.png"], "--factors: expected numbers from 0"),
        (["capacity", "i.json", "--methods", "nope", "-o", "x.png"], "no method 'nope'"),
        (
            ["budget", "i.json", "--budgets", "0,1", "-o", "x.png"],
            "i.json: leaves nothing open: every row waits for all",
        ),
        (["budget", "i.json", "--budgets", "0,1.5", "-o", "x.png"], "--budgets: expected whole numbers with commas"),
        (["budget", "i.json", "--budgets", "-1", "-o", "x.png"], "--budgets: expected whole numbers with commas"),
        (["active", "i.json", "s.json", "-o", "x.png"], "i.json: leaves nothing open: every row waits for all"),
        (["active", "open.json", "s.json", "-o", "x.png"], "s.json: does not say how many experts are active"),
        (["active", "open.json", "wrong.json", "-o", "x.png"], "wrong.json: active_experts: 3 in layer 0 of 'a'"),
        (["coactivation", "i.json", "--model", "nope", "-o", "x.png"], "i.json: --model: no model 'nope'; there are"),
        (["coactivation", "i.json", "--layers", "0,77", "-o", "x.png"], "i.json: --layers: no layer '77'"),
        (["popularity", "no_rows.json", "-o", "x.png"], "no_rows.json: has no activations to draw"),
        (["coactivation", "no_rows.json", "-o", "x.png"], "no_rows.json: has no activations to draw"),
        (["capacity", "no_rows.json", "-o", "x.png"], "no_rows.json: no cache can save anything"),
        (["progress", "i.json", "--instance", "x", "-o", "x.png"], "chooses an instance of a run directory"),
        (["progress", "i.json", "--method", "nope", "-o", "x.png"], "no method 'nope'"),
        (["progress", "run", "-o", "x.png"], "run: --instance: which of 2 instances? (i0, i1)"),
        (["progress", "run", "--instance", "x", "-o", "x.png"], "run: --instance: no instance 'x' in this run"),
        (["progress", "run", "--instance", "i0", "--method", "z", "-o", "x.png"], "run: --method: no method 'z'"),
        (["progress", "run", "--instance", "i1", "-o", "x.png"], "run: no run on i1 gave a placement"),
        (["nothing"], "No such command 'nothing'"),
        ([], "Missing command"),
    ],
)
def test_plot_refuses(cli: Cli, args: list[str], message: str) -> None:
    path = TINY[0]
    Path("i.json").write_bytes(path.read_bytes())
    cli("solve", "i.json", "--method", "greedy", "-o", "s.json")
    other = json.loads(Path("s.json").read_text())
    several = json.loads(Path("s.json").read_text()) | {"active_experts": {"a": [3], "b": [1]}}
    Path("wrong.json").write_text(json.dumps(several))
    joint = next(path for path in instance_files("joint") if path.stem == "joint_tiny_two_models")
    Path("open.json").write_bytes(joint.read_bytes())
    other["placement"] = [{"server": "elsewhere", "model": "m", "experts": [[0, 0]]}]
    Path("other.json").write_text(json.dumps(other))
    no_rows = moeplace.load(path).document()
    no_rows["activations"] = {"demand": [], "layer": [], "experts": [], "count": []}
    Path("no_rows.json").write_text(json.dumps(no_rows))
    plan = make_plan(["m"])
    instances = made_up(2)
    records = [record(instances[0], plan, "m", latency_ns=1), record(instances[1], plan, "m", status="crashed")]
    write_run(Path("run"), plan, instances, records)
    before = {path.name for path in Path().iterdir()}
    out, err = cli("plot", *args, code=2)
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == before


# --- what is imported ------------------------------------------------------------------------------------------------


def test_reports_and_benchmarks_do_not_know_the_command_line() -> None:
    package = Path(moeplace.__file__).parent
    for path in [
        *package.glob("report/*.py"),
        *package.glob("bench/*.py"),
        package / "base" / "text.py",
        package / "comparing.py",
    ]:
        assert "moeplace.cli" not in path.read_text(encoding="utf-8"), path


def test_help_and_refusals_load_no_drawing_library() -> None:
    code = (
        "import sys\n"
        "from moeplace.cli import main\n"
        "for args in (['report', '--help'], ['plot', 'map', '--help'], ['report', 'nowhere', '-o', 'out']):\n"
        "    main(args)\n"
        "found = {'matplotlib', 'bokeh', 'jinja2', 'ortools', 'highspy'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=240)


# --- the published benchmark -----------------------------------------------------------------------------------------

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "published.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="the scripts are in the checkout only")
def test_the_published_benchmark_is_written_from_a_run_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specification = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    specification.loader.exec_module(script)
    asked = []

    def pretend(command: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, len(asked) % 2)  # some run of the first stage failed

    shutil.copytree(run, tmp_path / "runs" / "exact")
    plan = make_plan(["more"])
    write_run(tmp_path / "runs" / "heuristics", plan, *_one_more(run, plan))
    monkeypatch.setattr(script.subprocess, "run", pretend)
    arguments = ["--run", str(tmp_path / "runs"), "--suites", "tiny", "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["published.py", *arguments])
    assert script.main() == 1
    assert [command[3:5] for command in asked] == [["bench", "tiny"]] * 2
    assert [Path(command[-1]).name for command in asked] == ["exact", "heuristics"]
    text = (tmp_path / "out" / "index.md").read_text()
    links = re.findall(r"\]\(((?:pictures|runs|summary)[^)]*)\)", text)
    assert {"runs.csv", "summary.csv", "pictures/placement.svg", "pictures/progress.svg"} < set(links)
    assert all((tmp_path / "out" / link).is_file() for link in links)
    assert not (tmp_path / "out" / PAGE).exists()
    _ages(text)


def _ages(text: str) -> None:
    """The page says what it was measured with; with another table of counts it is older, and without any."""
    ages = importlib.import_module("ages")
    now = ages.counts()
    assert ages.older(text, now) is None
    assert ages.note("benchmark/index", text) == text
    assert "All measured" in ages.older(text, "0" * 8)
    mixed = text + re.sub(f"counts {now}", "counts 00000000", text)
    assert "1 of 2 sections measured" in ages.older(mixed, now)
    noted = ages.note("benchmark/index", mixed).splitlines()
    assert (noted[0], noted[2]) == (text.splitlines()[0], "```{note}")
    assert ages.note("benchmarks/core", mixed) == mixed
    assert "before the last change" in ages.older("# A page\n", now)


def _one_more(run: Path, plan: BenchPlan) -> tuple[list[PlannedInstance], list[Record]]:
    instances = collect([run]).instances[:1]
    return instances, [record(instances[0], plan, "more", status="crashed", wall_s=None)]
