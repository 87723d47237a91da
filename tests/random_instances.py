"""Random tiny instances and brute force over them: the ground truth of the property tests."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from moeplace import Instance, Placement, latency_ns


def random_document(
    rng: np.random.Generator, max_variables: int = 12, latency_model: str | None = None
) -> dict[str, Any]:
    """Draw an instance with at most ``max_variables`` placement variables, every feature in some of them."""
    while True:
        n_servers = int(rng.integers(1, 4))
        n_models = int(rng.integers(1, 3))
        models = []
        for m in range(n_models):
            layers, experts = int(rng.integers(1, 4)), int(rng.integers(2, 6))
            sizes: int | list[int] = int(rng.integers(1, 5))
            if rng.random() < 0.5:
                sizes = rng.integers(1, 5, layers).tolist()
            top_k = int(rng.integers(1, min(experts, 4) + 1))
            models.append(
                {"name": f"m{m}", "layers": layers, "experts": experts, "top_k": top_k, "expert_bytes": sizes}
            )
        if n_servers * sum(m["layers"] * m["experts"] for m in models) <= max_variables:
            break
    servers = [{"name": f"s{n}", "capacity_bytes": int(rng.integers(0, 12))} for n in range(n_servers)]
    demands: list[dict[str, Any]] = []
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    # Few distinct times, so that equal ones and times above the cloud's happen.
    scale = int(rng.choice([1, 7, 1000]))
    for u in range(int(rng.integers(1, 5))):
        for m in rng.permutation(n_models)[: int(rng.integers(1, n_models + 1))].tolist():
            model = models[m]
            demand: dict[str, Any] = {
                "user": f"u{u}",
                "model": model["name"],
                "tokens": 60,
                "device_ns": scale * int(rng.integers(0, 12)),
                "server_ns": [
                    None if rng.random() < 0.15 else scale * int(rng.integers(0, 12)) for _ in range(n_servers)
                ],
                "cloud_ns": scale * int(rng.integers(4, 16)),
            }
            if rng.random() < 0.4:
                pairs = [[layer, e] for layer in range(model["layers"]) for e in range(model["experts"])]
                demand["device_experts"] = [p for p in pairs if rng.random() < 0.25]
            for _ in range(int(rng.integers(0, 9))):
                size = int(rng.integers(1, model["top_k"] + 1))
                rows["demand"].append(len(demands))
                rows["layer"].append(int(rng.integers(0, model["layers"])))
                rows["experts"].append(rng.permutation(model["experts"])[:size].tolist())
                rows["count"].append(int(rng.integers(1, 7)))
            demands.append(demand)
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": "random",
        "latency_model": latency_model or str(rng.choice(["max", "sum"])),
        "models": models,
        "servers": servers,
        "demands": demands,
        "activations": rows,
    }


def random_instance(seed: int, max_variables: int = 12, latency_model: str | None = None) -> Instance:
    """Return the random instance of a seed."""
    return Instance.from_document(random_document(np.random.default_rng(seed), max_variables, latency_model))


def naive_cost(document: dict[str, Any], cached: set[tuple[int, int, int, int]]) -> int:
    """Compute the cost of a set of (server, model, layer, expert) by the definition."""
    models = {m["name"]: i for i, m in enumerate(document["models"])}
    rows = document["activations"]
    total = 0
    for d, layer, experts, count in zip(rows["demand"], rows["layer"], rows["experts"], rows["count"], strict=True):
        demand = document["demands"][d]
        m = models[demand["model"]]
        reach = []
        for e in experts:
            times = [demand["cloud_ns"]]
            if [layer, e] in demand.get("device_experts", []):
                times.append(demand["device_ns"])
            times += [t for n, t in enumerate(demand["server_ns"]) if t is not None and (n, m, layer, e) in cached]
            reach.append(min(times))
        total += count * (max(reach) if document["latency_model"] == "max" else sum(reach))
    return total


def all_placements(instance: Instance) -> itertools.product[tuple[tuple[bool, ...], ...]]:
    """Yield every placement that fits, as a tuple of rows."""
    sizes = instance.item_bytes.tolist()
    options = []
    for capacity in instance.capacity_bytes.tolist():
        fits = [
            held
            for held in itertools.product((False, True), repeat=instance.n_items)
            if sum(s for s, h in zip(sizes, held, strict=True) if h) <= capacity
        ]
        # Only maximal sets: more in a cache never costs more.
        options.append(
            [
                a
                for a in fits
                if not any(a != b and all(y or not x for x, y in zip(a, b, strict=True)) for b in _grown(a, fits))
            ]
        )
    return itertools.product(*options)


def _grown(held: tuple[bool, ...], fits: list[tuple[bool, ...]]) -> list[tuple[bool, ...]]:
    allowed = set(fits)
    grown = [(*held[:i], True, *held[i + 1 :]) for i, h in enumerate(held) if not h]
    return [g for g in grown if g in allowed]


def brute_force(instance: Instance) -> int:
    """Return the optimal cost by trying every maximal placement."""
    return min(
        latency_ns(instance, Placement(np.array(p).reshape(len(instance.servers), instance.n_items)))
        for p in all_placements(instance)
    )


def pairs_of(instance: Instance, placement: Placement) -> set[tuple[int, int, int, int]]:
    """Return a placement as (server, model, layer, expert), as :func:`naive_cost` takes it."""
    result = set()
    for n, i in zip(*map(list, placement.cached.nonzero()), strict=True):
        model, layer, expert = instance.item_name(int(i))
        result.add((int(n), instance.model_index[model], layer, expert))
    return result


def random_placement(instance: Instance, rng: np.random.Generator, *, fits: bool = True) -> Placement:
    """Draw a placement, not maximal; one that need not fit caches about half of everything."""
    cached = rng.random((len(instance.servers), instance.n_items)) < 0.5
    if fits:
        for n, capacity in enumerate(instance.capacity_bytes.tolist()):
            room = capacity
            for i in rng.permutation(instance.n_items).tolist():
                cached[n, i] &= int(instance.item_bytes[i]) <= room
                room -= int(instance.item_bytes[i]) if cached[n, i] else 0
    return Placement(cached)
