"""The harness: isolation, limits, records that survive, resuming, and what it refuses."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from cases import PATIENCE_S
from run_directories import complete

from moeplace.base.errors import InputError, MoeplaceError, OutputError
from moeplace.base.registry import find_method, method_info
from moeplace.bench.environment import _git, capture
from moeplace.bench.harness import describe_orders, opened
from moeplace.bench.messages import Description
from moeplace.bench.planning import method_specification, planned_instances, read_methods
from moeplace.bench.pool import LocalPool
from moeplace.bench.records import BenchPlan, Record, RecordWriter, read_run, write_durably
from moeplace.cli import main
from moeplace.library import best_known, instances_folder

TESTS = Path(__file__).resolve().parents[1]
TINY = str(instances_folder() / "tiny" / "tiny_two_servers_share.json")
PAIR = str(instances_folder() / "tiny" / "tiny_pair_across_servers.json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))
    return tmp_path


Bench = Callable[..., tuple[str, str]]


@pytest.fixture
def bench(folder: Path, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Run ``moeplace bench`` with a short grace into ``run`` and return what it printed."""

    def bench(*args: str, code: int = 0, workers: str = "1") -> tuple[str, str]:
        capfd.readouterr()
        limits = ["--time-limit", "200", "--grace", "3", "--workers", workers, "-o", "run"]
        result = main(["bench", *limits, *args])
        out, err = capfd.readouterr()
        assert result == code, (out, err)
        return out, err

    return bench


def start(*args: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "moeplace", "bench", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        **options,
    )


def processes_of(run: Path, kind: str = "", harness: int = 0) -> list[psutil.Process]:
    """Return the processes that work for a run, by the variable that its harness was started with."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MOEPLACE_TEST_RUN") != str(run) or process.status() == psutil.STATUS_ZOMBIE:
                continue
            is_a = "harness" if process.pid == harness else "worker" if process.ppid() == harness else "run"
            if kind in ("", is_a):
                found.append(process)
        except psutil.Error:
            continue
    return found


# --- what is recorded ---------------------------------------------------------------------------------------------


def test_every_instance_method_and_seed_once(bench: Bench) -> None:
    out, err = bench("tiny", "--methods", "popular,random,no-cache", "--seeds", "0,3-4", workers="2")
    assert "ERROR" not in err
    data = read_run("run")
    complete(data)
    count = Counter((record.method, record.seed) for record in data.records)
    # Of two of them the seed changes nothing: they are run once.
    assert count == dict.fromkeys([("popular", 0), ("no-cache", 0), ("random", 0), ("random", 3), ("random", 4)], 8)
    assert "40 runs of 40 in run, 40 new" in out
    assert data.contradictions == []
    for record in data.records:
        assert record.status == "ok"
        assert record.wall_s is not None
        assert 0 <= record.wall_s <= record.process_s
        assert record.peak_bytes > 10_000_000
        assert record.trajectory[-1][1:] == (record.latency_ns, record.bound_ns)
        assert record.latency_ns >= best_known("tiny")[record.instance].latency_ns
    frame = data.to_frame()
    assert frame["latency_ns"].tolist() == [record.latency_ns for record in data.records]
    assert frame.groupby("method").size().to_dict() == {"no-cache": 8, "popular": 8, "random": 24}
    environment = data.run.environment
    assert environment.cores >= 1
    assert environment.memory_bytes > 10**8
    assert environment.versions["moeplace"]
    assert data.run.plan.methods[0].seeded is False
    first = data.run.instances[0]
    assert first.path == f"tiny/{first.name}.json"
    assert first.best_known is not None


def test_an_exact_method_records_its_proof_and_its_way_there(bench: Bench) -> None:
    bench("tiny", "--methods", "cpsat", "--seeds", "1")
    data = read_run("run")
    complete(data)
    for record in data.records:
        known = best_known("tiny")[record.instance]
        assert (record.latency_ns, record.bound_ns, record.termination) == (known.latency_ns,) * 2 + ("optimal",)
        assert "CP-SAT" in (record.bound_source or "")
        seconds, costs, bounds = zip(*record.trajectory, strict=True)
        assert list(seconds) == sorted(seconds)
        assert list(costs) == sorted(costs, reverse=True)
        assert [b for b in bounds if b is not None] == sorted(b for b in bounds if b is not None)
    assert data.best_bound(data.run.instances[0].sha256) is not None


@pytest.mark.parametrize(
    ("method", "parameters", "seeded"),
    [
        ("local-search", {}, False),
        ("local-search", {"kicks": 1}, True),
        ("successive-greedy", {"order": "demand"}, False),
        ("max-convolution", {"order": "random"}, True),
        ("greedy", {}, False),
        ("cpsat", {}, True),
        ("bad_methods:nap", {}, True),
    ],
)
def test_which_methods_are_seeded(folder: Path, method: str, parameters: dict[str, Any], seeded: bool) -> None:
    assert method_info(find_method(method)).seeded(parameters) is seeded


MISBEHAVIOUR = {
    "segfault": ("crashed", "killed by SIGSEGV: about to crash"),
    "leave": ("crashed", "exit code 3 and without a result"),
    "hang": ("timeout", "still running 6 s past its limit of 5 s"),
    "overfull": ("infeasible", "does not fit"),
    "persuasive": ("infeasible", "holds"),
    "cheap": ("wrong_cost", "costs 1; the checker finds"),
    "boastful": ("wrong_cost", "on its way it reported the cost 1"),
    "tamper": ("wrong_cost", "the checker finds"),
    "claim": ("false_bound", "is above the checked cost"),
    "claim_more": ("false_bound", "but its own placement costs"),
    "claim_on_the_way": ("false_bound", "of its own placement"),
    "claim_optimal": ("false_bound", "calls its placement optimal"),
    "forge": ("failed", "wrote on the harness's channel"),
    "suicide": ("crashed", "killed by SIGKILL, 3 times"),
    "patricide": ("crashed", "its worker was killed during the run, 3 times"),
    "broken": ("failed", "RuntimeError: two\nlines"),
}


def test_misbehaviour_is_caught_and_named_and_harms_nobody_else(bench: Bench) -> None:
    methods = ",".join(f"bad_methods:{name}" for name in MISBEHAVIOUR)
    out, _ = bench(TINY, "--methods", f"popular,{methods},random", "--time-limit", "5", code=1, workers="2")
    data = read_run("run")
    complete(data)
    by_method = {record.method: record for record in data.records}
    for name, (status, message) in MISBEHAVIOUR.items():
        record = by_method[f"bad_methods:{name}"]
        assert record.status == status, record
        assert message in (record.message or ""), record.message
        assert (record.latency_ns, record.bound_ns, record.solution) == (None, None, None)
        assert f"{status}: tiny_two_servers_share: bad_methods:{name} (seed 0): " in out
    assert {by_method["popular"].status, by_method["random"].status} == {"ok"}
    # Where it failed is kept.
    assert 'raise RuntimeError("two\\nlines")' in (by_method["bad_methods:broken"].traceback or "")
    assert by_method["popular"].traceback is None
    # What was reported before the end is kept, marked by the status.
    assert by_method["bad_methods:hang"].trajectory[0][1] == by_method["popular"].baseline_ns
    assert by_method["bad_methods:hang"].process_s >= 11


def test_memory_is_limited(bench: Bench) -> None:
    names = ("eat", "eat_at_once", "eat_elsewhere")
    methods = ",".join(f"bad_methods:{name}" for name in names)
    bench(TINY, "--methods", f"{methods},popular", "--memory-limit", "0.3", code=1)
    records = {record.method: record for record in read_run("run").records}
    assert records["popular"].status == "ok"
    for name in names:
        record = records[f"bad_methods:{name}"]
        assert record.status == "memory"
        said = "MemoryError" if name == "eat_at_once" else "GiB resident, the limit is 0.30 GiB"
        assert said in (record.message or "")
        assert (record.peak_bytes > 0.3 * 2**30) == (name != "eat_at_once")


def test_a_method_past_its_limit_is_asked_to_end_first(bench: Bench) -> None:
    bench(TINY, "--methods", "bad_methods:late", "--time-limit", "0.3", "--grace", "5")
    (record,) = read_run("run").records
    assert record.status == "ok"
    assert record.wall_s is not None
    assert record.wall_s >= 5.3  # and not killed, which is 5 s later


def test_what_a_method_starts_ends_with_its_run(bench: Bench, tmp_path: Path) -> None:
    where = tmp_path / "pid"
    bench(TINY, "--methods", f"bad_methods:leave_a_child[where={where}],popular")
    assert [record.status for record in read_run("run").records] == ["ok", "ok"]
    assert not psutil.pid_exists(int(where.read_text()))


def test_what_a_method_starts_ends_even_where_the_worker_was_killed(bench: Bench, tmp_path: Path) -> None:
    where = tmp_path / "pids"
    bench(TINY, "--methods", f"bad_methods:leave_a_child_and_kill_the_worker[where={where}],popular", code=1)
    assert [record.status for record in read_run("run").records] == ["crashed", "ok"]
    started = [int(line) for line in where.read_text().splitlines()]
    assert len(started) == 3  # one for every attempt

    def alive(pid: int) -> bool:
        return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE

    assert not any(alive(pid) for pid in started)


def test_an_instance_that_changes_during_the_run_ends_it(folder: Path) -> None:
    Path("own").mkdir()
    own = Path("own/tiny_two_servers_share.json")
    own.write_bytes(Path(TINY).read_bytes())
    plan = BenchPlan(["own"], [method_specification("popular", json.loads)], [0], 5.0, 1.0, None, 1)
    instances = planned_instances([("own", own)])
    own.write_text(json.dumps(json.loads(own.read_text()) | {"notes": "changed"}))
    with LocalPool(1, 1) as pool, opened(Path("run"), plan, instances, capture(1)) as run:
        with pytest.raises(MoeplaceError, match=r"tiny_two_servers_share.json: has changed since the run was planned"):
            run.work(pool, lambda: False)
        assert run.records == []


def test_a_bound_is_held_against_costs_that_come_later(bench: Bench) -> None:
    # The claim runs first, and nothing is known of the instance: the line in the file still says "ok".
    Path("own").mkdir()
    Path("own/tiny_two_servers_share.json").write_bytes(Path(TINY).read_bytes())
    out, err = bench("own", "--methods", "bad_methods:claim,popular", code=1)
    lines = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "ok"]
    data = read_run("run")
    assert [record.status for record in data.records] == ["false_bound", "ok"]
    assert data.records[0].latency_ns is None
    (said,) = data.contradictions
    assert "bad_methods:claim (seed 0): its bound" in said
    assert "is above the checked cost" in said
    assert said.endswith("of popular (seed 0)")
    assert f"ERROR {said}" in err
    assert "false_bound: " in out
    assert data.best_bound(data.run.instances[0].sha256) is None


def test_a_false_best_known_bound_is_named(bench: Bench) -> None:
    Path("own").mkdir()
    Path("own/tiny_two_servers_share.json").write_bytes(Path(TINY).read_bytes())
    known = best_known("tiny")["tiny_two_servers_share"]
    wrong = msgspec.structs.replace(known, latency_ns=10**12, bound_ns=10**12 - 1, optimal=False)
    Path("own/best_known.json").write_bytes(msgspec.json.encode({"tiny_two_servers_share": wrong}))
    _, err = bench("own", "--methods", "popular", code=1)
    assert "ERROR tiny_two_servers_share: best_known.json: its bound 999999999999 is above the checked cost" in err
    data = read_run("run")
    assert data.best_bound(data.run.instances[0].sha256) is None


def test_a_method_that_refuses_is_no_failure(bench: Bench, folder: Path) -> None:
    Path("picky.py").write_text(
        "from moeplace.base.errors import MethodLimitError\n"
        "def method(instance, **options):\n    raise MethodLimitError('picky', 'too ugly')\n"
    )
    bench(TINY, "--methods", "picky:method")
    (record,) = read_run("run").records
    assert (record.status, record.message) == ("refused", "too ugly")


# --- resuming -----------------------------------------------------------------------------------------------------


def test_nothing_is_run_twice_and_plans_are_extended(bench: Bench) -> None:
    bench(TINY, "--methods", "popular,random")
    before = Path("run/records.jsonl").read_bytes()
    out, _ = bench(TINY, "--methods", "popular,random")
    assert "2 runs of 2 in run, 0 new" in out
    assert Path("run/records.jsonl").read_bytes() == before
    out, _ = bench(TINY, PAIR, "--methods", "random,popular,no-cache", "--seeds", "0-1")
    assert "8 runs of 8 in run, 6 new" in out
    assert Path("run/records.jsonl").read_bytes().startswith(before)
    complete(read_run("run"))


def test_methods_and_seeds_are_added_to_a_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = Path("made/on/the way")
    command = ["--methods", "popular,random", "--seeds", "4", "--time-limit", "200", "--workers", "1", "-o", str(run)]
    assert main(["bench", TINY, *command]) == 0
    records = (run / "records.jsonl").read_bytes()
    solutions = {path: path.read_bytes() for path in (run / "solutions").iterdir()}
    Path("own_method.py").write_text("from bad_methods import cheap\n")
    capfd.readouterr()

    def go_on(*args: str, code: int = 0) -> tuple[str, str]:
        assert main(["bench", str(run), *args, "--workers", "1"]) == code, capfd.readouterr()
        return tuple(capfd.readouterr())

    assert "2 runs of 2 in made/on/the way, 0 new" in go_on()[0]
    assert "3 runs of 3 in made/on/the way, 1 new" in go_on("--add", "no-cache")[0]
    Path("more.toml").write_text('[[method]]\nname = "mine"\nmethod = "random"\nparameters = {}\n')
    for args, said in (
        (["--methods", "greedy"], "is a run directory: --add adds methods to it"),
        (["--add", "greedy", "-o", "other"], "is a run directory, which goes on in its own folder"),
        (["--add", "greedy", "--time-limit", "7"], "was made with time limit 200.0 s, not 7.0 s"),
        (["--add", "greedy", "--threads", "2"], "was made with threads 1, not 2"),
        (["--add", "greedy[gap=1]"], "method greedy has no parameter 'gap'"),
        (["--add", "greedy", "--methods-file", "more.toml"], "mine is given twice, the other time as random"),
    ):
        out, err = go_on(*args, code=2)
        assert (out, err.count("\n"), said in err) == ("", 1, True), err
    assert not Path("other").exists()
    # One method of each kind there is by now, one of them not seeded; the seed 4 was there, the method popular too.
    out, _ = go_on("--add", "greedy,popular", "--seeds", "4-5", "--time-limit", "200")
    assert "5 runs of 5 in made/on/the way, 2 new" in out
    assert "5 runs of 5 in made/on/the way, 0 new" in go_on("--add", "greedy", "--seeds", "5")[0]
    data = read_run(run)
    complete(data)
    assert [method.name for method in data.run.plan.methods] == ["popular", "random", "no-cache", "greedy"]
    assert (data.run.plan.seeds, data.run.plan.suites) == ([4, 5], [TINY])
    assert (run / "records.jsonl").read_bytes().startswith(records)
    assert {path: path.read_bytes() for path in solutions} == solutions
    # What is added by the old way of saying it is refused with the new one named.
    assert main(["bench", TINY, "--methods", "greedy", "--time-limit", "200", "-o", str(run)]) == 2
    assert "which is left out here; moeplace bench RUN --add" in capfd.readouterr().err
    assert main(["bench", TINY, "--add", "greedy"]) == 2
    assert "is no run directory; --add is for one that is there already" in capfd.readouterr().err
    assert main(["bench", TINY, "--methods", "greedy"]) == 2
    assert "Missing option '-o' / '--output'" in capfd.readouterr().err
    assert main(["bench", TINY, "--methods", "greedy", "-o", "more.toml/run"]) == 2
    assert "more.toml/run: cannot be written: " in capfd.readouterr().err


def test_a_run_of_an_instance_that_is_gone_or_changed_is_not_extended(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("own.json").write_bytes(Path(TINY).read_bytes())
    bench("own.json", "--methods", "popular")
    for content, said in ((json.dumps(json.loads(Path(TINY).read_text()) | {"notes": "x"}), "has changed since"),
                          (None, "own.json: the instance tiny_two_servers_share is not there")):  # fmt: skip
        Path("own.json").unlink() if content is None else Path("own.json").write_text(content)
        before = Path("run/run.json").read_bytes()
        capfd.readouterr()
        assert main(["bench", "run", "--add", "no-cache"]) == 2
        assert said in capfd.readouterr().err
        assert Path("run/run.json").read_bytes() == before, said


def test_an_instance_may_be_named_as_a_plan_is(bench: Bench) -> None:
    Path("own").mkdir()
    Path("own/run.json").write_bytes(Path(TINY).read_bytes())
    assert "1 run of 1 in run, 1 new" in bench("own", "--methods", "popular")[0]


def test_equal_failures_share_a_line(bench: Bench) -> None:
    Path("own.py").write_text(
        "def broken(instance, seed, **options):\n    return 1 // 0\n"
        "def odd(instance, seed, **options):\n    raise ValueError(f'seed {seed}')\n"
    )
    out, _ = bench(TINY, PAIR, "--methods", "own:broken,own:odd,popular", "--seeds", "3-5", code=1)
    lines = [line for line in out.splitlines() if line.startswith("failed: ")]
    alike = [line for line in lines if "own:broken" in line]
    assert len(alike) == 1, lines
    assert alike[0].startswith("failed: 6 runs of own:broken: method own:broken failed: ZeroDivisionError: ")
    assert alike[0].endswith(" (first: tiny_two_servers_share, seed 3)")
    # What differs is told apart: a line for each seed, over both instances.
    odd = [line for line in lines if "own:odd" in line]
    assert [f"seed {seed}" in line and line.startswith("failed: 2 runs") for seed, line in zip("345", odd, strict=True)]
    assert len(lines) == 4


def test_another_plan_is_refused(bench: Bench) -> None:
    shared = [TINY, "--methods", "popular,random", "--seeds", "0,1"]
    bench(*shared)
    files = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != "lock"}

    def refused(*args: str) -> str:
        _, err = bench(*args, code=2)
        assert err.count("\n") == 1
        return err

    assert "run: was made with the method random too, which is left out" in refused(TINY, "--methods", "popular")
    assert "run: was made with the seed 1 too" in refused(TINY, "--methods", "popular,random")
    assert "was made with the instance tiny_two_servers_share, which is left out" in refused(PAIR, *shared[1:])
    assert "was made with threads 1, not 2" in refused(*shared, "--threads", "2")
    assert "with memory limit 4294967296 bytes, not 1073741824" in refused(*shared, "--memory-limit", "1")
    Path("own.toml").write_text('[[method]]\nname = "popular"\nmethod = "no-cache"\n')
    assert "another method named popular" in refused(TINY, "--methods", "random", "--methods-file", "own.toml")
    assert {path: path.read_bytes() for path in files} == files


def test_no_worker_is_started_for_what_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [TINY, "--methods", "popular,random", "--seeds", "0"]
    bench(*shared)
    monkeypatch.setattr("moeplace.bench.pool.WorkerProcess", lambda *args: pytest.fail("a worker was started"))
    Path("own.json").write_text("{")
    for message, *args in (
        ("no method 'gredy'", TINY, "--methods", "gredy"),
        ("method greedy has no parameter 'kicks'", TINY, "--methods", "greedy[kicks=1]"),
        ("seed is no parameter of a method", TINY, "--methods", "greedy[seed=1]"),
        ("the method greedy is given twice", TINY, "--methods", "greedy,greedy"),
        ("own.json: line 1, column 2: not JSON", "own.json", "--methods", "greedy"),
        ("was made with the method random too", TINY, "--methods", "popular"),
        ("was made with threads 1, not 2", *shared, "--threads", "2"),
    ):
        _, err = bench(*args, code=2)
        assert message in err, err


def test_a_changed_instance_is_refused(bench: Bench) -> None:
    Path("own").mkdir()
    own = Path("own/tiny_two_servers_share.json")
    own.write_bytes(Path(TINY).read_bytes())
    bench("own", "--methods", "popular")
    own.write_text(json.dumps(json.loads(own.read_text())))
    bench("own", "--methods", "popular")  # laid out otherwise, the same document
    own.write_text(json.dumps(json.loads(own.read_text()) | {"notes": "changed"}))
    _, err = bench("own", "--methods", "popular", code=2)
    assert err == "moeplace bench: run: was made with the instance tiny_two_servers_share, which has changed since\n"


def test_two_harnesses_on_one_run(bench: Bench) -> None:
    bench(TINY, "--methods", "popular")
    with Path("run/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, err = bench(TINY, "--methods", "popular,random", code=2)
    assert err == f"moeplace bench: run: process {os.getpid()} is at work there\n"
    assert len(read_run("run").records) == 1


def test_a_torn_last_line_is_dropped(bench: Bench) -> None:
    bench("tiny", "--methods", "random", "--seeds", "0-1")
    file = Path("run/records.jsonl")
    whole = file.read_bytes()
    rng = random.Random(5)
    for cut in [1, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(20))]:
        file.write_bytes(whole[:-cut])
        lines = whole[:-cut].count(b"\n")
        assert len(read_run("run").records) == lines
        writer = RecordWriter(Path("run"))
        writer.add(a_record("another"))
        writer.close()
        assert file.read_bytes().count(b"\n") == lines + 1
        assert file.read_bytes().startswith(b"".join(whole.splitlines(keepends=True)[:lines]))
    file.write_bytes(whole[:-7])
    bench("tiny", "--methods", "random", "--seeds", "0-1")
    complete(read_run("run"))
    file.write_bytes(b"x" + whole[1:])
    with pytest.raises(InputError, match=r"records.jsonl: line 1: no record"):
        read_run("run")
    file.write_bytes(whole + whole.splitlines(keepends=True)[0])
    with pytest.raises(InputError, match=r"line 17: the run \w+ stands in line 1 already"):
        read_run("run")


@pytest.mark.timeout(900)  # fifty processes, begun one after the other: minutes on a busy machine
def test_kill_9_of_anything_at_any_moment_loses_nothing(folder: Path) -> None:
    command = [sys.executable, "-m", "moeplace", "bench", "tiny", "--methods", "bad_methods:nap[seconds=0.1],random"]
    command += ["--seeds", "0-2", "--time-limit", "200", "--workers", "2", "-o", "run"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "MOEPLACE_TEST_RUN": str(folder)}
    rng = random.Random(20)
    kills = Counter[str]()
    harness: subprocess.Popen[bytes] | None = None
    victims = ["harness"] * 4 + ["worker"] * 4 + ["run"] * 4
    rng.shuffle(victims)
    for kind in victims:
        hit = False
        while not hit:
            if harness is None or harness.poll() is not None:
                if harness is not None:
                    harness.communicate()
                    if harness.returncode == 0:  # all done: begin anew
                        Path("run/records.jsonl").unlink()
                harness = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
            time.sleep(rng.uniform(0.0, 0.4))
            found = [psutil.Process(harness.pid)] if kind == "harness" else processes_of(folder, kind, harness.pid)
            with contextlib.suppress(psutil.NoSuchProcess):  # a run may end by itself before it is hit
                if found:
                    rng.choice(found).kill()
                    hit = True
        kills[kind] += 1
        if kind == "harness":
            _, err = harness.communicate(timeout=PATIENCE_S)
            assert b"Traceback" not in err
            while processes_of(folder):  # they all end, or pytest's own limit ends the test
                time.sleep(0.02)
    assert harness is not None
    harness.communicate(timeout=PATIENCE_S)
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done
    data = read_run("run")
    complete(data)
    assert len(data.records) == 48
    assert {record.status for record in data.records} == {"ok"}
    assert kills["harness"] == 4
    assert sum(kills.values()) == len(victims)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_asking_for_the_commit_writes_nothing_into_the_repository(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    file = tmp_path / "file"
    file.write_text("text")
    git("init")
    git("add", "file")
    git("commit", "-m", "first")
    index = tmp_path / ".git" / "index"
    os.utime(file, (1, 1))  # now "git status" would renew the index
    before = index.read_bytes()
    assert _git(tmp_path, "status", "--porcelain") == ""
    assert index.read_bytes() == before
    git("status")
    assert index.read_bytes() != before


def test_interruption_keeps_what_is_finished(folder: Path) -> None:
    command = [
        TINY,
        PAIR,
        "--methods",
        "popular,bad_methods:nap[seconds=3000]",
        "--time-limit",
        "3000",
        "--workers",
        "1",
    ]
    process = start(*command, "-o", "run")
    while not (Path("run/records.jsonl").exists() and Path("run/records.jsonl").read_bytes()):
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(0.2)  # the nap is under way
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "interrupted; the same command goes on from here" in err
    assert [record.method for record in read_run("run").records] == ["popular"]


def test_a_full_disk_is_one_line_and_nothing_is_lost(folder: Path) -> None:
    command = ["tiny", "--methods", "random", "--seeds", "0-3", "--time-limit", "200", "--workers", "1", "-o", "run"]

    def small_files() -> None:
        # A file can grow no further than this: as on a full disk, a write ends in the middle of a line.
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))

    process = start(*command, preexec_fn=small_files)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "moeplace bench: run/records.jsonl: cannot be written: File too large"
    assert "Traceback" not in err
    kept = len(read_run("run").records)
    assert 3 < kept < 32
    process = start(*command)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    complete(read_run("run"))


def test_the_writer_takes_back_what_it_could_not_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RecordWriter(folder)
    writer.add(a_record("a"))
    before = Path("records.jsonl").read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"records\.jsonl: cannot be written: No space left on device"):
            writer.add(a_record("b"))
    assert Path("records.jsonl").read_bytes() == before
    writer.add(a_record("b"))
    with pytest.raises(ValueError, match="recorded already"):
        writer.add(a_record("b"))
    writer.close()
    again = RecordWriter(folder)
    again.close()
    assert [record.key for record in again.records] == ["a", "b"]


def a_record(key: str) -> Record:
    nothing = dict.fromkeys(Record.__struct_fields__)
    numbers = {"seed": 0, "threads": 1, "time_limit": 1.0, "process_s": 0.0, "cpu_s": 0.0, "peak_bytes": 0}
    texts = dict.fromkeys(("set", "instance", "sha256", "method", "started", "worker"), "x")
    fields: dict[str, Any] = {**nothing, **numbers, **texts, "parameters": {}, "trajectory": [], "status": "failed"}
    return Record(**fields | {"key": key})


# --- what it is told ----------------------------------------------------------------------------------------------


def test_methods_from_a_file(bench: Bench) -> None:
    Path("methods.toml").write_text(
        '[[method]]\nname = "long"\nmethod = "bad_methods:nap"\nparameters = {seconds = 0}\n'
        '[[method]]\nmethod = "popular"\n'
    )
    bench(TINY, "--methods", "bad_methods:nap[seconds=0.01]", "--methods-file", "methods.toml")
    assert [r.method for r in read_run("run").records] == ["bad_methods:nap[seconds=0.01]", "long", "popular"]
    Path("methods.toml").write_text('[[method]]\nnme = "x"\nmethod = "popular"\n')
    with pytest.raises(InputError, match=r'methods.toml: method\[0\]: unknown key "nme"'):
        read_methods("methods.toml")
    for value in ("1979-05-27", "nan", "[07:32:00]"):
        Path("methods.toml").write_text(f'[[method]]\nmethod = "local-search"\nparameters = {{kicks = {value}}}\n')
        with pytest.raises(InputError, match=r"methods.toml: method\[0\].parameters.kicks: expected a value that JSON"):
            read_methods("methods.toml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tinny", "--methods", "popular"], "no set, folder or file 'tinny'; the sets are tiny,"),
        ([TINY], "no method is given"),
        ([TINY, "--methods", "nonsense"], "no method 'nonsense'; there are auto"),
        ([TINY, "--methods", "popular[depth"], "is not of the form method or method[key=value,...]"),
        ([TINY, "--methods", "popular,popular"], "the method popular is given twice\n"),
        ([TINY, "--methods", "popular", "--seeds", "3-1"], "seeds are numbers and ranges"),
        ([TINY, "--methods", "popular", "--threads", "0"], "threads must be at least 1"),
        ([TINY, "--methods", "popular", "--scheduler", "tcp://127.0.0.1:1"], "--workers is for this machine"),
        (["broken.json", "--methods", "popular"], "broken.json: line 1, column 1: not JSON"),
        ([TINY, "copy", "--methods", "popular"], "is the same instance as"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(bench: Bench, arguments: list[str], message: str) -> None:
    Path("broken.json").write_text("no")
    Path("copy").mkdir()
    Path("copy/tiny_two_servers_share.json").write_bytes(Path(TINY).read_bytes())
    _, err = bench(*arguments, code=2)
    assert message in err
    assert err.count("\n") == 1
    assert not Path("run").exists()


def test_methods_are_described_in_processes_of_their_own(folder: Path) -> None:
    Path("crash.py").write_text("import os\nos._exit(4)\n")
    asked = {
        "nowhere:method": "'nowhere:method' cannot be loaded: ModuleNotFoundError",
        "popular[depth=1]": "method popular has no parameter 'depth'; it has none",
        "bad_methods:cheap[seed=3]": "seed is no parameter of a method",
        "greedy[gap=0.1]": "method greedy has no parameter 'gap'",
        "crash:method": "'crash:method' cannot be loaded: its process ended with exit code 4",
    }
    methods = [method_specification(text, json.loads) for text in [*asked, "cpsat[gap=0.1]", "bad_methods:nap"]]
    with LocalPool(1, 1) as pool:
        *wrong, cpsat, nap = pool.describe(describe_orders(methods))
        assert pool.modules == sorted(cpsat.imports)
    for description, message in zip(wrong, asked.values(), strict=True):
        assert message in (description.error or "")
    assert (cpsat.error, cpsat.seeded, nap) == (None, True, Description([], True))
    assert "moeplace.solvers.cpsat" in cpsat.imports


def test_a_harness_killed_while_it_began(bench: Bench) -> None:
    Path("run").mkdir()
    Path("run/lock").write_text("1\n")
    Path("run/.run.json.x1y2").write_text('{"format": "moe')
    bench(TINY, "--methods", "popular")
    assert sorted(path.name for path in Path("run").iterdir()) == ["lock", "records.jsonl", "run.json", "solutions"]


def test_a_folder_with_something_else_in_it_is_left_alone(bench: Bench) -> None:
    Path("run").mkdir()
    Path("run/thesis.txt").write_text("years of work")
    _, err = bench(TINY, "--methods", "popular", code=2)
    assert err == "moeplace bench: run: holds other files and no run.json; give a new folder\n"
    with pytest.raises(InputError, match=r"run: is no run directory: there is no run.json in it"):
        read_run("run")


def test_a_run_does_not_write_beside_its_suites(bench: Bench) -> None:
    bench(TINY, "--methods", "popular")
    Path("run/solutions/own.json").write_bytes(Path(PAIR).read_bytes())
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    Path("link").symlink_to("run")
    for suite in ("run", "run/solutions", "run/solutions/own.json", "link/solutions"):
        _, err = bench(TINY, suite, "--methods", "popular", code=2)
        assert err == f"moeplace bench: run: holds the suite {suite}, beside which a run would write; give another\n"
        assert {path: path.read_bytes() for path in before} == before, suite


def test_a_name_that_is_not_utf_8_is_one_line(bench: Bench) -> None:
    odd = os.fsdecode(b"b\xffd")
    Path(odd).mkdir()
    inside = Path(odd) / "tiny_pair.json"
    inside.write_bytes(Path(PAIR).read_bytes())
    Path("link.json").symlink_to(inside)
    for suite in (odd, str(inside), "link.json"):
        _, err = bench(TINY, suite, "--methods", "popular", code=2)
        assert "expected UTF-8 as the name of a " in err, suite
        assert err.endswith("found the byte 0xff\n"), suite
        assert err.count("\n") == 1, suite
    _, err = bench(TINY, "--methods", odd, code=2)
    assert "expected UTF-8 as a method, found the byte 0xff" in err
    assert not Path("run").exists()


def test_files_have_the_mode_that_the_umask_leaves(folder: Path) -> None:
    for mask, expected in ((0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            run = folder / f"{mask}"
            run.mkdir()
            writer = RecordWriter(run)
            writer.add(msgspec.structs.replace(a_record("a"), solution="solutions/a.json"), b"{}")
            writer.close()
            write_durably(run / "run.json", b"{}")
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_file()}
        assert modes == dict.fromkeys(("a.json", "records.jsonl", "run.json"), expected), mask


def test_progress_on_a_terminal(folder: Path) -> None:
    ours, theirs = os.openpty()
    command = ["tiny", "--methods", "bad_methods:nap[seconds=0.4],bad_methods:broken", "--time-limit", "50"]
    process = subprocess.Popen(
        [sys.executable, "-m", "moeplace", "bench", *command, "--workers", "1", "-o", "run"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(TESTS), "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(ours, 4096):
            shown += data
    os.close(ours)
    assert process.wait(timeout=PATIENCE_S) == 1
    lines = re.findall(r"(\d+) of 16 runs  (\d+:\d\d) left(?:  (\d+) failed)?", shown.decode(errors="replace"))
    assert len(lines) > 3
    done = [int(line[0]) for line in lines]
    assert done == sorted(done)
    assert any(int(line[2] or 0) > 0 for line in lines)
    # What has not run yet is thought to take its limit: both methods, 800 s together, or the second one alone where the
    # screen first showed something after a run of the first; less what has passed since.
    minutes, seconds = map(int, lines[0][1].split(":"))
    assert 60 * minutes + seconds > 300


def test_too_many_workers_are_warned_of(bench: Bench) -> None:
    many = str((os.cpu_count() or 1) + 1)
    _, err = bench(TINY, "--methods", "popular", workers=many)
    assert f"note: {many} workers of 1 thread on" in err


# --- best known values --------------------------------------------------------------------------------------------


@pytest.fixture
def own(bench: Bench) -> Path:
    """A folder of two instances of which nothing is known, and a run of a weak method over them."""
    Path("own").mkdir()
    for name in ("tiny_sum_adds_up", "tiny_two_servers_share"):  # popular saves something on both
        Path(f"own/{name}.json").write_bytes((instances_folder() / "tiny" / f"{name}.json").read_bytes())
    bench("own", "--methods", "no-cache")
    return Path("own")


def update(capfd: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[str, str]:
    capfd.readouterr()
    result = main(["best-known", "--update", "run", *args])
    out, err = capfd.readouterr()
    assert result == code, (out, err)
    return out, err


def test_best_known_values_only_get_better(own: Path, bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    def known() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((own / "best_known.json").read_text())
        return found

    out, _ = update(capfd)
    assert "2 instances improved, 2 in run" in out
    assert {(v["bound_ns"], v["latency_method"], v["optimal"]) for v in known().values()} == {(None, "no-cache", False)}
    bench("own", "--methods", "no-cache,cpsat")
    out, _ = update(capfd)
    proven = known()
    for name, values in proven.items():
        record = best_known("tiny")[name]
        assert values["latency_ns"] == values["bound_ns"] == record.latency_ns
        assert (values["optimal"], values["latency_method"]) == (True, "cpsat")
        assert "CP-SAT" in values["bound_method"]
    before = (own / "best_known.json").read_bytes()
    out, _ = update(capfd)
    assert out == "0 instances improved, 2 in run\n"
    # A worse cost and a weaker bound replace nothing.
    Path("run").rename("better")
    bench("own", "--methods", "popular")
    update(capfd)
    assert (own / "best_known.json").read_bytes() == before


def test_a_false_bound_is_not_taken(own: Path, bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench("own", "--methods", "no-cache,bad_methods:claim,popular", code=1)
    _, err = update(capfd)
    assert "note: not taken: " in err
    assert "bad_methods:claim" in err
    values = json.loads((own / "best_known.json").read_text()).values()
    assert all(value["bound_ns"] is None for value in values if value["latency_method"] == "popular")


def test_contradictions_are_refused_naming_both(own: Path, bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    update(capfd)
    known = json.loads((own / "best_known.json").read_text())
    name = sorted(known)[0]
    known[name] |= {"bound_ns": known[name]["latency_ns"], "bound_method": "an oracle", "optimal": True}
    (own / "best_known.json").write_text(json.dumps(known))
    before = (own / "best_known.json").read_bytes()
    bench("own", "--methods", "no-cache,popular")
    _, err = update(capfd, code=1)
    assert f"{name}: the cost" in err
    assert "of popular is below the bound" in err
    assert "of an oracle" in err
    assert (own / "best_known.json").read_bytes() == before  # not even the other instance


def test_a_recorded_cost_below_a_new_bound_is_refused(
    own: Path, bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    name = sorted(path.stem for path in own.glob("*.json"))[0]
    record = best_known("tiny")[name]
    cheaper = msgspec.structs.replace(record, bound_ns=None, bound_method=None, optimal=False)
    bench("own", "--methods", "no-cache,bad_methods:claim")  # nothing in the run refutes the claim
    (own / "best_known.json").write_bytes(msgspec.json.encode({name: cheaper}))
    before = (own / "best_known.json").read_bytes()
    _, err = update(capfd, code=1)
    assert f"{name}: the cost {record.latency_ns} of {record.latency_method} is below the bound" in err
    assert "of a claim" in err
    assert (own / "best_known.json").read_bytes() == before


def test_a_record_that_its_solution_does_not_bear_out_is_refused(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = Path("run/records.jsonl")
    first, *others = [json.loads(line) for line in file.read_text().splitlines()]
    first["latency_ns"] -= 1
    file.write_text("".join(json.dumps(record) + "\n" for record in (first, *others)))
    _, err = update(capfd, code=2)
    assert f"{first['solution']}: the cost {first['latency_ns'] + 1} and the bound None; the record" in err
    assert not (own / "best_known.json").exists()


def test_instances_elsewhere(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own.rename("moved")
    _, err = update(capfd, code=2)
    assert "is not there" in err
    update(capfd, "--instances", "moved")
    assert len(json.loads(Path("moved/best_known.json").read_text())) == 2
    changed = sorted(Path("moved").glob("tiny*.json"))[0]
    changed.write_text(json.dumps(json.loads(changed.read_text()) | {"notes": "changed"}))
    Path("moved/best_known.json").unlink()
    _, err = update(capfd, "--instances", "moved", code=2)
    assert "has changed since the run" in err
    assert not Path("moved/best_known.json").exists()
