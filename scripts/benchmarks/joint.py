"""Benchmark of fewer active experts together with caching: what a loss buys, jointly and one after the other.

Needs the raw traces (see ``instances/real/README.md``). Sections are written one by one::

    python scripts/benchmarks/joint.py [check] [gpt-oss-20b] [deepseek-v2-lite] --realdata REALDATA --time-limit 60
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from pages import machine, table, write

import moeplace
from moeplace.base.arrays import Int64
from moeplace.base.files import write_bytes
from moeplace.base.style import drawing, rendered
from moeplace.base.text import percent
from moeplace.caching.evaluation import latency_ns
from moeplace.caching.heuristics.joint import JointForms
from moeplace.caching.instance import Instance
from moeplace.caching.pictures import BudgetPoint, active_layers, budget_curve
from moeplace.caching.placement import Placement
from moeplace.caching.scenarios.importing import import_traces
from moeplace.caching.scenarios.suites import Scenario
from moeplace.layers.choosing import choose

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "joint.md"
TRACES: Final = {"gpt-oss-20b": "gpt-oss-20b_expertfingerprinting", "deepseek-v2-lite": "deepseek-v2-lite_esft"}
LAYERS: Final = {"gpt-oss-20b": None, "deepseek-v2-lite": 8}
"""The first so many layers are kept: the whole of DeepSeek-V2-Lite takes more time than a cell has here."""
SHARES: Final = (0, 1, 2, 5, 10)
"""Loss budgets, percent of the router's weight."""
PPM_OF_A_PERCENT: Final = 10_000
SEARCHED: Final = {4: (225, "0"), 3: (207, ".17"), 2: (184, ".39")}
"""Latency per token, ms, and loss of gpt-oss-20b with so many experts in every layer: found for the design."""
JOINTLY, CACHING_FIRST, EXPERTS_FIRST = "jointly", "caching first", "active experts first"
TITLES = {
    "check": "The same number of experts in every layer",
    "gpt-oss-20b": "What a loss buys: gpt-oss-20b",
    "deepseek-v2-lite": f"What a loss buys: the first {LAYERS['deepseek-v2-lite']} layers of deepseek-v2-lite",
}
HEAD = """# Fewer active experts and caching together

Written by `scripts/benchmarks/joint.py`; the problem and its words are on [its page](../joint.md).
"""


def instance_of(model: str, realdata: Path, layers: int | None = None) -> Instance:
    """Return a trace on 8 generated stations with room for 60 % of the experts together, as ``moeplace import`` does.

    Its budget is 0: see :func:`with_budget`.
    """
    folder = realdata / TRACES[model]
    scenario = Scenario(models=[model], stations=8, users=48, layers=layers, loss_budget=0)
    instance, _ = import_traces([folder / "topk_experts.npz"], scenario, gates=[folder / "gates.npz"])
    return instance


def with_budget(instance: Instance, budget: int) -> Instance:
    """Return an instance with another loss budget."""
    assert instance.active is not None
    return replace(instance, active=msgspec.structs.replace(instance.active, budget=budget), _sha256=None)


def per_token(instance: Instance, ns: int) -> float:
    """Return a cost as ms per token."""
    return ns / int(instance.tokens.sum()) / 10**6


# --- the same number everywhere -------------------------------------------------------------------------------


def check(realdata: Path, limit: float) -> str:
    """Return the section on uniform numbers of active experts."""
    instance = instance_of("gpt-oss-20b", realdata)
    assert instance.choices is not None
    rows = []
    for k, (searched, dropped) in SEARCHED.items():
        active = np.full(instance.n_blocks, k, dtype=np.int64)
        cut = instance.cut(active)
        loss = instance.choices.loss(active) / PPM_OF_A_PERCENT / 100
        cells = []
        for method in ("successive-greedy", "auto"):
            solution = moeplace.solve(cut, method, time_limit=limit)
            bound = "-" if solution.bound is None else f"{per_token(cut, solution.bound):.2f}"
            cells += [f"{per_token(cut, solution.value):.2f}", *([bound] if method == "auto" else [])]
        rows.append([k, f"{loss:.3f}", dropped, *cells, searched])
        print(*rows[-1], flush=True)
    head = ["active", "loss", "in the design", "successive-greedy", "auto", "its bound", "in the design, ms"]
    return f"""{machine("numpy", "highspy", threads="one thread")}

gpt-oss-20b, all 24 layers and 44,968 tokens, 8 generated stations, 48 users, room for 60 % of the experts together
(`moeplace import topk_experts.npz --model gpt-oss-20b --stations 8 --users 48 --gates gates.npz`). Latency per token,
ms, with the placement optimised anew for each number of experts, at most {limit:g} s a cell.

{table(head, rows)}
"""


# --- over budgets ---------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """What one way reaches within a budget.

    Attributes
    ----------
    cost : int
        Token-ns.
    loss : int
    active : int64 array [B]
    bound : int or None
        Of the whole problem.
    seconds : float
        Wall time, and CPU time of this process.
    cpu : float
    said : str
        How it ended.
    """

    cost: int
    loss: int
    active: Int64
    bound: int | None
    seconds: float
    cpu: float
    said: str


def jointly(instance: Instance, limit: float) -> Cell:
    """Solve placement and active experts together."""
    began, cpu = time.perf_counter(), time.process_time()
    solution = moeplace.solve(instance, "auto", time_limit=limit)
    placement = solution.placement_on(instance)
    assert placement.active is not None
    return _cell(instance, placement, began, cpu, solution.bound, f"{solution.method}, {solution.status.termination}")


def caching_first(instance: Instance, placement: Placement) -> Cell:
    """Choose the active experts for a placement that was made for all experts, exactly."""
    began, cpu = time.perf_counter(), time.process_time()
    active = JointForms(instance).choice(placement.cached)
    return _cell(instance, Placement(placement.cached, active), began, cpu, None, "")


def experts_first(instance: Instance, limit: float) -> Cell:
    """Leave out as many experts as the loss allows, exactly, whatever they cost; then place for what is left."""
    began, cpu = time.perf_counter(), time.process_time()
    choices = instance.choices
    assert choices is not None
    loss = np.array(choices.losses, dtype=np.int64)
    left_out = np.broadcast_to(np.arange(loss.shape[1])[::-1], loss.shape)
    found = choose(np.ascontiguousarray(left_out, dtype=np.int64), loss, choices.budget)
    assert found is not None
    active = found.choice + 1
    cut = instance.cut(active)
    solution = moeplace.solve(cut, "auto", time_limit=limit)
    placement = Placement(solution.placement_on(cut).cached, active)
    return _cell(instance, placement, began, cpu, None, f"{solution.method}, {solution.status.termination}")


def _cell(instance: Instance, placement: Placement, began: float, cpu: float, bound: int | None, said: str) -> Cell:
    placement.check_fits(instance)
    assert placement.active is not None
    assert instance.choices is not None
    cost = latency_ns(instance, placement)
    seconds = time.perf_counter() - began, time.process_time() - cpu
    return Cell(cost, instance.choices.loss(placement.active), placement.active, bound, *seconds, said)


def budgets(model: str, realdata: Path, limit: float) -> str:
    """Return the section on one trace, and draw its pictures."""
    whole = instance_of(model, realdata, LAYERS[model])
    cut = whole.cut(whole.block_top_k)
    today = moeplace.solve(cut, "auto", time_limit=limit)
    placed = today.placement_on(cut)
    rows: list[list[object]] = []
    points: list[BudgetPoint] = []
    lines: list[tuple[str, Sequence[int]]] = []
    for share in SHARES:
        instance = with_budget(whole, share * PPM_OF_A_PERCENT)
        found = {
            JOINTLY: jointly(instance, limit),
            CACHING_FIRST: caching_first(instance, placed),
            EXPERTS_FIRST: experts_first(instance, limit),
        }
        bound = found[JOINTLY].bound
        cells: list[object] = [f"{share} %"]
        for way, cell in found.items():
            points.append(BudgetPoint(way, share * PPM_OF_A_PERCENT, cell.cost, bound if way == JOINTLY else None))
            lines.append((f"{share} %, {way}", cell.active.tolist()))
            ratio = "-" if not bound else f"{cell.cost / bound:.4f}"
            cells += [f"{per_token(whole, cell.cost):.2f}", ratio]
        own = found[JOINTLY]
        cells.insert(2, "-" if bound is None else f"{per_token(whole, bound):.2f}")
        cells += [f"{own.active.mean():.2f}", f"{own.loss / PPM_OF_A_PERCENT:.2f} %", own.said]
        cells += [f"{own.seconds:.0f}, {own.cpu:.0f}"]
        rows.append(cells)
        print(*cells, sep=" | ", flush=True)
    folder = PAGE.parent / PAGE.stem
    folder.mkdir(exist_ok=True)
    tokens = int(whole.tokens.sum())
    with drawing():
        curve = budget_curve(points, tokens, f"{model}: latency within a loss budget")
        write_bytes(folder / f"{model}_budget.svg", rendered(curve, "svg"))
        drawn = active_layers(whole, lines, f"{model}: active experts of each layer")
        write_bytes(folder / f"{model}_layers.svg", rendered(drawn, "svg"))
    head = ["loss", "jointly, ms", "bound, ms", "to bound", "caching first, ms", "to bound", "active experts first, ms",
            "to bound", "active, mean", "lost", "jointly by", "wall, CPU s"]  # fmt: skip
    gained = [(points[0].cost - point.cost) / points[0].cost for point in points if point.way == JOINTLY]
    said = ", ".join(f"{percent(gain)} at {share} %" for share, gain in zip(SHARES, gained, strict=True) if share)
    kept = whole.models[0]
    shape = f"{kept.layers} layers of {kept.experts}, top {kept.top_k}"
    return f"""{machine("numpy", "highspy", "ortools", threads="one thread")}

{shape}; {tokens:,} tokens, {len(whole.rows):,} ranked rows; 8 generated stations, 48 users, room for 60 % of the
experts together; at most {limit:g} s a solution. Latency is per token; loss is the share of the router's weight that is
left out, in the mean over the layers. *To bound*: latency as a multiple of the bound that the joint run proves.
Jointly, latency falls against what is found without any loss by {said}.

{table(head, rows)}

![latency over the loss budget]({PAGE.stem}/{model}_budget.svg)

![active experts of each layer]({PAGE.stem}/{model}_layers.svg)
"""


def main() -> None:
    """Run the sections that are asked for and write them."""
    parser = argparse.ArgumentParser(description="Benchmark of fewer active experts together with caching.")
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(TITLES)}; all where none is named")
    parser.add_argument("--realdata", type=Path, default=ROOT.parent / "shared" / "realdata")
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    for section in options.sections or list(TITLES):
        if section == "check":
            text = check(options.realdata, options.time_limit)
        else:
            text = budgets(section, options.realdata, options.time_limit)
        write(PAGE, {TITLES[section]: text}, list(TITLES.values()), HEAD)


if __name__ == "__main__":
    main()
