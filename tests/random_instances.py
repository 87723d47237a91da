"""Random tiny instances and brute force over them: the ground truth of the property tests."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from moeplace import Instance, Placement
from moeplace.base.arrays import Bool, Int64


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


def random_document_2(
    rng: np.random.Generator, max_variables: int = 10, latency_model: str | None = None
) -> dict[str, Any]:
    """Draw an instance of version 2: with and without a cloud, loading, what is held, slots; some have no solution."""
    document = random_document(rng, max_variables, latency_model)
    models, servers = document["models"], document["servers"]
    everything = sum(
        m["experts"]
        * sum(m["expert_bytes"] if isinstance(m["expert_bytes"], list) else [m["expert_bytes"]] * m["layers"])
        for m in models
    )
    cloudless = rng.random() < 0.8
    for demand in document["demands"]:
        if cloudless and rng.random() < 0.8:
            demand["cloud_ns"] = None
    if cloudless:  # most have a solution, many are tight
        for server in servers:
            server["capacity_bytes"] = int(everything * rng.uniform(0.5, 1.6) / len(servers) ** rng.uniform(0, 0.8))
    if rng.random() < 0.5:
        for server in servers:
            if rng.random() < 0.8:
                server["load_bytes_per_s"] = int(rng.integers(1, 10**9))
        if rng.random() < 0.5:
            document["loading"] = {"weight": int(rng.integers(1, 5))}
    if rng.random() < 0.5:
        for server in servers:
            held = [
                {"model": m["name"], "experts": pairs}
                for m in models
                if (
                    pairs := [
                        [layer, e] for layer in range(m["layers"]) for e in range(m["experts"]) if rng.random() < 0.4
                    ]
                )
            ]
            if held and rng.random() < 0.8:
                server["holds"] = held
    if rng.random() < 0.4:
        for server in servers:
            if rng.random() < 0.8:
                server["layer_slots"] = int(rng.integers(1, 6))
    if rng.random() < 0.3:
        for server in servers:
            server["host"] = "h0"
    return document | {"version": 2}


def random_joint_document(
    rng: np.random.Generator, max_variables: int = 8, latency_model: str | None = None
) -> dict[str, Any]:
    """Draw an instance of version 2 with ranked rows in which it is to be decided how many experts are active."""
    while True:
        document = random_document_2(rng, max_variables, latency_model)
        if any(model["top_k"] > 1 for model in document["models"]):
            break
    document["activations"]["ranked"] = True
    losses: dict[str, list[list[int]]] = {}
    for model in document["models"]:
        table = [rng.integers(0, 10, model["top_k"]).tolist() for _ in range(model["layers"])]
        if rng.random() < 0.6:  # as losses are: less with more experts, and nothing with all of them
            table = [[*sorted(layer[:-1], reverse=True), 0] for layer in table]
        losses[model["name"]] = table
    least = sum(min(layer) for table in losses.values() for layer in table)
    most = sum(max(layer) for table in losses.values() for layer in table)
    budget = int(rng.integers(max(0, least - 1), max(least, most) + 1))
    document["active"] = {"loss": losses, "budget": 0 if rng.random() < 0.1 else budget}
    return document


def cut_document(document: dict[str, Any], active: dict[str, list[int]]) -> dict[str, Any]:
    """Return the document of an instance of its own in which every row has its first experts only."""
    rows = document["activations"]
    numbers = [active[document["demands"][d]["model"]][at] for d, at in zip(rows["demand"], rows["layer"], strict=True)]
    rows = {key: rows[key] for key in ("demand", "layer", "count")} | {
        "experts": [experts[:k] for experts, k in zip(rows["experts"], numbers, strict=True)]
    }
    return {key: value for key, value in document.items() if key != "active"} | {"activations": rows}


def choices_of(document: dict[str, Any]) -> list[dict[str, list[int]]]:
    """Return every choice of active experts within the budget."""
    models, active = document["models"], document["active"]
    places = [(model["name"], layer) for model in models for layer in range(model["layers"])]
    numbers = [range(1, model["top_k"] + 1) for model in models for _ in range(model["layers"])]
    found = []
    for chosen in itertools.product(*numbers):
        lost = sum(active["loss"][name][layer][k - 1] for (name, layer), k in zip(places, chosen, strict=True))
        if lost <= active["budget"]:
            by_model: dict[str, list[int]] = {model["name"]: [] for model in models}
            for (name, _), k in zip(places, chosen, strict=True):
                by_model[name].append(k)
            found.append(by_model)
    return found


def brute_force_joint(document: dict[str, Any]) -> int | None:
    """Return the least cost of all placements with all choices of active experts, or None where there is none.

    What a placement costs is a sum over layers, so each is valued once for each number of experts of each layer.
    """
    models = document["models"]
    layers = [(model["name"], layer) for model in models for layer in range(model["layers"])]
    rows = document["activations"]
    index = [
        layers.index((document["demands"][d]["model"], at)) for d, at in zip(rows["demand"], rows["layer"], strict=True)
    ]
    nothing: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    most = max(model["top_k"] for model in models)
    parts: dict[tuple[int, int], dict[str, Any]] = {}
    for layer, k in itertools.product(range(len(layers)), range(1, most + 1)):
        own = [i for i, there in enumerate(index) if there == layer]
        cut = {key: [rows[key][i] for i in own] for key in nothing}
        cut["experts"] = [experts[:k] for experts in cut["experts"]]
        parts[layer, k] = document | {"activations": cut}
    choices = [[k for model in models for k in chosen[model["name"]]] for chosen in choices_of(document)]
    places = [
        (n, m, *pair) for n in range(len(document["servers"])) for m, x in enumerate(models) for pair in _experts(x)
    ]
    best = None
    for chosen in itertools.product((False, True), repeat=len(places)):
        cached = set(itertools.compress(places, chosen))
        found = naive_cost_2(document | {"activations": nothing}, cached)
        if found is None or not choices:
            continue
        filled = [d if d["cloud_ns"] is not None else d | {"cloud_ns": 2**40} for d in document["demands"]]
        table = {key: naive_cost(part | {"demands": filled}, cached) for key, part in parts.items()}
        cost = found[1] + min(sum(table[layer, k] for layer, k in enumerate(choice)) for choice in choices)
        best = cost if best is None else min(best, cost)
    return best


def apart_document(seed: int) -> dict[str, Any]:
    """Draw an instance with slots, storage for them, and one near server for every demand."""
    rng = np.random.default_rng(seed)
    document = random_document_2(rng, 9, None)
    servers = [
        server | {"capacity_bytes": 10**6, "layer_slots": int(rng.integers(1, 4))} for server in document["servers"]
    ]
    for demand in document["demands"]:
        far = int(rng.integers(20, 30))
        times: list[int | None] = [far if rng.random() < 0.8 else None for _ in servers]
        times[int(rng.integers(len(servers)))] = int(rng.integers(1, 20))
        demand["server_ns"] = times
        if demand["cloud_ns"] is not None:
            demand["cloud_ns"] = far
    return document | {"servers": servers}


def _layer_bytes(model: dict[str, Any]) -> list[int]:
    sizes = model["expert_bytes"]
    return list(sizes) if isinstance(sizes, list) else [sizes] * model["layers"]


def _experts(model: dict[str, Any]) -> list[list[int]]:
    return [[layer, e] for layer in range(model["layers"]) for e in range(model["experts"])]


def random_instance_2(seed: int, max_variables: int = 10, latency_model: str | None = None) -> Instance:
    """Return the random instance of version 2 of a seed."""
    return Instance.from_document(random_document_2(np.random.default_rng(seed), max_variables, latency_model))


def naive_cost_2(document: dict[str, Any], cached: set[tuple[int, int, int, int]]) -> tuple[int, int] | None:
    """Compute latency and loading of (server, model, layer, expert) by the definitions; None if not allowed."""
    models, servers = document["models"], document["servers"]
    sizes = [_layer_bytes(model) for model in models]
    loading = 0
    for n, server in enumerate(servers):
        own = [(m, layer, e) for k, m, layer, e in cached if k == n]
        if sum(sizes[m][layer] for m, layer, _ in own) > server["capacity_bytes"]:
            return None
        slots = server.get("layer_slots")
        if slots is not None and any(
            sum((m, layer) == there[:2] for there in own) > slots for m, layer in {there[:2] for there in own}
        ):
            return None
        holds = {(h["model"], layer, e) for h in server.get("holds", []) for layer, e in h["experts"]}
        if "load_bytes_per_s" in server:
            for m, layer, e in own:
                if (models[m]["name"], layer, e) not in holds:
                    ns = -(-sizes[m][layer] * 10**9 // server["load_bytes_per_s"])
                    loading += document.get("loading", {"weight": 1})["weight"] * ns
    filled = dict(document)
    filled["demands"] = []
    for demand in document["demands"]:
        m = next(i for i, model in enumerate(models) if model["name"] == demand["model"])
        if demand["cloud_ns"] is None:
            for layer in range(models[m]["layers"]):
                for e in range(models[m]["experts"]):
                    within = any(
                        t is not None and (n, m, layer, e) in cached for n, t in enumerate(demand["server_ns"])
                    )
                    if not within and [layer, e] not in demand.get("device_experts", []):
                        return None
            demand = demand | {"cloud_ns": 2**40}  # never used: everything is nearer
        filled["demands"].append(demand)
    return naive_cost(filled, cached), loading


def brute_force_2(document: dict[str, Any]) -> int | None:
    """Return the least cost of all placements that are allowed, or None where there is none."""
    places = [
        (n, m, layer, e)
        for n in range(len(document["servers"]))
        for m, model in enumerate(document["models"])
        for layer in range(model["layers"])
        for e in range(model["experts"])
    ]
    costs = [
        sum(found)
        for chosen in itertools.product((False, True), repeat=len(places))
        if (found := naive_cost_2(document, set(itertools.compress(places, chosen)))) is not None
    ]
    return min(costs, default=None)


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
    """Yield every placement that fits and is maximal, as a tuple of rows: more in a cache never costs more."""
    return itertools.product(*(map(tuple, held.tolist()) for held in _maximal(instance)))


def _maximal(instance: Instance) -> list[Bool]:
    """Return for each server all it can hold to which nothing can be added, bool [choices, I]."""
    sizes = instance.item_bytes
    every = np.arange(1 << instance.n_items)[:, None] >> np.arange(instance.n_items)[::-1] & 1 == 1
    used = every @ sizes
    found = []
    for capacity in instance.capacity_bytes:
        room = capacity - used
        found.append(every[(room >= 0) & (every | (sizes > room[:, None])).all(axis=1)])
    return found


def brute_force(instance: Instance) -> int:
    """Return the optimal cost by trying every maximal placement: an axis a server, all at once."""
    servers = len(instance.servers)
    held = _maximal(instance)
    cost = np.zeros([len(choices) for choices in held], dtype=np.int64)
    rows = instance.rows
    reaches: dict[tuple[int, int], Int64] = {}

    def reach(d: int, item: int) -> Int64:
        """When a demand has an expert back, an axis a server."""
        near = int(instance.cloud_ns[d])
        if item in instance.device_items(d):
            near = min(near, int(instance.device_ns[d]))
        found = np.full([1] * servers, near)
        for n, choices in enumerate(held):
            if (time := int(instance.server_ns[d, n])) < near:
                there = np.where(choices[:, item], time, near)
                found = np.minimum(found, there.reshape([-1 if n == axis else 1 for axis in range(servers)]))
        return found

    for i, d in enumerate(rows.demand.tolist()):
        latency: Int64 | int = 0
        for item in rows.item[rows.start[i] : rows.start[i + 1]].tolist():
            if (d, item) not in reaches:
                reaches[d, item] = reach(d, item)
            again = reaches[d, item]
            latency = np.maximum(latency, again) if instance.latency_model == "max" else latency + again
        cost += int(rows.count[i]) * latency
    return int(cost.min())


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
