"""``moeplace placement``: a placement as scripts and serving engines read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click
from msgspec import UNSET

from moeplace.base.errors import InputError
from moeplace.base.text import number, numbers, one_line
from moeplace.cli.options import check_output, file_name, instance_argument

if TYPE_CHECKING:
    from moeplace import Instance, Solution
    from moeplace.caching.document import Model
    from moeplace.caching.engines import Format, Numbering

FORMATS = ("csv", "pin", "sglang", "vllm", "vllm-map", "vllm-ascend", "tensorrt-llm")
"""Those of :mod:`moeplace.caching.engines`, which takes longer to import than ``--help`` may take."""

SERVER = "{server}"
"""What stands for a server's name in the name of a file."""


@click.command(
    epilog="A wrong solution is refused (see moeplace check). docs/howto/placements.md shows each format. Exit codes: "
    "0 done, 2 bad usage or input (nothing is written)."
)
@instance_argument
@click.argument("solution", type=file_name, metavar="SOLUTION")
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="Who reads it, see above.")
@click.option("--model", metavar="NAME", help="Whose experts, where the instance has several models.")
@click.option("--config", type=file_name, metavar="FILE", help="The model's config.json: its own layer numbers.")
@click.option("--fill", is_flag=True, help="Fill free slots: with experts that are on no server, then by use.")
@click.option(
    "-o", "--output", type=file_name, required=True, metavar="FILE",
    help="Where it goes. Of pin, {server} in the name stands for the server's.",
)  # fmt: skip
def placement(
    instance: str, solution: str, form: str, model: str | None, config: str | None, fill: bool, output: str
) -> None:
    """Write the placement of SOLUTION as scripts and serving engines read it.

    \b
    csv           server,model,layer,expert,bytes
    pin           {"pin": [[layer, expert], ...]}, a file a server: -o 'pins/{server}.json'
    sglang        SGLang, --init-expert-location FILE.json
    vllm          vLLM, eplb_config.initial_mapping_path (JSON Lines; open pull request 41141)
    vllm-map      vLLM, eplb_config.initial_expert_map_path (JSON; open pull request 49572)
    vllm-ascend   vLLM Ascend, expert_map_path FILE.json
    tensorrt-llm  TensorRT-LLM, load_balancer (YAML)

    The engines' formats are those of their sources and pull requests in November 2026. The instance's servers are the
    ranks, in their order. A rank has the same number of slots at every layer, and every expert must be somewhere: a
    placement that is not so is refused, or completed with --fill.

    Layers go by the model's own numbers, which the instance (layer_index) or --config says; in the formats of vLLM,
    layers with experts are counted from 0.
    """  # noqa: D301 - click looks for a real backspace
    from moeplace.base.files import write_all, write_bytes
    from moeplace.caching import engines
    from moeplace.caching.instance import load
    from moeplace.caching.solution import read_solution

    known = engines.FORMATS[form]
    if known.ending and not output.endswith(known.ending):
        raise InputError(f"{form} reads files whose names end in {known.ending}", file=output)
    if known.write is not None and output.endswith(".gz"):
        raise InputError(f"{form} reads no packed files", file=output)
    check_output(output, instance)
    loaded, answer = load(instance), read_solution(solution)
    _refuse_wrong(loaded, answer, solution)
    numbering = None if config is None else _numbering(loaded, model, config, whole=known.write is not None)
    try:
        made = engines.render(loaded, answer.placement_on(loaded), form, model=model, fill=fill, numbering=numbering)
    except InputError as error:
        raise (error if error.place.startswith("--") else error.in_file(solution)) from None
    if form == "pin":
        contents = {_path(output, name, made.contents): text for name, text in made.contents.items()}
        for path in contents:
            check_output(path, instance)
        write_all(contents)
    else:
        write_bytes(output, made.contents[""])
    if config is None:
        for own in loaded.models:
            for doubt in _doubts(own, known) if model in (None, own.name) else ():
                click.echo(f"note: {one_line(doubt)}", err=True)
    said = [f"written to {output}" + (f" ({number(len(contents), 'file')})" if form == "pin" else "")]
    if made.slots is not None:
        ranks, redundant = number(len(loaded.servers), "server"), number(made.redundant, "redundant expert")
        said.append(f"{number(made.slots, 'slot')} a layer on each of {ranks}, {redundant}")
    if made.hidden_layers is not None:
        said.append(f"{number(made.hidden_layers, 'hidden layer')}")
    if fill:
        said.append(f"{number(made.added, 'free slot')} filled")
    click.echo(one_line("; ".join(said)))


def _numbering(instance: Instance, name: str | None, config: str, *, whole: bool) -> Numbering:
    """Return the numbers that a model's config.json gives its layers; ``whole``: all of them must be here."""
    from moeplace.caching.engines import Numbering, find_model
    from moeplace.scenarios.model_config import read_model_config

    published = read_model_config(config, expert_bytes=1)  # sizes are the instance's matter
    model, shape = instance.models[find_model(instance, name)], published.architecture
    own = published.layer_index[: model.layers]
    here = f"{model.name} of the instance has"
    if model.experts != shape.experts:
        raise InputError(f"{number(shape.experts, 'expert')} a layer, {here} {model.experts}", file=config)
    if len(own) < model.layers or (whole and model.layers < shape.moe_layers):
        layers = number(shape.moe_layers, "layer")
        raise InputError(f"{layers} with experts, {here} {model.layers}", file=config)
    if model.layer_index not in (UNSET, own):
        raise InputError(f"layers {numbers(own)} have experts, {here} {numbers(model.layer_index)}", file=config)
    return Numbering(own, shape.layers)


def _refuse_wrong(instance: Instance, solution: Solution, file: str) -> None:
    from moeplace.caching.checking import check

    wrong = check(instance, solution).violations
    if wrong:
        more = f" ({number(len(wrong) - 1, 'more violation')}, see moeplace check)" if len(wrong) > 1 else ""
        raise InputError(f"{wrong[0]}{more}", file=file)


def _path(output: str, server: str, servers: Iterable[str]) -> str:
    """Return the file of a server; what a file name cannot hold is written as in a URL."""
    if SERVER in output:
        safe = re.sub(r'[/\\:*?"<>|%\x00-\x1f]|^\.', lambda found: f"%{ord(found[0]):02X}", server)
        return output.replace(SERVER, safe)
    if len(list(servers)) > 1:
        raise InputError(f"a file a server: {SERVER} must stand in the name, as in 'pins/{SERVER}.json'", file=output)
    return output


def _doubts(model: Model, form: Format) -> Iterator[str]:
    """Say where the layers of an instance are not those that the reader of a file expects, as far as that is known."""
    from moeplace.scenarios.catalogue import find_architecture

    try:
        known = find_architecture(model.name)
    except InputError:
        return
    layers = f"{known.title} has {known.layers} layers, {known.moe_layers} of them with experts"
    if form.write is not None and known.moe_layers != model.layers:
        yield f"{layers}; the instance has {model.layers}, and an engine needs all"
    if form.own_numbers and model.layer_index is UNSET and known.layers != known.moe_layers:
        yield f"{layers}; the instance does not say their own numbers, so they are counted from 0 (--config gives them)"
