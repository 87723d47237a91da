"""The exported model: its optimum is brute force's, and another solver's values of it are a deployment again."""

from __future__ import annotations

import highspy
import pytest
from serverless_instances import brute_force, random_document, toy

from moeplace.base.errors import InputError
from moeplace.serverless.cost import cost
from moeplace.serverless.formulations import deployment_of_values
from moeplace.serverless.instance import Instance
from moeplace.serverless.problem import PROBLEM
from moeplace.solvers.exporting import write_model
from moeplace_models.serverless.milp import build


def solved(instance: Instance, path: str) -> dict[str, float] | None:
    """Write the model, solve the file with HiGHS and return its variables' values by name."""
    write_model(build(instance), "milp", path)
    highs = highspy.Highs()
    highs.silent()
    assert highs.readModel(path) == highspy.HighsStatus.kOk
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    names = [highs.getColName(i)[1] for i in range(highs.getNumCol())]
    return dict(zip(names, highs.getSolution().col_value, strict=True))


def test_the_exported_model_has_the_optimum_of_brute_force(tmp_path) -> None:  # type: ignore[no-untyped-def]
    none = 0
    for seed in range(24):
        instance = Instance.from_document(random_document(seed))
        best = brute_force(instance)
        values = solved(instance, str(tmp_path / ("model.mps", "model.lp")[seed % 2]))
        if best is None:
            assert values is None, seed
            none += 1
            continue
        assert values is not None, seed
        assert cost(instance, deployment_of_values(instance, values)) == best[0], seed
    assert 0 < none < 20


def test_values_that_are_no_deployment_are_refused() -> None:
    instance = Instance.from_document(toy())
    found = deployment_of_values(instance, {"m(1)": 1, "m(0)": 0, "x(0_2_0_1)": 0.0, "s(1)": 5.0})
    assert (found.main_spec, found.layers[0].spec) == (1, None)
    remote = deployment_of_values(instance, {"m[0]": 1, "x[0,2,1,0]": 1.0})
    assert (remote.layers[0].spec, remote.layers[0].replicas) == (1, [[2]])
    for values, said in (
        ({"s(1)": 1.0}, "no variable m"),
        ({"m(1)": 0.5}, "neither 0 nor 1"),
        ({"m(7)": 1}, "was another one exported"),
        ({"m(1)": 1, "x(0_9_0_0)": 1}, "was another one exported"),
        ({"m(0)": 1, "m(1)": 1}, "2 main specifications"),
        ({"m(0)": 0, "m(1)": 0}, "0 main specifications"),
        ({"m(0)": 1, "x(0_1_0_0)": 1, "x(0_2_1_0)": 1}, "2 specifications, expected one"),
    ):
        with pytest.raises(InputError, match=said):
            deployment_of_values(instance, values)
    with pytest.raises(InputError, match="the bytes of local experts"):
        deployment_of_values(Instance.from_document(toy(platform={"main_mb": 140})), {"m(0)": 1})


def test_models_that_are_too_large_are_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    from moeplace.serverless import formulations

    instance = Instance.from_document(toy())
    assert PROBLEM.model_limit(instance, "milp") is None
    monkeypatch.setattr(formulations, "MOST_VARIABLES", 3)
    assert "variables for each main specification, at most 3" in str(PROBLEM.model_limit(instance, "milp"))
