"""Which benchmark pages are older than what the methods do today.

    python scripts/benchmarks/ages.py

``docs/benchmarks/counts.csv`` changes whenever a method does something else on a fixed instance. Every page is written
with the hash of that table (:func:`stamp`), so that a page with another hash, or a section without any, was measured
with other methods. Exit code 1 where there is such a page; the documentation says it at the head of the page.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moeplace.bench.records import Environment

DOCS = Path(__file__).resolve().parents[2] / "docs"
MEASURED = ("benchmark/index", "benchmarks/certified", "benchmarks/collaboration", "benchmarks/exact",
            "benchmarks/heuristics", "benchmarks/split")  # fmt: skip
"""Pages whose figures are those of methods that the table counts."""

_STAMP = re.compile(r"commit \w+\+? of (\d{4}-\d\d-\d\d), counts ([0-9a-f]{8})")


def counts(docs: Path = DOCS) -> str:
    """Return the hash of the table of counts, 8 hexadecimal digits."""
    return hashlib.sha256((docs / "benchmarks" / "counts.csv").read_bytes()).hexdigest()[:8]


def stamp(here: Environment) -> str:
    """Return what is written on a page: the commit (with ``+`` where files differed), the date, the hash of the counts.

    Parameters
    ----------
    here : moeplace.bench.records.Environment
        Where it was measured.
    """
    commit = "unknown" if here.commit is None else here.commit[:7] + "+" * bool(here.dirty)
    return f"commit {commit} of {here.started[:10]}, counts {counts()}"


def older(page: str, now: str) -> str | None:
    """Say of the text of a page how it is older than the counts ``now``; None where it is not."""
    found = _STAMP.findall(page)
    dates = sorted(date for date, table in found if table != now)
    if not found:
        return "Measured before the last change of what the methods do; a new run gives other figures."
    if not dates:
        return None
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    which = "All" if len(dates) == len(found) else f"{len(dates)} of {len(found)} sections"
    return f"{which} measured {when}, before the last change of what the methods do; a new run gives other figures."


def note(name: str, text: str, docs: Path = DOCS) -> str:
    """Return the text of a page of the documentation, with a note below its title where it is older."""
    said = older(text, counts(docs)) if name in MEASURED else None
    if said is None:
        return text
    title, _, rest = text.partition("\n")
    return f"{title}\n\n```{{note}}\n{said}\n```\n{rest}"


def main() -> int:
    """Name the pages that are older than the table of counts."""
    now = counts()
    old = {name: said for name in MEASURED if (said := older((DOCS / f"{name}.md").read_text("utf-8"), now))}
    for name, said in old.items():
        print(f"docs/{name}.md: {said}")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
