"""Benchmark of fewer active experts together with caching: what a loss buys, jointly and one after the other.

Needs the raw traces (see ``instances/real/README.md``). Cells are measured one by one and kept in
``docs/benchmarks/joint``, so that some of them can be measured again, with another limit::

    python scripts/benchmarks/joint.py check --realdata REALDATA --time-limit 60
    python scripts/benchmarks/joint.py gpt-oss-20b --realdata REALDATA --time-limit 60
    python scripts/benchmarks/joint.py gpt-oss-20b --ways jointly --shares 5,10 --time-limit 300 --realdata REALDATA
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from pages import machine, table, write

import moeplace
from moeplace.base.files import write_bytes
from moeplace.base.style import drawing, rendered
from moeplace.base.text import percent
from moeplace.caching.evaluation import latency_ns
from moeplace.caching.heuristics.joint import JointForms
from moeplace.caching.instance import Instance
from moeplace.caching.pictures import BudgetPoint, active_layers, budget_curve
from moeplace.caching.placement import Placement
from moeplace.caching.scenarios.assembly import catalogue_model
from moeplace.caching.scenarios.importing import import_traces
from moeplace.caching.scenarios.suites import Scenario
from moeplace.layers.choosing import choose
from moeplace.scenarios.catalogue import find_architecture

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "joint.md"
TRACES: Final = {"gpt-oss-20b": "gpt-oss-20b_expertfingerprinting", "deepseek-v2-lite": "deepseek-v2-lite_esft"}
SHARES: Final = (0, 1, 2, 5, 10)
"""Loss budgets, percent of the router's weight."""
PPM_OF_A_PERCENT: Final = 10_000
SEARCHED: Final = {4: (225, "0"), 3: (207, ".17"), 2: (184, ".39")}
"""Latency per token, ms, and loss of gpt-oss-20b with so many experts in every layer: found earlier, greedily."""
JOINTLY, CACHING_FIRST, EXPERTS_FIRST = WAYS = ("jointly", "caching first", "active experts first")
TITLES = {
    "gpt-oss-20b": "What a loss buys: gpt-oss-20b",
    "deepseek-v2-lite": "What a loss buys: DeepSeek-V2-Lite",
    "check": "The same number of experts in every layer",
}
HEAD = """# Fewer active experts and caching together

Written by `scripts/benchmarks/joint.py`; the problem and its words are on [its page](../joint.md). Three ways to spend
a loss: *jointly*; *caching first*: a placement for all experts, then the active experts that are best at this placement
(exactly); *active experts first*: as many experts left out as the loss allows (exactly), then a placement for what is
left. That order has nothing better to go by: without any placement, or with every expert on every server, a token that
waits for its slowest expert waits as long for one as for all.
"""


SEEN: Final = {
    "gpt-oss-20b": """What is seen: up to 2 % all ways are alike, and the loss buys about 1 %. From 5 % on, choosing
together buys half as much again as either order, and the difference is larger than what the bound leaves open. The
choice is of another kind. Leaving experts out first takes the last expert of many layers, which loses least for each;
together, a few layers are cut to *one* expert, so that a single held expert serves a token there, and nearly all others
keep four. At 1 % leaving out first found a placement 0.04 % better than the joint search, which had not ended.""",
    "deepseek-v2-lite": """What is seen: the two orders buy next to nothing up to 5 %, choosing together several times
as much: with six experts a token, leaving out the last one of a layer rarely takes away the slowest. The bound leaves
2 to 5 % open, since a minute is short for 26 layers of 64 experts with six numbers each; that of all experts is within
0.7 %.""",
}
"""What the tables show, as measured; to be read again when they are."""


def instance_of(model: str, realdata: Path) -> Instance:
    """Return a trace on 8 generated stations with room for 60 % of the experts together, as ``moeplace import`` does.

    Its budget is 0: see :func:`with_budget`.
    """
    folder = realdata / TRACES[model]
    scenario = Scenario(models=[model], stations=8, users=48, loss_budget=0)
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
    head = ["active", "loss", "found earlier", "successive-greedy", "auto", "its bound", "found earlier, ms"]
    return f"""{machine("numpy", "highspy", threads="one thread")}

gpt-oss-20b, all 24 layers and 44,968 tokens, 8 generated stations, 48 users, room for 60 % of the experts together
(`moeplace import topk_experts.npz --model gpt-oss-20b --stations 8 --users 48 --gates gates.npz`). Latency per token,
ms, with the placement optimised anew for each number of experts, at most {limit:g} s a cell.

{table(head, rows)}

`successive-greedy` is within 0.7 % of what was found earlier, `auto` below it and within 1.1 % of its bounds.
"""


# --- over budgets ---------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """What one way reaches within a budget, times per token in ms; of an order of two, some were not kept.

    Attributes
    ----------
    ms : float
    bound_ms : float or None
        Of the whole problem.
    lost : float
        Share of the router's weight.
    active : list of int
        Of each layer.
    said : str
        By what, and how it ended.
    limit, wall, cpu : float
        Seconds: the limit of a solution, and what was taken.
    load : float
        Of the machine over the last minute.
    """

    ms: float
    bound_ms: float | None
    lost: float | None
    active: list[int] | None
    said: str
    limit: float
    wall: float | None
    cpu: float | None
    load: float | None


def jointly(instance: Instance, limit: float) -> tuple[Placement, Cell]:
    """Solve placement and active experts together."""
    began = time.perf_counter(), time.process_time()
    solution = moeplace.solve(instance, "auto", time_limit=limit)
    placement = solution.placement_on(instance)
    return placement, _cell(instance, placement, began, limit, _ended(solution), solution.bound)


def caching_first(instance: Instance, placement: Placement, limit: float) -> Cell:
    """Choose the active experts for a placement that was made for all experts, exactly."""
    began = time.perf_counter(), time.process_time()
    active = JointForms(instance).choice(placement.cached)
    return _cell(instance, placement.at(active), began, limit, "exact at this placement")


def experts_first(instance: Instance, limit: float) -> Cell:
    """Leave out as many experts as the loss allows, exactly, whatever they cost; then place for what is left."""
    began = time.perf_counter(), time.process_time()
    choices = instance.choices
    assert choices is not None
    loss = np.array(choices.losses, dtype=np.int64)
    left_out = np.broadcast_to(np.arange(loss.shape[1])[::-1], loss.shape)
    found = choose(np.ascontiguousarray(left_out, dtype=np.int64), loss, choices.budget)
    assert found is not None
    active = found.choice + 1
    cut = instance.cut(active)
    solution = moeplace.solve(cut, "auto", time_limit=limit)
    return _cell(instance, solution.placement_on(cut).at(active), began, limit, _ended(solution))


def _ended(solution: Any) -> str:
    return f"{solution.method}, {solution.status.termination.replace('_', ' ')}"


def _cell(
    instance: Instance,
    placement: Placement,
    began: tuple[float, float],
    limit: float,
    said: str,
    bound: int | None = None,
) -> Cell:
    placement.check_fits(instance)
    assert placement.active is not None
    assert instance.choices is not None
    return Cell(
        ms=round(per_token(instance, latency_ns(instance, placement)), 3),
        bound_ms=None if bound is None else round(per_token(instance, bound), 3),
        lost=instance.choices.loss(placement.active) / PPM_OF_A_PERCENT / 100,
        active=placement.active.tolist(),
        said=said,
        limit=limit,
        wall=round(time.perf_counter() - began[0], 1),
        cpu=round(time.process_time() - began[1], 1),
        load=round(os.getloadavg()[0], 1),
    )


def measure(model: str, realdata: Path, limit: float, ways: Sequence[str], shares: Sequence[int]) -> None:
    """Measure cells of one trace and keep them in its file, beside those that are there.

    Without any loss all ways are one problem, which is solved once; its placement is where *caching first* begins.
    """
    whole = instance_of(model, realdata)

    def keep(share: int, way: str, cell: Cell) -> None:
        cells = kept(model) | {"rows": len(whole.rows), "tokens": int(whole.tokens.sum())}
        cells.setdefault(way, {})[str(share)] = vars(cell)
        write_bytes(_file(model), (json.dumps(cells) + "\n").encode())
        print(f"{share} %, {way}: {cell}", flush=True)

    placed = None
    if CACHING_FIRST in ways or 0 in shares:
        placed, cell = jointly(whole, limit)
        for way in WAYS:
            keep(0, way, cell)
    for share, way in itertools.product([share for share in shares if share], ways):
        instance = with_budget(whole, share * PPM_OF_A_PERCENT)
        if way == CACHING_FIRST:
            assert placed is not None
            keep(share, way, caching_first(instance, placed, limit))
        else:
            keep(share, way, jointly(instance, limit)[1] if way == JOINTLY else experts_first(instance, limit))


def kept(model: str) -> dict[str, Any]:
    """Return what has been measured of a trace: cells by way and share, its numbers of rows and tokens."""
    path = _file(model)
    path.parent.mkdir(exist_ok=True)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _file(model: str) -> Path:
    return PAGE.parent / PAGE.stem / f"{model}.json"


def budgets(model: str) -> str:
    """Return the section on one trace, of what has been measured of it, and draw its pictures."""
    cells = kept(model)
    found = {way: {int(share): Cell(**own) for share, own in cells[way].items()} for way in WAYS}
    shares = [share for share in SHARES if all(share in own for own in found.values())]
    # Within a larger budget there are more choices: its bound holds for a smaller one, too.
    bound: dict[int, float] = {}
    for share in reversed(shares):
        bound[share] = max(found[JOINTLY][share].bound_ms or 0.0, *bound.values(), 0.0)
    rows: list[list[object]] = []
    points: list[BudgetPoint] = []
    for share in shares:
        joint = found[JOINTLY][share]
        row: list[object] = [f"{share} %", f"{bound[share]:.2f}"]
        for way in WAYS:
            ms = found[way][share].ms
            row += [f"{ms:.2f}", f"{ms / bound[share]:.4f}"]
            proven = round(10**6 * bound[share]) if way == JOINTLY else None
            points.append(BudgetPoint(way, share * PPM_OF_A_PERCENT, round(10**6 * ms), proven))
        row += [f"{np.mean(joint.active or []):.2f}", f"{100 * (joint.lost or 0):.2f} %", joint.said]
        rows.append([*row, f"{joint.limit:g}, {joint.wall:.0f}, {joint.cpu:.0f}", f"{joint.load:g}"])
    architecture = find_architecture(model)
    whole = catalogue_model(architecture, architecture.published)
    lines = [(f"{share} %", found[JOINTLY][share].active or []) for share in shares]
    folder = PAGE.parent / PAGE.stem
    with drawing():
        curve = budget_curve(points, 1, f"{model}: latency within a loss budget")
        write_bytes(folder / f"{model}_budget.svg", rendered(curve, "svg"))
        drawn = active_layers([whole], lines, f"{model}: active experts, chosen jointly")
        write_bytes(folder / f"{model}_layers.svg", rendered(drawn, "svg"))
    head = ["loss", "bound, ms", "jointly, ms", "to bound", "caching first, ms", "to bound",
            "active experts first, ms", "to bound", "active, mean", "lost", "jointly by", "limit, wall, CPU s",
            "load"]  # fmt: skip
    least = min(found[way][shares[0]].ms for way in WAYS)
    gains = {way: [percent(1 - found[way][share].ms / least, 1) for share in shares[1:]] for way in WAYS}
    bought = table(["latency saved by a loss of", *(f"{share} %" for share in shares[1:])],
                   [[way, *own] for way, own in gains.items()])  # fmt: skip
    return f"""{machine("numpy", "highspy", "ortools", threads="one thread")}

{whole.layers} layers of {whole.experts}, top {whole.top_k}; {cells["tokens"]:,} tokens, {cells["rows"]:,} ranked rows;
8 generated stations, 48 users, room for 60 % of the experts together. Latency is per token; loss is the share of the
router's weight that is left out, in the mean over the layers. *To bound*: latency as a multiple of the best bound that
joint runs proved (that of a larger loss holds for a smaller one, too). Limit, seconds and load are those of the joint
runs.

{table(head, rows)}

Against the least latency that was found without any loss:

{bought}

{SEEN[model]}

![latency over the loss budget]({PAGE.stem}/{model}_budget.svg)

![active experts of each layer]({PAGE.stem}/{model}_layers.svg)
"""


def main() -> None:
    """Measure what is asked for and write its sections."""
    parser = argparse.ArgumentParser(description="Benchmark of fewer active experts together with caching.")
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(TITLES)}; all where none is named")
    parser.add_argument("--realdata", type=Path, required=True, help="folder with the raw traces")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds a solution")
    parser.add_argument("--ways", default=",".join(WAYS), help="which ways are measured (none: kept cells are written)")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="at which losses, percent")
    options = parser.parse_args()
    ways, shares = options.ways.split(","), [int(share) for share in options.shares.split(",")]
    for section in options.sections or list(TITLES):
        if section == "check":
            text = check(options.realdata, options.time_limit)
        else:
            if ways != ["none"]:
                measure(section, options.realdata, options.time_limit, ways, shares)
            text = budgets(section)
        write(PAGE, {TITLES[section]: text}, list(TITLES.values()), HEAD)


if __name__ == "__main__":
    main()
