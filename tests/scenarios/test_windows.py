"""``import --windows``: every request in the window in which it begins, in every form of trace; nothing lost unsaid."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import moeplace
from moeplace.cli import main

LAYERS, EXPERTS, TOP_K, USERS = 2, 6, 2, ("ann", "bob", "cy")
MODEL = ["--layers", "2", "--experts", "6", "--top-k", "2", "--expert-bytes", "1000", "--hidden-size", "64"]
PLACES = ["--stations", "2", "--users", "3", "--capacity", "50"]
LENGTHS = [3, 1, 4, 2, 2, 5, 1, 3]
TIMES = [0, 5, 9, 10, 19, 20, 29, 30]
"""When the requests begin: windows of ten have 3, 2 and 3 of them, since the last one has its end."""
WHOSE = [0, 1, 0, 1, 1, 2, 0, 2]

Run = Any


def tokens() -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.argsort(rng.random((sum(LENGTHS), LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K]


def rows(times: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the trace in long form; tokens of a request come later than it begins."""
    start, experts = np.cumsum([0, *LENGTHS]), tokens()
    return [
        {
            "request": f"r{r}", "user": USERS[WHOSE[r]], "time": times[r], "token": t, "layer": layer,
            "experts": experts[start[r] + t, layer].tolist(),
        }
        for r, length in enumerate(LENGTHS) for t in range(length) for layer in range(LAYERS)
    ]  # fmt: skip


def write_csv(path: Path, times: Sequence[Any]) -> None:
    table = rows(times)
    lines = [",".join(" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in row.values()) for row in table]
    path.write_text("\n".join([",".join(table[0]), *lines, ""]))


def write_lines(path: Path, times: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(times)))


def write_parquet(path: Path, times: Sequence[Any]) -> None:
    dates = [datetime.fromtimestamp(t, UTC) for t in times]
    pq.write_table(pa.Table.from_pylist(rows(dates)), path)


def write_arrays(path: Path, times: Sequence[Any]) -> None:
    labels = {"user": np.array([USERS[u] for u in WHOSE]), "time": np.array(times, dtype=float)}
    np.savez(path, experts=tokens(), lengths=np.array(LENGTHS), **labels)


def write_responses(path: Path, times: Sequence[Any]) -> None:
    start, experts = np.cumsum([0, *LENGTHS]), tokens()
    path.write_text(
        "".join(
            json.dumps(
                {
                    "user": USERS[WHOSE[r]],
                    "created": times[r],
                    "choices": [{"index": 0, "routed_experts": experts[start[r] : start[r + 1]].tolist()}],
                }
            )
            + "\n"
            for r in range(len(LENGTHS))
        )
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        assert main(["import", *arguments, *MODEL, *PLACES]) == code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def counted(paths: Sequence[str]) -> Counter[Any]:
    """Count the rows of instances, by user, layer and experts."""
    found: Counter[Any] = Counter()
    for path in paths:
        document = moeplace.load(path).document()
        columns = document["activations"]
        for d, layer, experts, count in zip(*(columns[key] for key in columns), strict=True):
            found[document["demands"][d]["user"], layer, tuple(experts)] += count
    return found


def expected(requests: Sequence[int]) -> Counter[Any]:
    start, experts = np.cumsum([0, *LENGTHS]), tokens()
    return Counter(
        (USERS[WHOSE[r]], layer, tuple(sorted(experts[t, layer].tolist())))
        for r in requests
        for t in range(start[r], start[r + 1])
        for layer in range(LAYERS)
    )


WINDOWS = [[0, 1, 2], [3, 4], [5, 6, 7]]


def test_every_form_of_trace_is_cut_alike(run: Run) -> None:
    dates = [f"2026-01-01T00:00:{t:02}" for t in TIMES]
    forms = {
        "a.csv": (write_csv, TIMES), "b.jsonl": (write_lines, [t / 4 for t in TIMES]),
        "c.parquet": (write_parquet, TIMES), "d.npz": (write_arrays, TIMES), "e.jsonl": (write_responses, TIMES),
        "f.csv": (write_csv, dates),
    }  # fmt: skip
    for file, (write, times) in forms.items():
        write(Path(file), times)
        out, err = run(file, "--windows", "3", "--name", "day", "-o", "day.json.gz")
        assert "3 windows of equal length; a request counts whole in the one in which it begins" in err, file
        paths = [f"day_w0{w}.json.gz" for w in (1, 2, 3)]
        first = moeplace.load(paths[0])
        for w, path in enumerate(paths):
            assert counted([path]) == expected(WINDOWS[w]), (file, path)
            instance = moeplace.load(path)
            assert instance.name == f"day_w0{w + 1}"
            assert (instance.servers, instance.models) == (first.servers, first.models)
            assert [d.user for d in instance.demands] == list(USERS)  # also those without a row here
            assert (instance.server_ns == first.server_ns).all()
            asked = Counter[str]()
            for r in WINDOWS[w]:
                asked[USERS[WHOSE[r]]] += LENGTHS[r]
            assert instance.tokens.tolist() == [max(1, asked[user]) for user in USERS], (file, path)
            assert instance.source["window"] == f"{w + 1} of 3"
            assert instance.source["requests"] == len(WINDOWS[w])
            assert instance.source["window_begin"] < instance.source["window_end"] or file == "b.jsonl"
        assert out.count("written to day_w0") == 3
        assert not Path("day.json.gz").exists()
        whole = file + ".json"
        _, err = run(file, "-o", whole)
        assert counted([whole]) == counted(paths)


def test_what_is_said_of_windows(run: Run) -> None:
    write_csv(Path("a.csv"), ["" if t == 9 else t for t in TIMES])
    out, err = run("a.csv", "--windows", "5", "-o", "day.json", "--json")
    assert "1 request without a time in 'time' left out" in err
    said = json.loads(out)
    assert said["untimed"] == 1
    assert [w["requests"] for w in said["windows"]] == [2, 1, 0, 2, 2]
    assert "window 3 of 5 has no request" in err
    assert [w["begin"] for w in said["windows"]] == ["0", "6", "12", "18", "24"]
    assert [w["output"] for w in said["windows"]] == [f"day_w0{w}.json" for w in range(1, 6)]
    assert sum(w["rows"] for w in said["windows"]) == said["counted"] == 2 * (sum(LENGTHS) - 4)
    assert len(moeplace.load("day_w03.json").rows) == 0
    out, _ = run("a.csv", "--windows", "5", "-o", "day.json")
    assert ["1", "0", "6", "2", "8", "4", "2"] in [line.split() for line in out.splitlines()]
    assert "8 rows of requests that were not selected or say no time" in out


def test_without_times_the_order_cuts_into_equal_rows(run: Run) -> None:
    write_lines(Path("a.jsonl"), TIMES)
    table = [{key: value for key, value in row.items() if key != "time"} for row in rows(TIMES)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    out, err = run("a.jsonl", "--windows", "3", "-o", "day.json")
    # Tokens 0 to 20 of 21; windows begin at 7 and 14. Request 2 has tokens 4 to 7, request 5 has 12 to 16.
    assert "no time in the trace: cut by order, 3 windows of equally many rows; 2 requests over an edge" in err
    for w, requests in enumerate([[0, 1, 2], [3, 4, 5], [6, 7]], 1):
        assert counted([f"day_w0{w}.json"]) == expected(requests)
    assert "from" not in out


def test_windows_of_a_part_are_of_the_requests_that_count(run: Run) -> None:
    write_csv(Path("a.csv"), TIMES)
    for part in ([], ["--rest"]):
        run("a.csv", "--windows", "2", "--fold", "1/2", *part, "-o", f"half{len(part)}.json")
    paths = [f"half{rest}_w0{w}.json" for rest in (0, 1) for w in (1, 2)]
    assert counted(paths) == expected(range(8))


def test_what_cannot_be_cut_is_refused(run: Run) -> None:
    for times, options, said in (
        ([7] * 8, [], "all requests begin at the same time, 7"),
        (["soon"] * 8, [], "no request has a time in 'time': found \"soon\""),
        ([*TIMES[:-1], "2026-01-01"], [], "times of two kinds in 'time': numbers and dates"),
        (TIMES, ["--time-column", "when"], "no column when"),
    ):
        write_csv(Path("a.csv"), times)
        _, err = run("a.csv", "--windows", "2", *options, "-o", "day.json", code=2)
        assert said in err, err
        assert err.count("\n") == 1
    _, err = run("a.csv", "--time-column", "time", "-o", "day.json", code=2)
    assert "--time-column: is used together with --windows only" in err
    write_responses(Path("b.jsonl"), TIMES)
    _, err = run("b.jsonl", "--windows", "2", "--time-column", "when", "-o", "day.json", code=2)
    assert "no request has a time in 'when'" in err
    Path("day_w02.json").mkdir()
    _, err = run("b.jsonl", "--windows", "2", "-o", "day.json", code=2)
    assert not [path for path in Path().glob("day*") if path.is_file()]
