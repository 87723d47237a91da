"""Measure importing: seconds and memory of traces of a million and of ten million tokens, and of each format.

    python scripts/benchmarks/importing.py [--sections files,stream,formats,tables] [--tokens 10000000] [-o FILE]

Traces are generated; files go to a temporary folder (some gigabytes). Each measured run is a process of its own, whose
peak memory the operating system tells.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from pages import machine, table, write

from moeplace.caching.scenarios.importing import Report, count_traces
from moeplace.scenarios.routing import Routing
from moeplace.scenarios.traces.common import Batch, Request, Shape, TraceFile

MODELS: Final = {"mixtral-8x7b": (32, 8, 2), "gpt-oss-20b": (24, 32, 4)}
PIECE: Final = 8192
USERS: Final = 50


def pieces(model: str, tokens: int) -> Iterator[np.ndarray]:
    """Yield a generated trace piece by piece, uint8 [up to 8192, layers, top_k]; tasks take turns."""
    router = Routing.draw(*MODELS[model], tasks=4, seed=1)
    rng = np.random.default_rng(1)
    for i, first in enumerate(range(0, tokens, PIECE)):
        yield router.sample(i % 4, min(PIECE, tokens - first), rng).astype(np.uint8)


class GeneratedTrace(TraceFile):
    """A trace that is on no disk: every piece is generated when it is asked for."""

    def __init__(self, model: str, tokens: int) -> None:
        self.model, self.tokens = model, tokens
        super().__init__(f"{model} generated", Shape(*MODELS[model]))

    def requests(self) -> list[Request]:
        """Return the requests."""
        layers = self.shape.layers
        return [
            Request(f"task-{first // PIECE % 4}", None, min(512, self.tokens - first) * layers)
            for first in range(0, self.tokens, 512)
        ]

    def batches(self) -> Iterator[Batch]:
        """Yield the rows."""
        first = 0
        for piece in pieces(self.model, self.tokens):
            n, layers, k = piece.shape
            token = np.arange(first, first + n)
            yield Batch(
                np.repeat(token // 512, layers),
                np.tile(np.arange(layers), n),
                piece.reshape(-1, k),
                lambda row: str(row),
            )
            first += n


def write_npy(path: Path, model: str, tokens: int) -> None:
    """Write a trace as ``.npy``, piece by piece."""
    layers, _, k = MODELS[model]
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (tokens, layers, k)}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces(model, tokens):
            file.write(piece.tobytes())


def write_npz(path: Path, model: str, tokens: int) -> None:
    """Write a trace as compressed ``.npz``."""
    np.savez_compressed(path, experts=np.concatenate(list(pieces(model, tokens))))


def long_rows(model: str, tokens: int) -> Iterator[tuple[int, int, list[int]]]:
    """Yield token, layer and experts of every row."""
    first = 0
    for piece in pieces(model, tokens):
        for t, token in enumerate(piece.tolist(), first):
            for layer, experts in enumerate(token):
                yield t, layer, experts
        first += len(piece)


def write_csv(path: Path, model: str, tokens: int) -> None:
    """Write a trace as CSV, experts as text in one column."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["token", "layer", "experts"])
        writer.writerows((t, layer, " ".join(map(str, experts))) for t, layer, experts in long_rows(model, tokens))


def write_csv_gz(path: Path, model: str, tokens: int) -> None:
    """Write the same CSV with gzip."""
    plain = path.with_suffix("")
    write_csv(plain, model, tokens)
    path.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=6))


def write_lines(path: Path, model: str, tokens: int) -> None:
    """Write a trace as JSON Lines."""
    with path.open("w") as file:
        for t, layer, experts in long_rows(model, tokens):
            file.write(f'{{"token":{t},"layer":{layer},"experts":{json.dumps(experts)}}}\n')


def write_parquet(path: Path, model: str, tokens: int) -> None:
    """Write a trace as Parquet, experts as lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layers, _, k = MODELS[model]
    schema = pa.schema([("token", pa.int64()), ("layer", pa.int16()), ("experts", pa.list_(pa.int16(), k))])
    first = 0
    with pq.ParquetWriter(path, schema) as writer:
        for piece in pieces(model, tokens):
            n = len(piece)
            columns = [
                pa.array(np.repeat(np.arange(first, first + n), layers)),
                pa.array(np.tile(np.arange(layers, dtype=np.int16), n)),
                pa.FixedSizeListArray.from_arrays(pa.array(piece.reshape(-1).astype(np.int16)), k),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            first += n


WRITERS: Final[dict[str, Callable[[Path, str, int], None]]] = {
    "trace.npy": write_npy,
    "trace.npz": write_npz,
    "trace.parquet": write_parquet,
    "trace.csv": write_csv,
    "trace.csv.gz": write_csv_gz,
    "trace.jsonl": write_lines,
}


def imported(path: Path, model: str) -> dict[str, Any]:
    """Run ``moeplace import`` on a file; return what it said and its peak memory."""
    output = path.parent / "out.json.gz"
    command = [
        sys.executable,
        __file__,
        "--child",
        "import",
        str(path),
        "--model",
        f"{model}:int4" if "mix" in model else model,
    ]
    command += ["--stations", "5", "--users", str(USERS), "-o", str(output), "--json"]
    return _child(command)


def streamed(model: str, tokens: int) -> dict[str, Any]:
    """Count a trace that is generated while it is read; return what was counted and the peak memory."""
    return _child([sys.executable, __file__, "--child-stream", model, str(tokens)])


def _child(command: list[str]) -> dict[str, Any]:
    began = time.perf_counter()
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    wall = time.perf_counter() - began
    answer, _, tail = result.stdout.rstrip().rpartition("\n")
    said: dict[str, Any] = json.loads(answer)
    return said | json.loads(tail) | {"wall_s": wall}


def _as_child(arguments: list[str]) -> None:
    """Run a command of moeplace, or count a generated trace, and print peak memory and processor time after it."""
    if arguments[0] == "--child":
        from moeplace.cli import main as moeplace

        if moeplace(arguments[1:]):
            raise SystemExit(1)
    else:
        model, tokens = arguments[1], int(arguments[2])
        trace, report = GeneratedTrace(model, tokens), Report()
        counts, _ = count_traces([trace], trace.shape, range(USERS), report=report)
        print(json.dumps(report.document() | {"distinct": len(counts), "table_bytes": counts.nbytes}))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"peak_kib": usage.ru_maxrss, "cpu_s": usage.ru_utime + usage.ru_stime}))


def files(tokens: int) -> str:
    """Import files of a tenth of the tokens and of all of them."""
    rows, peaks, speeds = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for n in (tokens // 100, tokens // 10, tokens):
            path = Path(folder) / "mixtral.npy"
            write_npy(path, "mixtral-8x7b", n)
            said = imported(path, "mixtral-8x7b")
            peaks.append(said["peak_kib"])
            speeds.append(said["rows"] / said["seconds"])
            rows.append([
                f"{n:,}", f"{said['rows']:,}", f"{path.stat().st_size / 1e6:,.0f} MB", f"{said['seconds']:.1f}",
                f"{speeds[-1] / 1e6:.2f}", f"{said['wall_s']:.1f}", f"{said['peak_kib'] / 1024:,.0f} MiB",
            ])  # fmt: skip
            path.unlink()
    return (
        f"Is the memory constant, and how fast is it? Found: {peaks[-1] / 1024:,.0f} MiB for {tokens:,} tokens and "
        f"{peaks[-2] / 1024:,.0f} MiB for a tenth of them; {speeds[-1] / 1e6:.1f} million rows a second.\n\n"
        "`moeplace import` of `.npy` files of mixtral-8x7b's shape (32 layers of 8 experts, top-2), generated, 50 "
        "users. A row is one token at one layer. Reading includes decoding, checking, dealing and counting; the "
        "whole run also starts Python and writes the instance.\n\n"
        + table(
            ["tokens", "rows", "file", "reading s", "million rows/s", "whole run s", "peak memory"],
            rows,
        )
    )


def formats(tokens: int) -> str:
    """Import the same trace from every format."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, write_as in WRITERS.items():
            path = Path(folder) / name
            write_as(path, "gpt-oss-20b", tokens)
            said = imported(path, "gpt-oss-20b")
            rows.append([
                name.removeprefix("trace"), f"{path.stat().st_size / 1e6:,.0f} MB", f"{said['seconds']:.1f}",
                f"{said['rows'] / said['seconds'] / 1e6:.2f}", f"{said['peak_kib'] / 1024:,.0f} MiB",
            ])  # fmt: skip
            path.unlink()
    layers = MODELS["gpt-oss-20b"][0]
    return (
        "How fast is each format? The same generated trace of gpt-oss-20b's shape (24 layers of 32, top-4), "
        f"{tokens:,} tokens, {tokens * layers:,} rows, in every format; all give the same instance (tested). "
        "Tables are read twice: once for requests, profiles and users, once for the experts.\n\n"
        + table(["format", "file", "reading s", "million rows/s", "peak memory"], rows)
    )


def tables(rows_asked: int) -> str:
    """Import tables of a tenth of the rows and of all of them."""
    layers = MODELS["mixtral-8x7b"][0]
    rows, speeds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("trace.csv", "trace.jsonl", "trace.parquet"):
            for n in (rows_asked // 10, rows_asked):
                path = Path(folder) / name
                WRITERS[name](path, "mixtral-8x7b", n // layers)
                said = imported(path, "mixtral-8x7b")
                speeds.append(f"{name.removeprefix('trace')} {said['rows'] / said['seconds'] / 1e6:.2f}")
                rows.append([
                    name.removeprefix("trace"), f"{said['rows']:,}", f"{path.stat().st_size / 1e6:,.0f} MB",
                    f"{said['seconds']:.1f}", f"{said['rows'] / said['seconds'] / 1e6:.2f}",
                    f"{said['cpu_s']:.1f}", f"{said['peak_kib'] / 1024:,.0f} MiB",
                ])  # fmt: skip
                path.unlink()
    return (
        "Does the memory of tables stay constant, and how fast are they? Found: "
        f"{', '.join(speeds[1::2])} million rows "
        f"a second at {rows_asked:,} rows.\n\n"
        "`moeplace import` of tables of mixtral-8x7b's shape (32 layers of 8 experts, top-2), generated, 50 users. "
        "Processor seconds are of the whole run, which starts Python and writes the instance, too.\n\n"
        + table(["format", "rows", "file", "reading s", "million rows/s", "processor s", "peak memory"], rows)
    )


def stream(tokens: int) -> str:
    """Count traces that are generated while they are read."""
    rows, last = [], {}
    for n in (tokens // 100, tokens // 10, tokens):
        last = said = streamed("gpt-oss-20b", n)
        rows.append([
            f"{n:,}", f"{said['rows']:,}", f"{said['distinct']:,}", f"{said['table_bytes'] / 2**20:,.0f} MiB",
            f"{said['seconds']:.1f}", f"{said['rows'] / said['seconds'] / 1e6:.2f}",
            f"{said['peak_kib'] / 1024:,.0f} MiB",
        ])  # fmt: skip
    return (
        "How does memory grow where new sets keep coming? With the distinct rows (demand, layer, set of experts), "
        f"the size of the instance itself, not with the tokens. Found: {last['rows']:,} rows counted in "
        f"{last['peak_kib'] / 1024:,.0f} MiB, {last['rows'] / last['seconds'] / 1e6:.1f} million rows a second, "
        "generating them included.\n\n"
        "A trace of gpt-oss-20b's shape that is generated while it is counted and never on disk, 50 users.\n\n"
        + table(
            ["tokens", "rows", "distinct rows", "table", "seconds", "million rows/s", "peak memory"],
            rows,
        )
    )


HEAD = """# Importing, measured

Written by `scripts/benchmarks/importing.py`, each section by a run of its own; the line below a section names the
machine and how busy it was. Seconds are longer on a busy machine.
"""


def main() -> None:
    """Run the sections asked for and write them."""
    if sys.argv[1:2] in (["--child"], ["--child-stream"]):
        _as_child(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="files,stream,formats,tables")
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/import.md"))
    options = parser.parse_args()
    known: dict[str, tuple[str, Callable[[], str]]] = {
        "files": ("Many tokens from a file", lambda: files(options.tokens)),
        "stream": ("Where sets do not run out", lambda: stream(options.tokens)),
        "formats": ("Formats", lambda: formats(options.tokens // 100)),
        "tables": ("Tables of many rows", lambda: tables(options.tokens)),
    }
    titles = [title for title, _ in known.values()]
    for name in options.sections.split(","):
        title, run = known[name]
        body = run()
        write(options.output, {title: f"{body}\n\n{machine('numpy', 'numba', 'pyarrow')}"}, titles, HEAD)


if __name__ == "__main__":
    main()
