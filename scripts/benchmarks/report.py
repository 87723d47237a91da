"""Measure what a report takes: seconds, memory and the size of its page, on a run directory of 1,000 runs.

    python scripts/benchmarks/report.py [--runs N] [--keep DIR] [-o FILE]

Real runs on the sets small and real are multiplied under new seeds until there are enough.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from pages import machine, save, table

from moeplace.base.text import size
from moeplace.bench.records import RECORDS, RUN, SOLUTIONS, read_run, run_key

ROOT = Path(__file__).resolve().parents[2]
METHODS = "cpsat,local-search,max-convolution,successive-greedy,greedy,popular,random"
REPEATS = 3


def multiplied(source: Path, target: Path, runs: int) -> int:
    """Write a run directory of at least so many runs, those of another one under new seeds; return how many."""
    data = read_run(source)
    rounds = -(-runs // len(data.records))
    methods = [msgspec.structs.replace(method, seeded=True) for method in data.run.plan.methods]
    plan = msgspec.structs.replace(data.run.plan, seeds=list(range(rounds)), methods=methods)
    target.mkdir()
    (target / RUN).write_bytes(msgspec.json.encode(msgspec.structs.replace(data.run, plan=plan)))
    shutil.copytree(source / SOLUTIONS, target / SOLUTIONS)
    count = 0
    with (target / RECORDS).open("wb") as file:
        for i in range(rounds):
            for record in data.records:
                key = run_key(record.sha256, record.method, record.parameters, i, plan)
                file.write(msgspec.json.encode(msgspec.structs.replace(record, key=key, seed=i)) + b"\n")
                count += 1
    return count


def main() -> None:
    """Run, multiply, report, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="keep the real runs here, and go on from them")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "benchmarks" / "report.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = options.keep or folder / "real"
        bench = ["bench", "small", "real", "--methods", METHODS, "--time-limit", "5", "-o", str(real)]
        subprocess.run([sys.executable, "-m", "moeplace", *bench], stdout=subprocess.DEVNULL)
        count = multiplied(real, folder / "many", options.runs)
        load = os.getloadavg()[0]
        walls, cpus = [], []
        for _ in range(REPEATS):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            report = ["report", str(folder / "many"), "-o", str(folder / "out")]
            subprocess.run([sys.executable, "-m", "moeplace", *report], check=True, stdout=subprocess.DEVNULL)
            walls.append(time.perf_counter() - began)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        sizes = {path.relative_to(folder / "out"): path.stat().st_size for path in (folder / "out").rglob("*.*")}
        steps = [len(record.trajectory) for record in read_run(real).records]
        instances = len(read_run(real).run.instances)
    page = sizes[Path("index.html")]
    measured = [
        ["seconds, from start to end of the process", f"{statistics.median(walls):.1f}"],
        ["CPU seconds", f"{statistics.median(cpus):.1f}"],
        ["the page, index.html", size(page)],
        [f"all {len(sizes)} files", size(sum(sizes.values()))],
    ]
    text = f"""\
# What a report takes

Written by `scripts/benchmarks/report.py`.
{count:,} runs of {len(METHODS.split(","))} methods on {instances} instances (the sets small and real; real runs,
multiplied under new seeds); {statistics.mean(steps):.0f} improvements a run in the mean, {max(steps)} at most.
Load of the machine by other programs when it began: {load:.1f} (above the number of cores, seconds are longer than CPU
seconds for want of a core).

{table([f"`moeplace report`, median of {REPEATS}", ""], measured)}

{machine("bokeh", "matplotlib")}
"""
    save(options.output, text)
    print(text)


if __name__ == "__main__":
    main()
