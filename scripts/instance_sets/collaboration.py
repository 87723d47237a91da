"""The collaboration set: GPU servers without a cloud, with loading, with equal slots, over windows of a trace.

The tiny ones make one point each and can be solved by hand, the small ones are proven in seconds, the others are
measured routing on a few servers whose users have tasks of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from instance_sets import real, small, tiny
from moeplace import Instance
from moeplace.caching.scenarios.assembly import all_bytes, catalogue_model
from moeplace.scenarios.catalogue import find_architecture
from moeplace.scenarios.counting import SetCounts

HOME_US: Final = 200
"""An expert's output from the user's own server."""

AWAY_US: Final = 1_000
"""From another server: a switch and a network stack each way beside it."""

LOAD_BYTES_PER_S: Final = 2 * 10**9
"""From a local NVMe drive."""

THREE: Final = (1, 1, 2)
"""GPUs of three servers, as in the evaluation of DanceMoE (arXiv 2508.12851)."""


@dataclass(frozen=True)
class Recipe:
    """What one instance of measured routing is made of.

    Attributes
    ----------
    model : str
        Name in the catalogue.
    gpus : tuple of int
        GPUs of each server.
    users : tuple of tuple of int
        The profiles (:data:`real.TASKS`, :data:`real.PROFILES`) of each server's users, one user a profile.
    capacity : int
        Memory for experts of one GPU, percent of the model's.
    apart : bool
        Every GPU is a server of the file, with its machine as host; else a server's GPUs are one store.
    slots : int, optional
        Experts of one layer on a server at most; the capacity is what these slots take.
    layers : int, optional
        The first so many layers are kept.
    window, windows : int
        Each user's tokens are cut into so many parts in their order; this is the part, from 0.
    loading : bool
        Experts are loaded at :data:`LOAD_BYTES_PER_S`; ``holds`` is what the uniform deal puts on the servers.
    latency_model : {"max", "sum"}
    """

    model: str
    gpus: tuple[int, ...]
    users: tuple[tuple[int, ...], ...]
    capacity: int = 0
    apart: bool = False
    slots: int | None = None
    layers: int | None = None
    window: int = 0
    windows: int = 1
    loading: bool = False
    latency_model: str = "max"

    @property
    def name(self) -> str:
        """Name of the instance."""
        servers = f"s{len(self.gpus)}" + ("" if max(self.gpus) == 1 else f"g{sum(self.gpus)}{'apart' * self.apart}")
        size = f"c{self.capacity:03}" if self.slots is None else f"slots{self.slots:02}"
        parts = [self.model, *(["sum"] if self.latency_model == "sum" else []), servers, size]
        parts += [] if self.layers is None else [f"cut_l{self.layers:02}"]
        parts += ["loading"] if self.loading else []
        parts += [f"w{self.window + 1:02}of{self.windows:02}"] if self.windows > 1 else []
        return "_".join(parts)


TASKS_OF_THREE: Final = ((0,), (1,), (2, 3))
FIELDS_OF_EIGHT: Final = tuple((p,) for p in range(8))
FIELDS_OF_FOUR: Final = tuple((2 * n, 2 * n + 1) for n in range(4))

RECIPES: Final = (
    Recipe(real.DEEPSEEK, THREE, TASKS_OF_THREE, 30),
    Recipe(real.DEEPSEEK, THREE, TASKS_OF_THREE, 50),
    Recipe(real.DEEPSEEK, THREE, TASKS_OF_THREE, 40, apart=True, layers=8),
    Recipe(real.DEEPSEEK, THREE, TASKS_OF_THREE, 40, layers=8, latency_model="sum", loading=True),
    Recipe(real.GPT, (1,) * 8, FIELDS_OF_EIGHT, 30),
    Recipe(real.GPT, (1,) * 4, FIELDS_OF_FOUR, slots=10),
    Recipe(real.DEEPSEEK, (1,) * 4, ((0,), (1,), (2,), (3,)), slots=20, layers=8),
    *(Recipe(real.GPT, (1,) * 4, FIELDS_OF_FOUR, 40, layers=6, loading=True, window=t, windows=4) for t in range(4)),
)


def documents() -> Iterator[dict[str, Any]]:
    """Yield the documents of the tiny and the small instances."""
    yield from _tiny()
    yield from _small()


def make(recipe: Recipe, realdata: Path) -> Instance:
    """Return the instance of a recipe."""
    trace, source = (real.read_gpt if recipe.model == real.GPT else real.read_deepseek)(realdata)
    return Instance.from_document(document(recipe, trace, source))


def document(recipe: Recipe, trace: real.Trace, source: dict[str, str | int]) -> dict[str, Any]:
    """Return the instance document of a recipe, given the trace it is made of."""
    architecture = find_architecture(recipe.model)
    model = catalogue_model(architecture, architecture.published, recipe.layers)
    names = [name.replace(" ", "-") for name in (real.TASKS if recipe.model == real.DEEPSEEK else real.PROFILES)]
    counts = SetCounts(model.layers, model.experts, model.top_k)
    users = [(n, profile) for n, profiles in enumerate(recipe.users) for profile in profiles]
    for u, (_, profile) in enumerate(users):
        counts.add(u, _window(trace, profile, users, u, recipe)[:, : model.layers])
    everything = all_bytes([model])
    servers = list(_servers(recipe, everything, model.experts))
    if recipe.loading:
        for server, held in zip(servers, _dealt(servers, model), strict=True):
            server |= {"holds": [{"model": model.name, "experts": held}], "load_bytes_per_s": LOAD_BYTES_PER_S}
    own = [int(str(server["host"])[1:]) for server in servers]
    if not recipe.apart:
        for server in servers:
            del server["host"]
    rows = counts.rows()
    flat = rows.expert.tolist()
    return {
        "format": "moeplace/instance",
        "version": 2,
        "name": recipe.name,
        "latency_model": recipe.latency_model,
        "models": [msgspec.to_builtins(model)],
        "servers": servers,
        "demands": [
            {
                "user": f"{names[profile]}@s{n}",
                "model": model.name,
                "tokens": int(counts.tokens[u]),
                "device_ns": 0,
                "server_ns": [1000 * (HOME_US if host == n else AWAY_US) for host in own],
                "cloud_ns": None,
            }
            for u, (n, profile) in enumerate(users)
        ],
        "activations": {
            "demand": rows.demand.tolist(),
            "layer": rows.layer.tolist(),
            "experts": [flat[a:b] for a, b in itertools.pairwise(rows.start.tolist())],
            "count": rows.count.tolist(),
        },
        "source": {**source, "home_us": HOME_US, "away_us": AWAY_US},
    }


def _window(
    trace: real.Trace, profile: int, users: Sequence[tuple[int, int]], u: int, recipe: Recipe
) -> npt.NDArray[np.uint8]:
    """Return the tokens of a user: those of its profile, dealt to all that have it, and of these the window's."""
    sharing = [v for v, (_, other) in enumerate(users) if other == profile]
    prompts = [p for p, own in enumerate(trace.profile) if own == profile][sharing.index(u) :: len(sharing)]
    tokens = np.concatenate([trace.experts[trace.start[p] : trace.start[p + 1]] for p in prompts])
    bounds = np.arange(recipe.windows + 1) * len(tokens) // recipe.windows
    return tokens[bounds[recipe.window] : bounds[recipe.window + 1]]


def _servers(recipe: Recipe, everything: int, experts: int) -> Iterator[dict[str, Any]]:
    """Yield the servers, each with its machine as host."""
    for n, gpus in enumerate(recipe.gpus):
        for g in range(gpus if recipe.apart else 1):
            share = 1 if recipe.apart else gpus
            server: dict[str, Any] = {"name": f"s{n}-gpu{g}" if recipe.apart else f"s{n}"}
            if recipe.slots is None:
                server["capacity_bytes"] = everything * recipe.capacity * share // 100
            else:
                server |= {"capacity_bytes": everything // experts * recipe.slots, "layer_slots": recipe.slots}
            yield server | {"host": f"s{n}"}


def _dealt(servers: Sequence[dict[str, Any]], model: Any) -> list[list[list[int]]]:
    """Deal the experts out in turn, to whoever has room: what is on the servers at first."""
    size = model.expert_bytes
    free = [int(server["capacity_bytes"]) for server in servers]
    held: list[list[list[int]]] = [[] for _ in servers]
    for i, (layer, expert) in enumerate(itertools.product(range(model.layers), range(model.experts))):
        n = next(m for k in range(len(servers)) if free[m := (i + k) % len(servers)] >= size)
        held[n].append([layer, expert])
        free[n] -= size
    return held


def _small() -> Iterator[dict[str, Any]]:
    """Yield small instances: those of the small set's generator, without a cloud."""
    plans = [
        (small.Recipe(layers=2, experts=8, top_k=2, servers=3, users=12, capacity=40, tokens=40, seed=1), {}),
        (small.Recipe(layers=4, experts=8, top_k=2, servers=3, users=12, capacity=60, tokens=40, seed=2), {}),
        (
            small.Recipe(layers=3, experts=8, top_k=3, servers=3, users=12, capacity=50, tokens=30, seed=3),
            {"loading": 20},
        ),
        (
            small.Recipe(layers=4, experts=8, top_k=2, servers=4, users=16, capacity=45, tokens=30, seed=4),
            {"slots": 4},
        ),
        (
            small.Recipe(layers=3, experts=8, top_k=2, servers=3, users=12, capacity=50, tokens=30, seed=5, sizes=True),
            {},
        ),
        (
            small.Recipe(
                layers=3, experts=12, top_k=3, servers=3, users=12, capacity=45, tokens=30, seed=6, latency_model="sum"
            ),
            {"loading": 5},
        ),
    ]
    for recipe, more in plans:
        drawn = small.draw(recipe)
        n_servers = len(drawn["servers"])
        for u, demand in enumerate(drawn["demands"]):
            home = u % n_servers
            demand["server_ns"] = [1000 * (HOME_US if n == home else AWAY_US) for n in range(n_servers)]
            demand["cloud_ns"] = None
        for n, server in enumerate(drawn["servers"]):
            del server["position_m"]
            server["name"] = f"s{n}"
        for demand in drawn["demands"]:
            del demand["position_m"]
        name = recipe.name.replace("small_", "collaboration_small_")
        if "loading" in more:
            # Dealt in turn, so that every server holds some of every layer.
            for n, server in enumerate(drawn["servers"]):
                pairs = [[la, e] for la in range(recipe.layers) for e in range(recipe.experts) if e % n_servers == n]
                room = server["capacity_bytes"] // max(small.layer_bytes(drawn["models"][0]))
                server["holds"] = [{"model": drawn["models"][0]["name"], "experts": pairs[:room]}]
                server["load_bytes_per_s"] = LOAD_BYTES_PER_S
            drawn["loading"] = {"weight": more["loading"]}
            name += "_loading"
        if "slots" in more:
            for server in drawn["servers"]:
                server["layer_slots"] = more["slots"]
            name += f"_slots{more['slots']}"
        yield drawn | {"version": 2, "name": name}


def _tiny() -> Iterator[dict[str, Any]]:
    """Yield the instances that can be solved by hand."""
    yield _by_hand(
        "collaboration_tiny_last_copy",
        "Both users want experts 0 and 1 at home, but expert 2 must be somewhere: one of them gives one up.",
        experts=3,
        top_k=1,
        slots=[2, 2],
        rows=[("ada", [0], 50), ("ada", [1], 30), ("ben", [0], 40), ("ben", [1], 20)],
    )
    yield _by_hand(
        "collaboration_tiny_frequency_misleads",
        "Expert 0 is asked for most, always beside another one; the pair [4, 5] is what makes whole rows local.",
        experts=6,
        top_k=2,
        slots=[2, 4],
        rows=[("ada", [0, 1], 20), ("ada", [0, 2], 20), ("ada", [0, 3], 20), ("ada", [4, 5], 35), ("ben", [0, 1], 1)],
    )
    yield _by_hand(
        "collaboration_tiny_loading_keeps",
        "Expert 1 is used more than expert 0, which the server holds; loading it takes more than it saves.",
        experts=2,
        top_k=1,
        slots=[1, 1],
        rows=[("ada", [0], 8), ("ada", [1], 10)],
        holds=[[0], [1]],
        load_ms=3,
    )
    yield _by_hand(
        "collaboration_tiny_slots",
        "Two slots a layer on either server, whatever the room: one expert has two homes, and the pairs decide which.",
        experts=3,
        top_k=2,
        slots=[6, 6],
        rows=[("ada", [0, 1], 30), ("ada", [1, 2], 20), ("ben", [0, 2], 25), ("ben", [1, 2], 10)],
        layer_slots=2,
    )


def _by_hand(
    name: str,
    notes: str,
    *,
    experts: int,
    top_k: int,
    slots: list[int],
    rows: list[tuple[str, list[int], int]],
    holds: list[list[int]] | None = None,
    load_ms: int | None = None,
    layer_slots: int | None = None,
) -> dict[str, Any]:
    """Return an instance of two servers, one for each user: 1 ms at home, 3 ms away, experts of 1 MB."""
    users = ["ada", "ben"]
    servers: list[dict[str, Any]] = [
        {"name": server, "capacity_bytes": room * tiny.MB}
        for server, room in zip(("north", "south"), slots, strict=True)
    ]
    for n, server in enumerate(servers):
        if holds is not None:
            server["holds"] = [{"model": "moe", "experts": [[0, e] for e in holds[n]]}]
        if load_ms is not None:
            server["load_bytes_per_s"] = tiny.MB * 1000 // load_ms
        if layer_slots is not None:
            server["layer_slots"] = layer_slots
    return {
        "format": "moeplace/instance",
        "version": 2,
        "name": name,
        "notes": notes,
        "latency_model": "max",
        "models": [{"name": "moe", "layers": 1, "experts": experts, "top_k": top_k, "expert_bytes": tiny.MB}],
        "servers": servers,
        "demands": [
            {
                "user": user,
                "model": "moe",
                "tokens": max(1, sum(count for who, _, count in rows if who == user)),
                "device_ns": 0,
                "server_ns": [tiny.MS * (1 if n == u else 3) for n in range(2)],
                "cloud_ns": None,
            }
            for u, user in enumerate(users)
        ],
        "activations": {
            "demand": [users.index(who) for who, _, _ in rows],
            "layer": [0] * len(rows),
            "experts": [chosen for _, chosen, _ in rows],
            "count": [count for _, _, count in rows],
        },
    }
