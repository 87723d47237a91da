"""Distinct expert sets, counted while a trace streams by: memory grows with the sets, not with the tokens.

Where the rank of a token's experts matters, sets are told apart by the order in which they stand.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from moeplace.base.arrays import Int64
from moeplace.base.errors import InputError

MOST_GROUPS: Final = 2**32
"""Demands times layers must stay below this: the upper half of a key's first word."""


class BadRow(InputError):
    """A token's experts at one layer cannot be counted.

    Attributes
    ----------
    row : int
        The bad row; of an array ``[T, L, K]`` row ``token * L + layer``.
    reason : {"range", "repeated", "empty"}
        An expert the model has not, an expert that stands twice, no expert at all.
    """

    def __init__(self, row: int, reason: str, message: str, place: str) -> None:
        self.row, self.reason = row, reason
        super().__init__(message, place=place)


class SetRows(NamedTuple):
    """Counted rows in canonical order: by demand, layer, then experts in lexicographic order.

    Attributes
    ----------
    demand, layer : int64 array [R]
    start : int64 array [R + 1]
        Row ``i`` has the experts ``expert[start[i]:start[i + 1]]``, ascending, or as they stood where ranks are kept.
    expert : int64 array [K]
    count : int64 array [R]
        Tokens, at least 1.
    """

    demand: Int64
    layer: Int64
    start: Int64
    expert: Int64
    count: Int64  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


def as_int32(experts: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Return expert numbers in the one type that the compiled loops are made for; what does not fit stays too large."""
    if experts.dtype.itemsize >= 4 and experts.dtype != np.int32:
        limits = np.iinfo(np.int32)
        experts = np.clip(experts, max(limits.min, np.iinfo(experts.dtype).min), limits.max)
    return np.ascontiguousarray(experts, dtype=np.int32)


class SetCounts:
    """How many tokens of each demand used which set of experts at each layer.

    Sets are kept in a hash table, 8 to 24 bytes a key and 8 a count. The result does not depend on the order of
    the tokens nor on how the stream was cut.

    Parameters
    ----------
    layers, experts, top_k : int
        The model's shape: layers, experts of a layer, the most experts of a token at one layer.
    ranked : bool
        Whether experts stand in falling router weight, an order that is kept: the same experts in another one are
        another row. -1 may stand anywhere and takes no rank.

    Examples
    --------
    >>> counts = SetCounts(layers=1, experts=4, top_k=2)
    >>> counts.add(0, np.array([[[2, 0]], [[0, 2]], [[1, 3]]]))
    >>> counts.tokens.tolist(), counts.rows().count.tolist(), counts.rows().expert.tolist()
    ([3], [2, 1], [0, 2, 1, 3])
    """

    def __init__(self, layers: int, experts: int, top_k: int, *, ranked: bool = False) -> None:
        if min(layers, experts, top_k) < 1 or top_k > experts:
            raise InputError(f"no such model: {layers} layers, {experts} experts, top_k {top_k}")
        self.layers, self.experts, self.top_k, self.ranked = layers, experts, top_k, ranked
        self._bits = experts.bit_length()  # numbers 1 to experts; 0 is none
        self._words = -(-(32 + self._bits * top_k) // 64)
        self._table = np.zeros((1 << 12, self._words), dtype=np.uint64)
        self._count = np.zeros(1 << 12, dtype=np.int64)
        self._used = 0
        self._tokens = np.zeros((0, layers), dtype=np.int64)

    def add(self, demand: int | npt.NDArray[np.integer], experts: npt.NDArray[np.integer]) -> None:
        """Count whole tokens.

        Parameters
        ----------
        demand : int or int array [T]
            Whose the tokens are.
        experts : int array [T, layers, top_k]
            Experts of every token at every layer in any order, distinct; -1 where a token used fewer.

        Raises
        ------
        BadRow
            The first row that cannot be counted; rows before it are counted.
        InputError
            An array of another shape.
        """
        if experts.ndim != 3 or experts.shape[1] != self.layers or experts.shape[2] > self.top_k:
            expected = f"[tokens, {self.layers}, {self.top_k}]"
            raise InputError(f"an array of shape {list(experts.shape)}; expected {expected}")
        tokens = len(experts)
        layer = np.tile(np.arange(self.layers, dtype=np.int64), tokens)
        whose = np.repeat(np.broadcast_to(np.asarray(demand, dtype=np.int64), tokens), self.layers)
        self.add_rows(whose, layer, experts.reshape(tokens * self.layers, experts.shape[2]))

    def add_rows(
        self, demand: npt.NDArray[np.integer], layer: npt.NDArray[np.integer], experts: npt.NDArray[np.integer]
    ) -> None:
        """Count rows of one token at one layer each.

        Parameters
        ----------
        demand, layer : int array [R]
        experts : int array [R, up to top_k]
            As in :meth:`add`.

        Raises
        ------
        BadRow
            The first row that cannot be counted; rows before it are counted.
        """
        from moeplace.scenarios import _kernels

        if not len(demand):
            return
        experts = as_int32(experts)
        demand, layer = np.asarray(demand, dtype=np.int64), np.asarray(layer, dtype=np.int64)
        if demand.min() < 0 or layer.min() < 0 or layer.max() >= self.layers:
            raise InputError(f"demands count from 0, layers from 0 to {self.layers - 1}")
        if (int(demand.max()) + 1) * self.layers > MOST_GROUPS:
            raise InputError(f"demands times layers must stay below {MOST_GROUPS}")
        group = demand * self.layers + layer
        row, fault = 0, 0
        while row < len(group) and not fault:
            if 2 * self._used >= len(self._count):
                self._grow()
            row, self._used, fault = _kernels.count_rows(
                experts, group, row, self.experts, self._bits, self.ranked, self._table, self._count, self._used,
                len(self._count) // 2,
            )  # fmt: skip
        self._note(group[:row])
        if fault:
            raise self._fault(row, fault, experts[row], int(layer[row]))

    @property
    def demands(self) -> int:
        """One more than the largest demand number so far."""
        return len(self._tokens)

    @property
    def tokens(self) -> Int64:
        """Tokens of each demand, int64 [D]: those of its fullest layer."""
        return np.asarray(self._tokens.max(axis=1, initial=0))

    @property
    def layer_tokens(self) -> Int64:
        """Rows counted of each demand and layer, int64 [D, layers]."""
        return self._tokens.copy()

    def __len__(self) -> int:
        """Return the number of distinct (demand, layer, set)."""
        return self._used

    @property
    def nbytes(self) -> int:
        """Memory taken by the table, in bytes."""
        return self._table.nbytes + self._count.nbytes

    def rows(self) -> SetRows:
        """Return everything counted, in canonical order."""
        from moeplace.scenarios import _kernels

        filled = np.flatnonzero(self._count)
        keys, count = self._table[filled], self._count[filled]
        order = np.lexsort(keys.T[::-1])
        keys, count = keys[order], count[order]
        group = (keys[:, 0] >> np.uint64(32)).astype(np.int64)
        expert = np.empty(len(keys) * self.top_k, dtype=np.int64)
        start = np.empty(len(keys) + 1, dtype=np.int64)
        n = _kernels.unpack(keys, self._bits, self.top_k, expert, start)
        demand, layer = np.divmod(group, self.layers)
        return SetRows(demand, layer, start, expert[:n].copy(), count)

    def _grow(self) -> None:
        from moeplace.scenarios import _kernels

        table = np.zeros((2 * len(self._count), self._words), dtype=np.uint64)
        count = np.zeros(2 * len(self._count), dtype=np.int64)
        _kernels.rehash(self._table, self._count, table, count)
        self._table, self._count = table, count

    def _note(self, group: Int64) -> None:
        if not len(group):
            return
        total = np.bincount(group)
        demands = -(-len(total) // self.layers)
        if demands > len(self._tokens):
            more = np.zeros((demands - len(self._tokens), self.layers), dtype=np.int64)
            self._tokens = np.concatenate((self._tokens, more))
        flat = self._tokens.reshape(-1)
        flat[: len(total)] += total

    def _fault(self, row: int, fault: int, experts: npt.NDArray[np.integer], layer: int) -> BadRow:
        values = experts.tolist()
        if fault == 1:
            reason = "range"
            bad = next(e for e in values if e >= self.experts or e < -1)
            message = f"expert {bad}, the model has {self.experts} (from 0)"
        elif fault == 2:
            reason = "repeated"
            bad = next(e for i, e in enumerate(values) if e >= 0 and e in values[:i])
            message = f"expert {bad} stands twice in one row"
        else:
            reason, message = "empty", "no expert at all"
        return BadRow(row, reason, message, f"row {row}, layer {layer}")
