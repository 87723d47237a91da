"""``moeplace bench``: methods over suites of instances, each run in a process of its own, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from moeplace.base.errors import InputError
from moeplace.base.text import bar, number, one_line
from moeplace.cli import INTERRUPTED, screen
from moeplace.cli.options import file_name, find_methods_here, parameter_value, threads_option

if TYPE_CHECKING:
    from moeplace.base.stop import Stop
    from moeplace.bench.harness import Progress, RunFolder
    from moeplace.bench.records import BenchPlan, PlannedMethod, Record, Run

GRACE_S = 5.0


@click.command(
    epilog="Exit codes: 0 done (a method that refuses an instance counts as done), 1 a run failed or a bound is false, "
    "2 bad usage or input, 130 interrupted."
)
@click.argument("suites", type=file_name, nargs=-1, required=True, metavar="SUITE...|RUN")
@click.option("--methods", metavar="A,B[K=V],C", help="Methods: names or module:function, with parameters in brackets.")
@click.option(
    "--add", metavar="A,B", help="Methods to add to a RUN that is there already, given in the place of suites."
)
@click.option("--methods-file", type=file_name, metavar="TOML", help="More methods, with names of their own.")
@click.option("--seeds", default="0", show_default=True, metavar="N,N-N", help="Seeds: numbers and ranges.")
@click.option("--time-limit", type=float, default=60.0, show_default=True, metavar="S", help="Seconds a run.")
@click.option(
    "--grace",
    type=float,
    default=GRACE_S,
    show_default=True,
    metavar="S",
    help="A method this long past its limit is asked to end, and killed as long after that.",
)
@click.option(
    "--memory-limit",
    type=float,
    default=4.0,
    show_default=True,
    metavar="GIB",
    help="Resident memory a run may use; 0 is no limit.",
)
@click.option("--workers", type=int, metavar="N", help="Runs at a time.  [default: one for every --threads cores]")
@threads_option
@click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler (extra: cluster).")
@click.option("-o", "--output", type=file_name, metavar="RUN", help="The run directory; made if missing.")
def bench(
    suites: tuple[str, ...],
    methods: str | None,
    add: str | None,
    methods_file: str | None,
    seeds: str,
    time_limit: float,
    grace: float,
    memory_limit: float,
    workers: int | None,
    threads: int,
    scheduler: str | None,
    output: str | None,
) -> int:
    """Run every method with every seed on every instance of each SUITE, and keep what comes of it in RUN.

    A SUITE is a set of the library, a folder of instances, or an instance file. Methods whose result does not depend
    on the seed are run once, with seed 0. Every placement is checked before it counts. Stopped at any moment, the same
    command goes on where it was; with more methods, seeds or instances it extends the run.

    \b
    moeplace bench small --methods cpsat,greedy --seeds 0-4 -o runs/first
    moeplace bench runs/first                                  go on with what is missing
    moeplace bench runs/first --add popular --seeds 5-9        more methods, more seeds; the limits stay
    """  # noqa: D301 - click looks for a real backspace
    if not hasattr(os, "fork"):
        raise InputError("moeplace bench needs an operating system with fork: Linux or macOS")
    from msgspec import structs

    from moeplace.base.registry import METHODS
    from moeplace.base.stop import stopping
    from moeplace.bench import environment, folders, harness, planning
    from moeplace.bench.pool import LocalPool
    from moeplace.bench.records import RUN, BenchPlan, locate, read_plan
    from moeplace.problems import problem_of_file
    from moeplace.solving import check_limits

    check_limits(time_limit=time_limit, seed=0, threads=threads)
    numbers = planning.read_seeds(seeds)
    for name, value in (("grace", grace), ("memory limit", memory_limit)):
        if not 0 <= value < 2**40:
            raise InputError(f"the {name} must be a number >= 0, found {value}")
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, found {workers}")
    if workers is not None and scheduler is not None:
        raise InputError("--workers is for this machine; with --scheduler the cluster has as many as it has threads")
    for text, what in ((methods, "a method"), (add, "a method"), (scheduler, "the address of a scheduler")):
        planning.check_text(text or "", what)
    for suite in suites:
        planning.check_text(suite, "the name of a suite")
    limits: dict[str, Any] = {
        "time_limit": time_limit,
        "grace": grace,
        "memory_limit_bytes": int(memory_limit * 2**30) or None,
        "threads": threads,
    }
    earlier: Run | None
    if len(suites) == 1 and folders.is_run(Path(suites[0])):
        folder = Path(suites[0])
        _refuse_for_a_run(folder, methods, output)
        folders.check_folder(folder)
        earlier = read_plan(folder)
        given = {name for name in limits if _is_given(name.removesuffix("_bytes"))}
        more = _methods(add, methods_file)
        seeds_too = numbers if _is_given("seeds") else []
        plan = planning.extended(earlier.plan, more, seeds_too, **{name: limits[name] for name in given})
        files = [(instance.set, locate(instance)) for instance in earlier.instances]
        threads = plan.threads
    else:
        if add is not None:
            raise InputError("is no run directory; --add is for one that is there already", file=suites[0])
        if output is None:
            raise click.MissingParameter(param_hint="'-o' / '--output'", param_type="option")
        chosen = _methods(methods, methods_file)
        if not chosen:
            raise click.UsageError("no method is given: --methods or --methods-file")
        folder = Path(output)
        folders.check_folder(folder, suites)
        files = planning.suite_files(suites)
        earlier = read_plan(folder) if (folder / RUN).exists() else None
        plan = BenchPlan(suites=list(suites), methods=chosen, seeds=numbers, **limits)
    at_once = workers or max(1, environment.cores() // threads)
    group = problem_of_file(files[0][1])[0].methods if files else METHODS
    find_methods_here([method.method for method in plan.methods])
    harness.check_methods(plan.methods, group)
    with stopping() as stop, ExitStack() as stack:
        with _reading(len(files), stop) as reading:
            instances = planning.planned_instances(files, earlier, reading)
        if earlier is not None:
            harness.check_goes_on(folder, earlier, plan, instances)
        local = stack.enter_context(LocalPool(1 if scheduler else at_once, threads))
        descriptions = local.describe(harness.describe_orders(plan.methods, group))
        plan = structs.replace(plan, methods=harness.described(plan.methods, descriptions))
        if scheduler:
            from moeplace.bench.cluster import cluster_pool

            pool: Any = cluster_pool(scheduler, threads, local.modules)
            at_once = pool.workers
        else:
            pool = local
        here = environment.capture(at_once, scheduler)
        with pool, harness.opened(folder, plan, instances, here) as run:
            for note in [*run.notes, *([] if scheduler else _warnings(at_once, plan, here))]:
                click.echo(f"note: {one_line(note)}", err=True)
            with _progress(plan, at_once, lambda: stop.interrupted) as tell:
                progress = run.work(pool, lambda: bool(stop), tell)
        return _sum_up(run, progress, stop.interrupted)


def _refuse_for_a_run(folder: Path, methods: str | None, output: str | None) -> None:
    """Refuse options that are for suites where a run directory is given in their place."""
    if methods is not None:
        raise InputError("is a run directory: --add adds methods to it, --methods is for suites", file=str(folder))
    if output is not None:
        raise InputError("is a run directory, which goes on in its own folder: -o is for suites", file=str(folder))


def _is_given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def _methods(methods: str | None, methods_file: str | None) -> list[PlannedMethod]:
    from moeplace.bench.planning import method_specification, read_methods, split_methods

    chosen = [method_specification(text, parameter_value) for text in split_methods(methods)] if methods else []
    chosen += read_methods(methods_file) if methods_file else []
    return chosen


def _warnings(workers: int, plan: BenchPlan, here: Any) -> Iterator[str]:
    if workers * plan.threads > here.cores:
        said = f"{workers} workers of {number(plan.threads, 'thread')} on {number(here.cores, 'core')}"
        yield f"{said}: times will be longer than on an idle machine"
    elif here.load_average is not None and here.load_average + workers * plan.threads > here.cores + 0.5:
        yield f"the machine is at work already (load {here.load_average}): times will be longer than on an idle one"
    if plan.memory_limit_bytes and workers * plan.memory_limit_bytes > here.memory_bytes:
        yield f"{workers} runs within the memory limit may together take more memory than there is"


@contextmanager
def _reading(total: int, stop: Stop) -> Iterator[Callable[[int, Path], None]]:
    """Show which instance is being read, on a terminal; give up between two where somebody asks to stop."""
    with screen.line() as show:

        def reading(done: int, path: Path) -> None:
            if stop:
                raise KeyboardInterrupt
            show(f"reading instances  {done + 1} of {total}  {path.name}")

        yield reading


@contextmanager
def _progress(plan: BenchPlan, workers: int, interrupted: Callable[[], bool]) -> Iterator[Callable[[Progress], None]]:
    """Show how far the benchmark is, on a terminal."""
    import time

    latest: list[tuple[Progress, float]] = []

    def text() -> str:
        if not latest:
            return ""
        progress, at = latest[-1]
        share = progress.done / progress.total if progress.total else 1.0
        left = max(0.0, progress.remaining_s(plan.time_limit, workers) - (time.monotonic() - at))
        parts = [f"{bar(share, 24)}  {progress.done:,} of {progress.total:,} runs", f"{_clock(left)} left"]
        parts += [f"{count} {status}" for status, count in sorted(progress.statuses.items()) if status != "ok"]
        return "  ".join(parts) + ("  stopping" if interrupted() else "")

    with screen.line(text):
        yield lambda progress: latest.append((progress, time.monotonic()))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _failures(records: Sequence[Record]) -> Iterator[str]:
    """Say what went wrong; runs of a method that ended in the same way share a line."""
    alike: dict[tuple[str, str, str | None], list[Record]] = {}
    for record in records:
        alike.setdefault((record.status, record.method, record.message), []).append(record)
    for (status, method, message), (first, *others) in alike.items():
        if others:
            runs = number(1 + len(others), "run")
            yield f"{status}: {runs} of {method}: {message} (first: {first.instance}, seed {first.seed})"
        else:
            yield f"{status}: {first.instance}: {first.who}: {message}"


def _sum_up(run: RunFolder, progress: Progress, interrupted: bool) -> int:
    from collections import Counter

    from moeplace.bench.harness import WRONG
    from moeplace.bench.records import cross_checked

    planned = {task.key for task in run.tasks}
    records, contradictions = cross_checked(run.records, run.run.instances)
    records = [record for record in records if record.key in planned]
    statuses = [
        status for status in ("ok", "refused", "no_solution", *WRONG) if any(r.status == status for r in records)
    ]
    columns = ["method", "runs", "proven", *(status.replace("_", " ") for status in statuses), "seconds"]
    table = screen.table(*columns, right=",".join(columns[1:]))
    for method in run.run.plan.methods:
        own = [record for record in records if record.method == method.name]
        count = Counter[str](record.status for record in own)
        proven = sum(r.status == "ok" and r.latency_ns == r.bound_ns for r in own)
        seconds = sum(record.process_s for record in own)
        cells = [len(own), proven, *(count[status] for status in statuses)]
        table.add_row(one_line(method.name), *map(str, cells), f"{seconds:.1f}")
    lines: list[Any] = [table, ""]
    lines += map(one_line, _failures([record for record in records if record.status in WRONG]))
    new = progress.done - progress.before
    lines.append(f"{number(progress.done, 'run')} of {progress.total:,} in {one_line(str(run.folder))}, {new:,} new")
    screen.show(*lines)
    for line in contradictions:
        click.echo(f"ERROR {one_line(line)}", err=True)
    if interrupted:
        click.echo("moeplace bench: interrupted; the same command goes on from here", err=True)
        return INTERRUPTED
    return 1 if contradictions or any(record.status in WRONG for record in records) else 0
