"""``moeplace generate --as active-experts``: times by the roofline on generated routing, losses by a power law."""

from __future__ import annotations

from typing import Any

import click

from moeplace.cli import active, screen


@click.command(
    epilog="The same options give the same file everywhere. docs/active.md says how times and losses come about. Exit "
    "codes: 0 done, 2 bad usage or input (nothing is written)."
)
@click.option("--experts", type=click.IntRange(1), metavar="N", help="Experts of a layer, for a shape of its own.")
@click.option("--top-k", type=click.IntRange(1), metavar="N", help="Experts of a token, for a shape of its own.")
@click.option("--expert-bytes", type=click.IntRange(1), metavar="N", help="Size of an expert, for a shape of its own.")
@click.option("--tokens", type=click.IntRange(1), metavar="N", help="Tokens that are drawn.  [8192]")
@active.roofline_options
def generate_active(**values: Any) -> None:
    """Make an instance of active experts: a model, a device, requests served at once, a budget.

    \b
    moeplace generate --as active-experts --model deepseek-v2-lite --hardware a100-80gb --requests 32 -o v2-lite.json
    moeplace generate --as active-experts --layers 4 --experts 16 --top-k 4 --expert-bytes 1000000 --gb-per-s 1000
        --tflops 100 --requests 1,8,64 --loss-budget 20000 -o loads/
    """  # noqa: D301 - click looks for a real backspace
    from moeplace.active.scenarios.assembly import LOSS_BUDGET, device, requests_of, served
    from moeplace.active.scenarios.generating import generate

    given = {key: value for key, value in values.items() if value is not None}
    output, loads = given.pop("output"), requests_of(given.pop("requests"))
    active.check_place(output, loads)
    found = served(**{k: given.pop(k, None) for k in ("model", "config", "layers", "experts", "top_k", "expert_bytes")})
    on = device(given.pop("hardware", None), given.pop("gb_per_s", None), given.pop("tflops", None))
    if "loss_budget" not in given and "time_budget_ns" not in given:
        given["loss_budget"] = LOSS_BUDGET
    made = generate(found, on, loads, **given)
    files = active.write(made, output)
    active.show(made, files)
    for note in found.notes:
        screen.note(note)
