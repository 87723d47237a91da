"""How many experts each layer uses is decided together with the placement: documents, choices, cuts."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from random_instances import choices_of, cut_document, naive_cost_2, pairs_of, random_joint_document

from moeplace import Instance, Model, Placement
from moeplace.base.arrays import Int64
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.caching.document import lowest_version
from moeplace.caching.evaluation import Evaluation
from moeplace.caching.saving import saving_form
from moeplace.caching.terms import aggregate


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
