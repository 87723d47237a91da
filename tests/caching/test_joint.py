"""How many experts each layer uses is decided together with the placement: documents, choices, cuts."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET, structs
from random_instances import (
    brute_force_joint,
    choices_of,
    cut_document,
    naive_cost_2,
    pairs_of,
    random_joint_document,
)

import moeplace
from moeplace import Instance, Model, Placement, Solution
from moeplace.base.arrays import Int64
from moeplace.base.documents import parse
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.base.result import REFUSED_CLAIM, Outcome, ProgressCallback
from moeplace.caching.bounds.concave import ConcaveBound
from moeplace.caching.document import lowest_version
from moeplace.caching.evaluation import Evaluation, cost_ns, latency_ns, loading_ns
from moeplace.caching.saving import saving_form
from moeplace.caching.terms import aggregate
from moeplace.caching.verification import verify
from moeplace.cli import main
from moeplace.solving import certified


def active_of(instance: Instance, chosen: dict[str, list[int]]) -> Int64:
    return np.array([k for model in instance.models for k in chosen[model.name]], dtype=np.int64)


def test_documents_keep_the_order_within_rows_and_all_there_is_to_choose() -> None:
    for seed in range(40):
        document = random_joint_document(np.random.default_rng(seed))
        instance = Instance.from_document(copy.deepcopy(document))
        assert instance.ranked, seed
        assert instance.document() == document, seed
        assert lowest_version(document) == 2
        again = Instance.from_frames(*instance.to_frames(), name=instance.name, latency_model=instance.latency_model)
        told = again.document()
        for key in ("activations", "active", "models"):
            assert told[key] == document[key], (seed, key)
        rows = document["activations"]["experts"]
        if (i := next((i for i, row in enumerate(rows) if len(row) > 1), None)) is not None:
            rows[i].reverse()
            assert Instance.from_document(document).sha256 != instance.sha256, seed


def test_an_instance_is_ranked_without_anything_to_choose() -> None:
    document = random_joint_document(np.random.default_rng(1))
    del document["active"]
    assert lowest_version(document) == 2
    instance = Instance.from_document(document)
    assert instance.ranked
    assert instance.choices is None
    document["activations"]["ranked"] = False
    told = Instance.from_document(document)
    assert told.document() == document
    assert not told.ranked
    with pytest.raises(InputError, match="cut only where"):
        told.cut([1] * told.n_blocks)


def test_choices_keep_a_best_one_and_drop_only_what_is_never_better() -> None:
    none = dropped = 0
    for seed in range(200):
        document = random_joint_document(np.random.default_rng(seed))
        instance = Instance.from_document(document)
        choices = instance.choices
        assert choices is not None
        within = [active_of(instance, chosen) for chosen in choices_of(document)]
        assert (choices.shortage is None) == bool(within), seed
        if not within:
            none += 1
            assert not any(choices.useful), seed
            with pytest.raises(NoSolutionError, match="the layers lose at least"):
                _ = choices.first
            continue
        assert choices.loss(choices.first) <= choices.budget, seed
        for active in within:
            assert choices.loss(active) <= choices.budget, seed
            # For every choice there is one of useful numbers that is nowhere larger and loses no more.
            better = [max(k for k in useful if k <= most) for useful, most in zip(choices.useful, active, strict=True)]
            assert choices.loss(np.array(better)) <= choices.loss(active), seed
            assert (choices.fewest <= better).all(), seed
            dropped += int((np.array(better) < active).any())
        if choices.loss(choices.fewest) <= choices.budget:
            assert (choices.first == choices.fewest).all(), seed
    assert none > 5
    assert dropped > 100


def test_a_cut_is_the_instance_whose_rows_have_their_first_experts_only() -> None:
    merged = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        document = random_joint_document(rng)
        instance = Instance.from_document(copy.deepcopy(document))
        chosen = {m["name"]: rng.integers(1, m["top_k"] + 1, m["layers"]).tolist() for m in document["models"]}
        cut = instance.cut(active_of(instance, chosen))
        written = cut_document(document, chosen)
        assert cut.active is None, seed
        assert not cut.ranked, seed
        told = cut.document()
        assert Instance.from_document(told).sha256 == cut.sha256 != instance.sha256, seed
        assert told["version"] == lowest_version(written), seed
        assert {key: told[key] for key in told if key not in ("activations", "version")} == {
            key: written[key] for key in written if key not in ("activations", "version")
        }, seed
        assert _counted(told) == _counted(written), seed
        assert len(_counted(told)) == len(told["activations"]["count"]), seed  # equal rows are one
        merged += len(written["activations"]["count"]) - len(told["activations"]["count"])
        plain = Instance.from_document(written | {"version": 2})
        assert cut.baseline_ns == plain.baseline_ns <= instance.baseline_ns, seed
        placement = Placement(rng.random((len(cut.servers), cut.n_items)) < 0.8)
        assert placement.fits(cut) == placement.fits(plain), seed
        if (expected := naive_cost_2(written, pairs_of(instance, placement))) is not None:
            assert Evaluation(cut, placement).latency_ns == expected[0], seed
    assert merged > 20


def _counted(document: dict[str, Any]) -> dict[tuple[int, int, frozenset[int]], int]:
    rows, found = document["activations"], {}
    for d, layer, experts, count in zip(rows["demand"], rows["layer"], rows["experts"], rows["count"], strict=True):
        key = d, layer, frozenset(experts)
        found[key] = found.get(key, 0) + count
    return found


def kept(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: ProgressCallback | None,
) -> Outcome:
    """Return what it is started from."""
    assert start is not None
    return Outcome(start)


def test_a_placement_with_its_choice_is_valued_and_refused_as_the_definitions_say() -> None:
    refused = taken = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        document = random_joint_document(rng)
        instance = Instance.from_document(copy.deepcopy(document))
        within = choices_of(document)
        for _ in range(6):
            chosen = {m["name"]: rng.integers(1, m["top_k"] + 1, m["layers"]).tolist() for m in document["models"]}
            cached = rng.random((len(instance.servers), instance.n_items)) < rng.choice([0.3, 0.6, 0.9])
            placement = Placement(cached, active_of(instance, chosen))
            expected = naive_cost_2(cut_document(document, chosen), pairs_of(instance, placement))
            allowed = expected is not None and chosen in within
            assert placement.fits(instance) == allowed, seed
            assert not placement.at(None).fits(instance), seed
            assert not placement.fits(instance.cut(placement.active)), seed
            if expected is not None:
                cut = instance.cut(placement.active)
                evaluation = Evaluation(instance, placement)
                assert (latency_ns(instance, placement), loading_ns(instance, placement)) == expected, seed
                assert evaluation.cost_ns == cost_ns(instance, placement) == cost_ns(cut, placement.at(None)), seed
                assert evaluation.requests == Evaluation(cut, placement.at(None)).requests, seed
            if not allowed:
                refused += 1
                with pytest.raises(InputError):
                    placement.check_fits(instance)
                continue
            taken += 1
            solution = moeplace.solve(instance, f"{__name__}:kept", start=placement)
            assert solution.value == sum(expected or ()), seed
            assert solution.active_experts == chosen, seed
            report = moeplace.check(instance, solution)
            assert report.ok, (seed, report.violations)
            again = parse(msgspec.json.decode(solution.to_json()), Solution)
            assert again == solution, seed
            back = again.placement_on(instance)
            assert (back.cached == placement.cached).all(), seed
            assert back.active is not None
            assert (back.active == placement.active).all(), seed
    assert refused > 100
    assert taken > 40
    empty = Placement.empty(instance)
    assert latency_ns(instance, empty) == instance.baseline_ns
    for wrong in (empty.at(None), Placement(empty.cached, np.zeros(instance.n_blocks, dtype=np.int64))):
        with pytest.raises(InputError, match="active_experts"):
            latency_ns(instance, wrong)


def wrong_choices(instance: Instance, solution: Solution) -> Iterator[tuple[str, Solution, str]]:
    """Break what a solution says of active experts, each with what the checker must say."""
    said, active = solution.objective, solution.active_experts
    assert isinstance(active, dict)
    model = instance.models[0]
    others = {name: numbers for name, numbers in active.items() if name != model.name}

    def named(what: str, why: str, changed: Any) -> tuple[str, Solution, str]:
        return what, structs.replace(solution, active_experts=changed), f"active_experts: {why}"

    yield named("nothing said", "missing", UNSET)
    yield named("a model left out", f"nothing is said of {model.name!r}", others)
    yield named("an unknown model", "the instance has no model 'x'", active | {"x": [1]})
    short = {**active, model.name: active[model.name][1:]}
    yield named("a layer left out", f"{model.layers - 1} numbers for the {model.layers} layers", short)
    for k in (0, model.top_k + 1):
        yield named(f"{k} experts", f"{k} in layer 0", {**active, model.name: [k, *active[model.name][1:]]})
    for by in (-1, 1):
        for key in ("loss", "loss_budget"):
            other = structs.replace(said, **{key: getattr(said, key) + by})
            yield f"{key} {by:+}", structs.replace(solution, objective=other), f"objective.{key}"
    for key in ("loss", "loss_budget"):
        other = structs.replace(said, **{key: UNSET})
        yield f"{key} unsaid", structs.replace(solution, objective=other), f"objective.{key}"
    assert instance.active is not None
    table = instance.active.loss[model.name][0]
    spare = instance.active.budget - said.loss + table[active[model.name][0] - 1]
    if max(table) > spare:
        k = table.index(max(table)) + 1
        dear = {**active, model.name: [k, *active[model.name][1:]]}
        yield named("above the budget", f"the layers lose {max(table) - spare + instance.active.budget}", dear)


def test_the_checker_names_what_is_wrong_with_a_choice() -> None:
    seen: set[str] = set()
    for seed in range(60):
        instance = Instance.from_document(random_joint_document(np.random.default_rng(seed)))
        try:
            solution = moeplace.solve(instance, "popular")
        except NoSolutionError:
            continue
        assert moeplace.check(instance, solution).ok, seed
        for what, wrong, why in wrong_choices(instance, solution):
            found = moeplace.check(instance, wrong)
            assert any(violation.startswith(why) for violation in found.violations), (seed, what, found.violations)
            seen.add(what)
        plain = instance.cut(solution.placement_on(instance).active)
        own = moeplace.solve(plain, "popular")
        for key, value in (("loss", 0), ("loss_budget", 1)):
            wrong = structs.replace(own, objective=structs.replace(own.objective, **{key: value}))
            assert any(f"objective.{key}" in said for said in moeplace.check(plain, wrong).violations), seed
        wrong = structs.replace(own, active_experts=solution.active_experts)
        assert any(said.startswith("active_experts: ") for said in moeplace.check(plain, wrong).violations), seed
        with pytest.raises(InputError, match="active_experts: given, but not open"):
            wrong.placement_on(plain)
        with pytest.raises(InputError, match="active_experts: not given, and open"):
            own.placement_on(instance)
    assert len({what for what in seen if "experts" not in what}) == 11, seen
    assert {"above the budget", "0 experts"} <= seen


UNAWARE = [
    "greedy", "local-search", "successive-greedy", "max-convolution", "popular", "random", "two-stage", "uniform",
    "milp-textbook",
]  # fmt: skip
"""Methods that know nothing of active experts."""


def test_methods_that_know_nothing_of_it_make_the_choice_first_and_prove_nothing() -> None:
    ran = proven = 0
    for seed in range(24):
        document = random_joint_document(np.random.default_rng(seed), max_variables=6)
        best = brute_force_joint(document)
        instance = Instance.from_document(document)
        choices = instance.choices
        assert choices is not None
        for method in UNAWARE if seed % 8 else [*UNAWARE, "column-generation"]:
            if best is None:
                with pytest.raises(NoSolutionError):
                    moeplace.solve(instance, method)
                continue
            solution, certificate = certified(instance, method)
            assert moeplace.check(instance, solution, certificate).ok, (seed, method)
            assert solution.value >= best, (seed, method)
            placement = solution.placement_on(instance)
            assert (placement.active == choices.first).all(), (seed, method)
            assert "decided before the placement" in solution.details["active_experts"], (seed, method)
            assert solution.guarantee is None
            ran += 1
            if solution.bound is None:
                assert solution.status.termination == "completed", (seed, method)
                assert REFUSED_CLAIM not in solution.details, (seed, method)
            else:
                assert (choices.first == choices.fewest).all(), (seed, method)
                assert solution.bound <= best, (seed, method)
                assert certificate is not None
                # What is shown of the fewest experts is shown of all choices; the rest is the method's word.
                found = verify(instance, certificate)
                assert (found.problems, found.bound_ns) == ((), solution.bound), (seed, method)
                assert found.trusted in (None, solution.bound_source), (seed, method)
                proven += 1
    assert ran > 60
    assert proven > 1


def test_a_start_keeps_its_choice() -> None:
    instance = toy().instance()
    begin = Placement(Placement.empty(instance).cached, np.array([2, 1]))
    solution = moeplace.solve(instance, "local-search", start=begin)
    assert solution.active_experts == {"moe": [2, 1]}
    assert "those of the start" in str(solution.details["active_experts"])
    for method in ("greedy", "local-search"):
        again = moeplace.solve(instance, method, start=solution)
        assert again.value <= solution.value
    with pytest.raises(InputError, match="active_experts: the layers lose 8, the budget is 4"):
        moeplace.solve(instance, "greedy", start=begin.at(np.array([1, 1])))


def test_what_is_proven_of_a_cut_is_not_proven_of_the_whole() -> None:
    refused = 0
    for seed in range(16):
        document = random_joint_document(np.random.default_rng(seed), 6)
        instance, best = Instance.from_document(document), brute_force_joint(document)
        cut = instance.cut(instance.block_top_k)
        bound = ConcaveBound(saving_form(cut))
        bound.improve(lambda: False)
        certificate = bound.best.certificate()
        assert verify(cut, certificate).ok, seed
        assert not verify(instance, certificate).ok, seed
        ours = structs.replace(certificate, instance=structs.replace(certificate.instance, sha256=instance.sha256))
        found = verify(instance, ours)
        if best is None:
            continue
        # It is read as one of the fewest experts, which wait least.
        assert found.bound_ns is not None, seed
        assert found.bound_ns <= best, seed
        assert found.ok == (found.bound_ns >= certificate.bound_ns), seed
        assert found.ok or "its cut proves" in found.problems[0], seed
        refused += not found.ok
    assert refused > 2


def test_a_choice_that_cannot_be_paid_is_no_solution_in_one_line() -> None:
    model = toy()
    moe = model._models[0]
    model.choose_active({moe: [[5, 2], [3, 1]]}, budget=2)
    instance = model.instance()
    for method in ("auto", "greedy", "milp", "no-cache"):
        with pytest.raises(NoSolutionError, match="the layers lose at least 3, not 2"):
            moeplace.solve(instance, method)


def toy() -> Model:
    model = Model("toy", ranked=True)
    moe = model.add_model("moe", layers=2, experts=4, top_k=2, expert_bytes=1000)
    near = model.add_server("near", capacity_bytes=2000)
    user = model.add_user("u0", moe, server_ns={near: 2000}, cloud_ns=40_000)
    model.add_rows(user, layer=0, experts=[[2, 0], [2, 1]], count=[60, 6])
    model.add_rows(user, layer=1, experts=[3, 1], count=66)
    model.choose_active({moe: np.array([[5, 0], [3, 0]])}, budget=4)
    return model


def test_an_instance_built_by_calls_has_the_choice_too() -> None:
    instance = toy().instance()
    document = instance.document()
    assert document["active"] == {"loss": {"moe": [[5, 0], [3, 0]]}, "budget": 4}
    assert document["activations"]["experts"] == [[2, 0], [2, 1], [3, 1]]
    assert instance.choices is not None
    assert instance.choices.useful == [[2], [1, 2]]


@pytest.mark.parametrize("active", [[2], [2, 0], [3, 1], [1.0, 2.0], ["a", "b"], [[1, 2]], [2, -1]])
def test_a_cut_refuses_what_is_no_number_of_experts_for_each_layer(active: Any) -> None:
    with pytest.raises(InputError, match=r"expected 2 integers|active experts in layer|there can be 1 to 2"):
        toy().instance().cut(active)


def test_nothing_is_aggregated_before_the_choice_is_made() -> None:
    instance = toy().instance()
    for make in (aggregate, saving_form):
        with pytest.raises(InputError, match="how many experts each layer uses is open"):
            make(instance)
        make(instance.cut([1, 2]))


def test_frames_that_do_not_belong_together_are_refused() -> None:
    frames = toy().instance().to_frames()
    for changes, why in (
        ({"losses": None}, "losses and loss_budget belong together"),
        ({"loss_budget": None}, "losses and loss_budget belong together"),
        ({"ranked": False}, "known only where activations.ranked is true"),
        ({"losses": frames.losses.iloc[1:]}, "layer 0 of 'moe' with 1 active experts is in no row"),
        ({"losses": frames.losses.assign(layer=0)}, "a number that is there once for a layer"),
        ({"losses": frames.losses.assign(layer=7)}, "a layer below 2"),
        ({"losses": frames.losses.assign(active_experts=3)}, "a number from 1 to 2"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            Instance.from_frames(**frames._replace(**changes)._asdict())


def test_every_command_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    toy().instance().save("toy.json")

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        found = main([*arguments])
        out, err = capsys.readouterr()
        assert found == code, (out, err)
        return out + err

    shown = run("info", "toy.json")
    assert "open, within a loss of 4; top-k everywhere loses 0" in shown
    assert "1 of 2 layers have a choice; 3 numbers of experts are worth considering" in shown
    assert json.loads(run("info", "toy.json", "--json"))["active"]["loss_budget"] == 4
    shown = run("solve", "toy.json", "--method", "milp", "-o", "best.json")
    assert "1.5 of 2 a layer on average, fewer in 1 of 2 layers; loss 3 of 4" in shown
    assert json.loads(Path("best.json").read_text())["active_experts"] == {"moe": [2, 1]}
    run("check", "toy.json", "best.json")
    assert "decided before the placement" in run("solve", "toy.json", "--method", "greedy", "--json")
    assert "milp" in run("gap", "toy.json", "--methods", "milp,greedy,popular")
    run("score", "toy.json", "best.json")
    plain = toy().instance().cut([2, 1])
    plain.save("plain.json")
    assert "active_experts: given, but not open in this instance" in run("score", "plain.json", "best.json", code=2)
    assert "only milp and cpsat" in run("export", "toy.json", "--model", "milp-textbook", "-o", "t.lp", code=2)
    assert "which replay does not decide" in run("replay", "toy.json", "toy.json", "-o", "replayed", code=2)
