"""Measure certified gaps: how near to a proven bound `auto` comes, in what time, beside HiGHS and CP-SAT alone.

    python scripts/benchmarks/certified.py [--realdata DIR] [--sections A,B,...] [-o FILE]

Sections: geometric, unequal, traces, large, library, growth. All take about two hours on two cores that have nothing
else to do.

``DIR`` holds the routing traces; what needs them is left out without it. A section that is run replaces the one of the
same title in the output file, the others stay. Pictures are written beside the output file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
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

from documents import DEEPSEEK, GPT, geometric_document, trace_document
from pages import machine, table, write

import moeplace
from moeplace.base.errors import MethodLimitError
from moeplace.base.result import Progress
from moeplace.caching.scenarios.suites import generate, read_suite
from moeplace.library import instance_files

THREADS = 2
"""That `auto` has; HiGHS and CP-SAT have as many, see `moeplace methods`."""

ALONE = ("milp", "cpsat")
TEXTBOOK = "milp-textbook"


@dataclass
class Run:
    """One method on one instance. Seconds count from before the instance is read.

    ``steps`` holds (seconds, saving of the placement, bound on the saving), token-ns, at every improvement.
    """

    method: str
    seconds: float
    loading: float
    rows: int
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

    def ratio_at(self, moment: float) -> float | None:
        """Return the certified ratio that was reached by then."""
        saved = [saving for t, saving, _ in self.steps if saving is not None and t <= moment]
        bounds = [bound for t, _, bound in self.steps if bound is not None and t <= moment]
        return max(saved) / min(bounds) if saved and bounds else None

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
        rows=len(instance.rows),
        ratio=objective.saving_ratio,
        proven=solution.status.solution == "optimal",
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        source=solution.bound_source or "",
        steps=steps,
    )


Case = dict[str, Any] | moeplace.Instance
"""An instance, or its document."""


def measured(case: Case, *methods: str, limit: float, threads: int = 1) -> list[Run | str]:
    """Measure in processes of their own, for their peak memory and a clean start; two at a time have a core each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instance.json.gz"
        if isinstance(case, moeplace.Instance):
            case.save(path)
        else:
            with gzip.open(path, "wt", compresslevel=1) as file:
                json.dump(case, file)
        workers = max(1, min(len(methods), 2))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            futures = [pool.submit(measure, str(path), method, limit, threads) for method in methods]
            return [future.result() for future in futures]


def measured_auto(case: Case, limit: float) -> Run:
    """Measure `auto`, which refuses nothing, with both cores."""
    (run,) = measured(case, "auto", limit=limit, threads=THREADS)
    assert isinstance(run, Run)
    return run


def ratio(run: Run | str) -> str:
    """Show a certified ratio, rounded down."""
    if isinstance(run, str):
        return "refused"
    return "optimal" if run.proven else decimals(run.ratio)


def decimals(value: float | None) -> str:
    """Show a ratio, rounded down."""
    return "no bound" if value is None else f"{math.floor(value * 1e5) / 1e5:.5f}"


def picture(path: Path, title: str, runs: list[tuple[str, Run | str]], limit: float) -> None:
    """Draw bound and incumbent over time, as shares of the best bound of all runs."""
    from matplotlib.figure import Figure

    done = [(name, run) for name, run in runs if isinstance(run, Run)]
    bounds = [run.bound for _, run in done if run.bound is not None]
    if not bounds:
        return
    best = min(bounds)
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    last: list[float] = []
    for k, (name, run) in enumerate(done):
        for of, style, label in ((1, "-", f"{name}: placement"), (2, "--", f"{name}: bound")):
            points = [(step[0], step[of] / best) for step in run.steps if step[of] is not None]
            if points:
                x, y = zip(*points, strict=True)
                axes.step([*x, limit], [*y, y[-1]], style, where="post", color=f"C{k}", label=label, linewidth=1.4)
                last.append(y[-1])
    # Where all come close the axis is near 1; a curve that ends further away is on it, too.
    axes.set_ylim(min(0.93, *(y - 0.02 for y in last)), max(1.07, *(y + 0.02 for y in last)))
    axes.set(xlim=(0, limit), xlabel="seconds, loading included", title=title)
    axes.set_ylabel("saving / best proven bound on it")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4, frameon=False)
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
    pictures = []
    for name, shape, shares in FAMILIES:
        for share in shares:
            documents = [geometric_document(seed, experts=8, top_k=2, share=share, **shape) for seed in range(seeds)]
            autos = [measured_auto(document, limit) for document in documents]
            # The others run on one seed of a family only: they mostly use up their whole limit.
            beside = (*ALONE, TEXTBOOK) if share == shares[0] else ()
            others = dict(zip(beside, measured(documents[0], *beside, limit=limit), strict=True))
            proven = sum(run.proven for run in autos)
            times = [run.seconds for run in autos]
            textbook = others.get(TEXTBOOK)
            longer = ""
            if isinstance(textbook, Run):
                longer = f"{'> ' if textbook.seconds >= limit else ''}{math.floor(textbook.seconds / times[0])}"
            rows.append(
                [name, share, f"{proven} of {seeds}", decimals(min(run.ratio or 0.0 for run in autos)),
                 f"{statistics.median(times):.1f} / {max(times):.1f}", f"{times[0]:.1f}",
                 *(ratio(run) if isinstance(run, str) else f"{ratio(run)} in {run.seconds:.1f}"
                   for run in others.values()), *[""] * (3 - len(others)), longer]
            )  # fmt: skip
            print(*rows[-1], file=sys.stderr, flush=True)
            found.append(proven / seeds)
            file = f"certified-{re.sub('[^0-9]+', '-', name).strip('-')}-{share * 100:.0f}.svg"
            title = f"{name}, capacity {share:.0%}, first seed"
            picture(output.parent / "certified" / file, title, [("auto", autos[0]), *others.items()], limit)
            pictures.append(f"![{title}](certified/{file})")
    text = (
        f"Are seeded instances proven optimal within {limit:.0f} seconds? Found: {min(found):.0%} to {max(found):.0%} "
        "of the seeds of a family. Users and servers in a square, layers x experts, top-2; each server has room for "
        "the given share of the model. Seconds count from the start of a fresh process: libraries are loaded "
        "and the instance is read within them.\n\n"
        f"`auto` has {THREADS} threads. On the first seed beside it: HiGHS on the aggregated model (`milp`), CP-SAT, "
        "and HiGHS on the textbook model, at a family's first capacity, each with one thread, two at a time. HiGHS "
        "ends at its tolerance, which is 0.99999 in exact integers. Last column: seconds of the textbook model over "
        "those of `auto`, at least where the limit ended it.\n\n"
    )
    header = ["instance", "capacity", "proven", "least ratio", "seconds: median / most", "first seed", *ALONE,
              "textbook", "textbook / auto"]  # fmt: skip
    return text + table(header, rows) + "\n\n" + "\n".join(pictures)


UNEQUAL = 0.6
"""Standard deviation of the logarithm of servers' storage."""


def unequal(limit: float, seeds: int) -> str:
    """Measure proofs where servers have unequal storage."""
    rows: list[list[object]] = []
    for layers, share in ((4, 0.15), (4, 0.25), (12, 0.15), (12, 0.25)):
        shape: dict[str, Any] = {"users": 30, "stations": 5, "layers": layers, "experts": 8, "top_k": 2}
        runs = [
            measured_auto(geometric_document(seed, share=share, unequal=UNEQUAL, **shape), limit)
            for seed in range(seeds)
        ]
        times = [run.seconds for run in runs]
        rows.append(
            [f"{layers} x 8", share, f"{sum(run.proven for run in runs)} of {seeds}",
             decimals(min(run.ratio or 0.0 for run in runs)), f"{statistics.median(times):.1f} / {max(times):.1f}"]
        )  # fmt: skip
        print(*rows[-1], file=sys.stderr, flush=True)
    text = (
        f"The geometric instances of 30 users and 5 servers, but with storage that differs: the share of the model is "
        f"the mean of the servers, which differ by log-normal factors (standard deviation {UNEQUAL} of the logarithm: "
        f"the largest has 4 times the smallest in the median). `auto` has {limit:.0f} s, loading included.\n\n"
    )
    return text + table(["layers x experts", "capacity", "proven", "least ratio", "seconds: median / most"], rows)


LIBRARY = "medium,large,real"
MOMENTS = (5.0, 15.0, 30.0)


def library(limit: float, sets: str) -> str:
    """Measure every instance of some of the library's sets."""
    text = (
        f"Every shipped instance of these sets, `auto` with {limit:.0f} s and {THREADS} threads: certified ratios "
        "after some seconds and at the end, loading included.\n"
    )
    header = [
        "instance",
        *(f"{moment:.0f} s" for moment in MOMENTS),
        f"end, at most {limit:.0f} s",
        "seconds",
        "bound by",
    ]
    for name in sets.split(","):
        rows: list[list[object]] = []
        runs = []
        for path in instance_files(name):
            run = measured_auto(moeplace.load(path), limit)
            short = path.name.removesuffix(".gz").removesuffix(".json")
            moments = [decimals(run.ratio_at(moment)) for moment in MOMENTS]
            rows.append([short, *moments, ratio(run), f"{run.seconds:.1f}", run.source])
            runs.append(run)
            print(*rows[-1], file=sys.stderr, flush=True)
        proven, ratios = sum(run.proven for run in runs), [run.ratio or 0.0 for run in runs]
        middle, least = decimals(statistics.median(ratios)), decimals(min(ratios))
        said = f"{proven} of {len(rows)} proven, median {middle}, least {least}"
        text += f"\n### {name}\n\n{said}\n\n{table(header, rows)}\n"
    return text


TRACE_LIMITS = {GPT: 120.0, DEEPSEEK: 300.0}
"""Seconds; the first is past its targets well before."""


def traces(output: Path, realdata: Path) -> str:
    """Measure ratios on the full traces at several capacities."""
    rows: list[list[object]] = []
    pictures = []
    for trace, total in [(t, c) for t in (GPT, DEEPSEEK) for c in (0.6, 1.0, 1.5)]:
        document = trace_document(realdata, trace, users=50, stations=10, share=total / 10)
        name = f"{trace}, capacity {total:.0%}"
        limit = TRACE_LIMITS[trace]
        auto = measured_auto(document, limit)
        others = dict(zip(ALONE, measured(document, *ALONE, limit=60), strict=True))
        rows.append(
            [name, decimals(auto.ratio_at(60)), f"{decimals(auto.ratio)} ({limit:.0f} s)", f"{auto.loading:.1f}",
             _after(auto, 0.98), _after(auto, 0.99), f"{auto.peak_gib:.1f}", auto.source, *map(ratio, others.values())]
        )  # fmt: skip
        print(*rows[-1], file=sys.stderr, flush=True)
        file = f"certified-{trace}-{total * 100:.0f}.svg"
        picture(output.parent / "certified" / file, name, [("auto", auto), *others.items()], limit)
        pictures.append(f"![{name}](certified/{file})")
    text = (
        "All tokens of two real routing traces, dealt to 50 users of 10 stations in Melbourne; capacity is that of all "
        "stations together, as a share of the model. Ratio: saving / proven bound on the saving, after 60 seconds and "
        f'at the end of the same run, loading included. `auto` has {THREADS} threads. "Within 2 %" and '
        '"within 1 %": seconds after loading until the placement saved 0.98 and 0.99 of the final bound; "never" '
        "where the final ratio is below that. `milp` and `cpsat` refuse more than 500,000 constraint rows; "
        "these have 4 to 10 million.\n\n"
    )
    header = ["instance", "ratio, 60 s", "at the end", "loading s", "within 2 %", "within 1 %", "peak GiB",
              "best bound by", *ALONE]  # fmt: skip
    return text + table(header, rows) + "\n\n" + "\n".join(pictures)


def _after(run: Run, share: float) -> str:
    first = run.first_within(share)
    return "never" if first is None else f"{first - run.loading:.1f}"


SUITE = Path(__file__).parents[2] / "instances" / "large" / "huge.toml"


def large(output: Path, limit: float) -> str:
    """Measure instances of DeepSeek-V3's shape."""
    _, scenarios = read_suite(SUITE)
    stations = next(iter(scenarios.values()))
    personal = geometric_document(
        0, layers=58, experts=256, top_k=8, users=1000, stations=20, tokens=35, share=0.6 / 20
    )  # fmt: skip
    cases: list[tuple[str, Case, float]] = [
        ("users of stations", generate(stations), limit),
        ("every user with an order of servers of its own", personal, limit / 2),
    ]
    rows: list[list[object]] = []
    pictures = []
    for k, (name, case, seconds) in enumerate(cases):
        run = measured_auto(case, seconds)
        rows.append(
            [name, f"{run.rows:,}", decimals(run.ratio_at(60)),
             decimals(run.ratio_at(limit / 2)),
             decimals(run.ratio) if seconds == limit else "", f"{run.loading:.1f}", _after(run, 0.98),
             _after(run, 0.99), f"{run.peak_gib:.1f}"]
        )  # fmt: skip
        print(*rows[-1], file=sys.stderr, flush=True)
        file = f"certified-large-{k + 1}.svg"
        title = f"DeepSeek-V3 shape, {name}"
        picture(output.parent / "certified" / file, title, [("auto", run)], seconds)
        pictures.append(f"![{title}](certified/{file})")
    text = (
        "The shape of DeepSeek-V3, 58 layers of 256 experts, top-8, for 1,000 users and 20 servers that together hold "
        "60 % of the model. The first instance is of `instances/large/huge.toml` (routing extrapolated from measured "
        "traces), the other has users and servers in a square and routing that is drawn, each layer by itself. "
        "`milp` and `cpsat` refuse these sizes.\n\n"
    )
    header = ["instance", "rows", "ratio, 60 s", f"{limit / 2:.0f} s", f"{limit:.0f} s", "loading s", "within 2 %",
              "within 1 %", "peak GiB"]  # fmt: skip
    return text + table(header, rows) + "\n\n" + "\n".join(pictures)


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
            run = measured_auto(document, limit)
            count = len(document["activations"]["count"])
            row = [key.replace("stations", "servers"), size, f"{count:,}", ratio(run), _after(run, 0.99)]
            rows.append([*row, f"{run.seconds:.1f}"])
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

Written by `scripts/benchmarks/certified.py`, each section by a run of its own; the line below a section names the
machine, the versions and how busy the machine was. On a busy machine a time limit reaches less.
"""


def main() -> None:
    """Run the sections asked for and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realdata", type=Path)
    parser.add_argument("--sections", default="geometric,unequal,traces,large,library,growth")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of a geometric family")
    parser.add_argument("--sets", default=LIBRARY, help="sets of the section library")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/certified.md"))
    options = parser.parse_args()
    output, realdata = options.output, options.realdata
    known: dict[str, tuple[str, Callable[[], str]]] = {
        "geometric": ("Geometric instances to proof", lambda: geometric(output, 60, options.seeds)),
        "traces": ("Full traces", lambda: traces(output, realdata)),
        "large": ("The shape of DeepSeek-V3", lambda: large(output, 600)),
        "growth": ("Growth", lambda: growth(output, 10)),
        "unequal": ("Unequal storage", lambda: unequal(20, options.seeds)),
        "library": ("The library", lambda: library(60, options.sets)),
    }
    titles = [title for title, _ in known.values()]
    for name in options.sections.split(","):
        if name == "traces" and realdata is None:
            continue
        title, run = known[name]
        body = run()
        here = machine("numpy", "numba", "scipy", "ortools", threads=f"`auto` on {THREADS} threads")
        write(output, {title: f"{body}\n\n{here}"}, titles, HEAD)
        print(f"{title}: written to {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
