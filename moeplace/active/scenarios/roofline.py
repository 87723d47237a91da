r"""Times of layers by the roofline; losses are in :mod:`moeplace.scenarios.losses`.

A step serves ``B`` tokens, one of each request. With ``k`` active experts a layer reads each expert that any of the
tokens uses once, and computes for each token and each of its ``k`` experts a multiplication and an addition a weight::

    time[l][k] = max( distinct[l][k] * expert bytes / bandwidth,  2 * B * k * weights of an expert / FLOP/s )      (E4)

(Williams, Waterman and Patterson, Communications of the ACM 52(4), 2009.) ``distinct`` is counted: the mean over
batches of ``B`` tokens, drawn from all tokens of the layer, of how many experts their first ``k`` ranks touch. Were all
experts used equally often and independently, it would be ``E (1 - (1 - k/E)**B)``                               (E5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from moeplace.base.arrays import Int64
from moeplace.base.errors import InputError
from moeplace.scenarios.losses import half_up
from moeplace.scenarios.ranked import RankedTokens

BATCHES: Final = 200
"""How many batches are drawn where nobody says."""

PIECE: Final = 1 << 20
"""Tokens of batches that are looked at together."""


@dataclass(frozen=True)
class Device:
    """What layers run on.

    Attributes
    ----------
    bytes_per_s, flops : int
        Memory bandwidth; operations a second.
    name : str
        Where it is from; empty where numbers were given.
    """

    bytes_per_s: int
    flops: int
    name: str = ""


@dataclass(frozen=True)
class Expert:
    """One expert of a layer.

    Attributes
    ----------
    n_bytes : int
        Read when it is used.
    weights : int
        Each is multiplied and added once a token.
    """

    n_bytes: int
    weights: int


def distinct_experts(tokens: RankedTokens, batch: int, experts: int, *, batches: int = BATCHES, seed: int = 0) -> Int64:
    """Count the distinct experts that batches touch.

    Parameters
    ----------
    tokens : RankedTokens
    batch : int
        ``B``, tokens of a batch; drawn without putting them back.
    experts : int
        Of a layer.
    batches : int
    seed : int
        Chooses the batches; layers of equally many tokens get the same ones.

    Returns
    -------
    int64 array [L, K]
        Sums over the batches, with 1, 2, ... ``K`` active experts.

    Raises
    ------
    InputError
        A layer has fewer tokens than a batch.
    """
    found = np.zeros((len(tokens.experts), tokens.experts[0].shape[1]), dtype=np.int64)
    drawn: dict[int, Int64] = {}
    for layer, own in enumerate(tokens.experts):
        if len(own) < batch:
            raise InputError(f"layer {layer} has {len(own)} tokens, a batch of {batch} cannot be drawn from them")
        if len(own) not in drawn:
            rng = np.random.default_rng([seed, batch])
            drawn[len(own)] = np.stack([rng.choice(len(own), batch, replace=False) for _ in range(batches)])
        for chosen in np.array_split(drawn[len(own)], -(-batches * batch // PIECE)):
            seen = np.zeros((len(chosen), experts + 1), dtype=np.bool_)  # one more for "none", which does not count
            rows = np.repeat(np.arange(len(chosen)), batch)
            for rank in range(found.shape[1]):
                seen[rows, own[chosen.reshape(-1), rank]] = True  # -1 is the last column
                found[layer, rank] += int(seen[:, :experts].sum())
    return found


def independent_experts(experts: int, k: int, batch: int) -> float:
    """Return the distinct experts of a batch were all used equally often and independently (E5).

    Examples
    --------
    >>> round(independent_experts(32, 4, 8), 2)
    21.0
    """
    return experts * (1 - (1 - k / experts) ** batch)


def times(distinct: Int64, batch: int, expert: list[Expert], device: Device, *, batches: int) -> list[list[int]]:
    """Return the time of each layer and number of active experts (E4), to the nearest ns, a half up.

    Parameters
    ----------
    distinct : int64 array [L, K]
        Sums over ``batches``.
    batch : int
        Tokens of a step.
    expert : list of Expert
        One of each layer.
    device : Device
    batches : int
    """
    table = []
    for counts, one in zip(distinct.tolist(), expert, strict=True):
        row = []
        for k, count in enumerate(counts, start=1):
            reading = half_up(count * one.n_bytes * 10**9, batches * device.bytes_per_s)
            computing = half_up(2 * batch * k * one.weights * 10**9, device.flops)
            row.append(max(reading, computing))
        table.append(row)
    return table
