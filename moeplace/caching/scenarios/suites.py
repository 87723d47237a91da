"""Generated instances: one scenario, or a family of them described in a TOML file.

A :class:`Scenario` says everything that an instance is made of; its fields are the options of ``moeplace generate``
and the keys of a suite. Every purpose (places, storage, users, sizes, router, tokens) has random numbers of its own,
so that scenarios which differ in the capacity alone differ in nothing else.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct

from moeplace.base.documents import parse, show
from moeplace.base.errors import InputError, naming
from moeplace.base.text import number
from moeplace.caching.document import LatencyModel, Model, layer_bytes
from moeplace.caching.instance import Instance
from moeplace.caching.scenarios.assembly import (
    Hardware,
    Part,
    all_bytes,
    assemble,
    catalogue_model,
    mean_bytes,
    storage,
)
from moeplace.scenarios.catalogue import HIDDEN_BITS, Architecture, find_architecture
from moeplace.scenarios.counting import SetCounts
from moeplace.scenarios.losses import exponents, power_losses
from moeplace.scenarios.measured import Measured, Servers, given_ms, read_measured, read_servers
from moeplace.scenarios.model_config import Published, read_model_config
from moeplace.scenarios.networks import Network, Unplaced, read_network
from moeplace.scenarios.places import Positions, read_positions
from moeplace.scenarios.routing import Routing
from moeplace.scenarios.topology import Access, Links, Topology, from_network, from_positions, generated

_PLACES, _STORAGE, _USERS, _SIZES, _ROUTER, _TOKENS, _LOSSES = range(7)

HIDDEN_SIZE: Final = 2048
"""Width of the hidden state where a shape of one's own does not say it."""

SIZE_QUARTERS: Final = (2, 3, 4)
"""Mixed sizes: a layer's experts take so many quarters of their size, as weights of 4, 6 and 8 bit do beside 8 bit."""

STORAGE_SHARES: Final = (2, 6)
"""Mixed storage: the least and the most of a server, in quarters of the mean."""


def _count(most: int, text: str, least: int = 1) -> Any:
    return Meta(ge=least, le=most, description=text)


class Scenario(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one generated instance is made of; each field is described where it stands."""

    models: Annotated[
        list[str], Meta(description="A model of the catalogue: NAME or NAME:PRECISION (bf16, fp8, int8, int4, mxfp4)")
    ] = []
    config: Annotated[str, Meta(description="config.json file of a published model (Hugging Face form)")] | None = None
    layers: (
        Annotated[int, _count(10**4, "MoE layers: the first so many of a published model, or of a shape of its own")]
        | None
    ) = None
    experts: Annotated[int, _count(32767, "Experts of a layer, for a shape of its own")] | None = None
    top_k: Annotated[int, _count(1000, "Experts of a token at a layer, for a shape of its own")] | None = None
    expert_bytes: (
        Annotated[int, _count(10**12, "Size of an expert, bytes, for a shape of its own, or instead of config's")]
        | None
    ) = None
    hidden_size: (
        Annotated[int, _count(10**6, f"Width of the hidden state, for a shape of its own (left out: {HIDDEN_SIZE})")]
        | None
    ) = None
    sizes: Annotated[
        Literal["equal", "mixed"],
        Meta(description="Expert sizes of the layers; mixed: a half, three quarters or the whole, by layer"),
    ] = "equal"

    stations: Annotated[int, _count(1000, "Stations, each with a server")] = 5
    station_file: (
        Annotated[
            str,
            Meta(description="CSV file with LATITUDE and LONGITUDE, or X and Y (m), of stations; left out: generated"),
        ]
        | None
    ) = None
    user_file: (
        Annotated[
            str,
            Meta(
                description="CSV file with positions of users, with names if a trace names them; left out: drawn "
                "around stations"
            ),
        ]
        | None
    ) = None
    box: (
        Annotated[
            list[float],
            Meta(
                min_length=4, max_length=4, description="South, west, north, east (degrees): use positions within only"
            ),
        ]
        | None
    ) = None
    network: (
        Annotated[
            str,
            Meta(description="Network with stations at its nodes: GraphML (Internet Topology Zoo) or SNDlib's JSON"),
        ]
        | None
    ) = None
    unplaced: (
        Annotated[
            Unplaced,
            Meta(description="Nodes without coordinates: placed between their neighbours to forward only, or left out"),
        ]
        | None
    ) = None
    latency: (
        Annotated[
            str,
            Meta(
                description="CSV file with measured round trips, ms: user,server,ms, or a row a user and a column a "
                "server; cloud and device stand among the servers"
            ),
        ]
        | None
    ) = None
    cloud_ms: (
        Annotated[str, Meta(description="Round trip to the cloud, ms, of users for whom the latency file has none")]
        | None
    ) = None
    servers: (
        Annotated[
            str,
            Meta(
                description="CSV file with name and capacity_gb (or capacity_bytes) of the servers; if they are known "
                "positions, host, load_gb_per_s, layer_slots"
            ),
        ]
        | None
    ) = None
    site_distance_m: Annotated[
        int, _count(10**6, "Generated stations: side of a grid cell, m (TR 38.901 urban macro: 500)", 4)
    ] = 500
    cell_radius_m: Annotated[int, _count(10**5, "Users drawn around stations: at most so far away, m")] = 300
    access: Annotated[
        Access, Meta(description="Servers are reached through the home station and the backhaul, or each by radio")
    ] = "home"

    users: Annotated[int, _count(10**6, "Users")] = 50
    far_users: (
        Annotated[
            Literal["leave-out"],
            Meta(description="Leave out users to whom no server is worth much: beyond the range, worse than the cloud"),
        ]
        | None
    ) = None
    models_per_user: Annotated[int, _count(1000, "Models that each user asks for, in turn")] = 1
    tokens: Annotated[
        int, _count(10**7, "Tokens of a user and model in the mean; drawn from half of it to one and a half")
    ] = 200
    tasks: Annotated[int, _count(1000, "Tasks, each with a routing profile of its own; every user has a main task")] = 4
    main_task: Annotated[
        int, _count(100, "Tokens of the user's main task, percent; the others are of other tasks", 0)
    ] = 80
    routing: Annotated[
        Literal["measured", "independent"],
        Meta(description="Like measured traces, or experts independent of each other (unrealistic; to compare)"),
    ] = "measured"
    ranked: Annotated[
        bool,
        Meta(
            description="Rows keep a token's experts in falling router weight (document version 2); those of a trace "
            "must stand so"
        ),
    ] = False
    loss_budget: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=2**63 - 1,
                description="Layers may use fewer experts within this loss: parts per million of the router's weight, "
                "10000 are 1 %, or the unit of measured losses; rows are ranked",
            ),
        ]
        | None
    ) = None
    device_experts: Annotated[
        int, _count(32767, "Experts of each layer on the user's device: those that this user's tokens use most", 0)
    ] = 0

    capacity: Annotated[
        int, _count(10**6, "Storage of all servers together, percent of the bytes of all experts of all models", 0)
    ] = 60
    storage: Annotated[
        Literal["equal", "mixed"], Meta(description="Shares of the servers; mixed: half to one and a half of the mean")
    ] = "equal"
    no_cloud: Annotated[
        bool, Meta(description="No cloud: every expert must be on a server that its users reach (document version 2)")
    ] = False
    gpus_per_station: Annotated[
        int, _count(1000, "Servers of each station, with equal times: NAME-gpu0, NAME-gpu1, ... of the host NAME")
    ] = 1
    load_gb_per_s: (
        Annotated[
            float,
            Meta(gt=0, le=1e9, description="How fast each server loads experts, GB/s (left out: loading is free)"),
        ]
        | None
    ) = None
    load_weight: Annotated[int, _count(10**12, "Token-ns that one ns of loading counts (left out: 1)")] | None = None
    layer_slots: Annotated[int, _count(32767, "Experts of one layer that each server takes at most", 0)] | None = None
    latency_model: Annotated[
        LatencyModel, Meta(description="A token waits for its slowest expert, or for one after the other")
    ] = "max"
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="Seed of everything random")] = 0
    name: Annotated[str, Meta(description="Name of the instance; left out: made of its parts")] | None = None
    links: Links = Links()


class Suite(Struct, frozen=True, forbid_unknown_fields=True):
    """A suite file: ``defaults`` for all, and families; a family's ``grid`` gives lists of values to combine."""

    description: str
    family: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    defaults: dict[str, Any] = {}


class _Shape(Struct, frozen=True):
    """A model of a scenario: its entry in the instance before sizes are mixed, and what its name says."""

    model: Model
    message_bits: int
    label: str
    published: Published | None = None


class ScenarioModels(NamedTuple):
    """The models of a scenario, as the catalogue or a file has them.

    Attributes
    ----------
    models : list of Model
    message_bits : list of int
        Bits of a message of each model.
    label : str
        What the name of an instance says of them.
    published : Published or None
        What the file of the scenario's ``config`` says.
    """

    models: list[Model]
    message_bits: list[int]
    label: str
    published: Published | None


def default_name(
    scenario: Scenario, folder: str | os.PathLike[str] = ".", *, known: ScenarioModels | None = None
) -> str:
    """Return the name that says what an instance is.

    The scenario's files are relative to the folder, and not read where its models are known already.

    ``MODELS[-PRECISION][_lLAYERS][_PLACE][_FEATURE...]_sSTATIONS_uUSERS_cCAPACITY_seedSEED``; the precision where it
    is not the one that the model was published in, layers where they are cut.

    Examples
    --------
    >>> default_name(Scenario(models=["qwen3-30b"], stations=10, users=100, seed=3))
    'qwen3-30b_s10_u100_c060_seed3'
    >>> default_name(Scenario(layers=4, experts=8, top_k=2, expert_bytes=1000, latency_model="sum", storage="mixed"))
    'l04e008k2_sum_storage_s5_u50_c060_seed0'
    """
    parts = [_label(_shapes(scenario, folder)) if known is None else known.label]
    if (scenario.models or scenario.config) and scenario.layers is not None:
        parts.append(f"l{scenario.layers:02}")
    if place := scenario.network or scenario.station_file or scenario.latency or scenario.servers:
        parts.append(re.sub(r"[^a-z0-9.+-]+", "-", Path(place).name.partition(".")[0].lower()))
    features = {
        "sum": scenario.latency_model == "sum",
        "sizes": scenario.sizes == "mixed",
        "storage": scenario.storage == "mixed",
        "direct": scenario.access == "direct",
        "independent": scenario.routing == "independent",
        f"device{scenario.device_experts}": scenario.device_experts > 0,
        "nocloud": scenario.no_cloud,
        f"gpu{scenario.gpus_per_station}": scenario.gpus_per_station > 1,
        f"slots{scenario.layer_slots}": scenario.layer_slots is not None,
        f"load{scenario.load_gb_per_s or 0:g}": scenario.load_gb_per_s is not None,
        f"weight{scenario.load_weight}": scenario.load_weight is not None,
        "ranked": scenario.ranked and scenario.loss_budget is None,
        f"loss{scenario.loss_budget}": scenario.loss_budget is not None,
    }
    parts += [feature for feature, there in features.items() if there]
    numbers = f"s{scenario.stations}_u{scenario.users}_c{scenario.capacity:03}_seed{scenario.seed}"
    return "_".join([*parts, numbers])


def generate(
    scenario: Scenario,
    folder: str | os.PathLike[str] = ".",
    note: Callable[[str], object] | None = None,
    *,
    known: ScenarioModels | None = None,
) -> Instance:
    """Make the instance of a scenario: the same everywhere, bit for bit.

    Parameters
    ----------
    scenario : Scenario
    folder : path-like
        What the scenario's files are relative to.
    note : callable, optional
        Called with each line that a person should know of: what was guessed, not read or left out.
    known : ScenarioModels, optional
        What :func:`scenario_models` has returned of the scenario.

    Returns
    -------
    Instance

    Raises
    ------
    InputError
        The scenario contradicts itself, a model or a file is not there or not usable.
    """
    known = scenario_models(scenario, folder) if known is None else known
    made = setting(scenario, folder, known=known)
    scenario, models, topology = made.scenario, made.models, made.topology
    main_task = _random(scenario, _USERS).integers(0, scenario.tasks, scenario.users).tolist()
    ranked, table = scenario.ranked or scenario.loss_budget is not None, list[list[list[int]]]()
    parts, fitted_to, extrapolated = [], set(), False
    for m, model in enumerate(models):
        user = [u for u in range(scenario.users) if (m - u) % len(models) < scenario.models_per_user]
        seed = int(_random(scenario, _ROUTER, m).integers(0, 2**62))
        routing = Routing.draw(
            model.layers, model.experts, model.top_k, tasks=scenario.tasks, seed=seed, kind=scenario.routing
        )
        fitted_to.add(routing.fitted_to)
        extrapolated |= routing.extrapolated
        counts = SetCounts(model.layers, model.experts, model.top_k, ranked=ranked)
        rng = _random(scenario, _TOKENS, m)
        for d, u in enumerate(user):
            for task, tokens in enumerate(_tokens(scenario, main_task[u], rng)):
                if tokens:
                    counts.add(d, routing.sample(task, tokens, rng))
        device = _most_used(counts, scenario.device_experts) if scenario.device_experts else None
        parts.append(Part(model, made.message_bits[m], counts, user, device))
        drawn = exponents(model.layers, model.experts, int(_random(scenario, _LOSSES, m).integers(0, 2**31)))
        table.append(power_losses(drawn, model.top_k, of=sum(each.layers for each in models)))
    instance = assemble(
        scenario.name or default_name(scenario, known=known),
        parts,
        topology,
        made.hardware,
        cloud=not scenario.no_cloud,
        latency_model=scenario.latency_model,
        losses=None if scenario.loss_budget is None else table,
        loss_budget=scenario.loss_budget,
        source=_source(scenario, topology, sorted(fitted_to)),
        notes=_notes(scenario, sorted(fitted_to), extrapolated),
    )
    if note is not None:
        for line in made.notes:
            note(line)
    return instance


class Setting(NamedTuple):
    """A scenario without its routing.

    Attributes
    ----------
    scenario : Scenario
        With the numbers of stations and users, and the percentage of storage, that files say.
    models : list of Model
    message_bits : list of int
        Bits of a message of each model.
    topology : Topology or Measured
    hardware : Hardware
        What the servers are.
    left_out : list of str
        Users who are left out because they are far.
    notes : list of str
        What a person should know of the places, a line each.
    """

    scenario: Scenario
    models: list[Model]
    message_bits: list[int]
    topology: Topology | Measured
    hardware: Hardware
    left_out: list[str]
    notes: list[str]


class Sources(NamedTuple):
    """What the files of a scenario's places say; None where there is no such file."""

    stations: Positions | None
    people: Positions | None
    network: Network | None
    servers: Servers | None
    measured: Measured | None


def read_sources(scenario: Scenario, folder: str | os.PathLike[str] = ".") -> Sources:
    """Read the files of a scenario's places, each of them once; raises as :func:`generate` does.

    That the scenario does not contradict itself is taken for granted (:func:`scenario_models`).
    """
    folder = Path(folder)
    servers = None if scenario.servers is None else read_servers(folder / scenario.servers)
    if scenario.latency is not None:
        file = folder / scenario.latency
        measured = read_measured(file, servers, scenario.cloud_ms, cloud=not scenario.no_cloud)
        return Sources(None, None, None, servers, measured)
    if scenario.network is not None:
        return Sources(None, None, read_network(folder / scenario.network, scenario.unplaced), servers, None)
    stations = None if scenario.station_file is None else read_positions(folder / scenario.station_file)
    if servers is not None:
        if servers.positions is None:
            raise InputError("has no positions; they are needed where no latency is measured", file=servers.file)
        stations = dataclasses.replace(servers.positions, notes=servers.notes)
    people = None if scenario.user_file is None else read_positions(folder / scenario.user_file, of_users=True)
    return Sources(stations, people, None, servers, None)


def setting(
    scenario: Scenario,
    folder: str | os.PathLike[str] = ".",
    *,
    known: ScenarioModels | None = None,
    sources: Sources | None = None,
    users: Sequence[str] | None = None,
) -> Setting:
    """Make everything of a scenario but its routing; raises as :func:`generate` does.

    Parameters
    ----------
    scenario : Scenario
    folder : path-like
        What the scenario's files are relative to.
    known : ScenarioModels, optional
        Its models, where :func:`scenario_models` has returned them.
    sources : Sources, optional
        What the files of its places say, where they have been read.
    users : sequence of str, optional
        The users that a trace names: where a table names users, too, these and no others are taken from it, and it must
        have them all.
    """
    models, message_bits, *_ = scenario_models(scenario, folder) if known is None else known
    sources = read_sources(scenario, folder) if sources is None else sources
    topology, servers = _topology(scenario, sources, users), sources.servers
    notes = list(topology.notes)
    topology, left_out = _without_far(scenario, topology, models, message_bits, notes)
    if isinstance(topology, Measured) and topology.device_ns is None and scenario.device_experts:
        raise InputError("experts on devices, and no time of a device is measured", place="device_experts")
    n_stations, percent = len(topology.stations), scenario.capacity
    hardware = _hardware(scenario, servers, models, n_stations, notes)
    if servers is not None:
        percent = round(100 * sum(hardware.capacity_bytes) * hardware.gpus / all_bytes(models))
    found = msgspec.structs.replace(scenario, stations=n_stations, users=len(topology.users), capacity=percent)
    _check_users(found, len(models))
    return Setting(found, models, message_bits, topology, hardware, left_out, notes)


def _hardware(
    scenario: Scenario, servers: Servers | None, models: list[Model], n_stations: int, notes: list[str]
) -> Hardware:
    """Return what the servers are: what a row of a table says, and what options say, is of each GPU of a station.

    Only ``capacity`` is of all servers together, as ever; a station's share is divided among its GPUs.
    """
    gpus = scenario.gpus_per_station
    rate = None if scenario.load_gb_per_s is None else round(Fraction(repr(scenario.load_gb_per_s)) * 10**9)
    if rate == 0:
        raise InputError("less than a byte a second", place="load_gb_per_s")
    hosts: Sequence[str | None] = ()
    rates: Sequence[int | None] = () if rate is None else [rate] * n_stations
    slots: Sequence[int | None] = () if scenario.layer_slots is None else [scenario.layer_slots] * n_stations
    if servers is not None:
        for key, column in (("load_gb_per_s", servers.load_bytes_per_s), ("layer_slots", servers.layer_slots)):
            if column and getattr(scenario, key) is not None:
                raise InputError(f"is without effect: {servers.file} says it of each server", place=key)
        if servers.hosts and gpus > 1:
            raise InputError(f"the rows of {servers.file} are GPUs already: they have a host", place="gpus_per_station")
        capacity_bytes = list(servers.capacity_bytes)
        hosts, rates, slots = servers.hosts, servers.load_bytes_per_s or rates, servers.layer_slots or slots
    else:
        shares = [1] * n_stations
        if scenario.storage == "mixed":
            least, most = STORAGE_SHARES
            shares = _random(scenario, _STORAGE).integers(least, most + 1, n_stations).tolist()
        capacity_bytes = [own // gpus for own in storage(models, scenario.capacity, shares)]
    if scenario.load_weight is not None and all(each is None for each in rates):
        raise InputError("is without effect: loading is free without load_gb_per_s", place="load_weight")
    if gpus > 1:
        whose = "a row's storage is that of each GPU" if servers else "a station's storage is divided among its GPUs"
        notes.append(f"{number(gpus, 'GPU')} at each of {number(n_stations, 'station')}: {whose}")
    return Hardware(capacity_bytes, gpus, hosts, rates, slots, scenario.load_weight)


def _check_users(scenario: Scenario, n_models: int) -> None:
    if n_models > scenario.users * scenario.models_per_user:
        raise InputError(f"{n_models} models, more than {number(scenario.users, 'user')} ask for", place="users")


def _without_far(
    scenario: Scenario,
    topology: Topology | Measured,
    models: list[Model],
    message_bits: list[int],
    notes: list[str],
) -> tuple[Topology | Measured, list[str]]:
    """Say which users are far, and leave them out where the scenario says so."""
    cloud = not scenario.no_cloud
    asked = [
        topology.far(bits, mean_bytes(model), cloud=cloud) for bits, model in zip(message_bits, models, strict=True)
    ]
    far = np.logical_or.reduce([each for each, _ in asked])
    if not far.any():
        return topology, []
    what = next(what for each, what in asked if each.any())
    out = [topology.users[u] for u in np.flatnonzero(far).tolist()]
    names = ", ".join(out[:4]) + (f" and {len(out) - 4} more" if len(out) > 4 else "")
    said = f"far: {len(out)} of {number(len(far), 'user')} ({names}), {what}"
    if scenario.far_users is None:
        notes.append(f"{said}; kept as they are (--far-users leave-out)")
        return topology, []
    if len(out) == len(far):
        raise InputError(f"no user is left: {said}", place="far_users")
    notes.append(f"{said}; left out")
    return topology.only(np.flatnonzero(~far).tolist()), out


def scenario_models(scenario: Scenario, folder: str | os.PathLike[str] = ".") -> ScenarioModels:
    """Return the models of a scenario that does not contradict itself; its files are relative to the folder.

    Raises
    ------
    InputError
        Which key, and why.
    """
    if scenario.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", scenario.name):
        raise InputError(
            f"expected letters, digits and . _ + - (it names a file), found {show(scenario.name)}", place="name"
        )
    default = Scenario()
    check_effect(
        {key: v for key in Scenario.__struct_fields__ if (v := getattr(scenario, key)) != getattr(default, key)}
    )
    shapes = _shapes(scenario, folder)
    names = [shape.model.name for shape in shapes]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} stands there twice", place="models")
    if scenario.models_per_user > len(shapes):
        raise InputError(
            f"{scenario.models_per_user} models of each user, there are {len(shapes)}", place="models_per_user"
        )
    if scenario.latency is None:
        _check_users(scenario, len(shapes))
    for shape in shapes:
        if scenario.device_experts > shape.model.experts:
            raise InputError(
                f"{scenario.device_experts} experts of a layer, {shape.model.name} has {shape.model.experts}",
                place="device_experts",
            )
    if scenario.network is not None:
        for key in ("station_file", "user_file", "box"):
            if getattr(scenario, key) is not None:
                raise InputError("a network has stations and users of its own", place=key)
        if scenario.access == "direct":
            raise InputError("stations of a network are too far apart for access by radio", place="access")
    for key in ("user_file", "box"):
        if scenario.station_file is None and scenario.servers is None and getattr(scenario, key) is not None:
            raise InputError("is used together with station_file only", place=key)
    if scenario.cloud_ms is not None:
        given_ms(scenario.cloud_ms)
    if scenario.box is not None and not (scenario.box[0] <= scenario.box[2] and scenario.box[1] <= scenario.box[3]):
        raise InputError("expected south, west, north, east in degrees, the smaller first", place="box")
    return ScenarioModels(
        [_sized(shape.model, scenario, m) for m, shape in enumerate(shapes)],
        [shape.message_bits for shape in shapes],
        _label(shapes),
        shapes[0].published,
    )


def _label(shapes: Sequence[_Shape]) -> str:
    return "+".join(shape.label for shape in shapes)


_OF_MODELLED_TIMES: Final = (
    "stations", "station_file", "user_file", "box", "network", "unplaced", "site_distance_m", "cell_radius_m", "access",
    "users", "hidden_size",
)  # fmt: skip
_OF_SHARED_STORAGE: Final = ("capacity", "storage")
OF_THE_CLOUD: Final = ("wan_round_trip_us", "cloud_gb_per_s")
"""Parameters of links that no time depends on where there is no cloud."""

_NEWER: Final = ("no_cloud", "gpus_per_station", "ranked")
"""Keys that are said in an instance only where they are not the default: files without them stay as they were."""


def check_effect(given: Mapping[str, Any]) -> None:
    """Refuse keys of a scenario that another key of it makes ineffective.

    Parameters
    ----------
    given : mapping
        The keys that are given, with their values; those of ``links`` in a mapping or a :class:`Links`.

    Raises
    ------
    InputError
        Which key, and why.
    """
    links = given.get("links")
    if isinstance(links, Links):
        default = Links()
        links = {k: v for k in Links.__struct_fields__ if (v := getattr(links, k)) != getattr(default, k)}
    if given.get("no_cloud"):
        for key in ("cloud_ms", *(f"links.{key}" for key in OF_THE_CLOUD if key in (links or ()))):
            if key in given or key.startswith("links."):
                raise InputError("is without effect: there is no cloud (no_cloud)", place=key)
    if given.get("latency") is not None:
        for key in _OF_MODELLED_TIMES:
            if key in given:
                raise InputError("is without effect: users and times are those of the latency table", place=key)
        for key in links or ():
            raise InputError("is without effect: times are those of the latency table", place=f"links.{key}")
    elif "cloud_ms" in given:
        raise InputError("is used together with latency only", place="cloud_ms")
    if given.get("servers") is not None:
        for key in _OF_SHARED_STORAGE:
            if key in given:
                raise InputError("is without effect: the storage of each server is in the table of servers", place=key)
        for key in ("stations", "station_file", "network"):
            if key in given:
                raise InputError("is without effect: the servers are those of the table", place=key)
    if given.get("network") is None and "unplaced" in given:
        raise InputError("is used together with network only", place="unplaced")


def read_suite(path: str | os.PathLike[str]) -> tuple[Suite, dict[str, Scenario]]:
    """Read a suite file and return it with its scenarios by the names of their instances, in its order.

    Raises
    ------
    InputError
        With the file and the place: no TOML, an unknown key, a value out of range, two scenarios of one name.
    """
    file = str(path)
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None
    except (ValueError, RecursionError) as error:  # syntax, not UTF-8, too many digits, too deep
        raise InputError(f"not TOML: {error}", file=file) from None
    with naming(file):
        suite = parse(document, Suite)
        scenarios: dict[str, Scenario] = {}
        for i, family in enumerate(suite.family):
            for values in _combinations(suite.defaults | family, f"family[{i}]"):
                try:
                    scenario = parse(values, Scenario)
                    check_effect(values)
                    known = scenario_models(scenario, Path(path).parent)
                except InputError as error:
                    place = ".".join(filter(None, (f"family[{i}]", error.place)))
                    raise InputError(error.message, place=place) from None
                name = scenario.name or default_name(scenario, known=known)
                if name in scenarios:
                    raise InputError(f"a second scenario called {name}; give it another name", place=f"family[{i}]")
                scenarios[name] = scenario
    return suite, scenarios


def check_places(scenario: Scenario, folder: str | os.PathLike[str] = ".") -> None:
    """Refuse a scenario that :func:`generate` would refuse for its files or places, without drawing any routing.

    Raises
    ------
    InputError
        A file is not there or not usable, there are too few sites, or a user's radio carries nothing.
    """
    made = setting(scenario, folder)
    for model, bits in zip(made.models, made.message_bits, strict=True):
        made.topology.latencies(bits, mean_bytes(model))


def generate_suite(path: str | os.PathLike[str], note: Callable[[str], object] | None = None) -> Iterator[Instance]:
    """Make the instances of a suite file one after the other; see :func:`read_suite` and :func:`generate`."""
    _, scenarios = read_suite(path)
    for scenario in scenarios.values():
        yield generate(scenario, Path(path).parent, note)


def _combinations(family: dict[str, Any], place: str) -> Iterator[dict[str, Any]]:
    fixed = {key: value for key, value in family.items() if key != "grid"}
    grid = family.get("grid", {})
    if not isinstance(grid, dict):
        raise InputError("expected a table of lists of values", place=f"{place}.grid")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError("expected a list of values", place=f"{place}.grid.{key}")
        if key in fixed:
            raise InputError("stands outside the grid, too", place=f"{place}.grid.{key}")
    for values in itertools.product(*grid.values()):
        yield fixed | dict(zip(grid, values, strict=True))


def _random(scenario: Scenario, purpose: int, index: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((scenario.seed, purpose, index))))


def _shapes(scenario: Scenario, folder: str | os.PathLike[str]) -> list[_Shape]:
    own = {key: getattr(scenario, key) for key in ("experts", "top_k", "expert_bytes", "hidden_size")}
    if scenario.config is not None:
        for key, value in {"models": scenario.models or None, **own}.items():
            if value is not None and key != "expert_bytes":
                raise InputError("config describes the model already", place=key)
        published = read_model_config(Path(folder) / scenario.config, scenario.expert_bytes)
        return [_config_shape(published, scenario.layers)]
    if scenario.models:
        for key, value in own.items():
            if value is not None:
                raise InputError("is for a shape of its own, without models of the catalogue", place=key)
        return [_catalogue_shape(text, scenario.layers) for text in scenario.models]
    del own["hidden_size"]
    if scenario.layers is None and all(value is None for value in own.values()):
        raise InputError(
            "is missing: a model of the catalogue, a config.json, or layers, experts, ... of a shape of its own",
            place="models",
        )
    for key, value in ({"layers": scenario.layers} | own).items():
        if value is None:
            raise InputError("is missing: a shape of its own has layers, experts, top_k, expert_bytes", place=key)
    model = Model(name="moe", layers=scenario.layers or 0, **own)
    if model.top_k > model.experts:
        raise InputError(f"{model.top_k} experts a token, the model has {model.experts}", place="top_k")
    label = f"l{model.layers:02}e{model.experts:03}k{model.top_k}"
    return [_Shape(model, (scenario.hidden_size or HIDDEN_SIZE) * HIDDEN_BITS, label)]


def _catalogue_shape(text: str, layers: int | None) -> _Shape:
    name, colon, precision = text.partition(":")
    try:
        architecture: Architecture = find_architecture(name)
        precision = precision if colon else architecture.published
        label = architecture.name + (f"-{precision}" if precision != architecture.published else "")
        return _Shape(catalogue_model(architecture, precision, layers), architecture.message_bits(), label)
    except InputError as error:
        raise InputError(error.message, place="models") from None


def _config_shape(published: Published, layers: int | None) -> _Shape:
    architecture = published.architecture
    layers = layers or architecture.moe_layers
    if layers > architecture.moe_layers:
        raise InputError(f"{layers}, the model has {architecture.moe_layers} with experts", place="layers")
    sizes: int | list[int] = published.expert_bytes[:layers]
    if isinstance(sizes, list) and len(set(sizes)) == 1:
        sizes = sizes[0]
    numbers = published.layer_index[:layers]
    model = Model(
        name=architecture.name,
        layers=layers,
        experts=architecture.experts,
        top_k=architecture.top_k,
        expert_bytes=sizes,
        # Layers without any dense one between them are numbered as an instance numbers them anyway.
        layer_index=UNSET if numbers == list(range(layers)) else numbers,
    )
    return _Shape(model, architecture.message_bits(), architecture.name, published)


def _sized(model: Model, scenario: Scenario, m: int) -> Model:
    if scenario.sizes == "equal":
        return model
    quarters = _random(scenario, _SIZES, m).integers(0, len(SIZE_QUARTERS), model.layers).tolist()
    sizes = [-(-size * SIZE_QUARTERS[q] // 4) for size, q in zip(layer_bytes(model), quarters, strict=True)]
    return msgspec.structs.replace(model, expert_bytes=sizes)


def _topology(scenario: Scenario, sources: Sources, users: Sequence[str] | None) -> Topology | Measured:
    if (measured := sources.measured) is not None:
        if users is None:
            return measured
        rows = _rows_of(users, measured.users, "measured", measured.file)
        notes = (*measured.notes, *_idle(measured.users, rows, measured.file))
        return dataclasses.replace(measured.only(rows), notes=notes)
    rng = _random(scenario, _PLACES)
    if sources.network is not None:
        return from_network(
            sources.network,
            n_stations=scenario.stations,
            n_users=scenario.users,
            rng=rng,
            cell_radius_m=scenario.cell_radius_m,
            links=scenario.links,
        )
    if sources.stations is not None:
        people, n_users, servers = sources.people, scenario.users, sources.servers
        if people is not None and users is not None:
            people, n_users = _people_of(people, users, n_users)
        topology = from_positions(
            sources.stations,
            people,
            n_stations=scenario.stations if servers is None else len(servers.names),
            n_users=n_users,
            rng=rng,
            box=scenario.box,
            cell_radius_m=scenario.cell_radius_m,
            links=scenario.links,
            access=scenario.access,
        )
        if servers is not None and topology.stations != servers.names:
            raise InputError("a box leaves servers out; take them out of the table instead", file=servers.file)
        return topology
    return generated(
        scenario.stations,
        scenario.users,
        rng,
        site_distance_m=scenario.site_distance_m,
        links=scenario.links,
        access=scenario.access,
    )


def _people_of(people: Positions, users: Sequence[str], n_users: int) -> tuple[Positions, int]:
    """Return the places of a trace's users, and how many there are; without names, all places and the given number."""
    if people.names is None:
        said = f"{people.file}: has no names: users of the trace take its places in the order of their stations"
        return dataclasses.replace(people, notes=(*people.notes, said)), n_users
    rows = _rows_of(users, people.names, "there", people.file)
    notes = (*people.notes, *_idle(people.names, rows, people.file))
    return dataclasses.replace(people.only(rows), notes=notes), len(rows)


def _rows_of(users: Sequence[str], names: Sequence[str], how: str, file: object) -> list[int]:
    """Return the rows of a table whose names are those of a trace's users, in the table's order."""
    if missing := sorted(set(users) - set(names)):
        more = f" (nor are {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"user {show(missing[0])} of the trace is not {how}{more}", file=str(file))
    wanted = set(users)
    return [row for row, name in enumerate(names) if name in wanted]


def _tokens(scenario: Scenario, main_task: int, rng: np.random.Generator) -> list[int]:
    """Draw how many tokens of each task a user asks."""
    number = int(rng.integers(max(1, scenario.tokens // 2), scenario.tokens * 3 // 2 + 1))
    result = np.zeros(scenario.tasks, dtype=np.int64)
    result[main_task] = number
    if scenario.tasks > 1:
        others = int((rng.integers(0, 100, number) >= scenario.main_task).sum())
        shift = np.bincount(rng.integers(1, scenario.tasks, others), minlength=scenario.tasks)
        result[main_task] -= others
        result += np.roll(shift, main_task)
    return [int(tokens) for tokens in result]


def _most_used(counts: SetCounts, number: int) -> dict[int, list[tuple[int, int]]]:
    """Return the most used experts of every layer for each demand; ties go to the lower number."""
    rows = counts.rows()
    size = np.diff(rows.start)
    used = np.zeros((counts.demands, counts.layers, counts.experts), dtype=np.int64)
    np.add.at(
        used, (np.repeat(rows.demand, size), np.repeat(rows.layer, size), rows.expert), np.repeat(rows.count, size)
    )
    best = np.sort(np.argsort(-used, axis=2, kind="stable")[:, :, :number], axis=2).tolist()
    return {d: [(layer, e) for layer, own in enumerate(layers) for e in own] for d, layers in enumerate(best)}


def _idle(names: Sequence[str], rows: Sequence[int], file: object) -> list[str]:
    """Say how many users of a table the trace does not name."""
    idle = len(names) - len(rows)
    return [f"{file}: {number(idle, 'user')} without a request in the trace, not in the instance"] if idle else []


def _source(scenario: Scenario, topology: Topology | Measured, fitted_to: list[str]) -> dict[str, str | int]:
    """Return every parameter, defaults too: they may change one day, the file does not."""
    values: dict[str, Any] = {"generator": "moeplace generate", "routing_fitted_to": ", ".join(fitted_to)}
    values |= topology.source
    for key in scenario.__struct_fields__:
        value = getattr(scenario, key)
        if isinstance(value, list):
            value = " ".join(map(str, value))
        if key == "config" and value is not None:
            value = Path(value).name
        if isinstance(value, float):
            value = repr(value)
        if key in _NEWER and value == getattr(Scenario(), key):
            continue
        if key not in _NOT_IN_SOURCE and value not in (None, ""):
            values[key] = int(value) if isinstance(value, bool) else value
    if scenario.servers is not None:
        for key in _OF_SHARED_STORAGE:
            del values[key]
    parameters = topology.parameters()
    if scenario.no_cloud:
        parameters = {key: value for key, value in parameters.items() if key not in OF_THE_CLOUD}
    return values | parameters


_NOT_IN_SOURCE: Final = frozenset(
    (
        "links", "name", "station_file", "user_file", "network", "site_distance_m", "cell_radius_m", "access",
        "latency", "cloud_ms", "servers",
    )
)  # fmt: skip
"""What the topology says itself, as far as it applies; links are said one by one."""


def _notes(scenario: Scenario, fitted_to: list[str], extrapolated: bool) -> str:
    ranks = ""
    if scenario.ranked or scenario.loss_budget is not None:
        ranks = " Experts stand in the order in which they were drawn, the popular ones sooner as a rule."
    if scenario.loss_budget is not None:
        ranks += " Router weight falls by a power law of the rank."
    if scenario.routing == "independent":
        return (
            f"Generated. Experts of a token are independent of each other and of the user's task: unrealistic.{ranks}"
        )
    how = "extrapolated to this shape from" if extrapolated else "fitted to"
    return f"Generated. Routing {how} measured traces of {' and '.join(fitted_to)}.{ranks}"
