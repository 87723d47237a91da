"""``moeplace import --as active-experts``: times by the roofline on a routing trace, losses by the router's weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.text import number
from moeplace.cli import active, screen
from moeplace.cli.options import file_name, json_option
from moeplace.cli.scenario import rank_lines
from moeplace.scenarios.traces.common import Columns, Reading

if TYPE_CHECKING:
    from moeplace.active.scenarios.importing import Imported

_COLUMNS = ("request", "token_column", "layer_column", "expert_column")


@click.command(
    epilog="docs/active.md says how times and losses come about, docs/importing.md describes the forms of traces. Exit "
    "codes: 0 done, 2 bad usage or input (nothing is written)."
)
@click.argument("trace", type=file_name, metavar="TRACE")
@click.option(
    "--gates", type=file_name, metavar="FILE",
    help="Router weights beside a trace of arrays (.npz, .npy), entry for entry: they give ranks and losses.",
)  # fmt: skip
@click.option("--ranked", is_flag=True, help="A token's experts stand in falling router weight.")
@click.option("--loss", type=file_name, metavar="FILE", help="Measured losses, CSV with layer,k,loss (whole numbers).")
@click.option("--request", default=Columns.request, metavar="NAME", help="Column that says where requests begin.")
@click.option("--token-column", default=Columns.token, metavar="NAME", help="Column with the token's number.")
@click.option("--layer-column", default=Columns.layer, metavar="NAME", help="Column with the layer.")
@click.option(
    "--expert-column", default=Columns.experts, metavar="NAME", help="Column with an expert or a list of them."
)
@click.option(
    "--skip-layers", type=click.IntRange(0), default=0, show_default=True, metavar="N",
    help="The trace's first N layers have no experts and are left out.",
)  # fmt: skip
@click.option(
    "--filler", "fillers", type=click.IntRange(0), multiple=True, metavar="N",
    help="A number that is no expert of the model: padding, or a shared expert in a further column. Several times.",
)  # fmt: skip
@click.option("--drop-bad-rows", is_flag=True, help="Drop and count rows with experts out of range or twice.")
@active.roofline_options
@json_option
def import_active(trace: str, as_json: bool, **values: Any) -> None:
    """Make an instance of active experts of a routing TRACE: which experts tokens use, and with which weights.

    \b
    moeplace import trace.npz --as active-experts --model gpt-oss-20b --gates gates.npz --hardware h100-sxm
        --requests 32 -o gpt-oss.json
    moeplace import trace.npz --as active-experts --model gpt-oss-20b --ranked --loss measured.csv --gb-per-s 900
        --tflops 120 --requests 1,8,64 --loss-budget 500 -o loads/
    """  # noqa: D301 - click looks for a real backspace
    from moeplace.active.scenarios.assembly import device, requests_of, served
    from moeplace.active.scenarios.importing import import_trace

    given = {key: value for key, value in values.items() if value is not None}
    output, loads = given.pop("output"), requests_of(given.pop("requests"))
    active.check_place(output, loads, trace)
    found = served(**{key: given.pop(key, None) for key in ("model", "config", "layers")})
    on = device(given.pop("hardware", None), given.pop("gb_per_s", None), given.pop("tflops", None))
    request, token, layer, experts = (given.pop(key) for key in _COLUMNS)
    columns = Columns(request=request, token=token, layer=layer, experts=experts)
    result = import_trace(trace, found, on, loads, reading=Reading(columns), **given)
    files = active.write(result.made, output)
    if as_json:
        said = {"instances": active.document(result.made, files)} | result.document()
        click.echo(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        _show(result)
        active.show(result.made, files)
    for note in result.notes:
        screen.note(note)


def _show(result: Imported) -> None:
    tokens = result.tokens
    lines = [("read", f"{number(tokens.tokens, 'token')}, {number(tokens.rows, 'row')} of one token at one layer")]
    if tokens.mass is not None:
        lines += rank_lines(tokens.mass)
    lines.append(("loss", result.loss))
    if tokens.skipped:
        lines.append(("layers", f"{number(tokens.skipped, 'row')} of layers that are left out"))
    for reason, rows in sorted(tokens.dropped.items()):
        lines.append(("dropped", f"{number(rows, 'row')}: {reason}"))
    if tokens.short:
        lines.append(("short", f"{number(tokens.short, 'row')} with fewer experts than the model uses"))
    if tokens.fillers:
        lines.append(("fillers", f"{number(tokens.fillers, 'number')} taken out of rows"))
    screen.show(screen.facts(lines), "")
