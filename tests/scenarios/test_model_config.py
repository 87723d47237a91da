"""A model's ``config.json``: which layers have experts, how many and how large, and what is refused."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moeplace
from moeplace import InputError
from moeplace.base.files import read_json
from moeplace.caching.scenarios.suites import Scenario, default_name, generate, read_suite
from moeplace.cli import main
from moeplace.scenarios import model_config
from moeplace.scenarios.catalogue import find_architecture
from moeplace.scenarios.model_config import Published, read_model_config

ROOT = Path(__file__).resolve().parents[2]
REALDATA = Path(os.environ.get("MOEPLACE_REALDATA", ROOT.parent / "shared" / "realdata"))
CONFIGS = REALDATA / "model-architectures" / "configs"

PLAIN: dict[str, Any] = {
    "model_type": "made_up",
    "num_hidden_layers": 6,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_size": 256,
    "moe_intermediate_size": 128,
    "intermediate_size": 999,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
WEIGHTS = 256 * 128
Read = Callable[..., Published]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read the plain file with some keys changed; None takes one away."""

    def read(whole: Any = None, **changes: Any) -> Published:
        document = whole or {key: value for key, value in (PLAIN | changes).items() if value is not None}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(document))
        return read_model_config(path)

    return read


def refused(read: Read, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("config.json: ")[2]


def test_a_plain_file(read: Read) -> None:
    published = read()
    shape = published.architecture
    assert (shape.layers, shape.moe_layers, shape.experts, shape.top_k) == (6, 6, 8, 2)
    assert (shape.hidden_size, shape.expert_width, shape.matrices, shape.biased) == (256, 128, 3, False)
    assert published.layer_index == list(range(6))
    assert published.expert_bytes == [3 * WEIGHTS * 2] * 6
    assert (published.precision, published.notes) == ("bf16", [])


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"first_k_dense_replace": 2}, [2, 3, 4, 5]),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, [2, 4]),
        ({"moe_layer_freq": [0, 1, 1, 0, 1, 1]}, [1, 2, 4, 5]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": []}, [1, 3, 5]),
        ({"decoder_sparse_step": 1, "mlp_only_layers": [0, 3]}, [1, 2, 4, 5]),
        ({"interleave_moe_layer_step": 3}, [2, 5]),
        ({"interleave_moe_layer_step": 2, "moe_layers": [1, 3, 5]}, [1, 3, 5]),
        ({"moe_layer_frequency": 2}, [1, 3, 5]),
        ({"expert_layer_period": 3, "expert_layer_offset": 1}, [1, 4]),
        ({"expert_layer_period": 2, "expert_layer_offset": 0}, [0, 2, 4]),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "dense", "sparse", "dense"]}, [1, 2, 4]),
        ({"mlp_layer_types": ["dense"] + 5 * ["sparse"], "first_k_dense_replace": 1}, [1, 2, 3, 4, 5]),
        ({"hybrid_override_pattern": "ME*E-M"}, [1, 3]),
        ({"layers_block_type": ["mamba", "moe", "attention", "moe", "mamba", "moe"]}, [1, 3, 5]),
        ({"layers_block_type": ["mamba", "attention"] * 3}, [0, 1, 2, 3, 4, 5]),  # says nothing of experts
        ({"moe_layers_enum": "2,3,5"}, [2, 3, 5]),
        ({"is_moe_layer": [False, True] * 3}, [1, 3, 5]),
        ({"num_dense_layers": 2}, [2, 3, 4, 5]),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 4, "moe_layer_interval": 1}, [1, 2, 3, 4]),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": -1, "moe_layer_interval": 2}, [1, 3, 5]),
    ],
)
def test_which_layers_have_experts(read: Read, changes: dict[str, Any], layers: list[int]) -> None:
    published = read(**changes)
    assert published.layer_index == layers
    assert published.architecture.moe_layers == len(layers) == len(published.expert_bytes)
    assert published.notes == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"first_k_dense_replace": 6}, "no layer has experts, by first_k_dense_replace"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace: expected an integer from 0 to 10000, found -1"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step: expected an integer from 1 to 10000, found 0"),
        ({"mlp_only_layers": [6]}, "mlp_only_layers[0]: expected a layer from 0 to 5, found 6"),
        ({"mlp_only_layers": 3}, "mlp_only_layers: expected a list of layers, found 3"),
        ({"expert_layer_period": 2}, "expert_layer_offset: is missing: period and offset belong together"),
        ({"mlp_layer_types": ["sparse"] * 5}, "mlp_layer_types: 5 entries, there are 6 layers"),
        ({"mlp_layer_types": ["sparse"] * 5 + ["odd"]}, 'mlp_layer_types[5]: expected "sparse" or "moe" or "dense" or '),
        (
            {"mlp_layer_types": ["sparse"] * 6, "first_k_dense_replace": 1},
            "mlp_layer_types: layer 0 has experts, by first_k_dense_replace it has none",
        ),
        (
            {"moe_layers": [1, 3], "interleave_moe_layer_step": 2},
            "moe_layers: layer 5 has no experts, by interleave_moe_layer_step it has some",
        ),
        ({"moe_layers": [1], "is_moe_layer": [0, 1, 0, 1, 0, 0]}, "moe_layers: layer 3 has no experts, by is_moe_layer it has some"),
        ({"hybrid_override_pattern": "ME*"}, "hybrid_override_pattern: 3 entries, there are 6 layers"),
        ({"hybrid_override_pattern": "ME*EQM"}, "hybrid_override_pattern[4]: expected"),
        ({"moe_layers_enum": "1,x"}, 'moe_layers_enum[1]: expected a layer from 0 to 5, found "x"'),
        ({"model_type": "jamba"}, "expert_layer_period: is missing: not all layers of jamba have experts"),
        ({"num_experts": None}, "a dense model (made_up), without experts to place: none of n_routed_experts, "),
        ({"num_experts": 0}, "a dense model (made_up)"),
        ({"num_experts": 1}, "a dense model (made_up)"),
        ({"enable_moe_block": False}, "enable_moe_block: false: a dense model"),
        ({"num_experts": [8, 16]}, "num_experts: expected an integer from 1 to 32767, found [8, 16]"),
        ({"n_routed_experts": 16}, "num_experts: 8, but n_routed_experts is 16"),
        ({"num_experts_per_tok": None}, "does not say how many experts a token uses: expected num_experts_per_tok or"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok: expected an integer from 1 to 8, found 9"),
        ({"num_experts_per_tok": 2.0}, "num_experts_per_tok: expected an integer from 1 to 8, found 2.0"),
        ({"num_experts_per_tok": True}, "num_experts_per_tok: expected an integer from 1 to 8, found true"),
        ({"hidden_size": None}, "does not say how wide the hidden state is"),
        ({"moe_intermediate_size": None, "intermediate_size": None}, "does not say how wide an expert is: expected inter"),
        ({"moe_intermediate_size": [1, 2]}, "moe_intermediate_size: expected an integer from 1 to 10000000, found [1, 2]"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected an integer from 1 to 10000, found 1000000000"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder: a model with an encoder and a decoder"),
        ({"moe_latent_size": 64}, "moe_latent_size: experts that work on a width of their own"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(read: Read, changes: dict[str, Any], line: str) -> None:
    assert refused(read, **changes).startswith(line)


def test_names_of_the_same_fact(read: Read) -> None:
    for experts in ("n_routed_experts", "num_local_experts", "moe_num_experts"):
        for top_k in ("experts_per_token", "top_k_experts", "moe_topk", "moe_k", "num_experts_per_token"):
            published = read(num_experts=None, num_experts_per_tok=None, **{experts: 4, top_k: 3})
            assert (published.architecture.experts, published.architecture.top_k) == (4, 3)
    both = read(num_local_experts=8, experts_per_token=2)  # twice the same
    assert both.notes == []
    assert read(moe_topk=[2] * 6, num_experts_per_tok=None).architecture.top_k == 2  # by layer, all the same
    assert read(moe_intermediate_size=None).architecture.expert_width == 999
    nested = {"model_type": "sees_too", "vision_config": {"num_hidden_layers": 3}, "text_config": PLAIN}
    assert read(nested).expert_bytes == read().expert_bytes
    assert read({"thinker_config": {"text_config": PLAIN}}).layer_index == list(range(6))
    dbrx = {"model_type": "dbrx", "d_model": 64, "n_layers": 2,
            "ffn_config": {"moe_num_experts": 4, "moe_top_k": 2, "ffn_hidden_size": 32}}  # fmt: skip
    assert read(dbrx).expert_bytes == [3 * 64 * 32 * 2] * 2
    assert read(dbrx).notes == ["no dtype: taken as bf16"]


def test_matrices_and_biases(read: Read) -> None:
    assert read(hidden_act="relu2").expert_bytes[0] == 2 * WEIGHTS * 2
    assert read(hidden_act=None, mlp_hidden_act="relu2").architecture.matrices == 2
    assert read(model_type="gpt_oss").expert_bytes[0] == (3 * WEIGHTS + 128 + 128 + 256) * 2
    assert read(mlp_bias=True).architecture.biased


def group(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


@pytest.mark.parametrize(
    ("quantization", "weights", "scales"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 3 * WEIGHTS, 3 * 2 * 4),
        ({"quant_method": "fp8", "weight_block_size": [100, 128]}, 3 * WEIGHTS, (2 * (2 * 2) + 3 * 1) * 4),
        ({"quant_method": "fp8"}, 3 * WEIGHTS, 3 * 4),
        ({"quant_method": "mxfp4"}, 3 * WEIGHTS // 2, 3 * WEIGHTS // 32),
        (group(num_bits=4, type="int", strategy="group", group_size=32), 3 * WEIGHTS // 2, 3 * WEIGHTS // 32 * 2),
        (
            group(num_bits=4, type="int", group_size=128, symmetric=False),
            3 * WEIGHTS // 2, 3 * WEIGHTS // 128 * 20 // 8,
        ),
        (group(num_bits=8, type="float", strategy="channel"), 3 * WEIGHTS, (128 + 128 + 256) * 2),
        (group(num_bits=8, type="int", strategy="tensor"), 3 * WEIGHTS, 3 * 2),
        (group(num_bits=4, type="float", strategy="tensor_group", group_size=16), 3 * WEIGHTS // 2, 3 * WEIGHTS // 16),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 3 * WEIGHTS // 2, 3 * WEIGHTS // 128 * 20 // 8),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, 3 * WEIGHTS // 2, 3 * WEIGHTS // 64 * 20 // 8),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 3 * WEIGHTS, (128 + 128 + 256) * 3),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 3 * WEIGHTS // 2, 3 * WEIGHTS // 16),
    ],
)  # fmt: skip
def test_how_weights_are_kept(read: Read, quantization: dict[str, Any], weights: int, scales: int) -> None:
    published = read(quantization_config=quantization)
    assert published.expert_bytes == [weights + scales] * 6
    assert f"({scales:,} bytes of scales an expert)" in published.precision
    nested = {"text_config": PLAIN, "quantization_config": quantization}
    assert read(nested).expert_bytes == published.expert_bytes
    assert read({"text_config": PLAIN | {"quantization_config": quantization}}).expert_bytes == published.expert_bytes


@pytest.mark.parametrize(
    ("quantization", "line"),
    [
        (
            {"quant_method": "bitsandbytes"},
            'quantization_config.quant_method: "bitsandbytes" is not known (fp8, mxfp4, ',
        ),
        ({}, "quantization_config.quant_method: null is not known"),
        ("fp8", 'quantization_config: expected an object, found "fp8"'),
        (
            {"quant_method": "fp8", "weight_block_size": [128]},
            "quantization_config.weight_block_size: expected two sizes",
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [0, 1]},
            "quantization_config.weight_block_size: expected an integer",
        ),
        ({"quant_method": "compressed-tensors"}, "quantization_config.config_groups: expected an object of groups"),
        (
            group(num_bits=4, type="int", strategy="odd"),
            "quantization_config.config_groups.group_0.weights.strategy: exp",
        ),
        (group(num_bits=None), "quantization_config.config_groups.group_0.weights.num_bits: expected an integer"),
        ({"quant_method": "gptq", "bits": 4}, "quantization_config.q_group_size: expected an integer from 1"),
    ],
)
def test_what_is_not_known_of_weights_is_refused(read: Read, quantization: Any, line: str) -> None:
    assert refused(read, quantization_config=quantization).startswith(line)


def test_what_the_quantiser_left_alone(read: Read) -> None:
    def sizes(*left: str, key: str = "modules_to_not_convert") -> list[int]:
        quantization = {"quant_method": "fp8", "weight_block_size": [128, 128], key: list(left)}
        return read(quantization_config=quantization, first_k_dense_replace=4).expert_bytes

    small, large = 3 * WEIGHTS + 3 * 2 * 4, 3 * WEIGHTS * 2
    for names in (
        ["lm_head"], ["model.layers.*.self_attn", "model.layers.*.mlp.router"], ["model.layers.4.mlp.gate"],
        ["re:.*self_attn.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", "re:.*shared_experts.*"], ["model.layers.3.mlp"],
        ["mlp.gate", "gate", "visual"], ["re:("],
    ):  # fmt: skip
        assert sizes(*names) == [small, small], names
        assert sizes(*names, key="ignore") == [small, small], names
    for names in (["experts"], ["model.layers.*.mlp.experts"], [r"re:.*\.experts\..*"], ["*experts*"], ["mlp.experts"]):
        assert sizes(*names, key="ignore") == [large, large], names
    assert sizes("model.layers.5.mlp.experts") == [small, large]
    assert sizes("model.layers.4.") == [large, small]


def test_dtypes(read: Read) -> None:
    assert read(torch_dtype="float32").expert_bytes[0] == 3 * WEIGHTS * 4
    assert read(torch_dtype=None, dtype="float16").expert_bytes[0] == 3 * WEIGHTS * 2
    assert read(torch_dtype=None).notes == ["no dtype: taken as bf16"]
    assert refused(read, torch_dtype="int3").startswith(
        'torch_dtype: expected bfloat16, float16 or float32, found "int3"'
    )


def test_what_is_not_read_is_said(read: Read) -> None:
    harmless = {"router_aux_loss_coef": 0.1, "n_shared_experts": 1, "shared_expert_intermediate_size": 5,
                "norm_topk_prob": True, "enable_moe_block": True, "moe_router_topk_scaling": 2, "use_moe_thing": False}  # fmt: skip
    assert read(**harmless).notes == []
    notes = read(moe_every_n_layers=2, expert_pattern="x", num_nextn_predict_layers=1, **harmless).notes
    assert notes == [
        "not read, make sure that nothing hangs on it: moe_every_n_layers, expert_pattern",
        "layers that predict several tokens are not counted (num_nextn_predict_layers 1)",
    ]


def test_names_of_models(tmp_path: Path) -> None:
    def name(file: str, **changes: Any) -> str:
        (tmp_path / file).write_text(json.dumps({k: v for k, v in (PLAIN | changes).items() if v is not None}))
        return read_model_config(tmp_path / file).architecture.name

    assert name("config.json") == "made_up"
    assert name("config.json", _name_or_path="/models/Some Model-8x7B/") == "Some-Model-8x7B"
    assert name("my-model.json", _name_or_path="x/y") == "my-model"
    assert name("config.json", model_type=None) == "moe"


def test_broken_files(tmp_path: Path) -> None:
    for text, line in {
        "[]": "expected an object, found []", "{": "not JSON", '{"num_experts": NaN}': "NaN", "{}": "a dense model, without",
        '{"text_config": 3, "num_experts": {"a": 1}}': "does not say how many layers there are",
    }.items():  # fmt: skip
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InputError, match=r"c\.json: ") as caught:
            read_model_config(tmp_path / "c.json")
        assert line in str(caught.value)
    with pytest.raises(InputError, match="No such file"):
        read_model_config(tmp_path / "none.json")


SMALL = ("--stations", "2", "--users", "4", "--tokens", "20")


class TestInstances:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def write(self, **changes: Any) -> None:
        Path("config.json").write_text(json.dumps(PLAIN | {"first_k_dense_replace": 2} | changes))

    def test_generate(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
        assert main(["generate", "--config", "config.json", *SMALL, "-o", "i.json"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("made_up_s2_u4_c060_seed0: 1 model, 32 experts")
        assert err.splitlines() == [
            "note: config.json: 8 experts in layers 2 to 5 of 6, top 2",
            "note: config.json: 3 matrices of 256 x 128 in fp8, 32-bit scales for 128 x 128 weights (24 bytes of scales an "
            "expert): 98,328 bytes an expert",
        ]
        document = json.loads(Path("i.json").read_text())
        assert document["version"] == 2
        assert document["models"] == [
            {
                "name": "made_up",
                "layers": 4,
                "experts": 8,
                "top_k": 2,
                "expert_bytes": 98_328,
                "layer_index": [2, 3, 4, 5],
            }
        ]
        assert document["source"]["config"] == "config.json"
        assert main(["generate", "--config", "config.json", "--layers", "3", *SMALL, "-o", "j.json"]) == 0
        cut = moeplace.load("j.json")
        assert cut.name == "made_up_l03_s2_u4_c060_seed0"
        assert cut.models[0].layer_index == [2, 3, 4]

    def test_a_model_without_dense_layers_needs_no_version_2(self) -> None:
        self.write(first_k_dense_replace=0)
        document = generate(Scenario(config="config.json", stations=2, users=3, tokens=5)).document()
        assert document["version"] == 1
        assert "layer_index" not in document["models"][0]

    def test_sizes(self) -> None:
        left = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.3"]}
        self.write(quantization_config=left)
        scenario = Scenario(config="config.json", stations=2, users=3, tokens=5)
        sizes = generate(scenario).models[0].expert_bytes
        assert sizes == [98_316, 196_608, 98_316, 98_316]
        self.write(quantization_config={"quant_method": "odd"})
        with pytest.raises(InputError, match="--expert-bytes gives the size itself"):
            generate(scenario)
        given = Scenario(config="config.json", stations=2, users=3, tokens=5, expert_bytes=1234)
        assert generate(given).models[0].expert_bytes == 1234

    @pytest.mark.parametrize(
        ("more", "line"),
        [
            (("--model", "mixtral-8x7b"), "--model: config describes the model already"),
            (("--experts", "4"), "--experts: config describes the model already"),
            (("--hidden-size", "4"), "--hidden-size: config describes the model already"),
            (("--layers", "5"), "--layers: 5, the model has 4 with experts"),
        ],
    )
    def test_refusals(self, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], line: str) -> None:
        self.write()
        assert main(["generate", "--config", "config.json", *more, *SMALL, "-o", "i.json"]) == 2
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"moeplace generate: {line}\n")
        assert not Path("i.json").exists()
        assert main(["generate", "--config", "config.json", *SMALL, "-o", "config.json"]) == 2
        assert "config.json: is the file of" in capsys.readouterr().err

    def test_import(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.write()
        rng = np.random.default_rng(0)
        experts = np.array([[rng.permutation(8)[:2] for _ in range(4)] for _ in range(40)])
        np.save("trace.npy", experts)
        common = ["import", "trace.npy", "--config", "config.json", "--stations", "2", "--users", "2", "--block", "10"]
        assert main([*common, "-o", "i.json"]) == 0
        assert "note: config.json: 8 experts in layers 2 to 5 of 6" in capsys.readouterr().err
        instance = moeplace.load("i.json")
        assert instance.models[0].layer_index == [2, 3, 4, 5]
        assert instance.source["config"] == "config.json"
        assert main([*common, "--layers", "3", "-o", "j.json"]) == 0  # the first three of the trace's four
        assert moeplace.load("j.json").models[0].layer_index == [2, 3, 4]

    @pytest.mark.parametrize(
        "command", [["generate", *SMALL], ["import", "trace.npy", "--stations", "2", "--users", "2"]]
    )
    def test_the_file_is_read_once(self, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
        self.write()
        np.save("trace.npy", np.array([[[0, 1]] * 4] * 40))
        times = 0

        def counted(path: str) -> Any:
            nonlocal times
            times += 1
            return read_json(path)

        monkeypatch.setattr(model_config, "read_json", counted)
        assert main([*command, "--config", "config.json", "-o", "i.json"]) == 0
        assert times == 1

    def test_a_suite_names_files_beside_it(self) -> None:
        Path("sub").mkdir()
        self.write()
        Path("config.json").rename("sub/config.json")
        Path("sub/suite.toml").write_text(
            'description = "d"\n[[family]]\nconfig = "config.json"\nstations = 2\nusers = 3\ntokens = 5\nlayers = 2\n'
        )
        _, scenarios = read_suite("sub/suite.toml")
        assert list(scenarios) == ["made_up_l02_s2_u3_c060_seed0"]
        (scenario,) = scenarios.values()
        assert default_name(scenario, "sub") == generate(scenario, "sub").name

    def test_from_a_config_to_an_engine(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The model's own layer numbers come out where they went in."""
        self.write()
        assert main(["generate", "--config", "config.json", *SMALL, "--capacity", "300", "-o", "i.json"]) == 0
        assert main(["solve", "i.json", "--method", "greedy", "-o", "s.json"]) == 0
        assert main(["placement", "i.json", "s.json", "--format", "csv", "-o", "p.csv"]) == 0
        with Path("p.csv").open(newline="") as file:
            assert {row["layer"] for row in csv.DictReader(file)} == {"2", "3", "4", "5"}
        assert main(["placement", "i.json", "s.json", "--format", "sglang", "--fill", "-o", "p.json"]) == 0
        assert len(json.loads(Path("p.json").read_text())["physical_to_logical_map"]) == 6


FILES = {
    "mixtral-8x7b": "moe-lrc_mixtral", "qwen3-30b": "moe-lrc_qwen3", "qwen3-235b": "infersim_qwen3-235B-A22B",
    "qwen3-next-80b": "infersim_qwen3-next-80B-A3B", "deepseek-v3": "infersim_deepseek_v3",
    "deepseek-v2-lite": "moe-lrc_deepseek2", "qwen2-57b": "moe-lrc_qwen2", "deepseek-moe-16b": "moe-lrc_deepseek",
    "phi-3.5-moe": "moe-lrc_phi", "grin-moe": "moe-lrc_grin", "jamba-mini-1.6": "moe-lrc_jamba",
    "qwen1.5-moe-a2.7b": "moe-lrc_qwen",
}  # fmt: skip


@pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"no folder {CONFIGS} (MOEPLACE_REALDATA names another one)")
@pytest.mark.parametrize("name", FILES)
def test_published_files_say_what_the_catalogue_says(name: str) -> None:
    published, known = read_model_config(CONFIGS / f"{FILES[name]}.json"), find_architecture(name)
    for field in ("moe_layers", "layers", "experts", "top_k", "hidden_size", "expert_width", "matrices", "biased"):
        assert getattr(published.architecture, field) == getattr(known, field), field
    assert set(published.expert_bytes) == {known.expert_bytes(known.published)}


def test_the_layers_of_a_trace_are_those_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = {"num_hidden_layers": 4, "mlp_only_layers": [0, 2], "num_experts": 4, "num_experts_per_tok": 2}
    widths = {"hidden_size": 64, "moe_intermediate_size": 32, "torch_dtype": "bfloat16"}
    Path("config.json").write_text(json.dumps({"model_type": "qwen3_moe", **shape, **widths}))

    def imported(layers: list[int], code: int = 0) -> str:
        rows = [f"0,{token},{layer},{token} 3\n" for token in range(3) for layer in layers]
        Path("trace.csv").write_text("request,token,layer,experts\n" + "".join(rows))
        arguments = ["import", "trace.csv", "--config", "config.json", "--stations", "2", "--users", "2"]
        assert main([*arguments, "-o", "out.json"]) == code
        return capfd.readouterr().err

    imported([0, 1])
    counted = moeplace.load("out.json").sha256
    assert "layers 1 to 3 (2 of them) of the file are taken as layers 0 to 1" in imported([1, 3])
    assert moeplace.load("out.json").sha256 == counted
    line = "moeplace import: trace.csv: layers 1, 2; the model's own are 1, 3\n"
    assert imported([1, 2], code=2).endswith(line)
