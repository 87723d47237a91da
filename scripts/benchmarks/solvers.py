"""Time to proof: `auto` beside HiGHS, CP-SAT and SCIP, which are given the same aggregated model.

    python scripts/benchmarks/solvers.py [--limit S] [--seeds N] [--families 4] [-o docs/benchmarks/solvers.md]

The instances are the geometric ones of ``certified.py``. All run on one thread and start from the placement of
``local-search``, which is not counted; each run is a process of its own. Seconds are the processor's, from the loaded
instance on: building the model counts, and a busy machine changes little. SCIP (``pip install pyscipopt``, its wheel
brings the solver) reads the file that ``moeplace export`` writes and is left out where it is not installed.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
from certified import FAMILIES
from documents import geometric_document
from pages import machine, save, table

import moeplace
from moeplace.base.registry import find_method
from moeplace.caching.formulations import export
from moeplace.problems import problem_of
from moeplace.solving import prepare

OWN = ("auto", "milp", "cpsat")
SCIP = "scip"
NAMES = {"auto": "auto", "milp": "HiGHS", "cpsat": "CP-SAT", SCIP: "SCIP"}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Run:
    """One solver on one instance.

    ``seconds`` of the processor, ``ended`` whether it stopped by itself; latencies and bounds in token-ns, the bound as
    far as it is certified: by moeplace in integers, SCIP's by its word, rounded down.
    """

    seconds: float
    ended: bool
    latency_ns: int
    bound_ns: int
    saving_ratio: float


def measure(path: str, solver: str, limit: float) -> Run:
    """Load an instance and run a solver on it until it ends or has used up its seconds."""
    instance = moeplace.load(path)
    start = moeplace.solve(instance, "local-search")
    if solver == SCIP:
        import pyscipopt  # noqa: F401 - loading libraries is not counted, nor is compiling inner loops
    else:
        prepare(problem_of(instance), find_method(solver))
    began = time.process_time()
    if solver == SCIP:
        latency, bound, ended = _scip(instance, start, limit)
    else:
        done = threading.Event()
        threading.Thread(target=_interrupt_at, args=(began + limit, done), daemon=True).start()
        solution = moeplace.solve(instance, solver, threads=1, start=start)
        done.set()
        latency, bound = solution.objective.latency_ns, solution.objective.bound_ns or 0
        ended = solution.status.termination != "interrupted"
    seconds = time.process_time() - began
    reached, possible = instance.baseline_ns - latency, instance.baseline_ns - bound
    return Run(seconds, ended, latency, bound, reached / possible if possible else 1.0)


def _interrupt_at(moment: float, done: threading.Event) -> None:
    """Do what Ctrl-C does once the process has used up its seconds: methods end with their best."""
    while not done.wait(0.05):
        if time.process_time() >= moment:
            os.kill(os.getpid(), signal.SIGINT)
            return


def _scip(instance: moeplace.Instance, start: moeplace.Solution, limit: float) -> tuple[int, int, bool]:
    """Run SCIP on the exported model; return cost and bound of its best placement, and whether it ended by itself."""
    from pyscipopt import Model

    began = time.process_time()
    placement = start.placement_on(instance)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mps"
        export(instance, "milp", path)
        model = Model()
        model.hideOutput()
        model.readProblem(str(path))
    model.setParams({"timing/clocktype": 1, "limits/gap": 0.0, "limits/absgap": 0.0, "parallel/maxnthreads": 1})
    variables = {v.name: v for v in model.getVars()}
    partial = model.createPartialSol()
    for n, i in zip(*np.nonzero(placement.cached), strict=True):
        if (v := variables.get(f"x({n}_{i})")) is not None:
            model.setSolVal(partial, v, 1.0)
    model.addSol(partial)
    model.setParam("limits/time", max(0.01, limit - (time.process_time() - began)))
    model.optimize()
    cached = np.zeros_like(placement.cached)
    best = model.getBestSol()
    for name, v in variables.items():
        if name.startswith("x(") and model.getSolVal(best, v) > 0.5:
            n, i = map(int, name[2:-1].split("_"))
            cached[n, i] = True
    latency = moeplace.latency_ns(instance, moeplace.Placement(cached))
    return latency, min(latency, math.ceil(model.getDualbound() - 0.5)), model.getStatus() in ("optimal", "gaplimit")


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval of the geometric mean: percentiles of means of resampled values, seeded."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.log(values), size=(RESAMPLES, len(values)))
    low, high = np.exp(np.percentile(drawn.mean(axis=1), (2.5, 97.5)))
    return float(low), float(high)


def run_all(documents: Sequence[dict[str, object]], solvers: Sequence[str], limit: float) -> dict[str, list[Run]]:
    """Measure every solver on every instance, two at a time, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for k, document in enumerate(documents):
            paths.append(Path(folder) / f"{k}.json.gz")
            with gzip.open(paths[-1], "wt", compresslevel=1) as file:
                json.dump(document, file)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            futures = {solver: [pool.submit(measure, str(p), solver, limit) for p in paths] for solver in solvers}
            return {solver: [future.result() for future in runs] for solver, runs in futures.items()}


def row(name: str, solver: str, runs: list[Run], base: list[Run], limit: float) -> list[object]:
    """Return the row of a solver on a family; times at the limit count with the limit."""
    seconds = [run.seconds if run.ended else max(limit, run.seconds) for run in runs]
    ratios = [mine / its.seconds for mine, its in zip(seconds, base, strict=True)]
    low, high = interval(ratios)
    certified = [run.saving_ratio for run in runs]
    ended = sum(run.ended for run in runs)
    at_least = "" if ended == len(runs) else ">= "
    return [
        name, NAMES[solver], f"{ended} of {len(runs)}", f"{at_least}{geometric_mean(seconds):.2f}",
        "1" if runs is base else f"{at_least}{geometric_mean(ratios):.1f} ({low:.1f} to {high:.1f})",
        f"{math.floor(min(certified) * 1e5) / 1e5:.5f}",
        f"{math.floor(np.median(certified) * 1e5) / 1e5:.5f}",
    ]  # fmt: skip


@click.command()
@click.option("--limit", default=60.0, help="Processor seconds a run.")
@click.option("--seeds", default=10)
@click.option("--families", default=len(FAMILIES), help="How many of them, from the smallest on.")
@click.option("-o", "--output", default="docs/benchmarks/solvers.md", type=click.Path(path_type=Path))
def main(limit: float, seeds: int, families: int, output: Path) -> None:
    """Run every solver on every seed of every family and write the page."""
    solvers = [*OWN, *([SCIP] if importlib.util.find_spec("pyscipopt") else [])]
    rows: list[list[object]] = []
    every: dict[str, list[Run]] = {solver: [] for solver in solvers}
    for name, shape, shares in FAMILIES[:families]:
        documents = [geometric_document(seed, experts=8, top_k=2, share=shares[0], **shape) for seed in range(seeds)]
        found = run_all(documents, solvers, limit)
        for k in range(seeds):
            _agree([found[solver][k] for solver in solvers], f"{name}, seed {k}")
        for solver, runs in found.items():
            rows.append(row(f"{name}, {shares[0]:.0%}", solver, runs, found["auto"], limit))
            every[solver] += runs
            click.echo(rows[-1])
    rows += [row("all", solver, runs, every["auto"], limit) for solver, runs in every.items()]
    save(output, _page(rows, limit, seeds))


def _agree(runs: Sequence[Run], where: str) -> None:
    """Refuse bounds above another's placement: then somebody is wrong."""
    bound, cost = max(run.bound_ns for run in runs), min(run.latency_ns for run in runs)
    if bound > cost:
        click.echo(f"{where}: a bound of {bound} is above a cost of {cost} token-ns, by {(bound - cost) / cost:.1e}")


def _page(rows: list[list[object]], limit: float, seeds: int) -> str:
    header = ["instances", "solver", "ended by itself", "processor s, geometric mean", "times those of auto",
              "certified ratio, least", "median"]  # fmt: skip
    return f"""# Time to proof, beside HiGHS, CP-SAT and SCIP

Written by `scripts/benchmarks/solvers.py`: the geometric instances of [certified gaps](certified.md), {seeds} seeds
a family, layers x experts, top-2. HiGHS, CP-SAT and SCIP get the same aggregated model
([section 3.2](../formulation.md#32-strong-milp)), SCIP from the file that `moeplace export` writes. All run on one
thread and start from the placement of `local-search`, which is not counted. Seconds are of the processor, from the
loaded instance to the end, building the model included, at most {limit:g}; a run that was stopped counts with the
limit, so that means and ratios marked ">=" are too small (but where `auto` was stopped, too, which counts as a ratio of
1). Ratios of times are geometric means over the seeds with 95 % intervals (bootstrap).

The certified ratio is the saving of the placement over the proven bound on it, rounded down. The bounds of `auto`,
HiGHS and CP-SAT are integers, rounded to the safe side: HiGHS, which ends within its tolerances, then may end below 1.
SCIP's bound is taken from its doubles as it says.

{table(header, rows)}

{machine("highspy", "ortools", *(["pyscipopt"] if importlib.util.find_spec("pyscipopt") else []), "numpy", "numba")}
"""


if __name__ == "__main__":
    main()
