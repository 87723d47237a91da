"""The documents of active experts as types: the one home of their format."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from moeplace.base.documents import NonNegative, Positive

INSTANCE_FORMAT: Final = "moeplace/active-experts"
SOLUTION_FORMAT: Final = "moeplace/active-experts-solution"

Table = Annotated[list[list[NonNegative]], Meta(min_length=1)]


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """One MoE language model: its layers with experts, the experts in each, and how many of them it was made to use."""

    name: str
    layers: Positive
    experts: Positive
    top_k: Positive


class InstanceDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """The instance file, version 1.

    Attributes
    ----------
    time_ns, loss : list of list of int
        For each layer, what it takes a step and what it costs in quality with 1, 2, ... ``top_k`` active experts.
    fixed_ns : int
        What a step takes besides, whatever is chosen.
    tokens_per_step : int
        Requests that are served at once.
    loss_budget, time_budget_ns : int
        Exactly one of them: the most that all layers may lose in sum, or take (without ``fixed_ns``).
    """

    format: Literal["moeplace/active-experts"]
    version: Literal[1]
    name: str
    model: Model
    time_ns: Table
    loss: Table
    fixed_ns: NonNegative
    tokens_per_step: Positive
    loss_budget: NonNegative | UnsetType = UNSET
    time_budget_ns: NonNegative | UnsetType = UNSET
    notes: str | UnsetType = UNSET
    source: dict[str, str | int] | UnsetType = UNSET


class Choice(Struct, frozen=True):
    """What is decided: the number of active experts of each layer."""

    active_experts: list[Positive]


class Objective(Struct, frozen=True):
    """The numbers of a solution; None is "not known".

    Attributes
    ----------
    value, bound, reference : int
        What is minimised (``time_ns`` or ``loss``), a proven bound on it, and what it is with ``top_k`` experts in all
        layers.
    time_ns, loss : int
        Sums over the layers.
    tokens_per_s : float
        Of a whole step, with what is fixed; None where a step takes no time.
    """

    value: int
    bound: int | None
    gap: float | None
    reference: int
    time_ns: int
    loss: int
    tokens_per_s: float | None


def layout(document: dict[str, Any]) -> bytes:
    """Lay an instance document out for people and for diffs: one line a key, one a layer."""
    parts = []
    for key, value in document.items():
        text = json.dumps(value, ensure_ascii=False)
        if key in ("time_ns", "loss"):
            text = "[\n" + ",\n".join(f"    {json.dumps(row)}" for row in value) + "\n  ]"
        parts.append(f"  {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()
