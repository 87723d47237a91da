"""The script that compares counts: it names what differs, and counts the same twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/benchmarks/counts.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the scripts are in the checkout only")


def test_counts_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("counts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    counts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(counts)
    names = ["tiny/tiny_two_servers_share.json", "small/small_l03e06k2_s4_u60_c060_seed19.json"]
    table = tmp_path / "counts.csv"
    assert counts.main(names, table) == 1  # nothing is known yet
    assert counts.main(["--update", *names], table) == 0
    assert counts.main(names, table) == 0
    known = counts.read(table)
    assert {key[1] for key in known} == {
        "layer-enumeration", "concave", "column-generation", "local-search", "successive-greedy"
    }  # fmt: skip
    assert any(known[name, "layer-enumeration", "asked"] for name in names)
    assert known[names[0], "concave", "passes"] > 0
    key = (names[0], "local-search", "cost")
    counts.write(table, known | {key: known[key] + 1})
    capsys.readouterr()
    assert counts.main(names, table) == 1
    assert capsys.readouterr().out.startswith(f"{names[0]} local-search cost: ")
