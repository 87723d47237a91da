"""Other solvers' solution files: a placement comes back from every form, and what is none is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import pytest
from cases import looped
from random_instances import random_document

import moeplace
from moeplace import InputError, Instance
from moeplace.caching.formulations import export, placement_of_values
from moeplace.cli import main
from moeplace.solvers.solution_files import SolverValues, read_values

DOCUMENT: dict[str, Any] = {
    "format": "moeplace/instance",
    "version": 1,
    "name": "two servers",
    "latency_model": "max",
    "models": [{"name": "m", "layers": 1, "experts": 3, "top_k": 1, "expert_bytes": 10}],
    "servers": [{"name": "s", "capacity_bytes": 10}, {"name": "t", "capacity_bytes": 20}],
    "demands": [{"user": "u", "model": "m", "tokens": 60, "device_ns": 0, "server_ns": [1, 2], "cloud_ns": 9}],
    "activations": {"demand": [0, 0, 0], "layer": [0, 0, 0], "experts": [[0], [1], [2]], "count": [30, 20, 10]},
}
VALUES = {"x(0_0)": 1.0, "x(0_1)": 0.0, "x(1_1)": 1.0, "x(1_2)": 1.0, "a(0)": 1.0}
COST = 30 * 1 + 20 * 2 + 10 * 2
"""Of the placement that the values mean: the most used expert near, the others on the second server."""

PAIRS = [(name, f"{value:g}") for name, value in VALUES.items()]
FORMS = {
    "name and value": "\n".join(f"{name} {value}" for name, value in PAIRS),
    "gurobi": f"# Solution for model cost\n# Objective value = {COST}\n" + "\n".join(f"{n} {v}" for n, v in PAIRS),
    "scip": f"solution status: optimal solution found\nobjective value:        {COST}\n"
    + "\n".join(f"{n}                 {v} \t(obj:0)" for n, v in PAIRS if v != "0"),
    "cbc": f"Optimal - objective value {COST}.00000000\n"
    + "\n".join(f"{j:7} {n} {v:>22} {0:>22}" for j, (n, v) in enumerate(PAIRS)),
    "miplib": f"=obj= {COST}\n" + "\n".join(f"{n}  {v}" for n, v in PAIRS),
    "cplex": f'<?xml version = "1.0" encoding="UTF-8" standalone="yes"?>\n<CPLEXSolution version="1.2">\n<header '
    f'problemName="p" objectiveValue="{COST}"/>\n<variables>\n'
    + "\n".join(f'<variable name="{n}" index="{j}" value="{v}"/>' for j, (n, v) in enumerate(PAIRS))
    + "\n</variables>\n</CPLEXSolution>\n",
    "highs": f"Model status\nOptimal\n\n# Primal solution values\nFeasible\nObjective {COST}\n# Columns {len(PAIRS)}\n"
    + "\n".join(f"{n} {v}" for n, v in PAIRS)
    + "\n# Rows 1\nx(7_7) 5\n",
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], SolverValues]:
    def read(text: str) -> SolverValues:
        (tmp_path / "m.sol").write_text(text)
        return read_values(tmp_path / "m.sol")

    return read


Read = Callable[[str], SolverValues]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_placement(read: Read, form: str, tmp_path: Path) -> None:
    found = read(FORMS[form])
    assert found.objective == (None if form == "name and value" else COST)
    assert {n: v for n, v in found.values.items() if v} == {n: v for n, v in VALUES.items() if v}
    instance = Instance.from_document(DOCUMENT)
    placement = placement_of_values(instance, found.values)
    assert moeplace.latency_ns(instance, placement) == COST
    (tmp_path / "packed.sol.gz").write_bytes(gzip.compress(FORMS[form].encode()))
    assert read_values(tmp_path / "packed.sol.gz") == found
    assert read(FORMS[form].replace("\n", "\r\n")) == found


def solved(path: Path) -> highspy.Highs:
    highs = highspy.Highs()
    for name, value in {"output_flag": False, "threads": 1, "mip_rel_gap": 0.0, "mip_abs_gap": 0.0}.items():
        highs.setOptionValue(name, value)
    assert highs.readModel(str(path)) != highspy.HighsStatus.kError
    highs.run()
    return highs


@looped("seed", range(8))
def test_round_trip_through_highs(seed: int, tmp_path: Path) -> None:
    document = random_document(np.random.default_rng(seed), 16)
    instance = Instance.from_document(document)
    best = moeplace.solve(instance, "cpsat").objective.latency_ns
    for model in ("milp", "milp-textbook"):
        for ending in ("mps", "lp"):
            export(instance, model, tmp_path / f"m.{ending}")
            highs = solved(tmp_path / f"m.{ending}")
            if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
                continue  # a model without a variable
            for style in (0, 1, 4):
                highs.writeSolution(str(tmp_path / "m.sol"), style)
                found = read_values(tmp_path / "m.sol")
                if not any(name.startswith("x(") for name in found.values):
                    continue  # of style 4, where nothing is cached
                placement = placement_of_values(instance, found.values)
                assert moeplace.latency_ns(instance, placement) == best, (model, ending, style)
                assert found.objective == pytest.approx(best)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "holds no value of a variable"),
        ("# Objective value = 3\n", "holds no value of a variable"),
        ("x(0_0)\n", 'line 1: expected a variable\'s name and its value, found "x(0_0)"'),
        ("a b c d e\n", "line 1: expected a variable's name and its value"),
        ("x(0_0) one\n", 'line 1: expected a number, found "one"'),
        ("x(0_0) nan\n", 'line 1: expected a number, found "nan"'),
        ("x(0_0) 1\n\nx(0_0) 0\n", 'line 3: a second value of "x(0_0)"'),
        ("solution status: infeasible\n", "line 1: holds no feasible solution"),
        ("solution status: optimal\nno solution available\n", "line 2: holds no feasible solution"),
        ("Infeasible - objective value 3\n  0 x(0_0) 1 0\n", "line 1: holds no feasible solution"),
        ("Optimal - objective value 3\n**  0 x(0_0) 1 0\n", "line 2: holds no feasible solution"),
        ("Model status\nInfeasible\n\n# Primal solution values\nNone\n", 'HiGHS says "None"'),
        ("# Primal solution values\nFeasible\nObjective 3\n# Columns 3\nx(0_0) 1\n", "is cut off: 1 of 3 columns"),
        ("# Primal solution values\nFeasible\nObjective 3\n# Columns 2\nx(0_0) 1\n# Rows 1\nr 1\n", "is cut off: 1 of"),
        ("# Primal solution values\nFeasible\nObjective 3\n", "is cut off: no columns"),
        ("# Primal solution values\nFeasible\n# Columns many\n", "line 3: expected '# Columns' and how many"),
        ("<CPLEXSolution>", "not XML: "),
        ("<CPLEXSolutions/>", "expected one CPLEXSolution, found 0 in <CPLEXSolutions>"),
        ("<CPLEXSolutions><CPLEXSolution/><CPLEXSolution/></CPLEXSolutions>", "expected one CPLEXSolution, found 2"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><CPLEXSolution/>', "defines entities or a document type"),
        ('<CPLEXSolution><variables><variable name="x(0_0)"/></variables></CPLEXSolution>', "variable[0]: expected a"),
    ],
)  # fmt: skip
def test_what_is_no_solution_is_refused(read: Read, text: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert line in str(caught.value)
    assert "m.sol: " in str(caught.value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"y": 1.0}, "no variable x(SERVER_EXPERT)"),
        ({"x(2_0)": 0.0}, "x(2_0): the instance has 2 servers and 3 experts (from 0); was another one exported?"),
        ({"x(0_3)": 1.0}, "x(0_3): the instance has 2 servers"),
        ({"x(0_0)": 0.5}, "x(0_0): 0.5 is neither 0 nor 1"),
        ({"x(0_0)": 2.0}, "x(0_0): 2 is neither 0 nor 1"),
        ({"x(0_0)": 1.0, "x(0_1)": 1.0}, "server 's' holds 20 bytes, its capacity is 10"),
    ],
)
def test_what_is_no_placement_is_refused(values: dict[str, float], line: str) -> None:
    with pytest.raises(InputError) as caught:
        placement_of_values(Instance.from_document(DOCUMENT), values)
    assert line in str(caught.value)


def test_solvers_leave_values_near_whole_numbers() -> None:
    instance = Instance.from_document(DOCUMENT)
    near = placement_of_values(instance, {"x(0_0)": 0.999995, "x(0_1)": 2e-6, "x[1,1]": 1.0, "x_1_2": 1})
    assert moeplace.latency_ns(instance, near) == COST


class TestSolve:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("i.json").write_text(json.dumps(DOCUMENT))

    def run(self, capsys: pytest.CaptureFixture[str], text: str, *, code: int = 0, name: str = "m.sol") -> str:
        Path(name).write_text(text)
        solve = ["solve", "i.json", "--method", "local-search", "--start", name, "-o", "s.json"]
        assert main(solve) == code
        return capsys.readouterr().err

    def test_begins_with_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        for form in FORMS.values():
            assert self.run(capsys, form) == ""
            assert json.loads(Path("s.json").read_text())["objective"]["latency_ns"] == COST

    def test_says_where_the_objective_is_another(self, capsys: pytest.CaptureFixture[str]) -> None:
        err = self.run(capsys, FORMS["gurobi"].replace(f"= {COST}", "= 1234.5"))
        assert err == (
            f"note: m.sol: its objective is 1234.5, on this instance it costs {COST}; is it of another instance, or "
            "not optimal?\n"
        )

    def test_refusals_name_the_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(capsys, "x(0_0) one\n", code=2).startswith("moeplace solve: m.sol: line 1: expected a number")
        assert self.run(capsys, "x(9_0) 1\n", code=2).startswith(
            "moeplace solve: m.sol: x(9_0): the instance has 2 ser"
        )
        assert not Path("s.json").exists()

    def test_a_solution_document_may_have_any_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["solve", "i.json", "--method", "greedy", "-o", "mine.json"]) == 0
        Path("mine.json").rename("mine.sol")
        capsys.readouterr()
        assert self.run(capsys, Path("mine.sol").read_text(), name="mine.sol") == ""
