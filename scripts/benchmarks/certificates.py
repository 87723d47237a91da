"""Benchmark of certificates: what ``auto`` proves of whole sets, by what kind of proof, and what verifying it takes.

One thread; processor seconds, so that a busy machine changes little. A row each, and a line on top of each set::

    python scripts/benchmarks/certificates.py [--time-limit 20] [-o docs/benchmarks/certificates.md] tiny small

A set that is named is measured anew, the others stay on the page.
"""

from __future__ import annotations

import gzip
import json
import time
from datetime import date
from pathlib import Path

import click
from pages import machine, table, write

import moeplace
from moeplace.base.documents import parse
from moeplace.base.errors import NoSolutionError
from moeplace.caching.certificates import ActiveCuts, CachingCertificate, Layers
from moeplace.caching.verification import verify
from moeplace.library import instances_folder
from moeplace.solving import certified

HEAD = """# Certificates: what is verified, and what that takes

Written by `scripts/benchmarks/certificates.py`, each set by a run of its own. `auto` on one thread; its certificate is
read back from its file and verified by the code that `moeplace check` runs ([certificates](../certificates.md)).
Seconds are those of the processor: of the whole method, with its search for placements, and of verifying. "layers,
merged" is a proof by layers whose plans were listed and merged, "layers" one by what they are worth at most, "cuts" one
of cuts for each number of active experts. The ratio is the certified one, saving to bound on the saving.
"""


def kind(proof: object) -> str:
    """Say what a proof is."""
    if isinstance(proof, Layers):
        return "layers, merged" if proof.merge else "layers"
    if isinstance(proof, ActiveCuts):
        return "cuts"
    return type(proof).__name__.lower()


def row(name: str, path: Path, time_limit: float) -> list[str]:
    """Solve an instance, verify what is proven of it."""
    instance = moeplace.load(path)
    began = time.process_time()
    solution, certificate = certified(instance, "auto", time_limit=time_limit)
    solved = time.process_time() - began
    assert certificate is not None
    data = certificate.to_json()
    certificate = parse(json.loads(data), CachingCertificate)
    began = time.process_time()
    found = verify(instance, certificate)
    verified = time.process_time() - began
    said = "trusting nothing" if found.ok and found.trusted is None else found.trusted or found.problems[0]
    ratio = "1" if solution.objective.saving_ratio == 1 else f"{solution.objective.saving_ratio:.7f}"
    size = f"{len(gzip.compress(data)) / 1000:.1f}"
    return [name, ratio, kind(certificate.proof), said, size, f"{solved:.2f}", f"{verified:.2f}"]


@click.command(help=__doc__)
@click.argument("sets", nargs=-1)
@click.option("--match", default="*", help="Only instances whose names match.")
@click.option("--time-limit", default=20.0, show_default=True)
@click.option("-o", "output", type=Path, default=Path("docs/benchmarks/certificates.md"), show_default=True)
def main(sets: tuple[str, ...], match: str, time_limit: float, output: Path) -> None:
    """Measure sets and write their sections."""
    # Compiling is no part of any time.
    row("first", next(iter(sorted((instances_folder() / "small").glob("small_*.json*")))), 60)
    sections = {}
    for name in sets:
        rows = []
        for path in sorted((instances_folder() / name).glob(f"{match}.json*")):
            if path.name == "best_known.json":
                continue
            try:
                rows.append(row(path.name.split(".json")[0], path, time_limit))
            except NoSolutionError as error:
                rows.append([path.name.split(".json")[0], "", "", str(error), "", "", ""])
            click.echo(" ".join(rows[-1]))
        mine = [line for line in rows if line[3] == "trusting nothing"]
        solved, verified = (sum(float(line[at]) for line in mine) for at in (5, 6))
        sections[name] = "\n\n".join(
            [
                f"{date.today()}, {time_limit:g} s each. {len(mine)} of {len(rows)} are verified trusting nothing, "
                f"{sum(line[1] == '1' for line in mine)} of these as optimal; verifying took {verified:.1f} s of the "
                f"processor, solving {solved:.1f}.",
                machine("numba"),
                table(["instance", "ratio", "proof", "verified", "kB (gzip)", "s solving", "s verifying"], rows),
            ]
        )
        write(output, sections, ["tiny", "small", "collaboration", "joint", "medium", "large", "real"], HEAD)


if __name__ == "__main__":
    main()
