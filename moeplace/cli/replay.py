"""``moeplace replay``: policies over traffic that drifts, window by window, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from moeplace.base.errors import InputError, naming
from moeplace.base.text import number, one_line
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import (
    as_dict,
    check_output,
    file_name,
    find_methods_here,
    json_option,
    parameter_option,
    seed_option,
    threads_option,
)

if TYPE_CHECKING:
    from moeplace import Instance, Placement
    from moeplace.base.stop import Stop
    from moeplace.bench.replays import ReplayData, ReplayFolder, ReplayPlan, ReplayWindow
    from moeplace.caching.replay import Order


class _Interrupted(Exception):
    """Somebody asked to stop."""


@click.command(
    epilog="docs/replay.md says what each policy decides and what the bounds prove. Exit codes: 0 done, 1 a decision "
    "failed, a window has no placement, or a bound is false, 2 bad usage or input, 130 interrupted (what is finished "
    "is kept and shown)."
)
@click.argument("windows", type=file_name, nargs=-1, required=True, metavar="WINDOW...|RUN")
@click.option(
    "--policy", "policies", metavar="A,B", help="stay, always, gate, loading, hindsight.  [default: all of them]"
)
@click.option("--method", default="auto", show_default=True, help="Makes the decisions (see moeplace methods).")
@click.option("--time-limit", type=float, metavar="S", help="Seconds a decision.  [default: none; 60 for auto]")
@click.option(
    "--start",
    type=file_name,
    metavar="SOLUTION",
    help="What is in force before the first window.  [default: made on the first window, which nobody pays]",
)
@seed_option
@threads_option
@parameter_option
@click.option("-o", "--output", type=file_name, metavar="RUN", help="The run directory; made if missing.")
@click.option("--csv", "csv_file", type=file_name, metavar="FILE", help="Write the table as CSV.")
@click.option("--plot", "picture", type=file_name, metavar="FILE", help="Draw it over time: .png, .svg or .pdf.")
@json_option
def replay(
    windows: tuple[str, ...],
    policies: str | None,
    method: str,
    time_limit: float | None,
    start: str | None,
    seed: int,
    threads: int,
    parameters: tuple[tuple[str, Any], ...],
    output: str | None,
    csv_file: str | None,
    picture: str | None,
    as_json: bool,
) -> int:
    """Go through windows of traffic; each policy decides before each and pays latency and loading in it.

    Windows are instances with the same servers and models, in their order, such as moeplace import --windows makes.
    Every decision and payment is kept in RUN as it is made: stopped at any moment, the same command goes on, also with
    more policies or with further windows at the end.

    \b
    moeplace replay day_w*.json.gz --time-limit 30 -o runs/day
    moeplace replay day_w*.json.gz --policy gate,loading --start now.json -o runs/two --plot two.svg
    moeplace replay runs/day --csv day.csv                       show it, and go on with what is missing
    """  # noqa: D301 - click looks for a real backspace
    from moeplace.base.registry import check_parameters, find_method
    from moeplace.base.stop import stopping
    from moeplace.base.style import SUFFIXES
    from moeplace.bench import environment
    from moeplace.bench.replays import ReplayPlan, is_replay, opened, read_run
    from moeplace.caching.replay import START
    from moeplace.solving import check_limits

    check_limits(time_limit=time_limit, seed=seed, threads=threads)
    check_output(csv_file)
    check_output(picture, endings=SUFFIXES)
    chosen = _policies(policies)
    own = as_dict(parameters)
    if len(windows) == 1 and Path(windows[0]).is_dir():
        folder = Path(windows[0])
        if not is_replay(folder):
            raise InputError("is no run directory of a replay; windows are instance files", file=windows[0])
        for name in ("output", "method", "time_limit", "seed", "threads", "start", "parameters"):
            if click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise InputError("is a run directory, whose plan says it", place=f"--{name.replace('_', '-')}")
        earlier = read_run(folder)
        plan = earlier.plan
        files = [window.path for window in earlier.windows]
        if policies is not None:
            plan = _replaced(plan, policies=list(dict.fromkeys([*plan.policies, *chosen])))
        if plan.start is not None:
            start = str(folder / _solution(START))
    else:
        if output is None:
            raise click.MissingParameter(param_hint="'-o' / '--output'", param_type="option")
        folder = Path(output)
        files = [_located(name) for name in windows]
        plan = ReplayPlan(chosen, method, own, seed, threads, time_limit, None)
    find_methods_here([plan.method])
    check_parameters(plan.method, find_method(plan.method), plan.parameters)
    loaded = _load(files, started=start is not None)
    first, given = _start(start, loaded[0])
    plan = _replaced(plan, start=given)
    described = _described(loaded, files)
    with stopping() as stop:
        with opened(folder, plan, described, environment.capture(1)) as run:
            for note in [*run.notes, *_notes(loaded[0], run.run.plan.policies)]:
                screen.note(note)
            if start is not None:
                _keep_start(folder, start)
            interrupted = _work(run, loaded, first, stop)
            data = run.data
        _show(data, csv_file, picture, as_json=as_json)
        for line in data.contradictions():
            click.echo(f"ERROR {one_line(line)}", err=True)
        if interrupted:
            click.echo("moeplace replay: interrupted; the same command goes on from here", err=True)
            return INTERRUPTED
    return 1 if data.contradictions() else 0


def _replaced(plan: ReplayPlan, **changes: Any) -> ReplayPlan:
    from msgspec import structs

    return structs.replace(plan, **changes)


def _solution(key: str) -> str:
    from moeplace.bench.replays import solution_path

    return solution_path(key)


def _policies(text: str | None) -> list[str]:
    from moeplace.base.text import did_you_mean
    from moeplace.caching.replay import POLICIES

    chosen = list(POLICIES) if text is None else [part.strip() for part in text.split(",")]
    for name in chosen:
        if name not in POLICIES:
            near = did_you_mean(name, POLICIES)
            raise InputError(f"no policy {name!r}{near}; there are {', '.join(POLICIES)}", place="--policy")
        if chosen.count(name) > 1:
            raise InputError(f"{name} is given twice", place="--policy")
    return chosen


def _located(name: str) -> str:
    from moeplace.library import located

    return str(located(name))


def _load(files: Sequence[str], *, started: bool) -> list[Instance]:
    from moeplace.caching.instance import load
    from moeplace.caching.replay import check_windows, paid_windows

    if not paid_windows(len(files), started=started):
        raise InputError(
            "one window: the first placement is made on it, and none is left to pay on; --start gives one instead",
            file=files[0],
        )
    loaded = []
    with screen.line() as show:
        for i, file in enumerate(files):
            show(f"reading windows  {i + 1} of {len(files)}  {file}")
            loaded.append(load(file))
    check_windows(loaded, files)
    return loaded


def _described(windows: Sequence[Instance], files: Sequence[str]) -> list[ReplayWindow]:
    from moeplace.bench.replays import ReplayWindow

    return [
        ReplayWindow(window.name, str(Path(file).resolve()), window.sha256, int(window.tokens.sum()))
        for window, file in zip(windows, files, strict=True)
    ]


def _start(file: str | None, window: Instance) -> tuple[Placement | None, str | None]:
    """Return the placement to begin with and its hash."""
    from moeplace.base.documents import canonical
    from moeplace.caching.solution import assignments, read_solution

    if file is None:
        return None, None
    with naming(file):
        placement = read_solution(file).placement_on(window)
    held = [[a.server, a.model, [list(pair) for pair in a.experts]] for a in assignments(window, placement)]
    return placement, hashlib.sha256(canonical(held)).hexdigest()


def _keep_start(folder: Path, file: str) -> None:
    """Keep the placement to begin with, so that the run directory has all that it takes to go on."""
    from moeplace.bench.records import write_durably
    from moeplace.caching.replay import START

    kept = folder / _solution(START)
    if not kept.exists():
        write_durably(kept, Path(file).read_bytes())


def _notes(window: Instance, policies: Sequence[str]) -> list[str]:
    priced = {"gate", "loading"} & set(policies)
    if window.load_block_ns is not None or not priced:
        return []
    return [f"loading is free here (no load_bytes_per_s): {' and '.join(sorted(priced))} have nothing to weigh"]


def _work(run: ReplayFolder, windows: Sequence[Instance], start: Placement | None, stop: Stop) -> bool:
    """Decide and pay what is missing; return whether somebody asked to stop."""
    from dataclasses import asdict

    from moeplace.bench.replays import ReplayRecord, payment_key
    from moeplace.caching import replay as policies

    def decide(order: Order) -> Placement:
        return _decide(run, windows, order, stop)

    try:
        for step in policies.replay(windows, run.run.plan.policies, decide, start):
            key, sha256 = payment_key(step), windows[step.window - 1].sha256
            record = ReplayRecord(
                key, "payment", step.policy, step.window, sha256, source=step.source, **asdict(step.payment)
            )
            if (known := run.find(key)) is None:
                run.add(record)
            elif known != record:
                raise InputError("says another payment than its decisions give", place=key, file=str(run.folder))
            if stop:
                return True
    except _Interrupted:
        return True
    return False


def _decide(run: ReplayFolder, windows: Sequence[Instance], order: Order, stop: Stop) -> Placement:
    """Return a decision: the recorded one, or what the method finds, which is then recorded."""
    import moeplace
    from moeplace.base.errors import MethodError, NoSolutionError
    from moeplace.bench.replays import ReplayRecord
    from moeplace.caching.solution import read_solution

    window, plan = windows[order.window - 1], run.run.plan
    if (known := run.find(order.key)) is not None and known.solution is not None:
        file = run.folder / known.solution
        with naming(file):
            return read_solution(file).placement_on(window)
    if stop:
        raise _Interrupted
    instance = order.instance()
    label = f"window {order.window} of {len(windows)}, {order.kind}"
    with screen.progress_line(label, int(instance.tokens.sum()), stop) as progress:
        try:
            solution = moeplace.solve(
                instance,
                plan.method,
                time_limit=plan.time_limit,
                seed=plan.seed,
                threads=plan.threads,
                start=order.start,
                progress=progress,
                **plan.parameters,
            )
        except NoSolutionError as error:
            raise NoSolutionError(f"window {order.window} ({window.name}): {error.reason}") from None
        except MethodError as error:
            raise type(error)(f"window {order.window} ({window.name}): {error}") from error
    if solution.status.termination == "interrupted":
        raise _Interrupted
    run.add(
        ReplayRecord(
            order.key,
            "decision",
            order.kind,
            order.window,
            window.sha256,
            solution=_solution(order.key),
            cost_ns=solution.value,
            bound_ns=solution.bound,
            method=solution.method,
            termination=solution.status.termination,
            bound_source=solution.bound_source,
            wall_s=solution.wall_s,
        ),
        solution.to_json(),
    )
    placement: Placement = solution.placement_on(instance)
    return placement


def _show(data: ReplayData, csv_file: str | None, picture: str | None, *, as_json: bool) -> None:
    from moeplace.base import style
    from moeplace.base.files import write_bytes
    from moeplace.report import replaying

    if csv_file is not None:
        write_bytes(csv_file, replaying.as_table(data))
    if picture is not None:
        with style.drawing():
            drawn = style.rendered(replaying.figure(data, one_line(data.folder.name)), style.picture_format(picture))
        write_bytes(picture, drawn)
    if as_json:
        click.echo(json.dumps(data.document(), indent=2, ensure_ascii=False))
        return
    rows = data.rows()
    lines = [("replay", "; ".join(replaying.facts(data)))]
    headings = [column.heading for column in replaying.columns(data)]

    def table(chosen: Sequence[Any]) -> Any:
        made = screen.table(*headings, right=",".join(headings[2:]))
        for cells in replaying.cells(data, chosen):
            made.add_row(*cells)
        return made

    parts: list[Any] = [screen.facts(lines), ""]
    if rows:
        parts += [table(rows), "", table(data.sums(rows)), "", replaying.below(data)]
    done, total = len(rows), len(data.paid) * len(data.run.plan.policies)
    written = "".join(f", {one_line(file)}" for file in (csv_file, picture) if file is not None)
    parts.append(f"{done:,} of {number(total, 'payment')} in {one_line(str(data.folder))}{written}")
    screen.show(*parts)
