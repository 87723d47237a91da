#!/usr/bin/env python3
"""Measure the serverless problem: methods, stages of the pipeline, limits, proofs of none, prediction and regret.

    python scripts/benchmarks/serverless.py methods|ablation|limits|none|prediction|regret [-o FOLDER]

Writes CSV files, and for ``limits`` a picture, into the folder; docs/benchmarks/serverless.md says what they hold.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from moeplace import load
from moeplace.base import style
from moeplace.base.errors import MoeplaceError
from moeplace.base.result import Progress, relative_gap
from moeplace.base.stop import Stop
from moeplace.library import instance_files
from moeplace.serverless.bounds.alphas import Multipliers
from moeplace.serverless.bounds.alphas import Tuning as AscentTuning
from moeplace.serverless.bounds.by_alphas import AlphaBounds
from moeplace.serverless.bounds.proving import Tuning, solve_layers
from moeplace.serverless.checking import recompute
from moeplace.serverless.cost import evaluate
from moeplace.serverless.document import Deployment
from moeplace.serverless.heuristics.beginning import Tuning as BeginningTuning
from moeplace.serverless.heuristics.climb import Climb, started
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import layer_tables
from moeplace.serverless.prediction import (
    History,
    PromptTree,
    TextVectors,
    divergence,
    shares_of,
    token_rows,
    whole_tokens,
)
from moeplace.serverless.scenarios.assembly import generate, served
from moeplace.serverless.scenarios.platforms import read_platform
from moeplace.serverless.searching import serverless_incumbent
from moeplace.solving import solve

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
from instance_sets.serverless import GPT2, S, platform_of  # noqa: E402

PROMPTS = Path("gpt-oss-20b_expertfingerprinting") / "prompts.npz"

METHODS: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("layers", "layers", {}),
    ("local-search", "local-search", {}),
    ("remoe", "remoe", {}),
    ("remoe, every main memory", "remoe", {"worst_case": False}),
    ("remoe, exact remote memory", "remoe", {"fit": False}),
    ("remoe, fewest replicas", "remoe", {"grow": False}),
    ("remoe, the paper's tail", "remoe", {"tail": 0.75}),
    ("remoe, only by use and LPT", "remoe", {"worst_case": False, "fit": False}),
    ("best-split", "best-split", {}),
    ("all-remote", "all-remote", {}),
    ("all-local", "all-local", {}),
)
"""Label, method and parameters; the pipeline with stages switched off."""

GOAL = 0.02
"""Gap whose time is measured."""

SEARCH_S = 120.0
"""Wall seconds of a local search, which goes on for long on large layers."""

SLACKS = (1.0, 1.1, 1.2, 1.35, 1.5, 2.0)
"""Limits of the ablation, as multiples of the times of the best deployment without limits."""

HELD_OUT = 100
"""Prompts that are not in the history."""

REGRET_MAIN, REGRET_REMOTE = [8192], [512, 1024, 2048, 3072]
"""Memory that plans on predictions choose from, MB: the main size that the best deployments of gpt-oss-20b have."""

REGRET_TTFT_NS, REGRET_TPOT_MS = 7_950_000_000, (77, 84)
"""Limits: the best plans in hindsight keep the first limit per token by a few hundredths, the other by a seventh."""

REGRET_PROOF = AscentTuning(steps=200, every=20)
"""How long a proof is looked for that nothing is within the limits of a prediction."""

REGRET_TUNING = Tuning(
    ascent=AscentTuning(steps=100, later=40, every=20), limits=AscentTuning(steps=40, later=20, every=20),
    rounds=1, choices=6, around=6, beginning=BeginningTuning(starts=0),
)  # fmt: skip
"""How long the plan in hindsight is looked for."""


def write(path: Path, fields: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            file.flush()
            print(row, flush=True)


def methods(output: Path, time_limit: float, only: str, names: Sequence[str]) -> None:
    """Run every method, or those of these names as they are, on every shipped instance.

    Seconds are the processor's, since other work on the machine changes those of the wall. ``goal_s``: until the gap
    was proven to be at most ``GOAL``.
    """

    def rows() -> Iterable[dict[str, Any]]:
        for path in instance_files("serverless"):
            if only and only not in path.name:
                continue
            instance = load(path)
            for label, method, parameters in METHODS:
                if names and label not in names:
                    continue
                wall, began = time.perf_counter(), time.process_time()
                reached: list[float] = []

                def told(
                    progress: Progress, began: float = began, reached: list[float] = reached, method: str = method
                ) -> None:
                    if method == "layers" and not reached and progress.latency_ns is not None:
                        gap = relative_gap(progress.latency_ns, progress.bound_ns)
                        if gap is not None and gap <= GOAL:
                            reached.append(time.process_time() - began)

                row: dict[str, Any] = {"instance": instance.name, "method": label}
                limit = min(time_limit, SEARCH_S) if method == "local-search" else time_limit
                try:
                    found = solve(instance, method, time_limit=limit, progress=told, **parameters)
                    row |= {"cost": found.value, "bound": found.bound, "gap": found.gap}
                    row["ended"] = found.status.termination
                except MoeplaceError as error:
                    row["ended"] = str(error)[:60]
                if reached:
                    row["goal_s"] = round(reached[0], 2)
                row["cpu_s"] = round(time.process_time() - began, 2)
                yield row | {"wall_s": round(time.perf_counter() - wall, 2), "load": round(os.getloadavg()[0], 1)}

    fields = ("instance", "method", "cost", "bound", "gap", "goal_s", "cpu_s", "wall_s", "load", "ended")
    write(output / "methods.csv", fields, rows())


def ablation(output: Path, seeds: Sequence[int], only: str, slacks: Sequence[float]) -> None:
    """Run the pipeline with stages on and off where the best deployment is proven and limits leave some slack.

    Each instance is solved without limits. Its limits are then what the best deployment takes, times a slack: that
    deployment stays within them, so it is the optimum at every slack.
    """

    def documents() -> Iterable[tuple[str, dict[str, Any]]]:
        for seed in seeds:
            made = generate(
                GPT2, platform_of("gpt2-moe"), tokens_in=128, tokens_out=50, seed=seed, ttft_ns=60 * S, tpot_ns=S
            )
            yield f"gpt2-moe, seed {seed}", made.document
        for path in instance_files("serverless"):
            if path.name.startswith("gpt-oss-20b_short_loose"):
                yield "gpt-oss-20b, request 1", load(path).document

    def rows() -> Iterable[dict[str, Any]]:
        for name, document in documents():
            if only not in name:
                continue
            best = solve(Instance.from_document(document), "layers")
            times, cold = best.numbers, document["platform"]["cold_ns"]
            for slack in slacks:
                changed = copy.deepcopy(document)
                first = cold + int(slack * (times["ttft_ns"] - cold))
                changed["limits"] = {"ttft_ns": first, "tpot_ns": int(slack * times["tpot_ns"]) + 1}
                instance = Instance.from_document(changed)
                for label, method, parameters in METHODS[2:]:
                    row = {"instance": name, "slack": slack, "method": label, "best": best.value, "bound": best.bound}
                    began = time.process_time()
                    try:
                        row["cost"] = solve(instance, method, **parameters).value
                    except MoeplaceError:
                        row["cost"] = None
                    yield row | {"cpu_s": round(time.process_time() - began, 2)}

    write(output / "ablation.csv", ("instance", "slack", "method", "cost", "best", "bound", "cpu_s"), rows())


def limits(output: Path) -> None:
    """Solve one shape over limits, and over its main memory; draw both."""
    path = next(path for path in instance_files("serverless") if path.name.startswith("gpt2-moe_short_loose"))
    document = load(path).document
    found: list[dict[str, Any]] = []
    for tpot_ms in (72, 74, 76, 78, 80, 84, 88, 92, 96, 100, 110, 120, 140, 170, 200):
        changed = copy.deepcopy(document)
        changed["limits"] = {"ttft_ns": 60 * 10**9, "tpot_ns": tpot_ms * 10**6}
        found += _solved(changed, "limit", tpot_ms, ("layers", "remoe", "best-split", "all-remote", "all-local"))
    for index, spec in enumerate(document["specs"]):
        if index in document["main_specs"] and spec["mb"] % 200 == 0:
            changed = copy.deepcopy(document)
            changed["main_specs"] = [index]
            found += _solved(changed, "memory", spec["mb"], ("layers", "best-split", "all-local"))
    write(output / "limits.csv", ("over", "x", "method", "cost"), found)
    _draw(output / "limits.svg", found)


def _solved(document: dict[str, Any], over: str, x: int, names: Sequence[str]) -> list[dict[str, Any]]:
    instance, rows = Instance.from_document(document), []
    for name in names:
        try:
            rows.append({"over": over, "x": x, "method": name, "cost": solve(instance, name).value})
        except MoeplaceError:
            continue
    return rows


def _draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    titles = (("memory", "main memory, MB"), ("limit", "limit of each output token, ms"))
    for axis, (over, label) in zip(axes, titles, strict=True):
        for look, name in enumerate(("layers", "remoe", "best-split", "all-remote", "all-local")):
            points = sorted(
                (row["x"], row["cost"] / 1e14) for row in rows if (row["over"], row["method"]) == (over, name)
            )
            if points:
                colour, marker = style.PALETTE[look], style.MARKERS[look]
                x, cost = zip(*points, strict=True)
                axis.plot(x, cost, color=colour, marker=marker, markersize=3.5, label=name, alpha=0.85)
        axis.set(xlabel=label, ylabel="cost, µUSD")
        axis.legend(frameon=False, loc="upper left" if over == "memory" else "center right")
    figure.savefig(path, metadata={"Date": None})


def none(output: Path, number: int) -> None:
    """Count how often it is proven that nothing is within the limits, beside what lists of all plans prove.

    Random instances of two or three layers of 12 experts, with limits of 0.75 to 1.1 times what a climb without limits
    comes to: most of them are about where deployments end.
    """
    from serverless_instances import random_document

    def state(instance: Instance, tuning: Tuning) -> str:
        search = serverless_incumbent(instance, None, Stop(None), 0.0, None)
        solve_layers(instance, search, None, 0.0, tuning=tuning)
        if search.placement is not None:
            return "found"
        return "none" if search.bound_ns == search.latency_ns else "open"

    def rows() -> Iterable[dict[str, Any]]:
        for seed in range(number):
            document = random_document(seed, layers=2 + seed % 2, experts=12, tokens_out=6)
            document["limits"] = {"ttft_ns": 10**15, "tpot_ns": 10**15}
            loose, rng = Instance.from_document(document), np.random.default_rng([seed, 7])
            mover = Climb(loose, layer_tables(loose), lambda: False)
            if not (begun := started(loose, mover.tables, mover, None)):
                continue
            mover.climb(begun[0])
            spent, cold = evaluate(loose, begun[0].deployment()), loose.platform.cold_ns
            first, every = rng.uniform(0.75, 1.1, 2).tolist()
            document["limits"] = {
                "ttft_ns": int(cold + sum(spent.prefill_ns) * first), "tpot_ns": int(sum(spent.decode_ns) / 6 * every),
            }  # fmt: skip
            instance = Instance.from_document(document)
            yield {
                "seed": seed, "listed": state(instance, Tuning(listed_experts=16)),
                "alphas": state(instance, Tuning(listed_experts=0, last_plans=0)),
            }  # fmt: skip

    write(output / "none.csv", ("seed", "listed", "alphas"), rows())


def _split(realdata: Path) -> tuple[Any, Any, Any, Any]:
    """Return texts and shares of the history and of the held-out prompts."""
    with np.load(realdata / PROMPTS, allow_pickle=False) as file:
        texts, counts, tokens = file["prompt"], file["counts"].astype(np.int64), file["tokens"]
    order = np.random.default_rng(1).permutation(len(texts))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return (
        texts[train].tolist(),
        shares_of(counts[train]),
        texts[test].tolist(),
        (shares_of(counts[test]), tokens[test]),
    )


def predictors(texts: Sequence[str], shares: Any, asked: Sequence[str]) -> dict[str, Any]:
    """Return the predictions of every method for the asked prompts, with the mean processor time of a search in ms."""
    found: dict[str, Any] = {}
    words = TextVectors(texts, None)
    components = TextVectors(texts, 60)
    history, reduced = History(words.history, shares), History(components.history, shares)
    tree = PromptTree(reduced, branches=4, leaf=60)
    queries = {"words": words.of(asked), "components": components.of(asked)}
    for name, kind, predict in (
        ("equal shares", "words", lambda _: history.equal()),
        ("mean of the history", "words", lambda _: history.mean()),
        ("15 nearest, TF-IDF", "words", history.nearest),
        ("15 nearest, 60 components", "components", reduced.nearest),
        ("tree of medoids, 60 components", "components", tree.nearest),
    ):
        began = time.process_time()
        predicted = [predict(vector) for vector in queries[kind]]
        found[name] = predicted, 1000 * (time.process_time() - began) / len(asked)
    return found


def prediction(output: Path, realdata: Path) -> None:
    """Compare predictions with what came, over the held-out prompts.

    The last row finds like prompts by the very activations that are to be predicted: what better vectors might reach.
    """
    texts, shares, asked, (true, _) = _split(realdata)

    def used(shares: Any) -> Any:
        flat = shares.reshape(len(shares), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    known = History(used(shares), shares)
    found = predictors(texts, shares, asked)
    found["15 nearest by what they used"] = [known.nearest(vector) for vector in used(true)], None
    rows = []
    for name, (predicted, ms) in found.items():
        apart = [divergence(p, t) for p, t in zip(predicted, true, strict=True)]
        rows.append({"method": name, "divergence": round(float(np.mean(apart)), 4), "search_ms": ms and round(ms, 3)})
    write(output / "prediction.csv", ("method", "divergence", "search_ms"), rows)


def regret(output: Path, realdata: Path, prompts: int) -> None:
    """Plan on predictions, run on what came: cost beside the plan in hindsight, and the limits that break.

    A plan is a climb's: within the limits if it can be, else as near to them as it comes. Where a prediction has none
    within the limits, alphas are asked whether that is proven. All prompts count for all predictions.
    """
    texts, shares, asked, (true, tokens) = _split(realdata)
    model = served(model="gpt-oss-20b")
    preset = read_platform("alibaba-fc").with_gpu(3000)
    memory = msgspec.structs.replace(preset.memory, main=REGRET_MAIN, remote=REGRET_REMOTE)
    platform = msgspec.structs.replace(preset, memory=memory).document(model.layers, model.expert_bytes, model.weights)

    def request(shares: Any, out: int) -> list[Instance]:
        """Return a request of some shares under each limit per token."""
        document = {
            "format": "moeplace/serverless", "version": 1, "name": "request",
            "model": {
                "name": model.name, "layers": model.layers, "experts": model.experts, "top_k": model.top_k,
                "expert_bytes": model.expert_bytes, "token_bytes": model.token_bytes,
            },
            "request": {
                "tokens_in": 128, "tokens_out": out, "prefill": whole_tokens(shares, 128, model.top_k),
                "decode": token_rows(shares, out, model.top_k),
            },
            **platform,
        }  # fmt: skip
        limits = [{"ttft_ns": REGRET_TTFT_NS, "tpot_ns": ms * 10**6} for ms in REGRET_TPOT_MS]
        return [Instance.from_document(document | {"limits": own}) for own in limits]

    def nearest(instance: Instance) -> dict[str, Any]:
        """Return the plan that a climb comes to, by how much it is late, and whether nothing is within the limits."""
        tables = layer_tables(instance)
        mover = Climb(instance, tables, lambda: False)
        work = started(instance, tables, mover, None)[0]
        over, late, _ = mover.climb(work)
        found = {"plan": work.deployment(), "within": int(not over and not late)}
        if not found["within"]:
            bounds = AlphaBounds(instance, tables, serverless_incumbent(instance, None, Stop(None), 0.0, None), 0.0)
            for main in instance.main_specs:
                bounds.limits(main, Multipliers.middle(instance), None, REGRET_PROOF)
            found["none"] = int(all(bounds.done(main) for main in instance.main_specs))
        spent = evaluate(instance, found["plan"])
        return found | {"expected_ms": round(sum(spent.decode_ns) / instance.request.tokens_out / 1e6, 3)}

    def hindsight(instance: Instance) -> tuple[Deployment, int]:
        """Return the best plan that layers find, and the bound."""
        search = serverless_incumbent(instance, None, Stop(None), 0.0, None)
        solve_layers(instance, search, None, 0.003, tuning=REGRET_TUNING)
        return search.placement, search.bound_ns or 0

    predicted, known = predictors(texts, shares, asked), dict[Any, list[dict[str, Any]]]()

    def planned(name: str, i: int, out: int) -> list[dict[str, Any]]:
        """Return the plans on a prediction; shares that do not depend on the prompt are planned once."""
        key = name, out, i if name[0].isdigit() or name.startswith("tree") else None
        if key not in known:
            known[key] = [nearest(own) for own in request(predicted[name][0][i], out)]
        return known[key]

    def rows() -> Iterable[dict[str, Any]]:
        for i in range(prompts):
            out = min(50, int(tokens[i]))
            came = request(true[i], out)
            plans: dict[str, list[dict[str, Any]]] = {"hindsight": []}
            for own in reversed(came):  # the best one under wide limits is the best under narrow ones that it keeps
                kept = plans["hindsight"]
                wide = kept[0] if kept and not recompute(own, kept[0]["plan"])[0] else None
                if wide is None:
                    best, bound = hindsight(own)
                    wide = {"plan": best, "within": 1, "bound": bound}
                kept.insert(0, wide)
            plans |= {name: planned(name, i, out) for name in predicted}
            for name, made in plans.items():
                for ms, own, plan, best in zip(REGRET_TPOT_MS, came, made, plans["hindsight"], strict=True):
                    wrong, cost = recompute(own, plan["plan"])
                    spent = evaluate(own, plan["plan"])
                    yield {
                        "prompt": i, "limit_ms": ms, "method": name, "within": plan["within"], "none": plan.get("none"),
                        "expected_ms": plan.get("expected_ms"), "cost": cost,
                        "hindsight": recompute(own, best["plan"])[1], "bound": best["bound"],
                        "first_s": round((own.platform.cold_ns + sum(spent.prefill_ns)) / 1e9, 4),
                        "each_ms": round(sum(spent.decode_ns) / out / 1e6, 3),
                        "broken": " ".join(sorted({line.partition(":")[0].partition("[")[0] for line in wrong})),
                    }  # fmt: skip

    fields = (
        "prompt", "limit_ms", "method", "within", "none", "expected_ms", "cost", "hindsight", "bound", "first_s",
        "each_ms", "broken",
    )  # fmt: skip
    write(output / "regret.csv", fields, rows())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["methods", "ablation", "limits", "none", "prediction", "regret"])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "benchmarks" / "serverless")
    parser.add_argument("--realdata", type=Path, default=ROOT.parent / "shared" / "realdata")
    parser.add_argument("--time-limit", type=float, default=300)
    parser.add_argument("--only", default="", help="instances whose names have this in them")
    parser.add_argument("--methods", default="", help="names, such as layers,remoe; all if there are none")
    parser.add_argument("--seeds", type=int, default=10, help="generated requests of the ablation")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--slacks", default=",".join(map(str, SLACKS)), help="of the ablation's limits")
    parser.add_argument("--number", type=int, default=150, help="random instances")
    parser.add_argument("--prompts", type=int, default=HELD_OUT)
    options = parser.parse_args()
    if options.part == "methods":
        methods(options.output, options.time_limit, options.only, options.methods.split(",") if options.methods else ())
    elif options.part == "ablation":
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        ablation(options.output, seeds, options.only, [float(slack) for slack in options.slacks.split(",")])
    elif options.part == "limits":
        limits(options.output)
    elif options.part == "none":
        none(options.output, options.number)
    elif options.part == "prediction":
        prediction(options.output, options.realdata)
    else:
        regret(options.output, options.realdata, options.prompts)


if __name__ == "__main__":
    main()
