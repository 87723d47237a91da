"""Compare generated routing with the two measured traces, per layer, and draw both side by side.

    python scripts/benchmarks/routing.py --realdata DIR [--sections fit,held-out,mixtral,speed] [-o FILE]

``DIR`` holds the traces. Pictures go beside the page; drawing them needs matplotlib. A section that is run replaces the
one of the same title in the page, the others stay.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from pages import machine, table, write

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # the scripts that are no benchmarks

from fit_routing import GLOBAL, Fit, deviations, sampled
from routing_statistics import Floats, Statistics, Trace, mean, measure, read_traces

from moeplace.scenarios.routing import FittedRouting, Routing, fitted

SEEDS: Final = range(100, 116)
"""Routers that are compared; the fit used others."""

HELD_OUT_ROUNDS: Final = 12

NAMES: Final = {
    "popularity": "popularity curve",
    "lift": "top-pair lift",
    "distinct": "distinct sets per 1,000 tokens",
    "overlap": "experts shared with the token before",
    "divergence": "tasks' distance from the mean profile",
}

HEAD = """# Generated routing against measured routing

What `moeplace.scenarios.routing` generates, beside the two traces that it was fitted to. Written by
`scripts/benchmarks/routing.py`, each section by a run of its own; the fit itself is `scripts/fit_routing.py`.

Compared at each layer:

- *popularity curve*: share of the tokens that use an expert, experts sorted by it; one number a rank;
- *top-pair lift*: how many times as frequent the most frequent pair of experts is as if they were independent;
- *distinct sets per 1,000 tokens*: different sets of experts in 1,000 consecutive tokens of one task, mean of blocks;
- *experts shared with the token before*, mean, and *tasks' distance from the mean profile*: total variation between the
  popularity in a task and in all tasks together, mean of the tasks.

A deviation is |generated / measured - 1|; the tables give medians over layers (and ranks).
"""


def deviation_row(label: str, now: Statistics, want: Statistics) -> list[str]:
    """Return a row of a table of deviations."""
    found = deviations(now, want)
    return [label, *(f"{100 * found[name]:.1f} %" for name in NAMES)]


def runs(fit: FittedRouting, trace: Trace, kind: str = "measured", seeds: range = SEEDS) -> list[Statistics]:
    """Return the statistics of several routers, with as many tokens of each task as the trace has."""
    return [sampled(fit, [len(task) for task in trace.joined()], seed, kind) for seed in seeds]


def typical(several: list[Statistics], want: Statistics, label: str) -> list[str]:
    """Return a row with the median over routers of each router's own deviation."""
    each = [deviations(one, want) for one in several]
    return [label, *(f"{100 * float(np.median([one[name] for one in each])):.1f} %" for name in NAMES)]


def fit_section(traces: list[Trace], folder: Path) -> str:
    """Compare the fitted table with the traces it was fitted to."""
    parts, drawn, worst = [], [], 0.0
    for trace, fit in zip(traces, fitted(), strict=True):
        want = measure(trace.joined(), trace.experts)
        several, alone = runs(fit, trace), mean(runs(fit, trace, "independent", SEEDS[:2]))
        now = mean(several)
        worst = max(worst, *(deviations(now, want)[name] for name in ("popularity", "lift", "distinct")))
        halves = [measure(trace.half(part).joined(), trace.experts) for part in (0, 1)]
        rows = [
            deviation_row(f"**generated**, mean of {len(several)} routers", now, want),
            typical(several, want, "generated, one router"),
            deviation_row("experts independent", alone, want),
            deviation_row("one half of the trace against the other", *halves),
        ]
        drawn.append((trace, want, several, alone))
        parts.append(
            f"### {trace.name}\n\n{fit.layers} layers of {fit.experts} experts, top-{fit.top_k}; {fit.tokens:,} tokens "
            f"in {len(trace.tasks)} tasks. {trace.origin}, {trace.licence}.\n\n"
            + table(["median deviation", *NAMES.values()], rows)
            + "\n\n"
            + layers_table(want, several, alone)
        )
    picture_of_layers(drawn, folder / "routing_layers.png")
    picture_of_popularity(drawn, folder / "routing_popularity.png")
    return (
        f"Found: popularity curve, top-pair lift and distinct sets are within {100 * worst:.1f} % in the median, on "
        "both traces; experts that are independent of each other miss the lift and the distinct sets by far. These are "
        "the traces that the table was fitted to (in-sample), with other seeds than the fit's. A single router differs "
        "more than the mean of many, above all in the lift, which is that of one pair a layer.\n\n"
        "![Popularity curves, measured and generated](routing_popularity.png)\n\n"
        "![Lift and distinct sets by layer, measured and generated](routing_layers.png)\n\n" + "\n\n".join(parts)
    )


def layers_table(want: Statistics, several: list[Statistics], alone: Statistics) -> str:
    """Return the comparison layer by layer; generated numbers with the least and the most of the routers."""
    now = mean(several)

    def spread(values: list[Floats], layer: int, digits: int) -> str:
        own = [float(value[layer]) for value in values]
        return f"{np.mean(own):.{digits}f} ({min(own):.{digits}f}-{max(own):.{digits}f})"

    rows = []
    for layer in range(len(want.lift)):
        off = np.median(abs(now.popularity[layer] / np.maximum(want.popularity[layer], 1e-9) - 1))
        rows.append([
            str(layer),
            f"{want.popularity[layer][0]:.3f}",
            spread([s.popularity[:, 0] for s in several], layer, 3),
            f"{100 * off:.0f} %",
            f"{want.lift[layer]:.2f}",
            spread([s.lift for s in several], layer, 2),
            f"{alone.lift[layer]:.2f}",
            f"{want.distinct[layer]:.0f}",
            spread([s.distinct for s in several], layer, 0),
            f"{alone.distinct[layer]:.0f}",
        ])  # fmt: skip
    header = [
        "layer", "top expert measured", "generated", "curve off by", "lift measured", "generated", "independent",
        "distinct measured", "generated", "independent",
    ]  # fmt: skip
    return table(header, rows)


def held_out_section(traces: list[Trace]) -> str:
    """Fit to one half of each trace and compare with the other half."""
    rows, worst = [], 0.0
    for trace in traces:
        first, second = trace.half(0), trace.half(1)
        fit = Fit(first, GLOBAL[trace.name]).run(HELD_OUT_ROUNDS)
        want = measure(second.joined(), trace.experts)
        now = mean(runs(fit, second))
        worst = max(worst, *(deviations(now, want)[name] for name in ("popularity", "lift", "distinct")))
        rows.append(deviation_row(f"{trace.name}: generated against the other half", now, want))
        other = measure(first.joined(), trace.experts)
        rows.append(deviation_row(f"{trace.name}: one half against the other", other, want))
    return (
        "Does it hold for tokens that the fit has not seen? The table is fitted anew (in fewer rounds) to every second "
        "request of each task and compared with the other requests; the settings that all layers share were chosen on "
        "whole traces. "
        f"Found: at most {100 * worst:.1f} % in the median for popularity curve, lift and distinct sets. Both halves "
        "are of the same tasks and sources; another workload may differ more.\n\n"
        + table(["median deviation", *NAMES.values()], rows)
    )


def mixtral_section(realdata: Path) -> str:
    """Compare an extrapolated shape with the only other numbers at hand: Mixtral's popularity."""
    frequencies = np.load(realdata / "mixtral-8x7b_frequencies" / "expert_frequencies.npy") * 2
    want = np.sort(frequencies, axis=1)[:, ::-1]
    curves = []
    for seed in SEEDS:
        router = Routing.draw(32, 8, 2, tasks=4, seed=seed)
        rng = np.random.default_rng(seed)
        tokens = np.concatenate([router.sample(task, 5000, rng) for task in range(4)])
        share = [np.bincount(tokens[:, layer].ravel(), minlength=8) / len(tokens) for layer in range(32)]
        curves.append(np.sort(share, axis=1)[:, ::-1])
    now = np.mean(curves, axis=0)
    rows = [
        [str(rank), f"{want[:, rank].mean():.3f}", f"{now[:, rank].mean():.3f}",
         f"{100 * np.median(abs(now[:, rank] / want[:, rank] - 1)):.0f} %"]
        for rank in range(8)
    ]  # fmt: skip
    return (
        "How good is the extrapolation to another shape? The one independent number at hand: how often mixtral-8x7b's "
        "experts are used (32 layers of 8, top-2; the workload is not documented). The generator takes gpt-oss-20b's "
        "curves by relative rank and depth, and was not fitted to Mixtral. Found: a median deviation of "
        f"{100 * np.median(abs(now / want - 1)):.0f} % over ranks and layers; a layer's most popular expert serves "
        f"{100 * want[:, 0].mean():.0f} % of the tokens as measured and {100 * now[:, 0].mean():.0f} % as generated. "
        "Pairs and sets cannot be compared. So generated routing of any other shape than the two measured ones is an "
        "extrapolation, and this is the only check of it.\n\n"
        + table(["rank", "measured share of tokens", "generated", "median deviation over layers"], rows)
    )


def speed_section() -> str:
    """Measure how fast tokens are drawn."""
    rows = []
    for name, shape in (
        ("gpt-oss-20b", (24, 32, 4)),
        ("DeepSeek-V2-Lite", (26, 64, 6)),
        ("mixtral-8x7b", (32, 8, 2)),
        ("qwen3-30b", (48, 128, 8)),
        ("DeepSeek-V3", (58, 256, 8)),
    ):
        Routing.draw(2, 4, 1, tasks=1, seed=0).sample(0, 10, np.random.default_rng(0))  # loads the compiled loops
        began = time.process_time()
        router = Routing.draw(*shape, tasks=4, seed=1)
        drawn = time.process_time() - began
        tokens = 1_000_000 // shape[0]
        began = time.process_time()
        router.sample(0, tokens, np.random.default_rng(1))
        seconds = time.process_time() - began
        layers, experts, top_k = shape
        rate = tokens * layers / seconds
        rows.append([name, f"{layers} x {experts}, top-{top_k}", f"{drawn:.2f}", f"{rate / 1e6:.1f}"])
    return "How long does it take? Processor time, one thread; a row is one token at one layer.\n\n" + table(
        ["shape of", "layers x experts", "drawing the router s", "million rows/s"], rows
    )


def picture_of_layers(drawn: list[tuple[Trace, Statistics, list[Statistics], Statistics]], path: Path) -> None:
    """Draw lift and distinct sets by layer."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(drawn), figsize=(11, 6.2), sharex="col", layout="constrained")
    for column, (trace, want, several, alone) in enumerate(drawn):
        for row, (name, text) in enumerate((("lift", "top-pair lift"), ("distinct", "distinct sets per 1,000 tokens"))):
            axis = axes[row][column]
            _compare(axis, getattr(want, name), [getattr(s, name) for s in several])
            axis.plot(getattr(alone, name), color="#b5651d", linestyle=":", linewidth=1.6, label="experts independent")
            axis.set_ylim(bottom=0)
            axis.set_ylabel(text)
            axis.grid(alpha=0.25)
            if row == 0:
                axis.set_title(trace.name)
            else:
                axis.set_xlabel("layer")
    axes[0][0].legend(frameon=False, fontsize=9, loc="upper right")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def picture_of_popularity(drawn: list[tuple[Trace, Statistics, list[Statistics], Statistics]], path: Path) -> None:
    """Draw the popularity curves of four layers of each trace."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(drawn), 4, figsize=(12, 5.8), sharey="row", layout="constrained")
    for row, (trace, want, several, _) in enumerate(drawn):
        layers = len(want.lift)
        for column, layer in enumerate((0, layers // 3, 2 * layers // 3, layers - 1)):
            axis = axes[row][column]
            _compare(axis, want.popularity[layer], [s.popularity[layer] for s in several])
            axis.set_title(f"{trace.name}, layer {layer}", fontsize=10)
            axis.grid(alpha=0.25)
            if column == 0:
                axis.set_ylabel("share of tokens")
            if row == len(drawn) - 1:
                axis.set_xlabel("rank of the expert")
        axes[row][0].set_ylim(bottom=0)  # all of a row share it, so that it comes after the last curve
    axes[0][3].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _compare(axis: Any, want: Floats, several: list[Floats]) -> None:
    x = np.arange(len(want))
    least, most = np.min(several, axis=0), np.max(several, axis=0)
    axis.fill_between(x, least, most, color="#3b76af", alpha=0.22, linewidth=0, label="generated, all routers")
    axis.plot(x, np.mean(several, axis=0), color="#3b76af", linewidth=1.8, label="generated, mean")
    axis.plot(x, want, color="black", linewidth=1.4, marker="o", markersize=2.6, label="measured")


def main() -> int:
    """Run the sections asked for and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realdata", type=Path, required=True)
    parser.add_argument("--sections", default="fit,held-out,mixtral,speed")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/benchmarks/routing.md"))
    options = parser.parse_args()
    if not options.realdata.is_dir():
        print(f"{options.realdata}: no such folder; --realdata names the one with the traces", file=sys.stderr)
        return 2
    traces = read_traces(options.realdata)
    known: dict[str, tuple[str, Callable[[], str]]] = {
        "fit": ("Side by side", lambda: fit_section(traces, options.output.parent)),
        "held-out": ("Held out", lambda: held_out_section(traces)),
        "mixtral": ("Another shape", lambda: mixtral_section(options.realdata)),
        "speed": ("Speed", speed_section),
    }
    titles = [title for title, _ in known.values()]
    for name in options.sections.split(","):
        title, run = known[name]
        body = run()
        write(options.output, {title: f"{body}\n\n{machine('numpy', 'numba')}"}, titles, HEAD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
