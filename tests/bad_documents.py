"""One right instance and its solution, broken in one place each: the text of the file, and what the refusal says."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from typing import Any

import moeplace

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


def loading(weight: int, rate: int) -> bytes:
    """The document in version 2, where loading costs something."""
    document = copy.deepcopy(DOCUMENT)
    document["servers"][0]["load_bytes_per_s"] = rate
    return json.dumps(document | {"version": 2, "loading": {"weight": weight}}).encode()


def joint(*steps_and_value: Any) -> bytes:
    """The document in version 2 with active experts to choose, with one value of it replaced or added."""
    document = copy.deepcopy(DOCUMENT) | {"version": 2}
    document["activations"]["ranked"] = True
    document["active"] = {"loss": {"m": [[5, 0], [3, 0]], "k": [[0]]}, "budget": 4}
    *steps, last, value = steps_and_value
    at(document, *steps)[last] = value
    return json.dumps(document).encode()


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
    "solution-instead": (b'{"format": "moeplace/solution", "version": 1}', 'format: expected "moeplace/instance" or "moeplace/active-experts" or "moeplace/serverless", found "moeplace/solution"'),
    "duplicate-key": (text('"version": 1,', '"version": 1, "version": 1,'), 'the key "version" stands twice'),
    "duplicate-key-inside": (text('"tokens": 100,', '"tokens": 100, "tokens": 9,'), 'the key "tokens" stands twice'),
    "lone-surrogate": (text("what every", "\\ud800"), "half of a surrogate pair"),
    "lone-surrogate-name": (text('"name": "s"', '"name": "\\udfff"'), "half of a surrogate pair"),
    # --- keys and types
    "format-other": (put("format", "moeplace/other"), 'format: expected "moeplace/instance" or "moeplace/active-experts" or "moeplace/serverless", found "moeplace/other"'),
    "version-3": (put("version", 3), "version: expected 1 or 2, found 3"),
    "version-true": (put("version", True), "version: expected an integer, found true"),
    "layer-index-in-version-1": (put("models", 0, "layer_index", [0, 1]), "models[0].layer_index: is a key of version 2, the file says version 1"),
    "layer-index-too-short": (second(put("models", 0, "layer_index", [3])), "models[0].layer_index: 1 entries, 2 layers"),
    "layer-index-equal": (second(put("models", 0, "layer_index", [3, 3])), "models[0].layer_index[1]: 3 after 3; the numbers must rise"),
    "layer-index-falling": (second(put("models", 0, "layer_index", [4, 3])), "models[0].layer_index[1]: 3 after 4; the numbers must rise"),
    "layer-index-negative": (second(put("models", 0, "layer_index", [-1, 3])), "models[0].layer_index[0]: expected an integer >= 0, found -1"),
    "layer-index-text": (second(put("models", 0, "layer_index", "3-4")), 'models[0].layer_index: expected a list, found "3-4"'),
    "layer-index-null": (second(put("models", 0, "layer_index", None)), "models[0].layer_index: expected a list, found null"),
    "host-in-version-1": (put("servers", 0, "host", "h"), "servers[0].host: is a key of version 2, the file says version 1"),
    "loading-in-version-1": (put("loading", {"weight": 1}), "loading: is a key of version 2, the file says version 1"),
    "no-cloud-in-version-1": (put("demands", 0, "cloud_ns", None), "demands[0].cloud_ns: null of version 2, the file says version 1"),
    "host-number": (second(put("servers", 0, "host", 1)), "servers[0].host: expected text, found 1"),
    "holds-model": (second(put("servers", 0, "holds", [{"model": "x", "experts": []}])), 'servers[0].holds[0].model: "x" is not the name of a model'),
    "holds-expert": (second(put("servers", 0, "holds", [{"model": "m", "experts": [[0, 99]]}])), "servers[0].holds[0].experts[0]: expert 99, the model has"),
    "holds-layer": (second(put("servers", 0, "holds", [{"model": "m", "experts": [[99, 0]]}])), "servers[0].holds[0].experts[0]: layer 99, the model has"),
    "holds-twice": (second(put("servers", 0, "holds", [{"model": "m", "experts": [[0, 0], [0, 0]]}])), "servers[0].holds[0].experts[1]: [0, 0] is listed already"),
    "holds-server": (second(put("servers", 0, "holds", [{"server": "s0", "model": "m", "experts": []}])), 'servers[0].holds[0]: unknown key "server"'),
    "load-rate-zero": (second(put("servers", 0, "load_bytes_per_s", 0)), "servers[0].load_bytes_per_s: expected an integer >= 1, found 0"),
    "layer-slots-negative": (second(put("servers", 0, "layer_slots", -1)), "servers[0].layer_slots: expected an integer >= 0, found -1"),
    "ranked-in-version-1": (put("activations", "ranked", True), "activations.ranked: is a key of version 2, the file says version 1"),
    "active-in-version-1": (put("active", {"loss": {}, "budget": 0}), "active: is a key of version 2, the file says version 1"),
    "active-without-ranked": (second(put("active", {"loss": {}, "budget": 0})), "active: which experts of a row a layer uses is known only where activations.ranked is true"),
    "active-not-ranked": (joint("activations", "ranked", False), "active: which experts of a row a layer uses"),
    "ranked-number": (joint("activations", "ranked", 1), "activations.ranked: expected true or false, found 1"),
    "active-budget-negative": (joint("active", "budget", -1), "active.budget: expected an integer >= 0, found -1"),
    "active-budget-float": (joint("active", "budget", 0.5), "active.budget: expected an integer, found 0.5"),
    "active-unknown-model": (joint("active", "loss", "x", [[0]]), 'active.loss: "x" is not the name of a model'),
    "active-model-missing": (joint("active", "loss", {"m": [[5, 0], [3, 0]]}), 'active.loss: says nothing of the model "k"'),
    "active-layers": (joint("active", "loss", "m", [[5, 0]]), 'active.loss["m"]: 1 entries, 2 layers'),
    "active-top-k": (joint("active", "loss", "m", 1, [3, 0, 0]), 'active.loss["m"][1]: 3 entries, the model\'s top_k is 2'),
    "active-loss-negative": (joint("active", "loss", "m", 1, [-3, 0]), "expected an integer >= 0, found -3"),
    "active-loss-huge": (joint("active", "loss", "m", [[2**63 - 1, 0], [1, 0]]), "active.loss: the largest losses of all layers sum to 9223372036854775808; they must fit in 63 bits"),
    "active-unknown-key": (joint("active", "bugdet", 1), 'active: unknown key "bugdet"'),
    "loading-weight-zero": (second(put("loading", {"weight": 0})), "loading.weight: expected an integer >= 1, found 0"),
    "loading-of-one-expert-does-not-fit": (loading(2**62, 1), "loading: loading one expert costs"),
    "loading-does-not-fit": (loading(2**52, 10**9), "loading: the latency with empty servers and loading everything cost"),
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
    "float": (put("demands", 0, "cloud_ns", 4.5), "demands[0].cloud_ns: expected an integer or null, found 4.5"),
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
    "an-instance": (lambda: WHOLE, 'format: expected "moeplace/solution" or "moeplace/active-experts-solution" or "moeplace/serverless-solution", found "moeplace/instance"'),
    "lone-surrogate": (lambda: b'"\\ud800"', "half of a surrogate pair"),
    "list": (lambda: b"[]", "expected an object, found []"),
    "format-other": (lambda: changed("format", "x"), 'format: expected "moeplace/solution" or "moeplace/active-experts-solution" or "moeplace/serverless-solution", found "x"'),
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
