"""moeplace import: every format gives the same instance, halves are disjoint, broken traces are one line each."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import looped

import moeplace
from moeplace.base.errors import InputError
from moeplace.caching.scenarios.importing import Report, Selection, count_traces
from moeplace.cli import main
from moeplace.scenarios.traces import common
from moeplace.scenarios.traces import lines as json_lines
from moeplace.scenarios.traces.common import Columns, Reading, Shape
from moeplace.scenarios.traces.opening import open_trace

LAYERS, EXPERTS, TOP_K = 3, 8, 2
SHAPE = Shape(LAYERS, EXPERTS, TOP_K)
MODEL = ["--layers", "3", "--experts", "8", "--top-k", "2", "--expert-bytes", "1000", "--hidden-size", "64"]
PLACES = ["--stations", "3", "--users", "4", "--capacity", "50"]
LENGTHS = [5, 3, 7, 2, 6, 4]
PROFILES = ["law", "code", "law", "law", "code", "poetry"]


def tokens(seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((sum(LENGTHS), LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K].astype(np.uint8)


def rows(experts: np.ndarray) -> list[dict[str, Any]]:
    """Return the trace in long form, a token at a layer each."""
    start = np.cumsum([0, *LENGTHS])
    return [
        {"request": f"r{r}", "profile": PROFILES[r], "token": t, "layer": layer, "experts": experts[at, layer].tolist()}
        for r, length in enumerate(LENGTHS)
        for t in range(length)
        for layer in range(LAYERS)
        for at in [start[r] + t]
    ]


def write_npz(path: Path, experts: np.ndarray) -> None:
    np.savez_compressed(path, experts=experts, lengths=np.array(LENGTHS), profile=np.array(PROFILES))


def write_csv(path: Path, experts: np.ndarray, layout: str = "text") -> None:
    table = rows(experts)
    if layout == "one":
        table = [{**r, "expert": e} for r in table for e in r["experts"]]
    elif layout == "wide":
        table = [{**r, **{f"expert_{i}": e for i, e in enumerate(r["experts"])}} for r in table]
    else:
        table = [{**r, "experts": " ".join(map(str, r["experts"]))} for r in table]
    names = [name for name in table[0] if name != "experts" or layout == "text"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_lines(path: Path, objects: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(o) + "\n" for o in objects))


def write_parquet(path: Path, experts: np.ndarray) -> None:
    pq.write_table(pa.Table.from_pylist(rows(experts)), path, row_group_size=20)


def packed(part: np.ndarray, kind: str = "<i4") -> str:
    return base64.b64encode(part.astype(kind).tobytes()).decode()


def write_layers(path: Path, experts: np.ndarray) -> None:
    """Write an array for each layer, as hooks on a model's layers leave them."""
    layers = {f"model.layers.{layer}.topk": experts[:, layer] for layer in range(LAYERS)}
    np.savez(path, **layers, lengths=np.array(LENGTHS), profile=np.array(PROFILES))


def write_logits(path: Path, experts: np.ndarray) -> None:
    """Write router logits whose largest are the experts."""
    logits = np.random.default_rng(3).random((*experts.shape[:2], EXPERTS), dtype=np.float32)
    np.put_along_axis(logits, experts.astype(np.int64), 2.0 + np.arange(TOP_K, dtype=np.float32)[::-1], axis=2)
    np.savez(path, router_logits=logits, lengths=np.array(LENGTHS), profile=np.array(PROFILES))


def write_runs(path: Path, experts: np.ndarray) -> None:
    """Write an activation a line without token numbers, first a prompt layer by layer, then a token at a time."""
    lines, start = [], np.cumsum([0, *LENGTHS])
    for r in range(len(LENGTHS)):
        own = experts[start[r] : start[r + 1]]
        for tokens in (own[:2], *own[2:, None]):
            lines += [f"r{r},{PROFILES[r]},{layer},{e}" for layer in range(LAYERS) for t in tokens for e in t[layer]]
    path.write_text("request,profile,layer,expert\n" + "\n".join(lines) + "\n")


def write_joined(path: Path, experts: np.ndarray) -> None:
    """Write a table for each request, one after the other in a file, each with its header."""
    table = rows(experts)
    text = ""
    for r in range(len(LENGTHS)):
        own = [row for row in table if row["request"] == f"r{r}"]
        text += "profile;token;layer;experts\r\n"
        text += "".join(f"{w['profile']};{w['token']};{w['layer']};{w['experts']}\r\n" for w in own)
    path.write_bytes(text.encode("utf-8-sig"))


def write_absolute(path: Path, experts: np.ndarray) -> None:
    """Write layers by the model's own numbers, dense ones counted."""
    write_lines(path, [{**row, "layer": 3 + 2 * row["layer"]} for row in rows(experts)])


def write_batch(path: Path, experts: np.ndarray) -> None:
    """Write the results of a batch."""
    write_lines(path, [
        {
            "id": f"b{r}", "custom_id": f"r{r}", "profile": PROFILES[r], "error": None,
            "response": {"status_code": 200, "body": {**body, "usage": {
                "prompt_tokens": 2, "completion_tokens": LENGTHS[r] - 1, "total_tokens": LENGTHS[r] + 1,
            }}},
        }
        for r, body in enumerate(responses(experts, "npy"))
    ])  # fmt: skip


def write_stream(path: Path, experts: np.ndarray, cumulative: bool = False) -> None:
    """Write the events of streams, each with one or two tokens more, or all so far."""
    text, start = ": a comment\n\n", np.cumsum([0, *LENGTHS])
    for r, length in enumerate(LENGTHS):
        for first in range(0, length, 2):
            part = experts[start[r] + (0 if cumulative else first) : start[r] + min(length, first + 2)]
            choice = {"index": 0, "text": "x", "sgl_ext": {"routed_experts": packed(part)}}
            text += "data: " + json.dumps({"id": f"c{r}", "profile": PROFILES[r], "choices": [choice]}) + "\n\n"
        usage = {"prompt_tokens": 1, "completion_tokens": length}
        text += "data: " + json.dumps({"id": f"c{r}", "choices": [], "usage": usage}) + "\n\ndata: [DONE]\n\n"
    path.write_text(text)


def write_nested(path: Path, experts: np.ndarray) -> None:
    """Write a response a row, with nested lists."""
    parts = np.split(experts, np.cumsum(LENGTHS)[:-1])
    table = [{"profile": p, "routed_experts": e.tolist()} for p, e in zip(PROFILES, parts, strict=True)]
    pq.write_table(pa.Table.from_pylist(table), path)


def responses(experts: np.ndarray, form: str) -> list[dict[str, Any]]:
    """Return what a serving engine answers, one request each."""
    result = []
    for r, part in enumerate(np.split(experts, np.cumsum(LENGTHS)[:-1])):
        own: dict[str, Any] = {"id": f"r{r}", "profile": PROFILES[r]}
        if form == "lists":  # vLLM 0.21: the prompt's beside the completion's
            own |= {"prompt_routed_experts": part[:1].tolist(), "choices": [{"routed_experts": part[1:].tolist()}]}
        elif form == "npy":  # vLLM: a NumPy file in base64
            file = io.BytesIO()
            np.save(file, part.astype(np.int16))
            own |= {"choices": [{"routed_experts": base64.b64encode(file.getvalue()).decode()}]}
        elif form == "object":
            data = base64.b64encode(part.astype("<i2").tobytes()).decode()
            own |= {"choices": [{"routed_experts": {"data": data, "dtype": "int16", "shape": list(part.shape)}}]}
        else:  # SGLang: bare 32-bit integers
            data = base64.b64encode(part.astype("<i4").tobytes()).decode()
            own |= {"meta_info": {"routed_experts": data}} if r % 2 else {
                "choices": [{"sgl_ext": {"routed_experts": data}}]
            }  # fmt: skip
        result.append(own)
    return result


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "trace.npz": write_npz,
    "trace.csv": write_csv,
    "trace.csv.gz": write_csv,
    "one.csv": lambda path, e: write_csv(path, e, "one"),
    "wide.csv": lambda path, e: write_csv(path, e, "wide"),
    "trace.jsonl": lambda path, e: write_lines(path, rows(e)),
    "one.jsonl": lambda path, e: write_lines(
        path, [{**{k: v for k, v in r.items() if k != "experts"}, "expert": x} for r in rows(e) for x in r["experts"]]
    ),
    "trace.parquet": write_parquet,
    "vllm.jsonl": lambda path, e: write_lines(path, responses(e, "lists")),
    "vllm_npy.jsonl": lambda path, e: write_lines(path, responses(e, "npy")),
    "vllm_object.jsonl": lambda path, e: write_lines(path, responses(e, "object")),
    "sglang.jsonl": lambda path, e: write_lines(path, responses(e, "bare")),
    "layers.npz": write_layers,
    "layers_first.npz": lambda path, e: np.savez(
        path, ids=np.ascontiguousarray(e.transpose(1, 0, 2)), lengths=np.array(LENGTHS), profile=np.array(PROFILES)
    ),
    "logits.npz": write_logits,
    "runs.csv": write_runs,
    "joined.csv": write_joined,
    "absolute.jsonl": write_absolute,
    "batch.jsonl": write_batch,
    "stream.jsonl": write_stream,
    "cumulative.jsonl": lambda path, e: write_stream(path, e, cumulative=True),
    "a_list.jsonl": lambda path, e: path.write_text(json.dumps(responses(e, "object"))),
    "a_list.json": lambda path, e: path.write_text(json.dumps(responses(e, "lists"), indent=1)),
    "rows.json": lambda path, e: path.write_text(json.dumps(rows(e))),
    "nested.parquet": write_nested,
}

SAID = {
    "sglang.jsonl": "3 layers of 2 are the model's, and nothing confirms them",
    "layers.npz": "3 arrays model.layers.0.topk, model.layers.1.topk, model.layers.2.topk are read as the layers",
    "layers_first.npz": "ids [3, 27, 2] is read as [layers, tokens, k]",
    "logits.npz": "the 2 largest of 8 are taken as the experts, which is exact only where",
    "runs.csv": "no column with token numbers: the rows of each layer are counted, 2 rows a token",
    "absolute.jsonl": "layers 3 to 7 (3 of them) of the file are taken as layers 0 to 2 of the trace",
    "cumulative.jsonl": "each chunk of a stream repeats those before it: the last one is read",
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["import", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "trace.npz"])
@pytest.mark.parametrize("small_pieces", [False, True])
def test_every_format_gives_the_same_instance(name: str, small_pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npz(Path("trace.npz"), tokens())
    WRITERS[name](Path(name), tokens())
    if small_pieces:
        monkeypatch.setattr(common, "CHUNK_BYTES", 600)
    documents = []
    for trace, report in ((name, Report()), ("trace.npz", Report())):
        counts, _ = count_traces([open_trace(trace, SHAPE)], SHAPE, range(4), report=report)
        documents.append((counts.rows(), counts.tokens, report.profiles, report.requests, report.rows))
    (mine, tokens_mine, *rest_mine), (other, tokens_other, *rest_other) = documents
    assert all((a == b).all() for a, b in zip(mine, other, strict=True))
    assert (tokens_mine == tokens_other).all()
    assert rest_mine == rest_other
    assert rest_mine == [{"law": 2, "code": 1, "poetry": 1}, len(LENGTHS), sum(LENGTHS) * LAYERS]


def test_every_format_keeps_the_order_of_a_tokens_experts() -> None:
    expected = Counter((layer, tuple(own[layer])) for own in tokens().tolist() for layer in range(LAYERS))
    for name, write in WRITERS.items():
        write(Path(name), tokens())
        counts, _ = count_traces([open_trace(name, SHAPE)], SHAPE, range(4), ranked=True)
        found: Counter[tuple[int, tuple[int, ...]]] = Counter()
        rows_found = counts.rows()
        for row, count in enumerate(rows_found.count.tolist()):
            own = rows_found.expert[rows_found.start[row] : rows_found.start[row + 1]]
            found[int(rows_found.layer[row]), tuple(own.tolist())] += count
        assert found == expected, name


def test_every_format_gives_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    hashes = {}
    for name, write in WRITERS.items():
        path = Path(name.replace(".", "_")) / ("trace" + "".join(Path(name).suffixes))
        path.parent.mkdir()
        write(path, tokens())
        out, error = run(capsys, str(path), *MODEL, *PLACES, "-o", "out.json", "--json")
        hashes[name] = json.loads(out)["instance"]["sha256"]
        notes = json.loads(out)["notes"]
        assert error == "".join(f"note: {note}\n" for note in notes)
        assert SAID.get(name, "") in error, name
        assert bool(notes) == (name in SAID), name
    assert len(set(hashes.values())) == 1, hashes


def test_the_instance_counts_what_the_trace_says(capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(Path("trace.npz"), tokens())
    out, _ = run(capsys, "trace.npz", *MODEL, *PLACES, "-o", "all.json")
    instance = moeplace.load("all.json")
    # Of four users two get law (14 of the 27 tokens), its requests in turn.
    assert sorted(instance.tokens.tolist()) == sorted([5 + 2, 7, 3 + 6, 4])
    expected: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for t in tokens():
        expected.update((layer, tuple(sorted(t[layer].tolist()))) for layer in range(LAYERS))
    found: Counter[tuple[int, tuple[int, ...]]] = Counter()
    columns = instance.document()["activations"]
    for layer, experts, count in zip(columns["layer"], columns["experts"], columns["count"], strict=True):
        found[layer, tuple(experts)] += count
    assert found == expected
    assert "81 rows (a token at a layer) of 6 requests" in out
    assert "dropped   0 rows" in out
    assert instance.name == "l03e008k2_trace_s3_u4_c050_seed0"


def test_json_tells_everything_and_the_file_is_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(Path("trace.npz"), tokens())
    out, _ = run(capsys, "trace.npz", *MODEL, *PLACES, "-o", "a.json.gz", "--json")
    said = json.loads(out)
    assert said["instance"]["sha256"] == moeplace.load("a.json.gz").sha256
    assert (said["rows"], said["counted"], said["requests"], said["dropped"]) == (81, 81, 6, {})
    run(capsys, "trace.npz", *MODEL, *PLACES, "-o", "b.json.gz")
    assert Path("a.json.gz").read_bytes() == Path("b.json.gz").read_bytes()


@pytest.mark.parametrize("part", [Selection(Fraction(1, 2)), Selection(Fraction(1, 3)), Selection(fold=(2, 3))])
def test_a_part_and_its_rest_are_disjoint_and_complete(part: Selection) -> None:
    Path("many.csv").write_text(
        "request,profile,token,layer,expert_0\n"
        + "".join(f"{r},{'ab'[r % 2]},{t},0,{t % 4}\n" for r in range(60) for t in range(1 + r % 3))
    )
    shape = Shape(1, 4, 1)
    halves = []
    for selection in (part, Selection(part.fraction, part.fold, rest=True)):
        report = Report()
        counts, _ = count_traces([open_trace("many.csv", shape)], shape, range(6), selection=selection, report=report)
        halves.append((report.selected, int(counts.rows().count.sum())))
    share = part.fraction or Fraction(1, 3)
    assert halves[0][0] == round(share * 30) * 2
    assert halves[0][0] + halves[1][0] == 60
    assert halves[0][1] + halves[1][1] == sum(1 + r % 3 for r in range(60))
    keep, rest = (Selection(part.fraction, part.fold, r).keep(30, np.uint64(9)) for r in (False, True))
    assert (keep != rest).all()


def test_folds_cover_everything_once_and_the_seed_chooses() -> None:
    folds = np.array([Selection(fold=(i, 4)).keep(21, np.uint64(3)) for i in range(1, 5)])
    assert (folds.sum(axis=0) == 1).all()
    assert folds.sum(axis=1).tolist() == [6, 5, 5, 5]
    assert (folds[0] != Selection(fold=(1, 4)).keep(21, np.uint64(4))).any()


def test_users_of_the_trace_keep_their_requests_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    table = [{**r, "user": "ann" if r["profile"] == "law" else "bob"} for r in rows(tokens())]
    write_lines(Path("named.jsonl"), table)
    run(capsys, "named.jsonl", *MODEL, *PLACES, "-o", "named.json")
    instance = moeplace.load("named.json")
    assert {d.user: d.tokens for d in instance.demands} == {"ann": 5 + 7 + 2, "bob": 3 + 6 + 4}
    # More of them than places: they share, which is said, since their names are lost.
    _, err = run(capsys, "named.jsonl", *MODEL, "--stations", "1", "--users", "1", "-o", "one.json")
    assert "note: the trace names 2 users, more than the places (--users): 1; they share these and go by their" in err
    assert [(d.user, d.tokens) for d in moeplace.load("one.json").demands] == [("user-00", 27)]


STATIONS = "name,LATITUDE,LONGITUDE,gpu_gb\nnorth,0.01,0,24\nsouth,0,0,16\n"
PEOPLE = "name,LATITUDE,LONGITUDE\nzoe,0.0101,0\nidle,0.002,0\nbob,0.001,0\nann,0.0099,0\n"


def named_trace(*users: str) -> None:
    table = [{**r, "user": users[r["profile"] == "law"]} for r in rows(tokens())]
    write_lines(Path("named.jsonl"), table)


def at_places(capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> tuple[str, str]:
    files = ["--station-file", "stations.csv", "--user-file", "people.csv", "--stations", "2", "--capacity", "50"]
    return run(capsys, "named.jsonl", *MODEL, *files, *more, "-o", "named.json", code=code)


def test_users_of_the_trace_stand_where_a_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    named_trace("bob", "zoe")
    Path("stations.csv").write_text(STATIONS)
    Path("people.csv").write_text(PEOPLE)
    _, err = at_places(capsys)
    assert err.splitlines() == [
        "note: stations.csv: columns that are not read: gpu_gb",
        "note: people.csv: 2 users without a request in the trace, not in the instance",
    ]
    instance = moeplace.load("named.json")
    assert {d.user: (d.tokens, d.position_m) for d in instance.demands} == {
        "zoe": (5 + 7 + 2, [0, 1012]), "bob": (3 + 6 + 4, [0, 0])
    }  # fmt: skip
    assert [server.name for server in instance.servers] == ["north", "south"]
    assert instance.name.endswith("_named_s2_u2_c050_seed0")


def test_a_user_of_the_trace_without_a_place_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    named_trace("bob", "carl")
    Path("stations.csv").write_text(STATIONS)
    Path("people.csv").write_text(PEOPLE)
    _, err = at_places(capsys, code=2)
    assert err == 'moeplace import: people.csv: user "carl" of the trace is not there\n'
    assert not Path("named.json").exists()
    # Places without names can only be dealt out, which is said.
    Path("people.csv").write_text("LAT,LON\n0.0099,0\n0.001,0\n")
    _, err = at_places(capsys, "--users", "2")
    assert "note: people.csv: has no names: users of the trace take its places in the order of their stations" in err
    assert {d.user for d in moeplace.load("named.json").demands} == {"bob", "carl"}


def test_a_user_far_away_is_said_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    named_trace("bob", "zoe")
    Path("stations.csv").write_text(STATIONS)
    Path("people.csv").write_text(PEOPLE.replace("0.001,", "0.0001,0.01").replace("0.010,", "0.01,"))
    _, err = at_places(capsys)
    assert "note: far: 1 of 2 users (bob), more than 600 m from their station" in err
    assert len(moeplace.load("named.json").demands) == 2
    out, err = at_places(capsys, "--far-users", "leave-out", "--json")
    assert err.count("note: far: 1 of 2 users (bob)") == 1
    report = json.loads(out)
    assert (report["left_out"], report["selected"]) == (["bob"], 3)
    assert report["counted"] + report["unselected"] == report["rows"]
    assert [d.user for d in moeplace.load("named.json").demands] == ["zoe"]


def test_nothing_fits_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(Path("t.npz"), tokens())
    warning = "warning: no expert fits on any server: the smallest expert has 1,000 bytes, the largest server 80; are"
    _, err = run(capsys, "t.npz", *MODEL, "--stations", "3", "--users", "4", "--capacity", "1", "-o", "t.json")
    assert err.count(warning) == 1
    assert main(["generate", *MODEL, "--stations", "3", "--users", "4", "--capacity", "1", "-o", "g.json"]) == 0
    assert capsys.readouterr().err.count(warning) == 1
    assert main(["info", "t.json"]) == 0
    assert " ".join(capsys.readouterr().out.split()).count(warning.replace(":", "", 1)) == 1
    assert main(["info", "t.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [warning[9:] + " the units right?"]
    assert main(["solve", "t.json", "--method", "popular"]) == 0
    assert "".join(capsys.readouterr()).count(warning) == 1
    _, err = run(capsys, "t.npz", *MODEL, *PLACES, "-o", "t.json")
    assert "warning" not in err
    assert main(["info", "t.json"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_padding_is_dropped_short_rows_count_and_bad_rows_only_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    experts = tokens().astype(np.int16)
    experts[0, 0] = -1
    experts[1, 0] = [3, -1]
    np.savez("pad.npz", experts=experts)
    out, _ = run(capsys, "pad.npz", *MODEL, *PLACES, "-o", "pad.json")
    assert "1 row: 1 no expert (padding)" in out
    assert "1 row with fewer than 2 experts" in out
    experts[2, 1] = [4, 4]
    experts[3, 1] = [1, 99]
    np.savez("bad.npz", experts=experts)
    _, error = run(capsys, "bad.npz", *MODEL, *PLACES, "-o", "bad.json", code=2)
    assert error == "moeplace import: bad.npz: experts: token 2, layer 1: expert 4 stands twice in one row\n"
    out, _ = run(capsys, "bad.npz", *MODEL, *PLACES, "-o", "bad.json", "--drop-bad-rows", "--json")
    assert json.loads(out)["dropped"] == {
        "no expert (padding)": 1, "expert twice in a row": 1, "expert out of range": 1
    }  # fmt: skip
    assert json.loads(out)["counted"] == 81 - 3


def test_dense_layers_are_skipped_and_further_ones_cut() -> None:
    experts = tokens()
    np.savez("all.npz", experts=experts)
    np.savez("one.npz", experts=experts[:, 1:2])
    write_csv(Path("all.csv"), experts)
    reports, found = [], []
    for name, shape in (
        ("one.npz", Shape(1, EXPERTS, TOP_K)),
        ("all.npz", Shape(1, EXPERTS, TOP_K, skip_layers=1, cut_layers=1)),
        ("all.csv", Shape(1, EXPERTS, TOP_K, skip_layers=1, cut_layers=1)),
    ):
        reports.append(Report())
        found.append(count_traces([open_trace(name, shape)], shape, range(1), report=reports[-1])[0].rows())
    for other in found[1:]:
        assert all((a == b).all() for a, b in zip(found[0], other, strict=True))
    assert [report.skipped for report in reports] == [0, 54, 54]
    with pytest.raises(InputError, match=r"has \[27, 3, 2\], expected \[tokens, 1, 2\]: 3 layers \(--skip-layers"):
        open_trace("all.npz", Shape(1, EXPERTS, TOP_K)).requests()


def test_layers_without_rows_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(Path("t.csv"), tokens())
    out, _ = run(capsys, "t.csv", *MODEL, *PLACES, "-o", "t.json")
    assert "layers" not in out
    deeper = [
        str(LAYERS + 2) if before == "--layers" else here for before, here in zip(["", *MODEL], MODEL, strict=False)
    ]
    out, _ = run(capsys, "t.csv", *deeper, *PLACES, "-o", "t.json")
    assert "2 of the model's 5 layers have no rows in the trace" in " ".join(out.split())
    out, _ = run(capsys, "t.csv", *deeper, *PLACES, "-o", "t.json", "--json")
    assert json.loads(out)["empty_layers"] == [LAYERS, LAYERS + 1]


def test_a_model_of_the_catalogue_can_be_cut(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    np.savez("mixtral.npz", experts=np.argsort(rng.random((9, 32, 8)), axis=2)[:, :, :2])
    out, _ = run(
        capsys, "mixtral.npz", "--model", "mixtral-8x7b:int4", "--layers", "4", *PLACES, "-o", "cut.json", "--json"
    )
    assert (json.loads(out)["counted"], json.loads(out)["skipped"]) == (9 * 4, 9 * 28)
    assert moeplace.load("cut.json").models[0].layers == 4


def test_several_arrays_are_profiles_and_so_are_several_files() -> None:
    a, b = tokens(1), tokens(2)
    np.savez("both.npz", law_experts=a, code_experts=b, law_lengths=np.array(LENGTHS))
    report = Report()
    count_traces([open_trace("both.npz", SHAPE)], SHAPE, range(4), report=report)
    assert report.profiles == {"law": 2, "code": 2}
    assert report.requests == len(LENGTHS) + 1
    np.savez("law.npz", experts=a)
    np.save("code.npy", b)
    report = Report()
    count_traces([open_trace(p, SHAPE) for p in ("law.npz", "code.npy")], SHAPE, range(4), report=report)
    assert report.profiles == {"law": 2, "code": 2}


def test_labels_may_be_bytes() -> None:
    np.savez("b.npz", experts=tokens(), lengths=np.array([20, 7]), profile=np.array([b"law", b"code"]))
    report = Report()
    count_traces([open_trace("b.npz", SHAPE)], SHAPE, range(2), report=report)
    assert report.profiles == {"law": 1, "code": 1}


def test_more_profiles_than_users_share_them() -> None:
    write_npz(Path("trace.npz"), tokens())
    counts, _ = count_traces([open_trace("trace.npz", SHAPE)], SHAPE, range(2))
    assert counts.tokens.tolist() == [5 + 7 + 2 + 4, 3 + 6]


def csv_of(*lines: str) -> str:
    return "token,layer,experts\n" + "".join(line + "\n" for line in lines)


def damaged_zip() -> bytes:
    file = io.BytesIO()
    np.savez(file, experts=np.zeros((400, 3, 2), dtype=np.int64))
    return file.getvalue()[:5000]


def lying_npz() -> bytes:
    """Return an archive whose array is shorter than its header says."""
    inner, file = io.BytesIO(), io.BytesIO()
    np.save(inner, tokens())
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("experts.npy", inner.getvalue()[:-9])
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


BROKEN: dict[str, tuple[str, bytes | str, str]] = {
    "empty file": ("a.npz", b"", "is empty"),
    "truncated archive": ("a.npz", damaged_zip(), "cannot be read, damaged or of another format"),
    "no archive at all": ("a.npz", b"hello, this is text", "cannot be read, damaged or of another format"),
    "array shorter than its header": ("a.npz", lying_npz(), "ends before token 26"),
    "two dimensions": ("a.npz", npz(experts=tokens()[:, 0]), "has shape [27, 2]; expected [tokens, layers, k]"),
    "too few layers": ("a.npz", npz(experts=tokens()[:, :2]), "has [27, 2, 2], expected [tokens, 3, 2]: 2 layers"),
    "too many experts a token": ("a.npz", npz(experts=np.zeros((4, 3, 3), int)), "the model's top_k is 2"),
    "no tokens": ("a.npz", npz(experts=tokens()[:0]), "experts: has no tokens"),
    "floats with NaN": ("a.npz", npz(experts=np.full((4, 3, 2), np.nan)), "holds float64; expert numbers are integers"),
    "pickled objects": ("a.npz", npz(experts=np.array([[[None]]])), "holds object; expert numbers are integers"),
    "no routing": ("a.npz", npz(lengths=np.array([1, 2])), "no array [tokens, layers, k] of integers"),
    "mixed models": ("a.npz", npz(a_experts=tokens(), b_experts=tokens()[:, :, :1]), "arrays of different models"),
    "lengths that do not sum": ("a.npz", npz(experts=tokens(), lengths=np.array([3, 4])), "sum to the 27 tokens"),
    "labels too few": (
        "a.npz", npz(experts=tokens(), lengths=np.array(LENGTHS), profile=np.array(["x"])), "1 entries, there are 6"
    ),
    "expert out of range": ("a.csv", csv_of("0,0,1 2", "1,0,3 8"), "row 2: expert 8, the model has 8 (from 0)"),
    "expert twice": ("a.csv", csv_of("0,0,1 2", "1,0,3 3"), "row 2: expert 3 stands twice in one row"),
    "NaN in CSV": ("a.csv", csv_of("0,0,1 NaN"), "row 1: experts '1 NaN'; expected integers"),
    "fraction in CSV": ("a.csv", csv_of("0,0,1.5 2"), "row 1: experts '1.5 2'; expected integers"),
    "token not a number": ("a.csv", csv_of("x,0,1 2"), "invalid value 'x'"),
    "ragged CSV": ("a.csv", csv_of("0,0,1 2,7"), "Expected 3 columns, got 4"),
    "layer out of range": ("a.csv", csv_of("0,3,1 2"), "row 1: layer 3, the trace has 3 (from 0)"),
    "negative token": ("a.csv", csv_of("-1,0,1 2"), "row 1: token -1; they count from 0"),
    "too many in a row": ("a.csv", csv_of("0,0,1 2 3"), "row 1: 3 experts, the model's top_k is 2"),
    "token twice": ("a.csv", csv_of("0,0,1 2", "0,0,3 4"), "row 2: token 0 comes twice at layer 0"),
    "token too late": ("a.csv", csv_of("4,0,1 2", "2,0,3 4"), "row 2: token 2 comes after token 4 at layer 0"),
    "missing column": ("a.csv", "token,experts\n0,1 2\n", "no column layer; expected token, layer and expert"),
    "no experts": ("a.csv", "token,layer\n0,1\n", "no column with experts"),
    "only a header": ("a.csv", csv_of(), "has no rows"),
    "mixed profiles": (
        "a.csv",
        "request,profile,token,layer,experts\n1,law,0,0,1 2\n1,code,1,0,1 2\n",
        "row 2: request 1 has profile code here and law before",
    ),
    "one a line, too many": (
        "a.csv", "token,layer,expert\n0,0,1\n0,0,2\n0,0,3\n1,0,2\n", "row 1: token 0 at layer 0 has 3 experts, the"
    ),
    "truncated gzip": ("a.csv.gz", gzip.compress(csv_of("0,0,1 2").encode())[:-12], "cannot be read, damaged"),
    "not JSON": ("a.jsonl", '{"token": 0, "layer": 0, "experts": [1, 2]}\n{"token": 1,\n', "line 2: not JSON"),
    "NaN in JSON": ("a.jsonl", '{"token": 0, "layer": 0, "experts": [1, NaN]}\n', "line 1: not JSON"),
    "float in JSON": ("a.jsonl", '{"token": 0, "layer": 0, "experts": [1, 2.5]}\n', "line 1: experts is [1, 2.5]"),
    "text for a token": ("a.jsonl", '{"token": "0", "layer": 0, "experts": [1]}\n', 'is "0"; expected an integer'),
    "a number beyond all bounds": (
        "a.jsonl", f'{{"token": {2**63}, "layer": 0, "experts": [1]}}\n', "token is 9223372036854775808; expected an"
    ),
    "a list a line": ("a.jsonl", "[1, 2]\n", "line 1: a list; expected an object"),
    "blank lines only": ("a.jsonl", "\n\n", "has no rows"),
    "a response without routing": (
        "a.jsonl", '{"choices": [{"text": "hi"}]}\n', "line 1: a response without routed_experts (--drop-bad-rows drops"
    ),
    "routing cut off": ("a.jsonl", '{"meta_info": {"routed_experts": "AAAAAAA"}}\n', "cannot be decoded"),
    "routing of another shape": ("a.jsonl", '{"routed_experts": [[1, 2], [3, 4]]}\n', "expected integers [tokens"),
    "routing out of range": (
        "a.jsonl", '{"routed_experts": [[[1,2],[1,2],[1,9]]]}\n', "line 1: token 0, layer 2: expert 9"
    ),
    "no Parquet": ("a.parquet", b"PAR1 and then something else", "cannot be read, damaged or of another format"),
    "floats in Parquet": ("a.parquet", parquet(token=[0.5], layer=[0], experts=[[1, 2]]), "column token holds double"),
    "nothing in a cell": ("a.parquet", parquet(token=[0, None], layer=[0, 0], experts=[[1], []]), "row 2: column"),
    "experts as numbers": ("a.parquet", parquet(token=[0], layer=[0], experts=[3]), "expected lists of integers"),
    "a list for a label": (
        "a.jsonl", '{"token": 0, "layer": 0, "experts": [1], "request": [1]}\n', "line 1: request is [1]; expected"
    ),
    "an object for a label": (
        "a.jsonl", '{"routed_experts": [[[1,2],[1,2],[1,3]]], "user": {"id": 1}}\n', 'line 1: user is {"id": 1}'
    ),
    "choices that are no list": ("a.jsonl", '{"choices": 5, "outputs": "x"}\n', "a response without routed_experts"),
    "an object of another kind": ("a.jsonl", '{"steps": [1]}\n', "nor a response with routed_experts, but an object"),
    "lists for labels in Parquet": (
        "a.parquet", parquet(token=[0], layer=[0], experts=[[1]], user=[["x"]]), "column user holds list"
    ),
    "a heading without end": ("a.csv", "x" * 200_000, "field larger than field limit"),
    "another kind of file": ("a.pt", b"torch", "has to be saved as .npz first: numpy.savez("),
    "a binary dump": ("a.bin", bytes(range(64)), "a binary dump does not say what its numbers are"),
    "totals": (
        "a.csv", "layer,expert,count\n0,0,3\n0,1,1\n", "column count: totals: which experts a token used together"
    ),
    "totals in a document": ("a.json", '{"maths": {"0": {"event_count": 3}}}', "event_count: totals: which experts"),
    "a token's number by another name": ("a.csv", "token_idx,layer,experts\n0,0,1 2\n", "(--token-column token_idx?)"),
    "experts by another name": ("a.csv", "token,layer,expert_ids\n0,0,1 2\n", "(--expert-column expert_ids?)"),
    "a column twice": ("a.csv", "token,layer,layer,experts\n0,0,0,1 2\n", "2 columns layer"),
    "a row without a number missing": ("a.csv", "layer,expert\n0,1\n0,2\n0,3\n1,1\n1,2\n0,4\n", "begins again after 3"),
    "a row missing at the end": ("a.csv", "layer,expert\n0,1\n0,2\n1,3\n", "layer 1 has 1 rows, no multiple"),
    "an expert twice in a counted token": ("a.csv", "layer,expert\n0,1\n0,1\n", "experts [1, 1] of one token, counted"),
    "a quote that is not closed": (
        "a.csv", 'token,layer,experts,text\n0,0,1 2,"a\n1,0,3 4,b\n', "a quote is not closed"
    ),
    "a document in the place of lines": ("a.jsonl", "[\n{}\n]", "line 1: not JSON: Input data was truncated; a"),
    "a number for a document": ("a.json", "5", "entry 0: a number; expected an object or a list of them"),
    "a layer beyond all bounds": ("a.csv", csv_of("0,999999999999,1 2"), "row 1: layer 999999999999, the trace has 3"),
    "NaN among logits": ("a.npz", npz(logits=np.full((4, 3, 8), np.nan)), "token 0, layer 0: a logit is NaN"),
    "a layer's array missing": ("a.npz", npz(layer_0=tokens()[:, 0], layer_2=tokens()[:, 0]), "2 arrays [tokens, k]"),
    "layers of different lengths": (
        "a.npz", npz(layer_0=tokens()[:, 0], layer_1=tokens()[1:, 0], layer_2=tokens()[:, 0]), "layers must be alike"
    ),
    "mixed streams": (
        "a.jsonl",
        "".join(f'data: {{"id": "{i}", "routed_experts": [[[1,2],[1,2],[1,{2 + t}]]]}}\n' for t, i in enumerate("aba")),
        "line 3: the stream 'a' goes on here",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_trace_is_one_line_and_nothing_is_written(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, content, message = BROKEN[case]
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    out, error = run(capsys, name, *MODEL, *PLACES, "-o", "out.json", code=2)
    assert out == ""
    assert error.startswith(f"moeplace import: {name}: ")
    assert error.count("\n") == 1
    assert message in error
    assert not Path("out.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npz", *MODEL, "-o", "x.json"], "none.npz: cannot be read: No such file or directory"),
        (["t.npz", *MODEL, "-o", "no/x.json"], "no/x.json: cannot be written: the folder no does not exist"),
        (["t.npz", "t.npz", *MODEL, "-o", "x.json"], "a trace is given twice"),
        (["t.npz", *MODEL, "--fraction", "1.5", "-o", "x.json"], "expected more than 0 and less than 1"),
        (["t.npz", *MODEL, "--fold", "4/3", "-o", "x.json"], "expected I/N with I from 1 to N"),
        (["t.npz", *MODEL, "--fold", "1/3", "--fraction", "0.5", "-o", "x.json"], "cannot be given both"),
        (["t.npz", *MODEL, "--rest", "-o", "x.json"], "the rest of what?"),
        (["t.npz", "--model", "gpt-oss-20b", "--model", "olmoe-1b-7b", "-o", "x.json"], "--model: 2 models"),
        (["t.npz", "--model", "nonesuch", "-o", "x.json"], "no model 'nonesuch' in the catalogue"),
        (["t.npz", *MODEL, "--profile", "nonesuch", "-o", "x.json"], "no array 'nonesuch' with one entry a request"),
        (["t.npz", *MODEL, "-o", "t.npz"], "it would be overwritten"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(Path("t.npz"), tokens())
    before = Path("t.npz").read_bytes()
    _, error = run(capsys, *arguments, code=2)
    assert message in error
    assert error.count("\n") == 1
    assert not Path("x.json").exists()
    assert Path("t.npz").read_bytes() == before


def test_a_selection_without_requests_is_refused() -> None:
    np.savez("one.npz", experts=tokens())
    with pytest.raises(InputError, match="no request is selected; there is 1 in all"):
        count_traces([open_trace("one.npz", SHAPE)], SHAPE, range(2), selection=Selection(fold=(2, 3)))


def test_columns_by_other_names() -> None:
    table = [{"task": r["profile"], **{k: v for k, v in r.items() if k != "profile"}} for r in rows(tokens())]
    write_lines(Path("t.jsonl"), table)
    report = Report()
    count_traces([open_trace("t.jsonl", SHAPE, Reading(Columns(profile="task")))], SHAPE, range(4), report=report)
    assert report.profiles == {"law": 2, "code": 1, "poetry": 1}


def answer(array: np.ndarray, form: str = "bare", **more: Any) -> dict[str, Any]:
    """Return a response with an array, as bare 32-bit integers or as lists."""
    return {"meta_info": {"routed_experts": packed(array) if form == "bare" else array.tolist(), **more}}


@pytest.mark.parametrize("options", [[], ["--drop-bad-rows"]])
def test_an_array_of_another_shape_is_refused_whatever_options_stand(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shared = np.full((27, LAYERS, 1), 5, dtype=np.uint8)
    wider = np.concatenate((tokens(), shared), axis=2)
    unlucky = tokens()[:18].copy()
    unlucky[3, 1] = [7, 9]
    refused = {
        # 26 tokens of three columns are as many numbers as 39 of two.
        "a column more": (answer(wider[:26]), "5 stands after every 2 numbers: [26, 3, 3] with a fused shared"),
        "more tokens than there are": (
            answer(tokens(), prompt_tokens=6, completion_tokens=12), "has 27 tokens in the shape [tokens, 3, 2], and"
        ),
        "fewer": (answer(tokens(), prompt_tokens=16, completion_tokens=13), "says that there are 12 or 13 or 28 or 29"),
        "an expert out of range": (answer(unlucky), "1 rows have experts out of range and 0 an expert twice"),
        "lists longer than their tokens": (
            {"choices": [{"prompt_token_ids": [1] * 9, "token_ids": [1] * 9, "routed_experts": tokens().tolist()}]},
            "has 27 tokens",
        ),
        "more than the sum": ({**answer(tokens()), "usage": {"total_tokens": 18}}, "says that there are 17 or 18"),
        "doubled": (
            {"choices": [{"routed_experts": np.concatenate((tokens(), tokens())).tolist()}],
             "usage": {"prompt_tokens": 20, "completion_tokens": 8}},
            "has 54 tokens",
        ),
        "the prompt twice": (
            {"prompt_routed_experts": tokens()[:5].tolist(), "routed_experts": tokens().tolist()},
            "routed_experts begins with prompt_routed_experts",
        ),
        "a prompt of another length": (
            {"prompt_routed_experts": tokens()[:5].tolist(), "prompt_token_ids": [1, 2, 3]}, "has 5 tokens"
        ),
    }  # fmt: skip
    for case, (response, message) in refused.items():
        write_lines(Path("a.jsonl"), [response])
        _, error = run(capsys, "a.jsonl", *MODEL, *PLACES, "-o", "a.json", *options, code=2)
        assert message in error, case
        assert error.startswith("moeplace import: a.jsonl: line 1: "), case
        assert error.count("\n") == 1, case
        assert not Path("a.json").exists(), case


@pytest.mark.parametrize("options", [[], ["--skip-layers", "24"]])
def test_layers_before_tokens_are_never_taken_for_tokens(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = np.ascontiguousarray(tokens().transpose(1, 0, 2))
    np.savez("s.npz", ids=swapped)
    if not options:
        out, error = run(capsys, "s.npz", *MODEL, *PLACES, "-o", "s.json")
        assert "27 tokens" in out
        assert error == "note: s.npz: ids [3, 27, 2] is read as [layers, tokens, k]\n"
        return
    _, error = run(capsys, "s.npz", *MODEL, *PLACES, "-o", "s.json", *options, code=2)
    assert "its first axis has the model's 3 layers, so it may be [layers, tokens, k]" in error
    # Three tokens of 27 layers are possible, and an array with the requests' lengths says so.
    np.savez("s.npz", ids=swapped, lengths=np.array([1, 2]))
    out, _ = run(capsys, "s.npz", *MODEL, *PLACES, "-o", "s.json", *options)
    assert "3 tokens" in out


def test_a_square_array_is_said_to_be_one() -> None:
    np.savez("square.npz", experts=tokens()[:LAYERS])
    trace = open_trace("square.npz", SHAPE)
    trace.requests()
    assert trace.notes == ["experts [3, 3, 2] is read as [tokens, layers, k]; its shape does not tell"]


def counted(name: str, shape: Shape = SHAPE, reading: Reading | None = None) -> tuple[list[Any], Report]:
    """Return the rows of a trace with one user as lists, and the report."""
    report = Report()
    counts, _ = count_traces([open_trace(name, shape, reading)], shape, range(1), report=report)
    return [column.tolist() for column in counts.rows()], report


def test_fillers_are_taken_out_and_never_experts() -> None:
    np.savez("plain.npz", experts=tokens())
    expected, _ = counted("plain.npz")
    shared = np.full((27, LAYERS, 1), 8, dtype=np.uint8)
    wider = np.concatenate((tokens(), shared), axis=2)
    np.savez("last.npz", experts=wider)
    np.savez("first.npz", experts=np.concatenate((shared, tokens()), axis=2))
    write_lines(Path("bare.jsonl"), [answer(wider)])
    write_lines(Path("usage.jsonl"), [answer(wider, prompt_tokens=20, completion_tokens=8)])
    for name in ("last.npz", "first.npz", "bare.jsonl", "usage.jsonl"):
        found, report = counted(name, Shape(LAYERS, EXPERTS, TOP_K, fillers=(8,)))
        assert found == expected, name
        assert report.fillers == 27 * LAYERS, name
    # A number that an expert has, too, is a filler in a further column only, where it always stands.
    inside = np.where(wider == 8, 3, wider)
    np.savez("inside.npz", experts=inside)
    assert counted("inside.npz", Shape(LAYERS, EXPERTS, TOP_K, fillers=(3,)))[0] == expected
    inside[4, 1, 2] = 6
    np.savez("inside.npz", experts=inside)
    for name, shape, message in (
        (
            "inside.npz",
            Shape(LAYERS, EXPERTS, TOP_K, fillers=(3,)),
            "token 4, layer 1: .* the last of 3 must be the filler",
        ),
        ("plain.npz", Shape(LAYERS, EXPERTS, TOP_K, fillers=(3,)), "--filler 3 is an expert of the model, too"),
        ("last.npz", Shape(LAYERS, EXPERTS, TOP_K, fillers=(9,)), "are more experts than the model's top_k of 2"),
        ("last.npz", SHAPE, "3 experts, .*one more may be a fused shared expert: --filler names its number"),
    ):
        with pytest.raises(InputError, match=message):
            counted(name, shape)


def test_padding_may_be_a_filler() -> None:
    experts = tokens()
    experts[5:9] = 255
    np.savez("pad.npz", experts=experts)
    _, report = counted("pad.npz", Shape(LAYERS, EXPERTS, TOP_K, fillers=(255,)))
    assert (report.fillers, dict(report.dropped)) == (4 * LAYERS * TOP_K, {"no expert (padding)": 4 * LAYERS})


def test_turns_of_a_conversation_count_their_tokens_once() -> None:
    experts = tokens()
    turns = [{"routed_experts": experts[:n].tolist()} for n in (6, 15, 27)]
    other = {"routed_experts": tokens(2).tolist()}
    write_lines(Path("turns.jsonl"), [turns[0], other, turns[1], turns[2]])
    write_lines(Path("once.jsonl"), [turns[2], other])
    found, report = counted("turns.jsonl")
    assert found == counted("once.jsonl")[0]
    assert report.dropped == {"of tokens that an earlier response has": (6 + 15) * LAYERS}
    assert report.rows == report.counted + report.dropped.total() == (6 + 15 + 27 + 27) * LAYERS
    assert report.notes == [
        "turns.jsonl: 2 responses with the first tokens of an earlier one (turns of one conversation, or several "
        "answers to one prompt): 21 tokens counted once; --recount-turns counts them each time"
    ]
    _, report = counted("turns.jsonl", reading=Reading(recount_turns=True))
    assert (report.counted, report.notes) == ((6 + 15 + 27 + 27) * LAYERS, [])
    # Of other users they are other tokens.
    write_lines(Path("turns.jsonl"), [{**turn, "user": f"u{i}"} for i, turn in enumerate(turns)])
    assert counted("turns.jsonl")[1].counted == (6 + 15 + 27) * LAYERS
    # The same response twice is said; it may be two requests.
    write_lines(Path("twice.jsonl"), [other, other])
    _, report = counted("twice.jsonl")
    assert report.counted == 2 * 27 * LAYERS
    assert report.notes == ["twice.jsonl: 1 response with the same tokens as an earlier one, all counted"]


def test_several_answers_to_one_prompt_count_it_once() -> None:
    first, second = tokens(1), np.concatenate((tokens(1)[:4], tokens(2)[4:9]))
    choices = [{"index": i, "routed_experts": part.tolist()} for i, part in enumerate((first, second))]
    usage = {"prompt_tokens": 4, "completion_tokens": 23 + 5}
    write_lines(Path("n.jsonl"), [{"choices": choices, "usage": usage}])
    _, report = counted("n.jsonl")
    assert (report.counted, report.dropped.total()) == ((27 + 5) * LAYERS, 4 * LAYERS)
    write_lines(Path("n.jsonl"), [{"choices": choices, "usage": {**usage, "completion_tokens": 12}}])
    with pytest.raises(InputError, match="routed_experts has 36 tokens"):
        counted("n.jsonl")


def test_responses_with_a_part_of_the_tokens_are_said() -> None:
    for counts, partly in (
        ({"prompt_tokens": 1, "completion_tokens": 27}, False),
        ({"prompt_tokens": 0, "completion_tokens": 28}, False),
        ({"prompt_tokens": 9, "completion_tokens": 27}, True),
        ({"prompt_tokens": 20, "completion_tokens": 17, "cached_tokens": 10}, True),
    ):
        write_lines(Path("p.jsonl"), [answer(tokens(), **counts)])
        _, report = counted("p.jsonl")
        assert report.counted == 27 * LAYERS
        assert any("the completion alone, or without cached ones" in note for note in report.notes) == partly, counts


def test_an_array_that_stands_in_two_places_counts_once() -> None:
    array = tokens().tolist()
    for response, said in (
        (
            {"meta_info": {"routed_experts": array}, "choices": [{"sgl_ext": {"routed_experts": array}}]},
            "its choice, too",
        ),
        ({"choices": [{"routed_experts": array, "sgl_ext": {"routed_experts": array}}]}, "repeats those before it"),
    ):
        write_lines(Path("two.jsonl"), [response])
        _, report = counted("two.jsonl")
        assert report.counted == 27 * LAYERS
        assert said in report.notes[0]
    end = {"id": "c", "routed_experts": array}
    Path("end.jsonl").write_text("".join(f"data: {json.dumps(end)}\n\n" for _ in range(2)))
    assert counted("end.jsonl")[1].counted == 27 * LAYERS


def test_failed_responses_are_dropped_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    good = responses(tokens(), "lists")
    bad = [
        {"error": {"message": "out of memory", "code": 500}},
        {"id": "x", "choices": [{"index": 0, "finish_reason": "abort", "routed_experts": None}]},
        {"custom_id": "y", "response": {"status_code": 429, "body": None}, "error": None},
    ]
    write_lines(Path("f.jsonl"), [bad[0], *good[:3], bad[1], *good[3:], bad[2]])
    _, error = run(capsys, "f.jsonl", *MODEL, *PLACES, "-o", "f.json", code=2)
    assert error == (
        "moeplace import: f.jsonl: line 1: a failed response: out of memory (--drop-bad-rows drops and counts it)\n"
    )
    out, _ = run(capsys, "f.jsonl", *MODEL, *PLACES, "-o", "f.json", "--drop-bad-rows")
    assert "3 responses without routing dropped" in out
    assert "81 rows of 6 requests" in out
    write_lines(Path("f.jsonl"), bad)
    _, error = run(capsys, "f.jsonl", *MODEL, *PLACES, "-o", "none.json", "--drop-bad-rows", code=2)
    assert "has no response with routed_experts" in error


def test_arrays_without_a_type_and_from_a_later_token_on() -> None:
    part = tokens()
    for kind, name in (("<u1", "uint8"), ("<i2", "int16"), ("<i4", "int32"), ("<i8", "int64")):
        data = {"data": packed(part, kind), "shape": [27, LAYERS, TOP_K], "start": 3}
        write_lines(Path("d.jsonl"), [{"routed_experts": data, "prompt_tokens": 20, "completion_tokens": 11}])
        _, report = counted("d.jsonl")
        assert report.notes == [f"d.jsonl: dtype is missing; {name} by the number of bytes"]
        assert report.counted == 27 * LAYERS
    for change in ({"shape": [28, LAYERS, TOP_K]}, {"start": 5}, {"start": -1}, {"dtype": "text"}, {"shape": 5}):
        write_lines(
            Path("d.jsonl"), [{"routed_experts": {**data, **change}, "prompt_tokens": 20, "completion_tokens": 11}]
        )
        with pytest.raises(InputError, match=r"routed_experts (cannot be decoded|has 32 tokens)"):
            counted("d.jsonl")


def test_columns_by_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"request": "problem_id", "profile": "dataset", "token": "token_idx", "layer": "layer_id", "experts": "ids"}
    options = [
        "--request", "problem_id", "--profile", "dataset", "--token-column", "token_idx", "--layer-column", "layer_id",
        "--expert-column", "ids",
    ]  # fmt: skip
    table = [{names[key]: value for key, value in row.items()} | {"gate": [0.5, 0.5]} for row in rows(tokens())]
    write_lines(Path("trace.jsonl"), table)
    text = [{**row, "ids": " ".join(map(str, row["ids"]))} for row in table]
    single = [{**row, "ids": e} for row in table for e in row["ids"]]
    for name, content in (("text.csv", text), ("single.csv", single)):
        with Path(name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(names.values()), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(content)
    pq.write_table(pa.Table.from_pylist(table), "trace.parquet")
    write_npz(Path("trace.npz"), tokens())
    expected, _ = counted("trace.npz")
    reading = Reading(Columns("dataset", "user", "problem_id", "token_idx", "layer_id", "ids"))
    for name in ("trace.jsonl", "text.csv", "single.csv", "trace.parquet"):
        found, report = counted(name, reading=reading)
        assert found == expected, name
        assert report.requests == len(LENGTHS), name
    _, error = run(capsys, "trace.jsonl", *MODEL, *PLACES, "-o", "o.json", *options)
    assert error == "note: trace.jsonl: columns that are not read: gate\n"


def test_a_wrong_top_k_of_counted_rows_is_seen() -> None:
    write_runs(Path("t.csv"), tokens())
    with pytest.raises(InputError, match="rows, no multiple of the model's top_k of 3"):
        counted("t.csv", Shape(LAYERS, EXPERTS, 3))
    four = np.argsort(np.random.default_rng(1).random((27, LAYERS, EXPERTS)), axis=2)[:, :, :4]
    write_runs(Path("t.csv"), four)
    _, report = counted("t.csv")
    assert report.counted == 2 * 27 * LAYERS
    assert report.notes[-1] == "t.csv: every run of a layer has a multiple of 4 rows: is the model's top_k really 2?"


def test_lines_that_are_no_rows_are_left_out_and_counted() -> None:
    table = [{"layer": row["layer"], "expert_ids": row["experts"]} for row in rows(tokens())]
    write_lines(Path("t.jsonl"), [{"label": "prompt"}, *table[:9], {"label": "answer"}, *table[9:]])
    _, report = counted("t.jsonl", reading=Reading(Columns(experts="expert_ids")))
    assert report.counted == 81
    assert report.notes[-1] == "t.jsonl: 2 lines without a layer and experts left out"


def test_text_with_line_ends_and_marks_of_byte_order() -> None:
    table = rows(tokens())
    write_lines(Path("plain.jsonl"), table)
    expected, _ = counted("plain.jsonl")
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([["token", "layer", "text", "experts", "request"]])
    writer.writerows(
        [r["token"], r["layer"], 'says "a\nb"' * (i % 3), r["experts"], r["request"]] for i, r in enumerate(table)
    )
    for size in (150, 4000, 1 << 24):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(common, "CHUNK_BYTES", size)
            Path("text.csv").write_bytes(text.getvalue().encode("utf-8-sig"))
            assert counted("text.csv")[0] == expected
            Path("mark.jsonl").write_bytes(Path("plain.jsonl").read_text().encode("utf-8-sig"))
            assert counted("mark.jsonl")[0] == expected


def test_a_model_of_one_layer_may_be_a_flat_array() -> None:
    one = Shape(1, EXPERTS, TOP_K)
    np.save("flat.npy", tokens()[:, 1])
    np.savez("named.npz", data=tokens()[:, 1], lengths=np.array([20, 7]))
    np.savez("deep.npz", experts=tokens()[:, 1:2])
    assert counted("flat.npy", one)[0] == counted("named.npz", one)[0] == counted("deep.npz", one)[0]


@looped("seed", range(200))
def test_lines_read_in_blocks_and_one_by_one_are_the_same(seed: int) -> None:
    """Whatever is changed in a file: the compiled loop gives what the careful reader gives, or leaves it to it."""
    rng = np.random.default_rng(seed)
    unread = {"note": 'a \\ "b"', "gate": [[0.5, {"x": "]"}], None]}
    table = [{**row, **unread, "user": "\u00e9va"} for row in rows(tokens())[:12]]
    data = bytearray("".join(json.dumps(row) + "\n" for row in table).encode())
    for _ in range(seed % 3):
        at = int(rng.integers(len(data)))
        # Of nested values that nobody reads only brackets and strings are looked at.
        begin = data.find(b'"gate"', data.rfind(b"\n", 0, at) + 1)
        if not begin <= at < data.find(b'"user"', begin):
            data[at : at + int(rng.integers(2))] = bytes(
                rng.choice(list(b'{}[]":,0123456789-.e \t\r\n\\ntfa'), 1).tolist()
            )
    Path("t.jsonl").write_bytes(data)
    trace = json_lines._RowLines("t.jsonl", SHAPE)
    try:
        layout = trace._row_layout()
    except (InputError, StopIteration):
        return
    fast = json_lines._Fast(layout, trace.label_names, SHAPE.width, experts=True)
    frame = fast.frame(1, data.count(b"\n") + 1, bytes(data))
    if seed % 3 == 0:
        assert frame is not None
    if frame is None:
        return
    slow = trace._checked([(n, v) for n, v, _ in json_lines._objects(trace)], layout, experts=True)
    for name in ("token", "layer", "experts", "line"):
        assert np.array_equal(getattr(frame, name), getattr(slow, name)), name
    for mine, other in zip(frame.labels, slow.labels, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert [mine[i] for i in range(len(mine.code))] == [other[i] for i in range(len(other.code))]
