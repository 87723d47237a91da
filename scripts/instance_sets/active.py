"""The set of active experts: tiny ones by hand, generated ones, and the two real traces at several loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from moeplace.active.instance import Instance
from moeplace.active.scenarios.assembly import device, served
from moeplace.active.scenarios.generating import generate
from moeplace.active.scenarios.importing import import_trace

HEAD: Final = {"format": "moeplace/active-experts", "version": 1}


def documents() -> list[dict[str, Any]]:
    """Return the instances by hand."""

    def tiny(name: str, notes: str, time_ns: list[list[int]], loss: list[list[int]], **budget: int) -> dict[str, Any]:
        top_k = len(time_ns[0])
        model = {"name": "toy-moe", "layers": len(time_ns), "experts": top_k + 1, "top_k": top_k}
        return {
            **HEAD, "name": f"active_tiny_{name}", "model": model, "time_ns": time_ns, "loss": loss, "fixed_ns": 100,
            "tokens_per_step": 8, **budget, "notes": notes,
        }  # fmt: skip

    return [
        tiny(
            "toy",
            "The example of the formats page: [3, 2] takes 150 ns at a loss of 200; the steepest first step leads to "
            "[2, 3], 160 ns.",
            [[50, 70, 90], [50, 60, 90]], [[300, 100, 0], [500, 200, 0]], loss_budget=250,
        ),
        tiny(
            "off_the_hull",
            "The optimum, 2 experts in one layer, is on no layer's convex hull: no price of the loss leads there.",
            [[10, 60, 100], [10, 60, 100]], [[100, 50, 0], [100, 50, 0]], loss_budget=60,
        ),
        tiny(
            "no_bend",
            "Every second layer is cheap to thin out: a schedule with one bend cannot say so.",
            [[10, 20, 30]] * 6, [[2, 1, 0], [200, 100, 0]] * 3, loss_budget=6,
        ),
        tiny(
            "least_loss",
            "The other direction: the least loss within a time.",
            [[50, 70, 90], [50, 60, 90], [40, 80, 90]], [[300, 100, 0], [500, 200, 0], [90, 40, 0]], time_budget_ns=200,
        ),
        tiny(
            "not_monotone",
            "Measured tables need not be monotone: 2 experts are faster than 1 here, and lose less than 3.",
            [[70, 50, 90], [50, 55, 60]], [[30, 5, 10], [20, 10, 0]], loss_budget=20,
        ),
        tiny(
            "everything_fits",
            "The budget allows one expert everywhere.",
            [[1, 2, 3]] * 4, [[9, 4, 0]] * 4, loss_budget=36,
        ),
    ]  # fmt: skip


class Generated(NamedTuple):
    """Options of a generated instance."""

    model: str
    hardware: str
    requests: int
    budget: dict[str, int]
    seed: int


GENERATED: Final = [
    Generated("mixtral-8x7b", "h100-sxm", 16, {"loss_budget": 50_000}, 1),
    Generated("olmoe-1b-7b", "rtx-4090", 1, {"loss_budget": 20_000}, 1),
    Generated("qwen3-30b", "h100-sxm", 8, {"loss_budget": 50_000}, 1),
    Generated("qwen3-30b", "h100-sxm", 512, {"loss_budget": 50_000}, 1),
    Generated("qwen3-30b", "h100-sxm", 8, {"time_budget_ns": 4_000_000}, 1),
    Generated("deepseek-v3", "h200-sxm", 4, {"loss_budget": 20_000}, 1),
    Generated("deepseek-v3", "h200-sxm", 256, {"loss_budget": 100_000}, 1),
    Generated("kimi-k2", "b200", 32, {"loss_budget": 50_000}, 2),
]


def generated(name: str) -> str:
    """Return a generated instance's name in the library."""
    return f"active_{name}"


class Trace(NamedTuple):
    """One of the real traces and where it is from."""

    folder: str
    hardware: str
    origin: dict[str, str | int]


TRACES: Final = {
    "gpt-oss-20b": Trace(
        "gpt-oss-20b_expertfingerprinting",
        "h100-sxm",
        {
            "trace": "github AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting",
            "trace_commit": "72b368f60045221f21eeb65debb27d58de92e565",
            "trace_licence": "Apache-2.0",
        },
    ),
    "deepseek-v2-lite": Trace(
        "deepseek-v2-lite_esft",
        "a100-80gb",
        {
            "trace": "github deepseek-ai/ESFT, results/expert_scores",
            "trace_commit": "579a7711e4b332b4c57b47e378a0cf240d85caa6",
            "trace_licence": "MIT",
        },
    ),
}
LOADS: Final = (1, 2, 8, 32, 128, 512)
"""Requests at once: those of the published measurements of V2-Lite, and one."""
LOSSES: Final = (10_000, 100_000)


def real(realdata: Path) -> Iterator[Instance]:
    """Yield the instances of the real traces: every load with two budgets, one load with a budget of time."""
    for model, trace in TRACES.items():
        folder = realdata / trace.folder
        for budget in (*LOSSES, None):
            made = import_trace(
                folder / "topk_experts.npz",
                served(model=model),
                device(trace.hardware, None, None),
                LOADS if budget is not None else [32],
                gates=folder / "gates.npz",
                loss_budget=budget,
                time_budget_ns=None if budget is not None else TIME_BUDGETS[model],
            )
            for one in made.made:
                document = one.instance.document()
                document["name"] = "active_" + document["name"].replace("_topk-experts", "")
                document["source"] |= trace.origin
                yield Instance.from_document(document)


TIME_BUDGETS: Final = {"gpt-oss-20b": 2_000_000, "deepseek-v2-lite": 10_000_000}
"""Four fifths of what all experts take, about."""


def instances(realdata: Path) -> Iterator[Instance]:
    """Yield the set; without the raw data the real ones are missing."""
    for document in documents():
        yield Instance.from_document(document)
    for recipe in GENERATED:
        model = served(model=recipe.model)
        (made,) = generate(model, device(recipe.hardware, None, None), [recipe.requests], seed=recipe.seed,
                           **recipe.budget)  # fmt: skip
        document = made.instance.document()
        yield Instance.from_document(document | {"name": generated(document["name"])})
    if realdata.is_dir():
        yield from real(realdata)
