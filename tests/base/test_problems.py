"""One door for every problem, proven by the toy of docs/howto/own_problem.md: nothing in the package knows it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from document_examples import examples

import moeplace
from moeplace.base.errors import InputError, MethodError, NoSolutionError
from moeplace.cli import main
from moeplace.problems import find_problem, problem_names, problem_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "own_problem.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documents are in the checkout only")
LUNCH = {
    "format": "choices/instance", "version": 1, "name": "lunch", "cost": [[9, 4, 2], [7, 3]],
    "use": [[[1, 1], [2, 3], [5, 2]], [[1, 1], [4, 2]]], "budget": [6, 4],
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's folder on Python's path, found by its entry points."""
    folder, lines = tmp_path_factory.mktemp("toy"), 0
    for example in examples(PAGE):
        if name := example.options.get("file"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(example.text)
            lines += len(example.text.splitlines()) if name.endswith(".py") else 0
    assert lines <= 120
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == "choices"]:
        del sys.modules[name]


@pytest.fixture
def run(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., tuple[str, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{package}:{':'.join(p for p in sys.path if p)}")  # for processes of a benchmark
    Path("lunch.json").write_text(json.dumps(LUNCH))

    def call(*args: str, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        found = main(args)
        out, err = capfd.readouterr()
        assert found == code, (args, found, out, err)
        return out, err

    return call


def drawn(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    options = rng.integers(1, 5, rng.integers(1, 6)).tolist()
    most = 3 * len(options)
    return LUNCH | {
        "name": f"drawn {seed}",
        "cost": [rng.integers(0, 30, n).tolist() for n in options],
        "use": [rng.integers(0, 6, (n, 2)).tolist() for n in options],
        "budget": rng.integers(most // 3, most + 1, 2).tolist(),
    }


def test_engine_cpsat_and_brute_force_agree(package: Path) -> None:
    problem, infeasible = find_problem("choices"), 0
    for seed in range(100):
        instance = problem.from_document(drawn(seed))
        assert problem_of(instance) is problem
        found = {}
        for method in ("layers", "cpsat", "brute-force"):
            try:
                solution = moeplace.solve(instance, method)
            except NoSolutionError:
                found[method] = None
                continue
            report = moeplace.check(instance, solution)
            assert report.ok, (seed, method, report.violations)
            assert report.value == solution.value == solution.bound, (seed, method)
            found[method] = solution.value
        assert len(set(found.values())) == 1, (seed, found)
        infeasible += found["layers"] is None
    assert 5 < infeasible < 95


def test_what_fails_on_the_way_loses_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods, instance = importlib.import_module("choices.methods"), find_problem("choices").from_document(LUNCH)

    class Breaks(methods.ListedOracle):
        def best(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("the oracle broke")

    monkeypatch.setattr(methods, "ListedOracle", Breaks)
    start = moeplace.solve(instance, "brute-force").decision
    solution = moeplace.solve(instance, "layers", start=start)
    assert solution.value == 9
    assert "RuntimeError: the oracle broke" in solution.details["solver_failure"]
    with pytest.raises(MethodError, match="the oracle broke"):
        moeplace.solve(instance, "layers")
    monkeypatch.setattr(methods.cp_model.CpSolver, "solve", lambda self, model: methods.cp_model.UNKNOWN)
    with pytest.raises(MethodError, match="CP-SAT found no choice: UNKNOWN"):
        moeplace.solve(instance, "cpsat")


def test_the_checker_finds_every_broken_rule(package: Path, tmp_path: Path) -> None:
    problem = find_problem("choices")
    instance = problem.from_document(LUNCH)
    good = moeplace.solve(instance, "layers").document()
    assert problem.check(instance, problem.read_solution(good), None).ok
    broken: dict[str, Callable[[dict[str, Any]], object]] = {
        "instance.sha256": lambda d: d["instance"].update(sha256="0"),
        "instance.name": lambda d: d["instance"].update(name="dinner"),
        "chosen: 1 options": lambda d: d.update(chosen=[0]),
        "no option 7": lambda d: d.update(chosen=[7, 0]),
        "budget 0: 9 used": lambda d: d.update(chosen=[2, 1]),
        "objective.value": lambda d: d["objective"].update(value=8),
        "objective.reference": lambda d: d["objective"].update(reference=10),
        "objective.gap: the solution says 0.5": lambda d: d["objective"].update(gap=0.5),
        "objective.gap: there is one without a bound": lambda d: d["objective"].update(bound=None),
        "objective.bound": lambda d: d["objective"].update(bound=10),
        "status.solution": lambda d: d["status"].update(solution="feasible"),
        "status.termination": lambda d: d["objective"].update(bound=0, gap=1.0),
    }
    for said, change in broken.items():
        document = json.loads(json.dumps(good))
        change(document)
        report = problem.check(instance, problem.read_solution(document), None)
        assert any(line.startswith(said) or said in line for line in report.violations), (said, report.violations)
    path = tmp_path / "out.json"
    for said, change in {
        'chosen: expected a list, found "a"': {"chosen": "a"},
        'the key "chosen" is missing': {},
        'expected "choices/solution"': {"format": "choices/nothing", "chosen": []},
    }.items():
        path.write_text(json.dumps({k: v for k, v in good.items() if k != "chosen"} | change))
        with pytest.raises(InputError) as caught:
            moeplace.read_solution(path)
        assert "\n" not in str(caught.value), said
        if "nothing" not in str(change):
            assert said in str(caught.value)


def test_the_verbs_take_it(run: Callable[..., tuple[str, str]]) -> None:
    out, _ = run("solve", "lunch.json", "-o", "out.json", "--certificate", "proof.json")
    assert "proven optimal by layers" in out
    out, _ = run("check", "lunch.json", "out.json", "--certificate", "proof.json")
    assert "trusting the word of 'layers'" in out
    assert json.loads(run("solve", "lunch.json", "--method", "layers", "--start", "out.json", "--json")[0])["chosen"]
    assert json.loads(run("check", "lunch.json", "out.json", "--json")[0])["value"] == 9
    (table,) = json.loads(run("gap", "lunch.json", "--json")[0])
    assert {method["method"]: method["latency_ns"] for method in table["methods"]} == {
        "layers": 9, "cpsat": 9, "brute-force": 9,
    }  # fmt: skip
    assert "own bound" in run("gap", "lunch.json")[0]
    assert json.loads(run("info", "lunch.json", "--json")[0])["methods"][0] == {
        "name": "auto", "fits": True, "reason": None,
    }  # fmt: skip
    document = json.loads(Path("out.json").read_text())
    Path("out.json").write_text(json.dumps(document | {"chosen": [2, 1]}))
    assert "budget 0: 9 used of 6" in run("check", "lunch.json", "out.json", code=1)[0]


def test_no_solution_is_one_line_and_nothing_is_written(run: Callable[..., tuple[str, str]]) -> None:
    Path("none.json").write_text(json.dumps(LUNCH | {"budget": [1, 1]}))
    for method in ("auto", "cpsat", "brute-force"):
        out, err = run("solve", "none.json", "--method", method, "-o", "none-out.json", "--json", code=1)
        assert out == "", method
        assert err.startswith("moeplace solve: infeasible: "), err
        assert err.count("\n") == 1, method
        assert not Path("none-out.json").exists(), method
    out, _ = run("gap", "none.json")
    assert out.count("infeasible: no choice is within") == 3


def test_bad_input_is_one_line(run: Callable[..., tuple[str, str]]) -> None:
    caching = Path(__file__).resolve().parents[2] / "instances" / "tiny" / "tiny_two_servers_share.json"
    run("solve", "lunch.json", "-o", "out.json")
    run("solve", str(caching), "--method", "greedy", "-o", "cached.json")
    Path("x.sol").write_text("x(0_0) 1")
    Path("odd.json").write_text(json.dumps(LUNCH | {"format": "chioces/instance"}))
    Path("bad.json").write_text(json.dumps(LUNCH | {"use": [[[1, 1]]]}))
    for args, said in {
        ("info", "odd.json"): '"moeplace/serverless" or "choices/instance", found "chioces/',
        ("solve", "bad.json"): "bad.json: use: expected [3, 2] options",
        ("check", "lunch.json", "cached.json"): 'format: expected "choices/solution", found "moeplace/solution"',
        ("check", str(caching), "out.json"): 'format: expected "moeplace/solution", found "choices/solution"',
        ("solve", "lunch.json", "--start", "cached.json"): 'cached.json: format: expected "choices/solution"',
        ("solve", "lunch.json", "--start", "x.sol"): "x.sol: choices has no exported model that a solver's file could",
        ("solve", "lunch.json", "--method", "greedy"): "no method 'greedy'; there are auto, brute-force, cpsat, layers",
        ("export", "lunch.json", "--model", "milp", "-o", "x.mps"): "lunch.json: choices has no algebraic model",
        (
            "methods",
            "--problem",
            "chioces",
        ): "no problem 'chioces'; there are caching, active-experts, serverless, ",
    }.items():
        out, err = run(*args, code=2)
        assert out == "", args
        assert said in err, (args, err)
        assert err.count("\n") == 1, args


def test_methods_in_sections(run: Callable[..., tuple[str, str]]) -> None:
    names = [method["name"] for method in json.loads(run("methods", "--problem", "choices", "--json")[0])]
    assert names == ["auto", "brute-force", "cpsat", "layers"]
    assert "choices" not in {method["name"] for method in json.loads(run("methods", "--json")[0])}
    out, _ = run("methods")
    assert out.index("column-generation") < out.index("Problem choices") < out.index("brute-force")


def test_a_broken_problem_hides_no_other(run: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("broken-1.dist-info").mkdir()
    Path("broken-1.dist-info/entry_points.txt").write_text("[moeplace.problems]\nbroken = no_such_module:PROBLEM\n")
    monkeypatch.syspath_prepend(Path.cwd())
    assert problem_names() == ["caching", "active-experts", "serverless", "broken", "choices"]
    run("solve", "lunch.json")
    Path("odd.json").write_text('{"format": "odd"}')
    _, err = run("info", "odd.json", code=2)
    assert "the problem 'broken' cannot be loaded: ModuleNotFoundError" in err


def test_bench_report_and_best_known(run: Callable[..., tuple[str, str]]) -> None:
    Path("set").mkdir()
    for seed in range(4):
        Path(f"set/drawn {seed}.json").write_text(json.dumps(drawn(seed)))
    Path("set/none.json").write_text(json.dumps(LUNCH | {"name": "none", "budget": [1, 1]}))
    run("bench", "set", "--methods", "layers,cpsat", "--workers", "1", "--time-limit", "60", "-o", "run")
    from moeplace.bench.records import read_run

    data = read_run("run")
    statuses = {(record.instance, record.status) for record in data.records}
    assert ("none", "no_solution") in statuses
    assert {status for _, status in statuses} == {"ok", "no_solution"}
    assert {instance.problem for instance in data.run.instances} == {"choices"}
    assert all(record.latency_ns == record.bound_ns for record in data.records)
    run("report", "run", "-o", "tables")
    assert "layers" in Path("tables/index.md").read_text()
    run("best-known", "--update", "run", "--instances", "set")
    known = json.loads(Path("set/best_known.json").read_text())
    assert all(entry["optimal"] for entry in known.values())
    assert known
    assert "excess" in run("gap", "set/" + sorted(known)[0] + ".json", "--methods", "layers")[0]
