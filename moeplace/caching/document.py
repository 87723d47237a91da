"""The instance document of the caching problem as types: the one home of its format."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from moeplace.base.documents import INT64_MAX, NonNegative, Positive

Position = Annotated[list[Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)]], Meta(min_length=2, max_length=2)]


LatencyModel = Literal["max", "sum"]


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """One MoE language model: its MoE layers and the experts in them."""

    name: str
    layers: Positive
    experts: Positive
    top_k: Positive
    expert_bytes: Positive | list[Positive]


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """One edge server and the bytes its cache holds."""

    name: str
    capacity_bytes: NonNegative
    position_m: Position | UnsetType = UNSET


class Demand(Struct, frozen=True, forbid_unknown_fields=True):
    """One user asking for one model; times are integer nanoseconds, ``None`` is an unreachable server."""

    user: str
    model: str
    tokens: Positive
    device_ns: NonNegative
    server_ns: list[NonNegative | None]
    cloud_ns: NonNegative
    device_experts: list[Annotated[list[NonNegative], Meta(min_length=2, max_length=2)]] | UnsetType = UNSET
    position_m: Position | UnsetType = UNSET


class Activations(Struct, frozen=True, forbid_unknown_fields=True):
    """The activation rows in columns: ``count[i]`` tokens used exactly ``experts[i]`` at ``layer[i]``."""

    demand: list[NonNegative]
    layer: list[NonNegative]
    experts: list[Annotated[list[NonNegative], Meta(min_length=1)]]
    count: list[Positive]


class InstanceDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """The instance file, version 1."""

    format: Literal["moeplace/instance"]
    version: Literal[1]
    name: str
    latency_model: LatencyModel
    models: list[Model]
    servers: list[Server]
    demands: list[Demand]
    activations: Activations
    notes: str | UnsetType = UNSET
    source: dict[str, str | int] | UnsetType = UNSET
