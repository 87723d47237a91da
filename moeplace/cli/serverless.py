"""``generate`` and ``import`` with ``--as serverless``: one request to a model on a platform with prices."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.text import number, one_line
from moeplace.cli import screen
from moeplace.cli.options import DOCUMENT, check_output, file_name, json_option

if TYPE_CHECKING:
    from moeplace.serverless.instance import Instance
    from moeplace.serverless.scenarios.platforms import PlatformFile


class _Number(click.ParamType):  # type: ignore[type-arg]
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            return Decimal(value)
        except (InvalidOperation, TypeError):
            self.fail(f"{value!r} is no number", param, ctx)


_OPTIONS = (
    click.option("--model", metavar="NAME", help="A model of the catalogue, NAME or NAME:PRECISION (moeplace models)."),
    click.option("--config", type=file_name, metavar="FILE", help="A model by its config.json."),
    click.option("--platform", default="aws-lambda", show_default=True, metavar="NAME",
                 help="Prices, memory and speeds: a preset (aws-lambda, alibaba-fc) or a .toml file."),
    click.option("--gpu-mb", type=click.IntRange(0), metavar="N", help="GPU memory of the non-experts, MB."),
    click.option("--ttft-s", type=_Number(), default=Decimal(30), show_default=True, metavar="S",
                 help="Most seconds to the first token, the cold start included."),
    click.option("--tpot-ms", type=_Number(), default=Decimal(1000), show_default=True, metavar="MS",
                 help="Most milliseconds for each output token, in the mean."),
    click.option("--name", metavar="TEXT", help="Name of the instance; left out: made of its parts."),
    click.option("-o", "--output", type=file_name, required=True, metavar="FILE",
                 help="Where the instance goes (.json or .json.gz)."),
)  # fmt: skip


def _request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_SHAPE = ("model", "config", "layers", "experts", "top_k", "expert_bytes", "token_bytes")


@click.command(
    epilog="The same options give the same file everywhere. docs/serverless.md says how times and prices come about. "
    "Exit codes: 0 done, 2 bad usage or input (nothing is written)."
)
@click.option("--layers", type=click.IntRange(1), metavar="N", help="Layers, for a shape of its own.")
@click.option("--experts", type=click.IntRange(1), metavar="N", help="Experts of a layer, for a shape of its own.")
@click.option("--top-k", type=click.IntRange(1), metavar="N", help="Experts of a token, for a shape of its own.")
@click.option("--expert-bytes", type=click.IntRange(1), metavar="N", help="Size of an expert, for a shape of its own.")
@click.option("--token-bytes", type=click.IntRange(1), metavar="N", help="Size of a token's hidden state, for one.")
@click.option("--tokens-in", type=click.IntRange(1), default=128, show_default=True, metavar="N", help="Of the prompt.")
@click.option(
    "--tokens-out", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="Of the output."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the routing.")
@_request_options
def generate_serverless(**values: Any) -> None:
    """Make an instance of one request with generated routing.

    \b
    moeplace generate --as serverless --model deepseek-v2-lite --platform alibaba-fc --tokens-out 200 -o v2-lite.json
    moeplace generate --as serverless --layers 12 --experts 8 --top-k 2 --expert-bytes 18874368 --token-bytes 3072
        --tpot-ms 150 -o gpt2-moe.json
    """  # noqa: D301 - click looks for a real backspace
    from moeplace.serverless.scenarios.assembly import generate, in_ns, served

    check_output(values["output"], endings=DOCUMENT)
    found, platform = served(**{key: values[key] for key in _SHAPE}), _platform(values)
    made = generate(
        found, platform, tokens_in=values["tokens_in"], tokens_out=values["tokens_out"], seed=values["seed"],
        ttft_ns=in_ns(values["ttft_s"], 10**9, "--ttft-s"), tpot_ns=in_ns(values["tpot_ms"], 10**6, "--tpot-ms"),
        name=values["name"],
    )  # fmt: skip
    made.save(values["output"])
    _show(made, values["output"])
    for note in found.notes:
        screen.note(note)


@click.command(
    epilog="docs/importing.md describes the forms of traces, docs/serverless.md how times and prices come about. Exit "
    "codes: 0 done, 2 bad usage or input (nothing is written)."
)
@click.argument("trace", type=file_name, metavar="TRACE")
@click.option(
    "--request",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Number of the request in the trace, from 0.",
)
@click.option(
    "--tokens-in",
    type=click.IntRange(1),
    required=True,
    metavar="N",
    help="The request's first tokens that are its prompt; the others are its output.",
)
@click.option("--tokens-out", type=click.IntRange(1), metavar="N", help="At most so many tokens of output.")
@click.option(
    "--skip-layers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="The trace's first N layers have no experts and are left out.",
)
@click.option(
    "--filler",
    "fillers",
    type=click.IntRange(0),
    multiple=True,
    metavar="N",
    help="A number that is no expert of the model: padding, or a shared expert. Several times.",
)
@_request_options
@json_option
def import_serverless(trace: str, as_json: bool, **values: Any) -> None:
    """Make an instance of one request of a routing TRACE.

    \b
    moeplace import trace.npz --as serverless --model gpt-oss-20b --platform alibaba-fc --request 3 --tokens-in 128
        --tokens-out 200 --tpot-ms 120 -o request3.json
    """  # noqa: D301 - click looks for a real backspace
    from moeplace.serverless.scenarios.assembly import import_request, in_ns, served

    check_output(values["output"], trace, endings=DOCUMENT)
    found, platform = served(model=values["model"], config=values["config"]), _platform(values)
    result = import_request(
        trace, found, platform, request=values["request"], tokens_in=values["tokens_in"],
        tokens_out=values["tokens_out"], ttft_ns=in_ns(values["ttft_s"], 10**9, "--ttft-s"),
        tpot_ns=in_ns(values["tpot_ms"], 10**6, "--tpot-ms"), name=values["name"],
        skip_layers=values["skip_layers"], fillers=values["fillers"],
    )  # fmt: skip
    made = result.instance
    made.save(values["output"])
    if as_json:
        said = {"name": made.name, "sha256": made.sha256, "output": values["output"], "requests": result.requests,
                "notes": result.notes}  # fmt: skip
        click.echo(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        _show(made, values["output"])
        click.echo(f"request {values['request']} of {number(result.requests, 'request')}")
    for note in [*found.notes, *result.notes]:
        screen.note(note)


def _platform(values: dict[str, Any]) -> PlatformFile:
    from moeplace.serverless.scenarios.platforms import read_platform

    read = read_platform(values["platform"])
    return read if values["gpu_mb"] is None else read.with_gpu(values["gpu_mb"])


def _show(made: Instance, output: str) -> None:
    from moeplace.serverless.cost import best_all_local, why_infeasible
    from moeplace.serverless.shown import headline

    click.echo(one_line(headline(made)))
    if best_all_local(made) is None:
        click.echo(f"not all local: {why_infeasible(made)}")
    click.echo(one_line(f"sha256 {made.sha256[:12]}, written to {output}"))
