"""Measure what placements on GPU servers without a cloud are worth: by frequency, as published, and by latency.

    python scripts/benchmarks/collaboration.py --realdata DIR [--sections coverage,drift] [-o FILE]

``DIR`` holds the routing traces. A section that is run replaces the one of the same title in the output file. All of it
takes about half an hour on two cores that have nothing else to do.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pages import machine, table, write

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # the scripts that are no benchmarks

from instance_sets import collaboration, real
from instance_sets.collaboration import AWAY_US, THREE, Recipe

import moeplace
from moeplace import Evaluation, Instance, Placement, Solution
from moeplace.caching.replay import POLICIES, Order, Payment
from moeplace.caching.replay import replay as replayed

SHARES: Final = (30, 40, 50)
"""Memory of one GPU, percent of the model; all GPUs together have four times that."""

SECONDS: Final = 60.0
THREADS: Final = 2
PUBLISHED: Final = ("uniform", "redundant", "balanced", "two-stage")

USERS: Final = {real.DEEPSEEK: collaboration.TASKS_OF_THREE, real.GPT: ((0, 1), (2, 3), (4, 5, 6, 7))}

TITLES: Final = {
    "coverage": "Requests and rows that leave home",
    "slots": "Equal slots",
    "drift": "Traffic that drifts, in twelve windows",
}

SLOTS: Final = ("gpt-oss-20b_s4_slots10", "deepseek-v2-lite_s4_slots20_cut_l08")

WINDOWS: Final = 12
DECISION_S: Final = 10.0
DRIFT_SHARE: Final = 40
WEIGHT: Final = 10
"""Tokens that wait for a load."""

HEAD: Final = f"""# Collaborating GPU servers

What is lost when experts are placed by how often they are asked for, as published systems do, where a token waits for
its slowest expert. Written by `scripts/benchmarks/collaboration.py`; the instances are like those of
`instances/collaboration`: three servers of 1, 1 and 2 GPUs, no cloud, users with tasks of their own at each server,
{collaboration.HOME_US} microseconds at home and {AWAY_US} on another server.
"""


def measured(solution: Solution, instance: Instance, seconds: float) -> dict[str, Any]:
    """Return what a placement means on an instance, whichever instance it was found on."""
    found = Evaluation(instance, Placement(solution.placement_on(instance).cached))
    hits = found.hits
    assert hits is not None
    return {
        "requests": hits.away[0],
        "rows": hits.away[1],
        "latency": found.latency_ns,
        "per token": found.mean_latency_ns,
        "seconds": seconds,
    }


def timed(work: Callable[[], Solution]) -> tuple[Solution, float]:
    """Return a solution and how long it took."""
    began = time.perf_counter()
    solution = work()
    return solution, time.perf_counter() - began


def coverage(realdata: Path) -> str:
    """Return the section on coverage: memory by method, for both traces."""
    parts = [
        "Requests, and rows (one token at one layer), of which at least one expert is not on the user's own server;",
        "the latency of a token over all layers; the certified ratio: what the placement saves of the latency with",
        f"every expert far away, against the bound that `auto` proves in {SECONDS:.0f} s with {THREADS} threads.",
        "`flow` is the optimum of the frequency: the same instance under `sum`, where each request counts by itself.",
        "*Coverage not asked*: a cloud as far as the other servers, which holds what is nowhere.",
        "",
    ]
    for model in (real.DEEPSEEK, real.GPT):
        trace, source = (real.read_gpt if model == real.GPT else real.read_deepseek)(realdata)
        lines = []
        for share in SHARES:
            document = collaboration.document(Recipe(model, THREE, USERS[model], share), trace, source)
            lines += _lines(share, document)
            print(f"{model} {share} %", file=sys.stderr, flush=True)
        header = ["memory of a GPU", "method", "requests away", "rows away", "per token", "certified ratio", "seconds"]
        parts += [f"### {model}", "", table(header, lines), ""]
    return "\n".join([*parts, machine("numpy", "scipy", "ortools", "highspy")])


def _lines(share: int, document: dict[str, Any]) -> list[list[str]]:
    instance = Instance.from_document(document)
    best, seconds = timed(lambda: moeplace.solve(instance, "auto", time_limit=SECONDS, threads=THREADS))
    assert moeplace.check(instance, best).ok
    bound = best.objective.bound_ns
    assert bound is not None
    found = {"auto": measured(best, instance, seconds)}
    for method in PUBLISHED:
        solution, seconds = timed(partial(moeplace.solve, instance, method))
        assert moeplace.check(instance, solution).ok
        found[method] = measured(solution, instance, seconds)
    summed = Instance.from_document(document | {"latency_model": "sum"})
    solution, seconds = timed(lambda: moeplace.solve(summed, "flow"))
    assert solution.status.solution == "optimal"
    found["flow"] = measured(solution, instance, seconds)
    clouded = copy.deepcopy(document)
    for demand in clouded["demands"]:
        demand["cloud_ns"] = 1000 * AWAY_US
    free = Instance.from_document(clouded)
    solution, seconds = timed(lambda: moeplace.solve(free, "auto", time_limit=SECONDS, threads=THREADS))
    hits = Evaluation(free, solution.placement_on(free)).hits
    assert hits is not None
    ratio = solution.objective.saving_ratio
    names = {"flow": "`flow` (least frequency)", "auto": "`auto` (least latency)"}
    lines = [
        [
            f"{share} %",
            names.get(method, f"`{method}`"),
            f"{run['requests']:.3f}",
            f"{run['rows']:.3f}",
            f"{run['per token'] / 1e6:.3f} ms",
            f"{(instance.baseline_ns - run['latency']) / (instance.baseline_ns - bound):.4f}",
            f"{run['seconds']:.1f}",
        ]
        for method, run in ((method, found[method]) for method in (*PUBLISHED, "flow", "auto"))
    ]
    tokens = sum(demand.tokens for demand in free.demands)
    lines.append(
        [
            f"{share} %",
            "`auto`, coverage not asked",
            f"{hits.away[0]:.3f}",
            f"{hits.away[1]:.3f}",
            f"{solution.objective.latency_ns / tokens / 1e6:.3f} ms",
            f"{ratio:.4f} of its own bound",
            f"{seconds:.1f}",
        ]
    )
    return lines


def slots(realdata: Path, seconds: float = SECONDS) -> str:
    """Return the section on instances whose layers share nothing."""
    lines = []
    for name in SLOTS:
        instance = moeplace.load(
            Path(__file__).resolve().parents[2] / "instances" / "collaboration" / f"{name}.json.gz"
        )
        began, busy = time.monotonic(), time.process_time()
        solution = moeplace.solve(instance, "auto", time_limit=seconds, threads=THREADS)
        objective = solution.objective
        lines.append(
            [
                name,
                f"{objective.latency_ns / 1e9:.3f} s",
                f"{(objective.bound_ns or 0) / 1e9:.3f} s",
                f"{objective.gap or 0.0:.3%}",
                f"{objective.saving_ratio or 0.0:.4f}",
                solution.bound_source or "",
                f"{time.monotonic() - began:.0f}",
                f"{time.process_time() - busy:.0f}",
            ]
        )
        print(name, file=sys.stderr, flush=True)
    head = ["instance", "latency", "bound", "gap", "certified ratio", "bound by", "seconds", "of the processor"]
    return "\n".join(
        [
            "The instances with `layer_slots`, where nothing couples the layers and each is proven by itself",
            "([proof by layers](../layer-enumeration.md)); `auto` with 2 threads.",
            "",
            table(head, lines),
            "",
            machine("numpy", "scipy", "ortools", "highspy"),
        ]
    )


def drift(realdata: Path) -> str:
    """Return the section on policies over windows."""
    parts = [
        f"Each user's tokens cut into {WINDOWS} windows in their order; a GPU has memory for {DRIFT_SHARE} % of the",
        f"model and loads 2 x 10^9 bytes/s, while {WEIGHT} tokens wait. The first placement is made on the first",
        "window, which nobody pays on.",
        f"A decision is `auto` with {DECISION_S:.0f} s and {THREADS} threads. Per token: latency over all layers, what",
        "loading adds, both; bytes moved a window; and the *certified regret*: how far both are above the sum of the",
        "bounds on each window's latency, below which nobody can be whatever was in force before",
        "(docs/replay.md).",
        "",
    ]
    for model in (real.DEEPSEEK, real.GPT):
        trace, source = (real.read_gpt if model == real.GPT else real.read_deepseek)(realdata)
        recipe = Recipe(model, THREE, USERS[model], DRIFT_SHARE, loading=True, windows=WINDOWS)
        windows = [
            Instance.from_document(
                collaboration.document(replace(recipe, window=t), trace, source) | {"loading": {"weight": WEIGHT}}
            )
            for t in range(WINDOWS)
        ]
        parts += [f"### {model}", "", _replayed(windows), ""]
        print(model, file=sys.stderr, flush=True)
    return "\n".join([*parts, machine("numpy", "scipy", "ortools", "highspy")])


def _replayed(windows: list[Instance]) -> str:
    bounds: dict[str, int] = {}

    def decide(order: Order) -> Placement:
        here = order.instance()
        solution = moeplace.solve(here, "auto", time_limit=DECISION_S, threads=THREADS, start=order.start)
        bounds[order.key] = solution.bound
        return solution.placement_on(here)

    paid: dict[str, list[Payment]] = {policy: [] for policy in POLICIES}
    for step in replayed(windows, list(POLICIES), decide):
        paid[step.policy].append(step.payment)
    tokens = sum(int(window.tokens.sum()) for window in windows[1:])
    floor = sum(bounds[f"free-{t:03}"] for t in range(2, len(windows) + 1))
    lines = []
    for policy, payments in paid.items():
        latency, loading = (sum(getattr(p, key) for p in payments) for key in ("latency_ns", "loading_ns"))
        moved = sum(p.moved_bytes for p in payments) / len(payments) / 1e9
        away = sum(p.rows_away for p in payments) / sum(p.rows for p in payments)
        lines.append(
            [
                f"`{policy}`",
                f"{away:.3f}",
                *(f"{ns / tokens / 1e6:.3f} ms" for ns in (latency, loading, latency + loading)),
                f"{moved:.2f} GB",
                f"{(latency + loading - floor) / floor:.2%}",
            ]
        )
    return table(["policy", "rows away", "latency", "loading", "both", "moved a window", "certified regret"], lines)


SECTIONS: Final[dict[str, Callable[[Path], str]]] = {"coverage": coverage, "slots": slots, "drift": drift}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--realdata", type=Path, required=True, metavar="DIR", help="folder with the raw traces")
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("-o", "--output", type=Path, default=root / "docs" / "benchmarks" / "collaboration.md")
    options = parser.parse_args()
    for name in options.sections.split(","):
        write(options.output, {TITLES[name]: SECTIONS[name](options.realdata)}, list(TITLES.values()), HEAD)


if __name__ == "__main__":
    main()
