"""Benchmark of the harness itself: what a run costs beyond its method, and what a second worker brings.

Written with the machine and its load, which should be low::

    python scripts/benchmark_harness.py [-o docs/benchmarks/harness.md]
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import click

from moeplace import Instance, Placement
from moeplace.bench import environment, harness, planning
from moeplace.bench.pool import LocalPool
from moeplace.bench.records import Plan, Record
from moeplace.cli.options import parameter_value
from moeplace.library import instance_files

RUN_S = 5.0
FULL = "gpt-oss-20b_melbourne_s8_u48_c060"
CUT = "gpt-oss-20b_melbourne_cut_l04_s3_u12_c264"


def busy(instance: Instance, *, time_limit: float, seed: int, threads: int, start: Any, progress: Any) -> Placement:
    """Keep a core busy for five seconds of its time, then cache nothing."""
    began = time.process_time()
    while time.process_time() - began < RUN_S:
        sum(range(10_000))
    return Placement.empty(instance)


@dataclass
class Measured:
    """One benchmark: when it began, when each run was on the disk, its records, the load before it."""

    began: float
    finished: list[float]
    records: list[Record]
    load: float

    @property
    def seconds(self) -> float:
        """From the beginning to the last record."""
        return self.finished[-1] - self.began

    def overheads(self) -> list[float]:
        """Return, for each run of one worker, the seconds that it took beyond those of its method.

        Those of the first one hold the start of the harness and its worker with all imports.
        """
        before = [self.began, *self.finished]
        return [b - a - (r.wall_s or 0.0) for a, b, r in zip(before, self.finished, self.records, strict=False)]


def measure(files: list[Path], method: str, seeds: int, workers: int, time_limit: float) -> Measured:
    """Run a method with some seeds on instances, as ``moeplace bench`` does."""
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, LocalPool(workers, 1) as pool:
        chosen = [planning.method_specification(method, parameter_value)]
        chosen = harness.described(chosen, pool.describe(harness.describe_orders(chosen)))
        instances = planning.planned_instances([("benchmark", path) for path in files])
        plan = Plan(["benchmark"], chosen, list(range(seeds)), time_limit, 5.0, None, 1)
        finished: list[float] = []
        with harness.opened(Path(folder) / "run", plan, instances, environment.capture(workers)) as run:
            run.work(pool, lambda: False, lambda progress: finished.append(time.monotonic()))
            records = list(run.records)
    wrong = [record for record in records if record.status != "ok"]
    assert not wrong, wrong
    return Measured(began, finished[1:], records, load)


def real(name: str) -> list[Path]:
    """Return the file of a real instance."""
    return [path for path in instance_files("real") if path.name.startswith(name)]


def overhead_table() -> list[str]:
    """Measure what a run costs beyond its method."""
    cases = [
        ("set small", instance_files("small"), "random", 4),
        ("set small", instance_files("small"), "local-search[kicks=1]", 4),
        ("set tiny", instance_files("tiny"), "cpsat", 10),
        ("set tiny", instance_files("tiny"), "milp", 10),
        (FULL, real(FULL), "random", 20),
    ]
    lines = [
        "| method | instances | runs | median s | 95 % s | first run, with all starting and importing, s | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for where, files, method, seeds in cases:
        measured = measure(files, method, seeds, 1, 60.0)
        spent = measured.overheads()
        high = statistics.quantiles(spent, n=20)[-1]
        lines.append(
            f"| `{method}` | {where} | {len(spent)} | {statistics.median(spent):.3f} | {high:.3f} "
            f"| {spent[0]:.2f} | {measured.load:.1f} |"
        )
    return lines


def throughput_table() -> list[str]:
    """Measure how many runs of five seconds one worker does and how many two do."""
    cases = [
        ("five seconds on the clock (`local-search` with kicks)", real(CUT), "local-search[kicks=1000000000]"),
        ("five seconds of a core's time", real(CUT), "benchmark_harness:busy"),
    ]
    lines = ["| runs | number | 1 worker s | 2 workers s | ratio | load before |", "|---|---|---|---|---|---|"]
    for name, files, method in cases:
        # On a busy machine five seconds of a core's time take longer.
        limit = RUN_S if "kicks" in method else 20 * RUN_S
        one, two = (measure(files, method, 12, workers, limit) for workers in (1, 2))
        lines.append(
            f"| {name} | {len(one.records)} | {one.seconds:.1f} | {two.seconds:.1f} "
            f"| {one.seconds / two.seconds:.2f} | {one.load:.1f}, {two.load:.1f} |"
        )
    return lines


@click.command()
@click.option(
    "-o", "output", type=click.Path(path_type=Path), default=Path("docs/benchmarks/harness.md"), show_default=True
)
def main(output: Path) -> None:
    """Run the benchmark and write its page."""
    here = environment.capture(2)
    packages = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    lines = [
        "# The harness, measured",
        "",
        f"Written by `scripts/benchmark_harness.py` on {date.today()}: {here.cpu}, {here.cores} cores, {here.system};",
        f"Python {here.python}; {packages}. The load is that of the machine over the last minute, before",
        "each line; other work on the machine makes everything here longer.",
        "",
        "## What a run costs beyond its method",
        "",
        "One worker. Seconds from one record on the disk to the next, without those of the method itself: handing out",
        "the run, forking its process, its end, reading and checking its solution, writing both. The first run of a",
        "benchmark also holds the start of the harness and its worker, imports, compiled loops, and reading instances.",
        "",
        *overhead_table(),
        "",
        "## Throughput of two workers",
        "",
        "Runs of five seconds on one instance, everything from the start of the harness to the last record counted.",
        "",
        *throughput_table(),
        "",
    ]
    output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
