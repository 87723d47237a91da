"""Generated instances: routing like that of two real traces, weights by a power law of the rank, a roofline.

Tokens are drawn as for caching (:mod:`moeplace.scenarios.routing`); the order in which a token's experts are drawn by
their weights, the larger ones sooner as a rule, is taken as their rank. How a layer's router weight is shared among the
ranks is not in that model, but in :mod:`moeplace.scenarios.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from moeplace.active.scenarios.assembly import Assembled, Served, assemble, numbered
from moeplace.active.scenarios.roofline import BATCHES, Device
from moeplace.scenarios.losses import exponents, power_losses
from moeplace.scenarios.ranked import RankedTokens
from moeplace.scenarios.routing import Routing

TOKENS: Final = 8192
TASKS: Final = 4
"""Tokens drawn, and of how many tasks."""


def draw_tokens(
    found: Served, *, seed: int, tokens: int = TOKENS, kind: Literal["measured", "independent"] = "measured"
) -> RankedTokens:
    """Draw the experts of tokens of some tasks, ranked by the order in which they are drawn."""
    model = found.model
    routing = Routing.draw(model.layers, model.experts, model.top_k, tasks=TASKS, seed=seed, kind=kind)
    rng = np.random.default_rng([seed, 5])
    shares = [(task + 1) * tokens // TASKS - task * tokens // TASKS for task in range(TASKS)]
    drawn = np.concatenate([routing.sample(task, share, rng) for task, share in enumerate(shares)])
    return RankedTokens([np.ascontiguousarray(drawn[:, layer]) for layer in range(model.layers)])


def generate(
    found: Served,
    on: Device,
    requests: Sequence[int],
    *,
    seed: int = 0,
    name: str | None = None,
    tokens: int = TOKENS,
    batches: int = BATCHES,
    fixed_ns: int = 0,
    loss_budget: int | None = None,
    time_budget_ns: int | None = None,
) -> list[Assembled]:
    """Generate an instance for each number of requests, of the same routing and losses.

    Parameters
    ----------
    found : Served
    on : Device
    requests : sequence of int
    seed : int
        Of everything random.
    name, batches, fixed_ns, loss_budget, time_budget_ns
        As in :func:`moeplace.active.scenarios.assembly.assemble`.
    tokens : int
        Tokens drawn.

    Raises
    ------
    InputError
        A shape that no model has, fewer tokens than requests, or none or both of the budgets.
    """
    drawn = draw_tokens(found, seed=seed, tokens=tokens)
    loss = power_losses(exponents(found.model.layers, found.model.experts, seed), found.model.top_k)
    notes = "Generated: routing like two real traces, router weight of the ranks by a power law, times by the roofline."
    source: dict[str, str | int] = {"generator": "moeplace generate", "tokens": tokens}
    return [
        assemble(
            found, drawn, loss, on, batch, name=numbered(name, batch, requests), stem=f"seed{seed}", batches=batches,
            seed=seed, fixed_ns=fixed_ns, loss_budget=loss_budget, time_budget_ns=time_budget_ns, notes=notes,
            source=source,
        )
        for batch in requests
    ]  # fmt: skip
