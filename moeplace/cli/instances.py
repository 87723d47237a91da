"""``moeplace instances``: the library, with what is known of each instance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from moeplace.base.text import NOTHING, gap_percent, number, one_line, size
from moeplace.cli import screen
from moeplace.cli.options import json_option


@click.command()
@click.argument("sets", nargs=-1, metavar="[SET]...")
@json_option
def instances(sets: tuple[str, ...], as_json: bool) -> None:
    """List the instances that come with moeplace, or those of each SET with their sizes.

    A name from this list is accepted wherever a command takes an instance. Gaps are those of the best known placement
    to the best known bound.
    """
    from moeplace.library import instance_files, set_names

    found = [_known(name, path) for name in sets or set_names() for path in instance_files(name)]
    if sets:
        found = [known | _sizes(known["path"]) for known in found]
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    sized = ["model", "servers", "demands", "layers", "experts", "rows"] if sets else []
    table = screen.table("set", "instance", *sized, "file", "gap", right=",".join([*sized[1:], "file", "gap"]))
    for known in found:
        counts = (f"{known[key]:,}" if key in known else NOTHING for key in _COUNTS)  # problems have sizes of their own
        cells = [known.get("latency_model", NOTHING), *counts] if sets else []
        gap = NOTHING if known["bound_ns"] is None else gap_percent(known["gap"])
        table.add_row(known["set"], one_line(known["name"]), *cells, size(known["file_bytes"]), gap)
    proven = sum(known["optimal"] for known in found)
    screen.show(table, "", f"{number(len(found), 'instance')}, {proven} solved to proven optimality")


_COUNTS = ("servers", "demands", "layers", "items", "rows")


def _known(set_name: str, path: Path) -> dict[str, Any]:
    from moeplace.base.result import relative_gap
    from moeplace.library import best_known, instance_name

    name = instance_name(path)
    known = best_known(set_name).get(name)
    latency, bound = (known.latency_ns, known.bound_ns) if known else (None, None)
    return {
        "set": set_name,
        "name": name,
        "path": str(path),
        "file_bytes": path.stat().st_size,
        "latency_ns": latency,
        "bound_ns": bound,
        "gap": None if latency is None else relative_gap(latency, bound),
        "optimal": bool(known and known.optimal),
    }


def _sizes(path: str) -> dict[str, Any]:
    from moeplace.problems import load_with_problem

    problem, instance = load_with_problem(path)
    return {"problem": problem.name, "sha256": instance.sha256, **problem.sizes(instance)}
