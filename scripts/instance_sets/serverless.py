"""The serverless set: one by hand, GPT2-moe's shape with generated routing, two models with routing of real requests.

Real routing is read from a folder with the raw traces (see ``instances/serverless/README.md``); the instances hold
counts only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from moeplace.serverless.instance import Instance
from moeplace.serverless.scenarios.assembly import Served, assemble, generate, import_request, served
from moeplace.serverless.scenarios.platforms import PlatformFile, Range, read_platform

GPT2: Final = Served("gpt2-moe", 12, 8, 2, 18_874_368, 4_718_592, 3072)
"""GPT-2 small with eight experts in each layer, in 32 bits."""

GPT_TRACE: Final = Path("gpt-oss-20b_expertfingerprinting") / "topk_experts.npz"
DEEPSEEK_TRACE: Final = Path("deepseek-v2-lite_esft") / "topk_experts.npz"

MS: Final = 10**6
S: Final = 10**9


@dataclass(frozen=True)
class Recipe:
    """One instance.

    Attributes
    ----------
    name : str
    model : {"gpt2-moe", "gpt-oss-20b", "deepseek-v2-lite"}
    tokens_in, tokens_out : int
    ttft_ns, tpot_ns : int
    request : int
        Of the trace; the seed of generated routing.
    """

    name: str
    model: str
    tokens_in: int
    tokens_out: int
    ttft_ns: int
    tpot_ns: int
    request: int = 1


RECIPES: Final = (
    Recipe("gpt2-moe_short_loose", "gpt2-moe", 128, 50, 60 * S, 1000 * MS),
    Recipe("gpt2-moe_short_tight", "gpt2-moe", 128, 50, 3950 * MS, 86 * MS),
    Recipe("gpt2-moe_long_loose", "gpt2-moe", 128, 400, 60 * S, 1000 * MS, 2),
    Recipe("gpt2-moe_long_tight", "gpt2-moe", 128, 400, 4100 * MS, 84 * MS, 2),
    Recipe("gpt-oss-20b_short_loose", "gpt-oss-20b", 128, 50, 60 * S, 1000 * MS),
    Recipe("gpt-oss-20b_short_tight", "gpt-oss-20b", 128, 50, 7400 * MS, 80 * MS),
    Recipe("gpt-oss-20b_long_loose", "gpt-oss-20b", 128, 380, 60 * S, 1000 * MS, 2),
    Recipe("gpt-oss-20b_long_tight", "gpt-oss-20b", 128, 380, 7750 * MS, 80 * MS, 2),
    Recipe("deepseek-v2-lite_short_loose", "deepseek-v2-lite", 128, 50, 60 * S, 1000 * MS, 2),
    Recipe("deepseek-v2-lite_short_tight", "deepseek-v2-lite", 128, 50, 5350 * MS, 150 * MS, 2),
    Recipe("deepseek-v2-lite_long_loose", "deepseek-v2-lite", 128, 400, 60 * S, 1000 * MS, 1),
)
"""The instances of models; the one by hand is :func:`toy`."""


def toy() -> dict[str, Any]:
    """Return the instance of the documentation: one layer of three experts, two specifications."""
    model = {
        "name": "toy-moe", "layers": 1, "experts": 3, "top_k": 2, "expert_bytes": 50_000_000, "token_bytes": 1536,
    }  # fmt: skip
    decode = {"layer": [0, 0], "experts": [[0, 1], [0, 2]], "count": [3, 1]}
    return {
        "format": "moeplace/serverless",
        "version": 1,
        "name": "serverless_toy",
        "notes": "Two experts fit into 200 MB beside the rest; the third is remote, or the main function has 400 MB.",
        "model": model,
        "request": {"tokens_in": 10, "tokens_out": 4, "prefill": [[9, 8, 3]], "decode": decode},
        "specs": [
            {"mb": 200, "prefill_ns": 500_000, "prefill_ns_per_token": 90_000, "decode_ns": 400_000},
            {"mb": 400, "prefill_ns": 300_000, "prefill_ns_per_token": 50_000, "decode_ns": 250_000},
        ],
        "main_specs": [0, 1],
        "remote_specs": [0, 1],
        "platform": {
            "cpu_price": 1667, "gpu_price": 5000, "price_unit_usd": "1e-20", "gpu_mb": 500, "main_mb": 20,
            "link_bytes_per_s": 125_000_000, "payload_bytes": 6_000_000, "most_replicas": 4, "invoke_ns": 2_000_000,
            "switch_prefill_ns": 2_000_000, "switch_decode_ns": 100_000, "other_prefill_ns": [2_000_000],
            "other_decode_ns": [300_000], "cold_ns": 3_000_000_000,
        },
        "limits": {"ttft_ns": 8 * S, "tpot_ns": 50 * MS},
    }  # fmt: skip


def platform_of(model: str) -> PlatformFile:
    """Return the platform of a model's instances: a preset, with the model's own non-experts and sizes."""
    import msgspec

    replace = msgspec.structs.replace
    if model == "gpt2-moe":  # 49 main and 19 remote specifications, in steps of 100 MB
        preset = read_platform("aws-lambda").with_gpu(250)
        memory = replace(preset.memory, main=Range(200, 5000, 100), remote=Range(200, 2000, 100))
        speed = replace(preset.speed, most_vcpus=1.0)
        fixed = replace(preset.fixed, invoke_ns=1_000_000, main_mb=100)
        return replace(preset, memory=memory, speed=speed, fixed=fixed)
    return read_platform("alibaba-fc").with_gpu(3000)


def make(recipe: Recipe, realdata: Path) -> Instance:
    """Make one instance."""
    platform = platform_of(recipe.model)
    limits = {"ttft_ns": recipe.ttft_ns, "tpot_ns": recipe.tpot_ns}
    if recipe.model == "gpt2-moe":
        return generate(
            GPT2, platform, tokens_in=recipe.tokens_in, tokens_out=recipe.tokens_out, seed=recipe.request,
            name=recipe.name, **limits,
        )  # fmt: skip
    found = served(model=recipe.model)
    if recipe.model == "gpt-oss-20b":
        return import_request(
            realdata / GPT_TRACE, found, platform, request=recipe.request, tokens_in=recipe.tokens_in,
            tokens_out=recipe.tokens_out, name=recipe.name, **limits,
        ).instance  # fmt: skip
    with np.load(realdata / DEEPSEEK_TRACE) as trace:  # arrays of four tasks, which no reader of one trace knows
        begin = np.cumsum([0, *trace["summary_sample_lengths"]])[recipe.request]
        tokens = trace["summary_experts"][begin : begin + recipe.tokens_in + recipe.tokens_out].astype(np.int64)
    source: dict[str, str | int] = {"routing": f"{DEEPSEEK_TRACE.name}, summary", "request": recipe.request}
    return assemble(
        found, platform, tokens[: recipe.tokens_in], tokens[recipe.tokens_in :], name=recipe.name, source=source,
        **limits,
    )  # fmt: skip


def instances(realdata: Path, only: list[str]) -> Iterator[Instance]:
    """Yield the set, or those of these names."""
    if not only or "serverless_toy" in only:
        yield Instance.from_document(toy())
    for recipe in RECIPES:
        if not only or recipe.name in only:
            yield make(recipe, realdata)
