"""Instances that benchmarks measure with: real routing traces in Melbourne, and seeded ones in a square."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from moeplace.scenarios.catalogue import find_architecture
from moeplace.scenarios.topology import Topology, from_positions

GPT = "gpt-oss-20b"
DEEPSEEK = "deepseek-v2-lite"
TRACES = {GPT: "gpt-oss-20b_expertfingerprinting", DEEPSEEK: "deepseek-v2-lite_esft"}
"""Models of the catalogue with a routing trace, and its folder."""


def melbourne(realdata: Path, users: int, stations: int) -> Topology:
    """Return stations and users in Melbourne's centre."""
    folder = realdata / "eua-melbourne"
    files = (folder / name for name in ("site-optus-melbCBD.csv", "users-melbcbd-generated.csv"))
    return from_positions(*files, n_stations=stations, n_users=users)


def trace_document(
    realdata: Path,
    trace: str = GPT,
    users: int = 48,
    stations: int = 8,
    share: float = 0.6,
    tokens: int | None = None,
) -> dict[str, Any]:
    """Make an instance of a real routing trace: its examples go round-robin to the users.

    ``share`` is each server's capacity as a share of the model; ``tokens`` keeps the first tokens only.
    """
    architecture = find_architecture(trace)
    size = architecture.expert_bytes(architecture.published)
    routed, lengths = [], []
    with np.load(realdata / TRACES[trace] / "topk_experts.npz") as file:
        if "experts" in file:
            routed.append(file["experts"])
            lengths.append(file["example_lengths"])
        else:
            for task in ("intent", "law", "summary", "translation"):
                routed.append(file[f"{task}_experts"])
                lengths.append(file[f"{task}_sample_lengths"])
    sets = np.concatenate(routed)
    length = np.concatenate(lengths)
    user = np.repeat(np.arange(len(length)) % users, length)
    sets, user = sets[:tokens], user[:tokens]
    n, layers = sets.shape[:2]
    total = np.bincount(user, minlength=users)
    server_ns, cloud_ns, device_ns = melbourne(realdata, users, stations).latencies(architecture.message_bits(), size)
    demands = [
        {"user": f"u{u}", "model": trace, "tokens": max(1, int(total[u])), "device_ns": int(device_ns[u]),
         "server_ns": server_ns[u].tolist(), "cloud_ns": int(cloud_ns[u])}
        for u in range(users)
    ]  # fmt: skip
    capacity = int(share * layers * architecture.experts) * size
    model = {
        "name": trace,
        "layers": layers,
        "experts": architecture.experts,
        "top_k": sets.shape[2],
        "expert_bytes": size,
    }
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": f"{trace}-{n}-{users}-{stations}",
        "latency_model": "max",
        "models": [model],
        "servers": [{"name": f"s{s}", "capacity_bytes": capacity} for s in range(stations)],
        "demands": demands,
        "activations": {
            "demand": np.repeat(user, layers).tolist(),
            "layer": np.tile(np.arange(layers), n).tolist(),
            "experts": sets.reshape(n * layers, -1).tolist(),
            "count": [1] * (n * layers),
        },
    }


def geometric_document(
    seed: int,
    layers: int = 12,
    experts: int = 8,
    top_k: int = 2,
    users: int = 30,
    stations: int = 5,
    tokens: int = 60,
    share: float = 0.5,
    unequal: float = 0.0,
) -> dict[str, Any]:
    """Make a seeded instance: users and servers in a square, skewed popularity, tastes that differ by user.

    ``share`` is what each server has room for, of the model; with ``unequal`` it is so in the mean, and servers differ
    by log-normal factors of this standard deviation (of the logarithm), from a generator of their own.
    """
    rng = np.random.default_rng(seed)
    factors = np.exp(unequal * np.random.default_rng([seed, 1]).standard_normal(stations))
    room = share * layers * experts * factors / factors.mean()
    sites, people = rng.random((stations, 2)), rng.random((users, 2))
    reach = np.linalg.norm(people[:, None] - sites[None, :], axis=2)
    popularity = np.log(1 / np.arange(1, experts + 1))
    common = np.array([rng.permutation(popularity) for _ in range(layers)])
    rows: dict[str, list[Any]] = {"demand": [], "layer": [], "experts": [], "count": []}
    for u in range(users):
        taste = common + 0.5 * rng.standard_normal((layers, experts))
        for layer in range(layers):
            # The top_k of perturbed logits: sampling without replacement in proportion to popularity.
            noise = rng.gumbel(size=(tokens, experts))
            chosen = np.sort(np.argsort(-(taste[layer] + noise), axis=1)[:, :top_k], axis=1)
            sets, counts = np.unique(chosen, axis=0, return_counts=True)
            rows["demand"] += [u] * len(sets)
            rows["layer"] += [layer] * len(sets)
            rows["experts"] += sets.tolist()
            rows["count"] += counts.tolist()
    size = 1_000_000
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": f"geometric-{seed}-{layers}x{experts}-top{top_k}",
        "latency_model": "max",
        "models": [
            {"name": "m", "layers": layers, "experts": experts, "top_k": top_k, "expert_bytes": size}
        ],
        "servers": [
            {"name": f"s{s}", "capacity_bytes": int(room[s]) * size} for s in range(stations)
        ],
        "demands": [
            {"user": f"u{u}", "model": "m", "tokens": tokens, "device_ns": 0,
             "server_ns": (2_000_000 + 10_000_000 * reach[u]).astype(np.int64).tolist(), "cloud_ns": 40_000_000}
            for u in range(users)
        ],
        "activations": rows,
    }  # fmt: skip
