"""Measure what is lost when a placement found on one half of a trace serves the other half.

    python scripts/benchmarks/split.py --realdata DIR [-o docs/benchmarks/split.md]

Both real traces are imported twice, each with one half of every task's requests, around base stations in Melbourne.
A method places on one half; its placement is applied to the other half (``moeplace score``) and compared with what the
same method finds there. The same is done with generated routing of the same shape, half and half.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from pages import machine, save, table

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # the scripts that are no benchmarks

from instance_sets import real
from routing_statistics import Trace, read_traces

import moeplace
from moeplace import Instance
from moeplace.caching.scenarios.importing import Selection, import_traces
from moeplace.caching.scenarios.suites import Scenario
from moeplace.caching.scoring import Reference, score
from moeplace.scenarios.routing import Routing

METHODS: Final = ("popular", "successive-greedy", "local-search")
CAPACITY: Final = 60
STATIONS: Final = 8
USERS: Final = 24
MODELS: Final = {"gpt-oss-20b": "gpt-oss-20b", "DeepSeek-V2-Lite": "deepseek-v2-lite"}


def as_file(folder: Path, name: str, tasks: dict[str, list[np.ndarray]]) -> Path:
    """Write requests by task as the importer reads them."""
    path = folder / f"{name}.npz"
    requests = [(task, request) for task, own in tasks.items() for request in own]
    np.savez(
        path,
        experts=np.concatenate([request for _, request in requests]),
        lengths=np.array([len(request) for _, request in requests]),
        profile=np.array([task for task, _ in requests]),
    )
    return path


def generated(trace: Trace) -> dict[str, list[np.ndarray]]:
    """Return generated requests, as many and as long as the trace's."""
    layers, top_k = trace.joined()[0].shape[1:]
    router = Routing.draw(layers, trace.experts, top_k, tasks=len(trace.tasks), seed=7)
    rng = np.random.default_rng(7)
    return {
        name: [router.sample(task, len(request), rng).astype(np.uint8) for request in own]
        for task, (name, own) in enumerate(trace.tasks.items())
    }


def halves(path: Path, model: str, realdata: Path) -> list[Instance]:
    """Return the instances of the two halves."""
    scenario = Scenario(
        models=[model],
        stations=STATIONS,
        users=USERS,
        capacity=CAPACITY,
        station_file=str(realdata / real.STATIONS),
        user_file=str(realdata / real.USERS),
    )
    selections = (Selection(Fraction(1, 2)), Selection(Fraction(1, 2), rest=True))
    return [import_traces([path], scenario, selection=selection)[0] for selection in selections]


def measured(pair: list[Instance]) -> list[list[float]]:
    """Return for each method: saving on its own half, on the other, of the method there, share lost (mean)."""
    result = []
    for method in METHODS:
        solutions = [moeplace.solve(instance, method) for instance in pair]
        numbers = []
        for (made, here), (there, instance) in itertools.permutations(list(zip(solutions, pair, strict=True)), 2):
            reference = Reference(method, there.objective.latency_ns, None)
            said = score(instance, made, [reference])
            own = 1 - made.objective.latency_ns / here.baseline_ns
            best = 1 - there.objective.latency_ns / instance.baseline_ns
            numbers.append([own, said.saving, best, said.saving_lost or 0.0])
        result.append(np.mean(numbers, axis=0).tolist())
    return result


def main() -> int:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realdata", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/split.md"))
    options = parser.parse_args()
    if not options.realdata.is_dir():
        print(f"{options.realdata}: no such folder; --realdata names the one with the traces", file=sys.stderr)
        return 2
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for trace in read_traces(options.realdata):
            sources: list[tuple[str, Any]] = [("measured", trace.tasks), ("generated", generated(trace))]
            for kind, tasks in sources:
                path = as_file(Path(folder), f"{trace.name}-{kind}", tasks)
                found = measured(halves(path, MODELS[trace.name], options.realdata))
                for method, numbers in zip(METHODS, found, strict=True):
                    rows.append([trace.name, kind, method, *(f"{100 * number:.2f} %" for number in numbers)])
                    print(*rows[-1], flush=True)
    header = [
        "trace", "routing", "method", "saved on its own half", "saved on the other half",
        "saved by the method there", "lost of that",
    ]  # fmt: skip
    good = [row for row in rows if row[2] != "popular"]
    measured_most, generated_most = (
        max(float(row[-1].split()[0]) for row in good if row[1] == kind) for kind in ("measured", "generated")
    )
    text = f"""# Placements on traffic that they were not made for

How much of the saving is lost when a placement found on one half of a trace serves the other half? Found: with
`successive-greedy` and `local-search` at most {measured_most:.2f} % on measured routing and {generated_most:.2f} % on
generated routing, of what the same method saves when it knows the other half. `popular` saves little on either. Where
generated routing loses less than measured, its requests of one task are more alike than real ones.

Written by `scripts/benchmarks/split.py`. Each half has half of the requests of each task, chosen by a seed
(`moeplace import --fraction 0.5` and `--rest`), dealt to {USERS} users at {STATIONS} stations in Melbourne, which
together have room for {CAPACITY} % of the model's experts.

- *saved*: share of the latency with empty servers, on the half it is said of; each number is the mean of both ways,
  from the first half to the second and back;
- *lost of that* is below zero where the placement made elsewhere is better than the one the method finds there;
- *generated*: requests of the generator fitted to the trace, as many and as long. What is lost was not part of the
  fit, so that this compares the generator with measured routing in a way that it was not made for.

No method had a time limit.

{table(header, rows)}

{machine("numpy", "numba")}
"""
    save(options.output, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
