"""Putting an instance together: models and their counted routing, places, storage."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.documents import UNREACHABLE
from moeplace.base.errors import InputError
from moeplace.caching.document import LatencyModel, Model, layer_bytes, lowest_version
from moeplace.caching.instance import Instance

if TYPE_CHECKING:
    from moeplace.scenarios.catalogue import Architecture
    from moeplace.scenarios.counting import SetCounts
    from moeplace.scenarios.measured import Measured
    from moeplace.scenarios.topology import Topology


@dataclass(frozen=True, eq=False)
class Part:
    """One model of an instance and who asks for it.

    Attributes
    ----------
    model : Model
        Name, shape and expert sizes, as they go into the instance.
    message_bits : int
        Size of a hidden state, bits.
    counts : SetCounts
        Expert sets by demand and layer.
    user : sequence of int
        The user (index in the topology) of each demand of ``counts``; every user at most once.
    device_experts : dict, optional
        For a demand of ``counts``, the (layer, expert) pairs on the user's device.
    stays : bool array, optional
        Which demands are there also without a token in ``counts``: with one token, the least that a file can say, and
        no row.
    """

    model: Model
    message_bits: int
    counts: SetCounts
    user: Sequence[int]
    device_experts: dict[int, list[tuple[int, int]]] | None = None
    stays: Bool | None = None


@dataclass(frozen=True)
class Hardware:
    """What the servers at the stations are (`N` stations); the sequences after the first are empty or have `N` entries.

    Attributes
    ----------
    capacity_bytes : sequence of int [N]
        Storage of *each* server of a station.
    gpus : int
        Servers of each station, with equal times; where there are several, the station is their ``host``.
    hosts : sequence of (str or None)
        The machine of a station that is one server.
    load_bytes_per_s, layer_slots : sequence of (int or None)
        Of each server of a station; None: not said.
    load_weight : int or None
        Token-ns of one ns of loading; None: not said.
    """

    capacity_bytes: Sequence[int]
    gpus: int = 1
    hosts: Sequence[str | None] = ()
    load_bytes_per_s: Sequence[int | None] = ()
    layer_slots: Sequence[int | None] = ()
    load_weight: int | None = None

    def documents(self, stations: Sequence[str], station_m: Int64 | None) -> list[dict[str, Any]]:
        """Return the servers as an instance has them, those of one station one after the other."""
        found = []
        columns = {"host": self.hosts, "load_bytes_per_s": self.load_bytes_per_s, "layer_slots": self.layer_slots}
        for n, (station, capacity) in enumerate(zip(stations, self.capacity_bytes, strict=True)):
            own = {key: values[n] for key, values in columns.items() if values and values[n] is not None}
            for g in range(self.gpus):
                server: dict[str, Any] = {"name": station, "capacity_bytes": capacity}
                if station_m is not None:
                    server["position_m"] = station_m[n].tolist()
                server |= own
                if self.gpus > 1:
                    server |= {"name": f"{station}-gpu{g}", "host": station}
                found.append(server)
        return found


def catalogue_model(architecture: Architecture, precision: str, layers: int | None = None) -> Model:
    """Return a model of the catalogue as an instance holds it, with all its MoE layers or the first so many.

    Raises
    ------
    InputError
        The architecture has fewer MoE layers, no such precision, or no known size.
    """
    if layers is not None and layers > architecture.moe_layers:
        raise InputError(
            f"{layers} layers of {architecture.name} asked for, it has {architecture.moe_layers} with experts"
        )
    return Model(
        name=architecture.name,
        layers=architecture.moe_layers if layers is None else layers,
        experts=architecture.experts,
        top_k=architecture.top_k,
        expert_bytes=architecture.expert_bytes(precision),
    )


def all_bytes(models: Iterable[Model]) -> int:
    """Return the bytes of all experts of all models."""
    return sum(model.experts * sum(layer_bytes(model)) for model in models)


def mean_bytes(model: Model) -> int:
    """Return the bytes of an expert in the mean over the layers: the size that times are computed for."""
    return sum(layer_bytes(model)) // model.layers


def storage(models: Iterable[Model], percent: int, shares: Sequence[int]) -> list[int]:
    """Divide storage among servers.

    Parameters
    ----------
    models : iterable of Model
    percent : int
        All servers *together*, percent of the bytes of all experts of all models (the ``c060`` of a name).
    shares : sequence of int
        What each server gets, relative to the others.

    Returns
    -------
    list of int
        ``capacity_bytes`` of each server, rounded down.

    Examples
    --------
    >>> model = Model(name="m", layers=2, experts=4, top_k=1, expert_bytes=1000)
    >>> storage([model], 60, [1, 1, 2])
    [1200, 1200, 2400]
    """
    total = all_bytes(models) * percent
    return [total * share // (100 * sum(shares)) for share in shares]


def assemble(
    name: str,
    parts: Sequence[Part],
    topology: Topology | Measured,
    hardware: Hardware | Sequence[int],
    *,
    cloud: bool = True,
    latency_model: LatencyModel = "max",
    losses: Sequence[Sequence[Sequence[int]]] | None = None,
    loss_budget: int | None = None,
    source: dict[str, str | int] | None = None,
    notes: str | None = None,
) -> Instance:
    """Put an instance together.

    Parameters
    ----------
    name : str
    parts : sequence of Part
        The models, with their demands in the instance's order; demands without tokens are left out, but for those that
        stay. All counts keep ranks or none.
    topology : Topology or Measured
    hardware : Hardware or sequence of int
        What the servers are; or the storage of each station, which then is one server.
    cloud : bool
        Whether users have a cloud to fall back on.
    latency_model : {"max", "sum"}
    losses : sequence [M] of lists [layers, K], optional
        Of each model, what the first 1, 2, ... ``K`` experts lose at each layer; together with a budget.
    loss_budget : int, optional
        How much may be lost in all.
    source : dict, optional
        Where routing and places are from; kept as it is.
    notes : str, optional

    Returns
    -------
    Instance

    Raises
    ------
    InputError
        The parts do not make a valid instance.
    """
    if not isinstance(hardware, Hardware):
        hardware = Hardware(hardware)
    demands: list[dict[str, Any]] = []
    columns: dict[str, Any] = {"demand": [], "layer": [], "experts": [], "count": []}
    for part in parts:
        tokens = np.zeros(len(part.user), dtype=np.int64)
        tokens[: len(part.counts.tokens)] = part.counts.tokens
        if part.stays is not None:
            tokens = np.maximum(tokens, part.stays)
        server_ns, cloud_ns, device_ns = topology.latencies(part.message_bits, mean_bytes(part.model))
        server_ns = np.repeat(server_ns, hardware.gpus, axis=1)
        number = np.cumsum(tokens > 0) - 1 + len(demands)
        for d, u in enumerate(part.user):
            if not tokens[d]:
                continue
            demand: dict[str, Any] = {
                "user": topology.users[u],
                "model": part.model.name,
                "tokens": int(tokens[d]),
                "device_ns": int(device_ns[u]),
                "server_ns": [None if ns == UNREACHABLE else ns for ns in server_ns[u].tolist()],
                "cloud_ns": int(cloud_ns[u]) if cloud else None,
            }
            if topology.user_m is not None:
                demand["position_m"] = topology.user_m[u].tolist()
            if part.device_experts and part.device_experts.get(d):
                demand["device_experts"] = [list(pair) for pair in part.device_experts[d]]
            demands.append(demand)
        demand_of, layer, start, expert, count = part.counts.rows()
        flat = expert.tolist()
        columns["demand"] += number[demand_of].tolist()
        columns["layer"] += layer.tolist()
        columns["experts"] += [flat[a:b] for a, b in itertools.pairwise(start.tolist())]
        columns["count"] += count.tolist()
    if all(part.counts.ranked for part in parts):
        columns["ranked"] = True
    document: dict[str, Any] = {
        "format": "moeplace/instance",
        "version": 1,
        "name": name,
        "latency_model": latency_model,
        "models": [msgspec.to_builtins(part.model) for part in parts],
        "servers": hardware.documents(topology.stations, topology.station_m),
        "demands": demands,
        "activations": columns,
    }
    if losses is not None:
        named = zip(parts, losses, strict=True)
        table = {part.model.name: [list(row) for row in own] for part, own in named}
        document["active"] = {"loss": table, "budget": loss_budget}
    if hardware.load_weight is not None:
        document["loading"] = {"weight": hardware.load_weight}
    document["version"] = lowest_version(document)
    if notes is not None:
        document["notes"] = notes
    if source is not None:
        document["source"] = source
    return Instance.from_document(document)
