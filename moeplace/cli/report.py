"""``moeplace report``: tables, pictures and a page of what ``moeplace bench`` or ``moeplace replay`` recorded."""

from __future__ import annotations

from pathlib import Path

import click

from moeplace.base.errors import InputError
from moeplace.base.files import check_folder_writable
from moeplace.base.text import bar, number, one_line
from moeplace.cli import screen
from moeplace.cli.options import file_name


@click.command(epilog="Exit codes: 0 done, 1 a bound is false (the report says which), 2 bad usage or input.")
@click.argument("runs", type=file_name, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-o", "--output", type=file_name, required=True, metavar="DIR", help="Folder to write to; made if missing."
)
@click.option("--title", metavar="TEXT", help="Heading of the page.  [default: says what is compared]")
@click.option(
    "--target",
    type=float,
    default=0.01,
    show_default=True,
    metavar="G",
    help="Performance profiles: time to come within this share of the best known cost.",
)
@click.option(
    "--placements", type=int, default=12, show_default=True, metavar="N", help="Instances in the page's placement view."
)
def report(runs: tuple[str, ...], output: str, title: str | None, target: float, placements: int) -> int:
    """Write tables (CSV, Markdown), pictures (PNG, SVG) and one page (HTML, opens without a network) of RUNs.

    A RUN is a directory of moeplace bench, also one that is still running; several are put together. Or it is one of
    moeplace replay, which is reported alone.
    """
    from moeplace.bench.replays import is_replay
    from moeplace.report.collect import collect

    if not 0 <= target < float("inf"):
        raise InputError(f"--target: expected a share >= 0, found {target}")
    if placements < 0:
        raise InputError(f"--placements: expected a number >= 0, found {placements}")
    _check_folder(output, runs)
    if replays := [run for run in runs if Path(run).is_dir() and is_replay(Path(run))]:
        if len(runs) > 1:
            raise InputError("is a replay, which is reported alone", file=replays[0])
        return _report_replay(replays[0], output, title)
    with screen.line() as show:
        show("reading records")
        collection = collect(runs)
        from moeplace.report.writing import TITLE, write_report  # loads what draws; a misprint is answered without

        def tell(share: float, name: str) -> None:
            show(f"{bar(share, 24)}  {name}")

        written = write_report(
            collection, output, title=title or TITLE, target=target, placements=placements, tell=tell
        )
    for note in collection.notes:
        click.echo(f"note: {one_line(note)}", err=True)
    for line in collection.contradictions:
        click.echo(f"ERROR {one_line(line)}", err=True)
    runs_seen = number(len(collection.entries), "run")
    click.echo(f"{runs_seen}, {number(len(written), 'file')} written to {one_line(output)}")
    return 1 if collection.contradictions else 0


def _report_replay(run: str, output: str, title: str | None) -> int:
    from moeplace.bench.replays import read_replay
    from moeplace.report.replaying import TITLE, write_report

    data = read_replay(Path(run))
    written = write_report(data, output, title=title or TITLE)
    wrong = data.contradictions()
    for line in wrong:
        click.echo(f"ERROR {one_line(line)}", err=True)
    payments = number(len(data.rows()), "payment")
    click.echo(f"{payments}, {number(len(written), 'file')} written to {one_line(output)}")
    return 1 if wrong else 0


def _check_folder(folder: str, runs: tuple[str, ...]) -> None:
    # Now, not after the work.
    from moeplace.bench.records import SOLUTIONS

    path = Path(folder)
    try:
        for run in runs:
            if path.resolve() in (Path(run).resolve(), (Path(run) / SOLUTIONS).resolve()):
                raise InputError("is the run itself; a folder for the report was expected", file=folder)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=folder) from None
    check_folder_writable(path)
