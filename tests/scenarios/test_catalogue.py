"""The catalogue: sizes follow from the facts, and the facts are those of the sources."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from moeplace import InputError
from moeplace.cli import main
from moeplace.scenarios.catalogue import Architecture, architectures, find_architecture

ROOT = Path(__file__).resolve().parents[2]
REALDATA = Path(os.environ.get("MOEPLACE_REALDATA", ROOT.parent / "shared" / "realdata"))
FACTS = REALDATA / "model-architectures"

needs_facts = pytest.mark.skipif(not FACTS.is_dir(), reason=f"no folder {FACTS} (MOEPLACE_REALDATA names another one)")


@pytest.mark.parametrize("architecture", architectures(), ids=lambda a: a.name)
def test_facts_agree_with_each_other(architecture: Architecture) -> None:
    assert architecture.moe_layers <= architecture.layers
    assert architecture.top_k <= architecture.experts
    assert architecture.source
    assert set(architecture.recalled) < set(Architecture.__struct_fields__)
    assert architecture.published != "mxfp4" or architecture.biased  # so it is with the models there are
    assert architecture.scale_block is None or architecture.published == "fp8"
    for name in (architecture.title, architecture.name.upper(), *architecture.repositories):
        assert find_architecture(name) is architecture
    assert all(name.count("/") == 1 for name in architecture.repositories)


def test_names_are_different() -> None:
    names = [architecture.name for architecture in architectures()]
    assert len(set(names)) == len(names) >= 31
    repositories = [name.lower() for architecture in architectures() for name in architecture.repositories]
    assert len(set(repositories)) == len(repositories)


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("mixtral-8x7b", "bf16", 3 * 4096 * 14336 * 2),
        ("mixtral-8x7b", "int8", 3 * 4096 * 14336),
        ("mixtral-8x7b", "int4", 3 * 4096 * 14336 // 2),
        ("switch-base-8", "bf16", 2 * 768 * 3072 * 2),
        # biases of the three matrices, 2880 outputs each, in bf16 whatever the weights are in
        ("gpt-oss-20b", "bf16", (3 * 2880 * 2880 + 3 * 2880) * 2),
        ("gpt-oss-20b", "mxfp4", 3 * 2880 * 2880 // 2 + 3 * 2880 * 2880 // 32 + 2 * 3 * 2880),
        # published by blocks of 128 x 128, each with a scale of 4 bytes: 16 * 56 blocks in each of the three matrices
        ("deepseek-v3", "fp8", 44_040_192 + 10_752),
        ("deepseek-v3", "int8", 44_040_192),
        ("kimi-k2", "fp8", 44_040_192),
        ("gemma-4-26b", "bf16", 11_894_784),
        ("flame-moe-290m", "bf16", 3 * 1024 * 704 * 2),
        ("mixtral-8x22b", "bf16", 3 * 6144 * 16384 * 2),
        # up: 10240 biases, down: 2560
        ("moe-llava-phi2", "int8", 2 * 2560 * 10240 + 2 * (10240 + 2560)),
    ],
)
def test_sizes_by_hand(name: str, precision: str, expected: int) -> None:
    assert find_architecture(name).expert_bytes(precision) == expected


def test_a_message_is_one_hidden_state_in_bf16() -> None:
    assert find_architecture("deepseek-v3").message_bits() == 7168 * 16


@needs_facts
def test_the_table_of_facts_is_the_source() -> None:
    ours = {a.title.lower(): a for a in architectures()}
    with (FACTS / "moe_architectures.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 31
    columns = {
        "moe_layers": "moe_layers", "layers": "total_layers", "experts": "routed_experts_per_moe_layer",
        "shared_experts": "shared_experts_per_moe_layer", "top_k": "top_k", "hidden_size": "hidden_size",
        "expert_width": "expert_intermediate_size", "matrices": "weight_matrices_per_expert",
        "parameters_per_expert": "params_per_expert",
    }  # fmt: skip
    later = {"Gemma-4-26B-A4B", "FLAME-MoE-290M"}  # whose widths were found after the table
    assert later == {row["model"] for row in table if not row["params_per_expert"]}
    for row in table:
        architecture = ours[row["model"].replace("DeepSeek-V3 / R1", "DeepSeek-V3 and R1").lower()]
        for field, column in columns.items():
            expected = int(row[column]) if row[column] else None
            if expected is not None or row["model"] not in later:
                assert getattr(architecture, field) == expected, (row["model"], field)
        if row["model"] in later:
            continue
        biases = architecture.biases_per_expert
        assert architecture.expert_bytes("bf16") == int(row["bytes_bf16"])
        # The table counts biases in the precision of the weights.
        assert architecture.expert_bytes("int8") == int(row["bytes_int8"]) + biases
        assert architecture.expert_bytes("int4") == int(row["bytes_int4"]) + biases * 3 // 2
        # ... and, where it says the config was seen, nothing is marked as recalled; two were confirmed after it.
        recalled = "recalled" in row["source"] and "R1 the same" not in row["source"]
        assert bool(architecture.recalled) == (recalled and row["model"] not in ("GLM-4.5", "Mixtral-8x22B"))


CONFIGS = {
    "mixtral-8x7b": "moe-lrc_mixtral", "olmoe-1b-7b": "moe-lrc_olmoe", "qwen3-30b": "moe-lrc_qwen3",
    "qwen3-235b": "infersim_qwen3-235B-A22B", "qwen3-next-80b": "infersim_qwen3-next-80B-A3B",
    "deepseek-v3": "infersim_deepseek_v3", "deepseek-v2-lite": "moe-lrc_deepseek2", "qwen2-57b": "moe-lrc_qwen2",
    "deepseek-moe-16b": "moe-lrc_deepseek", "phi-3.5-moe": "moe-lrc_phi", "grin-moe": "moe-lrc_grin",
    "jamba-mini-1.6": "moe-lrc_jamba", "qwen1.5-moe-a2.7b": "moe-lrc_qwen",
}  # fmt: skip


@needs_facts
@pytest.mark.parametrize("name", CONFIGS)
def test_config_files_say_the_same(name: str) -> None:
    config = json.loads((FACTS / "configs" / f"{CONFIGS[name]}.json").read_text())
    architecture = find_architecture(name)

    def first(*keys: str) -> int:
        return next(config[key] for key in keys if key in config)

    assert architecture.hidden_size == config["hidden_size"]
    assert architecture.expert_width == first("moe_intermediate_size", "intermediate_size")
    assert architecture.experts == first("n_routed_experts", "num_routed_experts", "num_local_experts", "num_experts")
    assert architecture.top_k == config["num_experts_per_tok"]
    assert architecture.layers == config["num_hidden_layers"]
    dense = config.get("first_k_dense_replace", 0)
    assert architecture.moe_layers == (config["num_hidden_layers"] - dense) // config.get("expert_layer_period", 1)


def test_what_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(
        InputError, match=r"^no model 'gpt-5' in the catalogue; there are switch-base-8, .*mixtral-8x7b"
    ):
        find_architecture("gpt-5")
    with pytest.raises(InputError, match=r"^no model 'some/body' .*; --config reads a repository's config.json$"):
        find_architecture("some/body")
    with pytest.raises(InputError, match=r"^no precision 'mxfp4' of mixtral-8x7b; there are bf16, fp8, int8, int4$"):
        find_architecture("mixtral-8x7b").expert_bytes("mxfp4")


def test_the_command_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listed] == [a.name for a in architectures()]
    sizes = {model["name"]: model["expert_bytes"] for model in listed}
    assert sizes["gpt-oss-20b"]["mxfp4"] == 13_236_480
    assert sizes["flame-moe-290m"] == {"bf16": 4_325_376, "fp8": 2_162_688, "int8": 2_162_688, "int4": 1_081_344}
    assert main(["models"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1 : len(listed) + 1]] == [model["name"] for model in listed]
    assert [line.partition(":")[0] for line in table[len(listed) + 1 :]] == ["", "sizes", "?"]
    assert "5,504?" in next(line for line in table if line.startswith("moe-llava-qwen "))


def test_the_command_tells_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "moe-llava-qwen", "openai/gpt-oss-20b", "DeepSeek-AI/DeepSeek-R1"]) == 0
    out = capsys.readouterr().out
    assert "not seen: layers, hidden_size, expert_width" in out
    assert "13,236,480 bytes in mxfp4, 8-bit scales for 1 x 32 weights" in out
    assert "44,050,944 bytes in fp8, 32-bit scales for 128 x 128 weights" in out
    assert main(["models", "nonesuch"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
