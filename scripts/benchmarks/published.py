"""Run the published benchmark and write its page: tables, pictures and every number, into docs/benchmark.

    python scripts/benchmarks/published.py [--run DIR] [--suites A,B] [--time-limit S] [--workers N] [-o DIR]

The runs are those of ``moeplace bench``: stopped at any moment, the same command goes on from there. Everything on the
page comes from the run directories; ``moeplace report DIR/* -o FOLDER`` makes an interactive page of the same runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ages import stamp

import moeplace
from moeplace.base import style
from moeplace.base.files import write_bytes
from moeplace.base.registry import method_names
from moeplace.base.text import number, size
from moeplace.caching.pictures import placement_map, search_of
from moeplace.caching.pictures import progress as draw_progress
from moeplace.caching.view import PlacementView
from moeplace.library import set_names
from moeplace.report.collect import Collection, Entry, collect
from moeplace.report.placements import best_of_each_method
from moeplace.report.writing import MARKDOWN, write_report

ROOT = Path(__file__).resolve().parents[2]
SUITES = ("small", "medium", "large", "real")
STAGES = {
    "exact": ("0", ("auto", "column-generation", "layer-enumeration", "milp", "cpsat")),
    "heuristics": (
        "0-1",
        (
            "local-search[kicks=100]",
            "local-search",
            "max-convolution",
            "successive-greedy",
            "greedy",
            "popular",
            "random",
        ),
    ),
}
"""Run directories with their seeds and methods: what proves bounds takes its whole time, so it runs once."""
TIME_LIMIT = 15.0
"""Seconds a run; with it the whole takes less than an hour on two cores."""


def main() -> int:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "build" / "benchmark", help="folder of the run directories")
    parser.add_argument("--suites", default=",".join(name for name in SUITES if name in set_names()))
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT, help="seconds a run")
    parser.add_argument("--workers", type=int, help="runs at a time")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "benchmark")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    failed = 0
    for stage, (seeds, methods) in STAGES.items():
        installed = [method for method in methods if method.split("[")[0] in method_names()]
        command = [
            "bench", *options.suites.split(","), "--methods", ",".join(installed), "--seeds", seeds,
            "--time-limit", f"{options.time_limit:g}", "-o", str(options.run / stage),
        ]  # fmt: skip
        if options.workers:
            command += ["--workers", str(options.workers)]
        done = subprocess.run([sys.executable, "-m", "moeplace", *command])
        if done.returncode not in (0, 1):  # 1: some run failed, which the page shows
            return done.returncode
        failed |= done.returncode
    collection = collect([options.run / stage for stage in STAGES])
    shown = [*_one_placement(collection, options.output), *_one_search(collection, options.output)]
    write_report(collection, options.output, title="Benchmark", introduction=_introduction(collection), page=False)
    page = options.output / MARKDOWN
    write_bytes(page, page.read_bytes() + "".join(f"\n{part}\n" for part in shown).encode())
    print(f"written to {options.output}")
    return failed


def _introduction(collection: Collection) -> str:
    environment, plan = collection.runs[0].run.environment, collection.runs[0].run.plan
    versions = environment.versions
    solvers = ", ".join(f"{name} {versions[name]}" for name in ("moeplace", "highspy", "ortools") if name in versions)
    seeded = [
        f"{method.name} ({number(len(data.run.plan.seeds), 'seed')})"
        for data in collection.runs
        for method in data.run.plan.methods
        if method.seeded
    ]
    elapsed = _working_time(collection)
    return f"""\
Written by `scripts/benchmarks/published.py`, which also runs it; every number is in [runs.csv](runs.csv) and
[summary.csv](summary.csv). What the columns mean is at the end and, with formulas and sources, in
[docs/reporting.md](../reporting.md).

- {environment.cpu}, {environment.cores} cores, {size(environment.memory_bytes)}; Python {environment.python};
  {solvers}; {stamp(environment)}.
- {plan.time_limit:g} s a run, {number(plan.threads, "thread")}, {environment.workers} runs at a time.
- Methods that use a seed: {", ".join(seeded)}.
- {number(len(collection.entries), "run")} in {number(round(elapsed / 60), "minute")}, each in its own
  process; every placement passed the checker.
"""


def _working_time(collection: Collection) -> float:
    """Return the seconds in which at least one run was going on."""
    spans = sorted(
        (begun, begun + timedelta(seconds=entry.record.process_s))
        for entry in collection.entries
        for begun in [datetime.fromisoformat(entry.record.started).astimezone(UTC)]
    )
    total, until = 0.0, spans[0][0]
    for begun, ended in spans:
        if ended > until:
            total += (ended - max(begun, until)).total_seconds()
            until = ended
    return total


def _largest_proven(collection: Collection) -> list[Entry]:
    """Return the solved runs on the largest instance that has a proven bound (the largest of all, where none has)."""

    def rank(entries: list[Entry]) -> tuple[bool, int]:
        problem = entries[0].trial.problem
        return problem.bound_ns is not None, problem.variables or 0

    by_instance: dict[str, list[Entry]] = {}
    for entry in collection.entries:
        if entry.trial.latency_ns is not None:
            by_instance.setdefault(entry.record.sha256, []).append(entry)
    return max(by_instance.values(), key=rank)


def _one_placement(collection: Collection, folder: Path) -> list[str]:
    entry = best_of_each_method(_largest_proven(collection), collection.methods)[0]
    planned = next(i for i in collection.instances if i.sha256 == entry.record.sha256)
    instance = moeplace.load(entry.data.instance_path(planned))
    view = PlacementView.of(instance, entry.data.solution(entry.record).placement_on(instance))
    with style.drawing():
        figure = placement_map(view, f"{instance.name} by {entry.trial.method}")
        _save(folder, "placement", style.rendered(figure, "svg"))
    return [f"## One placement\n\nThe best one of {instance.name}:\n\n![one placement](pictures/placement.svg)"]


def _one_search(collection: Collection, folder: Path) -> list[str]:
    entries = best_of_each_method(_largest_proven(collection), collection.methods)
    searches = [search_of(entry.record, entry.trial.method) for entry in entries]
    searches = [search for search in searches if search.bounds] or searches[:3]
    problem = entries[0].trial.problem
    assert problem.best_ns is not None
    with style.drawing():
        figure = draw_progress(searches, problem.tokens or 1, problem.name, {"best known": problem.best_ns})
        _save(folder, "progress", style.rendered(figure, "svg"))
    return [f"## Cost and bound over time\n\nOn {problem.name}:\n\n![cost and bound](pictures/progress.svg)"]


def _save(folder: Path, name: str, data: bytes) -> None:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "pictures" / f"{name}.svg", data)


if __name__ == "__main__":
    sys.exit(main())
