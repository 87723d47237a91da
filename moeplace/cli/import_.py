"""``moeplace import``: an instance of routing traces, a model, places and storage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from moeplace.base.errors import InputError
from moeplace.base.text import bar, number
from moeplace.cli import screen
from moeplace.cli.generate import FEWER, SECTIONS, said
from moeplace.cli.options import DOCUMENT, check_output, file_name, json_option
from moeplace.cli.scenario import named_as_options, rank_lines, read_scenario, scenario_options, sectioned, tell_config
from moeplace.scenarios.traces.common import BLOCK, Columns, Reading

if TYPE_CHECKING:
    from moeplace import Instance
    from moeplace.caching.scenarios.importing import Report

SPEED_ROWS = 1_000_000
"""Rows from which on it is said how many a second were read."""

NOT_OF_A_TRACE = ("models_per_user", "tokens", "tasks", "main_task", "routing", "device_experts")
"""What of a scenario is about generated routing."""

TRACE_SECTIONS = {
    "The trace": (
        "profile",
        "user",
        "request",
        "token_column",
        "layer_column",
        "expert_column",
        "block",
        "skip_layers",
        "filler",
        "recount_turns",
        "drop_bad_rows",
    ),
    "A part of it": ("fraction", "fold", "rest", "windows", "time_column"),
    **{
        heading: tuple(name for name in names if name not in (*NOT_OF_A_TRACE, "suite"))
        for heading, names in SECTIONS.items()
    },
    FEWER: ("ranked", "gates", "loss", "loss_budget"),
}


def fraction(value: str) -> Fraction:
    """Read a share such as 0.5 or 1/3."""
    try:
        result = Fraction(value)
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"expected a number such as 0.5 or 1/3, found {value!r}") from None
    if not 0 < result < 1:
        raise click.BadParameter(f"expected more than 0 and less than 1, found {value}")
    return result


def fold(value: str) -> tuple[int, int]:
    """Read I/N: the I-th of N parts."""
    first, slash, second = value.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second) and int(second) > 1):
        raise click.BadParameter(f"expected I/N with I from 1 to N, found {value!r}")
    return int(first), int(second)


@click.command(
    cls=sectioned(TRACE_SECTIONS),
    others={
        "active-experts": "moeplace.cli.import_active:import_active",
        "serverless": "moeplace.cli.serverless:import_serverless",
    },
    epilog="docs/importing.md describes the formats, what is refused and what is dropped. Exit codes: 0 done, 2 bad "
    "usage or input (nothing is written), 130 interrupted.",
)
@click.argument("traces", type=file_name, nargs=-1, required=True, metavar="TRACE...")
@click.option(
    "--profile",
    default=Columns.profile,
    metavar="NAME",
    help="Column, or array with one entry a request, that says what a request is about; users take whole profiles.",
    show_default=True,
)
@click.option(
    "--user",
    default=Columns.user,
    metavar="NAME",
    help="Column, or array with one entry a request, that says whose a request is.",
    show_default=True,
)
@click.option(
    "--request",
    default=Columns.request,
    metavar="NAME",
    help="Column that says where requests begin.",
    show_default=True,
)
@click.option(
    "--token-column",
    default=Columns.token,
    metavar="NAME",
    help="Column with the token's number; without it rows of a layer are counted.",
    show_default=True,
)
@click.option("--layer-column", default=Columns.layer, metavar="NAME", help="Column with the layer.", show_default=True)
@click.option(
    "--expert-column",
    default=Columns.experts,
    metavar="NAME",
    help="Column with an expert or a list of them.",
    show_default="experts, expert, or expert_0, expert_1, ...",
)
@click.option(
    "--block",
    type=click.IntRange(1),
    default=BLOCK,
    metavar="N",
    help="Tokens of a request where the trace does not say where requests begin.",
    show_default=True,
)
@click.option(
    "--skip-layers",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="The trace's first N layers have no experts and are left out.",
    show_default=True,
)
@click.option(
    "--filler",
    type=click.IntRange(0),
    multiple=True,
    metavar="N",
    help="A number that is no expert of the model: padding, or a shared expert in a further column. Several times.",
)
@click.option(
    "--recount-turns",
    is_flag=True,
    help="Count the tokens of a conversation again in each later turn, as an engine without a prefix cache does.",
)
@click.option(
    "--drop-bad-rows",
    is_flag=True,
    help="Drop and count rows with experts out of range or twice, and responses that failed, instead of refusing them.",
)
@click.option("--fraction", type=fraction, metavar="F", help="A share of every profile's requests, chosen by the seed.")
@click.option("--fold", type=fold, metavar="I/N", help="The I-th of N parts of every profile's requests.")
@click.option("--rest", is_flag=True, help="All but that fraction or fold: what another part optimised is scored on.")
@click.option(
    "--windows",
    type=click.IntRange(2, 1000),
    metavar="N",
    help="Cut by time into N instances, FILE_w01, FILE_w02, ...: the same servers, models and users (moeplace replay).",
)
@click.option(
    "--time-column",
    metavar="NAME",
    help="Column, or array with one entry a request, that says when a request begins; for --windows.  [default: time]",
)
@click.option(
    "--gates",
    type=file_name,
    multiple=True,
    metavar="FILE",
    help="Router weights beside a trace of arrays (.npz, .npy), entry for entry: they put experts into falling weight "
    "and say what is lost. Once for each trace, in the same order.",
)
@click.option("--loss", type=file_name, metavar="FILE", help="Measured losses, CSV with layer,k,loss (whole numbers).")
@scenario_options(leave_out=NOT_OF_A_TRACE)
@click.option(
    "-o", "--output", type=file_name, required=True, metavar="FILE", help="Where the instance goes (.json or .json.gz)."
)
@json_option
def import_(
    traces: tuple[str, ...],
    profile: str,
    user: str,
    request: str,
    token_column: str,
    layer_column: str,
    expert_column: str,
    block: int,
    skip_layers: int,
    filler: tuple[int, ...],
    recount_turns: bool,
    drop_bad_rows: bool,
    fraction: Fraction | None,
    fold: tuple[int, int] | None,
    rest: bool,
    windows: int | None,
    time_column: str | None,
    gates: tuple[str, ...],
    loss: str | None,
    output: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Make an instance of routing traces: TRACE is .npz, .npy, .parquet, .csv, .tsv, .jsonl or .json (these also .gz).

    What is in them, such as the responses of a serving engine, is found out and said.

    Users get whole requests. --fraction or --fold makes an instance of one part of the trace; with --rest, of the
    other part, so that a placement found on one can be scored on the other (see moeplace score).

    \b
    moeplace import trace.npz --model gpt-oss-20b --stations 8 --users 48 -o all.json.gz
    moeplace import trace.csv --model qwen3-30b --latency latency.csv --servers servers.csv -o own.json.gz
    moeplace import trace.npz --model gpt-oss-20b --fraction 0.5 -o today.json.gz
    moeplace import trace.npz --model gpt-oss-20b --fraction 0.5 --rest -o tomorrow.json.gz
    moeplace import trace.csv --model qwen3-30b --windows 6 -o day.json.gz
    moeplace import trace.npz --model gpt-oss-20b --gates gates.npz --loss-budget 20000 -o fewer.json.gz
    """  # noqa: D301 - click looks for a real backspace
    from moeplace.base.files import write_all
    from moeplace.caching.scenarios.importing import Selection, import_windows, window_ending

    if time_column is not None and windows is None:
        raise InputError("is used together with --windows only", place="--time-column")
    selection = Selection(fraction, fold, rest)
    scenario = read_scenario({key: value for key, value in values.items() if value not in (None, ())})
    check_output(output, *traces, endings=DOCUMENT)
    outputs = [output]
    if windows is not None:
        outputs = [_with_ending(output, window_ending(w, windows)) for w in range(1, windows + 1)]
        for path in outputs:
            check_output(path, *traces, output, endings=DOCUMENT)
    if len(set(traces)) < len(traces):
        raise InputError("a trace is given twice; its tokens would count twice")
    with named_as_options(), _progress(traces) as progress:
        instances, report = import_windows(
            traces,
            scenario,
            windows=windows or 1,
            reading=Reading(
                Columns(profile, user, request, token_column, layer_column, expert_column, time_column or ""),
                block,
                drop_failed=drop_bad_rows,
                recount_turns=recount_turns,
            ),
            skip_layers=skip_layers,
            fillers=filler,
            selection=selection,
            gates=gates,
            loss=loss,
            drop_bad_rows=drop_bad_rows,
            progress=progress,
        )
    if windows is None:
        instances[0].save(output)
    else:
        write_all({path: instance.to_json() for path, instance in zip(outputs, instances, strict=True)})
    tell_config(scenario.config, report.published)
    for text in report.notes:
        screen.note(text)
    screen.warn_of(instances[0])
    if as_json:
        written = [
            {"instance": {"name": instance.name, "sha256": instance.sha256}, "output": path}
            for path, instance in zip(outputs, instances, strict=True)
        ]
        document = report.document()
        if windows is None:
            document = written[0] | document
        else:
            pieces = [one | piece for one, piece in zip(written, document["windows"], strict=True)]
            document = {"output": output} | document | {"windows": pieces}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _show(instances, report, outputs)


def _with_ending(path: str, ending: str) -> str:
    """Return a document's file name with something before its ending."""
    last = next((each for each in sorted(DOCUMENT, key=len, reverse=True) if path.lower().endswith(each)), "")
    stem = path[: len(path) - len(last)]
    return stem + ending + path[len(stem) :]


@contextmanager
def _progress(traces: Sequence[str]) -> Iterator[Callable[[Report, float | None], None]]:
    """Show on a terminal which file is looked through for requests, then how much of all rows is read."""
    with screen.line() as show:

        def tell(report: Report, share: float | None) -> None:
            if share is None:
                n = len(report.files)
                show(f"looking for requests  {n + 1} of {number(len(traces), 'file')}  {traces[n]}")
            else:
                show(f"{bar(share, 24)}  {number(report.rows, 'row')} read")

        yield tell


def _show(instances: Sequence[Instance], report: Report, outputs: Sequence[str]) -> None:
    instance = instances[0]
    distinct = sum(len(each.rows) for each in instances)
    # Of a short trace the time is that of loading the readers.
    speed = f", {report.rows / report.seconds:,.0f} rows/s" if report.rows >= SPEED_ROWS and report.seconds else ""
    read = f"{number(report.rows, 'row')} (a token at a layer) of {number(report.requests, 'request')}"
    counted = f"{number(report.counted, 'row')} of {number(report.selected, 'request')}"
    lines = [
        ("read", f"{read} in {report.seconds:.1f} s{speed}"),
        ("counted", f"{counted}, {number(report.tokens, 'token')}; {number(distinct, 'distinct row')}"),
    ]
    if report.unselected:
        others = " or whose users are left out" if report.left_out else ""
        others += " or say no time" if report.untimed else ""
        rows = number(report.unselected, "row")
        lines.append(("other part", f"{rows} of requests that were not selected{others}"))
    if report.skipped:
        lines.append(("layers", f"{number(report.skipped, 'row')} of layers that are left out"))
    if empty := len(report.empty_layers):
        lines.append(("", f"{empty} of the model's {instance.models[0].layers} layers have no rows in the trace"))
    dropped = sum(report.dropped.values())
    reasons = ", ".join(f"{number(rows)} {reason}" for reason, rows in sorted(report.dropped.items()))
    lines.append(("dropped", f"{number(dropped, 'row')}{': ' if dropped else ''}{reasons}"))
    if report.mass is not None:
        lines += rank_lines(report.mass)
    if report.short:
        fewer = f"fewer than {instance.models[0].top_k} experts"
        lines.append(("short", f"{number(report.short, 'row')} with {fewer}, counted as they are"))
    if report.fillers:
        lines.append(("fillers", f"{number(report.fillers, 'number')} taken out of rows"))
    if report.failed:
        lines.append(("failed", f"{number(report.failed, 'response')} without routing dropped"))
    if report.profiles and list(report.profiles) != [""]:
        users = ", ".join(f"{name} {own}" for name, own in list(report.profiles.items())[:12])
        more = f" and {len(report.profiles) - 12} more" if len(report.profiles) > 12 else ""
        lines.append(("profiles", f"users of each: {users}{more}"))
    if report.left_out:
        lines.append(("left out", f"{number(len(report.left_out), 'user')} too far (--far-users)"))
    if report.idle:
        idle = number(len(report.idle), "user")
        lines.append(("users", f"{idle} without a request left out: fewer requests than users"))
    parts: list[Any] = [screen.facts(lines), ""]
    if report.windows:
        if report.untimed:
            lines.append(("no time", f"{number(report.untimed, 'request')} left out"))
        columns = ["window", "from", "to", "requests", "rows", "tokens", "users"]
        timed = bool(report.windows[0].begin)
        shown = columns if timed else [name for name in columns if name not in ("from", "to")]
        table = screen.table(*shown, right=",".join(columns[3:]))
        for w, piece in enumerate(report.windows, 1):
            when = [piece.begin, piece.end] if timed else []
            numbers = (piece.requests, piece.rows, piece.tokens, piece.users)
            table.add_row(str(w), *when, *map(number, numbers))
        parts = [screen.facts(lines), "", table, ""]
    screen.show(*parts, *(said(each, path) for each, path in zip(instances, outputs, strict=True)))
