"""The instance: who asks for which experts, from where, and what the servers can hold.

An :class:`Instance` is validated once, when it is made, and frozen. Every expert of every model has one
number, its *item*: items are laid out model by model, layer by layer, expert by expert, so that a placement
is a boolean matrix ``[servers, items]``. A *block* is one layer of one model; items of a block are adjacent.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from moeplace.base.arrays import Bool, Int32, Int64
from moeplace.base.documents import INT64_MAX, canonical, parse, show
from moeplace.base.errors import InputError
from moeplace.base.files import no_garbage_collection, read_json, write_bytes
from moeplace.caching.document import Demand, InstanceDocument, LatencyModel, Model, Server

UNREACHABLE: Final = INT64_MAX
"""What ``server_ns`` holds for a server that a demand cannot reach; never below a cloud time."""


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """Activation rows as a structure of arrays (``A`` rows, ``K`` expert requests in all).

    Attributes
    ----------
    demand : int32 array [A]
        The demand of each row.
    count : int64 array [A]
        Tokens of the demand that used exactly this set of experts.
    start : int64 array [A + 1]
        Row ``i`` requests ``item[start[i]:start[i + 1]]``.
    item : int32 array [K]
        The requested items; those of one row are distinct and of one block.
    """

    demand: Int32
    count: Int64
    start: Int64
    item: Int32

    def __len__(self) -> int:
        return len(self.demand)

    @property
    def nbytes(self) -> int:
        """Memory taken by the arrays, in bytes."""
        return self.demand.nbytes + self.count.nbytes + self.start.nbytes + self.item.nbytes

    def take(self, rows: npt.NDArray[np.intp]) -> Rows:
        """Return the given rows, in the given order."""
        length = np.diff(self.start)[rows]
        start = np.concatenate(([0], np.cumsum(length)))
        gather = np.arange(start[-1]) + np.repeat(self.start[rows] - start[:-1], length)
        return Rows(self.demand[rows], self.count[rows], start, self.item[gather])


@dataclass(frozen=True, eq=False, repr=False)
class Instance:
    """One caching problem (`D` demands, `N` servers, `I` items, `B` blocks); every number is an integer.

    Made by :func:`load` or :meth:`from_document`, never by hand. Arrays are read-only.

    Attributes
    ----------
    name, notes : str
        As the document gives them (no notes: empty).
    sha256 : str
        Hash of the instance document (see :func:`moeplace.base.documents.canonical`).
    latency_model : {"max", "sum"}
        Whether a token waits for its slowest expert or for one after the other.
    models, servers, demands : tuple
        The header of the document: :class:`~moeplace.caching.document.Model`, ``Server``, ``Demand``.
    source : dict
        Where the data came from (strings and integers), possibly empty.
    capacity_bytes : int64 array [N]
        Storage of each server, bytes.
    item_bytes : int64 array [I]
        Size of each expert, bytes.
    item_block : int32 array [I]
        The block (layer of a model) of each item.
    block_start : int64 array [B + 1]
        Items of block ``b`` are ``block_start[b]:block_start[b + 1]``.
    block_model, block_layer : int32 array [B]
        Model and layer of each block.
    demand_model : int32 array [D]
        The model each demand asks for.
    tokens : int64 array [D]
        Tokens observed of each demand.
    server_ns : int64 array [D, N]
        Time until an expert's output is back from a server, ns; :data:`UNREACHABLE` where it cannot be.
    device_ns, cloud_ns : int64 array [D]
        The same for the user's own device and for the cloud, ns.
    device_demand, device_item : int32 array [V]
        Pairs (demand, item): experts that the user's device holds.
    rows : Rows
        The activation rows in document order.
    baseline_ns : int
        Total latency with empty servers, token-ns.
    """

    name: str
    notes: str
    sha256: str
    latency_model: LatencyModel
    models: tuple[Model, ...]
    servers: tuple[Server, ...]
    demands: tuple[Demand, ...]
    source: dict[str, str | int]
    capacity_bytes: Int64
    item_bytes: Int64
    item_block: Int32
    block_start: Int64
    block_model: Int32
    block_layer: Int32
    demand_model: Int32
    tokens: Int64
    server_ns: Int64
    device_ns: Int64
    cloud_ns: Int64
    device_demand: Int32
    device_item: Int32
    rows: Rows
    baseline_ns: int
    # An absent key and an empty one give documents with different hashes.
    _has_notes: bool = False
    _has_source: bool = False

    @classmethod
    def from_document(cls, document: object) -> Instance:
        """Make an instance from an instance document (the object that ``json`` reads).

        Parameters
        ----------
        document : object
            The document, format ``moeplace/instance`` version 1. It is not kept.

        Returns
        -------
        Instance

        Raises
        ------
        InputError
            Whatever is wrong with the document, with the place in it.
        """
        with no_garbage_collection():
            return _build(document)

    def document(self) -> dict[str, Any]:
        """Return the instance document; the same document, value for value, that the instance was made from."""
        rows = self.rows
        first = rows.item[rows.start[:-1]] if len(rows) else rows.item[:0]
        block = self.item_block[first]
        expert = (rows.item - np.repeat(self.block_start[block], np.diff(rows.start))).tolist()
        bounds = rows.start.tolist()
        document: dict[str, Any] = {
            "format": "moeplace/instance",
            "version": 1,
            "name": self.name,
            "latency_model": self.latency_model,
            "models": msgspec.to_builtins(list(self.models)),
            "servers": msgspec.to_builtins(list(self.servers)),
            "demands": msgspec.to_builtins(list(self.demands)),
            "activations": {
                "demand": rows.demand.tolist(),
                "layer": self.block_layer[block].tolist(),
                "experts": [expert[a:b] for a, b in itertools.pairwise(bounds)],
                "count": rows.count.tolist(),
            },
        }
        if self._has_notes:
            document["notes"] = self.notes
        if self._has_source:
            document["source"] = dict(self.source)
        return document

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the instance document, gzip where the name ends in ``.gz``; whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_bytes(path, layout(self.document()))

    @property
    def n_items(self) -> int:
        """Number of items (experts of all layers of all models)."""
        return len(self.item_bytes)

    @property
    def n_blocks(self) -> int:
        """Number of blocks (layers of all models)."""
        return len(self.block_model)

    @cached_property
    def server_index(self) -> dict[str, int]:
        """Position of each server by name."""
        return {server.name: n for n, server in enumerate(self.servers)}

    @cached_property
    def model_index(self) -> dict[str, int]:
        """Position of each model by name."""
        return {model.name: m for m, model in enumerate(self.models)}

    @cached_property
    def model_block(self) -> list[int]:
        """First block of each model."""
        return list(itertools.accumulate((model.layers for model in self.models), initial=0))[:-1]

    def item(self, model: int, layer: int, expert: int) -> int:
        """Return the item of an expert."""
        return int(self.block_start[self.model_block[model] + layer]) + expert

    def item_name(self, item: int) -> tuple[str, int, int]:
        """Return (model name, layer, expert) of an item."""
        block = int(self.item_block[item])
        model = self.models[int(self.block_model[block])].name
        return model, int(self.block_layer[block]), item - int(self.block_start[block])

    def model_items(self, model: int) -> slice:
        """Return the range of items of a model."""
        first = self.model_block[model]
        last = first + self.models[model].layers
        return slice(int(self.block_start[first]), int(self.block_start[last]))

    @cached_property
    def rows_by_demand(self) -> tuple[Rows, Int64, npt.NDArray[np.intp] | None]:
        """Rows sorted by demand.

        Returns
        -------
        Rows
            The rows; the instance's own where they are sorted already.
        int64 array [D + 1]
            Rows of demand ``d`` are ``bounds[d]:bounds[d + 1]``.
        intp array [A] or None
            Original position of each sorted row; None where nothing moved.
        """
        rows, order = self.rows, None
        if np.any(np.diff(rows.demand) < 0):
            order = np.argsort(rows.demand, kind="stable")
            rows = rows.take(order)
        bounds = np.searchsorted(rows.demand, np.arange(len(self.demands) + 1)).astype(np.int64)
        return rows, bounds, order

    @cached_property
    def device_bounds(self) -> Int64:
        """Device experts of demand ``d`` are ``device_item[bounds[d]:bounds[d + 1]]``, int64 [D + 1]."""
        return np.searchsorted(self.device_demand, np.arange(len(self.demands) + 1)).astype(np.int64)

    def device_items(self, demand: int) -> Int32:
        """Return the items on the device of a demand, sorted."""
        return self.device_item[self.device_bounds[demand] : self.device_bounds[demand + 1]]

    def __repr__(self) -> str:
        return (
            f"<Instance {self.name!r}: {len(self.models)} models, {self.n_items} experts, {len(self.servers)} "
            f"servers, {len(self.demands)} demands, {len(self.rows)} activation rows, {self.latency_model}>"
        )


def load(path: str | os.PathLike[str]) -> Instance:
    """Read an instance file (``.json`` or ``.json.gz``).

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Instance

    Raises
    ------
    InputError
        One line: the file, the place in it, what was expected and what was found.
    """
    document = read_json(path)
    try:
        return Instance.from_document(document)
    except InputError as error:
        raise error.in_file(str(path)) from None


def layout(document: dict[str, Any]) -> bytes:
    """Lay an instance document out for people and for diffs: one line a key, one a list entry of the header."""

    def lines(values: Iterable[object]) -> str:
        return ",\n".join("    " + json.dumps(value, ensure_ascii=False) for value in values)

    parts = []
    for key, value in document.items():
        if key == "activations":
            columns = (f"    {json.dumps(k)}: {msgspec.json.encode(v).decode()}" for k, v in value.items())
            text = "{\n" + ",\n".join(columns) + "\n  }"
        elif isinstance(value, list):
            text = f"[\n{lines(value)}\n  ]" if value else "[]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f"  {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


_MOST_ITEMS = 10**8  # two thousand times the largest published model; keeps a misprint from filling memory

_MOST_CELLS = 2 * 10**8  # servers times experts: what a placement, and every method, holds in memory

# --- validation: each function checks one relation and names the place where it fails ----------------------


def _build(raw: object) -> Instance:
    document = parse(raw, InstanceDocument)
    sha256 = hashlib.sha256(canonical(raw)).hexdigest()
    models, servers, demands = document.models, document.servers, document.demands
    _unique([model.name for model in models], "models", "name")
    _unique([server.name for server in servers], "servers", "name")
    _unique([(demand.user, demand.model) for demand in demands], "demands", "user and model")
    for m, model in enumerate(models):
        _check_model(m, model)

    if (n_items := sum(model.layers * model.experts for model in models)) > _MOST_ITEMS:
        raise InputError(f"{n_items} experts in all; at most {_MOST_ITEMS} can be handled", place="models")
    if (cells := n_items * len(servers)) > _MOST_CELLS:
        raise InputError(
            f"{len(servers)} servers times {n_items} experts are {cells}; at most {_MOST_CELLS} can be handled",
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

    device = [
        (d, int(block_start[model_block[demand_model[d]] + layer]) + expert)
        for d, demand in enumerate(demands)
        for layer, expert in sorted(demand.device_experts or [])
    ]
    device_pairs = np.array(device, dtype=np.int32).reshape(-1, 2)
    rows = _build_rows(document, demand_model, model_block, block_start)

    instance = Instance(
        name=document.name,
        notes=document.notes or "",
        sha256=sha256,
        latency_model=document.latency_model,
        models=tuple(models),
        servers=tuple(servers),
        demands=tuple(demands),
        source=document.source or {},
        capacity_bytes=np.array([server.capacity_bytes for server in servers], dtype=np.int64),
        item_bytes=item_bytes,
        item_block=item_block,
        block_start=block_start,
        block_model=block_model,
        block_layer=block_layer,
        demand_model=demand_model,
        tokens=np.array([demand.tokens for demand in demands], dtype=np.int64),
        server_ns=server_ns,
        device_ns=np.array([demand.device_ns for demand in demands], dtype=np.int64),
        cloud_ns=np.array([demand.cloud_ns for demand in demands], dtype=np.int64),
        device_demand=np.ascontiguousarray(device_pairs[:, 0]),
        device_item=np.ascontiguousarray(device_pairs[:, 1]),
        rows=rows,
        baseline_ns=0,
        _has_notes=document.notes is not UNSET,
        _has_source=document.source is not UNSET,
    )
    for array in [*vars(instance).values(), *vars(rows).values()]:
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    from moeplace.caching.evaluation import baseline_ns  # evaluation is written on top of the finished instance

    baseline = baseline_ns(instance)
    if baseline > INT64_MAX:
        raise InputError(
            f"the latency with empty servers is {baseline} token-ns; it must fit in 63 bits ({INT64_MAX})",
            place="activations",
        )
    object.__setattr__(instance, "baseline_ns", baseline)
    return instance


def layer_bytes(model: Model) -> list[int]:
    """Return the bytes of one expert for every layer of a model."""
    size = model.expert_bytes
    return [size] * model.layers if isinstance(size, int) else list(size)


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
    largest = model.expert_bytes if isinstance(model.expert_bytes, int) else max(model.expert_bytes)
    if model.layers * model.experts * largest > INT64_MAX:
        raise InputError("all experts together take more than 2**63 - 1 bytes", place=f"{place}.expert_bytes")


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
        if layer >= model.layers:
            raise InputError(f"layer {layer}, the model has {model.layers} (from 0)", place=here)
        if expert >= model.experts:
            raise InputError(f"expert {expert}, the model has {model.experts} (from 0)", place=here)
        if (layer, expert) in seen:
            raise InputError(f"[{layer}, {expert}] is listed already", place=here)
        seen.add((layer, expert))


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
