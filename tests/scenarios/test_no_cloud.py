"""Instances without a cloud: GPUs of stations, loading, slots, from options and tables; what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import looped
from msgspec import UNSET
from random_instances import brute_force_2, random_document_2

import moeplace
from moeplace import InputError, Instance
from moeplace.base.documents import UNREACHABLE
from moeplace.caching.coverage import shortage
from moeplace.caching.scenarios.suites import Scenario, default_name, generate
from moeplace.cli import main

SHAPE: dict[str, Any] = {"layers": 2, "experts": 4, "top_k": 2, "expert_bytes": 1000, "tokens": 10, "users": 3}
OPTIONS = ["--layers", "2", "--experts", "4", "--top-k", "2", "--expert-bytes", "1000", "--tokens", "10"]
LATENCY = "user,a,b,cloud\nann,1,3,9\nbob,,2,\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_every_station_becomes_servers_of_equal_times() -> None:
    plain = generate(Scenario(stations=2, capacity=150, **SHAPE))
    notes: list[str] = []
    wanted = Scenario(
        stations=2, capacity=150, no_cloud=True, gpus_per_station=3, load_gb_per_s=0.3, load_weight=7, layer_slots=2,
        **SHAPE,
    )  # fmt: skip
    instance = generate(wanted, note=notes.append)
    assert [server.name for server in instance.servers] == [f"station-{n}-gpu{g}" for n in (0, 1) for g in (0, 1, 2)]
    assert [server.host for server in instance.servers] == ["station-0"] * 3 + ["station-1"] * 3
    assert {s.load_bytes_per_s for s in instance.servers} == {
        300_000_000
    }  # 0.3 as it is written, not as a float has it
    assert {server.layer_slots for server in instance.servers} == {2}
    assert instance.capacity_bytes.tolist() == [
        capacity // 3 for capacity in plain.capacity_bytes.tolist() for _ in "123"
    ]
    assert (instance.server_ns == np.repeat(plain.server_ns, 3, axis=1)).all()
    assert not instance.has_cloud.any()
    assert instance.document()["loading"] == {"weight": 7}
    assert instance.rows.item.tolist() == plain.rows.item.tolist()
    assert notes == ["3 GPUs at each of 2 stations: a station's storage is divided among its GPUs"]
    assert instance.name == "l02e004k2_nocloud_gpu3_slots2_load0.3_weight7_s2_u3_c150_seed0" == default_name(wanted)
    said = instance.source
    assert (said["no_cloud"], said["gpus_per_station"], said["load_gb_per_s"]) == (1, 3, "0.3")
    assert not {"wan_round_trip_us", "cloud_gb_per_s"} & said.keys()
    assert not {"no_cloud", "gpus_per_station"} & plain.source.keys()  # files of version 1 stay as they were
    assert plain.document()["version"] == 1


def test_a_table_says_it_of_every_server(capsys: pytest.CaptureFixture[str]) -> None:
    Path("latency.csv").write_text(LATENCY)
    Path("servers.csv").write_text("name,capacity_bytes,host,load_bytes_per_s\nb,8000,h,\na,8000,,25\n")
    arguments = ["generate", *OPTIONS, "--latency", "latency.csv", "--servers", "servers.csv", "--no-cloud"]
    _, err = run(capsys, *arguments, "-o", "x.json")
    assert err == "note: latency.csv: times to the cloud of 1 user are not read: --no-cloud\n"
    instance = moeplace.load("x.json")
    assert [(s.name, s.host, s.load_bytes_per_s) for s in instance.servers] == [("b", "h", UNSET), ("a", UNSET, 25)]
    assert instance.server_ns.tolist() == [[3_000_000, 1_000_000], [2_000_000, UNREACHABLE]]
    for option, said in (
        ("--gpus-per-station 2", "--gpus-per-station: the rows of servers.csv are GPUs already"),
        ("--load-gb-per-s 2", "--load-gb-per-s: is without effect: servers.csv says it of each server"),
        ("--cloud-ms 9", "--cloud-ms: is without effect: there is no cloud"),
        ("--layer-slots -1", "--layer-slots: expected an integer >= 0"),
    ):
        assert said in run(capsys, *arguments, *option.split(), "-o", "y.json", code=2)[1]
    Path("servers.csv").write_text("name,capacity_bytes\na,8000\nb,8000\n")
    assert "per row" not in run(capsys, *arguments, "--gpus-per-station", "2", "-o", "x.json")[1]
    instance = moeplace.load("x.json")
    assert instance.capacity_bytes.tolist() == [8000] * 4
    assert instance.server_ns[1].tolist() == [UNREACHABLE, UNREACHABLE, 2_000_000, 2_000_000]
    assert "loading is free" in run(capsys, *arguments, "--load-weight", "2", "-o", "y.json", code=2)[1]
    plain = ["generate", *OPTIONS, "--no-cloud"]
    assert "--cloud-gb-per-s: is without" in run(capsys, *plain, "--cloud-gb-per-s", "9", "-o", "y.json", code=2)[1]
    assert "--latency" not in run(capsys, *arguments[:-1], "--cloud-ms", "9", "-o", "y.json")[1]


def test_what_cannot_be_placed_by_counting_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Counting never contradicts brute force, and names what is short; packing that fails is beyond it."""
    said, beyond, words = set(), 0, {"bytes short", "slots for the layer", "reaches no server"}
    for seed in range(150):
        document = random_document_2(np.random.default_rng(seed), max_variables=8)
        found = shortage(Instance.from_document(document))
        exists = brute_force_2(document) is not None
        assert not (found and exists), seed
        beyond += not exists and found is None
        said |= {word for word in words if found and word in found}
    assert said == words
    assert beyond > 0
    _, err = run(capsys, "generate", *OPTIONS, "--users", "3", "--stations", "2", "--no-cloud", "-o", "x.json")
    assert err.startswith("warning: no placement exists: 8 experts ([0, 0] of 'moe', ")
    assert err.endswith("must be held on 'station-0', 'station-1': 8,000 bytes, they have 4,800: 3,200 bytes short\n")
    assert "3,200 bytes short" in run(capsys, "info", "x.json")[0]


def test_info_and_summary_speak_of_hosts_slots_and_home(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--users", "3", "--stations", "2", "--capacity", "200", "--gpus-per-station", "2", "--no-cloud"]
    run(capsys, "generate", *OPTIONS, *options, "--load-gb-per-s", "1", "--layer-slots", "3", "-o", "x.json")
    out, _ = run(capsys, "info", "x.json")
    for line in (
        "3 of 3 demands without a cloud: 8 experts of 8 kB must be on a server within reach",
        "4 servers within reach with 2 times that, 1 set of servers that demands reach; counting memory and slots",
        "hosts        2: station-0 (2), station-1 (2)",
        "slots        3 of a layer on 4 of 4 servers, 12 in all for 4 experts",
        "loading      1 GB/s; 1 ns counts 1 token-ns",
        "per token with every expert as far away as can be",
    ):
        assert line in out, (line, out)
    document = json.loads(run(capsys, "info", "x.json", "--json")[0])
    assert document["coverage"]["experts"] == 8
    assert document["hosts"] == {"station-0": 2, "station-1": 2}
    assert (document["layer_slots"]["in_all"], document["loading"]["slowest_bytes_per_s"]) == (12, 10**9)
    out, _ = run(capsys, "solve", "x.json", "--method", "small_methods:covering", "-o", "s.json")
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "against every expert as far away as can be" in lines["latency"]
    assert "8 experts to load, 8 kB" in lines["loading"]
    assert lines["served"].split() == ["served", "device", "home", "elsewhere"]
    shares = [float(word) for word in lines["expert requests"].replace("%", "").split()[2:]]
    assert sum(shares) == pytest.approx(100, abs=0.02)
    assert lines["host"].split() == ["host", "servers", "used", "capacity", "experts", "twice", "or", "more"]
    assert sum(int(lines[name].split()[-2]) for name in ("station-0", "station-1")) == 8
    run(capsys, "plot", "map", "x.json", "s.json", "-o", "map.svg")
    assert Path("map.svg").stat().st_size > 1000
    out, _ = run(capsys, "score", "x.json", "s.json", "--json")
    said, solution = json.loads(out), moeplace.read_solution("s.json")
    assert (said["loading_ns"], said["cost_ns"]) == (solution.objective.loading_ns, solution.value)
    assert said["saving"] == pytest.approx((said["baseline_ns"] - solution.value) / said["baseline_ns"])


@looped("gpus", [1, 2])
def test_users_beyond_the_range_are_far_also_without_a_cloud(gpus: int) -> None:
    notes: list[str] = []
    wanted = {**SHAPE, "stations": 1, "site_distance_m": 5000, "gpus_per_station": gpus, "capacity": 200}
    generate(Scenario(no_cloud=True, **wanted), note=notes.append)
    (far,) = (note for note in notes if note.startswith("far: "))
    assert "more than 600 m from their station, up to" in far
    with pytest.raises(InputError, match="load_gb_per_s: less than a byte a second"):
        generate(Scenario(load_gb_per_s=1e-12, **wanted))
