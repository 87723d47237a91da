"""The checker: recomputes a solution from the instance's document, sharing nothing with costs and methods."""

from __future__ import annotations

from typing import Any

from moeplace.active.document import Choice
from moeplace.active.instance import Instance


def recompute(instance: Instance, choice: Choice) -> tuple[list[str], int | None]:
    """Return what is wrong with a choice, a line each, and what it costs (None where it has no cost)."""
    document = instance.document()
    layers, most = document["model"]["layers"], document["model"]["top_k"]
    chosen = choice.active_experts
    if len(chosen) != layers:
        return [f"active_experts: {len(chosen)} numbers for {layers} layers"], None
    wrong = [
        f"active_experts[{layer}]: {k} active experts, there can be 1 to {most}"
        for layer, k in enumerate(chosen)
        if k < 1 or k > most
    ]
    if wrong:
        return wrong, None
    took = lost = 0
    for layer, k in enumerate(chosen):
        took += document["time_ns"][layer][k - 1]
        lost += document["loss"][layer][k - 1]
    if "loss_budget" in document:
        if lost > document["loss_budget"]:
            wrong.append(f"loss_budget: the layers lose {lost} of {document['loss_budget']}")
        return wrong, took
    if took > document["time_budget_ns"]:
        wrong.append(f"time_budget_ns: the layers take {took} ns of {document['time_budget_ns']}")
    return wrong, lost


def recompute_numbers(instance: Instance, choice: Choice) -> dict[str, Any]:
    """Return the other numbers of the objective."""
    document = instance.document()
    took = lost = 0
    for times, losses, k in zip(document["time_ns"], document["loss"], choice.active_experts, strict=True):
        took += times[k - 1]
        lost += losses[k - 1]
    step = document["fixed_ns"] + took
    speed = None if step == 0 else document["tokens_per_step"] * 1_000_000_000 / step
    return {"time_ns": took, "loss": lost, "tokens_per_s": speed}


def recompute_reference(instance: Instance) -> int:
    """Return what is minimised, with all experts in all layers."""
    document = instance.document()
    return sum(row[-1] for row in document["time_ns" if "loss_budget" in document else "loss"])
