"""Write the teaching notebooks as students get them: with the exercises, without the worked answers.

    python scripts/student_notebooks.py [FOLDER]

Without a name into ``build/students``. The documentation site offers them beside those with answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
ANSWERS = "## Worked answers"
ROOM = {
    "cell_type": "code",
    "execution_count": None,
    "id": "answers",
    "metadata": {},
    "outputs": [],
    "source": ["# Your answers"],
}


def without_answers(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook that ends before its answers, with a cell to begin in.

    Parameters
    ----------
    notebook : dict
        A notebook's JSON; its last heading is that of the answers.

    Raises
    ------
    ValueError
        There is no such heading, or more than one: answers would be handed out.
    """
    at = [i for i, cell in enumerate(notebook["cells"]) if ANSWERS in "".join(cell["source"]).splitlines()]
    if len(at) != 1:
        raise ValueError(f"expected one heading {ANSWERS!r}, found {len(at)}")
    cells, last = notebook["cells"][: at[0]], notebook["cells"][at[0]]
    before = "".join(last["source"]).split(ANSWERS)[0].rstrip()
    if before:
        cells.append(last | {"source": before.splitlines(keepends=True)})
    return notebook | {"cells": [*cells, ROOM]}


def write(folder: Path) -> list[Path]:
    """Write the students' version of every notebook; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        try:
            notebook = without_answers(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from None
        target = folder / f"{path.stem}_exercises.ipynb"
        target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(target)
    return written


if __name__ == "__main__":
    for made in write(Path(*sys.argv[1:2]) if sys.argv[1:] else NOTEBOOKS.parent / "build" / "students"):
        print(made)
