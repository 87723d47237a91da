#!/usr/bin/env python3
"""Build a shipped instance set again, bit for bit: ``python scripts/build_instances.py tiny|small|real``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instance_sets import real, small, tiny

from moeplace import Instance

ROOT = Path(__file__).resolve().parent.parent
ZIPPED_ROWS = 50_000
"""Instances with more activation rows than this are written as ``.json.gz``."""


def documents(set_name: str, realdata: Path) -> Iterator[dict[str, Any]]:
    """Yield the instance documents of a set."""
    if set_name == "real":
        return real.documents(realdata)
    return tiny.documents() if set_name == "tiny" else small.documents()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build a shipped instance set again, bit for bit.")
    parser.add_argument("set", choices=["tiny", "small", "real"])
    parser.add_argument(
        "--realdata",
        type=Path,
        default=ROOT.parent / "shared" / "realdata",
        help="folder with the raw traces and positions (set real only)",
    )
    parser.add_argument("-o", "--output", type=Path, help="folder to write to (default: instances/SET)")
    options = parser.parse_args(arguments)
    output = options.output or ROOT / "instances" / options.set
    if options.set == "real" and not options.realdata.is_dir():
        print(f"{options.realdata}: no such folder; --realdata names the one with the raw data", file=sys.stderr)
        return 2
    output.mkdir(parents=True, exist_ok=True)
    for document in documents(options.set, options.realdata):
        instance = Instance.from_document(document)
        ending = ".json.gz" if len(instance.rows) > ZIPPED_ROWS else ".json"
        path = output / (instance.name + ending)
        instance.save(path)
        print(f"{path}: {instance.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
