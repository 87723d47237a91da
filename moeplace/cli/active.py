"""What ``generate`` and ``import`` share for instances of active experts: options, and what is shown of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError, OutputError
from moeplace.base.problem import Table
from moeplace.base.text import duration, number, one_line, percent
from moeplace.cli import screen
from moeplace.cli.options import DOCUMENT, check_output, file_name

if TYPE_CHECKING:
    from moeplace.active.scenarios.assembly import Assembled

_OPTIONS = (
    click.option("--model", metavar="NAME", help="A model of the catalogue, NAME or NAME:PRECISION (moeplace models)."),
    click.option("--config", type=file_name, metavar="FILE", help="A model by its config.json."),
    click.option("--layers", type=click.IntRange(1), metavar="N", help="Only the model's first N layers with experts."),
    click.option("--hardware", metavar="NAME", help="A device of the catalogue, such as h100-sxm or a100-80gb."),
    click.option("--gb-per-s", type=float, metavar="X", help="Memory bandwidth, 10^9 bytes a second."),
    click.option("--tflops", type=float, metavar="X", help="Computing speed, 10^12 operations a second."),
    click.option(
        "--requests", required=True, metavar="B[,B...]", help="Requests served at once; an instance for each number."
    ),
    click.option("--batches", type=click.IntRange(1), metavar="N", help="Batches that experts are counted on.  [200]"),
    click.option(
        "--fixed-ns", type=click.IntRange(0), default=0, show_default=True, metavar="N",
        help="What a step takes besides the routed experts: attention, shared experts, the head.",
    ),
    click.option("--loss-budget", type=click.IntRange(0), metavar="N", help="Minimise the time within this loss."),
    click.option("--time-budget-ns", type=click.IntRange(0), metavar="N", help="Minimise the loss within this time."),
    click.option(
        "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of everything random."
    ),
    click.option("--name", metavar="TEXT", help="Name of the instance; left out: made of its parts."),
    click.option(
        "-o", "--output", type=file_name, required=True, metavar="FILE",
        help="Where the instance goes (.json or .json.gz); with several numbers of requests the folder for all.",
    ),
)  # fmt: skip


def roofline_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a model, a device, loads and a budget."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_place(output: str, requests: Sequence[int], *inputs: str) -> None:
    """Refuse an output that cannot be written: a file for one number of requests, a folder for several."""
    if len(requests) == 1:
        check_output(output, *inputs, endings=DOCUMENT)
    elif Path(output).exists() and not Path(output).is_dir():
        raise InputError(f"is a file; {number(len(requests), 'instance')} go to a folder", file=output)


def write(made: Sequence[Assembled], output: str) -> list[str]:
    """Write instances, one to the file, several into the folder; return their files."""
    if len(made) == 1:
        made[0].instance.save(output)
        return [output]
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from None
    files = []
    for one in made:
        files.append(str(folder / f"{one.instance.name}.json"))
        one.instance.save(files[-1])
    return files


def document(made: Sequence[Assembled], files: Sequence[str]) -> list[dict[str, Any]]:
    """Return what was made as plain dicts."""
    return [
        {
            "instance": {"name": one.instance.name, "sha256": one.instance.sha256},
            "output": file,
            "loads": [vars(load) for load in one.loads],
        }
        for one, file in zip(made, files, strict=True)
    ]


def show(made: Sequence[Assembled], files: Sequence[str]) -> None:
    """Show what each load takes and touches, as counted and by independence."""
    from moeplace.active.shown import headline, speed

    columns = ("active", "distinct", "independent", "reading", "time", "speed", "loss")
    for one, file in zip(made, files, strict=True):
        instance = one.instance
        rows = [
            [
                f"{load.k}",
                f"{load.distinct:.2f}",
                f"{load.independent:.2f}",
                percent(load.reading, 0),
                duration(load.time_ns),
                speed(instance, load.time_ns),
                f"{load.loss:,}",
            ]
            for load in one.loads
        ]
        screen.show(
            one_line(headline(instance)), "", screen.filled(Table(columns, columns, rows)),
            f"experts of a layer that a step of {number(instance.tokens_per_step, 'token')} touches, as counted and as "
            "if all were used equally often and independently; reading: layers that wait for the memory",
            "", one_line(f"sha256 {instance.sha256[:12]}, written to {file}"),
        )  # fmt: skip
        if one is not made[-1]:
            click.echo()
    if not made[0].instance.fixed_ns:
        screen.note("tokens/s are those of the routed experts alone; --fixed-ns says what else a step takes")
