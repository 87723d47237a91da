"""Ranked rows: import and generate keep the order of router weight, and fill what fewer active experts lose."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moeplace
from moeplace import Instance
from moeplace.caching.scenarios.importing import import_traces
from moeplace.caching.scenarios.suites import Scenario, default_name, generate, read_suite
from moeplace.cli import main
from moeplace.scenarios.counting import BadRow, SetCounts
from moeplace.scenarios.losses import power_losses

Run = Callable[..., tuple[str, str]]

LAYERS, EXPERTS, TOP_K = 2, 7, 3
LENGTHS = [5, 3, 7, 2, 6, 4]
SHAPE = {"layers": LAYERS, "experts": EXPERTS, "top_k": TOP_K, "expert_bytes": 1000}
PLACES = {"stations": 2, "users": 3}
OPTIONS = [f"--{key.replace('_', '-')}={value}" for key, value in (SHAPE | PLACES).items()]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trace(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Write trace.npz, its rows in no order of weight, and gates.npz; return experts and weights."""
    rng = np.random.default_rng(seed)
    n = sum(LENGTHS)
    experts = np.argsort(rng.random((n, LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K].astype(np.uint8)
    weights = rng.integers(0, 6, experts.shape).astype(np.uint8)  # with many equal ones
    weights[3, 0] = 0
    np.savez("trace.npz", experts=experts, lengths=np.array(LENGTHS))
    np.savez("gates.npz", gate255=weights)
    return experts, weights


def sorted_by(experts: np.ndarray, weights: np.ndarray) -> list[list[list[int]]]:
    """Return the experts in falling weight, one token and layer after the other."""
    return [
        [
            [int(token[layer][i]) for i in sorted(range(TOP_K), key=lambda i: (-int(own[layer][i]), i))]
            for layer in range(LAYERS)
        ]
        for token, own in zip(experts, weights, strict=True)
    ]


def lost(weights: np.ndarray) -> list[list[int]]:
    """Return (E6) in fractions, of shares that are rounded down to 2**-32."""
    table = []
    for layer in range(LAYERS):
        dropped, tokens = [Fraction(0)] * TOP_K, 0
        for own in weights[:, layer].tolist():
            if total := sum(own):
                share = [Fraction((w << 32) // total, 2**32) for w in sorted(own, reverse=True)]
                dropped = [before + sum(share[k:]) for k, before in enumerate(dropped, start=1)]
                tokens += 1
        table.append([int(10**6 * own / tokens / LAYERS + Fraction(1, 2)) for own in dropped])
    return table


def counted(instance: Instance) -> Counter[tuple[int, tuple[int, ...]]]:
    rows = instance.document()["activations"]
    found: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for layer, experts, count in zip(rows["layer"], rows["experts"], rows["count"], strict=True):
        found[layer, tuple(experts)] += count
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return what it printed on stdout and stderr."""

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        found = main(arguments)
        said = capsys.readouterr()
        assert found == code, said
        return said.out, said.err

    return call


def test_rows_keep_the_order_in_which_experts_stand(run: Run) -> None:
    experts, _ = trace()
    run("import", "trace.npz", *OPTIONS, "--ranked", "-o", "ranked.json")
    run("import", "trace.npz", *OPTIONS, "-o", "sets.json")
    ranked, sets = moeplace.load("ranked.json"), moeplace.load("sets.json")
    assert (ranked.ranked, ranked.choices, sets.ranked) == (True, None, False)
    assert ranked.name == "l02e007k3_ranked_trace_s2_u3_c060_seed0"
    assert counted(ranked) == Counter((layer, tuple(own[layer])) for own in experts.tolist() for layer in range(LAYERS))
    unordered: Counter[Any] = Counter()
    for (layer, own), count in counted(ranked).items():
        unordered[layer, tuple(sorted(own))] += count
    assert unordered == counted(sets)
    everything = [TOP_K] * LAYERS
    assert ranked.cut(everything).document()["demands"] == sets.document()["demands"]
    assert counted(ranked.cut(everything)) == counted(sets)


def test_gates_sort_the_rows_and_say_what_is_lost(run: Run) -> None:
    experts, weights = trace()
    said, _ = run("import", "trace.npz", *OPTIONS, "--gates=gates.npz", "--loss-budget=20000", "-o", "joint.json")
    instance = moeplace.load("joint.json")
    rows = sorted_by(experts, weights)
    assert counted(instance) == Counter((layer, tuple(own[layer])) for own in rows for layer in range(LAYERS))
    document = instance.document()
    assert document["active"] == {"loss": {"moe": lost(weights)}, "budget": 20_000}
    assert document["source"]["gates"] == "gates.npz"
    assert document["source"]["loss"] == "router weight, parts per million"
    assert instance.name == "l02e007k3_loss20000_trace_s2_u3_c060_seed0"
    moved = sum(own[la] != own_rows[la] for own, own_rows in zip(experts.tolist(), rows, strict=True) for la in (0, 1))
    assert f"by router weight; {moved} rows did not stand in that order" in " ".join(said.split())
    weightless = int((weights.sum(axis=2) == 0).sum())
    assert f"no weight {weightless} row" in " ".join(said.split())
    told = json.loads(run("import", "trace.npz", *OPTIONS, "--gates=gates.npz", "-o", "g.json", "--json")[0])
    assert (told["sorted_rows"], told["unweighed"]) == (moved, weightless)
    plain = moeplace.load("g.json")  # without a budget: ranked rows, nothing to choose
    assert (plain.ranked, plain.choices) == (True, None)
    assert plain.name == "l02e007k3_ranked_trace_s2_u3_c060_seed0"
    # A row cut to its first experts is a row of a trace that has no more.
    for k in range(1, TOP_K + 1):
        cut = Counter((layer, tuple(sorted(own[layer][:k]))) for own in rows for layer in range(LAYERS))
        assert counted(instance.cut([k] * LAYERS)) == cut, k


def test_losses_are_those_of_what_is_counted_over_all_windows_and_traces(run: Run) -> None:
    scenario = Scenario(**SHAPE, **PLACES, loss_budget=5)
    more, other = trace(2)
    np.savez("second.npz", experts=more, lengths=np.array(LENGTHS))
    np.savez("weights.npz", w=other)
    _, weights = trace()
    both, _ = import_traces(["trace.npz", "second.npz"], scenario, gates=["gates.npz", "weights.npz"])
    assert both.document()["active"]["loss"]["moe"] == lost(np.concatenate((weights, other)))
    run("import", "trace.npz", *OPTIONS, "--gates=gates.npz", "--loss-budget=9", "--windows=2", "-o", "w.json")
    first, second = moeplace.load("w_w01.json").document(), moeplace.load("w_w02.json").document()
    assert first["active"] == second["active"] == {"loss": {"moe": lost(weights)}, "budget": 9}
    run("import", "trace.npz", *OPTIONS, "--gates=gates.npz", "--loss-budget=9", "--fold=1/2", "-o", "one.json")
    run(
        "import",
        "trace.npz",
        *OPTIONS,
        "--gates=gates.npz",
        "--loss-budget=9",
        "--fold=1/2",
        "--rest",
        "-o",
        "two.json",
    )
    one, two = moeplace.load("one.json"), moeplace.load("two.json")
    assert one.document()["active"] != two.document()["active"]
    whole = moeplace.load("w_w01.json"), moeplace.load("w_w02.json")
    assert counted(one) + counted(two) == counted(whole[0]) + counted(whole[1])
    start = np.cumsum([0, *LENGTHS])
    halves = [np.concatenate([weights[start[r] : start[r + 1]] for r in own]) for own in combinations(range(6), 3)]
    assert one.document()["active"]["loss"]["moe"] in map(lost, halves)


def test_measured_losses(run: Run) -> None:
    trace()
    lines = ["layer,k,loss", *(f"{layer},{k},{100 * layer + 10 - k}" for layer in range(LAYERS) for k in (1, 2))]
    Path("loss.csv").write_text("\n".join(lines) + "\n")
    run("import", "trace.npz", *OPTIONS, "--ranked", "--loss=loss.csv", "--loss-budget=109", "-o", "joint.json")
    found = moeplace.load("joint.json").document()
    assert found["active"] == {"loss": {"moe": [[9, 8, 0], [109, 108, 0]]}, "budget": 109}
    assert found["source"]["loss"] == "measured, loss.csv"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss-budget=5"], "trace.npz: which of a token's experts has the largest router weight is not known: give"),
        (
            ["--loss-budget=5", "--loss=loss.csv"],
            "give the weights (--gates), or say that rows stand in falling weight",
        ),
        (["--loss-budget=5", "--ranked"], "losses are missing: router weights (--gates), or measured ones (--loss)"),
        (["--loss=loss.csv", "--ranked"], "--loss: is without effect: nothing may be lost without --loss-budget"),
        (["--loss-budget=-1", "--gates=gates.npz"], "--loss-budget"),
        (["--loss-budget=1.5", "--gates=gates.npz"], "--loss-budget"),
        (["--gates=gates.npz", "--gates=gates.npz"], "2 files of router weights beside 1 trace; expected one for each"),
        (["--gates=other.npz"], "other.npz: expected one array [27, 2, 3] of weights, found none"),
        (["--gates=gates.npz", "--filler=9"], "a filler cannot be taken out beside router weights"),
        (["--gates=none.npz"], "none.npz: cannot be read"),
        (["--ranked", "--loss=none.csv", "--loss-budget=1"], "none.csv: cannot be read"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], message: str, run: Run) -> None:
    trace()
    Path("loss.csv").write_text("layer,k,loss\n")
    np.savez("other.npz", w=np.ones((26, 2, 3)))
    _, error = run("import", "trace.npz", *OPTIONS, *arguments, "-o", "no.json", code=2)
    assert message in error
    assert error.count("\n") == 1
    assert not Path("no.json").exists()


def test_weights_stand_beside_arrays_only(run: Run) -> None:
    trace()
    Path("t.csv").write_text("token,layer,expert_0,expert_1,expert_2\n0,0,1,2,3\n0,1,1,2,3\n")
    _, error = run("import", "t.csv", *OPTIONS, "--gates=gates.npz", "-o", "no.json", code=2)
    assert "router weights are read beside .npz and .npy files only" in error


def test_counting_keeps_ranks_and_passes_over_nothing() -> None:
    rng = np.random.default_rng(4)
    for seed, n_experts in enumerate((5, 64, 300)):
        pool = np.argsort(rng.random((9, n_experts)), axis=1)[:, :4]
        experts = pool[rng.integers(0, 9, 400)]
        order = np.argsort(rng.random(experts.shape), axis=1)
        experts = np.take_along_axis(experts, order, axis=1)
        experts[rng.random(experts.shape) < 0.3] = -1  # a gap takes no rank
        experts[:, 2] = np.where((experts < 0).all(axis=1), 3, experts[:, 2])
        counts = SetCounts(1, n_experts, 4, ranked=True)
        counts.add(0, experts[:, None])
        rows = counts.rows()
        found = {tuple(rows.expert[a:b].tolist()): c for a, b, c in zip(rows.start, rows.start[1:], rows.count)}  # noqa: B905
        assert found == Counter(tuple(e for e in row if e >= 0) for row in experts.tolist()), seed
        assert list(found) == sorted(found), seed
    with pytest.raises(BadRow, match="expert 2 stands twice in one row"):
        SetCounts(1, 5, 3, ranked=True).add(0, np.array([[[2, 4, 2]]]))


def test_generated_ranks_and_losses() -> None:
    scenario = Scenario(**SHAPE, **PLACES, tokens=30, seed=4)
    plain, ranked = generate(scenario), generate(Scenario(**SHAPE, **PLACES, tokens=30, seed=4, ranked=True))
    joint = generate(Scenario(**SHAPE, **PLACES, tokens=30, seed=4, loss_budget=7000))
    assert counted(ranked) == counted(joint)
    assert counted(ranked.cut([TOP_K] * LAYERS)) == counted(plain)
    assert any(list(own) != sorted(own) for _, own in counted(joint))
    assert (ranked.choices, joint.document()["active"]["budget"]) == (None, 7000)
    table = joint.document()["active"]["loss"]["moe"]
    assert all(own == sorted(own, reverse=True) and own[-1] == 0 for own in table)
    assert table[0] != table[1]
    assert (ranked.name, joint.name) == ("l02e007k3_ranked_s2_u3_c060_seed4", "l02e007k3_loss7000_s2_u3_c060_seed4")
    assert "ranked" not in plain.source
    assert (ranked.source["ranked"], joint.source["loss_budget"]) == (1, 7000)
    assert joint.notes.endswith("Router weight falls by a power law of the rank.")
    # The popular expert of a layer comes first more often than it comes last.
    cut = generate(Scenario(**SHAPE, **PLACES, tokens=3000, seed=4, ranked=True)).document()["activations"]
    first, last = (np.zeros(EXPERTS), np.zeros(EXPERTS))
    for experts, count in zip(cut["experts"], cut["count"], strict=True):
        first[experts[0]] += count
        last[experts[-1]] += count
    assert first.max() > last[first.argmax()]


def test_several_models_share_a_budget() -> None:
    scenario = Scenario(
        models=["switch-base-8", "mixtral-8x7b"], users=4, stations=2, layers=2, tokens=20, models_per_user=2,
        loss_budget=100_000,
    )  # fmt: skip
    instance = generate(scenario)
    loss = instance.document()["active"]["loss"]
    assert list(loss) == ["switch-base-8", "mixtral-8x7b"]
    assert loss["switch-base-8"] == [[0], [0]]  # top-1: there is nothing to leave out
    # Of four layers: each has a quarter of the million, of which the second expert has less than a half.
    assert all(50_000 < first <= 125_000 for first, _ in loss["mixtral-8x7b"])
    assert "loss100000" in default_name(scenario)
    assert power_losses([1000], 2, of=4) == [[83_333, 0]]


def test_generate_on_the_command_line_and_in_suites(run: Run) -> None:
    run("generate", *OPTIONS, "--loss-budget=200000", "--tokens=30", "--seed=4", "-o", "joint.json")
    assert moeplace.load("joint.json").document()["active"]["budget"] == 200_000
    shown = " ".join(run("info", "joint.json")[0].split())
    assert "open, within a loss of 200,000; top-k everywhere loses 0" in shown
    told = json.loads(run("info", "joint.json", "--json")[0])
    assert told["sha256"] == moeplace.load("joint.json").sha256
    assert (told["active"]["loss_budget"], told["active"]["least_loss"], told["ranked"]) == (200_000, 0, True)
    run("generate", *OPTIONS, "--ranked", "-o", "ranked.json")
    assert "in falling router weight; every row waits for all" in " ".join(run("info", "ranked.json")[0].split())
    Path("suite.toml").write_text(
        'description = "d"\n[[family]]\nlayers = 2\nexperts = 4\ntop_k = 2\nexpert_bytes = 9\nusers = 3\n'
        "grid = {loss_budget = [0, 5000]}\n"
    )
    assert list(read_suite("suite.toml")[1]) == [f"l02e004k2_loss{b}_s5_u3_c060_seed0" for b in (0, 5000)]
    _, error = run("generate", *OPTIONS, "--loss-budget=-2", "-o", "no.json", code=2)
    assert "--loss-budget" in error
