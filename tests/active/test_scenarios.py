"""Instances of active experts from rooflines: hand-calculated, counted by brute force, refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import REALDATA

import moeplace
from moeplace.active.scenarios.assembly import device, requests_of, served
from moeplace.active.scenarios.generating import draw_tokens, generate
from moeplace.active.scenarios.importing import import_trace
from moeplace.active.scenarios.roofline import Device, Expert, distinct_experts, independent_experts, times
from moeplace.scenarios.hardware import devices, find_hardware
from moeplace.scenarios.losses import SHARES, exponents, losses, power_losses, read_losses
from moeplace.scenarios.ranked import SHARE, RankedTokens, RouterMass, read_ranked
from moeplace.scenarios.traces.common import Shape
from moeplace.scenarios.traces.opening import open_trace

OWN: dict[str, Any] = {"layers": 2, "experts": 6, "top_k": 3, "expert_bytes": 2000}
SLOW = Device(10**9, 10**12)


@pytest.fixture
def trace(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """A trace whose rows do not stand in falling weight, with its weights; both files and both arrays."""
    rng = np.random.default_rng(3)
    experts = np.array([[rng.permutation(6)[:3] for _ in range(2)] for _ in range(40)], dtype=np.uint8)
    weights = rng.integers(0, 256, experts.shape).astype(np.uint8)
    weights[5, 1] = 0
    weights[6, 0] = [9, 9, 200]
    np.savez(tmp_path / "trace.npz", experts=experts, lengths=np.array([15, 25]))
    np.savez(tmp_path / "gates.npz", gate255=weights)
    return tmp_path / "trace.npz", tmp_path / "gates.npz", experts, weights


def tokens_of(*layers: list[list[int]]) -> RankedTokens:
    arrays = [np.array(layer, dtype=np.int16) for layer in layers]
    return RankedTokens(arrays)


def test_a_roofline_by_hand() -> None:
    # Two batches of 4 tokens; 7 and 12 distinct experts in sum, of 1000 bytes: 3.5 and 6 experts a batch.
    table = times(np.array([[7, 12]]), 4, [Expert(1000, 500)], Device(10**9, 10**9), batches=2)
    assert table == [[max(3500, 2 * 4 * 1 * 500), max(6000, 2 * 4 * 2 * 500)]] == [[4000, 8000]]
    assert times(np.array([[7, 12]]), 4, [Expert(1000, 500)], Device(10**9, 10**10), batches=2) == [[3500, 6000]]
    assert times(np.array([[1]]), 1, [Expert(1, 0)], Device(2 * 10**9, 1), batches=1) == [[1]]  # half a ns, up
    share = np.array([[3 * SHARE, 2 * SHARE, SHARE], [4 * SHARE, 2 * SHARE, 0]])
    assert losses(RouterMass(share, np.array([6, 6]))) == [[250_000, 83_333, 0], [166_667, 0, 0]]
    with pytest.raises(moeplace.InputError, match="no token of layer 1 has a router weight"):
        losses(RouterMass(share, np.array([6, 0])))


def test_distinct_experts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    every = tokens_of([[0, 1], [0, 2], [3, -1]])
    # All three tokens in every batch: ranks 1 touch 0 and 3, both ranks 0 to 3; "none" does not count.
    assert distinct_experts(every, 3, 4, batches=5).tolist() == [[10, 20]]
    rng = np.random.default_rng(0)
    rows = [rng.permutation(8)[:3].tolist() for _ in range(60)]
    counted = distinct_experts(tokens_of(rows, rows), 5, 8, batches=40, seed=7)
    assert counted[0].tolist() == counted[1].tolist()  # as many tokens, so the same batches
    drawn = np.random.default_rng([7, 5])
    batches = [drawn.choice(60, 5, replace=False) for _ in range(40)]
    for k in (1, 2, 3):
        assert counted[0, k - 1] == sum(len({e for t in batch for e in rows[t][:k]}) for batch in batches)
    monkeypatch.setattr("moeplace.active.scenarios.roofline.PIECE", 13)  # two or three batches at a time
    assert distinct_experts(tokens_of(rows, rows), 5, 8, batches=40, seed=7).tolist() == counted.tolist()
    with pytest.raises(moeplace.InputError, match="layer 1 has 2 tokens, a batch of 3 cannot be drawn"):
        distinct_experts(tokens_of([[0]] * 5, [[0]] * 2), 3, 4)


def test_batches_of_independent_tokens_come_near_the_formula() -> None:
    rng = np.random.default_rng(1)
    rows = np.array([rng.permutation(16)[:4] for _ in range(4000)])
    found = distinct_experts(tokens_of(rows.tolist()), 8, 16, batches=400) / 400
    for k in range(1, 5):
        assert math.isclose(found[0, k - 1], independent_experts(16, k, 8), rel_tol=0.03), k


def test_ranks_and_shares_of_a_trace(trace: Any) -> None:
    path, gates, experts, weights = trace
    found = read_ranked(open_trace(path, Shape(2, 6, 3)), gates=gates)
    share = np.zeros((2, 3))
    for token in range(40):
        for layer in range(2):
            order = sorted(range(3), key=lambda i: (-int(weights[token, layer, i]), i))
            assert found.experts[layer][token].tolist() == experts[token, layer, order].tolist()
            if total := int(weights[token, layer].sum()):
                share[layer] += [int(weights[token, layer, i]) * SHARE // total for i in order]
    assert found.mass is not None
    assert found.mass.share.tolist() == share.astype(np.int64).tolist()
    assert found.mass.weighed.tolist() == [40, 39]
    assert (found.mass.unweighed, found.rows, found.tokens, found.short) == (1, 80, 40, 0)
    assert 0 < found.mass.sorted_rows < 80
    plain = read_ranked(open_trace(path, Shape(2, 6, 3)))
    assert [own.tolist() for own in plain.experts] == [experts[:, layer].tolist() for layer in range(2)]
    assert plain.mass is None


@pytest.mark.parametrize("layers_first", [False, True])
def test_several_arrays_and_fractions(tmp_path: Path, layers_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moeplace.scenarios.traces.common.CHUNK_BYTES", 200)  # several pieces of each array
    rng = np.random.default_rng(5)
    arrays, weights = {}, {}
    for name, tokens in (("law", 11), ("intent", 7)):
        experts = np.array([[rng.permutation(6)[:3] for _ in range(2)] for _ in range(tokens)], dtype=np.int32)
        weight = rng.random(experts.shape)
        arrays[name], weights[name] = (experts, weight) if not layers_first else (
            experts.swapaxes(0, 1), weight.swapaxes(0, 1))  # fmt: skip
    np.savez(tmp_path / "trace.npz", **{f"{n}_experts": np.ascontiguousarray(a) for n, a in arrays.items()})
    np.savez(tmp_path / "gates.npz", **{f"{n}_w": np.ascontiguousarray(w) for n, w in reversed(weights.items())})
    found = read_ranked(open_trace(tmp_path / "trace.npz", Shape(2, 6, 3)), gates=tmp_path / "gates.npz")
    for layer in range(2):
        expected, share = [], np.zeros(3)
        for name, experts in arrays.items():
            rows, own = (experts[layer], weights[name][layer]) if layers_first else (
                experts[:, layer], weights[name][:, layer])  # fmt: skip
            order = np.argsort(-own, axis=1)
            expected += np.take_along_axis(rows, order, axis=1).tolist()
            share += (np.take_along_axis(own, order, axis=1) / own.sum(axis=1, keepdims=True)).sum(axis=0)
        assert found.experts[layer].tolist() == expected
        assert found.mass is not None
        assert np.allclose(found.mass.share[layer] / SHARE, share, rtol=1e-5)


BAD_GATES: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "expected one array [40, 2, 3] of weights, found none": lambda w: {"gates": w[:39]},
    "found 2 of them: a, b": lambda w: {"a": w, "b": w},
    "a weight is negative; logits are no weights": lambda w: {"gates": w.astype(np.int64) - 1},
    "a weight is no finite number": lambda w: {"gates": np.where(w > 3, w, np.nan)},
}


def test_bad_weights_are_refused(trace: Any, tmp_path: Path) -> None:
    path, gates, _, weights = trace
    found, on = served(**OWN), SLOW
    for said, make in BAD_GATES.items():
        np.savez(tmp_path / "bad.npz", **make(weights))
        with pytest.raises(moeplace.InputError) as caught:
            import_trace(path, found, on, [4], gates=tmp_path / "bad.npz")
        assert said in str(caught.value)
        assert "bad.npz" in str(caught.value)
    (tmp_path / "bad.npz").write_bytes(gates.read_bytes()[:200])
    with pytest.raises(moeplace.InputError, match=r"bad.npz: cannot be read, damaged or of another format"):
        import_trace(path, found, on, [4], gates=tmp_path / "bad.npz")
    (tmp_path / "t.csv").write_text("token,layer,expert_0,expert_1,expert_2\n0,0,1,2,3\n0,1,1,2,3\n")
    with pytest.raises(moeplace.InputError, match=r"weights are read beside .npz and .npy files only"):
        import_trace(tmp_path / "t.csv", found, on, [1], gates=gates)


def test_an_import(trace: Any, tmp_path: Path) -> None:
    path, gates, _, _ = trace
    found, on = served(**OWN), SLOW
    result = import_trace(path, found, on, [1, 8], gates=gates, batches=50, fixed_ns=7)
    one, eight = (made.instance for made in result.made)
    assert result.tokens.mass is not None
    assert one.loss.tolist() == eight.loss.tolist() == losses(result.tokens.mass)
    assert one.time_ns.tolist() == [[2000, 4000, 6000]] * 2  # of one token k experts, all of them read
    assert (eight.time_ns >= one.time_ns).all()
    assert (eight.time_ns <= 6 * 2000).all()
    assert (eight.minimises, eight.budget, eight.fixed_ns, eight.tokens_per_step) == ("time_ns", 10_000, 7, 8)
    assert eight.name == "l02e006k3_trace_own_b008_loss10000"
    assert eight.source["gates"] == "gates.npz"
    load = result.made[1].loads[1]
    assert load.independent == independent_experts(6, 2, 8)
    assert load.reading == 1.0
    again = import_trace(path, found, on, [8], gates=gates, batches=50, fixed_ns=7)
    assert again.made[0].instance.sha256 == eight.sha256
    other = import_trace(path, found, on, [8], gates=gates, batches=50, fixed_ns=7, seed=1)
    assert other.made[0].instance.sha256 != eight.sha256
    # Without weights: rows as they stand, measured losses, a budget of their own.
    table = tmp_path / "loss.csv"
    table.write_text("layer,k,loss\n0,1,50\n0,2,20\n1,1,70\n1,2,30\n1,3,1\n")
    said = import_trace(path, found, on, [8], ranked=True, loss=table, time_budget_ns=9000, name="own")
    assert said.made[0].instance.loss.tolist() == [[50, 20, 0], [70, 30, 1]]
    assert (said.made[0].instance.name, said.made[0].instance.budget) == ("own", 9000)
    assert said.made[0].instance.time_ns.tolist() != eight.time_ns.tolist()
    for options, wrong in {
        ("gates",): None,
        ("ranked",): "losses are missing: router weights (--gates), or measured ones (--loss)",
        ("loss",): "which of a token's experts has the largest router weight is not known",
        ("ranked", "loss"): "losses of a file have a unit of their own",
    }.items():
        given = {key: {"gates": gates, "ranked": True, "loss": table}[key] for key in options}
        if "loss" in options and len(options) == 1:
            given["loss_budget"] = 3
        if wrong is None:
            import_trace(path, found, on, [8], **given)
            continue
        with pytest.raises(moeplace.InputError) as caught:
            import_trace(path, found, on, [8], **given)
        assert wrong in str(caught.value), options


def test_measured_losses_are_read(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    path.write_text("k;loss;layer;note\n1;50;0;a\n1;70;1;b\n")
    assert read_losses(path, 2, 2) == [[50, 0], [70, 0]]
    path.write_text("0,1,50\n1,1,70\n")
    assert read_losses(path, 2, 2) == [[50, 0], [70, 0]]
    for text, said in {
        "layer,k,loss\n0,1,5\n": "no row for layer 1 with 1 experts",
        "layer,k,loss\n0,1,5\n0,1,5\n": "line 3: layer 0 with 1 experts stands there twice",
        "layer,k,loss\n0,3,5\n": 'line 2: k: expected a whole number from 1 to 2, found "3"',
        "layer,k,loss\n0,1,0.5\n": "line 2: loss: expected a whole number",
        "layer,k,loss\n0,1\n": "line 2: loss: expected a whole number",
        "layer,experts,loss\n0,1,5\n": "heading: expected the columns layer,k,loss, found layer, experts, loss",
    }.items():
        path.write_text(text)
        with pytest.raises(moeplace.InputError) as caught:
            read_losses(path, 2, 2)
        assert said in str(caught.value), text
        assert str(path) in str(caught.value)


def test_models_and_devices() -> None:
    found = served(model="deepseek-v2-lite")
    assert (found.model.layers, found.model.experts, found.model.top_k) == (26, 64, 6)
    assert found.experts[0] == Expert(2 * 3 * 2048 * 1408, 3 * 2048 * 1408)
    assert served(model="deepseek-v2-lite:int8", layers=3).label == "deepseek-v2-lite-int8_l03"
    assert served(**OWN).experts == [Expert(2000, 1000)] * 2
    assert device("h100-sxm", None, None) == Device(3350 * 10**9, 989 * 10**12, "h100-sxm")
    assert device("h100-sxm", 1.5, None) == Device(1_500_000_000, 989 * 10**12, "h100-sxm changed")
    assert device(None, 0.5, 2) == Device(500_000_000, 2 * 10**12)
    assert len({one.name for one in devices()}) == len(devices())
    assert all(one.source and find_hardware(one.name) is one for one in devices())
    assert requests_of("1, 8") == [1, 8]
    for call, said in {
        lambda: served(): "a model is missing",
        lambda: served(model="gpt-oss-20b", config="c.json"): "cannot be given both",
        lambda: served(model="gpt-oss-20b", top_k=2): "--top-k is for a shape of its own",
        lambda: served(model="gpt-oss-20b", layers=99): "--layers is 99, the model has 24 with experts",
        lambda: served(**OWN | {"top_k": 9}): "--top-k is 9, a layer has 6 experts",
        lambda: device(None, 1, None): "--tflops is not given",
        lambda: device("h100", None, None): "no hardware 'h100'; there are a100-40gb",
        lambda: device(None, -1, 1): "--gb-per-s is -1; expected more than 0",
        lambda: requests_of("1,,2"): "--requests: expected whole numbers",
        lambda: requests_of("2,2"): "a number stands there twice",
        lambda: generate(served(**OWN), SLOW, [1], loss_budget=1, time_budget_ns=1): "cannot be given both",
        lambda: generate(served(**OWN), SLOW, [1], loss_budget=1, name="a/b"): "--name: expected letters",
    }.items():
        with pytest.raises(moeplace.InputError) as caught:
            call()
        assert said in str(caught.value)


def test_generated_instances() -> None:
    found = served(layers=6, experts=16, top_k=4, expert_bytes=10_000)
    made = generate(found, SLOW, [1, 16], seed=3, tokens=400, batches=30, loss_budget=20_000)
    again = generate(found, SLOW, [16], seed=3, tokens=400, batches=30, loss_budget=20_000)
    assert again[0].instance.sha256 == made[1].instance.sha256
    other = generate(found, SLOW, [16], seed=4, tokens=400, batches=30, loss_budget=20_000)[0].instance
    assert other.loss.tolist() != made[1].instance.loss.tolist()
    assert other.time_ns.tolist() != made[1].instance.time_ns.tolist()
    assert made[0].instance.loss.tolist() == made[1].instance.loss.tolist()
    for one in made:
        instance = one.instance
        assert (np.diff(instance.time_ns, axis=1) >= 0).all()
        assert (np.diff(instance.loss, axis=1) < 0).all()
        assert (instance.loss[:, -1] == 0).all()
        assert (np.diff(instance.loss, n=2, axis=1) >= 0).all()  # each further rank has less weight
        assert moeplace.check(instance, moeplace.solve(instance)).ok
    assert [load.distinct for load in made[0].loads] == [1.0, 2.0, 3.0, 4.0]
    assert made[1].loads[3].distinct < made[1].loads[3].independent  # some experts are popular
    drawn = draw_tokens(found, seed=3, tokens=10)
    assert [own.shape for own in drawn.experts] == [(10, 4)] * 6
    many = np.array(exponents(4000, 64, 1)) / 1000
    fit = SHARES["deepseek-v2-lite"]
    assert abs(many.mean() - fit.mean / 1000) < 0.02
    assert abs(many.std() - fit.deviation / 1000) < 0.02
    assert abs(np.corrcoef(many[1:], many[:-1])[0, 1] - fit.neighbours / 1000) < 0.05
    assert power_losses([1000, 1000], 3) == [[227_273, 90_909, 0]] * 2


@pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no raw data in {REALDATA}")
def test_the_real_traces_are_read() -> None:
    folder = REALDATA / "gpt-oss-20b_expertfingerprinting"
    found = read_ranked(open_trace(folder / "topk_experts.npz", Shape(24, 32, 4)), gates=folder / "gates.npz")
    assert found.mass is not None
    assert (found.tokens, found.mass.sorted_rows, found.mass.unweighed) == (44_968, 0, 0)  # in falling weight
    mean = found.mass.share.sum(axis=0) / SHARE / found.mass.weighed.sum()
    assert np.abs(mean - [0.350, 0.265, 0.211, 0.175]).max() < 0.001
