"""The instance document of the caching problem as types: the one home of its format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from moeplace.base.documents import INT64_MAX, NonNegative, Positive

Position = Annotated[list[Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)]], Meta(min_length=2, max_length=2)]


LatencyModel = Literal["max", "sum"]


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """One MoE language model: its MoE layers and the experts in them.

    ``layer_index`` (version 2) has the model's own number of each layer, dense layers counted; an instance counts
    those with experts only.
    """

    name: str
    layers: Positive
    experts: Positive
    top_k: Positive
    expert_bytes: Positive | list[Positive]
    layer_index: list[NonNegative] | UnsetType = UNSET

    @property
    def numbers(self) -> Sequence[int]:
        """The model's own number of each layer; where it is not said, layers count from 0."""
        return range(self.layers) if self.layer_index is UNSET else self.layer_index


# Experts of one model, as [layer, expert].
Experts = list[Annotated[list[NonNegative], Meta(min_length=2, max_length=2)]]


class Holding(Struct, frozen=True, forbid_unknown_fields=True):
    """Experts of one model that a server holds already."""

    model: str
    experts: Experts


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """One edge server and the bytes its cache holds.

    The other keys are of version 2: ``host`` is the machine that a GPU belongs to, ``holds`` what is on the server now,
    ``load_bytes_per_s`` how fast it loads what is not (absent: loading is free), ``layer_slots`` how many experts of
    one layer it takes at most.
    """

    name: str
    capacity_bytes: NonNegative
    position_m: Position | UnsetType = UNSET
    host: str | UnsetType = UNSET
    holds: list[Holding] | UnsetType = UNSET
    load_bytes_per_s: Positive | UnsetType = UNSET
    layer_slots: NonNegative | UnsetType = UNSET


class Loading(Struct, frozen=True, forbid_unknown_fields=True):
    """How many token-ns one ns of loading counts (version 2)."""

    weight: Positive


class Demand(Struct, frozen=True, forbid_unknown_fields=True):
    """One user asking for one model; times are integer nanoseconds, ``None`` is an unreachable server.

    ``cloud_ns: None`` (version 2) is no cloud: every expert of the model must be on a server that the demand reaches,
    or on its device.
    """

    user: str
    model: str
    tokens: Positive
    device_ns: NonNegative
    server_ns: list[NonNegative | None]
    cloud_ns: NonNegative | None
    device_experts: Experts | UnsetType = UNSET
    position_m: Position | UnsetType = UNSET


class Activations(Struct, frozen=True, forbid_unknown_fields=True):
    """The activation rows in columns: ``count[i]`` tokens used exactly ``experts[i]`` at ``layer[i]``.

    ``ranked`` (version 2) says that the experts of every row stand in falling router weight.
    """

    demand: list[NonNegative]
    layer: list[NonNegative]
    experts: list[Annotated[list[NonNegative], Meta(min_length=1)]]
    count: list[Positive]
    ranked: bool | UnsetType = UNSET


class Active(Struct, frozen=True, forbid_unknown_fields=True):
    """How many experts each layer uses is to be decided, too (version 2; rows have to be ranked).

    ``loss`` has for every model, layer by layer, what it costs in quality to use 1, 2, ... ``top_k`` experts only;
    ``budget`` is the most that all layers of all models may lose in sum.
    """

    loss: dict[str, list[list[NonNegative]]]
    budget: NonNegative


class InstanceDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """The instance file, versions 1 and 2."""

    format: Literal["moeplace/instance"]
    version: Literal[1, 2]
    name: str
    latency_model: LatencyModel
    models: list[Model]
    servers: list[Server]
    demands: list[Demand]
    activations: Activations
    loading: Loading | UnsetType = UNSET
    active: Active | UnsetType = UNSET
    notes: str | UnsetType = UNSET
    source: dict[str, str | int] | UnsetType = UNSET


def lowest_version(document: Mapping[str, Any]) -> int:
    """Return the lowest version of the format that holds what a document says: new files are written in it."""
    return 2 if newer_key(document) else 1


NEWER = {
    "models": ("layer_index",),
    "servers": ("host", "holds", "load_bytes_per_s", "layer_slots"),
}
"""Keys of version 2 in the entries of a list."""


def newer_key(document: Mapping[str, Any]) -> str | None:
    """Return the place of the first thing that only version 2 can say, or None."""
    for name, keys in NEWER.items():
        for i, entry in enumerate(document[name]):
            for key in keys:
                if key in entry:
                    return f"{name}[{i}].{key}"
    for d, demand in enumerate(document["demands"]):
        if "cloud_ns" in demand and demand["cloud_ns"] is None:
            return f"demands[{d}].cloud_ns"
    if "ranked" in document["activations"]:
        return "activations.ranked"
    return next((key for key in ("loading", "active") if key in document), None)


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


def layer_bytes(model: Model) -> list[int]:
    """Return the bytes of one expert for every layer of a model."""
    size = model.expert_bytes
    return [size] * model.layers if isinstance(size, int) else list(size)
