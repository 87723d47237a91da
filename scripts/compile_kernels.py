#!/usr/bin/env python3
"""Compile the inner loops once, before several processes of tests would each do so.

    python scripts/compile_kernels.py

It runs what uses the loops on the smallest instances: methods, bounds with their certificates, value functions,
generated instances, deployments, traces in the forms that are read by compiled loops. At the end it says what was not
reached.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import moeplace
from moeplace.caching.bounds.concave import ConcaveBound
from moeplace.caching.bounds.server_oracle import ServerOracle
from moeplace.caching.saving import saving_form
from moeplace.caching.scenarios.importing import import_traces
from moeplace.caching.scenarios.suites import Scenario, generate
from moeplace.caching.verification import verify
from moeplace.solving import certified

PACKAGE = Path(moeplace.__file__).parent
METHODS = ("layer-enumeration", "column-generation", "max-convolution", "successive-greedy", "greedy", "local-search")
PLACES = {"stations": 2, "users": 3, "capacity": 40}
TOKENS, LAYERS, EXPERTS, TOP_K = 4, 2, 4, 2


def methods() -> None:
    """Run every method that has inner loops, and verify what it proves."""
    instances = [
        moeplace.load(n) for n in ("tiny_two_models_two_sizes", "tiny_sum_adds_up", "small_l02e06k4_s3_u40_c090_seed2")
    ]
    # Slots, coverage and loading.
    instances += [
        moeplace.load(f"collaboration_{n}")
        for n in ("tiny_slots", "small_l04e08k2_s4_u16_c180_seed4_slots4", "small_l03e08k3_s3_u12_c150_seed3_loading")
    ]
    # One expert a token; experts of three sizes.
    for layers, experts, top_k, sizes in ((2, 4, 1, "equal"), (6, 4, 2, "mixed")):
        shape = {"layers": layers, "experts": experts, "top_k": top_k, "expert_bytes": 1000, "sizes": sizes}
        instances.append(generate(Scenario(**shape, **PLACES, tokens=40)))
    for instance in instances:
        for method in METHODS:
            solution, certificate = certified(instance, method)
            moeplace.check(instance, solution, certificate)
        form = saving_form(instance)
        layer = form.layers[0]
        layer.value_function(np.zeros((len(instance.servers), layer.n_experts), dtype=bool), 0, nodes=9)
        bound = ConcaveBound(form, threads=1)
        looks = iter(range(20))
        bound.improve(lambda looks=looks: next(looks, None) is None, lambda _, found: None)
        assert verify(instance, bound.best.certificate()).ok


def servers() -> None:
    """Price what one server holds of a layer, which the methods above do with a search only where layers are large."""
    rng = np.random.default_rng(2)
    member = np.array([np.sort(rng.choice(7, 3, replace=False)) for _ in range(24)])
    oracle = ServerOracle(member, rng.integers(0, 1000, 24), np.zeros(7, dtype=np.int64), 3, np.arange(7))
    price = rng.integers(0, 200, len(oracle.reach))
    oracle.tune(price)
    oracle.best(price)


def active_experts() -> None:
    """Solve an instance of active experts."""
    for method in ("front", "layers"):
        moeplace.solve(moeplace.load("active_tiny_toy"), method)


def serverless() -> None:
    """Find deployments: of few experts a layer, where all sets are listed, and of many, where they are bounded."""
    for name in ("serverless_toy", "gpt-oss-20b_short_loose"):
        moeplace.solve(moeplace.load(name), "layers", time_limit=5)


def traces() -> None:
    """Import a trace in each form that a compiled loop reads."""
    rng = np.random.default_rng(1)
    table = [
        {"request": f"r{r}", "token": t, "layer": layer, "experts": rng.permutation(EXPERTS)[:TOP_K].tolist()}
        for r in range(2)
        for t in range(TOKENS)
        for layer in range(LAYERS)
    ]
    shape = {"layers": LAYERS, "experts": EXPERTS, "top_k": TOP_K, "expert_bytes": 1000}
    with tempfile.TemporaryDirectory() as folder:
        text = [f"{r['request']},{r['token']},{r['layer']},{' '.join(map(str, r['experts']))}\n" for r in table]
        (lists := Path(folder) / "lists.csv").write_text("request,token,layer,experts\n" + "".join(text))
        text = [f"{r['request']},{r['layer']},{e}\n" for r in table for e in r["experts"]]
        (single := Path(folder) / "single.csv").write_text("request,layer,expert\n" + "".join(text))
        (lines := Path(folder) / "lines.jsonl").write_text("".join(json.dumps(r) + "\n" for r in table))
        pq.write_table(pa.Table.from_pylist(table), columns := Path(folder) / "columns.parquet")
        for path in (lists, single, lines, columns):
            import_traces([path], Scenario(**shape, **PLACES))


def missing() -> list[str]:
    """Return the inner loops that nothing above has compiled."""
    loops = {
        (path.parent, f"{path.stem}.{name}-")
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"^@compiled\ndef (\w+)", path.read_text(), re.MULTILINE)
    }
    kept = {(path.parent.parent, path.name) for path in PACKAGE.rglob("__pycache__/*.nbi")}
    return sorted(
        start for folder, start in loops if not any(at == folder and name.startswith(start) for at, name in kept)
    )


if __name__ == "__main__":
    methods()
    servers()
    active_experts()
    serverless()
    traces()
    print("not reached:", ", ".join(missing()) or "nothing")
