"""Measure the heuristics: quality against a proven bound, seconds at the scale of real traces, growth.

    python scripts/benchmarks/heuristics.py [--realdata DIR] [--sections quality,scale,kicks,...] [-o FILE]

``DIR`` holds the routing traces; what needs them is left out without it. A section that is run replaces the one of the
same title in the output file, the others stay.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from documents import DEEPSEEK, GPT, geometric_document, trace_document
from pages import machine, table, write
from scipy.optimize import linprog

from moeplace import Instance, Placement, Solution, latency_ns, solve
from moeplace.caching.saving import saving_form
from moeplace.caching.terms import aggregate


def saved(instance: Instance, solution: Solution) -> int:
    """Return baseline minus cost, token-ns."""
    return instance.baseline_ns - solution.objective.latency_ns


def lp_bound(instance: Instance) -> float:
    """Return the LP bound on the saving: maximise the aggregated terms over fractional placements (HiGHS)."""
    problem = aggregate(instance)
    pairs, need = problem.covers
    servers, items, n_pairs, terms = len(instance.servers), instance.n_items, len(pairs), problem.n_terms
    row, server = np.nonzero(problem.radius[pairs[:, 0]])
    term = np.repeat(np.arange(terms), np.diff(problem.term_start))
    each = np.arange(len(need))
    scale = 1e-6
    covered = [
        sp.csr_array((-np.ones(len(row)), (row, server * items + pairs[row, 1])), shape=(n_pairs, servers * items)),
        sp.eye_array(n_pairs),
        sp.csr_array((n_pairs, terms)),
    ]
    satisfied = [
        sp.csr_array((len(need), servers * items)),
        sp.csr_array((-np.ones(len(need)), (each, need)), shape=(len(need), n_pairs)),
        sp.csr_array((np.ones(len(need)), (each, term)), shape=(len(need), terms)),
    ]
    full = [
        sp.kron(sp.eye_array(servers), sp.csr_array(instance.item_bytes[None, :] * scale)),
        sp.csr_array((servers, n_pairs + terms)),
    ]
    matrix = sp.vstack([sp.hstack(covered), sp.hstack(satisfied), sp.hstack(full)]).tocsr()
    right = np.concatenate((np.zeros(n_pairs + len(need)), instance.capacity_bytes * scale))
    total = float(problem.term_weight.sum())
    gain = np.concatenate((np.zeros(servers * items + n_pairs), problem.term_weight / total))
    result = linprog(-gain, A_ub=matrix, b_ub=right, bounds=(0, 1), method="highs-ipm")
    if result.status != 0:
        raise RuntimeError(f"no LP bound: {result.message}")
    return float(-result.fun * total)


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("greedy", {}),
    ("max-convolution", {}),
    ("successive-greedy", {}),
    ("local-search", {}),
    ("local-search", {"kicks": 100}),
]


def label(method: str, parameters: dict[str, Any]) -> str:
    """Return a method with its parameters as the command line has them."""
    return " ".join([method, *(f"{key}={value}" for key, value in parameters.items())])


def quality() -> str:
    """Measure the saving as a share of the LP bound on seeded geometric instances."""
    families = {
        "12 layers x 8, top-2": {},
        "32 layers x 8, top-2": {"layers": 32},
        "12 layers x 16, top-1": {"experts": 16, "top_k": 1},
    }
    rows: list[list[object]] = []
    worst: dict[tuple[str, int], float] = {}
    for name, shape in families.items():
        top_k = shape.get("top_k", 2)
        for share in (0.2, 0.5):
            ratios: dict[str, list[float]] = {label(*m): [] for m in METHODS}
            for seed in range(5):
                instance = Instance.from_document(geometric_document(seed, share=share, **shape))
                bound = lp_bound(instance)
                for method, parameters in METHODS:
                    solution = solve(instance, method, **parameters)
                    ratios[label(method, parameters)].append(saved(instance, solution) / bound)
            cells = [f"{min(r):.4f} / {statistics.mean(r):.4f}" for r in ratios.values()]
            rows.append([name, share, *cells])
            for method, values in ratios.items():
                worst[method, top_k] = min(worst.get((method, top_k), 1.0), *values)
    found = ", ".join(f"`{m}` {worst[m, 2]:.4f} at top-2 and {worst[m, 1]:.4f} at top-1" for m in ratios)
    text = (
        "How much of the possible saving does each method reach, where a bound is known? Found, in the worst of all "
        f"instances: {found}. Greedy is near the bound where tokens wait for one expert and fails where they wait for "
        "two: an expert that helps only together with another one gains nothing alone.\n\n"
        "Saving divided by the LP bound on the saving (aggregated model, HiGHS): least / mean of five seeds. 5 "
        "servers, 30 users; each server has room for the given share of the model. The bound is not the optimum, so "
        "even an optimal placement may stay below 1.\n\n"
    )
    return text + table(["instance", "capacity", *(label(*m) for m in METHODS)], rows)


TRACE_HEADER = ["trace, capacity", "method", "seconds", "peak GiB", "saved of baseline", "saved of best here"]


def run_trace(realdata: Path, trace: str, share: float, reference: float) -> list[list[object]]:
    """Run the methods on one full trace (in a process of its own, for its peak memory)."""
    instance = Instance.from_document(trace_document(realdata, trace, users=50, stations=10, share=share))
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows: list[list[object]] = []
    results = []
    runs: list[tuple[str, dict[str, Any]]] = [*METHODS[:4]]
    if reference:
        runs = [("local-search", {}), ("local-search", {"kicks": 10**9, "time_limit": reference})]
    for method, parameters in runs:
        solution = solve(instance, method, **parameters)
        results.append(saved(instance, solution))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        name = f"local-search, {reference:.0f} s of kicks" if "time_limit" in parameters else label(method, parameters)
        rows.append([f"{trace}, {share}", name, f"{solution.wall_s:.1f}", f"{peak:.1f} ({loaded:.1f})"])
    for row, result in zip(rows, results, strict=True):
        row += [f"{result / instance.baseline_ns:.5f}", f"{result / max(results):.5f}"]
    return rows


def run_traces(realdata: Path, reference: float, shares: tuple[float, ...], traces: list[str]) -> list[list[object]]:
    """Run the methods on full traces, each trace in a new process, one after the other."""
    rows: list[list[object]] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = [pool.submit(run_trace, realdata, t, share, reference) for share in shares for t in traces]
        for future in futures:
            rows += future.result()
    return rows


def scale(realdata: Path) -> str:
    """Measure seconds, memory and saving on the full traces."""
    rows = run_traces(realdata, 0, (0.25, 0.6), [GPT, DEEPSEEK])
    slowest: dict[str, float] = {}
    for row in rows:
        slowest[str(row[1])] = max(slowest.get(str(row[1]), 0.0), float(str(row[2])))
    found = ", ".join(f"`{method}` {seconds} s" for method, seconds in slowest.items())
    peak = max(float(str(row[3]).split()[0]) for row in rows)
    text = (
        "How long do the methods take on a million rows of real routing, in how much memory, and how good are they "
        f"beside each other? Found, in the slowest case: {found}; all within {peak} GiB.\n\n"
        "The full traces of gpt-oss-20b (44,968 tokens x 24 layers, 1,079,232 rows) and DeepSeek-V2-Lite (33,279 x 26, "
        "865,254 rows), examples dealt round-robin to 50 users, 10 Melbourne stations, each with room for the given "
        "share of the model. Seconds are wall time after loading, one thread, compiled code cached. Memory is the peak "
        "of the process so far (in brackets: after loading the instance from Python lists).\n\n"
    )
    return text + table(TRACE_HEADER, rows)


def kicks(realdata: Path, reference: float, trace: str) -> str:
    """Compare the first local optimum with what kicks reach in a long time."""
    rows = run_traces(realdata, reference, (0.25,), [trace])
    text = (
        f"How far is the first local optimum of `local-search` from what {reference:.0f} seconds of it with kicks "
        f"reach, on the instance of the section above? Found: {1 - float(str(rows[0][-1])):.2%} of the saving.\n\n"
    )
    return text + table(TRACE_HEADER, rows)


def growing(realdata: Path | None) -> Iterator[tuple[str, list[tuple[int, dict[str, Any]]]]]:
    """Yield instances of doubling size, one dimension at a time."""
    if realdata is not None:
        tokens = [44_968 // 8, 44_968 // 4, 44_968 // 2, 44_968]
        yield "rows (gpt-oss-20b)", [(24 * t, trace_document(realdata, tokens=t)) for t in tokens]
        yield "users (gpt-oss-20b)", [(u, trace_document(realdata, users=u)) for u in (11, 22, 44, 88)]
        yield "servers (gpt-oss-20b)", [(s, trace_document(realdata, stations=s)) for s in (5, 10, 20, 40)]
    experts = (16, 32, 64, 128)
    yield "experts (geometric, top-2)", [(e, geometric_document(0, experts=e, tokens=500)) for e in experts]


def growth(realdata: Path | None) -> str:
    """Measure seconds while one dimension doubles, and the fitted exponent."""
    methods = ["max-convolution", "successive-greedy", "local-search"]
    rows: list[list[object]] = []
    exponents: dict[str, list[float]] = {}
    for name, documents in growing(realdata):
        seconds: dict[str, list[float]] = {m: [] for m in methods}
        merging, merged = [], []
        for _, document in documents:
            instance = Instance.from_document(document)
            began = time.perf_counter()
            merged.append(saving_form(instance).n_rows)
            merging.append(time.perf_counter() - began)
            for method in methods:
                seconds[method].append(min(_seconds(instance, method) for _ in range(2)))
        sizes = [size for size, _ in documents]
        shown = {"merging rows alone": merging, **seconds}
        for method, times in shown.items():
            exponent = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
            exponents.setdefault(name.split()[0], []).append(exponent)
            cells = [f"{t:.2f}" for t in times]
            rows.append([name, " ".join(map(str, sizes)), method, " ".join(cells), f"{exponent:.2f}"])
        rows.append([name, " ".join(map(str, sizes)), "merged rows", " ".join(map(str, merged)), ""])
    found = ", ".join(f"{max(values):.2f} in {name}" for name, values in exponents.items())
    text = (
        "How do seconds grow with the size of the instance? Found, the largest exponent of all methods: "
        f"{found}.\n\n"
        "Seconds (better of two runs, merging included) while one dimension doubles, the others fixed, and the "
        "exponent of the power law fitted to them. Methods run until nothing improves, so the number of passes "
        "varies too.\n\n"
    )
    return text + table(["what grows", "sizes", "method", "seconds", "exponent"], rows)


def _seconds(instance: Instance, method: str) -> float:
    seconds = solve(instance, method).wall_s
    assert seconds is not None
    return seconds


def lazy(realdata: Path | None) -> str:
    """Compare lazy with naive greedy."""
    documents = [geometric_document(0, layers=12, experts=16, top_k=1)]
    documents.append({**geometric_document(0, layers=12, experts=16, top_k=4), "latency_model": "sum"})
    documents.append(geometric_document(0))
    if realdata is not None:
        documents.append({**trace_document(realdata, users=50, stations=10, tokens=5000), "latency_model": "sum"})
    rows: list[list[object]] = []
    fewer: list[float] = []
    solve(Instance.from_document(documents[0]), "greedy")  # loads the compiled code
    for document in documents:
        instance = Instance.from_document(document)
        fast, slow = solve(instance, "greedy"), solve(instance, "greedy", lazy=False)
        same = "yes" if fast.placement == slow.placement else "no"
        counts = [f"{solution.details['evaluations']:,}" for solution in (fast, slow)]
        fewer.append(slow.details["evaluations"] / fast.details["evaluations"])
        name = f"{document['name']}, {document['latency_model']}"
        rows.append([name, *counts, f"{fast.wall_s:.2f}", f"{slow.wall_s:.2f}", same])
    same_everywhere = "everywhere" if all(row[-1] == "yes" for row in rows) else "not everywhere"
    text = (
        f"What does laziness save? Found: {min(fewer):.0f} to {max(fewer):.0f} times fewer gains are computed, the "
        f"placement is the same {same_everywhere}.\n\n"
        "The naive greedy computes every gain in every step.\n\n"
    )
    return text + table(["instance", "lazy gains", "naive gains", "lazy s", "naive s", "same placement"], rows)


def public_library() -> str:
    """Compare greedy with apricot's, on what both can state: one server, experts of equal size."""
    from apricot import FacilityLocationSelection

    rows: list[list[object]] = []
    ratios: list[float] = []
    # Both load their compiled code before anything is timed.
    solve(Instance.from_document(geometric_document(0)), "greedy")
    FacilityLocationSelection(2, metric="precomputed", optimizer="lazy").fit(np.diag([3.0, 2.0, 1.0]))
    for layers, experts in ((12, 16), (24, 32), (26, 64)):
        document = {**geometric_document(0, layers=layers, experts=experts, top_k=2), "latency_model": "sum"}
        document["servers"] = document["servers"][:1]
        for demand in document["demands"]:
            demand["server_ns"] = demand["server_ns"][:1]
        instance = Instance.from_document(document)
        ours = solve(instance, "greedy")
        room = int(instance.capacity_bytes[0] // instance.item_bytes[0])
        # Facility location over the experts: expert i serves its own requests and nobody else's.
        gain = np.zeros(instance.n_items)
        saved_per_token = np.maximum(instance.cloud_ns - instance.server_ns[:, 0], 0)
        size = np.diff(instance.rows.start)
        worth = np.repeat(instance.rows.count * saved_per_token[instance.rows.demand], size)
        np.add.at(gain, instance.rows.item, worth)
        began = time.perf_counter()
        selection = FacilityLocationSelection(room, metric="precomputed", optimizer="lazy")
        chosen = selection.fit(np.diag(gain)).ranking
        theirs_s = time.perf_counter() - began
        cached = np.zeros((1, instance.n_items), dtype=bool)
        cached[0, chosen] = True
        theirs = instance.baseline_ns - latency_ns(instance, Placement(cached))
        same = "yes" if theirs == saved(instance, ours) else "no"
        ratios.append(theirs_s / ours.wall_s)
        rows.append([f"{layers} x {experts}", room, f"{ours.wall_s:.3f}", f"{theirs_s:.3f}", same])
    text = (
        "Does `greedy` agree with a public library of submodular optimisation, and is it as fast? Found: "
        f"{'the same saving everywhere' if all(r[-1] == 'yes' for r in rows) else 'not the same saving'}; "
        f"the library takes {min(ratios):.1f} to {max(ratios):.1f} times as long.\n\n"
        f"apricot-select {version('apricot-select')}, facility location with lazy greedy, on one server under `sum` "
        "with experts of equal size: the only case of ours that it can state (it knows one budget of a number of "
        "elements, no storage per server and no sets that work only together). The saving is modular there, so this "
        "compares correctness and overhead, not reach. Its seconds are without preparing its matrix.\n\n"
    )
    return text + table(["layers x experts", "room", "greedy s", "apricot s", "same saving"], rows)


def exactness(realdata: Path | None) -> str:
    """Measure what exact value functions add to peeling."""
    documents = [geometric_document(0, experts=24, top_k=4, share=0.3), geometric_document(0, experts=8)]
    if realdata is not None:
        documents.append(trace_document(realdata, users=50, stations=10, share=0.25, tokens=2000))
        documents += [trace_document(realdata, t, users=50, stations=10, share=0.25) for t in (GPT, DEEPSEEK)]
    ways: list[dict[str, Any]] = [
        {"enumerate": 0, "nodes": 0},
        {"enumerate": 0, "nodes": 0, "cuts": True},
        {"enumerate": 0, "nodes": 10},
        {"enumerate": 0, "nodes": 200},
        {"enumerate": 16, "nodes": 0},
    ]
    rows: list[list[object]] = []
    largest = 0.0
    for document in documents:
        instance = Instance.from_document(document)
        savings = []
        for parameters in ways:
            s = solve(instance, "successive-greedy", **parameters)
            savings.append(saved(instance, s))
            ratio = f"{savings[-1] / instance.baseline_ns:.5f}"
            proven = [s.details["proven_values"], f"{s.details['exact_layers']} of {s.details['layers']}"]
            rows.append([document["name"], label("", parameters).strip(), f"{s.wall_s:.2f}", ratio, *proven])
        largest = max(largest, max(savings) / savings[0] - 1)
    text = (
        "Within a server, each layer has a value function h(q), what its best q experts save. Does it pay to have it "
        "exact? Found: the ways below prove more of its values to be the best, but placements hardly change: none "
        f"saves more than {largest:.3%} more than peeling alone.\n\n"
        "`successive-greedy` by peeling alone, with the envelope's corners from minimum cuts (`cuts`), with a branch "
        "and bound of `nodes` nodes for a layer and server once nothing improves, and with all sets tried in layers of "
        "at most `enumerate` experts. Proven: share of all values h(q), and layers in which all are.\n\n"
    )
    header = ["instance", "parameters", "seconds", "saved of baseline", "values proven", "layers proven"]
    return text + table(header, rows)


HEAD = """# Heuristics, measured

What `greedy`, `max-convolution`, `successive-greedy` and `local-search` reach, and in what time. A saving is the
latency of all tokens without any cache minus that with the placement; ratios are of savings.

Written by `scripts/benchmarks/heuristics.py`, each section by a run of its own; the line below a section names the
machine, the versions and how busy the machine was. Seconds are longer on a busy machine, and a time limit reaches less.
"""


def here() -> str:
    """Return the line about the machine."""
    return machine("numpy", "numba", "scipy", "ortools", threads="One process on one thread")


def main() -> None:
    """Run the sections asked for and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realdata", type=Path)
    parser.add_argument("--sections", default="quality,scale,kicks-gpt,kicks-deepseek,growth,lazy,library,exactness")
    parser.add_argument("--reference", type=float, default=600, help="seconds of kicks on the full traces")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/heuristics.md"))
    options = parser.parse_args()
    realdata = options.realdata
    known: dict[str, tuple[str, Callable[[], str]]] = {
        "quality": ("Quality against a proven bound", quality),
        "scale": ("Full traces", lambda: scale(realdata)),
        "kicks-gpt": ("Kicks, gpt-oss-20b", lambda: kicks(realdata, options.reference, GPT)),
        "kicks-deepseek": ("Kicks, DeepSeek-V2-Lite", lambda: kicks(realdata, options.reference, DEEPSEEK)),
        "growth": ("Growth", lambda: growth(realdata)),
        "lazy": ("Lazy and naive greedy", lambda: lazy(realdata)),
        "library": ("A public library", public_library),
        "exactness": ("Exact value functions", lambda: exactness(realdata)),
    }
    for name in options.sections.split(","):
        if name in ("scale", "kicks-gpt", "kicks-deepseek") and realdata is None:
            continue
        title, run = known[name]
        write(options.output, {title: f"{run()}\n\n{here()}"}, [title for title, _ in known.values()], HEAD)
        print(f"{title}: written to {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
