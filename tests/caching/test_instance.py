"""Instances: documents in and out, the hash, frozen arrays, the edges of 64-bit integers."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import looped
from hypothesis import given, settings
from hypothesis import strategies as st
from random_instances import naive_cost, pairs_of, random_document, random_placement

import moeplace
from moeplace import InputError, Instance, Placement
from moeplace.base.documents import UNREACHABLE
from moeplace.caching.document import lowest_version
from moeplace.caching.terms import aggregate, distinct_rows

NOTHING: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
LARGEST = 2**63 - 1


def draw(seed: int) -> dict[str, Any]:
    return random_document(np.random.default_rng(seed))


def rich(seed: int) -> dict[str, Any]:
    """A random document with every optional key in some of them."""
    document, rng = draw(seed), np.random.default_rng(seed)
    if rng.random() < 0.5:
        document["notes"] = rng.choice(["", "with notes"]).item()
    if rng.random() < 0.5:
        document["source"] = {"from": "a test", "seed": seed} if rng.random() < 0.5 else {}
    for part in [*document["servers"], *document["demands"]]:
        if rng.random() < 0.3:
            part["position_m"] = rng.integers(-9, 9, 2).tolist()
    for demand in document["demands"]:
        if "device_experts" in demand:
            rng.shuffle(demand["device_experts"])
    if rng.random() < 0.4:  # version 2 may have its keys, and need not
        document["version"] = 2
        for model in document["models"]:
            if rng.random() < 0.7:
                model["layer_index"] = np.cumsum(rng.integers(1, 4, model["layers"])).tolist()
    return document


def sha256(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def one_row(count: int, cloud_ns: int, tokens: int | None = None, server_ns: int | None = 0) -> dict[str, Any]:
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": "one row",
        "latency_model": "max",
        "models": [{"name": "m", "layers": 1, "experts": 2, "top_k": 2, "expert_bytes": 1}],
        "servers": [{"name": "s", "capacity_bytes": 1}],
        "demands": [
            {
                "user": "u",
                "model": "m",
                "tokens": tokens or count,
                "device_ns": 0,
                "server_ns": [server_ns],
                "cloud_ns": cloud_ns,
            }
        ],
        "activations": {"demand": [0], "layer": [0], "experts": [[0]], "count": [count]},
    }


@looped("seed", range(60))
def test_document_comes_back_value_for_value(seed: int, tmp_path: Path) -> None:
    document = rich(seed)
    before = copy.deepcopy(document)
    instance = Instance.from_document(document)
    assert document == before
    assert instance.document() == document
    assert instance.sha256 == sha256(document)
    for name in ("i.json", "i.json.gz"):
        instance.save(tmp_path / name)
        again = moeplace.load(tmp_path / name)
        assert again.document() == document
        assert again.sha256 == instance.sha256
    assert json.loads(gzip.decompress((tmp_path / "i.json.gz").read_bytes())) == document
    # Laid out in any other way it is the same document.
    (tmp_path / "other").write_text(json.dumps(document, indent=3, sort_keys=True))
    assert moeplace.load(tmp_path / "other").sha256 == instance.sha256


def test_layer_numbers_change_the_document_and_nothing_else() -> None:
    plain = one_row(3, 5)
    numbered = copy.deepcopy(plain) | {"version": 2}
    numbered["models"][0]["layer_index"] = [3]
    one, other = Instance.from_document(plain), Instance.from_document(numbered)
    assert one.sha256 != other.sha256
    assert one.baseline_ns == other.baseline_ns
    assert list(one.models[0].numbers) == [0]
    assert list(other.models[0].numbers) == [3]
    assert lowest_version(plain) == 1
    assert lowest_version(numbered) == 2


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", '"', "\\", "\x00\x1f\x7f\x80", "\u2028\u2029", "é\u0301", "\U0001f600", "</script>", "\n\r\t\b\f", "/"]
)


@settings(max_examples=150, deadline=None)
@given(NAMES, NAMES, NAMES, st.dictionaries(NAMES, NAMES | st.integers(-(2**63), 2**64 - 1), max_size=4), NAMES)
def test_hash_is_that_of_the_canonical_json(
    name: str, server: str, user: str, source: dict[str, str | int], notes: str
) -> None:
    document = one_row(3, 5) | {"name": name, "source": source, "notes": notes}
    document["servers"][0]["name"] = server
    document["demands"][0]["user"] = user
    instance = Instance.from_document(document)
    assert instance.sha256 == sha256(document)
    assert instance.document() == document


@settings(max_examples=40, deadline=None)
@given(NAMES, st.dictionaries(NAMES, NAMES | st.integers(-(2**63), 2**64 - 1), max_size=4))
def test_files_keep_odd_texts(tmp_path_factory: pytest.TempPathFactory, name: str, source: dict[str, Any]) -> None:
    document = one_row(3, 5) | {"name": name, "source": source}
    path = tmp_path_factory.mktemp("odd") / "i.json"
    Instance.from_document(document).save(path)
    assert json.loads(path.read_text("utf-8")) == document
    assert moeplace.load(path).sha256 == sha256(document)


def test_keys_that_are_absent_and_keys_that_are_empty_are_two_documents() -> None:
    hashes = set()
    for extra in ({}, {"notes": ""}, {"source": {}}, {"notes": "", "source": {}}):
        document = one_row(1, 1) | extra
        instance = Instance.from_document(document)
        assert instance.document() == document
        hashes.add(instance.sha256)
    document = one_row(1, 1)
    document["demands"][0]["device_experts"] = []
    assert Instance.from_document(document).document() == document
    assert len({*hashes, Instance.from_document(document).sha256}) == 5


def test_arrays_are_frozen_and_as_described() -> None:
    instance = Instance.from_document(rich(5))
    kinds = {"item_block": "int32", "block_model": "int32", "block_layer": "int32", "demand_model": "int32"}
    kinds |= {"has_cloud": "bool", "device_demand": "int32", "device_item": "int32", "demand": "int32", "item": "int32"}
    n = 0
    for name, array in [*vars(instance).items(), *vars(instance.rows).items()]:
        if isinstance(array, np.ndarray) and name != "device_bounds":  # made on first use
            assert array.dtype == kinds.get(name, "int64"), name
            assert not array.flags.writeable, name
            n += 1
    assert n >= 14
    with pytest.raises(AttributeError):
        instance.name = "other"  # type: ignore[misc]
    own = np.zeros((1, 1), dtype=np.bool_)
    placement = Placement(own)
    own[:] = True
    assert not placement.cached.any()
    assert not placement.cached.flags.writeable


@looped("seed", range(30))
def test_order_of_rows_and_of_their_experts_does_not_matter(seed: int) -> None:
    document, rng = draw(seed), np.random.default_rng(seed)
    rows = document["activations"]
    order = rng.permutation(len(rows["count"])).tolist()
    mixed = copy.deepcopy(document)
    mixed["activations"] = {key: [rows[key][i] for i in order] for key in rows}
    for experts in mixed["activations"]["experts"]:
        rng.shuffle(experts)
    one, two = Instance.from_document(document), Instance.from_document(mixed)
    assert two.document() == mixed
    assert one.baseline_ns == two.baseline_ns
    for _ in range(5):
        placement = random_placement(one, rng)
        assert moeplace.latency_ns(one, placement) == moeplace.latency_ns(two, placement)
    a, b = aggregate(one), aggregate(two)
    assert a.n_terms == b.n_terms
    assert sorted(a.term_weight.tolist()) == sorted(b.term_weight.tolist())
    assert distinct_rows(one) == distinct_rows(two)


@looped("seed", range(30))
def test_repeated_rows_add_up(seed: int) -> None:
    document, rng = draw(seed), np.random.default_rng(seed)
    rows = document["activations"]
    split: dict[str, list[Any]] = {key: [] for key in rows}
    for i, count in enumerate(rows["count"]):
        for part in [1] * count:
            for key in rows:
                split[key].append(part if key == "count" else rows[key][i])
    one, two = Instance.from_document(document), Instance.from_document(document | {"activations": split})
    assert distinct_rows(one) == distinct_rows(two)
    placement = random_placement(one, rng)
    assert moeplace.latency_ns(one, placement) == moeplace.latency_ns(two, placement)
    for x, y in zip(vars(aggregate(one)).items(), vars(aggregate(two)).items(), strict=True):
        assert x[0] == "instance" or np.array_equal(x[1], y[1]), x[0]


@pytest.mark.parametrize(
    ("count", "cloud"),
    [(1, LARGEST), (LARGEST, 1), (7, LARGEST // 7), (LARGEST // 73, 73), (2**62, 1), (2**31, 2**32 - 1), (LARGEST, 0)],
)
def test_costs_up_to_63_bits_are_exact(count: int, cloud: int) -> None:
    instance = Instance.from_document(one_row(count, cloud))
    held = Placement(np.array([[True, False]]))
    assert instance.baseline_ns == count * cloud
    assert moeplace.latency_ns(instance, Placement.empty(instance)) == count * cloud
    assert moeplace.latency_ns(instance, held) == 0
    assert aggregate(instance).saving_ns(held) == count * cloud
    evaluation = moeplace.Evaluation(instance, held)
    assert evaluation.saving_ns == count * cloud
    assert evaluation.server_saving_ns.tolist() == [count * cloud]


@pytest.mark.parametrize(
    ("count", "cloud"), [(LARGEST, 2), (2**62, 2), (2**32, 2**31), (3037000500, 3037000500), (LARGEST, LARGEST)]
)
def test_costs_of_64_bits_are_refused(count: int, cloud: int) -> None:
    with pytest.raises(InputError, match=f"^activations: the latency with empty servers is {count * cloud} token-ns"):
        Instance.from_document(one_row(count, cloud))


def test_costs_that_wrap_around_to_small_numbers_are_refused() -> None:
    document = one_row(2**62, 1)
    document["models"][0]["layers"] = 8
    document["demands"][0]["device_experts"] = []
    for layers, fits in ((1, True), (2, False), (4, False), (8, False)):
        rows = [[0] * layers, list(range(layers)), [[0]] * layers, [2**62] * layers]
        document["activations"] = dict(zip(("demand", "layer", "experts", "count"), rows, strict=True))
        if fits:
            assert Instance.from_document(document).baseline_ns == layers * 2**62
        else:
            with pytest.raises(InputError, match=f"is {layers * 2**62} token-ns"):
                Instance.from_document(document)


@pytest.mark.parametrize("parts", [2, 3, 4, 5, 8, 17])
def test_counts_that_wrap_around_are_refused(parts: int) -> None:
    document = one_row(1, 0, tokens=LARGEST)
    rows = document["activations"]
    for size in (2**62, LARGEST):
        rows |= {"demand": [0] * parts, "layer": [0] * parts, "experts": [[0]] * parts, "count": [size] * parts}
        with pytest.raises(InputError, match=f"{size * parts} tokens counted"):
            Instance.from_document(document)
    rows |= {"demand": [0, 0], "layer": [0, 0], "experts": [[0], [1]], "count": [2**62, 2**62 - 1]}
    assert Instance.from_document(document).baseline_ns == 0
    document["demands"][0]["tokens"] -= 1
    with pytest.raises(InputError, match=f"{LARGEST} tokens counted"):
        Instance.from_document(document)


def test_a_reachable_server_at_the_largest_time_serves_nothing() -> None:
    document = one_row(1, LARGEST, server_ns=LARGEST)
    instance = Instance.from_document(document)
    assert instance.server_ns[0, 0] == UNREACHABLE
    assert instance.document() == document
    assert moeplace.latency_ns(instance, Placement(np.array([[True, True]]))) == LARGEST
    assert aggregate(instance).n_terms == 0


def test_sizes_up_to_63_bits() -> None:
    document = one_row(1, 1)
    document["models"] = [
        {"name": m, "layers": 1, "experts": 2, "top_k": 1, "expert_bytes": 2**62 - 1} for m in ("m", "k", "l")
    ]
    document["servers"][0]["capacity_bytes"] = LARGEST
    instance = Instance.from_document(document)
    assert Placement(np.array([[True, True, False, False, False, False]])).bytes_used(instance)[0] == 2**63 - 2
    everything = Placement(np.ones((1, 6), dtype=np.bool_))
    assert everything.overfull(instance) == [(0, 6 * (2**62 - 1))]
    with pytest.raises(InputError, match=f"server 's' holds {6 * (2**62 - 1)} bytes"):
        everything.check_fits(instance)
    document["models"][0]["expert_bytes"] = 2**62
    with pytest.raises(InputError, match=r"^models\[0\]\.expert_bytes: all experts together"):
        Instance.from_document(document)


@pytest.mark.parametrize("empty", ["servers", "demands", "activations", "models", "everything"])
@pytest.mark.parametrize("latency_model", ["max", "sum"])
def test_empty_lists_are_instances(empty: str, latency_model: str, tmp_path: Path) -> None:
    document = one_row(4, 7) | {"latency_model": latency_model}
    if empty in ("servers", "everything"):
        document["servers"], document["demands"][0]["server_ns"] = [], []
    if empty in ("demands", "models", "everything"):
        document["demands"] = []
    if empty in ("models", "everything"):
        document["models"] = []
    if empty != "servers":
        document["activations"] = NOTHING
    instance = Instance.from_document(document)
    assert instance.document() == document
    instance.save(tmp_path / "i.json")
    assert moeplace.load(tmp_path / "i.json").sha256 == instance.sha256
    cost = 28 if empty == "servers" else 0
    for method in ("milp", "milp-textbook", "cpsat", "auto", "popular", "random", "no-cache"):
        solution = moeplace.solve(instance, method, time_limit=20)
        assert (solution.objective.latency_ns, solution.objective.baseline_ns) == (cost, cost), method
        assert solution.objective.bound_ns in (cost, None)
        assert solution.objective.gap == (0.0 if solution.objective.bound_ns is not None else None)
        report = moeplace.check(instance, solution)
        assert report.ok, report.violations
    evaluation = moeplace.Evaluation(instance, Placement.empty(instance))
    assert evaluation.latency_ns == cost
    assert evaluation.saving_ns == 0
    assert evaluation.server_saving_ns.tolist() == [0] * len(instance.servers)
    assert (evaluation.mean_latency_ns is None) == (empty in ("demands", "models", "everything"))
    assert (evaluation.percentile_latency_ns(50) is None) == (empty in ("demands", "models", "everything"))
    assert (evaluation.hits is None) == (empty != "servers")


def test_memory_is_in_proportion_to_the_numbers() -> None:
    document = one_row(1, 1, tokens=10**6)
    document["models"][0] |= {"experts": 8, "top_k": 8}
    rng = np.random.default_rng(0)
    for n in (100, 20_000):
        sizes = rng.integers(1, 9, n)
        document["activations"] = {
            "demand": [0] * n,
            "layer": [0] * n,
            "experts": [list(range(k)) for k in sizes.tolist()],
            "count": [1] * n,
        }
        rows = Instance.from_document(document).rows
        assert rows.nbytes == n * (4 + 8 + 8) + 8 + 4 * int(sizes.sum())
        assert len(rows) == n


@looped("seed", range(10))
def test_items_are_model_by_model_layer_by_layer(seed: int) -> None:
    document = draw(seed)
    instance = Instance.from_document(document)
    names = [
        (model["name"], layer, expert)
        for model in document["models"]
        for layer in range(model["layers"])
        for expert in range(model["experts"])
    ]
    assert [instance.item_name(i) for i in range(instance.n_items)] == names
    assert [instance.item(instance.model_index[m], layer, e) for m, layer, e in names] == list(range(len(names)))
    for m, model in enumerate(document["models"]):
        items = range(instance.n_items)[instance.model_items(m)]
        assert {instance.item_name(i)[0] for i in items} <= {model["name"]}
        assert len(items) == model["layers"] * model["experts"]
    rows, bounds, order = instance.rows_by_demand
    assert rows.demand.tolist() == sorted(instance.rows.demand.tolist())
    if order is not None:
        assert rows.count.tolist() == instance.rows.count[order].tolist()
    assert int(bounds[-1]) == len(rows)
    everything = Placement(np.ones((len(instance.servers), instance.n_items), dtype=np.bool_))
    assert moeplace.latency_ns(instance, everything) == naive_cost(document, pairs_of(instance, everything))
