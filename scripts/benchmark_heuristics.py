"""Measure the heuristics: quality against a proven bound, time at the scale of real traces, growth.

    python scripts/benchmark_heuristics.py --realdata DIR [-o docs/benchmarks/heuristics.md]

``DIR`` holds the routing traces (see the data's own SOURCE.md); without it the sections on them are left out.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

GPT = ("gpt-oss-20b", "gpt-oss-20b_expertfingerprinting", 32, 13_253_760)
DEEPSEEK = ("deepseek-v2-lite", "deepseek-v2-lite_esft", 64, 8_650_752)


def distances_m(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the distances between two lists of (latitude, longitude), metres (flat map of one city)."""
    scale = np.array([111_320.0, 111_320.0 * math.cos(math.radians(-37.81))])
    return np.linalg.norm((a[:, None] - b[None, :]) * scale, axis=2)


def spread(points: np.ndarray, n: int) -> np.ndarray:
    """Choose ``n`` points far from each other (farthest first)."""
    chosen = [0]
    while len(chosen) < n:
        chosen.append(int(distances_m(points, points[chosen]).min(axis=1).argmax()))
    return points[chosen]


def melbourne(folder: Path, users: int, stations: int, personal: bool) -> list[list[int]]:
    """Return ``server_ns [users, stations]``: through the nearest station, or by each user's own distance."""

    def table(name: str, *keys: str) -> np.ndarray:
        with (folder / "eua-melbourne" / name).open() as file:
            return np.array([[float(row[key]) for key in keys] for row in csv.DictReader(file)])

    sites = spread(table("site-optus-melbCBD.csv", "LATITUDE", "LONGITUDE"), stations)
    people = table("users-melbcbd-generated.csv", "Latitude", "Longitude")
    people = people[np.arange(users) % len(people)]
    reach, backhaul = distances_m(people, sites), distances_m(sites, sites)
    access = 2_000_000 + 500 * reach.min(axis=1)
    # Half a millisecond a hop and two microseconds a metre of backhaul: times of several milliseconds.
    if personal:
        times = 2_000_000 + 2_500 * reach
    else:
        times = access[:, None] + np.where(backhaul > 0, 500_000 + 2_000 * backhaul, 0)[reach.argmin(axis=1)]
    return times.astype(np.int64).tolist()


def trace_document(
    realdata: Path,
    trace: tuple[str, str, int, int] = GPT,
    users: int = 48,
    stations: int = 8,
    share: float = 0.6,
    tokens: int | None = None,
    personal: bool = False,
) -> dict[str, Any]:
    """Make an instance of a real routing trace: its examples go round-robin to the users.

    ``share`` is each server's capacity as a share of the model; ``tokens`` keeps the first tokens only.
    """
    name, folder, experts, size = trace
    routed, lengths = [], []
    with np.load(realdata / folder / "topk_experts.npz") as file:
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
    demands = [
        {"user": f"u{u}", "model": name, "tokens": max(1, int(total[u])), "device_ns": 0, "server_ns": times,
         "cloud_ns": 40_000_000}
        for u, times in enumerate(melbourne(realdata, users, stations, personal))
    ]  # fmt: skip
    capacity = int(share * layers * experts) * size
    return {
        "format": "moeplace/instance",
        "version": 1,
        "name": f"{name}-{n}-{users}-{stations}",
        "latency_model": "max",
        "models": [{"name": name, "layers": layers, "experts": experts, "top_k": sets.shape[2], "expert_bytes": size}],
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
) -> dict[str, Any]:
    """Make a seeded instance: users and servers in a square, skewed popularity, tastes that differ by user."""
    rng = np.random.default_rng(seed)
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
            {"name": f"s{s}", "capacity_bytes": int(share * layers * experts) * size} for s in range(stations)
        ],
        "demands": [
            {"user": f"u{u}", "model": "m", "tokens": tokens, "device_ns": 0,
             "server_ns": (2_000_000 + 10_000_000 * reach[u]).astype(np.int64).tolist(), "cloud_ns": 40_000_000}
            for u in range(users)
        ],
        "activations": rows,
    }  # fmt: skip
