"""Fit the routing generator to the two measured traces and write its table.

    python scripts/fit_routing.py [--realdata DIR] [-o moeplace/scenarios/routing.json]

Each round draws a few routers from the present parameters, samples as many tokens of each task as were measured, and
moves every layer's parameters: the logit of a rank by the ratio of its popularities, the spread of the kinds of tokens
by the distinct sets, the part of it that is shared within groups by the lift of the top pair, the effect of families
by how much tasks differ, the weight of the request's subject by what neighbouring tokens share. The rest is the same
for all layers of a trace and stands in ``GLOBAL``. The result is the mean of the last rounds; it is compared with the
traces by ``benchmarks/routing.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from routing_statistics import Floats, Statistics, Trace, mean, measure, read_traces

from moeplace.base.files import write_bytes
from moeplace.scenarios.routing import UNIT, FittedRouting, Routing

ROOT = Path(__file__).resolve().parent.parent
ROUNDS: Final = 30
LAST: Final = 10
SEEDS: Final = 3

GLOBAL: Final[dict[str, dict[str, int]]] = {
    # One request of the generator has as many tokens as one of the trace (mean).
    "gpt-oss-20b": {
        "kinds": 256, "families": 8, "zipf": 128, "task_spread": 320, "family_spread": 512, "request": 511,
        "novelty": 40, "stay": 60000, "group": 4,
    },
    "DeepSeek-V2-Lite": {
        "kinds": 512, "families": 16, "zipf": 128, "task_spread": 384, "family_spread": 512, "request": 156,
        "novelty": 100, "stay": 60000, "group": 4,
    },
}  # fmt: skip


class Fit:
    """Parameters of one trace while they move; floats in the units of the table."""

    def __init__(self, trace: Trace, settings: dict[str, int]) -> None:
        self.trace, self.settings = trace, settings
        self.tasks = trace.joined()
        self.sizes = [len(task) for task in self.tasks]
        self.target = measure(self.tasks, trace.experts)
        self.layers, self.top_k = self.tasks[0].shape[1:]
        log = UNIT * np.log(np.maximum(self.target.popularity, 1e-5))
        self.base = log - log[:, :1]
        self.independent = self.base.copy()
        self.spread = np.full(self.layers, 1.5 * UNIT)
        self.together = np.full(self.layers, 0.3)  # share of the variance that a group has in common
        self.family = np.full(self.layers, 0.5 * UNIT)
        self.context = np.full(self.layers, 0.3)

    def table(self, values: tuple[Floats, ...] | None = None) -> FittedRouting:
        """Return the parameters as they would be written."""
        base, independent, spread, together, family, context = values or self.values()

        def whole(x: Floats) -> list[Any]:
            rounded: list[Any] = np.rint(x).astype(int).tolist()
            return rounded

        trace = self.trace
        return FittedRouting(
            name=trace.name,
            origin=trace.origin,
            licence=trace.licence,
            layers=self.layers,
            experts=trace.experts,
            top_k=self.top_k,
            tokens=sum(self.sizes),
            **self.settings,
            own=whole(spread * np.sqrt(1 - together)),
            shared=whole(spread * np.sqrt(together)),
            family=whole(family),
            context=whole(context * 65536),
            base=whole(base - base[:, :1]),
            independent=whole(independent - independent[:, :1]),
        )

    def values(self) -> tuple[Floats, ...]:
        """Return what moves."""
        return self.base, self.independent, self.spread, self.together, self.family, self.context

    def generated(self, seeds: range, kind: str = "measured", table: FittedRouting | None = None) -> Statistics:
        """Return the mean statistics of routers drawn with the present parameters."""
        return mean([sampled(table or self.table(), self.sizes, seed, kind) for seed in seeds])

    def move(self, round_: int, rounds: int) -> None:
        """Improve every parameter a little; the steps are halved in the second half."""
        rate = 0.7 if round_ < rounds // 2 else 0.35
        seeds = range(1000 + SEEDS * round_, 1000 + SEEDS * (round_ + 1))
        now, want = self.generated(seeds), self.target
        self.base += rate * UNIT * _step(want.popularity, now.popularity)
        self.spread *= (now.distinct / want.distinct) ** rate
        self.spread = np.clip(self.spread, 0.1 * UNIT, 8 * UNIT)
        self.together = np.clip(self.together + rate * 0.3 * np.log(want.lift / now.lift), 0, 0.98)
        self.family = np.clip(self.family * (want.divergence / now.divergence) ** rate, 0.05 * UNIT, 2.5 * UNIT)
        self.context = np.clip(self.context + rate * 0.5 * (want.overlap - now.overlap) / self.top_k, 0, 0.98)
        alone = self.generated(seeds[:1], "independent")
        # Kinds of tokens shuffle the ranks anyway. Without them two ranks that change places would get each other's
        # steps without end, so that these logits stay sorted.
        moved = self.independent + rate * UNIT * _step(want.popularity, alone.popularity)
        self.independent = -np.sort(-moved, axis=1)

    def run(self, rounds: int = ROUNDS) -> FittedRouting:
        """Return the fitted table."""
        kept: list[tuple[Floats, ...]] = []
        for round_ in range(rounds):
            self.move(round_, rounds)
            if round_ >= rounds - LAST:
                kept.append(tuple(value.copy() for value in self.values()))
        return self.table(tuple(np.mean(values, axis=0) for values in zip(*kept, strict=True)))


def _step(want: Floats, now: Floats) -> Floats:
    """Return by how much the logits of the ranks are too small."""
    # Ranks that hardly any token uses are noise; they follow as far as one use in 10,000 tokens.
    return np.asarray(np.log(np.maximum(want, 1e-4) / np.maximum(now, 1e-4)))


def sampled(table: FittedRouting, sizes: list[int], seed: int, kind: str = "measured") -> Statistics:
    """Return the statistics of one router drawn from a table, with the given numbers of tokens of its tasks."""
    routing = Routing(table, table.layers, table.experts, table.top_k, tasks=len(sizes), seed=seed, kind=kind)
    rng = np.random.default_rng([seed, 1])
    return measure([routing.sample(task, tokens, rng) for task, tokens in enumerate(sizes)], table.experts)


def deviations(now: Statistics, want: Statistics) -> dict[str, float]:
    """Return the median relative deviation of each statistic."""
    return {
        name: float(np.median(abs(getattr(now, name) / np.maximum(getattr(want, name), 1e-9) - 1)))
        for name in ("popularity", "lift", "distinct", "overlap", "divergence")
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Fit the routing generator to the measured traces.")
    parser.add_argument("--realdata", type=Path, default=ROOT.parent / "shared" / "realdata")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "moeplace" / "scenarios" / "routing.json")
    options = parser.parse_args(arguments)
    if not options.realdata.is_dir():
        print(f"{options.realdata}: no such folder; --realdata names the one with the traces", file=sys.stderr)
        return 2
    tables = []
    for trace in read_traces(options.realdata):
        fit = Fit(trace, GLOBAL[trace.name])
        table = fit.run()
        tables.append(table)
        now = fit.generated(range(5), table=table)
        print(trace.name, {name: round(value, 3) for name, value in deviations(now, fit.target).items()})
    write_bytes(options.output, layout(tables))
    return 0


def layout(tables: list[FittedRouting]) -> bytes:
    """Return the table as JSON, one line a key and one a layer's curve."""
    parts = []
    for table in tables:
        lines = []
        for key, value in msgspec.to_builtins(table).items():
            if key in ("base", "independent"):
                curves = ",\n".join("    " + json.dumps(curve, separators=(",", ":")) for curve in value)
                lines.append(f'  "{key}": [\n{curves}\n  ]')
            else:
                lines.append(f'  "{key}": {json.dumps(value)}')
        parts.append("{\n" + ",\n".join(lines) + "\n}")
    return ("[" + ",\n".join(parts) + "]\n").encode()


if __name__ == "__main__":
    sys.exit(main())
