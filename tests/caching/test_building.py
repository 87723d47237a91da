"""Instances built by calls and from DataFrames: the same as from a document, and refused where that would be."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from cases import looped
from random_instances import random_document, random_document_2, random_instance, random_placement

import moeplace
from moeplace import Evaluation, InputError, Instance
from moeplace.caching.building import Model
from moeplace.caching.frames import Frames
from moeplace.comparing import COLUMNS
from moeplace.library import instance_files


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out lists of no experts on a device, which calls and frames do not write."""
    demands = [{k: v for k, v in demand.items() if v or k != "device_experts"} for demand in document["demands"]]
    return document | {"demands": demands}


def built(document: dict[str, Any]) -> Model:
    """Build what a document says by calls."""
    model = Model(
        document["name"],
        latency_model=document["latency_model"],
        notes=document.get("notes"),
        loading_weight=document["loading"]["weight"] if "loading" in document else None,
    )
    languages = {m["name"]: model.add_model(**m) for m in document["models"]}
    servers = []
    for server in document["servers"]:
        held = {languages[own["model"]]: own["experts"] for own in server.get("holds", [])}
        servers.append(model.add_server(**server | ({"holds": held} if "holds" in server else {})))
    demands = []
    for demand in document["demands"]:
        times = {s: ns for s, ns in zip(servers, demand["server_ns"], strict=True) if ns is not None}
        keys = ("cloud_ns", "device_ns", "tokens", "device_experts", "position_m")
        given = {key: demand[key] for key in keys if key in demand}
        demands.append(model.add_user(demand["user"], languages[demand["model"]], server_ns=times, **given))
    rows = document["activations"]
    model.add_rows(
        [demands[d] for d in rows["demand"]], layer=rows["layer"], experts=rows["experts"], count=rows["count"]
    )
    return model


@looped("seed", range(40))
def test_calls_give_the_instance_of_the_document(seed: int) -> None:
    document = plain(random_document(np.random.default_rng(seed), 16))
    assert built(document).instance().document() == Instance.from_document(document).document()


def test_without_a_cloud_with_loading_and_slots() -> None:
    """Instances of version 2 come back from calls and from frames, in the lowest version that holds them."""
    newer = 0
    for seed in range(60):
        document = plain(random_document_2(np.random.default_rng(seed), 16))
        instance = Instance.from_document(document)
        again = built(document).instance().document()
        newer += again["version"] == 2
        assert again == document | {"version": again["version"]}, seed
        frames = instance.to_frames()
        assert Instance.from_frames(*frames, name="random", latency_model=instance.latency_model).document() == again
        alone = [demand["cloud_ns"] is None for demand in document["demands"]]
        assert frames.demands["cloud_ns"].isna().tolist() == alone, seed
    assert newer > 40
    given = frames_of_a_pair()._replace(
        demands=pd.DataFrame({"user": ["u", "v"], "model": ["m", "m"], "cloud_ns": None})
    )
    assert not Instance.from_frames(*given).has_cloud.any()
    columns = {"host": ["h", None], "load_bytes_per_s": [7.0, np.nan], "layer_slots": [None, 2]}
    found = Instance.from_frames(*given._replace(servers=given.servers.assign(**columns))).document()["servers"]
    assert found == [
        {"name": "s", "capacity_bytes": 10, "host": "h", "load_bytes_per_s": 7},
        {"name": "t", "capacity_bytes": 5, "layer_slots": 2},
    ]


def test_rows_in_every_form() -> None:
    def instance(*given: dict[str, Any]) -> Instance:
        model = Model("rows")
        moe = model.add_model("m", layers=np.int64(2), experts=4, top_k=2, expert_bytes=np.array([3, 5]))
        near = model.add_server("s", capacity_bytes=np.int32(6), position_m=(0, -4))
        user = model.add_user("u", moe, server_ns={near: 2}, cloud_ns=10, device_experts=np.array([[0, 1]]))  # type: ignore[arg-type]
        for rows in given:
            model.add_rows(user, **rows)
        return model.instance()

    one = instance(
        {"layer": 0, "experts": [0, 2], "count": 3}, {"layer": 0, "experts": (1,)}, {"layer": 1, "experts": [3, 1]}
    )
    many = instance({"layer": [0, 0, 1], "experts": [[0, 2], [1], [3, 1]], "count": np.array([3, 1, 1])})
    array = instance(
        {"layer": 0, "experts": np.array([[0, 2]]), "count": [3]},
        {"layer": np.array([0]), "experts": np.array([[1]])},
        {"layer": 1, "experts": np.array([[3, 1]])},
        {"layer": [], "experts": np.zeros((0, 2), dtype=np.int64)},
    )
    assert one.sha256 == many.sha256 == array.sha256
    assert one.demands[0].tokens == 4  # the most of one layer
    assert one.document()["models"][0]["expert_bytes"] == [3, 5]


def test_a_model_refuses_what_is_not_its_own() -> None:
    model, other = Model("a"), Model("b")
    moe = model.add_model("m", layers=1, experts=2, top_k=1, expert_bytes=1)
    foreign = other.add_model("m", layers=1, experts=2, top_k=1, expert_bytes=1)
    server = other.add_server("s", capacity_bytes=1)
    with pytest.raises(InputError, match="was not added to this model"):
        model.add_user("u", foreign, server_ns={}, cloud_ns=1)
    with pytest.raises(InputError, match=r"ServerHandle.* was not added to this model"):
        model.add_user("u", moe, server_ns={server: 1}, cloud_ns=1)
    user = model.add_user("u", moe, server_ns={}, cloud_ns=1)
    with pytest.raises(InputError, match="'D' was not added"):
        model.add_rows("DemandHandle", layer=0, experts=[0])  # type: ignore[arg-type]
    for rows, said in (
        ({"layer": 0, "experts": [0.5]}, "experts: expected integers, found 0.5"),
        ({"layer": 0, "experts": "01"}, "experts: expected integers, found '01'"),
        ({"layer": [0, 0], "experts": [[0], [1], [0]]}, "layer: expected one integer or 3 of them, found 2"),
        ({"layer": 0, "experts": [[0], [1]], "count": [1]}, "count: expected one integer or 2 of them, found 1"),
    ):
        with pytest.raises(InputError, match=said):
            model.add_rows(user, **rows)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="demand: expected one or 1 of them, found 2"):
        model.add_rows([user, user], layer=0, experts=[[0]])
    model.add_rows(user, layer=0, experts=[7])
    with pytest.raises(InputError, match=r"activations.experts\[0\]\[0\]: expert 7, the model has 2"):
        model.instance()


@looped("seed", range(30))
def test_frames_there_and_back(seed: int) -> None:
    document = plain(random_document(np.random.default_rng(seed), 16))
    if seed % 5 == 0:
        model = document["models"][-1]
        document["version"], model["layer_index"] = 2, [3 + 2 * i for i in range(model["layers"])]
        assert built(document).instance().document() == document
    if seed % 3 == 0:
        document["servers"][0]["position_m"] = [-3, 2**60 + 1]
        document["demands"][-1]["position_m"] = [0, 4]
    instance = Instance.from_document(document)
    again = Instance.from_frames(*instance.to_frames(), name=instance.name, latency_model=instance.latency_model)
    assert again.sha256 == instance.sha256


def frames_of_a_pair() -> Frames:
    return Frames(
        pd.DataFrame({"name": ["m"], "layers": [1], "experts": [3], "top_k": [2], "expert_bytes": [5]}),
        pd.DataFrame({"name": ["s", "t"], "capacity_bytes": [10, 5]}),
        pd.DataFrame({"user": ["u", "v"], "model": ["m", "m"], "cloud_ns": [9, 9]}),
        pd.DataFrame({"user": ["u", "v"], "model": ["m", "m"], "server": ["s", "t"], "ns": [2.0, np.nan]}),
        pd.DataFrame({"user": ["u"], "model": ["m"], "layer": [0], "experts": [(0, 2)], "count": [4]}),
        pd.DataFrame({"user": [], "model": [], "layer": [], "expert": []}),
    )


def test_what_frames_may_leave_out() -> None:
    document = Instance.from_frames(*frames_of_a_pair()[:5]).document()
    assert [(d["tokens"], d["device_ns"], d["server_ns"]) for d in document["demands"]] == [
        (4, 0, [2, None]),
        (1, 0, [None, None]),
    ]
    assert Instance.from_frames(*frames_of_a_pair(), name="other", source={"from": "a table"}).source == {
        "from": "a table"
    }


@pytest.mark.parametrize(
    ("frame", "change", "said"),
    [
        ("models", lambda f: f.drop(columns="top_k"), "models: the column 'top_k' is missing; there are name, layers"),
        ("models", lambda f: f.assign(gated=1), "models: unknown column 'gated'; it has name"),
        ("models", lambda f: f.assign(expert_bytes=["5"]), r"models\[0\].expert_bytes: expected an integer or a list"),
        ("servers", lambda f: f.assign(capacity_bytes=[1.5, 2]), r"servers\[0\].capacity_bytes: expected an integer, found 1.5"),
        ("servers", lambda f: f.assign(capacity_bytes=[2.0**60, 2]), r"servers\[0\].capacity_bytes: expected an integer"),
        ("servers", lambda f: f.assign(capacity_bytes=[None, 2]), r"servers\[0\].capacity_bytes: expected an integer, found"),
        ("servers", lambda f: f.assign(capacity_bytes=[True, False]), r"servers\[0\].capacity_bytes: expected an integer, found True"),
        ("servers", lambda f: f.assign(name=["s", None]), r"servers\[1\].name: expected text"),
        ("servers", lambda f: pd.concat([f, f]), r'servers\[2\]: name "s" stands in servers\[0\] already'),
        ("servers", lambda f: f.assign(x_m=1), "servers: x_m and y_m belong together"),
        ("servers", lambda f: f.assign(x_m=[1, None], y_m=[1, 2]), r"servers\[1\].x_m: expected both x_m and y_m"),
        ("servers", lambda f: f.assign(host=[1, "h"]), r"servers\[0\].host: expected text, found 1"),
        ("servers", lambda f: f.assign(layer_slots=[1.5, 2]), r"servers\[0\].layer_slots: expected an integer, found 1.5"),
        ("holds", lambda f: pd.DataFrame({"server": ["q"], "model": ["m"], "layer": [0], "expert": [0]}), r"holds\[0\].server: expected the name"),
        ("holds", lambda f: pd.DataFrame({"server": ["s"], "model": ["q"], "layer": [0], "expert": [0]}), r"servers\[0\].holds\[0\].model"),
        ("demands", lambda f: f.assign(model="q"), r"demands\[0\].model: expected the name of a model, found 'q'"),
        ("demands", lambda f: f.iloc[:1], "links: the user 'v' with the model 'm' is in no row of demands"),
        ("links", lambda f: f.assign(server="q"), r"links\[0\].server: expected the name of a server, found 'q'"),
        ("links", lambda f: pd.concat([f, f]), r"links\[0\].server: expected a server that is there once"),
        ("links", lambda f: f.assign(ns=-1), r"demands\[0\].server_ns\[0\]: expected an integer >= 0, found -1"),
        ("activations", lambda f: f.assign(user="w"), r"activations\[0\].user: expected a user and a model of one row"),
        ("activations", lambda f: f.assign(experts=[[0, 1.5]]), r"activations\[0\].experts: expected an integer or a list"),
        ("activations", lambda f: f.assign(count=0), r"activations.count\[0\]: expected an integer >= 1, found 0"),
        ("device_experts", lambda f: pd.DataFrame({"user": ["w"], "model": ["m"], "layer": [0], "expert": [0]}), "device_experts: the user 'w'"),
    ],
)  # fmt: skip
def test_wrong_frames_are_refused(frame: str, change: Any, said: str) -> None:
    given = frames_of_a_pair()
    given = given._replace(**{frame: change(getattr(given, frame))})
    with pytest.raises(InputError, match=said) as caught:
        Instance.from_frames(*given)
    assert "\n" not in str(caught.value)


def test_placements_and_costs_as_frames() -> None:
    for seed in range(10):
        instance = random_instance(seed, 20)
        placement = random_placement(instance, np.random.default_rng(seed))
        frame = placement.to_frame(instance)
        pairs = [
            (instance.servers[n].name, *instance.item_name(i), instance.item_bytes[i])
            for n, i in np.argwhere(placement.cached).tolist()
        ]
        assert list(frame.itertuples(index=False, name=None)) == pairs
        evaluation = Evaluation(instance, placement)
        by = {name: evaluation.to_frame(name) for name in ("demand", "server", "layer")}  # type: ignore[arg-type]
        assert by["demand"]["latency_ns"].sum() == by["layer"]["latency_ns"].sum() == evaluation.latency_ns
        assert by["server"]["used_bytes"].tolist() == placement.bytes_used(instance).tolist()
        assert frame.groupby("server")["bytes"].sum().to_dict() == {
            name: used for name, used in zip(by["server"]["server"], by["server"]["used_bytes"], strict=True) if used
        }
        solution = moeplace.solve(instance, "popular")
        assert len(solution.to_frame(instance)) == solution.placement_on(instance).cached.sum()
    with pytest.raises(ValueError, match="by must be"):
        evaluation.to_frame("user")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a placement of shape"):
        placement.to_frame(random_instance(30, 20))


def test_methods_compared_in_python() -> None:
    instance = moeplace.load(next(path for path in instance_files("tiny") if "pair_across" in path.name))
    comparison = moeplace.compare(instance, ["greedy", "milp", "greedy", "popular"], gap=0.0)
    frame = comparison.to_frame()
    assert list(frame.columns) == COLUMNS
    assert frame["method"].tolist() == ["greedy", "milp", "popular"]
    assert frame["best_bound_by"].unique().tolist() == ["milp"]
    assert frame.set_index("method")["gap"]["milp"] == 0
    assert (frame["latency_ns"] >= frame["best_bound_ns"]).all()
    every = moeplace.compare(instance, time_limit=20)
    assert {run.method for run in every.runs} > {"cpsat", "layer-enumeration", "no-cache"}
    with pytest.raises(InputError, match="no method 'milq'"):
        moeplace.compare(instance, ["popular", "milq"])


def test_short_words_for_people() -> None:
    instance = moeplace.load(next(path for path in instance_files("tiny") if "pair_across" in path.name))
    solution = moeplace.solve(instance, "milp")
    cost = solution.objective.latency_ns
    assert repr(solution) == f"<Solution of {instance.name!r} by milp: {cost} token-ns, gap 0 %, optimal>"
    assert "no bound, completed" in repr(moeplace.solve(instance, "popular"))
