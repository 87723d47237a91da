"""The small set: seeded geometric instances that exact methods prove in seconds.

Everything is drawn and computed in integers (one PCG64 stream a file), so that the files are the same on every
machine.

Geometry
    Stations and users stand at whole metres in a square of ``SIDE_M``. An expert on a station answers after
    ``ACCESS_US + US_PER_M * distance``; stations beyond ``RANGE_M`` are not reachable; the cloud takes ``CLOUD_US``.
    All times are rounded down to ``GRID_US``.
Routing
    A *task* ranks the experts of every layer; rank r (from 0) weighs ``ZIPF // (r + 1)``, Zipf's law with
    exponent 1. A user has one main task, and takes another for one token in ``OTHER_TASK``. At every layer a token
    draws its top-k set one by one without replacement (Plackett-Luce); after the first draw, experts of the
    first one's *group* weigh ``BOOST`` times as much, so that experts are used together far more often than
    independence would have it, as in real traces.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

SIDE_M = 1000
RANGE_M = 900
ACCESS_US = 800
US_PER_M = 4
CLOUD_US = 9_000
DEVICE_US = 400
GRID_US = 10
EXPERT_BYTES = 1_000_000

TASKS = 3
GROUP_SIZE = 3
ZIPF = 840  # divisible by 1 to 8: exact weights for the ranks that matter
BOOST = 6
OTHER_TASK = 5


@dataclass(frozen=True)
class Recipe:
    """What one instance is drawn from.

    Attributes
    ----------
    layers, experts, top_k : int
        Shape of each model.
    servers, users : int
    capacity : int
        Storage of *each* server, percent of the bytes of all experts of all models.
    tokens : int
        A user's tokens are drawn from half of this to one and a half of it.
    seed : int
    latency_model : {"max", "sum"}
    models : int
        With two models, every second user asks for both, the others for one in turn.
    sizes : bool
        Draw expert sizes per layer and storage per server instead of giving all the same.
    device : int
        Every device holds the experts of the user's main task up to this rank, in every layer.
    """

    layers: int
    experts: int
    top_k: int
    servers: int
    users: int
    capacity: int
    tokens: int
    seed: int
    latency_model: str = "max"
    models: int = 1
    sizes: bool = False
    device: int = 0

    @property
    def name(self) -> str:
        """Name of the instance: special features, shape, servers, users, capacity of all servers together, seed."""
        features = {"sum": self.latency_model == "sum", "sizes": self.sizes, "two": self.models == 2}
        features["device"] = self.device > 0
        kind = "".join(f"{feature}_" for feature, there in features.items() if there)
        together = self.capacity * self.servers
        shape = f"l{self.layers:02}e{self.experts:02}k{self.top_k}"
        return f"small_{kind}{shape}_s{self.servers}_u{self.users:02}_c{together:03}_seed{self.seed}"


RECIPES: tuple[Recipe, ...] = (
    # top-1: no co-activation, facility location
    Recipe(layers=6, experts=16, top_k=1, servers=5, users=80, capacity=15, tokens=50, seed=1),
    Recipe(layers=4, experts=16, top_k=1, servers=5, users=80, capacity=30, tokens=40, seed=2),
    # top-2
    Recipe(layers=4, experts=8, top_k=2, servers=3, users=50, capacity=25, tokens=30, seed=12),
    Recipe(layers=4, experts=8, top_k=2, servers=3, users=50, capacity=25, tokens=30, seed=13),
    Recipe(layers=4, experts=8, top_k=2, servers=3, users=60, capacity=40, tokens=40, seed=12),
    Recipe(layers=4, experts=8, top_k=2, servers=3, users=60, capacity=40, tokens=40, seed=15),
    Recipe(layers=6, experts=8, top_k=2, servers=3, users=40, capacity=35, tokens=30, seed=6),
    Recipe(layers=6, experts=6, top_k=2, servers=3, users=60, capacity=50, tokens=30, seed=14),
    Recipe(layers=2, experts=12, top_k=2, servers=4, users=50, capacity=25, tokens=25, seed=15),
    Recipe(layers=2, experts=16, top_k=2, servers=3, users=50, capacity=20, tokens=25, seed=16),
    Recipe(layers=3, experts=6, top_k=2, servers=4, users=60, capacity=15, tokens=30, seed=19),
    Recipe(layers=3, experts=6, top_k=2, servers=4, users=60, capacity=15, tokens=30, seed=20),
    # top-3 and top-4: the relaxation is weak, so these are smaller
    Recipe(layers=2, experts=6, top_k=3, servers=3, users=40, capacity=30, tokens=20, seed=12),
    Recipe(layers=2, experts=8, top_k=3, servers=3, users=40, capacity=20, tokens=15, seed=16),
    Recipe(layers=2, experts=6, top_k=4, servers=3, users=40, capacity=30, tokens=20, seed=1),
    Recipe(layers=2, experts=6, top_k=4, servers=3, users=40, capacity=30, tokens=20, seed=2),
    # experts one after the other
    Recipe(layers=6, experts=16, top_k=2, servers=5, users=80, capacity=15, tokens=30, seed=1, latency_model="sum"),
    Recipe(layers=3, experts=12, top_k=4, servers=4, users=60, capacity=30, tokens=25, seed=2, latency_model="sum"),
    # unequal sizes
    Recipe(layers=4, experts=8, top_k=2, servers=3, users=50, capacity=20, tokens=30, seed=1, sizes=True),
    Recipe(layers=4, experts=8, top_k=2, servers=3, users=50, capacity=20, tokens=30, seed=3, sizes=True),
    # two models
    Recipe(layers=2, experts=8, top_k=2, servers=3, users=40, capacity=20, tokens=25, seed=1, models=2),
    Recipe(layers=2, experts=6, top_k=2, servers=4, users=40, capacity=20, tokens=20, seed=2, models=2),
    # experts on devices
    Recipe(layers=4, experts=8, top_k=2, servers=3, users=50, capacity=25, tokens=30, seed=1, device=2),
    Recipe(layers=4, experts=8, top_k=2, servers=3, users=50, capacity=25, tokens=30, seed=2, device=2),
)


def documents() -> Iterator[dict[str, Any]]:
    """Yield the instance documents of the set."""
    yield from map(draw, RECIPES)


def draw(recipe: Recipe) -> dict[str, Any]:
    """Return the instance document of a recipe."""
    rng = np.random.Generator(np.random.PCG64(recipe.seed))
    models = [_model(recipe, m, rng) for m in range(recipe.models)]
    stations = rng.integers(0, SIDE_M + 1, (recipe.servers, 2)).tolist()
    users = rng.integers(0, SIDE_M + 1, (recipe.users, 2)).tolist()
    main_task = rng.integers(0, TASKS, recipe.users).tolist()
    ranking = [_Ranking(recipe, rng) for _ in models]

    demands: list[dict[str, Any]] = []
    rows: list[tuple[int, int, tuple[int, ...], int]] = []
    for u, m in _asks(recipe):
        tokens = int(rng.integers(recipe.tokens - recipe.tokens // 2, recipe.tokens + recipe.tokens // 2 + 1))
        demand = {
            "user": f"user-{u:02}",
            "model": models[m]["name"],
            "tokens": tokens,
            "device_ns": 1000 * DEVICE_US,
            "server_ns": [_server_ns(users[u], station) for station in stations],
            "cloud_ns": 1000 * CLOUD_US,
            "position_m": users[u],
        }
        if recipe.device:
            demand["device_experts"] = ranking[m].first(main_task[u], recipe.device)
        counts = Counter(
            (layer, ranking[m].draw(layer, task, rng))
            for task in _token_tasks(main_task[u], tokens, rng)
            for layer in range(recipe.layers)
        )
        rows += [(len(demands), layer, experts, count) for (layer, experts), count in sorted(counts.items())]
        demands.append(demand)

    model_bytes = sum(recipe.experts * sum(layer_bytes(model)) for model in models)
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": recipe.name,
        "latency_model": recipe.latency_model,
        "models": models,
        "servers": [
            {
                "name": f"station-{n}",
                "capacity_bytes": _share(recipe, rng) * model_bytes // 100,
                "position_m": position,
            }
            for n, position in enumerate(stations)
        ],
        "demands": demands,
        "activations": {
            "demand": [row[0] for row in rows],
            "layer": [row[1] for row in rows],
            "experts": [list(row[2]) for row in rows],
            "count": [row[3] for row in rows],
        },
    }


def _model(recipe: Recipe, m: int, rng: np.random.Generator) -> dict[str, Any]:
    size: int | list[int] = EXPERT_BYTES
    if recipe.sizes:
        size = (rng.integers(6, 19, recipe.layers) * (EXPERT_BYTES // 10)).tolist()
    elif recipe.models == 2:
        size = EXPERT_BYTES + m * EXPERT_BYTES // 2
    return {
        "name": f"model-{m}",
        "layers": recipe.layers,
        "experts": recipe.experts,
        "top_k": recipe.top_k,
        "expert_bytes": size,
    }


def layer_bytes(model: dict[str, Any]) -> list[int]:
    """Return the bytes of one expert of each layer."""
    size = model["expert_bytes"]
    return size if isinstance(size, list) else [size] * model["layers"]


def _share(recipe: Recipe, rng: np.random.Generator) -> int:
    """Return a server's storage in percent; with unequal sizes within a quarter of the recipe's."""
    if not recipe.sizes:
        return recipe.capacity
    return int(rng.integers(recipe.capacity * 3 // 4, recipe.capacity * 5 // 4 + 1))


def _asks(recipe: Recipe) -> list[tuple[int, int]]:
    """Return the (user, model) pairs that are asked for."""
    if recipe.models == 1:
        return [(u, 0) for u in range(recipe.users)]
    return [(u, m) for u in range(recipe.users) for m in ((0, 1) if u % 2 == 0 else (u // 2 % 2,))]


def _server_ns(user: list[int], station: list[int]) -> int | None:
    distance = math.isqrt((user[0] - station[0]) ** 2 + (user[1] - station[1]) ** 2)
    if distance > RANGE_M:
        return None
    return 1000 * GRID_US * ((ACCESS_US + US_PER_M * distance) // GRID_US)


def _token_tasks(main: int, tokens: int, rng: np.random.Generator) -> list[int]:
    """Return the task of each token."""
    other = rng.integers(0, OTHER_TASK, tokens) == 0
    shift = rng.integers(1, TASKS, tokens)
    return ((main + other * shift) % TASKS).tolist()  # type: ignore[no-any-return]


class _Ranking:
    """How popular the experts of one model are for every task, and which are used together."""

    def __init__(self, recipe: Recipe, rng: np.random.Generator) -> None:
        self.top_k = recipe.top_k
        shape = (recipe.layers, TASKS, recipe.experts)
        self.rank = rng.permuted(np.broadcast_to(np.arange(recipe.experts), shape), axis=2)
        self.group = rng.permuted(np.broadcast_to(np.arange(recipe.experts), (recipe.layers, recipe.experts)), axis=1)
        self.group //= GROUP_SIZE

    def first(self, task: int, most: int) -> list[list[int]]:
        """Return the [layer, expert] pairs of a task with a rank below ``most``."""
        return np.argwhere(self.rank[:, task, :] < most).tolist()  # type: ignore[no-any-return]

    def draw(self, layer: int, task: int, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw the sorted top-k set of one token at one layer."""
        weight = (ZIPF // (self.rank[layer, task] + 1)).tolist()
        group = self.group[layer].tolist()
        chosen = [_draw(weight, rng)]
        weight = [w * BOOST if g == group[chosen[0]] else w for w, g in zip(weight, group, strict=True)]
        while len(chosen) < self.top_k:
            weight[chosen[-1]] = 0
            chosen.append(_draw(weight, rng))
        return tuple(sorted(chosen))


def _draw(weight: list[int], rng: np.random.Generator) -> int:
    """Draw an index in proportion to integer weights."""
    total = list(itertools.accumulate(weight))
    return bisect.bisect_right(total, int(rng.integers(0, total[-1])))
