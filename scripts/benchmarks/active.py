"""Benchmark of active experts: the front's growth, exact methods, heuristics over budgets, the roofline beside figures.

The last two need the raw traces (see ``instances/real/README.md``). Sections are written one by one::

    python scripts/benchmarks/active.py [growth] [methods] [heuristics] [roofline] --realdata REALDATA
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pages import machine, save, table, write

import moeplace
from moeplace.active.comparison import Compared, compare
from moeplace.active.front import USUAL, front
from moeplace.active.instance import Instance
from moeplace.active.pictures import front_picture
from moeplace.active.scenarios.assembly import Assembled, device, served
from moeplace.active.scenarios.importing import import_trace
from moeplace.base.errors import MethodLimitError
from moeplace.base.files import write_bytes
from moeplace.base.style import drawing, rendered
from moeplace.base.text import gap_percent

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "active.md"
TITLES = {
    "growth": "The front: seconds, points, memory",
    "methods": "Exact methods on the largest of these",
    "heuristics": "How far heuristics are from the front",
    "roofline": "The roofline beside published throughputs",
}
HEAD = """# Active experts

Written by `scripts/benchmarks/active.py`; the problem, its methods and words are on [its page](../active.md).
"""
TRACES = {
    "gpt-oss-20b": ("gpt-oss-20b_expertfingerprinting", "h100-sxm"),
    "deepseek-v2-lite": ("deepseek-v2-lite_esft", "a100-80gb"),
}
TOP_K = 8


# --- the front ------------------------------------------------------------------------------------------------


def drawn(kind: str, layers: int, resolution: int, seed: int = 1) -> Instance:
    """Return an instance of 8 active experts whose losses are up to ``resolution``, times up to a million.

    Parameters
    ----------
    kind : {"random", "convex", "correlated", "exchange"}
        Sorted random numbers; each further expert takes less and saves less; losses that times nearly follow (within
        one percent); times that are the losses' exact complement, so that every sum of losses is a point.
    """
    rng = np.random.default_rng(seed)
    shape = (layers, TOP_K)
    if kind == "convex":
        time_ns = np.cumsum(rng.integers(1, 10**6 // TOP_K, shape) * np.linspace(2, 0.5, TOP_K), axis=1).astype(
            np.int64
        )
        share = np.exp(-rng.uniform(0.2, 0.8, (layers, 1)) * np.arange(TOP_K))
        weight = rng.exponential(1, (layers, 1)) * np.cumsum(share[:, ::-1], axis=1)[:, ::-1]
        kept = (weight / weight.max() * resolution).astype(np.int64)
        loss = np.concatenate((kept[:, 1:], np.zeros((layers, 1), dtype=np.int64)), axis=1)
    else:
        loss = -np.sort(-rng.integers(0, resolution, shape), axis=1)
        time_ns = np.sort(rng.integers(0, 10**6, shape), axis=1)
        if kind in ("correlated", "exchange"):
            time_ns = resolution - loss
        if kind == "correlated":
            time_ns = time_ns * 100 + rng.integers(0, resolution + 1, shape)
    return Instance.from_document({
        "format": "moeplace/active-experts", "version": 1, "name": f"{kind}-{layers}-{resolution}",
        "model": {"name": "drawn", "layers": layers, "experts": 256, "top_k": TOP_K}, "time_ns": time_ns.tolist(),
        "loss": loss.tolist(), "fixed_ns": 0, "tokens_per_step": 1,
        "loss_budget": int(loss.max(axis=1).sum()) * 3 // 10,
    })  # fmt: skip


def growth() -> str:
    """Return the section on the front's growth."""
    front(drawn("random", 2, 10))  # compiled now, not in the first measurement
    rows = []
    for kind in ("random", "convex", "correlated", "exchange"):
        for layers, resolution in ((15, 10**6), (30, 10**6), (61, 10**3), (61, 10**4), (61, 10**5), (61, 10**6),
                                   (100, 10**6)):  # fmt: skip
            if kind == "exchange" and resolution > 10**5:
                continue  # tens of millions of points a layer: see the text
            instance = drawn(kind, layers, resolution)
            try:
                began = time.perf_counter()
                found = front(instance)
                seconds = time.perf_counter() - began
                tracemalloc.start()
                front(instance)
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                cells = [f"{seconds:.2f}", f"{len(found):,}", f"{found.kept:,}", f"{peak / 1e6:,.0f}"]
            except MethodLimitError as error:
                cells = ["-", "-", error.reason, "-"]
            rows.append([kind, layers, f"{resolution:,}", *cells])
            print(*rows[-1], flush=True)
    head = ["kind", "layers", "losses up to", "seconds", "points", "points of all prefixes", "peak MB"]
    return f"""{machine("numpy", "numba", threads="one thread")}

`random`: sorted random times and losses. `convex`: each further expert takes less time and saves less loss, as
rooflines and router weights have it. `correlated`: times follow the losses within one percent, the usual hard
knapsacks. `exchange`: time is exactly what is not lost, so that every sum of losses is a point of the front and its
size is that of the losses' range, the worst there is; with losses up to a million it would be tens of millions of
points, more than are held ({USUAL.most_points:,} of all prefixes together): it is refused, and one budget of it solved
below.

{table(head, rows)}
"""


def methods(limit: float = 60) -> str:
    """Return the section on exact methods."""
    rows = []
    for kind in ("random", "convex", "correlated", "exchange"):
        instance = drawn(kind, 61, 10**6)
        for name in ("auto", "front", "layers", "milp", "cpsat"):
            if kind == "exchange" and name == "front":
                rows.append([kind, name, "refused: too many points", "-", "-"])
                continue
            solution = moeplace.solve(instance, name, time_limit=limit)
            said = gap_percent(solution.gap)
            rows.append([kind, name, solution.status.termination.replace("_", " "), f"{solution.wall_s:.2f}", said])
            print(*rows[-1], flush=True)
    return f"""{machine("highspy", "ortools", "numba", threads="one thread")}

61 layers x 8, losses up to a million, a budget of 30 % of the largest loss there is, at most {limit:g} s.

{table(["kind", "method", "ended", "seconds", "own gap"], rows)}
"""


# --- traces ---------------------------------------------------------------------------------------------------


def loads(
    realdata: Path, model: str, requests: list[int], hardware: str | None = None, fixed_ns: int = 0
) -> list[Assembled]:
    """Return instances of a trace, one a load."""
    folder, usual = TRACES[model]
    return import_trace(
        realdata / folder / "topk_experts.npz", served(model=model), device(hardware or usual, None, None), requests,
        gates=realdata / folder / "gates.npz", fixed_ns=fixed_ns,
    ).made  # fmt: skip


BUDGETS = (10_000, 20_000, 50_000, 100_000, 200_000, 400_000)
HEURISTICS = ("greedy", "schedule", "uniform")


def heuristics(realdata: Path) -> str:
    """Return the section on heuristics, and draw two fronts."""
    parts = [machine("numpy"), ""]
    parts.append(
        "Router weight as the loss, parts per million of all layers; time by the roofline of the device named. A cell "
        "is the largest excess over the front's time that a heuristic has at budgets of 1, 2, 5, 10, 20 and 40 %, and "
        "the mean; the last column how much less time the front needs at a loss of 5 % than all experts."
    )
    for model, (_, hardware) in TRACES.items():
        rows = []
        for made in loads(realdata, model, [1, 2, 8, 32, 128, 512]):
            instance = made.instance
            compared = compare(instance)
            looks = [compared.look(budget) for budget in BUDGETS]
            cells = []
            for name in HEURISTICS:
                found = [look.excess[name] for look in looks]
                known = [value for value in found if value is not None]
                cells.append(f"{gap_percent(max(known))}, {gap_percent(sum(known) / len(known))}")
            full = int(instance.time_ns[:, -1].sum())
            five = looks[BUDGETS.index(50_000)].time_ns
            rows.append([instance.tokens_per_step, f"{len(compared.front):,}", *cells, f"{1 - five / full:.1%}"])
            if instance.tokens_per_step == 32:
                parts.append(f"\n### {model} on {hardware}\n\n![Front of {model} at 32 requests](active/{model}.svg)\n")
                parts.append(_over_budgets(compared))
                draw(compared, model)
        parts.append(
            "\n" + table(["requests", "points", *(f"{name}: worst, mean" for name in HEURISTICS), "5 % buys"], rows)
        )
    return "\n".join(parts)


def _over_budgets(compared: Compared) -> str:
    rows = []
    for budget in BUDGETS:
        look = compared.look(budget)
        rows.append([f"{budget / 10_000:g} %", f"{look.time_ns / 1e6:.3f}",
                     *(gap_percent(look.excess[name]) for name in HEURISTICS)])  # fmt: skip
    return "At 32 requests, over the budgets:\n\n" + table(["loss", "front, ms a step", *HEURISTICS], rows)


def draw(compared: Compared, model: str) -> None:
    """Draw a front."""
    path = PAGE.parent / "active" / f"{model}.svg"
    path.parent.mkdir(exist_ok=True)
    with drawing():
        write_bytes(path, rendered(front_picture(compared, f"{model}, 32 requests at once"), "svg"))


# --- the roofline ---------------------------------------------------------------------------------------------

PUBLISHED = {2: (479, 631), 8: (1041, 1581), 32: (2345, 3069), 128: (5591, 6126), 256: (7263, 7846), 512: (9379, 10954)}
"""Tokens a second of V2-Lite by requests at once, with 6 and with 2 active experts (arXiv 2505.03531)."""

OTHER_WEIGHTS = {
    "attention, 27 layers": 27 * (2048 * 16 * 192 + 2048 * 576 + 512 * 16 * 256 + 16 * 128 * 2048),
    "shared experts, 26 layers of 2": 26 * 2 * 3 * 2048 * 1408,
    "dense first layer": 3 * 2048 * 10944,
    "head": 102400 * 2048,
}
"""Weights of V2-Lite that every step reads besides its routed experts, by the 16B configuration in the repository
deepseek-ai/DeepSeek-V3 (inference/configs, commit 9b4e9788)."""


def roofline(realdata: Path) -> str:
    """Return the section on published throughputs."""
    weights = sum(OTHER_WEIGHTS.values())
    listed = "; ".join(f"{name} {number / 1e6:,.0f} million" for name, number in OTHER_WEIGHTS.items())
    parts = [
        machine("numpy"),
        "",
        f"""Published: DeepSeek-V2-Lite, tokens a second with 6 and with 2 active experts in all layers, by requests at
once (arXiv 2505.03531). The device is not known to us; two are tried.

*Assumed*: bf16; routed experts by (E4), distinct ones counted on the ESFT trace, which is of other texts than theirs;
besides, every step reads {weights / 1e9:.2f} billion other weights ({listed}), by the same roofline. *Left out*: the KV
cache, starting of kernels, everything between devices, what is read but not computed at the peak. So speeds are upper
ones; what is compared is the gain from 6 to 2 experts.
""",
    ]
    for hardware in ("a100-80gb", "h100-sxm"):
        on = device(hardware, None, None)
        rows = []
        for made in loads(realdata, "deepseek-v2-lite", list(PUBLISHED), hardware):
            batch = made.instance.tokens_per_step
            other = max(2 * weights / on.bytes_per_s, 2 * batch * weights / on.flops) * 1e9
            six, two = (int(made.instance.time_ns[:, k - 1].sum()) for k in (6, 2))
            measured = PUBLISHED[batch]
            step = batch * 1e9 / measured[0]  # ns, as published
            rest = step - six
            alone, whole = six / two, (six + other) / (two + other)
            fitted = step / (step - six + two)
            reading = [load.reading for load in made.loads if load.k in (2, 6)]
            rows.append([
                batch, f"{made.loads[5].distinct:.1f}, {made.loads[1].distinct:.1f}",
                f"{six / 1e6:.2f}, {two / 1e6:.2f}", f"{other / 1e6:.2f}", f"{min(reading):.0%}",
                f"{batch * 1e9 / (six + other):,.0f}", f"{measured[0]:,}", f"{rest / 1e6:.2f}",
                f"{alone - 1:+.0%}", f"{whole - 1:+.0%}", f"{fitted - 1:+.0%}" if rest > 0 else "-",
                f"{measured[1] / measured[0] - 1:+.0%}",
            ])  # fmt: skip
            print(*rows[-1], flush=True)
        head = [
            "requests", "distinct, k=6, 2", "experts ms, k=6, 2", "other ms", "reading", "tokens/s k=6", "published",
            "unexplained ms", "gain, experts alone", "gain with the other weights", "gain with the unexplained",
            "published gain",
        ]  # fmt: skip
        parts.append(f"### On {hardware}\n\n{table(head, rows)}\n")
    parts.append(READING)
    return "\n".join(parts)


READING = """*Reading*: the least share of layers, of both numbers, that wait for the memory. *Unexplained*: the
published step less the experts' time of the roofline; *gain with the unexplained*: that taken as fixed, whatever it is.

What is seen: with the unexplained part of a step taken as fixed, the H100's roofline gives the published gains at 2,
8 and 32 requests within one percentage point, also that the gain is largest at 8: with 2 requests what is fixed
outweighs the experts, and with 32 two experts of each token touch most of a layer already. With the A100's it does
not, and at 8 requests more tokens were published than an A100 could read the weights for, were their routing like the
trace's; that is no proof of the device. From 128 requests on next to no gain is left in the roofline, and the
published ones are 8 to 17 %: what is saved there is not bytes of weights, nor computing at the peak (every layer
still waits for the memory), but work that grows with tokens times experts and that (E4) has not, such as moving
activations to the experts and back, or computing far below the peak. Speeds there are too high by factors of 1.5 to
6: the KV cache, attention over it and kernels are left out. So gains at small and middle loads can be trusted; those
at large loads are too small.
"""


def sections(names: list[str], realdata: Path) -> Iterator[tuple[str, str]]:
    """Yield the sections that are asked for."""
    makers: dict[str, Any] = {
        "growth": growth, "methods": methods, "heuristics": lambda: heuristics(realdata),
        "roofline": lambda: roofline(realdata),
    }  # fmt: skip
    for name in names:
        yield TITLES[name], makers[name]()


def main() -> None:
    """Write the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(TITLES)}; all where none is named")
    parser.add_argument("--realdata", type=Path, default=ROOT.parent / "shared" / "realdata")
    options = parser.parse_args()
    if not PAGE.exists():
        save(PAGE, HEAD)
    for title, text in sections(options.sections or list(TITLES), options.realdata):
        write(PAGE, {title: text}, list(TITLES.values()), HEAD)
        print(f"{PAGE}: {title}")


if __name__ == "__main__":
    main()
