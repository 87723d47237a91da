"""The examples of the documentation do what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import moeplace
from moeplace import Instance

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are in the checkout only")


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_python_example_of_the_readme(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (code,) = blocks("README.md", "python")
    (tmp_path / "instances").symlink_to(ROOT / "instances")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert moeplace.read_solution("solution.json").objective.gap == 0.0


def test_the_method_of_the_contributing_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (code,) = blocks("CONTRIBUTING.md", "python")
    (tmp_path / "own_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    instance = moeplace.load(ROOT / "instances/tiny/tiny_two_servers_share.json")
    solution = moeplace.solve(instance, "own_method:random_fill", seed=3)
    assert moeplace.check(instance, solution).ok
    assert solution.status.termination == "completed"


def test_the_method_of_the_benchmarking_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from moeplace.bench.records import read_run
    from moeplace.cli import main

    (code,) = blocks("docs/benchmarking.md", "python")
    assert len(code.splitlines()) <= 21
    monkeypatch.chdir(tmp_path)
    Path("own_method.py").write_text(code)
    (toml,) = blocks("docs/benchmarking.md", "toml")
    Path("methods.toml").write_text(toml.replace("my_module:my_method", "own_method:most_requested"))
    methods = ["--methods", "own_method:most_requested[reach=2],cpsat", "--methods-file", "methods.toml"]
    assert main(["bench", "tiny", *methods, "--time-limit", "20", "--workers", "1", "-o", "run"]) == 0
    data = read_run("run")
    assert len(data.records) == 4 * 8
    assert {record.status for record in data.records} == {"ok"}
    own = [r for r in data.records if r.method == "own_method:most_requested[reach=2]"]
    assert any(r.latency_ns < r.baseline_ns for r in own)  # it caches something
    assert all(r.latency_ns >= data.best_bound(r.sha256)[0] for r in own)


def test_the_documents_of_the_formats_page() -> None:
    instance_document, solution_document = blocks("docs/formats.md", "json")
    instance = Instance.from_document(json.loads(instance_document))
    stated = json.loads(solution_document)
    stated["instance"]["sha256"] = instance.sha256
    from moeplace.documents import parse

    solution = parse(stated, moeplace.Solution)
    assert moeplace.check(instance, solution).violations == ()
    assert moeplace.solve(instance).objective == solution.objective


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/formulation.md",
        "docs/formats.md",
        "docs/benchmarking.md",
        "docs/reporting.md",
        "instances/README.md",
    ],
)
def test_links_lead_somewhere(file: str) -> None:
    page = ROOT / file
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link
