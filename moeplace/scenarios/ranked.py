"""Which experts each token uses, from the one with the largest router weight on, and how the weight is shared.

Where a trace's rows do not stand in falling weight, the weights themselves are needed: they lie beside an array of
experts, entry for entry (:mod:`moeplace.scenarios.traces.gates`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int64
from moeplace.base.errors import InputError
from moeplace.scenarios.counting import as_int32
from moeplace.scenarios.traces.arrays import ArrayTrace
from moeplace.scenarios.traces.common import FillerRow, TraceFile, without_fillers
from moeplace.scenarios.traces.gates import Gates

SHARE: Final = 1 << 32
"""What all the weight of a token is; shares are whole numbers of ``1 / SHARE``, rounded down."""

_MOST_WEIGHT: Final = 1 << 24
"""Whole weights are at most this, and fractions are taken in units of the row's largest one over this."""

REASONS: Final = {1: "expert out of range", 2: "expert twice in a row", 3: "no expert (padding)"}


@dataclass(eq=False)
class RouterMass:
    """How the router's weight of tokens is shared among the ranks of their experts (`L` layers, `K` ranks).

    Attributes
    ----------
    share : int64 array [L, K]
        Sum over the tokens of the share of all their weight that the expert of each rank has, in ``1 / SHARE``.
    weighed : int64 array [L]
        How many tokens these are.
    sorted_rows, unweighed : int
        Rows that were not in falling weight; of no weight at all.
    """

    share: Int64
    weighed: Int64
    sorted_rows: int = 0
    unweighed: int = 0

    @classmethod
    def of(cls, layers: int, top_k: int) -> RouterMass:
        """Return that of no token yet."""
        return cls(np.zeros((layers, top_k), dtype=np.int64), np.zeros(layers, dtype=np.int64))

    def ranked(
        self, experts: npt.NDArray[np.int32], weight: npt.NDArray[np.generic], layer: Int64
    ) -> npt.NDArray[np.int32]:
        """Count the shares of rows, and return their experts in falling weight, equal ones as they stand.

        Parameters
        ----------
        experts : int32 array [R, up to K]
            -1 where a token has fewer; these come last.
        weight : array [R, up to K]
            Not negative.
        layer : int64 array [R]
        """
        whole = np.where(experts < 0, -1, _whole(weight))
        order = np.argsort(-whole, axis=1, kind="stable")
        self.sorted_rows += int((order != np.arange(order.shape[1])).any(axis=1).sum())
        experts = np.take_along_axis(experts, order, axis=1)
        whole = np.maximum(np.take_along_axis(whole, order, axis=1), 0)
        total = whole.sum(axis=1)
        self.unweighed += int((total == 0).sum())
        np.add.at(self.share[:, : experts.shape[1]], layer, whole * SHARE // np.maximum(total, 1)[:, None])
        self.weighed += np.bincount(layer[total > 0], minlength=len(self.weighed))
        return experts


@dataclass(eq=False)
class RankedTokens:
    """The tokens of a trace or of a generator, layer by layer (`L` layers, up to `K` experts a token).

    Attributes
    ----------
    experts : list of int array [T, K]
        For each layer the experts of its tokens in falling router weight; -1 where a token has fewer.
    mass : RouterMass or None
        How the ranks share the tokens' weight; None where weights are not known.
    rows, short, fillers, skipped : int
        Rows read; rows with fewer experts than ``K``; fillers taken out; rows of layers that are left out.
    dropped : Counter
        Rows left out because of what is in them, by reason.
    notes : list of str
        What the reader guessed, for people.
    """

    experts: list[npt.NDArray[np.integer]]
    mass: RouterMass | None = None
    rows: int = 0
    short: int = 0
    fillers: int = 0
    skipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of the fullest layer."""
        return max(map(len, self.experts))


def read_ranked(
    trace: TraceFile, *, gates: str | os.PathLike[str] | None = None, drop_bad_rows: bool = False
) -> RankedTokens:
    """Read the tokens of a trace, which are held in memory: a byte or two for each expert of each token.

    Parameters
    ----------
    trace : TraceFile
    gates : path-like, optional
        The weights beside a trace of arrays; without, rows are taken as they stand.
    drop_bad_rows : bool
        Rows with experts out of range or twice are dropped and counted instead of refused.

    Raises
    ------
    InputError
        The trace or the weights cannot be used; a layer without tokens.
    """
    from moeplace.scenarios import _kernels

    shape = trace.shape
    trace.requests()
    weights = None if gates is None else open_gates(gates, trace)
    pieces: list[list[npt.NDArray[np.integer]]] = [[] for _ in range(shape.layers)]
    found = RankedTokens([], None if weights is None else RouterMass.of(shape.layers, shape.top_k))
    kind = np.min_scalar_type(-shape.experts)
    for batch in trace.batches():
        weight = None if weights is None else weights.take(len(batch.request))
        found.rows += len(batch.request)
        layer = batch.layer - shape.skip_layers
        kept = (layer >= 0) & (layer < shape.layers)
        found.skipped += int(len(kept) - kept.sum())
        experts, fillers = _clean(trace, batch.experts, batch.place)
        found.fillers += fillers
        fault = _kernels.check_rows(experts, shape.experts)
        bad = kept & (fault > 0)
        if (bad & (fault != 3)).any() and not drop_bad_rows:
            row = int(np.argmax(bad & (fault != 3)))
            raise trace.refuse(f"{REASONS[int(fault[row])]}: {batch.experts[row].tolist()}", batch.place(row))
        for code, number in zip(*np.unique(fault[bad], return_counts=True), strict=True):
            found.dropped[REASONS[int(code)]] += int(number)
        kept &= ~bad
        experts, layer = experts[kept], layer[kept]
        if weight is not None and found.mass is not None:
            experts = found.mass.ranked(experts, weight[kept], layer)
        found.short += int((experts < 0).any(axis=1).sum()) if experts.shape[1] == shape.top_k else len(experts)
        if experts.shape[1] < shape.top_k:
            experts = np.pad(experts, ((0, 0), (0, shape.top_k - experts.shape[1])), constant_values=-1)
        experts = experts.astype(kind)
        order = np.argsort(layer, kind="stable")
        ends = np.searchsorted(layer[order], np.arange(shape.layers + 1))
        for own in range(shape.layers):
            if ends[own] < ends[own + 1]:
                pieces[own].append(experts[order[ends[own] : ends[own + 1]]])
    for own, parts in enumerate(pieces):
        if not parts:
            raise trace.refuse(f"no row of layer {own} counts; every layer of the model needs some")
        found.experts.append(np.concatenate(parts))
    found.notes = [f"{trace.path}: {note}" for note in trace.notes]
    return found


def _clean(
    trace: TraceFile, experts: npt.NDArray[np.integer], place: Callable[[int], str]
) -> tuple[npt.NDArray[np.int32], int]:
    """Return experts without fillers."""
    try:
        cleaned, fillers = without_fillers(experts, trace.shape)
    except FillerRow as error:
        raise trace.refuse(str(error), place(error.row)) from None
    return as_int32(cleaned), fillers


def _whole(weight: npt.NDArray[np.generic]) -> Int64:
    """Return weights as whole numbers of up to 2**24, which keep their order to the last digit that counts there."""
    if weight.dtype.kind in "iu" and int(weight.max(initial=0)) <= _MOST_WEIGHT:
        return weight.astype(np.int64)
    largest = weight.max(axis=1, keepdims=True).astype(np.float64)
    scaled = weight.astype(np.float64) / np.where(largest > 0, largest, 1.0) * _MOST_WEIGHT
    return np.rint(scaled).astype(np.int64)


def open_gates(path: str | os.PathLike[str], trace: TraceFile) -> Gates:
    """Open the weights beside a trace whose requests have been read.

    Raises
    ------
    InputError
        The trace is no array, or has fillers, without which the columns would no longer match; the weights do not fit.
    """
    if not isinstance(trace, ArrayTrace):
        raise trace.refuse("router weights are read beside .npz and .npy files only")
    if trace.shape.fillers:
        raise trace.refuse("a filler cannot be taken out beside router weights")
    return Gates(path, trace)


def need_ranks(trace: TraceFile, gates: object, ranked: bool) -> None:
    """Refuse a trace whose ranks nobody knows.

    Raises
    ------
    InputError
        There are no weights beside it, and nobody says that its rows stand in falling weight.
    """
    if gates is None and not ranked:
        raise InputError(
            "which of a token's experts has the largest router weight is not known: give the weights (--gates), or say "
            "that rows stand in falling weight (--ranked)",
            file=str(trace.path),
        )
