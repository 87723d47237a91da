"""``moeplace placement``: every format to the letter, what is refused, and how free slots are filled."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import looped
from random_instances import random_document

from moeplace import Instance, Outcome, Placement
from moeplace.base.errors import InputError, OutputError
from moeplace.base.files import write_all
from moeplace.caching.engines import FORMATS, render
from moeplace.cli import main
from moeplace.cli.placement import FORMATS as NAMES
from moeplace.solving import _finish

INSTANCE: dict[str, Any] = {
    "format": "moeplace/instance",
    "version": 2,
    "name": "three ranks",
    "latency_model": "max",
    "models": [
        {"name": "m", "layers": 2, "experts": 5, "top_k": 2, "expert_bytes": [10, 20], "layer_index": [1, 3]},
    ],
    "servers": [{"name": name, "capacity_bytes": 60} for name in ("near", "=far/away", "third")],
    "demands": [
        {"user": "u", "model": "m", "tokens": 100, "device_ns": 0, "server_ns": [1, 2, 3], "cloud_ns": 9},
    ],
    "activations": {"demand": [0, 0, 0], "layer": [0, 0, 1], "experts": [[0, 1], [1], [4]], "count": [30, 40, 50]},
}
FULL = {"near": [[0, 0], [0, 4], [1, 0], [1, 1]], "=far/away": [[0, 1], [0, 2], [1, 2], [1, 4]],
        "third": [[0, 0], [0, 3], [1, 3], [1, 4]]}  # fmt: skip
ROWS = [[0, 4, 1, 2, 0, 3], [0, 1, 2, 4, 3, 4]]

Run = Callable[..., tuple[str, str]]


def placed(document: dict[str, Any], held: dict[str, list[list[int]]]) -> tuple[Instance, Placement]:
    instance = Instance.from_document(document)
    pairs = [(instance.server_index[s], instance.item(0, layer, e)) for s, own in held.items() for layer, e in own]
    return instance, Placement.from_pairs(instance, pairs)


def write(document: dict[str, Any], held: dict[str, list[list[int]]]) -> None:
    """Write the instance, and a solution whose numbers are right."""
    instance, placement = placed(document, held)
    Path("i.json").write_text(json.dumps(document))
    _finish(instance, "test", Outcome(placement), {}, 0, 1, 0.1).save("s.json")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command and return what it said; a refusal is one line and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    write(INSTANCE, FULL)

    def run(form: str, output: str, *more: str, code: int = 0) -> tuple[str, str]:
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        result = main(["placement", "i.json", "s.json", "--format", form, "-o", output, *more])
        out, err = capsys.readouterr()
        assert result == code, (out, err)
        if code:
            assert (out, err.count("\n")) == ("", 1)
            assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
        return out, err

    return run


def test_the_command_knows_all_formats() -> None:
    assert tuple(FORMATS) == NAMES


def test_a_table(run: Run) -> None:
    assert run("csv", "p.csv") == ("written to p.csv\n", "")
    rows = list(csv.reader(io.StringIO(Path("p.csv").read_text())))
    assert rows[:3] == [["server", "model", "layer", "expert", "bytes"], ["near", "m", "1", "0", "10"],
                        ["near", "m", "1", "4", "10"]]  # fmt: skip
    assert rows[-1] == ["third", "m", "3", "4", "20"]
    assert "'=far/away,m,1,1,10\n" in Path("p.csv").read_text()  # no spreadsheet runs it
    assert len(rows) == 13


def test_a_pin_file_a_server(run: Run) -> None:
    out, err = run("pin", "p_{server}.json")
    assert (out, err) == ("written to p_{server}.json (3 files)\n", "")
    assert json.loads(Path("p_near.json").read_text()) == {"pin": [[1, 0], [1, 4], [3, 0], [3, 1]]}
    assert json.loads(Path("p_=far%2Faway.json").read_text()) == {"pin": [[1, 1], [1, 2], [3, 2], [3, 4]]}
    assert "{server} must stand in the name" in run("pin", "p.json", code=2)[1]
    # The second file would be the solution: none is written.
    Path("s.json").rename("p_third.json")
    Path("s.json").symlink_to("p_third.json")
    assert "p_third.json: is the" in run("pin", "p_{server}.json", code=2)[1]


@pytest.mark.parametrize(
    ("form", "name", "expected"),
    [
        # Hidden layers 0 and 2 have no experts: the trivial row stands there, as SGLang makes it itself.
        ("sglang", "m.json", {"physical_to_logical_map": [[0, 1, 2, 3, 4, 0], ROWS[0], [0, 1, 2, 3, 4, 0], ROWS[1]]}),
        (
            "vllm",
            "m.jsonl",
            {
                "record_type": "eplb_initial_mapping",
                "version": 1,
                "num_redundant_experts": 1,
                "num_slots": 6,
                "initial_global_assignments": {"0": ROWS[0], "1": ROWS[1]},
            },
        ),
        ("vllm-map", "m.json", ROWS),
        (
            "vllm-ascend",
            "m.json",
            {
                "moe_layer_count": 2,
                "layer_list": [
                    {
                        "layer_id": layer,
                        "device_count": 3,
                        "device_list": [
                            {"device_id": d, "device_expert": row[2 * d : 2 * d + 2]} for d in range(3)
                        ],
                    }
                    for layer, row in enumerate(ROWS)
                ],
            },
        ),
    ],
)  # fmt: skip
def test_engines_that_read_json(run: Run, form: str, name: str, expected: Any) -> None:
    out, err = run(form, name)
    assert err == ""
    assert "2 slots a layer on each of 3 servers, 1 redundant expert" in out
    text = Path(name).read_text()
    assert text == json.dumps(expected) + "\n"


def test_tensorrt_llm(run: Run) -> None:
    run("tensorrt-llm", "m.yaml")
    assert Path("m.yaml").read_text() == (
        "num_slots: 6\ninitial_global_assignments:\n  1: [0, 4, 1, 2, 0, 3]\n  3: [0, 1, 2, 4, 3, 4]\n"
        "layer_updates_per_iter: 0\n"
    )


def without(server: str, *pairs: list[int]) -> dict[str, list[list[int]]]:
    return FULL | {server: [pair for pair in FULL[server] if pair not in pairs]}


@pytest.mark.parametrize("form", [name for name, form in FORMATS.items() if form.write])
def test_unequal_slots_and_missing_experts_are_refused(run: Run, form: str) -> None:
    name = "m" + (FORMATS[form].ending or ".out")
    write(INSTANCE, without("third", [1, 4]))
    line = "s.json: unequal slots: 2 experts of layer 1 on server 'near', 1 expert of layer 3 on server 'third'; "
    assert line in run(form, name, code=2)[1]
    write(INSTANCE, without("third", [0, 3]) | {"near": [*without("near", [0, 0])["near"], [0, 1]]})
    assert "unequal" in run(form, name, code=2)[1]
    write(INSTANCE, FULL | {"third": [[0, 0], [0, 1], [1, 3], [1, 4]]})
    line = "s.json: expert 3 of layer 1 is on no server; an engine needs every expert (--fill fills free slots)"
    assert line in run(form, name, code=2)[1]
    write(INSTANCE, {server: [[0, 0], [1, 1]] for server in FULL})
    assert "expert 1 of layer 1 is on no server, nor are 7 others; " in run(form, name, code=2)[1]


def test_free_slots_are_filled(run: Run) -> None:
    # Free are: of layer 0 one slot of "near" and one of "third", of layer 1 one of "third".
    write(INSTANCE, {"near": [[0, 0], [1, 0], [1, 1]], "=far/away": [[0, 1], [0, 2], [1, 2], [1, 4]],
                     "third": [[0, 4], [1, 3]]})  # fmt: skip
    assert "unequal" in run("vllm-map", "m.json", code=2)[1]
    out, _ = run("vllm-map", "m.json", "--fill")
    assert "3 free slots filled" in out
    # Expert 3 is missing in layer 0. Then expert 1 has the most tokens for its copies (70; expert 0 has 30). In layer 1
    # only expert 4 is used.
    assert json.loads(Path("m.json").read_text()) == [[0, 3, 1, 2, 1, 4], [0, 1, 2, 4, 3, 4]]
    assert "--fill: with 3 slots a layer server 'near' needs 90 bytes, its capacity is 60" in _too_full(run)
    assert "the format csv has no slots to fill" in run("csv", "p.csv", "--fill", code=2)[1]


def _too_full(run: Run) -> str:
    write(INSTANCE, FULL | {"near": [[0, 0], [0, 1], [0, 2]]})
    return run("vllm-map", "m.json", "--fill", code=2)[1]


def naive_fill(own: list[set[int]], use: Sequence[int], slots: int) -> None:
    """The rule as the command's documentation says it, slowly."""
    while any(len(held) < slots for held in own):
        copies = [sum(e in held for held in own) for e in range(len(use))]
        wanted = sorted(range(len(use)), key=lambda e: (copies[e] > 0, -Fraction(use[e], max(copies[e], 1)), e))
        expert = next(e for e in wanted if any(e not in held and len(held) < slots for held in own))
        room = [slots - len(held) if expert not in held else 0 for held in own]
        own[room.index(max(room))].add(expert)


@looped("seed", range(60))
def test_filling_completes_any_placement(seed: int) -> None:
    rng = np.random.default_rng(seed)
    document = random_document(rng, 40)
    for server in document["servers"]:
        server["capacity_bytes"] = 10**6
    instance = Instance.from_document(document)
    cached = rng.random((len(instance.servers), instance.n_items)) < 0.4
    for m, model in enumerate(instance.models):
        made = render(instance, Placement(cached), "vllm-map", model=model.name, fill=True)
        rows = json.loads(made.contents[""])
        own = cached[:, instance.model_items(m)].reshape(-1, model.layers, model.experts)
        count = own.sum(axis=2)
        least = -(-(count.sum(axis=0) + (~own.any(axis=0)).sum(axis=1)) // len(instance.servers))
        assert made.slots == max(count.max(), least.max())
        use = np.zeros(instance.n_items, dtype=int)
        for i in range(len(instance.rows)):
            use[instance.rows.item[instance.rows.start[i] : instance.rows.start[i + 1]]] += instance.rows.count[i]
        for layer, row in enumerate(rows):
            expected = [set(np.flatnonzero(own[n, layer]).tolist()) for n in range(len(instance.servers))]
            first = instance.item(m, layer, 0)
            naive_fill(expected, use[first : first + model.experts].tolist(), made.slots)
            assert row == [expert for held in expected for expert in sorted(held)]
        assert made.added == len(rows) * len(rows[0]) - count.sum()


def test_one_model_of_several(run: Run) -> None:
    other = {"name": "k", "layers": 1, "experts": 2, "top_k": 1, "expert_bytes": 1}
    document = INSTANCE | {"models": [*INSTANCE["models"], other]}
    document["servers"] = [server | {"capacity_bytes": 70} for server in INSTANCE["servers"]]
    write(document, FULL)
    assert "--model: the instance has 2 models, one must be chosen: m, k" in run("vllm-map", "m.json", code=2)[1]
    assert "--model: the instance has 2 models" in run("pin", "p_{server}.json", code=2)[1]
    assert "--model: the instance has no model 'x'; there are m, k" in run("csv", "p.csv", "--model", "x", code=2)[1]
    run("vllm-map", "m.json", "--model", "m")
    assert json.loads(Path("m.json").read_text()) == ROWS
    run("vllm-map", "m.json", "--model", "k", "--fill")
    assert json.loads(Path("m.json").read_text()) == [[0, 1, 0]]
    run("csv", "all.csv")
    run("csv", "k.csv", "--model", "k")
    assert Path("all.csv").read_text().count("\n") == 13
    assert Path("k.csv").read_text().count("\n") == 1


def test_a_wrong_solution_is_refused(run: Run) -> None:
    right = json.loads(Path("s.json").read_text())

    def refused(**changes: Any) -> str:
        Path("s.json").write_text(json.dumps(right | changes))
        return run("csv", "p.csv", code=2)[1]

    assert "s.json: instance.sha256: the solution is for" in refused(instance=right["instance"] | {"sha256": "0" * 64})
    part = right["placement"][0]
    assert "placement[0].server: the instance has no server 'x'" in refused(placement=[part | {"server": "x"}])
    assert "no expert [2, 0]" in refused(placement=[part | {"experts": [[2, 0]]}])
    everything = [[layer, e] for layer in range(2) for e in range(5)]
    assert "server 'near': 150 bytes cached, 90 more than its capacity 60 (1 more" in refused(
        placement=[part | {"experts": everything}]
    )
    assert "the solution says 1, recomputed" in refused(objective=right["objective"] | {"latency_ns": 1})
    Path("s.json").write_text("[]")
    assert "s.json" in run("csv", "p.csv", code=2)[1]


def test_names_of_files_are_checked(run: Run) -> None:
    assert "m.txt: sglang reads files whose names end in .json" in run("sglang", "m.txt", code=2)[1]
    assert "vllm-ascend reads files whose names end in .json" in run("vllm-ascend", "m", code=2)[1]
    assert "tensorrt-llm reads no packed files" in run("tensorrt-llm", "m.yaml.gz", code=2)[1]
    assert "i.json: is the instance itself" in run("csv", "i.json", code=2)[1]
    assert "s.json: is the" in run("csv", "./s.json", code=2)[1]
    assert "the folder nowhere does not exist" in run("pin", "nowhere/{server}.json", code=2)[1]
    run("csv", "p.csv.gz")
    assert Path("p.csv.gz").read_bytes().startswith(b"\x1f\x8b")


def test_layers_that_a_reader_does_not_expect_are_said(run: Run) -> None:
    shape = {"name": "deepseek-v2-lite", "layers": 2, "experts": 5, "top_k": 2, "expert_bytes": 10}
    demand = INSTANCE["demands"][0] | {"model": shape["name"]}
    document = INSTANCE | {"version": 1, "models": [shape], "demands": [demand]}
    write(document, FULL)
    known = "note: DeepSeek-V2-Lite has 27 layers, 26 of them with experts; the instance "
    numbers = f"{known}does not say their own numbers, so they are counted from 0 (--config gives them)\n"
    missing = f"{known}has 2, and an engine needs all\n"
    assert run("csv", "p.csv")[1] == numbers
    assert run("vllm-map", "m.json")[1] == missing  # it counts layers with experts, as the instance does
    assert run("sglang", "m.json")[1] == missing + numbers
    write(document | {"version": 2, "models": [shape | {"layer_index": [1, 2]}]}, FULL)
    assert run("csv", "p.csv")[1] == ""
    assert run("sglang", "m.json")[1] == missing


CONFIG: dict[str, Any] = {
    "model_type": "made_up", "num_hidden_layers": 6, "num_experts": 5, "num_experts_per_tok": 2, "hidden_size": 8,
    "moe_intermediate_size": 4, "moe_layers": [1, 3],
}  # fmt: skip


def test_a_config_gives_the_numbers_and_all_hidden_layers(run: Run) -> None:
    plain = INSTANCE | {
        "version": 1,
        "models": [{k: v for k, v in INSTANCE["models"][0].items() if k != "layer_index"}],
    }

    def config(**changes: Any) -> tuple[str, str]:
        Path("c.json").write_text(json.dumps(CONFIG | changes))
        return "--config", "c.json"

    trivial = [0, 1, 2, 3, 4, 0]
    for document in (INSTANCE, plain):
        write(document, FULL)
        assert "; 6 hidden layers" in run("sglang", "m.json", *config())[0]
        rows = [trivial, ROWS[0], trivial, ROWS[1], trivial, trivial]
        assert json.loads(Path("m.json").read_text()) == {"physical_to_logical_map": rows}
        run("tensorrt-llm", "m.yaml", *config())
        assert "  3: [0, 1," in Path("m.yaml").read_text()
        run("csv", "p.csv", *config())
        assert "third,m,3,4,20" in Path("p.csv").read_text()
        line = "c.json: 6 experts a layer, m of the instance has 5"
        assert line in run("csv", "p2.csv", *config(num_experts=6), code=2)[1]
        line = "c.json: 1 layer with experts, m of the instance has 2"
        assert line in run("csv", "p2.csv", *config(moe_layers=[3]), code=2)[1]
        line = "c.json: 3 layers with experts, m of the instance has 2"
        assert line in run("sglang", "m2.json", *config(moe_layers=[1, 3, 5]), code=2)[1]
        run("csv", "p.csv", *config(moe_layers=[1, 3, 5]))  # the first two of them
    run("csv", "p.csv", *config(moe_layers=[2, 4]))
    assert "third,m,4,4,20" in Path("p.csv").read_text()
    write(INSTANCE, FULL)
    line = "c.json: layers 2, 4 have experts, m of the instance has 1, 3"
    assert line in run("csv", "p2.csv", *config(moe_layers=[2, 4]), code=2)[1]
    assert "a dense model" in run("csv", "p2.csv", *config(num_experts=0), code=2)[1]


def test_several_files_are_written_all_or_none(tmp_path: Path) -> None:
    write_all({str(tmp_path / "a"): b"1", str(tmp_path / "b"): b"2"})
    with pytest.raises(OutputError, match="no regular file"):
        write_all({str(tmp_path / "a"): b"3", str(tmp_path): b"4"})
    with pytest.raises(OutputError, match="nowhere"):
        write_all({str(tmp_path / "a"): b"3", str(tmp_path / "nowhere" / "c"): b"4"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"1"


def test_an_instance_without_servers_has_no_slots() -> None:
    document = INSTANCE | {"servers": [], "demands": [INSTANCE["demands"][0] | {"server_ns": []}]}
    instance = Instance.from_document(document)
    with pytest.raises(InputError, match="no server"):
        render(instance, Placement.empty(instance), "vllm-map")


def test_slots_of_the_instance_are_filled_whole() -> None:
    """layer_slots are what an engine has, used or not; without bytes for them there are fewer, never too many."""
    for slots, capacity, expected in ((4, 120, 4), (4, 100, 3), (2, 90, 2), (9, 150, 5), (4, 60, 2)):
        document = copy.deepcopy(INSTANCE)
        for server in document["servers"]:
            server |= {"layer_slots": slots, "capacity_bytes": capacity}
        instance, placement = placed(document, FULL)
        made = render(instance, placement, "vllm", fill=True)
        record = json.loads(made.contents[""])
        assert (made.slots, record["num_slots"]) == (expected, 3 * expected), (slots, capacity)
        for rows in record["initial_global_assignments"].values():
            assert set(rows) == set(range(5))
            ranks = [rows[r * expected : (r + 1) * expected] for r in range(3)]
            assert all(len(set(rank)) == expected for rank in ranks)
    document = copy.deepcopy(INSTANCE)
    document["servers"][2] |= {"layer_slots": 2}
    document["servers"][0] |= {"layer_slots": 3, "capacity_bytes": 90}
    crowded = {**FULL, "near": [*FULL["near"], [0, 2]]}
    instance, placement = placed(document, crowded)
    with pytest.raises(
        InputError, match="same number of slots everywhere; 3 slots a layer are needed, server 'third' has 2"
    ):
        render(instance, placement, "vllm", fill=True)
