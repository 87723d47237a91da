"""Traces as Parquet: tables, or responses of serving engines with nested columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa

from moeplace.scenarios.traces.common import Damage, EitherTrace
from moeplace.scenarios.traces.responses import COUNT_KEYS, CREATED, RESPONSE_KEYS, Answer, ResponseTrace
from moeplace.scenarios.traces.tables import ArrowTrace, Layout, Piece

_DECISIVE: Final = RESPONSE_KEYS - {"text", "object", "error", "usage"}
"""Columns that a table of rows has not."""


class ParquetTrace(EitherTrace):
    """A Parquet file with a row a token or an expert, or a row a response."""

    def choose(self) -> type[_ParquetTable | _ParquetResponses]:
        """Return what reads it; see :meth:`EitherTrace.choose`."""
        import pyarrow.parquet as pq

        with Damage(self.path), pq.ParquetFile(self.path) as file:
            names = set(file.schema_arrow.names)
        return _ParquetResponses if names & _DECISIVE and self.reading.columns.layer not in names else _ParquetTable


class _ParquetTable(ArrowTrace):
    """A table with a row a token or expert."""

    def columns_of(self) -> Layout:
        """Return which columns are read; see :meth:`ArrowTrace.columns_of`."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            schema = file.schema_arrow
        own = self.reading.columns.experts
        lists = own in schema.names and not pa.types.is_integer(schema.field(own).type)
        layout = self.layout(list(schema.names), lists)
        for name in layout.labels:
            if pa.types.is_nested(schema.field(name).type):
                raise self.refuse(f"column {name} holds {schema.field(name).type}; expected texts or numbers")
        return layout

    def pieces(self, columns: list[str]) -> Iterator[Piece]:
        """Yield the table with some of its columns; see :meth:`ArrowTrace.pieces`."""
        import pyarrow.parquet as pq

        first = 1
        with pq.ParquetFile(self.path, memory_map=True) as file:
            for batch in file.iter_batches(batch_size=1 << 17, columns=columns, use_threads=False):
                if batch.num_rows:
                    yield Piece(batch, first)
                    first += batch.num_rows


class _ParquetResponses(ResponseTrace):
    """A table with a row a response."""

    def answers(self) -> Iterator[Answer]:
        """Yield what the server answered; see :meth:`ResponseTrace.answers`."""
        import pyarrow.parquet as pq

        columns = self.reading.columns
        wanted = RESPONSE_KEYS | COUNT_KEYS | {columns.profile, columns.user}
        if columns.time:
            wanted |= {columns.time, CREATED}
        row = 0
        with Damage(self.path), pq.ParquetFile(self.path, memory_map=True) as file:
            names = [name for name in file.schema_arrow.names if name in wanted]
            if unread := [name for name in file.schema_arrow.names if name not in wanted]:
                self.note(f"columns that are not read: {', '.join(unread)}")
            for batch in file.iter_batches(batch_size=64, columns=names, use_threads=False):
                for i in range(batch.num_rows):
                    row += 1
                    value = {name: _plain(batch.column(name)[i]) for name in names}
                    yield Answer(f"row {row}", [value])


def _plain(value: Any) -> Any:
    """Return a cell as lists and objects, nested lists of integers of equal lengths as an array."""
    shape, inner = [], value
    if not value.is_valid:
        return None
    while pa.types.is_list(inner.type) or pa.types.is_large_list(inner.type) or pa.types.is_fixed_size_list(inner.type):
        if isinstance(inner, pa.Scalar):
            shape.append(len(inner))
            inner = inner.values
            continue
        length = inner.value_lengths()
        if inner.null_count or not len(inner) or length.unique().__len__() != 1:
            return value.as_py()
        shape.append(length[0].as_py())
        inner = inner.flatten()
    if shape and pa.types.is_integer(inner.type) and not inner.null_count:
        return np.asarray(inner.to_numpy(zero_copy_only=False)).reshape(shape)
    return value.as_py()
