"""The teaching notebooks: executed from top to bottom, their assertions included; kept without outputs."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="the notebooks are in the checkout only")

if NOTEBOOKS:
    nbformat = pytest.importorskip("nbformat", reason="the notebooks are run with the extra 'dev'")
    nbclient = pytest.importorskip("nbclient", reason="the notebooks are run with the extra 'dev'")

PATIENCE_S = 900
"""Ends a notebook that would never end: on a quiet machine each takes less than ten seconds."""


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_the_notebook_runs(path: Path, apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in this process, as Python, without a magic; what would be shown is drawn and written out."""
    names: dict[str, Any] = {"__name__": "__main__"}
    drawn = []

    def show() -> None:
        for number in plt.get_fignums():
            plt.figure(number).savefig(io.BytesIO())
            drawn.append(number)
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    notebook = nbformat.read(path, as_version=4)
    with contextlib.redirect_stderr(io.StringIO()) as complaints, contextlib.redirect_stdout(io.StringIO()):
        for i, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                run(cell.source, f"{path.name}, cell {i}", names)
                show()
    assert complaints.getvalue() == ""
    assert drawn


def run(source: str, place: str, names: dict[str, Any]) -> None:
    """Run a cell, and show the value of its last line as Jupyter does."""
    tree = ast.parse(source, place)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, place, "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), place, "eval"), names)
        print(getattr(value, "_repr_html_", value.__repr__)())


@pytest.mark.timeout(PATIENCE_S)
def test_the_first_notebook_runs_in_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=PATIENCE_S, resources={"metadata": {"path": str(tmp_path)}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Jupyter's own event loop
        client.execute()
    complaints = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert complaints == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_stripped_and_teaches(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert text == nbformat.writes(notebook) + "\n", "run python scripts/strip_notebooks.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code), (
        "run python scripts/strip_notebooks.py"
    )
    first = notebook.cells[0].source
    assert first.startswith(f"# {int(path.name[:2])}. ")
    assert "After this notebook you can" in first
    headings = [line for cell in notebook.cells for line in re.findall(r"^## .*", cell.source, re.MULTILINE)]
    assert headings[-2:] == ["## Exercises", "## Worked answers"]
    asserting = sum("assert " in cell.source for cell in code)
    assert asserting >= len(code) / 2, "a notebook checks what it says"
    for cell in notebook.cells:
        assert cell.source.strip(), "an empty cell"


def test_the_page_of_the_site_lists_them_all() -> None:
    page = (FOLDER.parent / "docs" / "notebooks.md").read_text()
    assert re.findall(r"\]\(\.\./notebooks/([\w.]+)\)", page) == [path.name for path in NOTEBOOKS]


@pytest.fixture
def students(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER.parent / "scripts")
    return importlib.import_module("student_notebooks")


def test_students_get_no_answers(students: Any, tmp_path: Path) -> None:
    written = students.write(tmp_path / "new" / "students")
    assert [path.name for path in written] == [f"{path.stem}_exercises.ipynb" for path in NOTEBOOKS]
    for path, source in zip(written, NOTEBOOKS, strict=True):
        notebook, whole = nbformat.read(path, as_version=4), nbformat.read(source, as_version=4)
        nbformat.validate(notebook)
        texts = [cell.source for cell in notebook.cells]
        assert "## Worked answers" not in "\n".join(texts)
        last = next(i for i, cell in enumerate(whole.cells) if "## Worked answers" in cell.source)
        exercises, answers = whole.cells[last].source.split("## Worked answers")
        assert texts[:last] == [cell.source for cell in whole.cells[:last]]
        assert "\n".join(texts).count("## Exercises") == 1
        assert texts[last:] in ([exercises.rstrip(), "# Your answers"], ["# Your answers"])
        for answer in (answers.strip(), *(cell.source for cell in whole.cells[last + 1 :])):
            assert answer not in "\n".join(texts) or not answer


def test_a_notebook_whose_answers_are_not_found_is_refused(students: Any) -> None:
    def notebook(*texts: str) -> dict[str, Any]:
        return {"cells": [{"cell_type": "markdown", "source": text.splitlines(keepends=True)} for text in texts]}

    assert len(students.without_answers(notebook("# 1", "## Worked answers\n\nx"))["cells"]) == 2
    for wrong in (notebook("# 1", "## Answers\n\nx"), notebook("## Worked answers", "## Worked answers")):
        with pytest.raises(ValueError, match="expected one heading"):
            students.without_answers(wrong)
