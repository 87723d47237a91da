"""Workers on this machine: starting them, asking them, replacing one that was killed."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import psutil

from moeplace.base.errors import MoeplaceError
from moeplace.bench.messages import (
    Answer,
    Describe,
    Description,
    Forked,
    Frames,
    Note,
    Order,
    Prepare,
    Result,
    Task,
    Trouble,
    framed,
    read_available,
    write_all,
)
from moeplace.bench.records import Record

ATTEMPTS = 3
"""How often a run is begun whose process, or whose worker, is killed by somebody else."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True)
class Finished:
    """A run's record, and its solution document where the placement counts."""

    record: Record
    solution: bytes | None


class Pool(Protocol):
    """Where runs are run."""

    def results(self, tasks: Sequence[Task], stopped: Callable[[], bool]) -> Iterator[Finished]:
        """Run the tasks and yield what came of each as it finishes.

        Ends early when ``stopped`` says so; what is under way then ends with the pool and comes to nothing.
        """
        ...


class WorkerProcess:
    """A worker as its harness sees it.

    Parameters
    ----------
    name : str
        What records call it.
    threads : int
        Threads that libraries may use by themselves.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
        # The current folder ("") may hold somebody's modules: only the processes of runs look there.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "moeplace.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment,
            start_new_session=True,  # Ctrl-C is the harness's business
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._frames = Frames(Note)
        self._session = 0

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def fileno(self) -> int:
        """Return what becomes readable when it answers or ends."""
        return self._answers

    def send(self, order: Order) -> None:
        """Ask it something; one that has ended shows that where its answer is read."""
        with contextlib.suppress(BrokenPipeError):
            write_all(self._orders, framed(order))

    def available(self) -> list[Answer] | None:
        """Read what is there (waiting until something is) and return its answers; None where it has ended."""
        data = read_available(self._answers)
        if not data:
            return None
        answers: list[Answer] = []
        for note in self._frames.feed(data):
            if isinstance(note, Forked):
                self._session = note.session
            else:
                answers.append(note)
        return answers

    def receive(self) -> Answer | None:
        """Wait for its answer; None where it has ended without one."""
        while (answers := self.available()) is not None:
            if answers:
                return answers[0]  # it gives one to every order
        return None

    def ask(self, order: Order) -> Answer | None:
        """Ask it something and wait for the answer."""
        self.send(order)
        return self.receive()

    def complaint(self) -> str:
        """Return the last line that it wrote on standard error."""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")

    def hang_up(self) -> None:
        """Let it end; do not wait for that."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def close(self) -> None:
        """End it, with the run that it has under way."""
        self.hang_up()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:  # it is reading an instance; its run has ended or ends with it
            self._process.kill()
            self._process.wait()
        _kill_session(self._session)
        self._complaints.close()


def _kill_session(session: int) -> None:
    """Kill what a method has started and what outlived its worker, because that was killed."""
    for pid in psutil.pids() if session else ():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


def start_worker(name: str, threads: int) -> WorkerProcess:
    """Start a worker and wait until it is ready.

    Raises
    ------
    MoeplaceError
        It does not start; with the last line that it wrote.
    """
    worker = WorkerProcess(name, threads)
    return _ready(worker)


def _ready(worker: WorkerProcess) -> WorkerProcess:
    if worker.receive() is None:
        complaint = worker.complaint()
        worker.close()
        raise MoeplaceError(f"a worker process does not start: {complaint}")
    return worker


class LocalPool:
    """A number of workers on this machine.

    Parameters
    ----------
    workers : int
        Runs at a time.
    threads : int
        Threads of each run.

    Attributes
    ----------
    modules : list of str
        What the described methods import; workers do so before they fork.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self._threads = threads
        self.modules: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._workers = [WorkerProcess(f"local-{i}", threads) for i in range(workers)]  # they start side by side
        try:
            for worker in self._workers:
                _ready(worker)
        except BaseException:
            self.close()
            raise

    def describe(self, asked: Sequence[Describe]) -> list[Description]:
        """Ask what methods say of themselves, each imported in a process of its own.

        Raises
        ------
        MoeplaceError
            The worker has ended.
        """
        descriptions = []
        for order in asked:
            answer = self._workers[0].ask(order)
            if not isinstance(answer, Description):
                raise MoeplaceError(f"a worker process has ended: {self._workers[0].complaint()}")
            descriptions.append(answer)
        self.modules = sorted({module for description in descriptions for module in description.imports})
        return descriptions

    def results(self, tasks: Sequence[Task], stopped: Callable[[], bool]) -> Iterator[Finished]:
        """Run the tasks, see :class:`Pool`.

        Raises
        ------
        MoeplaceError
            A worker does not start, or an instance cannot be read any more.
        """
        waiting, attempts = deque(tasks), Counter[str]()
        busy: dict[WorkerProcess, Task | None] = {}
        idle: list[WorkerProcess] = []
        left = len(tasks)
        for worker in self._workers:
            self._prepare(worker, busy)
        while left and not stopped():
            while idle and waiting:
                worker = idle.pop()
                busy[worker] = task = waiting.popleft()
                worker.send(task)
            for key, _ in self._selector.select(timeout=0.2):
                worker = key.fileobj  # type: ignore[assignment]
                answers = worker.available()
                if answers == []:
                    continue
                given = busy.pop(worker, None)
                answer = answers[0] if answers else None
                if isinstance(answer, Trouble):
                    raise MoeplaceError(answer.message)
                if answer is None:
                    idle = [other for other in idle if other is not worker]
                    self._prepare(self._replaced(worker), busy)
                else:
                    idle.append(worker)
                if given is None:
                    continue
                attempts[given.key] += 1
                result = answer if isinstance(answer, Result) else None
                if (result is None or result.killed) and attempts[given.key] < ATTEMPTS:
                    waiting.appendleft(given)
                else:
                    left -= 1
                    yield finished(given, result, worker.name, attempts[given.key])

    def _prepare(self, worker: WorkerProcess, busy: dict[WorkerProcess, Task | None]) -> None:
        self._selector.register(worker, selectors.EVENT_READ)
        worker.send(Prepare(self.modules))
        busy[worker] = None

    def _replaced(self, worker: WorkerProcess) -> WorkerProcess:
        self._selector.unregister(worker)
        worker.close()
        new = start_worker(worker.name, self._threads)
        self._workers[self._workers.index(worker)] = new
        return new

    def close(self) -> None:
        """End the workers, with the runs that they have under way."""
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.close()
        self._selector.close()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def finished(task: Task, result: Result | None, worker: str, attempts: int) -> Finished:
    """Return what is kept of a run; one whose process or worker was killed again and again has crashed."""
    if result is None:
        message = f"its worker was killed during the run, {attempts} times"
        return Finished(lost_record(task, message, worker), None)
    record = msgspec.structs.replace(result.record, worker=worker)
    if result.killed:
        record = msgspec.structs.replace(record, message=f"{record.message}, {attempts} times")
    return Finished(record, result.solution)


def lost_record(task: Task, message: str, worker: str) -> Record:
    """Return the record of a run of which nothing is known but that it crashed."""
    return Record(
        key=task.key,
        set=task.set,
        instance=task.instance,
        sha256=task.sha256,
        method=task.label,
        parameters=task.parameters,
        seed=task.seed,
        threads=task.threads,
        time_limit=task.time_limit,
        status="crashed",
        message=message,
        termination=None,
        latency_ns=None,
        baseline_ns=None,
        bound_ns=None,
        bound_source=None,
        guarantee=None,
        picked_because=None,
        wall_s=None,
        process_s=0.0,
        cpu_s=0.0,
        peak_bytes=0,
        trajectory=[],
        started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        worker=worker,
        solution=None,
    )
