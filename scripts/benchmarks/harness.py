"""Benchmark of the harness itself: what a run costs beyond its method, and what a second worker brings.

Written with the machine and its load, which should be low::

    python scripts/benchmarks/harness.py [-o docs/benchmarks/harness.md]
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import click
from pages import machine, save, table

from moeplace import read_solution
from moeplace.bench import environment, harness, planning
from moeplace.bench.pool import LocalPool
from moeplace.bench.records import BenchPlan, Record
from moeplace.cli.options import parameter_value
from moeplace.library import instance_files

RUN_S = 5.0
FULL = "gpt-oss-20b_melbourne_s8_u48_c060"
CUT = "gpt-oss-20b_melbourne_cut_l04_s3_u12_c264"


@dataclass
class Measured:
    """One benchmark: when it began, when each run was on the disk, its records, kicks of a run, the load before it."""

    began: float
    finished: list[float]
    records: list[Record]
    kicks: float
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
        plan = BenchPlan(["benchmark"], chosen, list(range(seeds)), time_limit, 5.0, None, 1)
        finished: list[float] = []
        with harness.opened(Path(folder) / "run", plan, instances, environment.capture(workers)) as run:
            run.work(pool, lambda: False, lambda progress: finished.append(time.monotonic()))
            records = list(run.records)
        solutions = [read_solution(Path(folder) / "run" / r.solution) for r in records if r.solution]
    wrong = [record for record in records if record.status != "ok"]
    assert not wrong, wrong
    kicks = statistics.mean(float(solution.details.get("kicks", 0)) for solution in solutions)
    return Measured(began, finished[1:], records, kicks, load)


def real(name: str) -> list[Path]:
    """Return the file of a real instance."""
    return [path for path in instance_files("real") if path.name.startswith(name)]


def overhead_table() -> str:
    """Measure what a run costs beyond its method."""
    cases = [
        ("set small", instance_files("small"), "random", 2),
        ("set small", instance_files("small"), "local-search[kicks=1]", 1),
        ("set tiny", instance_files("tiny"), "cpsat", 4),
        ("set tiny", instance_files("tiny"), "milp", 4),
        (FULL, real(FULL), "random", 6),
    ]
    rows: list[list[object]] = []
    for where, files, method, seeds in cases:
        measured = measure(files, method, seeds, 1, 60.0)
        spent = measured.overheads()
        high = statistics.quantiles(spent, n=20)[-1]
        rows.append(
            [f"`{method}`", where, len(spent), f"{statistics.median(spent):.3f}", f"{high:.3f}", f"{spent[0]:.2f}",
             f"{measured.load:.1f}"]
        )  # fmt: skip
    header = [
        "method", "instances", "runs", "median s", "95 % s", "first run, with all starting and importing, s", "load",
    ]  # fmt: skip
    return table(header, rows)


def throughput_table() -> str:
    """Measure how many runs of five seconds one worker does and how many two do."""
    one, two = (measure(real(CUT), "local-search[kicks=1000000000]", 12, workers, RUN_S) for workers in (1, 2))
    rows = [
        [workers, len(m.records), f"{m.seconds:.1f}", f"{60 * len(m.records) / m.seconds:.1f}", f"{m.kicks:.0f}",
         f"{m.load:.1f}"]
        for workers, m in ((1, one), (2, two))
    ]  # fmt: skip
    header = ["workers", "runs", "seconds", "runs a minute", "kicks in a run, mean", "load before"]
    return table(header, rows) + f"\n\nRatio of the throughputs: {one.seconds / two.seconds:.2f}."


@click.command()
@click.option(
    "-o", "output", type=click.Path(path_type=Path), default=Path("docs/benchmarks/harness.md"), show_default=True
)
def main(output: Path) -> None:
    """Run the benchmark and write its page."""
    lines = [
        "# The harness, measured",
        "",
        f"Written by `scripts/benchmarks/harness.py` on {date.today()}. The load is that of the machine over the last",
        "minute, before each line; other work on the machine makes everything here longer.",
        "",
        "## What a run costs beyond its method",
        "",
        "One worker. Seconds from one record on the disk to the next, without those of the method itself: handing out",
        "the run, forking its process, its end, reading and checking its solution, writing both. The first run of a",
        "benchmark also holds the start of the harness and its worker, imports, compiled loops, and reading instances.",
        "",
        overhead_table(),
        "",
        "## Throughput of two workers",
        "",
        "`local-search` with kicks without end, five seconds on the clock, on one instance; everything from the start",
        "of the harness to the last record counts. This is what the harness makes of a second worker; how much two",
        "runs at a time slow each other down shows in the kicks that each of them gets done.",
        "",
        throughput_table(),
        "",
        machine("numpy", "scipy", "numba", "pyomo", "highspy", "ortools", "distributed"),
        "",
    ]
    save(output, "\n".join(lines))


if __name__ == "__main__":
    main()
