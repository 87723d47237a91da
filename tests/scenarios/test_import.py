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

import moeplace
from moeplace.base.errors import InputError
from moeplace.caching.scenarios.importing import Report, Selection, count_traces
from moeplace.cli import main
from moeplace.scenarios.traces import common
from moeplace.scenarios.traces.common import Columns, Shape
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
        monkeypatch.setattr(common, "CHUNK_LINES", 7)
    documents = []
    for trace, report in ((name, Report()), ("trace.npz", Report())):
        counts, _ = count_traces([open_trace(trace, SHAPE)], SHAPE, range(4), report=report)
        documents.append((counts.rows(), counts.tokens, report.profiles, report.requests, report.rows))
    (mine, tokens_mine, *rest_mine), (other, tokens_other, *rest_other) = documents
    assert all((a == b).all() for a, b in zip(mine, other, strict=True))
    assert (tokens_mine == tokens_other).all()
    assert rest_mine == rest_other
    assert rest_mine == [{"law": 2, "code": 1, "poetry": 1}, len(LENGTHS), sum(LENGTHS) * LAYERS]


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
    assert warning in capsys.readouterr().err
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
        "a.csv", "token,layer,expert\n0,0,1\n0,0,2\n0,0,3\n1,0,2\n", "row 1: token 0 has 3 experts at layer 0"
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
    "a response without routing": ("a.jsonl", '{"choices": [{"text": "hi"}]}\n', "nor a response with routed_experts"),
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
    "choices that are no list": ("a.jsonl", '{"choices": 5, "outputs": "x"}\n', "nor a response with routed_experts"),
    "lists for labels in Parquet": (
        "a.parquet", parquet(token=[0], layer=[0], experts=[[1]], user=[["x"]]), "column user holds list"
    ),
    "a heading without end": ("a.csv", "x" * 200_000, "field larger than field limit"),
    "another kind of file": ("a.pt", b"torch", "a pickled dump has to be saved as .npz first"),
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
    count_traces([open_trace("t.jsonl", SHAPE, Columns(profile="task"))], SHAPE, range(4), report=report)
    assert report.profiles == {"law": 2, "code": 1, "poetry": 1}
