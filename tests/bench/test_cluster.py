"""Benchmarks on a Dask cluster: a real scheduler and real workers on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from cases import PATIENCE_S
from run_directories import complete

from moeplace.bench import cluster
from moeplace.bench.records import read_run
from moeplace.cli import main
from moeplace.library import instances_folder

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")

TESTS = Path(__file__).resolve().parents[1]
TINY = str(instances_folder() / "tiny" / "tiny_two_servers_share.json")


@dataclass
class Cluster:
    """A scheduler and workers, each a process of its own."""

    address: str
    workers: dict[str, subprocess.Popen[bytes]]
    folder: Path

    def runs(self) -> list[psutil.Process]:
        """Return the processes of runs and of the workers of ours that fork them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("MOEPLACE_TEST_CLUSTER") != str(self.folder):
                    continue
                if "moeplace.bench.worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "MOEPLACE_TEST_CLUSTER": str(folder)}
    log = (folder / "log").open("w")

    def begin(program: str, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--scheduler-file", "scheduler.json"]
        command += ["--host", "127.0.0.1", "--no-dashboard", *args]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    scheduler = begin("scheduler", "--port", "0")
    dask = Cluster("", {}, folder)
    try:
        local = ("--nthreads", "1", "--no-nanny", "--local-directory", str(folder))
        for name in ("ada", "eve"):
            dask.workers[name] = begin("worker", "--name", name, *local)
        while not dask.address:
            assert scheduler.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
            with contextlib.suppress(OSError, ValueError):
                dask.address = json.loads((folder / "scheduler.json").read_text())["address"]
        with distributed.Client(dask.address, timeout=PATIENCE_S, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=PATIENCE_S)
        yield dask
    finally:
        for process in [*dask.workers.values(), scheduler]:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=PATIENCE_S)
            process.kill()
            process.wait()
        log.close()
    while dask.runs():  # or pytest's own limit ends it
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))
    return tmp_path


def test_the_same_runs_on_a_cluster(dask: Cluster, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # The limit must end nothing but what hangs: loading and starting on a busy machine are not of the method's time.
    limits = ["--time-limit", "1", "--grace", "5", "-o", "run", "--scheduler", dask.address]
    bad = "bad_methods:segfault,bad_methods:hang,bad_methods:suicide,bad_methods:patricide"
    assert main(["bench", TINY, "--methods", f"popular,random,{bad}", "--seeds", "0-1", *limits]) == 1
    data = read_run("run")
    complete(data)
    statuses = {record.method: (record.status, record.message) for record in data.records}
    assert statuses["popular"] == statuses["random"] == ("ok", None)
    assert [statuses[name][0] for name in bad.split(",")] == ["crashed", "timeout", "crashed", "crashed"]
    assert "its worker was killed during the run, 3 times" in str(statuses["bad_methods:patricide"][1])
    assert {record.worker for record in data.records} <= {"ada", "eve"}
    assert data.run.environment.scheduler == dask.address
    assert data.run.environment.workers == 2
    local = ["--time-limit", "1", "--grace", "5", "-o", "local", "--workers", "1"]
    assert main(["bench", TINY, "--methods", "popular,random", "--seeds", "0-1", *local]) == 0
    here = {(r.key, r.latency_ns) for r in read_run("local").records}
    assert here == {(r.key, r.latency_ns) for r in data.records if r.status == "ok"}  # the same ids, the same costs
    capfd.readouterr()


def test_a_killed_worker_and_a_killed_harness(dask: Cluster, folder: Path) -> None:
    command = [sys.executable, "-m", "moeplace", "bench", "tiny", "--methods", "bad_methods:nap[seconds=0.4]"]
    command += ["--seeds", "0-2", "--time-limit", "300", "-o", "run", "--scheduler", dask.address]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}

    def started(records: int) -> subprocess.Popen[bytes]:
        harness = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not Path("run/records.jsonl").exists() or len(read_run("run").records) < records:
            assert harness.poll() is None
            time.sleep(0.02)
        return harness

    harness = started(4)
    harness.kill()
    harness.communicate()
    kept = len(read_run("run").records)
    while dask.runs():  # the scheduler has cancelled what was under way
        time.sleep(0.05)

    harness = started(kept + 4)
    dask.workers["eve"].send_signal(signal.SIGKILL)
    _, err = harness.communicate(timeout=PATIENCE_S)
    assert harness.returncode == 0, err
    data = read_run("run")
    complete(data)
    assert len(data.records) == 24
    assert {record.status for record in data.records} == {"ok"}


def test_a_cluster_that_is_not_there(dask: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch,
                                     capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(cluster, "_CONNECT_S", 0.5)
    arguments = ["bench", TINY, "--methods", "popular", "-o", "run", "--scheduler"]
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        assert main([*arguments, address]) == 2
        err = capfd.readouterr().err
        assert f"moeplace bench: no Dask scheduler answers at '{address}': " in err
        assert err.count("\n") == 1
    monkeypatch.setattr(cluster, "_CONNECT_S", 10)

    def not_installed() -> str:
        raise ModuleNotFoundError("No module named 'moeplace'")

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_version", not_installed)
        assert main([*arguments, dask.address]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("moeplace bench: ")]
    assert line.endswith("a Dask worker cannot run moeplace: ModuleNotFoundError: No module named 'moeplace'")
    monkeypatch.setattr(cluster, "version", lambda package: "9.9")
    close, closed = cluster.distributed.Client.close, []

    def closing_badly(client: Any) -> None:
        was = client.status
        close(client)
        # Only one that runs: Dask closes a client again when Python forgets it, and there nobody could catch this.
        if was == "running":
            closed.append(client.status)
            raise AssertionError

    with monkeypatch.context() as patch:  # as Dask does now and then on a busy machine
        patch.setattr(cluster.distributed.Client, "close", closing_badly)
        assert main([*arguments, dask.address]) == 2
    assert closed == ["closed"]
    assert ", here it is 9.9" in capfd.readouterr().err
    monkeypatch.setattr(cluster, "distributed", None)
    assert main([*arguments, dask.address]) == 2
    assert "--scheduler needs Dask: install moeplace[cluster]" in capfd.readouterr().err
    assert not Path("run").exists()
