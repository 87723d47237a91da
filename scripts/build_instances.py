#!/usr/bin/env python3
"""Build a shipped instance set again, bit for bit: ``python scripts/build_instances.py SET``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instance_sets import active, collaboration, joint, real, serverless, small, tiny

from moeplace import Instance
from moeplace.base.errors import MoeplaceError
from moeplace.caching.scenarios.suites import generate, read_suite

ROOT = Path(__file__).resolve().parent.parent
SUITES = ("medium", "large")
"""Sets that ``instances/SET/suite.toml`` describes."""

MEASURED = ("real", "collaboration", "active", "serverless", "joint")
"""Sets that need the raw traces."""

ZIPPED_NAMES = ("gpt-oss-20b_short", "gpt-oss-20b_long", "deepseek-v2-lite_short", "deepseek-v2-lite_long")
"""Of the serverless set, whose instances have rows by layers."""

ZIPPED_ROWS = 15_000
"""Instances with more activation rows than this are written as ``.json.gz``."""


def instances(set_name: str, realdata: Path, only: list[str]) -> Iterator[Any]:
    """Yield the instances of a set; with ``only``, those of these names (all where it is empty)."""
    if set_name in SUITES:
        path = ROOT / "instances" / set_name / "suite.toml"
        for name, scenario in read_suite(path)[1].items():
            if not only or name in only:
                yield generate(scenario, path.parent)
        return
    if set_name == "active":
        yield from (made for made in active.instances(realdata) if not only or made.name in only)
        return
    if set_name == "serverless":
        yield from serverless.instances(realdata, only)
        return
    written = {"tiny": tiny, "small": small, "collaboration": collaboration, "joint": joint}
    for document in written[set_name].documents() if set_name in written else ():
        if not only or document["name"] in only:
            yield Instance.from_document(document)
    measured = {"real": real, "collaboration": collaboration, "joint": joint}
    for recipe in measured[set_name].RECIPES if set_name in measured else ():
        if not only or recipe.name in only:
            yield measured[set_name].make(recipe, realdata)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build a shipped instance set again, bit for bit.")
    parser.add_argument("set", choices=["tiny", "small", *SUITES, *MEASURED])
    parser.add_argument("instances", nargs="*", help="names (default: all of the set)")
    parser.add_argument(
        "--realdata",
        type=Path,
        default=ROOT.parent / "shared" / "realdata",
        help="folder with the raw traces, positions and networks (measured routing only)",
    )
    parser.add_argument("-o", "--output", type=Path, help="folder to write to (default: instances/SET)")
    options = parser.parse_args(arguments)
    output = options.output or ROOT / "instances" / options.set
    if options.set in MEASURED and not options.realdata.is_dir():
        print(f"{options.realdata}: no such folder; --realdata names the one with the raw data", file=sys.stderr)
        return 2
    output.mkdir(parents=True, exist_ok=True)
    built = set()
    try:
        for instance in instances(options.set, options.realdata, options.instances):
            large = isinstance(instance, Instance) and len(instance.rows) > ZIPPED_ROWS
            zipped = options.set in SUITES or large or instance.name.startswith(ZIPPED_NAMES)
            ending = ".json.gz" if zipped else ".json"
            path = output / (instance.name + ending)
            instance.save(path)
            built.add(instance.name)
            print(f"{path}: {instance.sha256}", flush=True)
    except MoeplaceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if missing := set(options.instances) - built:
        print(f"no instance of the set: {', '.join(sorted(missing))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
