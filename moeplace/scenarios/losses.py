r"""What it costs a model to use fewer experts: the router's weight of those that are left out, or what was measured.

The loss of ``k`` experts is the share of the router's weight that the dropped ranks have, in the mean over the tokens
and in parts per million of the weight of all layers::

    loss[l][k] = 10**6 / L * mean over tokens of (weight of ranks k+1 to K) / (weight of all K ranks)               (E6)

Layers add up, and 10,000 are 1 % of all weight. That is a proxy: how much a model's answers suffer, only a measurement
says.

Where there is no trace, ranks share the weight by a power law. On both traces the mean share of rank ``r`` is nearly a
power of it::

    share[l][r]  proportional to  r ** -s[l]                                                               (E7)

with exponents that differ by layer and are alike in neighbouring ones. :data:`SHARES` has their mean, deviation and
correlation as fitted (least squares of the logarithms, each layer for itself); the largest error of a share is 0.027,
the mean one 0.006. Exponents are drawn with these, in thousandths, so that a seed gives the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from moeplace.base.documents import INT64_MAX, show
from moeplace.base.errors import InputError
from moeplace.scenarios.csvtable import is_number, read_table
from moeplace.scenarios.ranked import SHARE, RouterMass

PPM: Final = 10**6
"""What all the weight of all layers is in losses."""


def losses(mass: RouterMass) -> list[list[int]]:
    """Return the loss of each layer and number of active experts (E6), to the nearest part per million, a half up.

    Parameters
    ----------
    mass : RouterMass
        Of all tokens, by layer and rank.

    Raises
    ------
    InputError
        A layer has no token with a weight.
    """
    table, layers = [], len(mass.share)
    for layer, (own, tokens) in enumerate(zip(mass.share.tolist(), mass.weighed.tolist(), strict=True)):
        if not tokens:
            raise InputError(f"no token of layer {layer} has a router weight")
        dropped = [sum(own[k:]) for k in range(1, len(own) + 1)]
        table.append([half_up(PPM * mass, layers * tokens * SHARE) for mass in dropped])
    return table


def read_losses(path: str | os.PathLike[str], layers: int, top_k: int) -> list[list[int]]:
    """Read measured sensitivities: CSV with ``layer,k,loss``, whole numbers, layers from 0 and ``k`` from 1.

    A row for every layer and every ``k`` below ``top_k``; with all experts the loss is 0 where no row says another.

    Raises
    ------
    InputError
        With the file and the line: a cell that is no such number, a pair twice, a pair that is missing.
    """
    expected = "layer,k,loss"
    table = read_table(path, expected, lambda cells: not all(is_number(cell) for cell in cells))
    columns = [0, 1, 2]
    if table.heading is not None:
        found = [table.column(key) for key in expected.split(",")]
        if None in found:
            raise InputError(f"expected the columns {expected}, found {', '.join(table.heading)}", place="heading",
                             file=table.file)  # fmt: skip
        columns = [column for column in found if column is not None]
    limits = {"layer": (0, layers - 1), "k": (1, top_k), "loss": (0, INT64_MAX)}
    known: dict[tuple[int, int], int] = {}
    for row in table.rows:
        numbers = []
        for (key, (low, high)), column in zip(limits.items(), columns, strict=True):
            cell = row.cells[column] if column < len(row.cells) else ""
            value = table.number(cell) if cell else None
            if value is None or value.denominator != 1 or not low <= value <= high:
                raise table.error(f"{key}: expected a whole number from {low} to {high}, found {show(cell)}", row)
            numbers.append(int(Fraction(value)))
        layer, k, loss = numbers
        if (layer, k) in known:
            raise table.error(f"layer {layer} with {k} experts stands there twice", row)
        known[layer, k] = loss
    for layer in range(layers):
        known.setdefault((layer, top_k), 0)
        for k in range(1, top_k):
            if (layer, k) not in known:
                raise InputError(f"no row for layer {layer} with {k} experts", file=table.file)
    return [[known[layer, k] for k in range(1, top_k + 1)] for layer in range(layers)]


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


def power_losses(exponent: Sequence[int], top_k: int, of: int | None = None) -> list[list[int]]:
    """Return the losses of layers whose ranks share the weight by a power law (E7), as :func:`losses` does.

    Parameters
    ----------
    exponent : sequence of int [L]
        In thousandths.
    top_k : int
    of : int, optional
        Layers that the budget is shared by, ``L`` in (E6), where another model's count, too.

    Examples
    --------
    >>> power_losses([1000], 2)
    [[333333, 0]]
    """
    table, layers = [], len(exponent) if of is None else of
    for s in exponent:
        weight = [round(SHARE * rank ** (-s / 1000)) for rank in range(1, top_k + 1)]
        total = sum(weight)
        dropped = [sum(weight[k:]) for k in range(1, top_k + 1)]
        table.append([half_up(PPM * mass, layers * total) for mass in dropped])
    return table


def half_up(numerator: int, denominator: int) -> int:
    """Return a fraction to the nearest integer, a half up."""
    return (2 * numerator + denominator) // (2 * denominator)
