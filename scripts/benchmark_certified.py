"""Measure certified gaps: how near to a proven bound `auto` comes, in what time, beside HiGHS and CP-SAT alone.

    python scripts/benchmark_certified.py [--realdata DIR] [--sections geometric,traces,large,growth] [-o FILE]

``DIR`` holds the routing traces; what needs them is left out without it. A section that is run replaces the one of the
same title in the output file, the others stay. Pictures are written beside the output file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmark_heuristics import DEEPSEEK, GPT, geometric_document, machine, table, trace_document, write

import moeplace
from moeplace.errors import MethodLimitError
from moeplace.result import Progress

THREADS = 2
"""That `auto` has; HiGHS and CP-SAT have as many, see `moeplace methods`."""

ALONE = ("milp", "cpsat")


@dataclass
class Run:
    """One method on one instance. Seconds count from before the instance is read.

    ``steps`` holds (seconds, saving of the placement, bound on the saving), token-ns, at every improvement.
    """

    method: str
    seconds: float
    loading: float
    ratio: float | None
    proven: bool
    peak_gib: float
    source: str
    steps: list[tuple[float, int | None, int | None]]

    def first_within(self, share: float) -> float | None:
        """Return when the placement first saved this share of the final bound."""
        bound = self.bound
        if bound is None:
            return None
        return next((t for t, saved, _ in self.steps if saved is not None and saved >= share * bound), None)

    @property
    def bound(self) -> int | None:
        """The final bound on the saving, token-ns."""
        known = [bound for _, _, bound in self.steps if bound is not None]
        return min(known) if known else None


def measure(path: str, method: str, limit: float, threads: int) -> Run | str:
    """Load an instance and run a method on it; the limit counts from before the loading. Return why not, if refused."""
    began = time.perf_counter()
    instance = moeplace.load(path)
    loading = time.perf_counter() - began
    steps: list[tuple[float, int | None, int | None]] = []

    def note(progress: Progress) -> None:
        saved = None if progress.latency_ns is None else instance.baseline_ns - progress.latency_ns
        bound = None if progress.bound_ns is None else instance.baseline_ns - progress.bound_ns
        steps.append((time.perf_counter() - began, saved, bound))

    left = max(0.0, limit - loading)
    try:
        solution = moeplace.solve(instance, method, time_limit=left, threads=threads, progress=note)
    except MethodLimitError as error:
        return error.reason
    objective = solution.objective
    bound_ns = objective.bound_ns
    steps.append(
        (
            time.perf_counter() - began,
            instance.baseline_ns - objective.latency_ns,
            None if bound_ns is None else instance.baseline_ns - bound_ns,
        )
    )
    if not moeplace.check(instance, solution).ok:
        raise RuntimeError(f"{method} on {path}: the checker refuses the solution")
    return Run(
        method=method,
        seconds=time.perf_counter() - began,
        loading=loading,
        ratio=objective.saving_ratio,
        proven=solution.status.solution == "optimal",
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        source=solution.bound_source or "",
        steps=steps,
    )


def measured(document: dict[str, Any], method: str, limit: float, threads: int = THREADS) -> Run | str:
    """Measure in a process of its own, for its peak memory and a clean start."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instance.json.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            json.dump(document, file)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            return pool.submit(measure, str(path), method, limit, threads).result()


def ratio(run: Run | str) -> str:
    """Show a certified ratio, rounded down."""
    if isinstance(run, str):
        return f"refused: {run}"
    if run.ratio is None:
        return "no bound"
    return "optimal" if run.proven else f"{math.floor(run.ratio * 1e5) / 1e5:.5f}"


def seconds(value: float | None) -> str:
    """Show seconds."""
    return "" if value is None else f"{value:.1f}"


def picture(path: Path, title: str, runs: list[tuple[str, Run | str]], limit: float) -> None:
    """Draw bound and incumbent over time, as shares of the best bound of all runs."""
    from matplotlib.figure import Figure

    done = [(name, run) for name, run in runs if isinstance(run, Run)]
    bounds = [run.bound for _, run in done if run.bound is not None]
    if not bounds:
        return
    best = min(bounds)
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for k, (name, run) in enumerate(done):
        for of, style, label in ((1, "-", f"{name}: placement"), (2, "--", f"{name}: bound")):
            points = [(step[0], step[of] / best) for step in run.steps if step[of] is not None]
            if points:
                x, y = zip(*points, strict=True)
                axes.step([*x, limit], [*y, y[-1]], style, where="post", color=f"C{k}", label=label, linewidth=1.4)
    axes.set(xlim=(0, limit), ylim=(0.93, 1.07), xlabel="seconds, loading included", title=title)
    axes.set_ylabel("saving / best proven bound on it")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})


# --- sections -------------------------------------------------------------------------------------------------------

FAMILIES: list[tuple[str, dict[str, Any], list[float]]] = [
    ("10 users, 3 servers, 2 x 8", {"users": 10, "stations": 3, "layers": 2}, [0.15, 0.25]),
    ("20 users, 5 servers, 4 x 8", {"users": 20, "stations": 5, "layers": 4}, [0.15, 0.25]),
    ("30 users, 5 servers, 12 x 8", {"users": 30, "stations": 5, "layers": 12}, [0.15, 0.25]),
    ("30 users, 5 servers, 32 x 8", {"users": 30, "stations": 5, "layers": 32}, [0.25]),
]


def geometric(output: Path, limit: float, seeds: int) -> str:
    """Measure seconds to proof on geometric instances."""
    rows: list[list[object]] = []
    found = []
    for name, shape, shares in FAMILIES:
        for share in shares:
            runs: dict[str, list[Run]] = {}
            for seed in range(seeds):
                document = geometric_document(seed, experts=8, top_k=2, share=share, **shape)
                # Beside it the others run on one seed only: they mostly use up their whole limit.
                methods = ["auto", *([*ALONE, "milp-textbook"] if seed == 0 else [])]
                for method in methods:
                    threads = THREADS if method == "auto" else 1
                    run = measured(document, method, limit, threads)
                    if isinstance(run, Run):
                        runs.setdefault(method, []).append(run)
                        if method == "auto":
                            print(name, share, seed, ratio(run), f"{run.seconds:.1f}", file=sys.stderr, flush=True)
            auto = runs["auto"]
            proven = sum(run.proven for run in auto)
            times = [run.seconds for run in auto]
            least = min(run.ratio or 0.0 for run in auto)
            cells = [
                f"{ratio(runs[m][0])} in {runs[m][0].seconds:.1f}" if m in runs else "refused"
                for m in (*ALONE, "milp-textbook")
            ]
            rows.append(
                [name, share, f"{proven} of {seeds}", f"{least:.5f}",
                 f"{statistics.median(times):.1f} / {max(times):.1f}", *cells]
            )  # fmt: skip
            found.append(proven / seeds)
    text = (
        f"Are seeded instances proven optimal within {limit:.0f} seconds? Found: {min(found):.0%} to {max(found):.0%} "
        "of the seeds of a family. (Users and servers in a square, layers x experts, top-2; each server has room for "
        "the given share of the model.)\n\n"
        f"`auto` has {THREADS} threads; HiGHS on the aggregated model (`milp`), CP-SAT and HiGHS on the textbook model "
        "one, on the first seed.\n\n"
    )
    header = ["instance", "capacity", "proven", "least ratio", "seconds: median / most", "milp", "cpsat", "textbook"]
    return text + table(header, rows)


def traces(output: Path, realdata: Path, limits: list[float]) -> str:
    """Measure ratios on the full traces at several capacities and limits."""
    rows: list[list[object]] = []
    pictures = []
    for trace, total in [(t, c) for t in (GPT, DEEPSEEK) for c in (0.6, 1.0, 1.5)]:
        document = trace_document(realdata, trace, users=50, stations=10, share=total / 10)
        name = f"{trace[0]}, capacity {total:.0%}"
        for limit in limits:
            auto = measured(document, "auto", limit)
            assert isinstance(auto, Run)
            alone = {m: measured(document, m, limit, 1) for m in ALONE} if limit == limits[0] else {}
            rows.append(
                [name, f"{limit:.0f}", ratio(auto), seconds(auto.loading), seconds(_after(auto, 0.99)),
                 f"{auto.peak_gib:.1f}", *(ratio(alone[m]) if m in alone else "" for m in ALONE)]
            )  # fmt: skip
            print(*rows[-1], file=sys.stderr, flush=True)
            file = f"certified-{trace[0]}-{total * 100:.0f}-{limit:.0f}.svg"
            picture(output.parent / "certified" / file, name, [("auto", auto), *alone.items()], limit)
            pictures.append(f"![{name}, {limit:.0f} s](certified/{file})")
    text = (
        "All tokens of two real routing traces, dealt to 50 users of 10 stations in Melbourne; capacity is that of all "
        "stations together, as a share of the model. Ratio: saving / proven bound on the saving, when the limit was "
        f"reached (loading included). `auto` has {THREADS} threads.\n\n"
    )
    header = ["instance", "limit s", "ratio", "loading s", "within 1 % after s", "peak GiB", "milp", "cpsat"]
    return text + table(header, rows) + "\n\n" + "\n".join(pictures)


def _after(run: Run, share: float) -> float | None:
    first = run.first_within(share)
    return None if first is None else first - run.loading


def large(output: Path, limit: float) -> str:
    """Measure an instance of DeepSeek-V3's shape."""
    document = geometric_document(
        0, layers=58, experts=256, top_k=8, users=1000, stations=20, tokens=35, share=1 / 20
    )  # fmt: skip
    run = measured(document, "auto", limit)
    assert isinstance(run, Run)
    file = "certified-deepseek-v3-shape.svg"
    picture(output.parent / "certified" / file, "58 layers x 256 experts, top-8", [("auto", run)], limit)
    rows = [
        [f"{len(document['activations']['count']):,}", ratio(run), seconds(run.loading), seconds(_after(run, 0.99)),
         seconds(run.seconds), f"{run.peak_gib:.1f}"]
    ]  # fmt: skip
    text = (
        "The shape of DeepSeek-V3, 58 layers of 256 experts, top-8, for 1,000 users in a square with 20 servers, each "
        "user with an order of servers of its own; capacity of all servers together: the model once. Routing is drawn, "
        "each layer by itself: real routing has more structure.\n\n"
    )
    header = ["rows", "ratio", "loading s", "within 1 % after s", "seconds", "peak GiB"]
    return text + table(header, [list(row) for row in rows]) + f"\n\n![DeepSeek-V3 shape](certified/{file})"


def growth(output: Path, limit: float) -> str:
    """Measure what a fixed time gives while one dimension doubles."""
    base: dict[str, Any] = {"layers": 8, "experts": 16, "top_k": 2, "users": 40, "stations": 5, "tokens": 100}
    doubling: dict[str, list[int]] = {
        "layers": [4, 8, 16, 32],
        "experts": [8, 16, 32, 64],
        "stations": [3, 5, 10, 20],
        "users": [20, 40, 80, 160],
        "tokens": [50, 100, 200, 400],
    }
    rows: list[list[object]] = []
    for key, sizes in doubling.items():
        for size in sizes:
            shape = {**base, key: size}
            # All servers together: one and a quarter models, whatever their number.
            document = geometric_document(0, share=1.25 / shape["stations"], **shape)
            run = measured(document, "auto", limit)
            assert isinstance(run, Run)
            count = len(document["activations"]["count"])
            row = [key.replace("stations", "servers"), size, f"{count:,}", ratio(run), seconds(_after(run, 0.99))]
            rows.append([*row, seconds(run.seconds)])
            print(*rows[-1], file=sys.stderr, flush=True)
    shape_text = ", ".join(f"{value} {key}" for key, value in base.items()).replace("stations", "servers")
    text = (
        f"What do {limit:.0f} seconds of `auto` give while one dimension grows, the others fixed? Geometric "
        f"instances of {shape_text.replace('top_k', 'experts a token')} (tokens: of each user), capacity of all "
        "servers together 1.25 models.\n\n"
    )
    header = ["what grows", "size", "rows", "ratio", "within 1 % after s", "seconds"]
    return text + table(header, rows)


HEAD = """# Certified gaps, measured

How far from optimal can the placements of `auto` be, at most? A ratio is the saving of the placement divided by the
proven bound on the saving of any placement: 0.99 means that no placement saves 1.02 % more.

Written by `scripts/benchmark_certified.py`, each section by a run of its own; the line below a section names the
machine, the versions and how busy the machine was. On a busy machine a time limit reaches less.
"""


def main() -> None:
    """Run the sections asked for and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realdata", type=Path)
    parser.add_argument("--sections", default="geometric,traces,large,growth")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of a geometric family")
    parser.add_argument("--limits", default="60,300", help="seconds on the traces")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/certified.md"))
    options = parser.parse_args()
    output, realdata = options.output, options.realdata
    limits = [float(limit) for limit in options.limits.split(",")]
    known: dict[str, tuple[str, Callable[[], str]]] = {
        "geometric": ("Geometric instances to proof", lambda: geometric(output, 60, options.seeds)),
        "traces": ("Full traces", lambda: traces(output, realdata, limits)),
        "large": ("The shape of DeepSeek-V3", lambda: large(output, 600)),
        "growth": ("Growth", lambda: growth(output, 30)),
    }
    titles = [title for title, _ in known.values()]
    for name in options.sections.split(","):
        if name == "traces" and realdata is None:
            continue
        title, run = known[name]
        write(output, {title: f"{run()}\n\n{machine()}"}, titles, HEAD)
        print(f"{title}: written to {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
