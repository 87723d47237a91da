"""The command line: what each command prints and writes, exit codes, interruption, what is imported."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cases import PATIENCE_S

import moeplace
from moeplace.cli import COMMANDS, main
from moeplace.cli.solve import ended
from moeplace.library import instance_files, instance_name, instances_folder
from moeplace.scenarios.topology import Links

TESTS = Path(__file__).resolve().parents[1]
TOY: dict[str, Any] = {
    "format": "moeplace/instance",
    "version": 1,
    "name": "toy [bold]",
    "notes": "café",
    "latency_model": "max",
    "models": [{"name": "toy-moe", "layers": 2, "experts": 4, "top_k": 2, "expert_bytes": 1000}],
    "servers": [{"name": "s0", "capacity_bytes": 3000}, {"name": "s1", "capacity_bytes": 2000}],
    "demands": [
        {
            "user": "u0",
            "model": "toy-moe",
            "tokens": 100,
            "device_ns": 0,
            "server_ns": [2000, 5000],
            "cloud_ns": 40000,
            "device_experts": [[0, 1]],
        }
    ],
    "activations": {"demand": [0, 0], "layer": [0, 1], "experts": [[0, 2], [1, 3]], "count": [60, 40]},
}
OPTIMUM = 320_000
"""All but one expert on the near server, the last one on the other: 60 * 2000 + 40 * 5000."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))
    Path("toy.json").write_text(json.dumps(TOY))
    return tmp_path


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run a command and return what it printed on stdout and stderr."""

    def run(*args: str, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        result = main(args)
        out, err = capfd.readouterr()
        assert result == code, (out, err)
        assert "\x1b" not in out + err  # no colours where no terminal is
        assert all(line == line.rstrip() for line in out.splitlines())
        return out, err

    return run


Run = Callable[..., tuple[str, str]]


def start_process(*args: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(
        [sys.executable, "-m", "moeplace", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


# --- solve -----------------------------------------------------------------------------------------------------


@pytest.mark.wheel
def test_solve_sums_up(run: Run) -> None:
    out, err = run("solve", "toy.json", "--method", "cpsat", "-o", "out.json")
    assert err == ""
    assert out.splitlines()[0].startswith("instance  toy [bold]: 1 model, 8 experts, 2 servers, 1 demand, 2 activation")
    assert "40 µs → 3.2 µs per token, 92.00 % saved by the caches" in out
    assert "0 %: proven optimal by CP-SAT" in out
    assert "served by        device      edge   cloud" in out
    assert "s0      ██████████ 100 %  3 kB      3 kB        3          36.8 µs" in out
    assert "s1      █████░░░░░  50 %  1 kB      2 kB        1            14 µs" in out
    assert "p50 3.2 µs, p90 3.2 µs, p99 3.2 µs per token, over 1 user" in out
    assert out.endswith("written to out.json\n")
    solution = moeplace.read_solution("out.json")
    assert solution.objective.latency_ns == OPTIMUM
    assert moeplace.check(moeplace.load("toy.json"), solution).ok


def test_solve_without_a_bound(run: Run) -> None:
    out, _ = run("solve", "toy.json", "--method", "popular")
    assert "gap       no bound: nothing is proven" in out
    assert list(Path().iterdir()) == [Path("toy.json")]


def test_solve_with_a_gap_certifies_a_ratio(run: Run) -> None:
    out, _ = run("solve", "toy.json", "--method", "odd_methods:careful")
    assert "gap        81.396 %: no placement is below 3.2 µs per token, proven by a careful mind" in out
    assert "saving     at least 0.6195 of the largest possible saving, certified by that bound" in out
    assert "guarantee  half of the saving" in out


def test_solve_auto_says_what_it_picked(run: Run) -> None:
    out, _ = run("solve", "toy.json", "--time-limit", "20")
    assert "picked by auto: " in out


def test_solve_json_is_the_document_alone(run: Run) -> None:
    out, err = run("solve", "toy.json", "--method", "popular", "-o", "out.json", "--json")
    assert err == ""
    assert out.encode() == Path("out.json").read_bytes()
    assert json.loads(out)["method"] == "popular"


def test_solve_takes_module_function_and_parameters(run: Run) -> None:
    args = ("solve", "toy.json", "--method", "odd_methods:tunable", "-p", "depth=7", "-p", "label=a=b", "--gap", "0.5")
    out, _ = run(*args, "--json")
    assert json.loads(out)["parameters"] == {"depth": 7, "label": "a=b", "gap": 0.5}
    _, err = run("solve", "toy.json", "--method", "odd_methods:tunable", "-p", "depth=true", code=2)
    assert "parameter depth of odd_methods:tunable: expected an integer, found true" in err


@pytest.mark.wheel
def test_solve_finds_a_method_in_the_current_folder(folder: Path) -> None:
    Path("mine.py").write_text(
        "from moeplace import Placement\ndef f(instance, **options):\n    return Placement.empty(instance)\n"
    )
    done = subprocess.run(
        [str(Path(sys.executable).parent / "moeplace"), "solve", "toy.json", "--method", "mine:f", "--json"],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["method"] == "mine:f"


def test_solve_from_a_start(run: Run) -> None:
    run("solve", "toy.json", "--method", "cpsat", "-o", "start.json")
    args = ("solve", "toy.json", "--method", "odd_methods:tunable", "--start", "start.json", "--json")
    out, err = run(*args)
    assert json.loads(out)["objective"]["latency_ns"] == OPTIMUM
    assert err == ""
    Path("toy.json").write_text(json.dumps(TOY | {"notes": "another"}))
    out, err = run(*args)
    assert json.loads(out)["objective"]["latency_ns"] == OPTIMUM
    assert err == "note: start.json was made for another instance; its placement fits this one too\n"


def test_a_method_that_fails_is_one_line(run: Run) -> None:
    out, err = run("solve", "toy.json", "--method", "odd_methods:broken", "-o", "out.json", code=1)
    assert out == ""
    said = r"moeplace solve: method odd_methods:broken failed: RuntimeError: two\nlines"
    assert re.fullmatch(re.escape(said) + r" \(.*odd_methods\.py, line [0-9]+\)\n", err), err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOEPLACE_DEBUG", "1")
        _, err = run("solve", "toy.json", "--method", "odd_methods:broken", code=1)
    assert err.startswith("Traceback")
    assert 'raise RuntimeError("two\\nlines")' in err
    assert err.splitlines()[-1].startswith(said)
    _, err = run("solve", "toy.json", "--method", "odd_methods:greedy_liar", "-o", "out.json", code=1)
    assert "returned a placement that does not fit: server 's0' holds 8000 bytes" in err
    assert not Path("out.json").exists()


def test_warnings_and_an_overrun_are_said(run: Run) -> None:
    out, err = run("solve", "toy.json", "--method", "odd_methods:overclaiming", "-o", "out.json")
    said = "method odd_methods:overclaiming claims the bound 4000001, but its own placement costs 4000000"
    assert err == f"warning: {said}; the claim is not taken\n"
    assert "warning" not in out  # once, where both are seen
    run("check", "toy.json", "out.json")
    _, err = run("solve", "toy.json", "--method", "odd_methods:overclaiming", "--json")
    assert err.startswith("warning: ")
    solution = moeplace.read_solution("out.json")
    for wall_s, limit, expected in ((13.5, 10, "3.5 s over the time limit of 10 s"), (10.9, 10, ""), (9.0, None, "")):
        text = ended(msgspec.structs.replace(solution, wall_s=wall_s), limit)
        assert text == f"ran to its end, after {wall_s} s" + (f", {expected}" if expected else ""), text


def test_a_bug_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str) -> None:
        raise AssertionError("impossible")

    monkeypatch.setattr(moeplace, "load", load)
    _, err = run("info", "toy.json", code=1)
    assert err.startswith("moeplace info: internal error: AssertionError: impossible (MOEPLACE_DEBUG=1")
    monkeypatch.setenv("MOEPLACE_DEBUG", "1")
    with pytest.raises(AssertionError):
        main(["info", "toy.json"])


def test_an_instance_without_anything(run: Run) -> None:
    nothing = TOY | {"models": [], "servers": [], "demands": []}
    nothing["activations"] = {"demand": [], "layer": [], "experts": [], "count": []}
    Path("toy.json").write_text(json.dumps(nothing))
    run("solve", "toy.json", "--method", "popular", "-o", "out.json")
    run("check", "toy.json", "out.json")
    run("info", "toy.json")
    run("gap", "toy.json", "--methods", "popular,random")


def test_an_old_output_is_replaced_and_keeps_its_mode(run: Run) -> None:
    Path("out.json").write_text("old")
    Path("out.json").chmod(0o640)
    Path("link.json").symlink_to("out.json")
    run("solve", "toy.json", "--method", "popular", "-o", "link.json")
    assert Path("link.json").is_symlink()
    assert moeplace.read_solution("out.json").method == "popular"
    assert stat.S_IMODE(Path("out.json").stat().st_mode) == 0o640
    assert sorted(path.name for path in Path().iterdir()) == ["link.json", "out.json", "toy.json"]


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="no /dev/null")
def test_a_device_stays_a_device(run: Run) -> None:
    run("solve", "toy.json", "--method", "popular", "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_failed_write_leaves_the_old_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.json").write_text("old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    _, err = run("solve", "toy.json", "--method", "popular", "-o", "out.json", code=1)
    assert err == "moeplace solve: out.json: cannot be written: No space left on device\n"
    assert Path("out.json").read_text() == "old"
    assert sorted(path.name for path in Path().iterdir()) == ["out.json", "toy.json"]


# --- check -----------------------------------------------------------------------------------------------------


@pytest.mark.wheel
def test_check_accepts(run: Run) -> None:
    run("solve", "toy.json", "--method", "cpsat", "-o", "out.json")
    out, err = run("check", "toy.json", "out.json")
    assert err == ""
    assert "latency        320000 token-ns, 3.2 µs per token" in out
    assert "claimed, not verified" in out
    assert "verdict        valid" in out
    report = json.loads(run("check", "toy.json", "out.json", "--json")[0])
    assert report["ok"] is True
    assert report["latency_ns"] == report["bound_ns"] == OPTIMUM
    assert report["gap"] == 0.0


def test_check_prints_each_violation(run: Run) -> None:
    run("solve", "toy.json", "--method", "popular", "-o", "out.json")
    document = json.loads(Path("out.json").read_text())
    document["objective"]["latency_ns"] += 1
    document["instance"]["sha256"] = "0"
    document["placement"].append({"server": "s1", "model": "toy-moe", "experts": [[0, 0], [0, 1], [0, 2]]})
    Path("out.json").write_text(json.dumps(document))
    out, err = run("check", "toy.json", "out.json", code=1)
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("instance.sha256: the solution is for '0'")
    assert lines[1] == "server 's1': 3000 bytes cached, 1000 more than its capacity 2000"
    assert lines[2].startswith("objective.latency_ns: the solution says ")
    assert lines[-1].startswith("verdict        WRONG, 3 violations")
    report = json.loads(run("check", "toy.json", "out.json", "--json", code=1)[0])
    assert report["violations"] == lines[:3]


# --- gap -------------------------------------------------------------------------------------------------------


def test_gap_prints_a_table(run: Run) -> None:
    out, err = run("gap", "toy.json", "--methods", "no-cache,popular,cpsat", "--csv", "out.csv")
    assert err == ""
    assert "method    latency µs   saving       gap  own bound µs  time s  ended" in out
    assert "no-cache      40.000   0.00 %  92.000 %             -" in out
    assert "cpsat          3.200  92.00 %       0 %         3.200" in out
    assert "gap: to the best bound, 3.200 µs per token, proven by cpsat (CP-SAT" in out
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))
    assert [row["method"] for row in rows] == ["no-cache", "popular", "cpsat"]
    assert rows[0]["latency_ns"] == "4000000"
    assert rows[0]["own_bound_ns"] == ""
    assert rows[0]["best_bound_ns"] == str(OPTIMUM)
    assert rows[0]["gap"] == "0.92"
    assert rows[0]["excess"] == ""


def test_gap_json(run: Run) -> None:
    out, _ = run("gap", "toy.json", "toy.json", "--methods", "no-cache", "--json")
    documents = json.loads(out)
    assert len(documents) == 2
    assert documents[0]["instance"]["name"] == "toy [bold]"
    assert documents[0]["best_bound_ns"] is None
    (method,) = documents[0]["methods"]
    assert method["latency_ns"] == 4_000_000
    assert method["gap"] is None


def test_gap_without_a_bound_says_so(run: Run) -> None:
    out, _ = run("gap", "toy.json", "--methods", "popular,random")
    assert "gap: no bound, so nothing is proven" in out


def test_gap_runs_by_default_what_fits_but_not_auto(run: Run) -> None:
    out, _ = run("gap", "toy.json", "--time-limit", "10", "--json")
    methods = [method["method"] for method in json.loads(out)[0]["methods"]]
    assert "auto" not in methods
    assert {"milp", "cpsat", "popular", "random", "no-cache"} <= set(methods)


def best_known(latency_ns: int, bound_ns: int | None, **other: Any) -> str:
    entry = {
        "sha256": moeplace.load("toy.json").sha256,
        "latency_ns": latency_ns,
        "bound_ns": bound_ns,
        "optimal": latency_ns == bound_ns,
        "latency_method": "by hand",
        "bound_method": "by hand",
        "version": "0.1.0",
        "date": "2026-11-22",
    }
    return json.dumps({"toy [bold]": entry | other})


def test_gap_uses_what_is_best_known(run: Run) -> None:
    Path("best_known.json").write_text(best_known(OPTIMUM, OPTIMUM))
    out, _ = run("gap", "toy.json", "--methods", "popular,no-cache")
    assert "gap      excess" in out
    assert "no-cache      40.000   0.00 %  92.000 %  1150.000 %" in out
    assert "proven by best_known.json" in out
    Path("best_known.json").write_text(best_known(4_000_001, None))
    out, _ = run("gap", "toy.json", "--methods", "no-cache")
    assert "better than the best known" in out
    Path("best_known.json").write_text(best_known(OPTIMUM, OPTIMUM, sha256="0"))
    out, _ = run("gap", "toy.json", "--methods", "popular")
    assert "best_known.json is of another instance named toy [bold]; it does not count" in out
    assert "nothing is proven" in out


def test_gap_shouts_when_a_cost_is_below_a_bound(run: Run) -> None:
    methods = "odd_methods:liar,popular"
    out, err = run("gap", "toy.json", "--methods", methods, code=1)
    assert err.startswith(
        "ERROR toy [bold]: the cost 1720000 of popular is below the bound 4000000 of odd_methods:liar"
    )
    assert "gap: not stated" in out
    Path("best_known.json").write_text(best_known(OPTIMUM, OPTIMUM))
    _, err = run("gap", "toy.json", "--methods", "odd_methods:liar", code=1)
    assert "the cost 320000 of best_known.json is below the bound 4000000 of odd_methods:liar" in err


def test_gap_goes_on_after_a_failure(run: Run) -> None:
    out, err = run("gap", "toy.json", "--methods", "odd_methods:broken,no-cache", code=1)
    assert err == ""
    assert r"failed: method odd_methods:broken failed: RuntimeError: two\nlines (" in out
    assert "no-cache" in out


def test_gap_a_refusal_is_a_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moeplace.caching.formulations.MOST_ROWS", 1)
    out, err = run("gap", "toy.json", "--methods", "cpsat,no-cache")
    assert err == ""
    assert "refused: 18 constraint rows, at most 1 are built" in out
    out, _ = run("gap", "toy.json")
    assert "not run: cpsat (18 constraint rows" in out


def test_gap_gives_a_parameter_to_those_that_have_it(run: Run) -> None:
    run("gap", "toy.json", "--methods", "odd_methods:tunable,popular", "-p", "depth=3")


# --- info, methods, export -------------------------------------------------------------------------------------


def test_info(run: Run) -> None:
    out, err = run("info", "toy.json")
    assert err == ""
    assert "experts        4 of 8 experts are asked for, 4 kB of 8 kB" in out
    assert "5 kB in all: 62 % of all experts, 125 % of those asked for" in out
    assert "2 µs per token if every server held every expert, 95.00 % less" in out
    document = json.loads(run("info", "toy.json", "--json")[0])
    assert document["best_conceivable_ns"] == 200_000
    assert document["distinct_rows"] == 2
    assert document["expert_requests"] == 200
    assert document["aggregated"]["terms"] == 4
    refused = {method["name"]: method["reason"] for method in document["methods"] if not method["fits"]}
    assert list(refused) == ["flow", "alternating"]
    assert "the saving is not linear" in refused["flow"]
    assert "active experts" in refused["alternating"]


def test_info_says_the_models_own_layer_numbers(run: Run) -> None:
    assert "layer_index" not in run("info", "toy.json", "--json")[0]
    numbered = TOY | {"version": 2, "models": [TOY["models"][0] | {"layer_index": [3, 5]}]}
    Path("numbered.json").write_text(json.dumps(numbered))
    assert "these are layers 3, 5 of the model (from 0)" in run("info", "numbered.json")[0]
    assert json.loads(run("info", "numbered.json", "--json")[0])["models"][0]["layer_index"] == [3, 5]


@pytest.mark.wheel
def test_methods(run: Run) -> None:
    out, _ = run("methods")
    assert "milp\n" in out
    assert "rlt=" in out
    found = {method["name"]: method for method in json.loads(run("methods", "--json")[0])}
    assert found["milp"]["exact"] is True
    assert found["milp"]["takes_gap"] is True
    assert "gap" not in found["milp"]["parameters"]
    assert found["popular"]["exact"] is False
    assert all(method["error"] is None for method in found.values())


@pytest.mark.parametrize("model", ["milp", "milp-textbook"])
@pytest.mark.parametrize(("name", "expected"), [("x.mps", "ENDATA"), ("x.lp", "binary")])
@pytest.mark.wheel
def test_export(run: Run, model: str, name: str, expected: str) -> None:
    out, err = run("export", "toy.json", "--model", model, "-o", name)
    assert (out, err) == (f"written to {name}\n", "")
    assert expected in Path(name).read_text()


# --- help, imports, streams ------------------------------------------------------------------------------------


def test_what_few_need_is_listed_apart_and_works(run: Run) -> None:
    for command in ("generate", "import"):
        out, _ = run(command, "--help")
        assert "--help-links" in out
        assert "--carrier-ghz" not in out
        links, err = run(command, "--help-links")
        assert err == ""
        assert links.startswith("Links and computing:\n  --carrier-ghz X "), command
        for name in Links.__struct_fields__:
            assert f"\n  --{name.replace('_', '-')} " in links, (command, name)
        assert "--stations" not in links
    small = ["generate", "--layers", "1", "--experts", "4", "--top-k", "2", "--expert-bytes", "999", "--users", "3"]
    run(*small, "-o", "a.json")
    run(*small, "--carrier-ghz", "28", "-o", "b.json")
    assert moeplace.load("a.json").sha256 != moeplace.load("b.json").sha256
    assert run("info", "--help-links", code=2)[1].startswith("moeplace info: No such option '--help-links'")


@pytest.mark.wheel
def test_help_lists_every_command(run: Run) -> None:
    out, _ = run("--help")
    for name, line in COMMANDS.items():
        assert f"  {name} " in out
        assert line in out


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.wheel
def test_every_command_has_help(run: Run, name: str) -> None:
    out, _ = run(name, "--help")
    assert out.startswith(f"Usage: moeplace {name} ")


@pytest.mark.wheel
def test_public_names_are_all_there() -> None:
    for name in moeplace.__all__:
        assert getattr(moeplace, name) is not None
        assert name in dir(moeplace)
        assert f"moeplace.{name}" not in sys.modules  # a module of that name would hide it
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = moeplace.nothing  # type: ignore[attr-defined]


SOLVERS = {"pyomo", "ortools", "highspy", "pandas", "scipy"}


@pytest.mark.parametrize(
    ("args", "banned"),
    [
        (["--help"], SOLVERS | {"numpy", "rich", "msgspec"}),
        (["check", "toy.json", "out.json"], SOLVERS),
        (["solve", "toy.json"], {"pyomo", "ortools", "pandas", "scipy.linalg", "scipy.sparse"}),
    ],
    ids=["help", "check", "solve"],
)
@pytest.mark.wheel
def test_what_is_not_imported(run: Run, args: list[str], banned: set[str]) -> None:
    run("solve", "toy.json", "--method", "popular", "-o", "out.json")
    code = f"import sys; from moeplace.cli import main; main({args!r}); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert loaded & banned == set()


def test_help_is_quick() -> None:
    def cpu_s(*args: str) -> float:
        """Least of three: what a process works, not what it waits for."""
        times = []
        for _ in range(3):
            before = os.times()
            subprocess.run([sys.executable, *args], stdout=subprocess.DEVNULL, check=True)
            after = os.times()
            times.append(after.children_user + after.children_system - before.children_user - before.children_system)
        return min(times)

    assert cpu_s("-m", "moeplace", "--help") < 3 * cpu_s("-c", "import click, numpy")


def test_nobody_reads_the_output(folder: Path) -> None:
    # The reading end is closed before anything is written.
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "moeplace", "gap", "toy.json", "--methods", "popular", "--csv", "out.csv"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""
    assert len(Path("out.csv").read_text().splitlines()) == 2


def test_stdout_without_room(folder: Path) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "moeplace", "info", "toy.json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "moeplace info: cannot write: No space left on device\n"


def test_a_poor_encoding_gets_plain_bars(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moeplace", "solve", "toy.json", "--method", "popular"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert b"s0      ########## 100 %" in done.stdout
    assert b"40 us > 17.2 us per token" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_is_for_terminals(folder: Path) -> None:
    import pty

    parent, child = pty.openpty()
    command = [sys.executable, "-m", "moeplace", "solve", "toy.json", "--method", "odd_methods:talkative", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=child, env=environment, check=True)
    os.close(child)
    shown = os.read(parent, 100_000).decode()
    os.close(parent)
    assert json.loads(done.stdout)["method"] == "odd_methods:talkative"
    assert "odd_methods:talkative  0 s  40 µs per token  bound 0 ns  gap 100.000 %  50% done" in shown


def test_what_solvers_say_is_shown_where_it_is_asked_for(run: Run) -> None:
    for method, head, tail in (
        ("milp", "Running HiGHS", "Solving report"),
        ("cpsat", "Starting CP-SAT solver", "CpSolverResponse summary"),
    ):
        plain, silent = run("solve", "toy.json", "--method", method, "--json")
        out, err = run("solve", "toy.json", "--method", method, "--json", "--log")
        assert silent == "", method
        assert sum(line.startswith(head) for line in err.splitlines()) == 1, err
        assert tail in err, err
        # Nothing of it is on stdout, and the same placement comes of it.
        assert json.loads(out)["placement"] == json.loads(plain)["placement"], method
    _, err = run("solve", "toy.json", "--method", "popular", "--log")
    assert err == "note: popular has no log of its own: it asked neither HiGHS nor CP-SAT\n"
    assert run("solve", "toy.json", "--method", "milp")[1] == ""  # it ends with the command


def test_who_listens_to_a_solver_may_fail() -> None:
    from moeplace.solvers import log

    def broken(text: str) -> None:
        raise OSError("nobody reads on")

    instance = moeplace.load(instances_folder() / "tiny" / "tiny_two_servers_share.json")
    for method in ("milp", "cpsat"):
        with log.listening(broken):
            solution = moeplace.solve(instance, method)
        assert "nobody reads on" in solution.details["solver_failure"], method
        assert log.current() is None, method


# --- interruption ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_interrupted_solve_keeps_the_placement(folder: Path, number: signal.Signals) -> None:
    process = start_process("solve", "toy.json", "--method", "odd_methods:patient", "-o", "out.json")
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "interrupted; this is the best placement so far" in out
    assert err == ""
    solution = moeplace.read_solution("out.json")
    assert solution.status.termination == "interrupted"
    assert moeplace.check(moeplace.load("toy.json"), solution).ok


def test_a_second_signal_gives_up(folder: Path) -> None:
    process = start_process("solve", "toy.json", "--method", "odd_methods:deaf", "-o", "out.json")
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "heard\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert out == ""
    assert err == "moeplace solve: interrupted before there was a result\n"
    assert sorted(path.name for path in Path().iterdir()) == ["toy.json"]


LOADING = {
    "plain": "",
    "ImportError": "raise ImportError('a library that takes all for its own failure')",
    "SystemError": "raise SystemError('error return without exception set')",
    "swallowed": "import wave",
}


def test_a_signal_while_libraries_load_ends_quietly(folder: Path) -> None:
    # A library that sends the signal to its own process while it loads, and does with what is raised as libraries do.
    commands = (("click", ["info", "toy.json"]), ("msgspec", ["import", "trace.csv"]), ("numpy", ["solve", "toy.json"]),
                ("numpy", ["bench", "tiny", "--methods", "popular", "-o", "run"]))  # fmt: skip
    signals = [(kind, signal.SIGINT) for kind in LOADING] + [("swallowed", signal.SIGTERM)]
    cases = [(library, args, kind, number) for library, args in commands for kind, number in signals]
    for library, args, kind, number in cases:
        Path("fake").mkdir(exist_ok=True)
        handled = f"except BaseException:\n    pass\n{LOADING[kind]}" if LOADING[kind] else "finally:\n    pass"
        code = f"import os\ntry:\n    os.kill(os.getpid(), {int(number)})\n    [None for _ in range(9)]\n{handled}\n"
        Path(f"fake/{library}.py").write_text(code)
        environment = {**os.environ, "PYTHONPATH": str(folder / "fake")}
        command = [sys.executable, "-m", "moeplace", *args]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=PATIENCE_S)
        Path(f"fake/{library}.py").unlink()
        assert done.returncode == 130, (library, args, kind, number, done)
        assert done.stdout == "", (library, args, kind, number, done)
        quiet = ("", f"moeplace {args[0]}: interrupted before there was a result\n",
                 "moeplace: interrupted before there was a result\n")  # fmt: skip
        assert done.stderr in quiet, (library, args, kind, number, done)


def test_interrupted_gap_keeps_what_is_finished(folder: Path) -> None:
    methods = "popular,odd_methods:patient,random"
    process = start_process("gap", "toy.json", "toy.json", "--methods", methods, "--csv", "out.csv")
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert err == "moeplace gap: interrupted; 1 instance not begun\n"
    assert "not run: random (interrupted)" in out
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))
    assert [(row["method"], row["termination"]) for row in rows] == [
        ("popular", "completed"),
        ("odd_methods:patient", "interrupted"),
    ]


def test_interrupted_exact_method(folder: Path) -> None:
    # Large enough that no proof comes before the signal.
    import numpy as np

    rng = np.random.default_rng(1)
    n_users, n_layers, n_experts = 12, 8, 16
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for d in range(n_users):
        for layer in range(n_layers):
            for _ in range(12):
                rows["demand"].append(d)
                rows["layer"].append(layer)
                rows["experts"].append(rng.permutation(n_experts)[:2].tolist())
                rows["count"].append(int(rng.integers(1, 20)))
    times = rng.integers(1, 30, (n_users, 5))
    document = TOY | {
        "models": [
            {"name": "toy-moe", "layers": n_layers, "experts": n_experts, "top_k": 2, "expert_bytes": 1},
        ],
        "servers": [{"name": f"s{n}", "capacity_bytes": 30} for n in range(5)],
        "demands": [
            {"user": f"u{d}", "model": "toy-moe", "tokens": 1000, "device_ns": 0, "server_ns": t, "cloud_ns": 50}
            for d, t in enumerate(times.tolist())
        ],
        "activations": rows,
    }
    Path("large.json").write_text(json.dumps(document))
    process = start_process("solve", "large.json", "--method", "odd_methods:loud_cpsat", "-o", "out.json")
    assert process.stderr is not None
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, (out, err)
    solution = moeplace.read_solution("out.json")
    assert solution.status.termination == "interrupted"
    assert moeplace.check(moeplace.load("large.json"), solution).ok


# --- the library by names -----------------------------------------------------------------------------------------


@pytest.mark.wheel
def test_the_library_is_listed(run: Run) -> None:
    out, _ = run("instances")
    for path in instance_files():
        assert f" {instance_name(path)} " in out
    assert f"{len(instance_files())} instances, " in out
    found = json.loads(run("instances", "tiny", "--json")[0])
    for known, path in zip(found, instance_files("tiny"), strict=True):
        instance = moeplace.load(path)
        assert (known["name"], known["sha256"], known["items"]) == (instance.name, instance.sha256, instance.n_items)
        assert (known["gap"], known["optimal"], known["set"]) == (0, True, "tiny")
    assert "no set of instances 'huge'" in run("instances", "huge", code=2)[1]


@pytest.mark.wheel
def test_a_name_of_the_library_is_an_instance(run: Run) -> None:
    for name in ("tiny_sum_adds_up", "tiny/tiny_sum_adds_up"):
        assert "tiny_sum_adds_up" in run("info", name)[0]
        assert moeplace.load(name).name == "tiny_sum_adds_up"
    dotted = "granite-3.1-1b_l08_s3_u10_c240_seed1"  # what looks like an ending is part of the name
    assert json.loads(run("info", dotted, "--json")[0])["name"] == dotted
    assert "excess: over the best known" in run("gap", "tiny_sum_adds_up", "--methods", "popular")[0]
    run("solve", "tiny_sum_adds_up", "--method", "popular", "-o", "out.json")
    assert "latency" in run("check", "tiny_sum_adds_up", "out.json")[0]
    # A file of this name comes first.
    Path("tiny_sum_adds_up").write_bytes(Path("toy.json").read_bytes())
    assert moeplace.load("tiny_sum_adds_up").name == TOY["name"]
    for name, said in {
        "tiny_sum_ads_up": "did you mean 'tiny_sum_adds_up'?",
        "small/tiny_sum_adds_up": "small/tiny_sum_adds_up: no such file",
        "xyzzy": "no instance of the library has this name (see moeplace instances)",
        "missing.json": "missing.json: cannot be read: No such file",
    }.items():
        _, err = run("info", name, code=2)
        assert said in err
        assert err.count("\n") == 1


def test_what_was_meant(run: Run) -> None:
    assert "did you mean 'milp'?" in run("solve", "toy.json", "--method", "milq", code=2)[1]
    assert "did you mean" not in run("solve", "toy.json", "--method", "xyzzy", code=2)[1]
    Path("trace.csv").write_text("request,token,layer,expert\n0,0,0,1\n")
    assert "a routing trace is made an instance by moeplace import" in run("solve", "trace.csv", code=2)[1]


def test_a_gap_over_several_instances_ends_in_a_summary(run: Run) -> None:
    names = ["tiny_pair_across_servers", "tiny_sum_adds_up"]
    out, _ = run("gap", *names, "--methods", "milp,popular", "--csv", "out.csv")
    lines = out[out.index("all 2 instances") :].splitlines()
    cells = {line.split()[0]: line.split() for line in lines if line}
    assert cells["milp"][1:9] == ["2", "of", "2", "2", "0", "%", "0", "%"]
    rows = [row for row in csv.DictReader(io.StringIO(Path("out.csv").read_text())) if row["method"] == "popular"]
    worst = max(float(row["gap"]) for row in rows)
    assert f"{100 * worst:.3f}"[:5] in " ".join(cells["popular"])
    assert "all 1" not in run("gap", names[0], "--methods", "milp,popular")[0]
