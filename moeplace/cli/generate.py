"""``moeplace generate``: an instance made of a model, places, routing and storage; or a family of them."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from msgspec import Meta, Struct

from moeplace.cli import one_line
from moeplace.cli.options import check_output, file_name
from moeplace.errors import InputError
from moeplace.scenarios.suites import Scenario, generate_suite, read_suite
from moeplace.scenarios.topology import Links

if TYPE_CHECKING:
    from moeplace import Instance

SECTIONS = {
    "Models": ("models", "layers", "experts", "top_k", "expert_bytes", "hidden_size", "sizes"),
    "Places": (
        "stations", "site_distance_m", "station_file", "user_file", "box", "network", "cell_radius_m", "access",
    ),
    "Users and routing": (
        "users", "models_per_user", "tokens", "tasks", "main_task", "routing", "device_experts", "latency_model",
    ),
    "Storage": ("capacity", "storage"),
    "Links and computing": Links.__struct_fields__,
    "Output": ("seed", "name", "suite", "output"),
}  # fmt: skip
"""Options in the order of ``--help``; all but the last two are fields of a scenario or its links."""


class _Sectioned(click.Command):
    """A command whose many options are listed under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = {parameter.name: parameter for parameter in self.get_params(ctx)}
        for heading, names in SECTIONS.items():
            records = (options.pop(name).get_help_record(ctx) for name in names)
            with formatter.section(heading):
                formatter.write_dl([record for record in records if record])
        with formatter.section("Help"):
            formatter.write_dl([r for option in options.values() if (r := option.get_help_record(ctx))])


def _options(kind: type[Struct]) -> Iterable[click.Option]:
    """Yield an option for each field: its type, default and description are those of the field."""
    hints = get_type_hints(kind, include_extras=True)
    for field in kind.__struct_fields__:
        if field == "links":
            continue
        hint = hints[field]
        if get_origin(hint) in (Union, types.UnionType):  # ... or None
            hint = get_args(hint)[0]
        plain, *notes = get_args(hint)
        text = next(note.description for note in notes if isinstance(note, Meta))
        default = getattr(kind(), field)
        shape: dict[str, Any] = {"type": plain, "metavar": {int: "N", float: "X", str: "TEXT"}.get(plain)}
        if get_origin(plain) is Literal:
            shape = {"type": click.Choice(get_args(plain))}
        elif field == "box":
            shape = {"type": float, "nargs": 4, "metavar": "S W N E"}
        elif field == "models":
            shape = {"type": str, "multiple": True, "metavar": "NAME"}
        elif field.endswith("file") or field == "network":
            shape = {"type": file_name, "metavar": "FILE"}
        many = "  [repeatable]" if field == "models" else ""
        shown = "" if default in (None, []) else f"  [default: {default:g}]" if isinstance(default, float) else None
        shown = f"  [default: {default}]" if shown is None else shown
        name = "--model" if field == "models" else "--" + field.replace("_", "-")
        yield click.Option([name, field], default=None, help=f"{text}.{shown}{many}", **shape)


def _scenario_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (*_options(Scenario), *_options(Links)):
        command.__dict__.setdefault("__click_params__", []).append(option)
    return command


@click.command(
    cls=_Sectioned,
    epilog="The same options give the same file everywhere. docs/scenarios.md explains the latencies, the names and "
    "suite files. Exit codes: 0 done, 2 bad usage or input (nothing is written).",
)
@_scenario_options
@click.option("--suite", type=file_name, metavar="FILE", help="Make all instances that this TOML file describes.")
@click.option(
    "-o",
    "--output",
    type=file_name,
    metavar="FILE",
    help="Where the instance goes (.json or .json.gz); with --suite the folder for all.  [required]",
)
def generate(suite: str | None, output: str | None, **values: Any) -> None:
    r"""Make an instance: models of the catalogue (or a shape of its own), places, routing, storage.

    Stations and users are generated, or read from CSV files of positions, or stand around the nodes of a GraphML
    network.

    \b
    moeplace generate --model qwen3-30b --stations 10 --users 100 --seed 3 -o qwen3.json.gz
    moeplace generate --model olmoe-1b-7b:int8 --network Abilene.graphml -o abilene.json.gz
    moeplace generate --layers 4 --experts 8 --top-k 2 --expert-bytes 1000000 -o small.json
    moeplace generate --suite family.toml -o family/
    """
    given = {key: value for key, value in values.items() if value not in (None, ())}
    if output is None:
        raise InputError("the option -o is missing: where the instance goes")
    if suite is not None:
        if given:
            names = ", ".join(_option(key) for key in given)
            raise InputError(f"with --suite the file says everything; {names} cannot be given, too")
        _write_suite(suite, output)
        return
    check_output(output)
    instance = _generate(given)
    instance.save(output)
    click.echo(_said(instance, output))


def _generate(given: dict[str, Any]) -> Instance:
    from moeplace.documents import parse
    from moeplace.scenarios import suites

    document: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in given.items()
        if key not in Links.__struct_fields__
    }
    document["links"] = {key: value for key, value in given.items() if key in Links.__struct_fields__}
    try:
        return suites.generate(parse(document, Scenario))
    except InputError as error:
        if error.file or not error.place:
            raise
        # The document is this function's; people know the options.
        raise InputError(error.message, place=_option(error.place.removeprefix("links."))) from None


def _option(place: str) -> str:
    key = place.partition("[")[0]
    return "--model" if key == "models" else "--" + key.replace("_", "-")


def _write_suite(suite: str, output: str) -> None:
    from moeplace.errors import OutputError

    read_suite(suite)  # whatever is wrong with it is said before a folder is made
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from None
    for instance in generate_suite(suite):
        path = folder / f"{instance.name}.json.gz"
        instance.save(path)
        click.echo(_said(instance, str(path)))


def _said(instance: Instance, path: str) -> str:
    from moeplace.cli.solve import headline

    return one_line(f"{headline(instance)}; sha256 {instance.sha256[:12]}, written to {path}")
