"""The commands on active experts: every verb, the front, generate and import, and what is refused in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from active_instances import TOY

import moeplace
from moeplace.active.comparison import compare
from moeplace.active.instance import Instance
from moeplace.cli import main

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("toy.json").write_text(json.dumps(TOY))
    Path("slow.json").write_text(json.dumps({k: v for k, v in TOY.items() if k != "loss_budget"} | {
        "name": "slow", "time_budget_ns": 150}))  # fmt: skip
    Path("none.json").write_text(json.dumps(TOY | {"loss": [[300, 100, 50], [500, 200, 60]], "loss_budget": 109}))

    def call(*args: str, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        found = main(args)
        out, err = capfd.readouterr()
        assert found == code, (args, found, out, err)
        return out, err

    return call


def test_solve_and_check(run: Run) -> None:
    out, _ = run("solve", "toy.json", "-o", "out.json", "--certificate", "proof.json")
    assert "instance  toy: 2 layers of 4 experts, up to 3 active; least time within a loss of 250\n" in out
    assert "picked by auto: the steepest steps left a gap, and the front is small enough" in out
    assert "time      180 ns → 150 ns per step in the layers, 100 ns more are fixed" in out
    assert "28,571,429 tokens/s → 32,000,000 tokens/s" in out
    assert "loss      200, 250 allowed" in out
    assert "1             2  ██   60 ns  33.33 %   200" in out
    out, _ = run("check", "toy.json", "out.json", "--certificate", "proof.json")
    assert "150 ns per step: verified, trusting nothing" in out
    run("solve", "toy.json", "--method", "greedy", "-o", "greedy.json", "--certificate", "price.json")
    out, _ = run("check", "toy.json", "greedy.json", "--certificate", "price.json")
    assert "verified, trusting nothing" in out
    assert json.loads(Path("price.json").read_text())["proof"] == {"kind": "prices", "prices": [30], "unit": 200}
    out, _ = run("solve", "slow.json")
    assert "least loss within 150 ns" in out
    assert "loss      200 " not in out
    assert "active in the mean of the layers, 3 before" in out
    document = json.loads(Path("out.json").read_text())
    Path("out.json").write_text(json.dumps(document | {"active_experts": [1, 1]}))
    assert "loss_budget: the layers lose 800 of 250" in run("check", "toy.json", "out.json", code=1)[0]


def test_gap_info_and_methods(run: Run) -> None:
    tables = json.loads(run("gap", "toy.json", "slow.json", "--json")[0])
    for table, best in zip(tables, (150, 200), strict=True):
        costs = {method["method"]: method["latency_ns"] for method in table["methods"]}
        assert {costs[name] for name in ("front", "layers", "milp", "cpsat")} == {best}
        assert table["best_bound_ns"] == best
        assert table["errors"] == []
    assert all(method["saving"] is None for method in tables[1]["methods"])  # nothing to compare a loss of 0 with
    out, _ = run("gap", "toy.json", "--methods", "greedy,uniform")
    assert "all experts: 180.0000 ns per step" in out
    assert "greedy   160.0000" in out
    out, _ = run("info", "toy.json")
    assert "task      least time within a loss of 250" in out
    assert "8 tokens, 100 ns are fixed" in out
    assert "methods   auto, front, layers, milp, cpsat, greedy, schedule, uniform" in out
    info = json.loads(run("info", "none.json", "--json")[0])
    assert (info["feasible"], info["with_all_experts"]) == (False, {"time_ns": 180, "loss": 110})
    assert ": no choice is within it" in run("info", "none.json")[0]
    out, _ = run("methods", "--problem", "active-experts")
    assert out.index("auto\n") < out.index("front\n") < out.index("layers\n") < out.index("uniform\n")


def test_no_solution_is_one_line_and_nothing_is_written(run: Run) -> None:
    for method in ("auto", "front", "layers", "milp", "cpsat", "greedy", "schedule", "uniform"):
        out, err = run("solve", "none.json", "--method", method, "-o", "out.json", "--json", code=1)
        assert out == "", method
        assert err.startswith("moeplace solve: infeasible: the instance has no solution: the choice that loses"), err
        assert err.count("\n") == 1, method
        assert not Path("out.json").exists(), method
    assert run("gap", "none.json")[0].count("infeasible: the choice that loses least loses 110") == 7


def test_the_front(run: Run) -> None:
    out, err = run("front", "toy.json", "--csv", "front.csv", "--plot", "front.png")
    assert err == ""
    assert "front: 6 points, a loss of 0 to 800, 100 ns to 180 ns" in out
    assert "250  budget  150 ns  32,000,000 tokens/s            83.3%  +6.667 %      +0 %  +20.000 %" in out
    assert "written to front.csv" in out
    assert Path("front.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(Path("front.csv").read_text().splitlines()))
    found = [(int(row["loss"]), int(row["time_ns"]), row["active_experts"]) for row in rows if row["family"] == "front"]
    assert found == [
        (0, 180, "3 3"), (100, 160, "2 3"), (200, 150, "3 2"), (300, 130, "2 2"), (500, 110, "1 2"), (800, 100, "1 1"),
    ]  # fmt: skip
    assert {row["family"] for row in rows} == {"front", "greedy", "schedule", "uniform"}
    document = json.loads(run("front", "slow.json", "--json")[0])
    assert document["points"] == 6
    assert document["front"][2] == {
        "loss": 200, "time_ns": 150, "tokens_per_s": 3.2e7, "active_experts": [3, 2],
    }  # fmt: skip
    assert len(document["heuristics"]["uniform"]) == 3
    for name in ("front.svg", "again.svg"):
        run("front", "slow.json", "--plot", name)
    assert Path("front.svg").read_bytes() == Path("again.svg").read_bytes()
    assert "is an instance of caching" in run("front", "tiny_sum_adds_up", code=2)[1]
    assert "expected a name that ends in" in run("front", "toy.json", "--plot", "front.txt", code=2)[1]
    looks = [compare(Instance.from_document(TOY)).look(loss) for loss in (0, 250, 800)]
    assert [look.time_ns for look in looks] == [180, 150, 100]
    assert [look.excess["uniform"] for look in looks] == [0.0, 0.2, 0.0]


def test_a_front_of_one_point_and_of_no_time(run: Run) -> None:
    model = {"name": "m", "layers": 1, "experts": 1, "top_k": 1}
    for time_ns, loss in ((5, 3), (0, 0)):
        flat = TOY | {"model": model, "time_ns": [[time_ns]], "loss": [[loss]], "fixed_ns": 0}
        Path("flat.json").write_text(json.dumps(flat))
        out, _ = run("front", "flat.json", "--plot", "flat.svg")
        assert "front: 1 point" in out
        run("solve", "flat.json", "-o", "flat-out.json")
        assert "valid" in run("check", "flat.json", "flat-out.json")[0]


def test_export_and_another_solvers_start(run: Run) -> None:
    import highspy

    run("export", "toy.json", "-o", "toy.mps")
    run("export", "toy.json", "-o", "toy.lp")
    assert "y(0_1)" in Path("toy.lp").read_text()
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.readModel("toy.mps")
    solver.run()
    assert round(solver.getInfo().objective_function_value) == 150
    solver.writeSolution("toy.sol", 0)
    out, err = run("solve", "toy.json", "--method", "layers", "--start", "toy.sol", "--json")
    assert (json.loads(out)["active_experts"], err) == ([3, 2], "")
    for line, said in {
        "y(0_3) 1": "layer 1: 0 numbers of active experts, expected one",
        "y(0_3) 1\ny(0_1) 1\ny(1_1) 1": "layer 0: 2 numbers of active experts",
        "y(0_3) 0.5": "0.5 is neither 0 nor 1",
        "y(7_1) 1": "y(7_1): the instance has 2 layers (from 0)",
        "y(0_1) 1\ny(1_1) 1": "it loses 800, more than the budget of 250",
        "x(0_1) 1": "no variable y(LAYER_NUMBER)",
    }.items():
        Path("bad.sol").write_text(line + "\n")
        assert said in run("solve", "toy.json", "--start", "bad.sol", code=2)[1], line
    assert "no model 'milp-textbook'; there are cpsat, milp" in run(
        "export", "toy.json", "--model", "milp-textbook", "-o", "x.lp", code=2)[1]  # fmt: skip
    assert "cpsat is not an algebraic model" in run("export", "toy.json", "--model", "cpsat", "-o", "x.lp", code=2)[1]


SHAPE = [
    "--layers",
    "2",
    "--experts",
    "6",
    "--top-k",
    "3",
    "--expert-bytes",
    "2000",
    "--gb-per-s",
    "1",
    "--tflops",
    "1",
]


def test_generate(run: Run) -> None:
    out, err = run("generate", "--as", "active-experts", *SHAPE, "--requests", "4", "--tokens", "64", "-o", "a.json")
    assert "l02e006k3_seed0_own_b004_loss10000: 2 layers of 6 experts" in out
    assert "as counted and as if all were used equally often and independently" in out
    assert "note: tokens/s are those of the routed experts alone" in err
    assert "note: an expert of 2,000 bytes is taken as 1,000 weights in bf16" in err
    run("generate", "--as", "active-experts", *SHAPE, "--requests", "4", "--tokens", "64", "-o", "b.json")
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()
    run("generate", "--as", "active-experts", *SHAPE, "--requests", "1,4", "--tokens", "64", "--seed", "2",
        "--time-budget-ns", "9000", "--fixed-ns", "5", "--name", "x", "-o", "both")  # fmt: skip
    made = {path.name: moeplace.load(path) for path in Path("both").iterdir()}
    assert sorted(made) == ["x_b001.json", "x_b004.json"]
    assert {(one.minimises, one.budget, one.fixed_ns) for one in made.values()} == {("loss", 9000, 5)}
    for args, said in {
        ("--requests", "4"): "Missing option '-o'",
        ("--requests", "70", "--tokens", "64", "-o", "c.json"): "layer 0 has 64 tokens, a batch of 70 cannot",
        ("--requests", "x", "-o", "c.json"): "--requests: expected whole numbers",
        ("--requests", "1,2", "-o", "a.json"): "a.json: is a file; 2 instances go to a folder",
        ("--requests", "1", "-o", "c.txt"): "c.txt: expected a name that ends in .json or .json.gz",
        ("--requests", "1", "--stations", "3", "-o", "c.json"): "No such option '--stations'",
    }.items():
        out, err = run("generate", "--as", "active-experts", *SHAPE, *args, code=2)
        assert out == ""
        assert said in err, (args, err)
        assert err.count("\n") == 1
        assert not Path("c.json").exists()


def test_import(run: Run) -> None:
    rng = np.random.default_rng(3)
    experts = np.array([[rng.permutation(6)[:3] for _ in range(2)] for _ in range(40)], dtype=np.uint8)
    np.savez("trace.npz", experts=experts)
    np.savez("gates.npz", gates=rng.integers(1, 256, experts.shape))
    shape = {"num_hidden_layers": 2, "num_experts": 6, "num_experts_per_tok": 3, "hidden_size": 8,
             "moe_intermediate_size": 4, "model_type": "qwen3_moe", "torch_dtype": "bfloat16"}  # fmt: skip
    Path("config.json").write_text(json.dumps(shape))
    base = ["import", "trace.npz", "--as", "active-experts", "--config", "config.json", "--gb-per-s", "1",
            "--tflops", "1", "--requests", "1,8"]  # fmt: skip
    out, _ = run(*base, "--gates", "gates.npz", "-o", "loads")
    assert "read   40 tokens, 80 rows of one token at one layer" in out
    assert "router weight of the dropped ranks, parts per million of that of all layers (a proxy)" in out
    files = sorted(Path("loads").iterdir())
    assert len(files) == 2
    assert all("valid" in run("check", str(f), _solved(run, str(f)))[0] for f in files)
    said = json.loads(run(*base[:-1], "8", "--gates", "gates.npz", "-o", "one.json", "--json")[0])
    assert said["tokens"] == 40
    assert [load["k"] for load in said["instances"][0]["loads"]] == [1, 2, 3]
    assert said["instances"][0]["instance"]["sha256"] == moeplace.load(files[1]).sha256
    Path("loss.csv").write_text("layer,k,loss\n0,1,9\n0,2,4\n1,1,8\n1,2,2\n")
    run(*base[:-1], "8", "--ranked", "--loss", "loss.csv", "--loss-budget", "6", "-o", "measured.json")
    measured: Any = moeplace.load("measured.json")
    assert measured.loss.tolist() == [[9, 4, 0], [8, 2, 0]]
    for args, wrong in {
        ("--gates", "loss.csv", "-o", "x.json"): "loss.csv: cannot be read",
        ("--ranked", "-o", "x.json"): "losses are missing: router weights (--gates), or measured ones (--loss)",
        ("--gates", "gates.npz", "-o", "trace.npz"): "trace.npz: is the instance itself; it would be overwritten",
        ("--gates", "gates.npz", "--filler", "5", "-o", "x.json"): "a filler cannot be taken out beside router",
    }.items():
        out, err = run(*base[:-1], "8", *args, code=2)
        assert wrong in err, (args, err)
        assert err.count("\n") == 1
        assert not Path("x.json").exists()


def _solved(run: Run, file: str) -> str:
    run("solve", file, "-o", "solved.json")
    return "solved.json"


def test_bench_report_and_best_known(run: Run) -> None:
    Path("set").mkdir()
    for name in ("toy", "slow", "none"):
        document = json.loads(Path(f"{name}.json").read_text())
        Path(f"set/{name}.json").write_text(json.dumps(document | {"name": name}))
    run("bench", "set", "--methods", "milp", "--workers", "1", "--time-limit", "60", "-o", "run")
    from moeplace.bench.records import read_run

    data = read_run("run")
    assert {(r.instance, r.method, r.status) for r in data.records} == {
        ("toy", "milp", "ok"), ("slow", "milp", "ok"), ("none", "milp", "no_solution"),
    }  # fmt: skip
    assert {(planned.problem, planned.layers, planned.items) for planned in data.run.instances} == {
        ("active-experts", 2, 8)
    }
    run("report", "run", "-o", "tables")
    assert "milp" in Path("tables/index.md").read_text()
    run("best-known", "--update", "run", "--instances", "set")
    known = json.loads(Path("set/best_known.json").read_text())
    assert {name: (entry["latency_ns"], entry["optimal"]) for name, entry in known.items()} == {
        "toy": (150, True), "slow": (200, True)
    }  # fmt: skip
