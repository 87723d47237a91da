"""Working off a plan: what is missing in a run directory is run, what has finished is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from moeplace.base.errors import InputError, naming
from moeplace.base.registry import METHODS, installed
from moeplace.bench.folders import begun
from moeplace.bench.isolation import checked_method
from moeplace.bench.messages import Describe, Description, Task
from moeplace.bench.planning import check_extends, tasks_of
from moeplace.bench.pool import Finished, Pool
from moeplace.bench.records import (
    BenchPlan,
    Environment,
    PlannedInstance,
    PlannedMethod,
    Record,
    RecordWriter,
    Run,
    checked_costs,
    read_plan,
    refuted,
    without_result,
)

WRONG = ("failed", "crashed", "timeout", "memory", "infeasible", "wrong_cost", "false_bound")
"""Statuses that are a method's fault."""


def described(methods: Sequence[PlannedMethod], descriptions: Sequence[Description]) -> list[PlannedMethod]:
    """Return methods with what they say of their seed.

    Raises
    ------
    InputError
        One does not exist or has not a parameter that it is given.
    """
    result: list[PlannedMethod] = []
    for method, description in zip(methods, descriptions, strict=True):
        if description.error is not None:
            raise InputError(description.error)
        result.append(msgspec.structs.replace(method, seeded=description.seeded))
    return result


def check_methods(methods: Sequence[PlannedMethod], group: str = METHODS) -> None:
    """Refuse methods as far as that takes nobody else's code: that is imported in processes of its own only.

    Raises
    ------
    InputError
        One is given twice, is not installed, or is ours and has not a parameter that it is given.
    """
    entries = {entry.name: entry.value for entry in installed(group)}
    for i, (method, order) in enumerate(zip(methods, describe_orders(methods, group), strict=True)):
        for other in methods[:i]:
            if other.name == method.name or (other.method, other.parameters) == (method.method, method.parameters):
                also = f", the other time as {other.name}" if other.name != method.name else ""
                raise InputError(f"the method {method.name} is given twice{also}")
        unknown = ":" not in method.method and method.method not in entries
        if unknown or (method.parameters and entries.get(method.method, "").startswith("moeplace.")):
            checked_method(order)


def check_goes_on(folder: Path, earlier: Run, plan: BenchPlan, instances: Sequence[PlannedInstance]) -> None:
    """Refuse what :func:`opened` will refuse of a plan whose methods have not yet been asked about their seeds.

    Raises
    ------
    InputError
        The plan does not extend the earlier run's.
    """
    before = {method.name: method for method in earlier.plan.methods}
    methods = [
        msgspec.structs.replace(method, seeded=before.get(method.name, method).seeded) for method in plan.methods
    ]
    with naming(folder):
        check_extends(earlier, msgspec.structs.replace(plan, methods=methods), instances)


def describe_orders(methods: Sequence[PlannedMethod], group: str = METHODS) -> list[Describe]:
    """Return what a pool is asked of methods, by the entry point group of their problem."""
    return [Describe(method.method, method.parameters, group) for method in methods]


@dataclass
class Progress:
    """How far a benchmark is.

    Attributes
    ----------
    total, done, before : int
        Runs of the plan; of these recorded; of these recorded when the harness began.
    statuses : Counter
        How the recorded ones ended.
    """

    total: int
    done: int
    before: int
    statuses: Counter[str] = field(default_factory=Counter)
    _spent: dict[str, tuple[float, int]] = field(default_factory=dict)
    _waiting: Counter[str] = field(default_factory=Counter)

    def remaining_s(self, time_limit: float, workers: int) -> float:
        """Estimate the seconds left: each method as it was on average so far, or its limit where it has not run."""
        left = 0.0
        for method, runs in self._waiting.items():
            seconds, count = self._spent.get(method, (0.0, 0))
            left += runs * (seconds / count if count else time_limit)
        return left / max(workers, 1)

    def add(self, record: Record) -> None:
        """Count a record."""
        seconds, count = self._spent.get(record.method, (0.0, 0))
        self._spent[record.method] = seconds + record.process_s, count + 1
        self.statuses[record.status] += 1
        self.done += 1

    def waits(self, method: str, runs: int) -> None:
        """Count runs that are still to come, or no longer (below zero)."""
        self._waiting[method] += runs


class RunFolder:
    """A run directory that this process alone writes to; made by :func:`opened`.

    Attributes
    ----------
    run : Run
        Its plan, extended by what was asked for now. ``tasks`` are all its runs.
    notes : list of str
        What the user should know: an environment that is not the first one.
    """

    def __init__(self, folder: Path, run: Run, writer: RecordWriter, notes: list[str]) -> None:
        self.folder, self.run, self.notes = folder, run, notes
        self._writer = writer
        self.tasks = tasks_of(run)
        self._costs = checked_costs(writer.records, run.instances)

    @property
    def records(self) -> list[Record]:
        """What is recorded."""
        return self._writer.records

    def missing(self) -> list[Task]:
        """Return the runs of the plan that are not recorded."""
        recorded = {record.key for record in self.records}
        return [task for task in self.tasks if task.key not in recorded]

    def work(
        self, pool: Pool, stopped: Callable[[], bool], tell: Callable[[Progress], None] = lambda progress: None
    ) -> Progress:
        """Run what is missing.

        Parameters
        ----------
        pool : Pool
        stopped : callable
            Whether to stop; what is under way is then ended and not recorded.
        tell : callable
            Told how far it is, at the beginning and after every run.

        Returns
        -------
        Progress

        Raises
        ------
        OutputError
            A record cannot be written; those before it are there.
        """
        tasks = self.missing()
        before = len(self.tasks) - len(tasks)
        progress = Progress(len(self.tasks), before, before)
        progress.statuses.update(record.status for record in self.records)
        for task in tasks:
            progress.waits(task.label, 1)
        tell(progress)
        if tasks:
            for finished in pool.results(tasks, stopped):
                record = self._add(finished)
                progress.waits(record.method, -1)
                progress.add(record)
                tell(progress)
        return progress

    def _add(self, finished: Finished) -> Record:
        record = finished.record
        # A bound that an earlier run refutes is marked at once; one that a later run will, when the run is read.
        if (message := refuted(record, self._costs)) is not None:
            record = msgspec.structs.replace(without_result(record, "false_bound", message), solution=None)
        self._writer.add(record, finished.solution)
        if record.status == "ok":
            self._costs.add(record.sha256, record.latency_ns, record.who)
        return record


@contextmanager
def opened(
    folder: Path, plan: BenchPlan, instances: Sequence[PlannedInstance], environment: Environment
) -> Iterator[RunFolder]:
    """Make a run directory, or go on with one that the plan extends.

    Raises
    ------
    InputError
        Another harness is at work there; the run was made with another plan; the folder holds something else.
    OutputError
        It cannot be written to.
    """

    def planned(earlier: Run | None, environments: list[Environment]) -> Run:
        if earlier is not None:
            check_extends(earlier, plan, instances)
        return Run("moeplace/run", 1, environments[0], plan, list(instances), environments[1:])

    with begun(folder, environment, read_plan, planned) as (run, notes), closing(RecordWriter(folder)) as writer:
        yield RunFolder(folder, run, writer, notes)
