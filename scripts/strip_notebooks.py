"""Take outputs, counts and metadata out of the teaching notebooks, as they are kept in git.

    python scripts/strip_notebooks.py [FILE...]

Without names all of ``notebooks/``. A test fails where it has been forgotten.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat

from moeplace.base.files import write_bytes

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def stripped(notebook: Any) -> Any:
    """Return a notebook without outputs; the names of its cells count them."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def main(names: list[str]) -> None:
    """Strip notebooks, and say which have changed."""
    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        after = nbformat.writes(stripped(nbformat.reads(before, as_version=4))) + "\n"
        if after != before:
            write_bytes(path, after.encode())
            print(f"{path.name}: stripped")


if __name__ == "__main__":
    main(sys.argv[1:])
