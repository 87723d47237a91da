"""Measured times and the servers' storage: exact, by name, refused in one line, without a model of radio."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from cases import looped
from random_instances import brute_force

import moeplace
from moeplace import InputError
from moeplace.base.documents import UNREACHABLE
from moeplace.caching.scenarios.suites import Scenario, generate, generate_suite
from moeplace.cli import main
from moeplace.scenarios import csvtable
from moeplace.scenarios.measured import read_measured, read_servers
from moeplace.scenarios.topology import Links

MODEL = ["--layers", "2", "--experts", "4", "--top-k", "2", "--expert-bytes", "1000"]

PAIRS = """user,server,ms
ann,north,1.25
ann,south,3
ann,cloud,40
bob,south,0.000001
bob,cloud,39.5
"""
MATRIX = """user,north,south,cloud
ann,1.25,3,40
bob,,0.000001,39.5
"""
SERVERS = """name,capacity_bytes
south,3000
north,2500
"""
TRACE = """request,user,token,layer,experts
0,ann,0,0,0 1
0,ann,0,1,2 3
1,bob,0,0,1 2
1,bob,0,1,1 3
2,ann,0,0,0 1
2,ann,0,1,0 3
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(**files: str) -> None:
    for name, text in files.items():
        Path(f"{name}.csv").write_text(text)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


class TestTimes:
    @looped("text", [PAIRS, MATRIX, PAIRS.replace(",", ";"), MATRIX.replace(",", "\t"), MATRIX.replace("user", "")])
    def test_pairs_and_matrix_say_the_same(self, text: str) -> None:
        write(latency=text)
        measured = read_measured("latency.csv")
        assert (measured.users, measured.stations) == (("ann", "bob"), ("north", "south"))
        assert measured.server_ns.tolist() == [[1_250_000, 3_000_000], [UNREACHABLE, 1]]
        assert measured.cloud_ns.tolist() == [40_000_000, 39_500_000]
        assert measured.device_ns is None
        assert measured.notes == ()

    @looped("decimals", ["0.1", "3.3", "2.675", "1e-6", "12345678.901234", "0.3", "+4.", ".5"])
    def test_times_are_exact(self, decimals: str) -> None:
        write(latency=f"user,n,cloud\na,{decimals},1e2\n")
        measured = read_measured("latency.csv")
        assert measured.server_ns[0, 0] == Fraction(decimals.rstrip(".")) * 10**6
        assert measured.cloud_ns[0] == 100_000_000

    def test_what_is_finer_than_a_nanosecond_is_rounded_and_said(self) -> None:
        write(latency="user,n,cloud\na,3.3000000000000003,40\nb,1.0000005,40\nc,1.0000006,40\n")
        measured = read_measured("latency.csv")
        assert measured.server_ns[:, 0].tolist() == [3_300_000, 1_000_000, 1_000_001]  # the half goes to the even one
        assert measured.notes == ("latency.csv: 3 times rounded to the nanosecond",)

    def test_decimal_commas_between_semicolons(self) -> None:
        write(latency="user;n;cloud\na;3,25;40\n")
        measured = read_measured("latency.csv")
        assert measured.server_ns.tolist() == [[3_250_000]]
        assert measured.notes == ("latency.csv: numbers such as 1,5 are read with a decimal comma",)
        write(latency="user\tn\tcloud\na\t3,250\t40\n")  # three thousand, or three and a quarter?
        with pytest.raises(InputError, match=r'line 2: a, n: expected milliseconds, found "3,250"'):
            read_measured("latency.csv")
        write(latency="user;n;cloud\na;3,25;1.250\n")
        with pytest.raises(InputError, match=r'line 2: a, cloud: expected milliseconds, found "1.250"'):
            read_measured("latency.csv")

    def test_what_a_table_of_pings_is_taken_for_is_said(self) -> None:
        write(latency="source,destination,stamp,min,avg,max\na,b,7,10.1,10.5,12\nb,a,7,11,11.2,13\n")
        measured = read_measured("latency.csv", cloud_ms="80.5")
        assert measured.server_ns.tolist() == [[10_500_000, UNREACHABLE], [UNREACHABLE, 11_200_000]]
        assert measured.stations == ("b", "a")
        assert measured.cloud_ns.tolist() == [80_500_000] * 2
        assert measured.notes == (
            "latency.csv: columns that are not read: stamp, min, max",
            "latency.csv: the column avg is taken as milliseconds, there and back",
        )

    def test_pairs_without_a_heading(self) -> None:
        write(latency=PAIRS.partition("\n")[2])
        measured = read_measured("latency.csv")
        assert measured.server_ns[0].tolist() == [1_250_000, 3_000_000]
        assert measured.notes == ("latency.csv: has no heading; the columns are taken as user, server, ms",)

    def test_servers_may_be_called_by_numbers(self) -> None:
        write(latency="user,0,1\nann,2,3\n7,1,2\n")
        measured = read_measured("latency.csv", cloud_ms="9")
        assert (measured.stations, measured.users) == (("0", "1"), ("ann", "7"))
        assert measured.notes == ()
        write(latency="user,0,cloud\nann,2,3\n7,1,\n")
        measured = read_measured("latency.csv", cloud_ms="9")
        assert measured.cloud_ns.tolist() == [3_000_000, 9_000_000]
        assert measured.notes == ("latency.csv: 1 of 2 users with the time of --cloud-ms",)

    def test_devices_of_all_users_or_none(self) -> None:
        write(latency="user,n,Cloud,DEVICE\na,1,40,7.5\nb,2,40,8\n")
        measured = read_measured("latency.csv")
        assert measured.stations == ("n",)
        assert measured.latencies(1, 1)[2].tolist() == [7_500_000, 8_000_000]
        write(latency="user,n,cloud,device\na,1,40,7.5\nb,2,40,\n")
        with pytest.raises(InputError, match='no time of the device of user "b"; all users have one or none'):
            read_measured("latency.csv")

    def test_positions_in_a_matrix_are_no_servers(self) -> None:
        write(latency="user,lat,lon,n,cloud\na,48.1,11.5,1,40\n")
        measured = read_measured("latency.csv")
        assert measured.stations == ("n",)
        assert measured.notes == ("latency.csv: columns that are not read: lat, lon",)


BROKEN_TIMES = {
    "empty": ("", "is empty; a heading with user, server and ms was expected"),
    "no times": ("user,north,cloud\n", "has a heading but no times"),
    "no pairs": ("user,server,ms\n", "has a heading but no times"),
    "no names": ("0,10.5\n10.4,0\n", "line 1: expected a heading with names: user,server,ms, or user and the servers"),
    "three without names": ("0,10.5,3\n10.4,0,2\n", "line 1: expected a heading with names"),
    "users and no servers": ("ann,1.2,3.4\nbob,2,1\n", "line 1: expected a heading with names"),
    "users and no four servers": ("ann,1.2,,3.4,5\nbob,2,1,2,3\n", "line 1: expected a heading with names"),
    "pairs cut short": ("ann,n,1\nbob\n", "line 2: the server is missing"),
    "blanks between": ("0 10.5 30\n10 0 25\n", "line 1: expected cells with commas, semicolons or tabs between them"),
    "servers in rows": ("server,ann,bob\nnorth,1,2\n", "line 1: expected columns user, server and ms, or a matrix"),
    "no column of times": ("user,server,secs\nann,north,1\n", "line 1: expected columns user, server and ms, or a"),
    "no column of servers": ("user,ms\nann,1\n", "line 1: expected columns user, server and ms, or a matrix"),
    "a word": ("user,north,cloud\nann,near,40\n", 'line 2: ann, north: expected milliseconds, found "near"'),
    "NaN": ("user,north,cloud\nann,nan,40\n", 'line 2: ann, north: expected milliseconds, found "nan"'),
    "infinity": ("user,server,ms\nann,north,inf\n", 'line 2: ann, north: expected milliseconds, found "inf"'),
    "negative": ("user,north,cloud\nann,-1,40\n", 'line 2: ann, north: expected milliseconds, found "-1"'),
    "beyond all bounds": ("user,north,cloud\nann,1e99,40\n", 'line 2: ann, north: expected milliseconds, found "1e99"'),
    "pair twice": (PAIRS + "ann,north,1\n", "line 7: the pair ann, north stands in line 2 already; one row a pair"),
    "cloud twice": ("user,server,ms\na,cloud,1\na,Cloud,2\n", "line 3: the pair a, cloud stands in line 2 already"),
    "user twice": (MATRIX + "ann,1,2,3\n", 'line 4: the name "ann" stands in line 2 already'),
    "server twice": ("user,n,n,cloud\na,1,2,3\n", 'line 1: the server "n" stands there twice'),
    "server without a name": ("user,n,,cloud\na,1,2,3\n", "line 1: a column without a name"),
    "user without a name": ("user,n,cloud\n,1,40\n", "line 2: the name is missing"),
    "pair without server": ("user,server,ms\na,,1\n", "line 2: the server is missing"),
    "pair without user": ("user,server,ms\n,n,1\n", "line 2: the user is missing"),
    "too many cells": ("user,n,cloud\na,1,40,3\n", "line 2: 4 cells, the heading has 3"),
    "no cloud": ("user,n\na,1\nb,2\n", 'no time to the cloud of user "a" (and of 1 more); measure it as server cloud'),
    "cloud of one": ("user,n,cloud\na,1,40\nb,2,\n", 'no time to the cloud of user "b"; measure it as server cloud'),
    "no time at all": ("user,n,cloud\na,1,40\nb,,\n", 'no time of user "b"'),
    "no server": ("user,cloud\na,40\n", "no server is measured"),
    "column heading twice": ("user,user,server,ms\na,b,n,1\n", "heading: the column user stands there twice"),
    "not UTF-8": ("user,n\n\udcff,1\n", "not a CSV file in UTF-8"),
}


@looped("case", BROKEN_TIMES)
def test_broken_times_are_one_line(case: str) -> None:
    text, message = BROKEN_TIMES[case]
    Path("latency.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        read_measured("latency.csv")
    assert str(caught.value).startswith(f"latency.csv: {message}"), str(caught.value)
    assert "\n" not in str(caught.value)


class TestServers:
    @looped(
        "table",
        [
            ("name,capacity_bytes\na,24000000000\nb,7\n", [24 * 10**9, 7], 0),
            ("server;capacity_gb\na;23,5\nb;0,0000000019\n", [23_500_000_000, 1], 1),
            ("Name,Capacity_GiB\na,1\nb,0.5\n", [2**30, 2**29], 0),
            ("name,gpu_gb\na,24\nb,80\n", [24 * 10**9, 80 * 10**9], 1),
        ],
    )
    def test_storage_in_several_units(self, table: tuple[str, list[int], int]) -> None:
        text, expected, notes = table
        write(servers=text)
        servers = read_servers("servers.csv")
        assert servers.names == ("a", "b")
        assert list(servers.capacity_bytes) == expected
        assert servers.positions is None
        assert len(servers.notes) == notes

    def test_host_loading_and_slots(self) -> None:
        write(servers="name,host,capacity_gb,load_gb_per_s,layer_slots\na,h,1,0.5,\nb,,1,,0\n")
        servers = read_servers("servers.csv")
        assert (servers.hosts, servers.load_bytes_per_s) == (("h", None), (500_000_000, None))
        assert (servers.layer_slots, servers.notes) == ((None, 0), ())
        heading = "name,capacity_gb,load_bytes_per_s,layer_slots,load_gb_per_s"
        for row, said in (
            ("a,1,0,2", "load_bytes_per_s: expected a whole number, at least 1, found"),
            ("a,1,9,1.5", "layer_slots: expected a whole number, at least 0, found"),
            ("a,1,9,2,1", "expected one of load_bytes_per_s and load_gb_per_s, found both"),
        ):
            write(servers=f"{heading.rpartition(',')[0] if row.count(',') < 4 else heading}\n{row}\n")
            with pytest.raises(InputError, match=said):
                read_servers("servers.csv")
        write(servers="name,host,capacity_gb,load_bytes_per_s,layer_slots,x,y\na,h,1,9,2,10.4,-3\n")
        servers = read_servers("servers.csv")
        assert (servers.hosts, servers.load_bytes_per_s, servers.layer_slots, servers.notes) == (("h",), (9,), (2,), ())
        assert servers.positions is not None
        assert (servers.positions.points.tolist(), servers.positions.degrees) == ([[10.4, -3.0]], False)

    @looped(
        "case",
        [
            ("capacity_gb\n1\n", "line 1: expected a column name, found"),
            ("name,memory\na,1\n", "line 1: expected a column capacity_bytes or capacity_gb, found"),
            (
                "name,gpu_gb,cpu_gb\na,1,2\n",
                "line 1: expected a column capacity_bytes or capacity_gb, found gpu_gb, cpu_",
            ),
            (
                "name,capacity_gb,capacity_bytes\na,1,2\n",
                "line 1: expected a column capacity_bytes or capacity_gb, found",
            ),
            ("name,capacity_gb\n", "has a heading but no servers"),
            (
                "name,capacity_gb\na,24 GB\n",
                'line 2: capacity_gb: expected a number that is not negative, found "24 GB"',
            ),
            ("name,capacity_gb\na,-1\n", "line 2: capacity_gb: expected a number that is not negative"),
            ("name,capacity_gb\na\n", 'line 2: capacity_gb: expected a number that is not negative, found ""'),
            ("name,capacity_gb\na,1e12\n", "line 2: capacity_gb: expected a number that is not negative"),
            ("name,capacity_bytes\na,1.5\n", "line 2: capacity_bytes: expected whole bytes"),
            ("name,capacity_gb\na,1\na,2\n", 'line 3: the name "a" stands in line 2 already'),
            ("name,capacity_gb\n,1\n", "line 2: the name is missing"),
            ("name,capacity_gb\ncloud,1\n", "a server cannot be called cloud"),
            ("name,capacity_gb,lat,lon\na,1,48,\n", "line 2: the longitude is missing"),
            ("name,capacity_gb,x,y\na,1,east,3\n", 'line 2: expected x in metres, found "east"'),
            ("", "is empty; a heading with name and capacity_gb was expected"),
        ],
    )
    def test_broken_tables_are_one_line(self, case: tuple[str, str]) -> None:
        write(servers=case[0])
        with pytest.raises(InputError) as caught:
            read_servers("servers.csv")
        assert str(caught.value).startswith(f"servers.csv: {case[1]}"), str(caught.value)


class TestInstance:
    def test_from_two_tables_and_a_trace_to_a_placement(self, capsys: pytest.CaptureFixture[str]) -> None:
        write(trace=TRACE, latency=PAIRS + "eve,north,1\neve,cloud,9\n", servers=SERVERS)
        tables = ["--latency", "latency.csv", "--servers", "servers.csv"]
        out, err = run(capsys, "import", "trace.csv", *MODEL, *tables, "-o", "own.json")
        assert err == "note: latency.csv: 1 user without a request in the trace, not in the instance\n"
        assert "3 requests" in out
        instance = moeplace.load("own.json")
        assert [(s.name, s.capacity_bytes) for s in instance.servers] == [("south", 3000), ("north", 2500)]
        assert {d.user: (d.server_ns, d.cloud_ns, d.tokens) for d in instance.demands} == {
            "ann": ([3_000_000, 1_250_000], 40_000_000, 2),
            "bob": ([1, None], 39_500_000, 1),
        }
        assert instance.name == "l02e004k2_latency_trace_s2_u2_c069_seed0"
        source = instance.document()["source"]
        assert not set(source) & {*Links.__struct_fields__, "places", "access", "capacity", "cell_radius_m"}
        assert (source["latency"], source["servers"]) == ("latency.csv", "servers.csv")
        run(capsys, "solve", "own.json", "--method", "milp", "-o", "placement.json")
        solution = moeplace.read_solution("placement.json")
        assert moeplace.check(instance, solution).ok
        assert solution.status.solution == "optimal"
        assert solution.objective.baseline_ns == 4 * 40_000_000 + 2 * 39_500_000
        assert solution.objective.latency_ns == brute_force(instance)

    def test_a_trace_without_users_is_dealt_to_those_measured(self, capsys: pytest.CaptureFixture[str]) -> None:
        unnamed = "\n".join(",".join(line.split(",")[:1] + line.split(",")[2:]) for line in TRACE.splitlines())
        write(trace=unnamed, latency=PAIRS)
        out, err = run(capsys, "import", "trace.csv", *MODEL, "--latency", "latency.csv", "-o", "own.json", "--json")
        assert err == ""
        assert json.loads(out)["notes"] == []
        instance = moeplace.load("own.json")
        assert [d.user for d in instance.demands] == ["ann", "bob"]
        assert sum(d.tokens for d in instance.demands) == 3
        assert [s.capacity_bytes for s in instance.servers] == [2400, 2400]  # 60 percent of 8000 bytes, two shares

    @looped(
        "case",
        [
            (TRACE.replace("bob", "carl"), PAIRS, SERVERS, 'latency.csv: user "carl" of the trace is not measured'),
            (TRACE, PAIRS, SERVERS + "west,9\n", 'latency.csv: server "west" of servers.csv is not measured'),
            (
                TRACE,
                "user,north,south,west,cloud\nann,1,2,,9\nbob,1,2,,9\n",  # a column without a time
                SERVERS + "west,9\n",
                'latency.csv: server "west" of servers.csv is not measured',
            ),
            (
                TRACE,
                "name,ann,bob\nsouth,1,2\nnorth,1,2\ncloud,9,9\n",
                SERVERS,
                'latency.csv: server "south" of servers.csv is not measured (it is a row: users are rows',
            ),
        ],
    )
    def test_whom_nobody_measured_is_named(
        self, case: tuple[str, str, str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        trace, latency, servers, message = case
        write(trace=trace, latency=latency, servers=servers)
        tables = ["--latency", "latency.csv", "--servers", "servers.csv"]
        out, err = run(capsys, "import", "trace.csv", *MODEL, *tables, "-o", "no.json", code=2)
        assert out == ""
        assert err.startswith(f"moeplace import: {message}")
        assert err.count("\n") == 1
        assert not Path("no.json").exists()

    def test_tables_are_read_once_and_before_the_trace(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(latency=MATRIX.replace("40", "near"))
        arguments = ["import", "trace.csv", *MODEL, "--latency", "latency.csv", "-o", "own.json"]
        assert "latency.csv: line 2: ann, cloud: expected milliseconds" in run(capsys, *arguments, code=2)[1]
        write(trace=TRACE, latency=MATRIX)
        read: list[str] = []
        own = csvtable.read_bytes
        monkeypatch.setattr(csvtable, "read_bytes", lambda path: read.append(str(path)) or own(path))
        run(capsys, *arguments)  # a pipe could not be read twice
        assert read == ["latency.csv"]

    def test_servers_that_are_measured_and_not_listed_are_left_out(self) -> None:
        write(latency=MATRIX, servers="name,capacity_gb\nsouth,1\n")
        measured = read_measured("latency.csv", read_servers("servers.csv"))
        assert measured.server_ns.tolist() == [[3_000_000], [1]]
        assert measured.notes == ("latency.csv: 1 server measured but not in servers.csv, left out: north",)

    def test_generated_requests_of_measured_users(self) -> None:
        write(latency=MATRIX)
        values = {"layers": 2, "experts": 4, "top_k": 2, "expert_bytes": 1000, "tokens": 20}
        instance = generate(Scenario(latency="latency.csv", **values))
        assert [d.user for d in instance.demands] == ["ann", "bob"]
        assert instance.server_ns.tolist() == [[1_250_000, 3_000_000], [UNREACHABLE, 1]]
        assert not set(instance.source) & {*Links.__struct_fields__, "places", "access", "site_distance_m"}
        assert instance.source["users"] == 2
        with pytest.raises(InputError, match="device_experts: experts on devices, and no time of a device is measured"):
            generate(Scenario(latency="latency.csv", device_experts=1, **values))
        write(latency=MATRIX.replace("cloud", "device,cloud").replace(",40", ",5,40").replace(",39.5", ",6,39.5"))
        with_device = generate(Scenario(latency="latency.csv", device_experts=1, **values))
        assert with_device.device_ns.tolist() == [5_000_000, 6_000_000]
        assert len(with_device.device_item) == 4

    def test_positions_of_servers_go_into_the_instance(self) -> None:
        write(latency=MATRIX, servers="name,capacity_gb,LAT,LON\nsouth,1,0,0\nnorth,1,0.01,0.01\n")
        values = {"layers": 1, "experts": 4, "top_k": 2, "expert_bytes": 1000, "tokens": 4}
        instance = generate(Scenario(latency="latency.csv", servers="servers.csv", **values))
        assert [server.position_m for server in instance.servers] == [[0, 0], [1112, 1112]]

    def test_users_who_are_no_nearer_to_a_server_than_to_the_cloud(self, capsys: pytest.CaptureFixture[str]) -> None:
        write(trace=TRACE, latency=MATRIX.replace("39.5", "0.000001"))
        arguments = ["import", "trace.csv", *MODEL, "--latency", "latency.csv", "-o", "own.json"]
        far = "note: far: 1 of 2 users (bob), measured no quicker to any server than to the cloud"
        assert run(capsys, *arguments)[1] == f"{far}; kept as they are (--far-users leave-out)\n"
        assert len(moeplace.load("own.json").demands) == 2
        out, err = run(capsys, *arguments, "--far-users", "leave-out")
        assert err == f"{far}; left out\n"
        assert "2 rows of requests that were not selected or whose users are left out" in out
        instance = moeplace.load("own.json")
        assert [d.user for d in instance.demands] == ["ann"]
        assert instance.source["far_users"] == "leave-out"
        write(latency=MATRIX.replace("39.5", "0.000001").replace("40", "0.1"))
        _, err = run(capsys, *arguments, "--far-users", "leave-out", code=2)
        assert err.startswith("moeplace import: --far-users: no user is left: far: 2 of 2 users (ann, bob)")

    def test_options_without_effect_are_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        write(latency=MATRIX, servers=SERVERS)
        without = {
            "--stations": "2", "--users": "50", "--network": "n", "--station-file": "s", "--user-file": "u",
            "--bandwidth-mhz": "20", "--range-m": "600", "--access": "home", "--hidden-size": "9", "--grid-us": "50",
            "--cell-radius-m": "300", "--unplaced": "between", "--capacity": "60", "--storage": "equal",
        }  # fmt: skip
        tables = ["--latency", "latency.csv", "--servers", "servers.csv"]
        for option, value in without.items():  # the default value, too: it was given
            _, err = run(capsys, "generate", *MODEL, *tables, option, value, "-o", "x.json", code=2)
            assert err.startswith(f"moeplace generate: {option}: is without effect: "), err
        _, err = run(capsys, "generate", *MODEL, *tables, "--cloud-ms", "9", "-o", "x.json", code=2)
        assert "--cloud-ms: is without effect: every user's time to the cloud is measured" in err
        for option, value in (("--cloud-ms", "9"), ("--unplaced", "between")):
            _, err = run(capsys, "generate", *MODEL, option, value, "-o", "x.json", code=2)
            assert f"{option}: is used together with" in err
        for text in ("-1", "a", "1e99", "0.0000001", "1,5", "nan"):
            _, err = run(capsys, "generate", *MODEL, "--latency", "l.csv", "--cloud-ms", text, "-o", "x.json", code=2)
            assert "--cloud-ms: expected milliseconds, at most six decimals" in err, text
        assert not Path("x.json").exists()

    def test_a_suite_of_measured_places(self) -> None:
        Path("in").mkdir()
        Path("in/latency.csv").write_text(MATRIX)
        head = "description = 'd'\n[[family]]\nlayers = 1\nexperts = 4\ntop_k = 1\nexpert_bytes = 1000\ntokens = 4\n"
        Path("in/suite.toml").write_text(head + "latency = 'latency.csv'\n")
        (instance,) = generate_suite("in/suite.toml")
        assert instance.name == "l01e004k1_latency_s2_u2_c060_seed0"
        for line, place in (("stations = 5", "stations"), ("links = { hop_us = 3 }", "links.hop_us")):
            Path("in/suite.toml").write_text(f"{head}latency = 'latency.csv'\n{line}\n")
            with pytest.raises(InputError, match=rf"family\[0\]\.{place}: is without effect"):
                list(generate_suite("in/suite.toml"))

    def test_more_models_than_the_measured_users_ask_for(self) -> None:
        write(latency="user,n,cloud\nann,1,40\n")
        with pytest.raises(InputError, match="users: 2 models, more than 1 user ask for"):
            generate(Scenario(models=["mixtral-8x7b", "olmoe-1b-7b"], layers=1, latency="latency.csv"))


class TestServersOfARadioModel:
    def test_places_and_storage_of_a_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        write(servers="name,capacity_bytes,x,y\nb,2500,500,0\na,3000,0,0\n", users="name,x,y\nann,10,0\nbob,480,9\n")
        arguments = ["generate", *MODEL, "--servers", "servers.csv", "--user-file", "users.csv", "--users", "2"]
        assert run(capsys, *arguments, "-o", "x.json")[1] == ""
        instance = moeplace.load("x.json")
        assert [(s.name, s.capacity_bytes, s.position_m) for s in instance.servers] == [
            ("b", 2500, [500, 0]), ("a", 3000, [0, 0])
        ]  # fmt: skip
        assert [d.user for d in instance.demands] == ["ann", "bob"]
        assert np.argmin(instance.server_ns, axis=1).tolist() == [1, 0]
        assert "capacity" not in instance.source
        assert instance.source["bandwidth_mhz"] == 20
        write(servers=SERVERS)
        _, err = run(capsys, *arguments, "-o", "y.json", code=2)
        assert "servers.csv: has no positions; they are needed where no latency is measured" in err
