"""Routing traces on disk: which experts every token used, read in pieces that fit in memory.

A trace is read twice: :meth:`TraceFile.requests` finds the requests, with their profiles and users, without looking at
experts; :meth:`TraceFile.batches` yields the rows (one token at one layer) with the number of their request. Formats
and rules are described in ``docs/importing.md``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from moeplace.base.errors import InputError
from moeplace.scenarios.traces.arrays import ArrayTrace
from moeplace.scenarios.traces.common import BLOCK, Columns, Shape, TraceFile
from moeplace.scenarios.traces.lines import LinesTrace
from moeplace.scenarios.traces.tables import CsvTrace, ParquetTrace

_KINDS: Final = "one of .npz, .npy, .csv, .jsonl, .ndjson (these three also as .gz), .parquet"


def open_trace(
    path: str | os.PathLike[str], shape: Shape, columns: Columns | None = None, block: int = BLOCK
) -> TraceFile:
    """Return the trace of a file by the ending of its name.

    Raises
    ------
    InputError
        The file is not there, is empty, or has another ending.
    """
    name = Path(path).name.lower().removesuffix(".gz")
    zipped = Path(path).name.lower().endswith(".gz")
    readers: dict[str, type[TraceFile]] = {
        ".npz": ArrayTrace, ".npy": ArrayTrace, ".parquet": ParquetTrace,
        ".csv": CsvTrace, ".jsonl": LinesTrace, ".ndjson": LinesTrace,
    }  # fmt: skip
    reader = readers.get(Path(name).suffix)
    if reader is None or (zipped and reader in (ArrayTrace, ParquetTrace)):
        hint = ""
        if Path(name).suffix in (".pt", ".pth", ".pkl"):
            hint = "; a pickled dump has to be saved as .npz first (docs/importing.md)"
        raise InputError(f"no trace by its name; expected {_KINDS}{hint}", file=str(path))
    try:
        if Path(path).stat().st_size == 0:
            raise InputError("is empty", file=str(path))
        with Path(path).open("rb"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read: {reason}", file=str(path)) from None
    return reader(path, shape, columns or Columns(), block)
