"""Benchmark of what every method stands on: loading, evaluating, checking, aggregating; rows doubled.

Rows are drawn at random (50 demands, 10 servers, 26 layers of 64 experts, 4 to 8 experts a row, popularity by Zipf), so
that nearly none are equal: the worst case for merging. Written with the machine and the versions::

    python scripts/benchmarks/core.py [--rows 1000000] [-o docs/benchmarks/core.md]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
from pages import machine, save, table

DEMANDS, SERVERS, LAYERS, EXPERTS = 50, 10, 26, 64
STEPS = ["load", "evaluate", "check", "aggregate"]


def draw(rows: int, path: Path) -> None:
    """Write an instance of that many rows."""
    rng = np.random.default_rng(0)
    weight = np.log(1 / np.arange(1, EXPERTS + 1))
    keys = weight + rng.gumbel(size=(rows, EXPERTS))  # the largest keys are a Plackett-Luce draw
    order = np.argsort(-keys, axis=1)[:, :8]
    document = {
        "format": "moeplace/instance",
        "version": 1,
        "name": f"core_{rows}",
        "latency_model": "max",
        "models": [{"name": "m", "layers": LAYERS, "experts": EXPERTS, "top_k": 8, "expert_bytes": 17_000_000}],
        "servers": [{"name": f"s{n}", "capacity_bytes": 2_800_000_000} for n in range(SERVERS)],
        "demands": [
            {
                "user": f"u{d}",
                "model": "m",
                "tokens": rows,
                "device_ns": 0,
                "server_ns": (rng.integers(2, 30, SERVERS) * 1000).tolist(),
                "cloud_ns": 40_000,
            }
            for d in range(DEMANDS)
        ],
        "activations": {
            "demand": np.sort(rng.integers(0, DEMANDS, rows)).tolist(),
            "layer": rng.integers(0, LAYERS, rows).tolist(),
            "experts": [e[:k].tolist() for e, k in zip(order, rng.integers(4, 9, rows), strict=True)],
            "count": [1] * rows,
        },
    }
    path.write_text(json.dumps(document))


def measure(path: Path) -> dict[str, float]:
    """Return the seconds of every step, and what the memory came to, in one process."""
    import moeplace
    from moeplace.caching.terms import aggregate

    result: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        value = step()
        result[name] = time.perf_counter() - began
        result[f"{name} MB"] = _peak_mb()
        return value

    instance = timed("load", lambda: moeplace.load(path))
    result["rows MB"] = instance.rows.nbytes / 1e6
    solution = moeplace.solve(instance, "popular")
    placement = solution.placement_on(instance)
    timed("evaluate", lambda: moeplace.Evaluation(instance, placement))
    assert timed("check", lambda: moeplace.check(instance, solution)).ok
    result["terms"] = timed("aggregate", lambda: aggregate(instance)).n_terms
    return result


def _peak_mb() -> float:
    """Return the peak memory of this process; unlike ``ru_maxrss`` without what its parent had."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def page(rows: list[int], runs: list[dict[str, float]], size_mb: list[float]) -> str:
    """Return the Markdown page."""
    lines = [
        "# Loading, evaluating, checking, aggregating",
        "",
        f"Written by `scripts/benchmarks/core.py` on {date.today()}. One run each, a process for each size.",
        "",
        f"{DEMANDS} demands, {SERVERS} servers, {LAYERS} layers of {EXPERTS} experts, 4 to 8 experts a row, nearly all",
        "rows distinct. `evaluate` is the cost with its break-downs but those by server; `check` is the checker's, in",
        "plain Python integers.",
        "",
    ]
    header = ["rows", "file MB", "rows in memory MB", "peak after loading MB", *(f"{s} s" for s in STEPS), "terms"]
    cells = [
        [f"{n:,}", f"{size:.0f}", f"{run['rows MB']:.0f}", f"{run['load MB']:.0f}",
         *(f"{run[step]:.2f}" for step in STEPS), f"{int(run['terms']):,}"]
        for n, run, size in zip(rows, runs, size_mb, strict=True)
    ]  # fmt: skip
    lines.append(table(header, cells))
    first, last = runs[0], runs[-1]
    span = np.log(rows[-1] / rows[0])
    growth = ", ".join(f"{step} {np.log(last[step] / first[step]) / span:.2f}" for step in STEPS)
    lines += ["", f"Growth in rows (exponent between the first and the last line): {growth}.", ""]
    lines += [machine("numpy", "scipy", "msgspec"), ""]
    return "\n".join(lines)


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="The largest size; half and a quarter are run, too.")
@click.option(
    "-o", "output", type=click.Path(path_type=Path), default=Path("docs/benchmarks/core.md"), show_default=True
)
@click.option("--measure", "path", type=click.Path(path_type=Path), hidden=True)
def main(rows: int, output: Path, path: Path | None) -> None:
    """Run the benchmark and write its page."""
    if path is not None:
        click.echo(json.dumps(measure(path)))
        return
    sizes = [rows // 4, rows // 2, rows]
    runs, size_mb = [], []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "instance.json"
            draw(n, file)
            size_mb.append(file.stat().st_size / 1e6)
            # A process of its own: peak memory would otherwise be that of drawing.
            command = [sys.executable, __file__, "--measure", str(file)]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    save(output, page(sizes, runs, size_mb))


if __name__ == "__main__":
    main()
