"""``moeplace models``: the catalogue of architectures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.text import NOTHING, one_line, size
from moeplace.cli import screen
from moeplace.cli.options import json_option

if TYPE_CHECKING:
    from moeplace.scenarios.catalogue import Architecture


LEGEND = """\
sizes: of one routed expert (fp8, int8 and int4 without scales, unless published so), and of all in what was published
?: recalled, not seen in a source; -: not known, or not published in it; shared: experts that every token uses"""


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def models(names: tuple[str, ...], as_json: bool) -> None:
    """List the catalogue of Mixture-of-Experts architectures, or tell all that is known of each NAME.

    NAME may be a repository's, such as Qwen/Qwen3-30B-A3B. Sizes are of one routed expert; fp8, int8 and int4 without
    the scales of a quantiser, except where the model was published so. A number with a question mark was recalled, not
    seen in a source.
    """
    from moeplace.scenarios.catalogue import architectures, find_architecture

    found = [find_architecture(name) for name in names] if names else list(architectures())
    if as_json:
        click.echo(json.dumps([_document(architecture) for architecture in found], indent=2, ensure_ascii=False))
    elif names:
        screen.show(*(part for a in found for part in (screen.facts(_facts(a)), "")))
    else:
        screen.show(_table(found), "", LEGEND)


def _document(architecture: Architecture) -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(architecture)
    return fields | {
        "parameters_per_expert": architecture.parameters_per_expert,
        "expert_bytes": {precision: architecture.expert_bytes(precision) for precision in architecture.precisions},
    }


def _said(architecture: Architecture, field: str) -> str:
    value = getattr(architecture, field)
    return NOTHING if value is None else f"{value:,}{'?' if field in architecture.recalled else ''}"


_COLUMNS = {
    "layers": "moe_layers", "experts": "experts", "shared": "shared_experts", "top-k": "top_k", "hidden": "hidden_size",
    "width": "expert_width", "matrices": "matrices",
}  # fmt: skip


def _table(found: list[Architecture]) -> Any:
    from moeplace.scenarios.catalogue import PRECISIONS

    sizes = (*PRECISIONS, "all experts")
    table = screen.table("model", *_COLUMNS, *sizes, right=",".join((*_COLUMNS, *sizes)))
    for architecture in found:
        each = [size(architecture.expert_bytes(p)) if p in architecture.precisions else "-" for p in PRECISIONS]
        table.add_row(
            one_line(architecture.name), *(_said(architecture, field) for field in _COLUMNS.values()), *each,
            _all_experts(architecture),
        )  # fmt: skip
    return table


def _all_experts(architecture: Architecture) -> str:
    precision = architecture.published
    total = architecture.moe_layers * architecture.experts * architecture.expert_bytes(precision)
    return f"{size(total)} {precision}"


def _facts(architecture: Architecture) -> list[tuple[str, str]]:
    said = {field: _said(architecture, field) for field in (*_COLUMNS.values(), "layers")}
    lines = [
        ("model", f"{architecture.name} ({architecture.title})"),
        ("layers", f"{said['moe_layers']} with experts, of {said['layers']}"),
        ("experts", f"{said['experts']} a layer, top {said['top_k']}; {said['shared_experts']} shared"),
        ("widths", f"hidden {said['hidden_size']}, expert {said['expert_width']}, {said['matrices']} matrices"),
    ]
    biases = " with biases" if architecture.biased else ""
    lines.append(("expert", f"{architecture.parameters_per_expert:,} parameters{biases}"))
    lines += [
        ("", f"{architecture.expert_bytes(p):,} bytes in {architecture.precision(p)}") for p in architecture.precisions
    ]
    lines.append(("all experts", _all_experts(architecture)))
    lines.append(("repositories", ", ".join(architecture.repositories) or NOTHING))
    lines.append(("source", architecture.source))
    if architecture.recalled:
        lines.append(("recalled", f"not seen: {', '.join(architecture.recalled)}"))
    return lines
