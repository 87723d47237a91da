"""Tiny random instances of active experts, of both directions, and their optimum by trying everything."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from moeplace.active.document import Choice
from moeplace.active.instance import Instance

TOY: dict[str, Any] = {
    "format": "moeplace/active-experts",
    "version": 1,
    "name": "toy",
    "model": {"name": "toy-moe", "layers": 2, "experts": 4, "top_k": 3},
    "time_ns": [[50, 70, 90], [50, 60, 90]],
    "loss": [[300, 100, 0], [500, 200, 0]],
    "fixed_ns": 100,
    "tokens_per_step": 8,
    "loss_budget": 250,
}
"""The instance of docs/formats.md; [3, 2] is optimal."""


def drawn(seed: int) -> dict[str, Any]:
    """Return an instance document: sorted or unsorted tables, ties and zeros, budgets from hopeless to idle."""
    rng = np.random.default_rng(seed)
    layers, top_k = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    time_ns, loss = (rng.integers(0, int(rng.choice([3, 30, 10**6])), (layers, top_k)) for _ in range(2))
    if seed % 3:  # as they are in practice: more experts take longer and lose less
        time_ns, loss = np.sort(time_ns, axis=1), -np.sort(-loss, axis=1)
    used = loss if seed % 2 else time_ns
    low, high = int(used.min(axis=1).sum()), int(used.max(axis=1).sum())
    budget = max(0, int(rng.integers(low - (high - low) // 8 - 1, high + 2)))
    return (
        TOY
        | {
            "name": f"drawn {seed}",
            "model": {"name": "any", "layers": layers, "experts": top_k + seed % 2, "top_k": top_k},
            "time_ns": time_ns.tolist(),
            "loss": loss.tolist(),
            "fixed_ns": int(rng.integers(0, 3)),
            "loss_budget" if seed % 2 else "time_budget_ns": budget,
        }
        | ({} if seed % 2 else {"loss_budget": None})
    )


def instance(seed: int) -> Instance:
    """Return an instance; every second one minimises time, the others the loss."""
    return Instance.from_document({key: value for key, value in drawn(seed).items() if value is not None})


def every_choice(document: dict[str, Any]) -> list[tuple[tuple[int, ...], int, int]]:
    """Return all choices of a document with their time and loss."""
    times, losses = document["time_ns"], document["loss"]
    found = []
    for chosen in itertools.product(range(document["model"]["top_k"]), repeat=document["model"]["layers"]):
        time_ns = sum(row[k] for row, k in zip(times, chosen, strict=True))
        loss = sum(row[k] for row, k in zip(losses, chosen, strict=True))
        found.append((tuple(k + 1 for k in chosen), time_ns, loss))
    return found


def brute_force(document: dict[str, Any]) -> int | None:
    """Return the least cost within the budget, or None where no choice is."""
    if document.get("loss_budget") is not None:
        costs = [time_ns for _, time_ns, loss in every_choice(document) if loss <= document["loss_budget"]]
    else:
        costs = [loss for _, time_ns, loss in every_choice(document) if time_ns <= document["time_budget_ns"]]
    return min(costs, default=None)


def nine(instance: Instance, **options: Any) -> Choice:
    """Be a method that wants nine experts everywhere."""
    return Choice([9] * instance.layers)
