"""Generated instances: routing like that of two real traces, weights by a power law of the rank, a roofline.

Tokens are drawn as for caching (:mod:`moeplace.scenarios.routing`); the order in which a token's experts are drawn by
their weights, the larger ones sooner as a rule, is taken as their rank. How a layer's router weight is shared among the
ranks is not in that model. On both traces the mean share of rank ``r`` is nearly a power of it::

    share[l][r]  proportional to  r ** -s[l]                                                               (E7)

with exponents that differ by layer and are alike in neighbouring ones. :data:`SHARES` has their mean, deviation and
correlation as fitted (least squares of the logarithms, each layer for itself); the largest error of a share is 0.027,
the mean one 0.006. Exponents are drawn with these, in thousandths, so that a seed gives the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

import numpy as np

from moeplace.active.scenarios.assembly import Assembled, Served, assemble, numbered
from moeplace.active.scenarios.roofline import BATCHES, PPM, Device
from moeplace.base.arrays import Int64
from moeplace.scenarios.ranked import SHARE, RankedTokens
from moeplace.scenarios.routing import Routing

TOKENS: Final = 8192
TASKS: Final = 4
"""Tokens drawn, and of how many tasks."""


@dataclass(frozen=True)
class Shares:
    """The exponents of one trace's layers, in thousandths.

    Attributes
    ----------
    experts : int
        Of a layer of the trace's model.
    mean, deviation : int
    neighbours : int
        Correlation of a layer's exponent with the one before.
    """

    experts: int
    mean: int
    deviation: int
    neighbours: int


SHARES: Final = {
    "gpt-oss-20b": Shares(experts=32, mean=495, deviation=110, neighbours=830),
    "deepseek-v2-lite": Shares(experts=64, mean=700, deviation=100, neighbours=830),
}
"""Fitted to the weights of the traces that :mod:`moeplace.scenarios.routing` is fitted to, all layers."""

LEAST: Final = 50
"""No exponent is smaller: the first rank has more weight than the last."""


def exponents(layers: int, experts: int, seed: int) -> list[int]:
    """Draw the exponents of the layers of a model, in thousandths."""
    fit = min(SHARES.values(), key=lambda s: Fraction(max(s.experts, experts), min(s.experts, experts)))
    rng = np.random.default_rng([seed, 4])
    # Twelve uniform numbers sum to a nearly normal one of deviation 1, here in thousandths; integers all the way.
    normal = (rng.integers(0, 1001, (layers, 12)).sum(axis=1) - 6000).tolist()
    new = round((1000 * 1000 - fit.neighbours**2) ** 0.5)
    found, off = [], 0
    for layer, one in enumerate(normal):
        own = fit.deviation * one
        off = own if layer == 0 else (fit.neighbours * off + new * own) // 1000
        found.append(max(LEAST, fit.mean + off // 1000))
    return found


def power_losses(exponent: Sequence[int], top_k: int) -> list[list[int]]:
    """Return the losses of layers whose ranks share the weight by a power law (E7), as :func:`~.roofline.losses` does.

    Examples
    --------
    >>> power_losses([1000], 2)
    [[333333, 0]]
    """
    table, layers = [], len(exponent)
    for s in exponent:
        weight = [round(SHARE * rank ** (-s / 1000)) for rank in range(1, top_k + 1)]
        total = sum(weight)
        dropped = [sum(weight[k:]) for k in range(1, top_k + 1)]
        table.append([(2 * PPM * mass + layers * total) // (2 * layers * total) for mass in dropped])
    return table


def draw_tokens(
    found: Served, *, seed: int, tokens: int = TOKENS, kind: Literal["measured", "independent"] = "measured"
) -> RankedTokens:
    """Draw the experts of tokens of some tasks, ranked by the order in which they are drawn."""
    model = found.model
    routing = Routing.draw(model.layers, model.experts, model.top_k, tasks=TASKS, seed=seed, kind=kind)
    rng = np.random.default_rng([seed, 5])
    shares = [(task + 1) * tokens // TASKS - task * tokens // TASKS for task in range(TASKS)]
    drawn = np.concatenate([routing.sample(task, share, rng) for task, share in enumerate(shares)])
    none: Int64 = np.zeros(model.layers, dtype=np.int64)
    return RankedTokens([np.ascontiguousarray(drawn[:, layer]) for layer in range(model.layers)], None, none)


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
