"""From an instance document to validated arrays: each function checks one relation and names where it fails."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from moeplace.base.arrays import Bool, Int32, Int64
from moeplace.base.documents import INT64_MAX, UNREACHABLE, canonical, parse, show
from moeplace.base.errors import InputError
from moeplace.caching.document import Active, Demand, InstanceDocument, Model, Server, layer_bytes, newer_key
from moeplace.caching.rows import Rows

MOST_ITEMS = 10**8  # two thousand times the largest published model; keeps a misprint from filling memory
NO_LIMIT = INT64_MAX
"""``layer_slots`` of a server that has no such limit."""

MOST_CELLS = 2 * 10**8  # servers times experts: what a placement, and every method, holds in memory


def read(raw: object) -> dict[str, Any]:
    """Validate an instance document and return the attributes of its :class:`~moeplace.caching.instance.Instance`.

    Raises
    ------
    InputError
        Whatever is wrong with the document, with the place in it.
    """
    document = parse(raw, InstanceDocument)
    if document.version < 2:
        assert isinstance(raw, dict)
        if (newer := newer_key(raw)) is not None:
            what = "null" if newer.endswith("cloud_ns") else "is a key"
            raise InputError(f"{what} of version 2, the file says version 1", place=newer)
    sha256 = document_hash(raw)
    models, servers, demands = document.models, document.servers, document.demands
    _unique([model.name for model in models], "models", "name")
    _unique([server.name for server in servers], "servers", "name")
    _unique([(demand.user, demand.model) for demand in demands], "demands", "user and model")
    for m, model in enumerate(models):
        _check_model(m, model)

    if (n_items := sum(model.layers * model.experts for model in models)) > MOST_ITEMS:
        raise InputError(f"{n_items} experts in all; at most {MOST_ITEMS} can be handled", place="models")
    if (cells := n_items * len(servers)) > MOST_CELLS:
        raise InputError(
            f"{len(servers)} servers times {n_items} experts are {cells}; at most {MOST_CELLS} can be handled",
            place="servers",
        )
    layers = np.array([model.layers for model in models], dtype=np.int64)
    experts = np.array([model.experts for model in models], dtype=np.int64)
    block_model = np.repeat(np.arange(len(models), dtype=np.int32), layers)
    model_block = np.concatenate(([0], np.cumsum(layers))).astype(np.int64)
    block_layer = (np.arange(len(block_model)) - model_block[block_model]).astype(np.int32)
    block_start = np.concatenate(([0], np.cumsum(experts[block_model]))).astype(np.int64)
    item_block = np.repeat(np.arange(len(block_model), dtype=np.int32), experts[block_model])
    block_bytes = [size for model in models for size in layer_bytes(model)]
    item_bytes = np.array(block_bytes, dtype=np.int64)[item_block]

    model_index = {model.name: m for m, model in enumerate(models)}
    for d, demand in enumerate(demands):
        _check_demand(d, demand, models, model_index, len(servers))
    demand_model = np.array([model_index[demand.model] for demand in demands], dtype=np.int32)
    server_ns = np.array(
        [[UNREACHABLE if t is None else t for t in demand.server_ns] for demand in demands], dtype=np.int64
    ).reshape(len(demands), len(servers))

    has_cloud = np.array([demand.cloud_ns is not None for demand in demands], dtype=np.bool_)
    device = [
        (d, int(block_start[model_block[demand_model[d]] + layer]) + expert)
        for d, demand in enumerate(demands)
        for layer, expert in sorted(demand.device_experts or [])
    ]
    device_pairs = np.array(device, dtype=np.int32).reshape(-1, 2)
    rows = _build_rows(document, demand_model, model_block, block_start)
    if document.active is not UNSET:
        _check_active(document.active, document.activations.ranked is True, models)

    return {
        "name": document.name,
        "notes": document.notes or "",
        "_sha256": sha256,
        "latency_model": document.latency_model,
        "models": tuple(models),
        "servers": tuple(servers),
        "demands": tuple(demands),
        "source": document.source or {},
        "capacity_bytes": np.array([server.capacity_bytes for server in servers], dtype=np.int64),
        "item_bytes": item_bytes,
        "item_block": item_block,
        "block_start": block_start,
        "block_model": block_model,
        "block_layer": block_layer,
        "demand_model": demand_model,
        "tokens": np.array([demand.tokens for demand in demands], dtype=np.int64),
        "server_ns": server_ns,
        "device_ns": np.array([demand.device_ns for demand in demands], dtype=np.int64),
        "has_cloud": has_cloud,
        "cloud_ns": np.array([_farthest(demand) for demand in demands], dtype=np.int64),
        "device_demand": np.ascontiguousarray(device_pairs[:, 0]),
        "device_item": np.ascontiguousarray(device_pairs[:, 1]),
        "rows": rows,
        "layer_slots": np.array(
            [NO_LIMIT if server.layer_slots is UNSET else server.layer_slots for server in servers], dtype=np.int64
        ),
        "holds": _holds(servers, models, model_index, model_block, block_start),
        "load_block_ns": _load_block_ns(document, block_bytes),
        "_version": document.version,
        "_has_notes": document.notes is not UNSET,
        "_has_source": document.source is not UNSET,
        "loading": document.loading,
        "active": None if document.active is UNSET else document.active,
        "_ranked": document.activations.ranked,
    }


def document_hash(document: object) -> str:
    """Return the SHA-256 of a document as it is read, whatever its layout."""
    return hashlib.sha256(canonical(document)).hexdigest()


def _farthest(demand: Demand) -> int:
    """Return the cloud's time; without a cloud the farthest place's that an expert can be on."""
    if demand.cloud_ns is not None:
        return demand.cloud_ns
    times = [t for t in demand.server_ns if t is not None]
    return max([*times, demand.device_ns] if demand.device_experts else times, default=0)


def _holds(
    servers: Sequence[Server], models: list[Model], model_index: dict[str, int], model_block: Int64, block_start: Int64
) -> Bool | None:
    """Return what servers hold now, [N, I]; None where nothing is said."""
    if all(server.holds is UNSET for server in servers):
        return None
    held = np.zeros((len(servers), int(block_start[-1])), dtype=np.bool_)
    for n, server in enumerate(servers):
        for i, holding in enumerate(server.holds or []):
            place = f"servers[{n}].holds[{i}]"
            if holding.model not in model_index:
                raise InputError(f"{show(holding.model)} is not the name of a model", place=f"{place}.model")
            m = model_index[holding.model]
            for j, (layer, expert) in enumerate(holding.experts):
                here = f"{place}.experts[{j}]"
                _check_expert(models[m], layer, expert, here)
                item = int(block_start[model_block[m] + layer]) + expert
                if held[n, item]:
                    raise InputError(f"[{layer}, {expert}] is listed already", place=here)
                held[n, item] = True
    return held


def _load_block_ns(document: InstanceDocument, block_bytes: list[int]) -> Int64 | None:
    """Return (C2) for one expert of each block that a server does not hold, [N, B]; None where loading is free."""
    if all(server.load_bytes_per_s is UNSET for server in document.servers):
        return None
    weight = 1 if document.loading is UNSET else document.loading.weight
    table = []
    for server in document.servers:
        rate = server.load_bytes_per_s
        table.append([0 if rate is UNSET else weight * -(-size * 10**9 // rate) for size in block_bytes])
    if (most := max((max(line, default=0) for line in table), default=0)) > INT64_MAX:
        raise InputError(
            f"loading one expert costs {most} token-ns; it must fit in 63 bits ({INT64_MAX})", place="loading"
        )
    return np.array(table, dtype=np.int64).reshape(len(document.servers), len(block_bytes))


def _check_active(active: Active, ranked: bool, models: Sequence[Model]) -> None:
    if not ranked:
        raise InputError(
            "which experts of a row a layer uses is known only where activations.ranked is true", place="active"
        )
    names = {model.name for model in models}
    for name in active.loss:
        if name not in names:
            raise InputError(f"{show(name)} is not the name of a model", place="active.loss")
    most = 0
    for model in models:
        place = f"active.loss[{show(model.name)}]"
        if model.name not in active.loss:
            raise InputError(f"says nothing of the model {show(model.name)}", place="active.loss")
        table = active.loss[model.name]
        if len(table) != model.layers:
            raise InputError(f"{len(table)} entries, {model.layers} layers", place=place)
        for layer, losses in enumerate(table):
            if len(losses) != model.top_k:
                raise InputError(
                    f"{len(losses)} entries, the model's top_k is {model.top_k}", place=f"{place}[{layer}]"
                )
            most += max(losses)
    if most > INT64_MAX:
        raise InputError(
            f"the largest losses of all layers sum to {most}; they must fit in 63 bits ({INT64_MAX})",
            place="active.loss",
        )


def _unique(names: Sequence[object], place: str, key: str) -> None:
    if len(set(names)) == len(names):
        return
    first: dict[object, int] = {}
    for i, name in enumerate(names):
        if name in first:
            shown = show(list(name) if isinstance(name, tuple) else name)
            raise InputError(f"{key} {shown} stands in {place}[{first[name]}] already", place=f"{place}[{i}]")
        first[name] = i


def _check_model(m: int, model: Model) -> None:
    place = f"models[{m}]"
    if model.top_k > model.experts:
        raise InputError(f"{model.top_k} experts a token, the model has {model.experts}", place=f"{place}.top_k")
    if isinstance(model.expert_bytes, list) and len(model.expert_bytes) != model.layers:
        raise InputError(f"{len(model.expert_bytes)} entries, {model.layers} layers", place=f"{place}.expert_bytes")
    if model.layer_index is not UNSET:
        _check_layer_index(model.layer_index, model.layers, f"{place}.layer_index")
    largest = model.expert_bytes if isinstance(model.expert_bytes, int) else max(model.expert_bytes)
    if model.layers * model.experts * largest > INT64_MAX:
        raise InputError("all experts together take more than 2**63 - 1 bytes", place=f"{place}.expert_bytes")


def _check_layer_index(numbers: list[int], layers: int, place: str) -> None:
    if len(numbers) != layers:
        raise InputError(f"{len(numbers)} entries, {layers} layers", place=place)
    for i, (one, other) in enumerate(itertools.pairwise(numbers), start=1):
        if one >= other:
            raise InputError(f"{other} after {one}; the numbers must rise", place=f"{place}[{i}]")


def _check_demand(d: int, demand: Demand, models: list[Model], model_index: dict[str, int], n_servers: int) -> None:
    place = f"demands[{d}]"
    if demand.model not in model_index:
        raise InputError(f"{show(demand.model)} is not the name of a model", place=f"{place}.model")
    if len(demand.server_ns) != n_servers:
        raise InputError(f"{len(demand.server_ns)} entries, {n_servers} servers", place=f"{place}.server_ns")
    if demand.device_experts is UNSET:
        return
    model = models[model_index[demand.model]]
    seen: set[tuple[int, int]] = set()
    for i, (layer, expert) in enumerate(demand.device_experts):
        here = f"{place}.device_experts[{i}]"
        _check_expert(model, layer, expert, here)
        if (layer, expert) in seen:
            raise InputError(f"[{layer}, {expert}] is listed already", place=here)
        seen.add((layer, expert))


def _check_expert(model: Model, layer: int, expert: int, place: str) -> None:
    if layer >= model.layers:
        raise InputError(f"layer {layer}, the model has {model.layers} (from 0)", place=place)
    if expert >= model.experts:
        raise InputError(f"expert {expert}, the model has {model.experts} (from 0)", place=place)


def _build_rows(document: InstanceDocument, demand_model: Int32, model_block: Int64, block_start: Int64) -> Rows:
    columns = document.activations
    lengths = {key: len(getattr(columns, key)) for key in ("demand", "layer", "experts", "count")}
    for key, length in lengths.items():
        if length != lengths["demand"]:
            raise InputError(f"{length} entries, demand has {lengths['demand']}", place=f"activations.{key}")
    n = lengths["demand"]
    demand = np.array(columns.demand, dtype=np.int64)
    layer = np.array(columns.layer, dtype=np.int64)
    count = np.array(columns.count, dtype=np.int64)
    size = np.fromiter(map(len, columns.experts), dtype=np.int64, count=n)
    start = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
    expert = np.fromiter(itertools.chain.from_iterable(columns.experts), dtype=np.int64, count=int(start[-1]))
    models, demands = document.models, document.demands

    def first(bad: Bool) -> int | None:
        return int(np.argmax(bad)) if bad.any() else None

    if (i := first(demand >= len(demands))) is not None:
        raise InputError(f"demand {demand[i]}, there are {len(demands)} (from 0)", place=f"activations.demand[{i}]")
    model = demand_model[demand]
    limits = np.array([(m.layers, m.experts, m.top_k) for m in models], dtype=np.int64).reshape(-1, 3)[model]
    if (i := first(layer >= limits[:, 0])) is not None:
        raise InputError(f"layer {layer[i]}, the model has {limits[i, 0]} (from 0)", place=f"activations.layer[{i}]")
    if (i := first(size > limits[:, 2])) is not None:
        raise InputError(f"{size[i]} experts, the model's top_k is {limits[i, 2]}", place=f"activations.experts[{i}]")
    row = np.repeat(np.arange(n), size)
    if (j := first(expert >= limits[row, 1])) is not None:
        i = int(row[j])
        raise InputError(
            f"expert {expert[j]}, the model has {limits[i, 1]} (from 0)",
            place=f"activations.experts[{i}][{j - int(start[i])}]",
        )
    block = model_block[model] + layer
    item = block_start[block[row]] + expert
    _check_distinct(row, item, start)
    _check_counts(count, demand, block, demands)
    return Rows(demand.astype(np.int32), count, start, item.astype(np.int32))


def _check_distinct(row: npt.NDArray[np.intp], item: Int64, start: Int64) -> None:
    if not len(item):
        return
    order = np.argsort(row * (int(item.max()) + 1) + item, kind="stable")
    same = (np.diff(item[order]) == 0) & (np.diff(row[order]) == 0)
    if same.any():
        j = int(order[1:][same].min())
        i = int(row[j])
        raise InputError("the expert stands in the row already", place=f"activations.experts[{i}][{j - int(start[i])}]")


def _check_counts(count: Int64, demand: Int64, block: Int64, demands: list[Demand]) -> None:
    if not len(count):
        return
    tokens = np.array([d.tokens for d in demands], dtype=np.int64)
    if np.any(bad := count > tokens[demand]):
        i = int(np.argmax(bad))
        raise InputError(
            f"{count[i]} tokens, demands[{demand[i]}] has {tokens[demand[i]]}", place=f"activations.count[{i}]"
        )
    pair, index = np.unique(demand * (int(block.max()) + 1) + block, return_inverse=True)
    total = np.zeros(len(pair), dtype=np.int64)
    np.add.at(total, index, count)
    # The exact sums may wrap around: below zero from 2**63 on, and floats are near enough to tell beyond 2**64.
    rough = np.bincount(index, weights=count)
    limit = np.zeros(len(pair), dtype=np.int64)
    limit[index] = tokens[demand]
    if np.any(bad := (total > limit) | (total < 0) | (rough > 1.5 * limit)):
        p = int(np.argmax(bad))
        i = int(np.argmax(index == p))
        exact = sum(count[index == p].tolist())
        raise InputError(
            f"{exact} tokens counted in the layer of row {i}, demands[{demand[i]}] has {limit[p]}",
            place="activations.count",
        )
