"""Broken files and flags: exit code 2, one line that names the place, nothing on stdout, nothing written."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import copy
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import moeplace
from moeplace.cli import main

DOCUMENT: dict[str, Any] = {
    "format": "moeplace/instance",
    "version": 1,
    "name": "base",
    "notes": "what every case breaks in one place",
    "latency_model": "max",
    "models": [
        {"name": "m", "layers": 2, "experts": 4, "top_k": 2, "expert_bytes": [1000, 500]},
        {"name": "k", "layers": 1, "experts": 2, "top_k": 1, "expert_bytes": 10},
    ],
    "servers": [
        {"name": "s", "capacity_bytes": 3000, "position_m": [0, -5]},
        {"name": "t", "capacity_bytes": 2000},
    ],
    "demands": [
        {
            "user": "u",
            "model": "m",
            "tokens": 100,
            "device_ns": 0,
            "server_ns": [2000, None],
            "cloud_ns": 40000,
            "device_experts": [[0, 1]],
            "position_m": [3, 4],
        },
        {"user": "u", "model": "k", "tokens": 10, "device_ns": 0, "server_ns": [20, 30], "cloud_ns": 400},
    ],
    "activations": {
        "demand": [0, 0, 1],
        "layer": [0, 1, 0],
        "experts": [[0, 2], [1, 3], [1]],
        "count": [60, 40, 10],
    },
    "source": {"trace": "none", "tokens": 110},
}


def at(document: Any, *steps: str | int) -> Any:
    for step in steps:
        document = document[step]
    return document


def put(*steps_and_value: Any) -> bytes:
    """The document with one value replaced or added."""
    *steps, last, value = steps_and_value
    document = copy.deepcopy(DOCUMENT)
    at(document, *steps)[last] = value
    return json.dumps(document).encode()


def second(document: bytes) -> bytes:
    """A document as one of version 2."""
    return document.replace(b'"version": 1', b'"version": 2', 1)


def drop(*steps: str | int) -> bytes:
    document = copy.deepcopy(DOCUMENT)
    del at(document, *steps[:-1])[steps[-1]]
    return json.dumps(document).encode()


def text(old: str, new: str) -> bytes:
    """The document with a piece of its text replaced (for what ``json`` would not write)."""
    whole = json.dumps(DOCUMENT)
    assert whole.count(old) >= 1
    return whole.replace(old, new, 1).encode()


WHOLE = json.dumps(DOCUMENT).encode()
BIG = 2**63

INSTANCES: dict[str, tuple[bytes, str]] = {
    # --- not a document at all
    "empty": (b"", "bad.json: line 1, column 1: not JSON"),
    "blank": (b" \n\n", "bad.json: line 3, column 1: not JSON"),
    "truncated-json": (WHOLE[: len(WHOLE) // 2], "bad.json: line 1, column"),
    "two-documents": (WHOLE + WHOLE, "not JSON: Extra data"),
    "truncated-gzip": (gzip.compress(WHOLE)[:-20], "bad.json: cannot be read: damaged gzip file"),
    "gzip-header-only": (b"\x1f\x8b", "damaged gzip file"),
    "gzip-flipped-byte": (gzip.compress(WHOLE)[:40] + b"\x00" + gzip.compress(WHOLE)[41:], "damaged gzip file"),
    "gzip-then-rubbish": (gzip.compress(WHOLE) + b"rubbish", "damaged gzip file"),
    "gzip-of-rubbish": (gzip.compress(b"rubbish"), "line 1, column 1: not JSON"),
    "latin-1": (text("what every", "wh\\u00e4t").decode().replace("\\u00e4", "ä").encode("latin-1"), "not UTF-8: byte 0xe4"),
    "utf-16": (WHOLE.decode().encode("utf-16"), "not UTF-8: byte 0xff at 0"),
    "byte-order-mark": (b"\xef\xbb\xbf" + WHOLE, "starts with a byte order mark"),
    "png": (b"\x89PNG\r\n\x1a\n", "not UTF-8: byte 0x89 at 0"),
    "single-quotes": (WHOLE.replace(b'"', b"'"), "line 1, column 2: not JSON"),
    "trailing-comma": (text('"version": 1,', '"version": 1,,'), "not JSON"),
    "control-character": (text("what every", "what\x01every"), "not JSON: Invalid control character"),
    "nan": (text('"cloud_ns": 40000', '"cloud_ns": NaN'), "NaN is not a number here"),
    "infinity": (text('"cloud_ns": 40000', '"cloud_ns": -Infinity'), "-Infinity is not a number here"),
    "overflowing-float": (text('"cloud_ns": 40000', '"cloud_ns": 1e999'), "demands[0].cloud_ns: expected an integer"),
    "number-of-5000-digits": (text('"cloud_ns": 40000', '"cloud_ns": ' + "9" * 5000), "bad.json: not JSON that can be read"),
    "deep-nesting": (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
    "deep-nesting-inside": (put("source", "x", 0).replace(b'"x": 0', b'"x": ' + b"[" * 900 + b"]" * 900), 'source["x"]'),
    "surrogate-only": (b'"\\ud800"', "half of a surrogate pair"),
    "list": (b"[]", "expected an object, found []"),
    "number": (b"3", "expected an object, found 3"),
    "null": (b"null", "expected an object, found null"),
    "solution-instead": (b'{"format": "moeplace/solution", "version": 1}', 'format: expected "moeplace/instance", found "moeplace/solution"'),
    "duplicate-key": (text('"version": 1,', '"version": 1, "version": 1,'), 'the key "version" stands twice'),
    "duplicate-key-inside": (text('"tokens": 100,', '"tokens": 100, "tokens": 9,'), 'the key "tokens" stands twice'),
    "lone-surrogate": (text("what every", "\\ud800"), "half of a surrogate pair"),
    "lone-surrogate-name": (text('"name": "s"', '"name": "\\udfff"'), "half of a surrogate pair"),
    # --- keys and types
    "format-other": (put("format", "moeplace/other"), 'format: expected "moeplace/instance", found "moeplace/other"'),
    "version-3": (put("version", 3), "version: expected 1 or 2, found 3"),
    "version-true": (put("version", True), "version: expected an integer, found true"),
    "layer-index-in-version-1": (put("models", 0, "layer_index", [0, 1]), "models[0].layer_index: is a key of version 2, the file says version 1"),
    "layer-index-too-short": (second(put("models", 0, "layer_index", [3])), "models[0].layer_index: 1 entries, 2 layers"),
    "layer-index-equal": (second(put("models", 0, "layer_index", [3, 3])), "models[0].layer_index[1]: 3 after 3; the numbers must rise"),
    "layer-index-falling": (second(put("models", 0, "layer_index", [4, 3])), "models[0].layer_index[1]: 3 after 4; the numbers must rise"),
    "layer-index-negative": (second(put("models", 0, "layer_index", [-1, 3])), "models[0].layer_index[0]: expected an integer >= 0, found -1"),
    "layer-index-text": (second(put("models", 0, "layer_index", "3-4")), 'models[0].layer_index: expected a list, found "3-4"'),
    "layer-index-null": (second(put("models", 0, "layer_index", None)), "models[0].layer_index: expected a list, found null"),
    "other-keys-of-version-2": (second(put("servers", 0, "host", "h")), 'servers[0]: unknown key "host"'),
    "unknown-key": (put("latency", "max"), 'bad.json: unknown key "latency"'),
    "unknown-key-model": (put("models", 0, "topk", 2), 'models[0]: unknown key "topk"'),
    "unknown-key-server": (put("servers", 1, "capacity", 2), 'servers[1]: unknown key "capacity"'),
    "unknown-key-demand": (put("demands", 1, "edge_ns", 2), 'demands[1]: unknown key "edge_ns"'),
    "unknown-key-activations": (put("activations", "counts", []), 'activations: unknown key "counts"'),
    "unknown-key-with-break": (put("a\nb", 1), r'unknown key "a\nb"'),
    "missing-version": (drop("version"), 'bad.json: the key "version" is missing'),
    "missing-models": (drop("models"), 'the key "models" is missing'),
    "missing-model-key": (drop("models", 0, "expert_bytes"), 'models[0]: the key "expert_bytes" is missing'),
    "missing-server-key": (drop("servers", 0, "capacity_bytes"), 'servers[0]: the key "capacity_bytes" is missing'),
    "missing-demand-key": (drop("demands", 1, "cloud_ns"), 'demands[1]: the key "cloud_ns" is missing'),
    "missing-column": (drop("activations", "count"), 'activations: the key "count" is missing'),
    "name-number": (put("name", 3), "name: expected text, found 3"),
    "notes-null": (put("notes", None), "notes: expected text, found null"),
    "latency-model-unknown": (put("latency_model", "min"), 'latency_model: expected "max" or "sum", found "min"'),
    "models-object": (put("models", {}), "models: expected a list, found {}"),
    "server-text": (put("servers", 0, "s"), 'servers[0]: expected an object, found "s"'),
    "float": (put("demands", 0, "cloud_ns", 4.5), "demands[0].cloud_ns: expected an integer, found 4.5"),
    "float-that-is-whole": (put("servers", 0, "capacity_bytes", 3000.0), "servers[0].capacity_bytes: expected an integer"),
    "bool-as-int": (put("models", 0, "layers", True), "models[0].layers: expected an integer, found true"),
    "text-as-int": (put("models", 0, "top_k", "2"), 'models[0].top_k: expected an integer, found "2"'),
    "bytes-wrong-type": (put("models", 0, "expert_bytes", "1"), "models[0].expert_bytes: expected an integer"),
    "bytes-null-entry": (put("models", 0, "expert_bytes", 1, None), "models[0].expert_bytes[1]: expected an integer"),
    "count-float": (put("activations", "count", 1, 1.5), "activations.count[1]: expected an integer, found 1.5"),
    "experts-flat": (put("activations", "experts", [0, 1, 2]), "activations.experts[0]: expected a list, found 0"),
    "expert-null": (put("activations", "experts", 1, 0, None), "activations.experts[1][0]: expected an integer"),
    "source-list": (put("source", []), "source: expected an object, found []"),
    "source-float": (put("source", "x", 0.5), 'source["x"]: expected'),
    "position-of-three": (put("servers", 0, "position_m", [1, 2, 3]), "servers[0].position_m: expected a list"),
    "position-float": (put("demands", 0, "position_m", [1.5, 2]), "demands[0].position_m[0]: expected an integer"),
    # --- ranges
    "negative-time": (put("demands", 0, "device_ns", -1), "demands[0].device_ns: expected an integer >= 0, found -1"),
    "negative-capacity": (put("servers", 0, "capacity_bytes", -1), "servers[0].capacity_bytes: expected an integer >= 0"),
    "negative-server-time": (put("demands", 1, "server_ns", 1, -7), "demands[1].server_ns[1]: expected an integer >= 0"),
    "negative-expert": (put("activations", "experts", 0, 0, -1), "activations.experts[0][0]: expected an integer >= 0"),
    "zero-layers": (put("models", 1, "layers", 0), "models[1].layers: expected an integer >= 1, found 0"),
    "zero-bytes": (put("models", 0, "expert_bytes", 1, 0), "models[0].expert_bytes[1]: expected an integer >= 1"),
    "zero-tokens": (put("demands", 0, "tokens", 0), "demands[0].tokens: expected an integer >= 1, found 0"),
    "zero-count": (put("activations", "count", 2, 0), "activations.count[2]: expected an integer >= 1, found 0"),
    "huge-time": (put("demands", 0, "cloud_ns", BIG), "demands[0].cloud_ns: expected an integer <= 9223372036854775807"),
    "huge-40-digits": (put("demands", 0, "cloud_ns", 10**45), "demands[0].cloud_ns: expected"),
    "huge-layers": (put("models", 1, "layers", 10**12), "models: "),
    "top-k-over-experts": (put("models", 0, "top_k", 5), "models[0].top_k: 5 experts a token, the model has 4"),
    "bytes-overflow": (put("models", 1, "expert_bytes", 2**62), "models[1].expert_bytes: all experts together"),
    "cost-overflow": (put("demands", 0, "cloud_ns", BIG // 90), "activations: the latency with empty servers"),
    # --- how parts fit together
    "bytes-per-layer-short": (put("models", 0, "expert_bytes", [1]), "models[0].expert_bytes: 1 entries, 2 layers"),
    "server-times-short": (put("demands", 0, "server_ns", [1]), "demands[0].server_ns: 1 entries, 2 servers"),
    "server-times-long": (put("demands", 1, "server_ns", [1, 2, 3]), "demands[1].server_ns: 3 entries, 2 servers"),
    "columns-differ": (put("activations", "layer", [0]), "activations.layer: 1 entries, demand has 3"),
    "duplicate-model": (put("models", 1, "name", "m"), 'models[1]: name "m" stands in models[0] already'),
    "duplicate-server": (put("servers", 1, "name", "s"), 'servers[1]: name "s" stands in servers[0] already'),
    "duplicate-demand": (put("demands", 1, "model", "m"), "demands[1]: user and model"),
    "unknown-model": (put("demands", 1, "model", "q"), 'demands[1].model: "q" is not the name of a model'),
    "unknown-model-with-break": (put("demands", 1, "model", "q\nr"), r'demands[1].model: "q\nr" is not the name'),
    "demand-out-of-range": (put("activations", "demand", 1, 2), "activations.demand[1]: demand 2, there are 2"),
    "layer-out-of-range": (put("activations", "layer", 1, 2), "activations.layer[1]: layer 2, the model has 2"),
    "expert-out-of-range": (put("activations", "experts", 0, 1, 4), "activations.experts[0][1]: expert 4, the model has 4"),
    "expert-twice-in-row": (put("activations", "experts", 1, [3, 3]), "activations.experts[1][1]: the expert stands"),
    "more-than-top-k": (put("activations", "experts", 0, [0, 1, 2]), "activations.experts[0]: 3 experts, the model's"),
    "row-without-experts": (put("activations", "experts", 0, []), "activations.experts[0]: expected a list"),
    "count-over-tokens": (put("activations", "count", 0, 101), "activations.count[0]: 101 tokens, demands[0] has 100"),
    "sum-over-tokens": (put("activations", "layer", 1, 0).replace(b"[60, 40, 10]", b"[60, 41, 10]"), "101 tokens counted"),
    "device-layer": (put("demands", 0, "device_experts", 0, [2, 0]), "demands[0].device_experts[0]: layer 2"),
    "device-expert": (put("demands", 0, "device_experts", 0, [0, 4]), "demands[0].device_experts[0]: expert 4"),
    "device-twice": (put("demands", 0, "device_experts", [[0, 1], [0, 1]]), "demands[0].device_experts[1]: [0, 1] is"),
    "device-triple": (put("demands", 0, "device_experts", [[0, 1, 2]]), "demands[0].device_experts[0]: expected a list"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("good.json").write_bytes(WHOLE)
    return tmp_path


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused, in a folder that must stay as it is; return its one line."""

    def run(*args: str, code: int = 2) -> str:
        before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
        assert main(args) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1, err
        assert "Traceback" not in err
        assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before
        return err.strip()

    return run


def test_the_unbroken_document_is_accepted(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "good.json", "--method", "popular", "-o", "out.json"]) == 0
    assert main(["check", "good.json", "out.json"]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("data", "expected"), INSTANCES.values(), ids=INSTANCES.keys())
def test_broken_instance(refused: Callable[..., str], data: bytes, expected: str) -> None:
    Path("bad.json").write_bytes(data)
    line = refused("solve", "bad.json", "--method", "popular", "-o", "out.json")
    assert line.startswith("moeplace solve: bad.json: ")
    assert expected in line


@pytest.mark.parametrize("command", [["info"], ["gap"], ["export", "-o", "x.mps"], ["check", "good.json"]])
def test_every_command_refuses_a_broken_file(refused: Callable[..., str], command: list[str]) -> None:
    Path("bad.json").write_bytes(b"{")
    assert "bad.json: line 1, column 2" in refused(*command, "bad.json")


def test_a_broken_file_name_stays_on_one_line(refused: Callable[..., str]) -> None:
    Path("a\nb\x1b[31m.json").write_bytes(b"{")
    assert r"a\nb\x1b[31m.json: line 1" in refused("info", "a\nb\x1b[31m.json")


def test_broken_best_known(refused: Callable[..., str]) -> None:
    Path("best_known.json").write_text('{"base": {"sha256": 3}}')
    assert 'best_known.json: ["base"].sha256: expected text' in refused("gap", "good.json", "--methods", "popular")


# --- solutions -------------------------------------------------------------------------------------------------


def solution() -> dict[str, Any]:
    instance = moeplace.Instance.from_document(DOCUMENT)
    return moeplace.solve(instance, "popular").document()


def changed(*steps_and_value: Any) -> bytes:
    *steps, last, value = steps_and_value
    document = solution()
    at(document, *steps)[last] = value
    return json.dumps(document).encode()


def without(*steps: str | int) -> bytes:
    document = solution()
    del at(document, *steps[:-1])[steps[-1]]
    return json.dumps(document).encode()


SOLUTIONS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "line 1, column 1: not JSON"),
    "truncated": (lambda: json.dumps(solution()).encode()[:-5], "not JSON"),
    "an-instance": (lambda: WHOLE, 'format: expected "moeplace/solution", found "moeplace/instance"'),
    "lone-surrogate": (lambda: b'"\\ud800"', "half of a surrogate pair"),
    "list": (lambda: b"[]", "expected an object, found []"),
    "format-other": (lambda: changed("format", "x"), 'format: expected "moeplace/solution", found "x"'),
    "version-2": (lambda: changed("version", 2), "version: expected 1, found 2"),
    "no-placement": (lambda: without("placement"), 'the key "placement" is missing'),
    "no-latency": (lambda: without("objective", "latency_ns"), 'objective: the key "latency_ns" is missing'),
    "no-sha256": (lambda: without("instance", "sha256"), 'instance: the key "sha256" is missing'),
    "no-status": (lambda: without("status"), 'the key "status" is missing'),
    "latency-text": (lambda: changed("objective", "latency_ns", "1"), "objective.latency_ns: expected an integer"),
    "latency-float": (lambda: changed("objective", "latency_ns", 1.5), "objective.latency_ns: expected an integer"),
    "placement-object": (lambda: changed("placement", {}), "placement: expected a list, found {}"),
    "server-number": (lambda: changed("placement", 0, "server", 1), "placement[0].server: expected text, found 1"),
    "expert-triple": (lambda: changed("placement", 0, "experts", 0, [1, 2, 3]), "placement[0].experts[0]: expected"),
    "expert-negative": (lambda: changed("placement", 0, "experts", 0, [-1, 0]), "placement[0].experts[0][0]: expected"),
    "expert-bool": (lambda: changed("placement", 0, "experts", 0, [True, 0]), "placement[0].experts[0][0]: expected"),
    "termination-unknown": (lambda: changed("status", "termination", "done"), "status.termination: expected"),
    "status-unknown": (lambda: changed("status", "solution", "good"), 'status.solution: expected "optimal" or "feasible"'),
    "gap-text": (lambda: changed("objective", "gap", "0"), "objective.gap: expected"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), SOLUTIONS.values(), ids=SOLUTIONS.keys())
def test_broken_solution(refused: Callable[..., str], data: Callable[[], bytes], expected: str) -> None:
    Path("bad.json").write_bytes(data())
    for command in (
        ["check", "good.json", "bad.json"],
        ["solve", "good.json", "--start", "bad.json", "-o", "out.json"],
    ):
        line = refused(*command)
        assert line.startswith(f"moeplace {command[0]}: bad.json: ")
        assert expected in line


STARTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "unknown-server": (lambda: changed("placement", 0, "server", "x"), "placement[0].server: the instance has no server 'x'"),
    "unknown-model": (lambda: changed("placement", 0, "model", "x"), "placement[0].model: the instance has no model 'x'"),
    "unknown-expert": (lambda: changed("placement", 0, "experts", 0, [0, 9]), "placement[0].experts[0]: no expert [0, 9]"),
    "pair-twice": (lambda: changed("placement", 0, "experts", [[0, 1], [0, 1]]), "placement[0].experts[1]: [0, 1] is on"),
    "overfull": (
        lambda: changed("placement", 0, "experts", [[0, 0], [0, 1], [0, 2], [0, 3]]),
        "placement: server 's' holds 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), STARTS.values(), ids=STARTS.keys())
def test_start_that_does_not_fit(refused: Callable[..., str], data: Callable[[], bytes], expected: str) -> None:
    Path("start.json").write_bytes(data())
    line = refused("solve", "good.json", "--method", "popular", "--start", "start.json", "-o", "out.json")
    assert line.startswith("moeplace solve: start.json: ")
    assert expected in line


@pytest.mark.parametrize(("data", "expected"), STARTS.values(), ids=STARTS.keys())
def test_the_checker_calls_the_same_wrong(
    folder: Path, capfd: pytest.CaptureFixture[str], data: Callable[[], bytes], expected: str
) -> None:
    Path("wrong.json").write_bytes(data())
    assert main(["check", "good.json", "wrong.json"]) == 1
    out, err = capfd.readouterr()
    assert err == ""
    assert "WRONG" in out


# --- flags -----------------------------------------------------------------------------------------------------

SOLVE = ["solve", "good.json", "--method", "popular", "-o", "out.json"]
GAP = ["gap", "good.json", "--methods", "popular", "--csv", "out.csv"]
EXPORT = ["export", "good.json"]

FLAGS: dict[str, tuple[list[str], str]] = {
    "no-command": ([], "moeplace: Missing command"),
    "unknown-command": (["place"], "moeplace: no command 'place'; there are solve, gap, check"),
    "unknown-option": ([*SOLVE, "--tme-limit", "3"], "moeplace solve: No such option"),
    "unknown-global-option": (["--verbose"], "moeplace: No such option"),
    "no-instance": (["solve"], "moeplace solve: Missing argument 'INSTANCE'"),
    "no-instances": (["gap"], "moeplace gap: Missing argument 'INSTANCE...'"),
    "no-solution": (["check", "good.json"], "moeplace check: Missing argument 'SOLUTION'"),
    "too-many-arguments": (["info", "good.json", "good.json"], "moeplace info: Got unexpected extra argument"),
    "option-without-value": ([*SOLVE, "--seed"], "'--seed' requires an argument"),
    "time-limit-negative": ([*SOLVE, "--time-limit", "-1"], "the time limit must be a number of seconds >= 0, found -1"),
    "time-limit-nan": ([*SOLVE, "--time-limit", "nan"], "the time limit must be a number of seconds >= 0, found nan"),
    "time-limit-inf": ([*SOLVE, "--time-limit", "inf"], "the time limit must be a number of seconds >= 0, found inf"),
    "time-limit-word": ([*SOLVE, "--time-limit", "abc"], "'--time-limit': 'abc' is not a valid float"),
    "time-limit-empty": ([*SOLVE, "--time-limit", ""], "'--time-limit': '' is not a valid float"),
    "gap-two": ([*SOLVE, "--gap", "2"], "the gap must be a fraction from 0 to below 1, found 2"),
    "gap-one": ([*SOLVE, "--gap", "1"], "the gap must be a fraction from 0 to below 1, found 1"),
    "gap-negative": ([*SOLVE, "--gap", "-1"], "the gap must be a fraction from 0 to below 1, found -1"),
    "gap-nan": ([*SOLVE, "--gap", "nan"], "the gap must be a fraction from 0 to below 1, found nan"),
    "gap-percent": ([*SOLVE, "--gap", "1%"], "'--gap': '1%' is not a valid float"),
    "gap-of-a-heuristic": ([*SOLVE, "--gap", "0.1"], "method popular has no parameter 'gap'"),
    "threads-zero": ([*SOLVE, "--threads", "0"], "threads must be at least 1, found 0"),
    "threads-word": ([*SOLVE, "--threads", "all"], "'--threads': 'all' is not a valid integer"),
    "seed-negative": ([*SOLVE, "--seed", "-1"], "the seed must be from 0 to 2147483647, found -1"),
    "seed-large": ([*SOLVE, "--seed", "2147483648"], "the seed must be from 0 to 2147483647, found 2147483648"),
    "seed-float": ([*SOLVE, "--seed", "1.5"], "'--seed': '1.5' is not a valid integer"),
    "method-unknown": (["solve", "good.json", "--method", "best"], "no method 'best'; there are auto"),
    "method-empty": (["solve", "good.json", "--method", ""], "no method ''"),
    "method-no-module": (["solve", "good.json", "--method", "nowhere:f"], "'nowhere:f' cannot be loaded"),
    "method-no-function": (["solve", "good.json", "--method", "json:f"], "'json:f' cannot be loaded"),
    "method-no-colon-part": (["solve", "good.json", "--method", ":"], "':' is not of the form module:function"),
    "method-not-callable": (["solve", "good.json", "--method", "json:__name__"], "'json:__name__' is not a function"),
    "method-broken-module": (["solve", "good.json", "--method", "broken:f"], "'broken:f' cannot be loaded: SyntaxError"),
    "parameter-unknown": ([*SOLVE, "-p", "depth=3"], "method popular has no parameter 'depth'"),
    "parameter-no-value": ([*SOLVE, "-p", "depth"], "expected KEY=VALUE, found 'depth'"),
    "parameter-no-key": ([*SOLVE, "-p", "=3"], "expected KEY=VALUE, found '=3'"),
    "parameter-reserved": ([*SOLVE, "-p", "seed=3"], "seed is no parameter of a method"),
    "parameter-twice": ([*SOLVE, "-p", "a=3", "-p", "a=4"], "the parameter a is given twice"),
    "instance-missing": (["info", "none.json"], "none.json: cannot be read: No such file or directory"),
    "instance-folder": (["info", "."], ".: cannot be read: Is a directory"),
    "instance-under-a-file": (["info", "good.json/x.json"], "good.json/x.json: cannot be read: Not a directory"),
    "instance-name-empty": (["info", ""], "'INSTANCE': the file name is empty"),
    "instance-name-too-long": (["info", "a" * 300], "aaa: cannot be read: File name too long"),
    "solution-missing": (["check", "good.json", "none.json"], "none.json: cannot be read: No such file"),
    "start-missing": ([*SOLVE, "--start", "none.json"], "none.json: cannot be read: No such file"),
    "output-no-folder": ([*SOLVE, "-o", "no/out.json"], "no/out.json: cannot be written: the folder no does not exist"),
    "output-a-folder": ([*SOLVE, "-o", "sub"], "sub: is a folder; a file name was expected"),
    "output-under-a-file": ([*SOLVE, "-o", "good.json/out.json"], "good.json/out.json: cannot be written"),
    "output-empty": ([*SOLVE, "-o", ""], "'-o' / '--output': the file name is empty"),
    "output-too-long": ([*SOLVE, "-o", "a" * 300], "aaa: cannot be written: File name too long"),
    "output-is-the-instance": ([*SOLVE, "-o", "good.json"], "good.json: is the instance itself"),
    "output-links-to-the-instance": ([*SOLVE, "-o", "link.json"], "link.json: is the instance itself"),
    "csv-no-folder": ([*GAP, "--csv", "no/out.csv"], "no/out.csv: cannot be written: the folder no does not exist"),
    "csv-is-the-instance": ([*GAP, "--csv", "./good.json"], "./good.json: is the instance itself"),
    "csv-a-folder": ([*GAP, "--csv", "sub"], "sub: is a folder; a file name was expected"),
    "gap-time-limit": ([*GAP, "--time-limit", "-3"], "the time limit must be a number of seconds >= 0, found -3"),
    "gap-methods-empty": (["gap", "good.json", "--methods", ""], "no method ''"),
    "gap-methods-hole": (["gap", "good.json", "--methods", "popular,,random"], "no method ''"),
    "gap-methods-unknown": (["gap", "good.json", "--methods", "popular,best"], "no method 'best'"),
    "gap-parameter-unknown": ([*GAP, "-p", "depth=3"], "none of the methods has a parameter 'depth'"),
    "gap-second-instance-missing": ([*GAP[:2], "none.json", *GAP[2:]], "none.json: cannot be read: No such file"),
    "export-no-output": (EXPORT, "Missing option '-o'"),
    "export-suffix": ([*EXPORT, "-o", "x.txt"], "x.txt: the name must end in .mps or .lp, found '.txt'"),
    "export-no-suffix": ([*EXPORT, "-o", "x"], "x: the name must end in .mps or .lp"),
    "export-model-unknown": ([*EXPORT, "--model", "qp", "-o", "x.mps"], "no model 'qp'; there are"),
    "export-model-not-algebraic": ([*EXPORT, "--model", "cpsat", "-o", "x.mps"], "cpsat is not an algebraic model"),
    "export-is-the-instance": ([*EXPORT, "-o", "good.json"], "good.json: is the instance itself"),
    "export-no-folder": ([*EXPORT, "-o", "no/x.mps"], "no/x.mps: cannot be written: the folder no does not exist"),
    "two-bad-flags": ([*SOLVE, "--seed", "-1", "--threads", "x"], "'--threads': 'x' is not a valid integer"),
    "bad-flag-and-bad-file": (["solve", "none.json", "--threads", "0"], "threads must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "expected"), FLAGS.values(), ids=FLAGS.keys())
def test_bad_flags(refused: Callable[..., str], args: list[str], expected: str) -> None:
    Path("sub").mkdir()
    Path("link.json").symlink_to("good.json")
    Path("broken.py").write_text("def f(:\n")
    assert expected in refused(*args)


def test_error_lines_of_hostile_keys(refused: Callable[..., str]) -> None:
    """What msgspec says holds the file's own text: a key that reads like a place is still only a key."""
    for key in (" - at `$.x`", " - at `$.name[0]`", "` - at `$.models[9]", "`", ""):
        Path("bad.json").write_bytes(put(key, 1))
        assert f"bad.json: unknown key {json.dumps(key)}" in refused("info", "bad.json"), key
        Path("bad.json").write_bytes(put("models", 0, key, 1))
        assert f"bad.json: models[0]: unknown key {json.dumps(key)}" in refused("info", "bad.json"), key
    for depth in (900, 985):
        Path("bad.json").write_bytes(text('"version": 1', f'"version": {"[" * depth}{"]" * depth}'))
        assert "bad.json: " in refused("info", "bad.json"), depth


def test_sizes_before_memory(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("packed.json.gz").write_bytes(gzip.compress(json.dumps(DOCUMENT).encode()))
    monkeypatch.setattr("moeplace.base.files.MOST_INFLATED", 100)
    assert "packed.json.gz: unpacks to more than 100 bytes" in refused("info", "packed.json.gz")
    monkeypatch.setattr("moeplace.caching.reading.MOST_CELLS", 19)
    assert "servers: 2 servers times 10 experts are 20; at most 19" in refused("info", "good.json")


def test_surrogates_in_every_document(refused: Callable[..., str]) -> None:
    for document in ({"name": "\udfff"}, {"\ud800": 1}, {"deep": [{"x": ["\udc00"]}]}):
        Path("bad.json").write_text(json.dumps(document))
        for command in (["info", "bad.json"], ["check", "good.json", "bad.json"]):
            assert "bad.json: a string holds half of a surrogate pair" in refused(*command), (command, document)


def test_outputs_are_compared_as_files(refused: Callable[..., str]) -> None:
    Path("loop.json").symlink_to("loop.json")
    Path("new.json").symlink_to("a.json")
    Path("p.csv").write_text("latitude,longitude\n1,2\n")
    small = ["generate", "--layers", "1", "--experts", "2", "--top-k", "1", "--expert-bytes", "9"]
    for args, expected in (
        ([*SOLVE[:-1], "a.json", "--certificate", "./a.json"], "a.json: is the file of"),
        ([*SOLVE[:-1], "a.json", "--certificate", "new.json"], "a.json: is the file of"),
        ([*SOLVE[:-1], "./p.csv", "--start", "p.csv"], "p.csv: is the file of --start as well"),
        ([*small, "--station-file", "p.csv", "-o", "./p.csv"], "p.csv: is the file of --station-file as well"),
        ([*SOLVE[:-1], "loop.json"], "loop.json: cannot be written"),
    ):
        assert expected in refused(*args), args


def test_hostile_suites_networks_and_links(refused: Callable[..., str]) -> None:
    head = 'description = "d"\n[defaults]\nlayers = 1\nusers = '
    for body in (f"{head}1979-05-27\n[[family]]\n", f"{head}{'9' * 5000}\n", f"a = {'[' * 2000}{']' * 2000}\n"):
        Path("s.toml").write_text(body)
        assert "s.toml: " in refused("generate", "--suite", "s.toml", "-o", "made"), body[:60]
    Path("n.graphml.gz").write_bytes(gzip.compress(b"<graphml>" + os.urandom(500))[:-20])
    small = ["generate", "--layers", "1", "--experts", "2", "--top-k", "1", "--expert-bytes", "9", "-o", "x.json"]
    assert "n.graphml.gz: cannot be read: damaged gzip" in refused(*small, "--network", "n.graphml.gz")
    for option in ("fibre-m-per-us", "server-gb-per-s", "cloud-gb-per-s"):
        assert "the links' parameters give a time of" in refused(*small, f"--{option}", "1e-300"), option


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_output_not_permitted(refused: Callable[..., str]) -> None:
    Path("locked").mkdir(mode=0o500)
    assert "locked/out.json: cannot be written: permission denied" in refused(*SOLVE, "-o", "locked/out.json")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["info", "bad.json"], "moeplace info: bad.json: line 1, column 2: not JSON"),
        (["solve", "good.json", "--threads", "0"], "moeplace solve: threads must be at least 1, found 0"),
        (["place"], "moeplace: no command 'place'"),
    ],
    ids=["file", "flag", "command"],
)
def test_as_a_process(folder: Path, args: list[str], expected: str) -> None:
    Path("bad.json").write_bytes(b"{")
    done = subprocess.run([sys.executable, "-m", "moeplace", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(expected)
