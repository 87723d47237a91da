"""What the benchmark scripts share in writing their pages: tables, the line about the machine, sections, files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ages import stamp

from moeplace.base.files import write_bytes


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machine(*packages: str, threads: str = "") -> str:
    """Return the machine, versions, what was measured (:func:`ages.stamp`), and how busy the machine is, in a line."""
    # Not above: the importing benchmark measures the memory of processes that import this module and write no page.
    from moeplace.bench import environment

    here = environment.capture(1)
    versions = ", ".join(f"{name} {version(name)}" for name in ("moeplace", *packages))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"*{here.cpu or here.machine}, {here.cores} cores, {here.system}; "
        f"Python {here.python}, {versions}; {stamp(here)}. "
        f"{threads + '; load' if threads else 'Load'} of the machine over the last 1, 5 and 15 minutes: {load}.*"
    )


def save(path: Path, text: str) -> None:
    """Write a page, its folder too; a page is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())


def write(path: Path, sections: dict[str, str], titles: list[str], head: str) -> None:
    """Replace sections in a Markdown file, which has a head and those of the titles, in their order."""
    old = path.read_text() if path.exists() else head
    _, *parts = old.split("\n## ")
    kept = {title: body for title, _, body in (part.partition("\n") for part in parts)} | sections
    save(path, head + "".join(f"\n## {t}\n\n{kept[t].strip()}\n" for t in titles if t in kept))
