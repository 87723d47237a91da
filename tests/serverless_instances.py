"""Serverless instances for tests: the one of the design by hand, tiny random ones, and brute force over all of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from moeplace.serverless.cost import decode_budget, layer_times, local_room, main_price, prefill_budget
from moeplace.serverless.document import MB, Deployment, LayerChoice
from moeplace.serverless.instance import Instance

TOY: dict[str, Any] = {
    "format": "moeplace/serverless",
    "version": 1,
    "name": "toy",
    "model": {
        "name": "toy-moe", "layers": 1, "experts": 3, "top_k": 2, "expert_bytes": 50_000_000, "token_bytes": 1536,
    },
    "request": {
        "tokens_in": 10, "tokens_out": 4, "prefill": [[9, 8, 3]],
        "decode": {"layer": [0, 0], "experts": [[0, 1], [0, 2]], "count": [3, 1]},
    },
    "specs": [
        {"mb": 200, "prefill_ns": 500_000, "prefill_ns_per_token": 90_000, "decode_ns": 400_000},
        {"mb": 400, "prefill_ns": 300_000, "prefill_ns_per_token": 50_000, "decode_ns": 250_000},
    ],
    "main_specs": [0, 1],
    "remote_specs": [0, 1],
    "platform": {
        "cpu_price": 1667, "gpu_price": 5000, "price_unit_usd": "1e-20", "gpu_mb": 500, "main_mb": 20,
        "link_bytes_per_s": 125_000_000, "payload_bytes": 6_000_000, "most_replicas": 4, "invoke_ns": 2_000_000,
        "switch_prefill_ns": 2_000_000, "switch_decode_ns": 100_000, "other_prefill_ns": [2_000_000],
        "other_decode_ns": [300_000], "cold_ns": 3_000_000_000,
    },
    "limits": {"ttft_ns": 8_000_000_000, "tpot_ns": 50_000_000},
}  # fmt: skip


def toy(**changes: Any) -> dict[str, Any]:
    """Return the document of the toy with keys changed, such as ``limits={"ttft_ns": 1}``."""
    document = copy.deepcopy(TOY)
    for key, value in changes.items():
        document[key] = document[key] | value if isinstance(value, dict) else value
    return document


def random_document(
    seed: int, *, layers: int | None = None, experts: int | None = None, tokens_out: int | None = None
) -> dict[str, Any]:
    """Return a tiny instance of small numbers, about one in four of them with limits that nothing meets."""
    rng = np.random.default_rng([seed, 20260])
    layers = layers or int(rng.integers(1, 3))
    experts = experts or int(rng.integers(2, 4))
    top_k = int(rng.integers(1, min(experts, 3) + 1))
    tokens_in, tokens_out = int(rng.integers(1, 8)), tokens_out or int(rng.integers(1, 6))
    prefill = np.zeros((layers, experts), dtype=int)
    rows: dict[str, list[Any]] = {"layer": [], "experts": [], "count": []}
    skew = rng.dirichlet(np.full(experts, 0.7), layers) + 0.01
    skew /= skew.sum(axis=1, keepdims=True)
    for layer in range(layers):
        for _ in range(tokens_in):
            prefill[layer, rng.choice(experts, top_k, replace=False, p=skew[layer])] += 1
        for _ in range(tokens_out):
            picked = rng.choice(experts, int(rng.integers(1, top_k + 1)), replace=False, p=skew[layer])
            rows["layer"].append(layer)
            rows["experts"].append(picked.tolist())
            rows["count"].append(1)
    n_specs = int(rng.integers(2, 4))
    mb = np.sort(rng.choice(np.arange(4, 30), n_specs, replace=False))
    speed = np.sort(rng.integers(1, 30, (3, n_specs)), axis=1)[:, ::-1]
    time = int(rng.integers(0, 3))
    unit = (1, 3, 1000)[time]
    total = layers * experts
    return {
        "format": "moeplace/serverless",
        "version": 1,
        "name": f"random-{seed}",
        "model": {
            "name": "m", "layers": layers, "experts": experts, "top_k": top_k,
            "expert_bytes": int(rng.integers(1, 40)) * MB // total + 1, "token_bytes": int(rng.integers(1, 300_000)),
        },
        "request": {"tokens_in": tokens_in, "tokens_out": tokens_out, "prefill": prefill.tolist(), "decode": rows},
        "specs": [
            {"mb": int(m), "prefill_ns": int(a) * unit, "prefill_ns_per_token": int(b), "decode_ns": int(c) * unit}
            for m, a, b, c in zip(mb, *speed, strict=True)
        ],
        "main_specs": list(range(n_specs)),
        "remote_specs": sorted(rng.choice(n_specs, int(rng.choice([0, 1, 2, 2, n_specs])), replace=False).tolist()),
        "platform": {
            "cpu_price": int(rng.integers(0, 5)), "gpu_price": int(rng.integers(0, 4)), "price_unit_usd": "1e-9",
            "gpu_mb": int(rng.integers(0, 20)), "main_mb": int(rng.integers(0, 4)),
            "link_bytes_per_s": int(rng.integers(1, 5)) * 10**13,
            "payload_bytes": int(rng.integers(300_000, 3_000_000)),
            "most_replicas": int(rng.integers(1, 4)), "invoke_ns": int(rng.integers(0, 6)),
            "switch_prefill_ns": int(rng.integers(0, 4)), "switch_decode_ns": int(rng.integers(0, 4)),
            "other_prefill_ns": rng.integers(0, 5, layers).tolist(),
            "other_decode_ns": rng.integers(0, 5, layers).tolist(), "cold_ns": int(rng.integers(0, 20)),
        },
        "limits": {
            "ttft_ns": int(rng.integers(60, 300) * layers * (1 + unit / 2)),
            "tpot_ns": int(rng.integers(20, 100) * layers * (1 + unit / 2)),
        },
    }  # fmt: skip


def partitions(items: list[int], most: int) -> Iterator[list[list[int]]]:
    """Yield all partitions of some items into at most so many parts."""
    if not items:
        yield []
        return
    first, *others = items
    for parts in partitions(others, most):
        if len(parts) < most:
            yield [[first], *parts]
        for i in range(len(parts)):
            yield [*parts[:i], [first, *parts[i]], *parts[i + 1 :]]


def layer_choices(instance: Instance, layer: int) -> list[LayerChoice]:
    """Return all choices of a layer that are within what limits it alone."""
    model, platform = instance.model, instance.platform
    tokens = instance.request.prefill[layer]
    found = [LayerChoice(None, [])]
    for n in range(1, instance.experts + 1):
        for remote in itertools.combinations(range(instance.experts), n):
            need = n * model.expert_bytes + model.token_bytes * sum(tokens[k] for k in remote)
            for parts in partitions(list(remote), platform.most_replicas):
                passed = max(sum(tokens[k] for k in part) for part in parts) * model.token_bytes
                if passed <= platform.payload_bytes:
                    found += [LayerChoice(y, parts) for y in instance.remote_specs if need <= MB * instance.specs[y].mb]
    return found


def brute_force(instance: Instance) -> tuple[int, Deployment] | None:
    """Return the cheapest deployment of all and its cost, or None where nothing meets the limits."""
    choices = [layer_choices(instance, layer) for layer in range(instance.layers)]
    best: tuple[int, Deployment] | None = None
    for w in instance.main_specs:
        if local_room(instance, w) < 0:
            continue
        tables = []
        for layer, own in enumerate(choices):
            rows = []
            for choice in own:
                held = instance.experts - sum(map(len, choice.replicas))
                rows.append((*layer_times(instance, layer, w, choice), held * instance.model.expert_bytes, choice))
            tables.append(rows)
        for combination in itertools.product(*tables):
            pt, gt, remote, held = (sum(row[i] for row in combination) for i in range(4))
            if pt <= prefill_budget(instance) and gt <= decode_budget(instance) and held <= local_room(instance, w):
                cost = (pt + gt) * main_price(instance, w) + remote
                if best is None or cost < best[0]:
                    best = cost, Deployment.of(w, [(row[4].spec, row[4].replicas) for row in combination])
    return best
