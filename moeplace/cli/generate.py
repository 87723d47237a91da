"""``moeplace generate``: an instance made of a model, places, routing and storage; or a family of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError
from moeplace.base.text import one_line
from moeplace.caching.scenarios.suites import check_places, generate_suite, read_suite, scenario_models
from moeplace.caching.scenarios.suites import generate as generated
from moeplace.cli import screen
from moeplace.cli.options import DOCUMENT, check_output, file_name
from moeplace.cli.scenario import (
    LINKS,
    named_as_options,
    option_name,
    read_scenario,
    scenario_options,
    sectioned,
    tell_config,
)
from moeplace.scenarios.topology import Links

if TYPE_CHECKING:
    from moeplace import Instance

FEWER = "Fewer active experts"
"""The heading of the options for instances in which layers may use fewer experts."""

SECTIONS = {
    "Models": ("models", "config", "layers", "experts", "top_k", "expert_bytes", "hidden_size", "sizes"),
    "Places": (
        "stations", "site_distance_m", "station_file", "user_file", "box", "network", "unplaced", "cell_radius_m",
        "access", "far_users",
    ),
    "Measured times": ("latency", "cloud_ms", "servers"),
    "Users and routing": (
        "users", "models_per_user", "tokens", "tasks", "main_task", "routing", "device_experts", "latency_model",
    ),
    FEWER: ("ranked", "loss_budget"),
    "Storage": ("capacity", "storage"),
    "Servers without a cloud": ("no_cloud", "gpus_per_station", "layer_slots", "load_gb_per_s", "load_weight"),
    LINKS: Links.__struct_fields__,
    "Output": ("seed", "name", "suite", "output"),
}  # fmt: skip
"""Options in the order of ``--help``; all but the last two are fields of a scenario or its links."""


@click.command(
    cls=sectioned(SECTIONS),
    others={
        "active-experts": "moeplace.cli.generate_active:generate_active",
        "serverless": "moeplace.cli.serverless:generate_serverless",
    },
    epilog="The same options give the same file everywhere. docs/scenarios.md explains the latencies, the names and "
    "suite files. Exit codes: 0 done, 2 bad usage or input (nothing is written).",
)
@scenario_options()
@click.option("--suite", type=file_name, metavar="FILE", help="Make all instances that this TOML file describes.")
@click.option(
    "-o",
    "--output",
    type=file_name,
    metavar="FILE",
    help="Where the instance goes (.json or .json.gz); with --suite the folder for all.  [required]",
)
def generate(suite: str | None, output: str | None, **values: Any) -> None:
    """Make an instance: models (of the catalogue, a config.json, a shape of its own), places, routing, storage.

    Stations and users are generated, or read from CSV files of positions, or stand around the nodes of a network
    (GraphML or SNDlib's JSON); or their times are those that were measured.

    \b
    moeplace generate --model qwen3-30b --stations 10 --users 100 --seed 3 -o qwen3.json.gz
    moeplace generate --model olmoe-1b-7b:int8 --network Abilene.graphml -o abilene.json.gz
    moeplace generate --config config.json --stations 10 --users 100 -o published.json.gz
    moeplace generate --model qwen3-30b --latency latency.csv --servers servers.csv -o measured.json.gz
    moeplace generate --layers 4 --experts 8 --top-k 2 --expert-bytes 1000000 -o small.json
    moeplace generate --suite family.toml -o family/
    """  # noqa: D301 - click looks for a real backspace
    given = {key: value for key, value in values.items() if value not in (None, ())}
    if output is None:
        raise InputError("the option -o is missing: where the instance goes")
    if suite is not None:
        if given:
            names = ", ".join(option_name(key) for key in given)
            raise InputError(f"with --suite the file says everything; {names} cannot be given, too")
        _write_suite(suite, output)
        return
    check_output(output, endings=DOCUMENT)
    scenario = read_scenario(given)
    notes: list[str] = []
    with named_as_options():
        known = scenario_models(scenario)
        instance = generated(scenario, note=notes.append, known=known)
    instance.save(output)
    tell_config(scenario.config, known.published)
    click.echo(said(instance, output))
    for text in notes:
        screen.note(text)
    screen.warn_of(instance)


def _write_suite(suite: str, output: str) -> None:
    from moeplace.base.errors import OutputError

    # Whatever is wrong with it, or with a file it names, is said before a folder is made.
    for scenario in read_suite(suite)[1].values():
        check_places(scenario, Path(suite).parent)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from None
    notes: list[str] = []
    for instance in generate_suite(suite, note=notes.append):
        path = folder / f"{instance.name}.json.gz"
        instance.save(path)
        click.echo(said(instance, str(path)))
        while notes:
            screen.note(f"{instance.name}: {notes.pop(0)}")
        screen.warn_of(instance)


def said(instance: Instance, path: str) -> str:
    """Say what was written, in one line."""
    from moeplace.caching.shown import headline

    return one_line(f"{headline(instance)}; sha256 {instance.sha256[:12]}, written to {path}")
