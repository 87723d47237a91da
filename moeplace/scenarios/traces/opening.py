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
from moeplace.scenarios.traces.common import Reading, Shape, TraceFile
from moeplace.scenarios.traces.lines import LinesTrace
from moeplace.scenarios.traces.parquet import ParquetTrace
from moeplace.scenarios.traces.tables import CsvTrace

_READERS: Final[dict[str, type[TraceFile]]] = {
    ".npz": ArrayTrace, ".npy": ArrayTrace, ".parquet": ParquetTrace, ".csv": CsvTrace, ".tsv": CsvTrace,
    ".jsonl": LinesTrace, ".ndjson": LinesTrace, ".json": LinesTrace,
}  # fmt: skip

_ZIPPED: Final = (CsvTrace, LinesTrace)

_PICKLES: Final = (".pt", ".pth", ".pkl", ".pickle")

_KINDS: Final = "one of .npz, .npy, .csv, .tsv, .jsonl, .ndjson, .json (the last five also as .gz), .parquet"


def open_trace(path: str | os.PathLike[str], shape: Shape, reading: Reading | None = None) -> TraceFile:
    """Return the trace of a file by the ending of its name.

    Raises
    ------
    InputError
        The file is not there, is empty, or has another ending.
    """
    name = Path(path).name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    reader = _READERS.get(suffix)
    if reader is None or (name.endswith(".gz") and reader not in _ZIPPED):
        raise InputError(f"no trace by its name; expected {_KINDS}{_way_out(path, suffix)}", file=str(path))
    try:
        if Path(path).stat().st_size == 0:
            raise InputError("is empty", file=str(path))
        with Path(path).open("rb"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read: {reason}", file=str(path)) from None
    return reader(path, shape, reading)


def _way_out(path: str | os.PathLike[str], suffix: str) -> str:
    """Return what can be done with a file of another kind."""
    save = 'numpy.savez("trace.npz", experts=...) with an array [tokens, layers, k] (docs/importing.md)'
    if suffix in _PICKLES:
        return f"; a pickled dump can run code when it is read, and has to be saved as .npz first: {save}"
    try:
        with Path(path).open("rb") as file:
            text = file.read(1024)
    except (OSError, ValueError):
        return ""
    if b"\0" in text:
        return f"; a binary dump does not say what its numbers are; save them as .npz: {save}"
    return ""
