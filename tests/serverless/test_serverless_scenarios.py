"""Platforms, generated and imported requests: exact numbers, one file for one seed, one line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

import moeplace
from moeplace import cli
from moeplace.base.errors import InputError
from moeplace.serverless.instance import Instance
from moeplace.serverless.scenarios.assembly import generate, import_request, in_ns, served
from moeplace.serverless.scenarios.platforms import platform_names, read_platform

SHAPE = {"layers": 2, "experts": 4, "top_k": 2, "expert_bytes": 10_000_000, "token_bytes": 2000}
LIMITS = {"ttft_ns": 30 * 10**9, "tpot_ns": 10**9}


def test_presets_say_their_source_and_give_rising_memory() -> None:
    for name in platform_names():
        platform = read_platform(name)
        assert platform.name == name
        assert "USD" in platform.source
        assert "20" in platform.source
        parts = platform.document(2, 10_000_000, 5_000_000)
        mb = [spec["mb"] for spec in parts["specs"]]
        assert mb == sorted(set(mb))
        for key in ("prefill_ns", "prefill_ns_per_token", "decode_ns"):
            times = [spec[key] for spec in parts["specs"]]
            assert times == sorted(times, reverse=True), key
        assert parts["platform"]["other_decode_ns"] == [platform.fixed.other_decode_ns] * 2


def test_the_times_of_a_specification_by_hand() -> None:
    parts = read_platform("aws-lambda").document(1, 17_690_000, 8_845_000)
    (spec,) = [own for own in parts["specs"] if own["mb"] == 512]
    # 512 / 1769 of a CPU: 1.447... GB/s and 10.129... GFLOP/s.
    assert spec["prefill_ns"] == -(-17_690_000 * 1769 // (5 * 512))
    assert spec["prefill_ns_per_token"] == -(-2 * 8_845_000 * 1769 // (35 * 512))
    assert spec["decode_ns"] == spec["prefill_ns"]
    (most,) = [own for own in parts["specs"] if own["mb"] == 10_240]
    assert most["prefill_ns"] == -(-17_690_000 // 20)


def test_a_platform_of_a_file(tmp_path: Path) -> None:
    text = Path(moeplace.__file__).parent.joinpath("serverless/scenarios/presets/aws-lambda.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(text.replace('name = "aws-lambda"', 'name = "own"').replace(
        "remote = { from = 256, to = 3072, step = 256 }", "remote = [700, 300, 700]"))  # fmt: skip
    platform = read_platform(own)
    parts = platform.document(1, 10, 5)
    assert [parts["specs"][i]["mb"] for i in parts["remote_specs"]] == [300, 700]
    for change, said in (
        (("cpu_price = 1667", "cpu_price = -1"), "own.toml: cpu_price: expected an integer >= 0, found -1"),
        (("[memory]", "[memory]\nmegabytes = 3"), 'own.toml: memory: unknown key "megabytes"'),
        (("from = 512", "from = 99999"), "own.toml: memory.main: no size from the first to the last"),
        (("cpu_price = 1667", "cpu_price ="), "own.toml: not TOML: "),
    ):
        own.write_text(text.replace(*change))
        with pytest.raises(InputError) as caught:
            read_platform(own)
        assert said in str(caught.value), str(caught.value)
    with pytest.raises(InputError, match=r"no platform 'aws-lamda'; there are .*; did you mean 'aws-lambda'"):
        read_platform("aws-lamda")


def test_generated_instances_are_the_same_for_a_seed() -> None:
    platform = read_platform("aws-lambda")
    made = [generate(served(**SHAPE), platform, tokens_in=20, tokens_out=7, seed=seed, **LIMITS) for seed in (4, 4, 5)]
    assert made[0].document == made[1].document
    assert made[0].document["request"] != made[2].document["request"]
    assert made[0].prefill.sum(axis=1).tolist() == [40, 40]
    assert made[0].decoded.sum(axis=1).tolist() == [14, 14]
    assert made[0].document["source"]["platform"] == "aws-lambda"
    assert Instance.from_document(json.loads(json.dumps(made[0].document))).sha256 == made[0].sha256


def test_models_by_name_and_by_shape() -> None:
    found = served(model="deepseek-v2-lite")
    assert (found.layers, found.experts, found.top_k, found.token_bytes) == (26, 64, 6, 4096)
    assert found.expert_bytes == 2 * found.weights
    assert served(model="deepseek-v2-lite:int8").expert_bytes < found.expert_bytes
    for options, said in (
        ({}, "a model is missing"),
        (SHAPE | {"top_k": 5}, "--top-k is 5, a layer has 4 experts"),
        (SHAPE | {"model": "gpt-oss-20b"}, "--layers is for a shape of its own"),
        ({"model": "gpt-oss-20b", "config": "x"}, "cannot be given both"),
    ):
        with pytest.raises(InputError, match=said):
            served(**options)  # type: ignore[arg-type]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two requests of 5 and 4 tokens, two layers, top-2 of 4 experts."""
    rng = np.random.default_rng(0)
    experts = np.stack([[rng.choice(4, 2, replace=False) for _ in range(2)] for _ in range(9)]).astype(np.uint8)
    path = tmp_path / "trace.npz"
    np.savez(path, experts=experts, lengths=np.array([5, 4]))
    return path


def test_an_imported_request_has_its_tokens(trace: Path) -> None:
    experts = np.load(trace)["experts"]
    platform = read_platform("aws-lambda")
    for request, (begin, end) in enumerate(((0, 5), (5, 9))):
        made = import_request(trace, served(**SHAPE), platform, request=request, tokens_in=2, **LIMITS).instance
        own = experts[begin:end]
        assert made.request.tokens_out == end - begin - 2
        for layer in range(2):
            assert made.prefill[layer].tolist() == np.bincount(own[:2, layer].ravel(), minlength=4).tolist()
            assert made.decoded[layer].tolist() == np.bincount(own[2:, layer].ravel(), minlength=4).tolist()
    cut = import_request(trace, served(**SHAPE), platform, request=0, tokens_in=2, tokens_out=2, **LIMITS)
    assert (cut.instance.request.tokens_out, cut.requests) == (2, 2)
    few = import_request(trace, served(**SHAPE), platform, request=1, tokens_in=2, tokens_out=9, **LIMITS)
    assert "request 1 has 2 tokens after its prompt, not 9" in few.notes[-1]
    for options, said in (
        ({"request": 2, "tokens_in": 1}, "no request 2; there are 2, counted from 0"),
        ({"request": 1, "tokens_in": 4}, "request 1 has 4 tokens; with 4 of them as the prompt none is left"),
    ):
        with pytest.raises(InputError, match=said):
            import_request(trace, served(**SHAPE), platform, **options, **LIMITS)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        import_request(trace, served(**SHAPE | {"experts": 3}), platform, request=0, tokens_in=1, **LIMITS)


def test_limits_are_whole_nanoseconds() -> None:
    assert in_ns(Decimal("0.0000000015"), 10**9, "--ttft-s") == 1
    for bad in ("-1", "nan", "inf", "1e30"):
        with pytest.raises(InputError, match="--ttft-s is"):
            in_ns(Decimal(bad), 10**9, "--ttft-s")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def call(*args: str, code: int = 0) -> str:
        capfd.readouterr()
        assert cli.main(args) == code, capfd.readouterr()
        return "".join(capfd.readouterr())

    return call


SHAPED = [text for key, value in SHAPE.items() for text in (f"--{key.replace('_', '-')}", str(value))]


def test_the_commands(run: Callable[..., str], trace: Path) -> None:
    out = run("generate", "--as", "serverless", *SHAPED, "--tokens-out", "5", "--ttft-s", "9.5", "-o", "made.json")
    assert "2 layers of 4 experts, top-2: 128 tokens" not in out
    made = moeplace.load("made.json")
    assert isinstance(made, Instance)
    assert (made.request.tokens_in, made.request.tokens_out, made.limits.ttft_ns) == (128, 5, 9_500_000_000)
    run("generate", "--as", "serverless", *SHAPED, "--tokens-out", "5", "--ttft-s", "9.5", "-o", "again.json")
    assert Path("made.json").read_bytes() == Path("again.json").read_bytes()
    assert "2 layers of 4 experts" in run("info", "made.json")
    for args, said in (
        (["--platform", "nowhere"], "no platform 'nowhere'"),
        (["--ttft-s", "soon"], "'soon' is no number"),
        (["--tpot-ms", "-3"], "--tpot-ms is -3"),
        (["--tokens-in", "0"], "--tokens-in"),
    ):
        shown = run("generate", "--as", "serverless", *SHAPED, *args, "-o", "no.json", code=2)
        assert said in shown
        assert shown.count("\n") == 1
        assert not Path("no.json").exists()
    config = ["--model", "gpt-oss-20b", "--tokens-in", "2", "-o", "no.json"]
    assert "trace.npz" in run("import", str(trace), "--as", "serverless", *config, code=2)
    assert not Path("no.json").exists()
