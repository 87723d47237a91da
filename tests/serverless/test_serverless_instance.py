"""Serverless instances: what is refused and in which words; the exact cost by hand and by the checker."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serverless_instances import TOY, brute_force, layer_choices, random_document, toy

import moeplace
from moeplace.base.errors import InputError
from moeplace.serverless.checking import recompute
from moeplace.serverless.cost import (
    all_local,
    cost,
    evaluate,
    largest_cost,
    numbers,
    reference,
    refuses,
    why_infeasible,
)
from moeplace.serverless.document import Deployment
from moeplace.serverless.instance import Instance


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the toy with one value changed, by its place."""
    document = copy.deepcopy(TOY)
    *steps, last = path.split(".")
    at: Any = document
    for step in steps:
        at = at[int(step) if step.isdigit() else step]
    at[int(last) if last.isdigit() else last] = value
    return document


REFUSED: dict[str, tuple[str, Any]] = {
    "format: ": ("format", "moeplace/instance"),
    "version: ": ("version", 2),
    "model.top_k: expected at most 3, the experts, found 4": ("model.top_k", 4),
    "model.expert_bytes: expected an integer >= 1, found 0": ("model.expert_bytes", 0),
    'unknown key "speed"': ("speed", 1),
    "request.prefill: expected 1 layers, found 2": ("request.prefill", [[1, 0, 0]] * 2),
    "request.prefill[0]: expected 3 experts, found 2": ("request.prefill", [[1, 0]]),
    "request.prefill[0][1]: expected at most the 10 prompt tokens, found 11": ("request.prefill.0.1", 11),
    "request.prefill[0]: expected at most 20 in sum (10 tokens x 2), found 22": ("request.prefill", [[9, 8, 5]]),
    "request.decode: expected columns of one length, found layer 3, experts 2, count 2": (
        "request.decode.layer", [0, 0, 0],
    ),
    "request.decode.layer[1]: expected a layer from 0 to 0, found 1": ("request.decode.layer", [0, 1]),
    "request.decode.experts[0]: expected at most top_k = 2 experts, found 3": ("request.decode.experts.0", [0, 1, 2]),
    "request.decode.experts[0]: expected experts from 0 to 2, found 3": ("request.decode.experts.0", [3]),
    "request.decode.experts[0]: expected distinct experts, found [1, 1]": ("request.decode.experts.0", [1, 1]),
    "request.decode.count: expected the 4 output tokens at layer 0, found 5": ("request.decode.count.0", 4),
    "request.tokens_out: expected an integer >= 1, found 0": ("request.tokens_out", 0),
    "specs[1].mb: expected more than the 200 of the specification before it (they ascend), found 200": (
        "specs.1.mb", 200,
    ),
    "main_specs[1]: expected a specification from 0 to 1, found 2": ("main_specs.1", 2),
    "main_specs[1]: the specification 0 stands there twice": ("main_specs.1", 0),
    "main_specs: ": ("main_specs", []),
    "remote_specs[0]: expected a specification from 0 to 1, found 5": ("remote_specs", [5]),
    "platform.other_decode_ns: expected 1 times, one a layer, found 2": ("platform.other_decode_ns", [1, 2]),
    "platform.price_unit_usd: expected a number above 0 as text, found \"-1\"": ("platform.price_unit_usd", "-1"),
    "platform.price_unit_usd: expected a number above 0 as text, found \"much\"": ("platform.price_unit_usd", "much"),
    "platform.most_replicas: expected an integer >= 1, found 0": ("platform.most_replicas", 0),
    "platform.link_bytes_per_s: expected an integer >= 1, found 0": ("platform.link_bytes_per_s", 0),
    "the times of a deployment sum to up to": ("platform.cold_ns", 2**60),
    "the limits allow up to": ("limits.tpot_ns", 2**60),
    "memory and experts sum to up to": ("model.expert_bytes", 2**60),
    "a payload holds up to": ("platform.payload_bytes", 2**60),
}  # fmt: skip


def test_what_is_wrong_is_refused_in_one_line() -> None:
    Instance.from_document(TOY)
    for message, (path, value) in REFUSED.items():
        with pytest.raises(InputError) as caught:
            Instance.from_document(changed(path, value))
        assert str(caught.value).startswith(message), (path, str(caught.value))
        assert "\n" not in str(caught.value)


def test_an_instance_is_frozen_and_equal_rows_are_one() -> None:
    document = toy()
    document["request"]["decode"] = {"layer": [0, 0, 0], "experts": [[1, 0], [0, 2], [0, 1]], "count": [1, 1, 2]}
    instance = Instance.from_document(document)
    assert list(instance.rows[0].pairs()) == [([0, 1], 3), ([0, 2], 1)]
    assert instance.decoded.tolist() == [[4, 3, 1]]
    with pytest.raises(ValueError, match="read-only"):
        instance.prefill[0, 0] = 1
    with pytest.raises(AttributeError):
        instance.name = "other"  # type: ignore[misc]


def test_the_toy_by_hand() -> None:
    instance = Instance.from_document(TOY)
    # Everything at 400 MB: (9 + 8 + 3) tokens * 50 us + 3 * 300 us; two local experts a token.
    local = all_local(instance, 1)
    spent = evaluate(instance, local)
    assert spent.prefill_ns == [2_000_000 + 2_000_000 + 20 * 50_000 + 3 * 300_000]
    assert spent.decode_ns == [4 * (300_000 + 100_000 + 2 * 250_000)]
    assert spent.cost == (5_900_000 + 3_600_000) * (5000 * 500 + 1667 * 400)
    assert numbers(instance, local) == {"ttft_ns": 3_005_900_000, "tpot_ns": 900_000}
    # Expert 2 remote at 200 MB: 3 tokens, each 12,288 ns there and as long back, rounded up in sum.
    far = Deployment.of(1, [(0, [[2]])])
    spent = evaluate(instance, far)
    z = 2_000_000 + 500_000 + 3 * 90_000 + 2 * 36_864
    each = 400_000 + 2 * 12_288 + 2_000_000
    assert spent.prefill_ns == [4_000_000 + max(17 * 50_000 + 600_000, z)]
    assert spent.decode_ns == [4 * 400_000 + 3 * 500_000 + max(250_000, each)]
    assert spent.remote_cost == [1667 * 200 * (z + each)]
    assert reference(instance) == cost(instance, local)


def test_the_checker_agrees_on_random_deployments_of_every_kind() -> None:
    rng = np.random.default_rng(5)
    fitting = over = 0
    for seed in range(80):
        instance = Instance.from_document(random_document(seed))
        choices = [layer_choices(instance, layer) for layer in range(instance.layers)]
        for _ in range(5):
            picked = [own[int(rng.integers(len(own)))] for own in choices]
            main = int(rng.choice(instance.main_specs))
            deployment = Deployment.of(main, [(c.spec, c.replicas) for c in picked])
            wrong, value = recompute(instance, deployment)
            assert value == cost(instance, deployment) < largest_cost(instance), seed
            assert bool(wrong) == (refuses(instance, deployment) is not None), (seed, wrong)
            fitting, over = fitting + (not wrong), over + bool(wrong)
    assert fitting > 50
    assert over > 50


def test_where_nothing_fits_the_failing_limit_is_said() -> None:
    document = toy(limits={"ttft_ns": 3_005_000_000}, remote_specs=[])
    assert brute_force(Instance.from_document(document)) is None
    said = why_infeasible(Instance.from_document(document))
    expected = "with everything local at the largest specification (400 MB) the time to first token: "
    assert said == expected + "3,005,900,000 of 3,005,000,000, 900,000 above it"
    for instance in map(Instance.from_document, map(random_document, range(40))):
        assert brute_force(instance) is not None or " above it" in why_infeasible(instance)


def test_documents_are_written_and_read_back() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for document in (TOY, random_document(3)):
            instance, path = Instance.from_document(document), Path(folder) / "instance.json"
            instance.save(path)
            assert json.loads(path.read_text()) == document
            assert moeplace.load(path).sha256 == instance.sha256


def test_prices_beyond_int64_are_exact() -> None:
    document = changed("platform.gpu_price", 2**62)
    instance = Instance.from_document(document)
    deployment = all_local(instance, 1)
    wrong, value = recompute(instance, deployment)
    assert (wrong, value) == ([], (5_900_000 + 3_600_000) * (2**62 * 500 + 1667 * 400))
    assert value == cost(instance, deployment)
