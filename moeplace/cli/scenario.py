"""What ``moeplace generate`` and ``moeplace import`` share: the options that describe models, places and storage."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from msgspec import Meta, Struct

from moeplace.base.errors import InputError
from moeplace.base.text import number, numbers, one_line
from moeplace.caching.scenarios.suites import Scenario, check_effect
from moeplace.cli.by_problem import ByProblem
from moeplace.cli.options import file_name
from moeplace.scenarios.topology import Links

if TYPE_CHECKING:
    from moeplace.scenarios.model_config import Published
    from moeplace.scenarios.ranked import RouterMass

LINKS = "Links and computing"
"""The heading of the options that are the fields of a scenario's links."""


def sectioned(sections: dict[str, tuple[str, ...]]) -> type[ByProblem]:
    """Return a command class whose many options are listed under headings, in that order.

    Those under :data:`LINKS`, which few need, are listed by ``--help-links`` alone.
    """

    class Sectioned(ByProblem):
        def get_params(self, ctx: click.Context) -> list[click.Parameter]:
            *own, help_option = super().get_params(ctx)
            return [*own, _help_links, help_option]

        def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            options = {parameter.name: parameter for parameter in self.get_params(ctx) if _is_option(parameter)}
            for heading, names in sections.items():
                section = [options.pop(name) for name in names]
                if heading != LINKS:
                    _write(heading, section, ctx, formatter)
            _write("Help", options.values(), ctx, formatter)

    def show_links(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
        if not wanted or ctx.resilient_parsing:
            return
        formatter = ctx.make_formatter()
        own = {parameter.name: parameter for parameter in ctx.command.params}
        _write(LINKS, [own[name] for name in sections[LINKS]], ctx, formatter)
        click.echo(formatter.getvalue().rstrip("\n"))
        ctx.exit()

    _help_links = click.Option(
        ["--help-links"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show_links,
        help="Show the options of links and computing (radio, fibre, speeds of memory), which few need, and exit.",
    )
    return Sectioned


def _write(
    heading: str, options: Iterable[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    with formatter.section(heading):
        formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])


def _is_option(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option)


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
        if plain is bool:
            shape = {"is_flag": True}
        elif get_origin(plain) is Literal:
            shape = {"type": click.Choice(get_args(plain))}
        elif field == "box":
            shape = {"type": float, "nargs": 4, "metavar": "S W N E"}
        elif field == "models":
            shape = {"type": str, "multiple": True, "metavar": "NAME"}
        elif field.endswith("_ms"):
            shape["metavar"] = "MS"
        elif field.endswith("file") or field in ("network", "config", "latency", "servers"):
            shape = {"type": file_name, "metavar": "FILE"}
        many = "  [repeatable]" if field == "models" else ""
        shown = (
            ""
            if default is None or default is False or default == []
            else f"  [default: {default:g}]"
            if isinstance(default, float)
            else None
        )
        shown = f"  [default: {default}]" if shown is None else shown
        name = "--model" if field == "models" else "--" + field.replace("_", "-")
        yield click.Option([name, field], default=None, help=f"{text}.{shown}{many}", **shape)


def scenario_options(leave_out: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the fields of a scenario and of its links as options; those that are not given are None."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (*_options(Scenario), *_options(Links)):
            if option.name not in leave_out:
                command.__dict__.setdefault("__click_params__", []).append(option)
        return command

    return decorate


def read_scenario(given: dict[str, Any]) -> Scenario:
    """Return the scenario of options by the names of its fields and of its links' fields.

    Raises
    ------
    InputError
        A value out of range, or an option that another one makes ineffective, with the option's name.
    """
    from moeplace.base.documents import parse

    document: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in given.items()
        if key not in Links.__struct_fields__
    }
    document["links"] = {key: value for key, value in given.items() if key in Links.__struct_fields__}
    with named_as_options():
        check_effect(document)
        return parse(document, Scenario)


def tell_config(path: str | None, published: Published | None) -> None:
    """Say on stderr what was read of a model's config.json, if there is one, and what was taken for granted."""
    if published is None:
        return
    shape, index = published.architecture, published.layer_index
    kept = " and ".join(f"{size:,}" for size in dict.fromkeys(published.expert_bytes))
    lines = [
        f"{path}: {shape.experts} experts in layers {numbers(index)} of {shape.layers}, top {shape.top_k}",
        f"{path}: {shape.matrices} matrices of {shape.hidden_size} x {shape.expert_width}"
        f"{' with biases' if shape.biased else ''} in {published.precision}: {kept} bytes an expert",
        *(f"{path}: {note}" for note in published.notes),
    ]
    for line in lines:
        click.echo(f"note: {one_line(line)}", err=True)


@contextmanager
def named_as_options() -> Iterator[None]:
    """Say the option where an error names a field of a scenario: people do not know the fields."""
    try:
        yield
    except InputError as error:
        place = error.place.removeprefix("links.")
        if error.file or re.split(r"\W", place)[0] not in (*Scenario.__struct_fields__, *Links.__struct_fields__):
            raise
        raise InputError(error.message, place=option_name(place)) from None


def rank_lines(mass: RouterMass) -> list[tuple[str, str]]:
    """Return what an import shows of router weights: labels and lines."""
    lines = [("ranks", f"by router weight; {number(mass.sorted_rows, 'row')} did not stand in that order")]
    if mass.unweighed:
        lines.append(("no weight", f"{number(mass.unweighed, 'row')}, which count for experts and not for losses"))
    return lines


def option_name(place: str) -> str:
    """Return the option of a field.

    Examples
    --------
    >>> option_name("models[0]"), option_name("top_k")
    ('--model', '--top-k')
    """
    key = place.partition("[")[0]
    return "--model" if key == "models" else "--" + key.replace("_", "-")
