"""A worker of the harness: ``python -m moeplace.bench.worker``, one run at a time, asked and answering through pipes.

It has the libraries imported and the instance read, forks a process for every run (:mod:`moeplace.bench.isolation`),
and checks what comes back: it never runs a method itself. When its standard input ends, so does it, with the run that
it has under way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from moeplace.base.errors import InputError, MoeplaceError
from moeplace.base.registry import installed
from moeplace.bench.isolation import Ending, become_subreaper, describe_method, run_isolated, run_method
from moeplace.bench.messages import (
    Answer,
    Describe,
    Description,
    Done,
    Failed,
    Forked,
    Frames,
    Order,
    Prepare,
    Ready,
    Result,
    Task,
    Trouble,
    framed,
    read_available,
    write_all,
)
from moeplace.bench.records import Record, RunStatus
from moeplace.problems import load, problem_of

MOST_POINTS = 400
"""Points of a trajectory that are kept."""


class Worker:
    """Answers orders; keeps the last instance that it has read.

    Parameters
    ----------
    hangup : int
        The file descriptor whose end means that nobody waits any more.
    forked : callable
        Told the number of every process that is forked.
    """

    def __init__(self, hangup: int, forked: Callable[[int], None]) -> None:
        self._hangup, self._forked = hangup, forked
        self._instance: Any = None
        self._warm = False

    def answer(self, order: Order) -> Answer | None:
        """Do what is asked; None where nobody waits for the answer any more."""
        if isinstance(order, Prepare):
            return self._prepare(order.modules)
        if isinstance(order, Describe):
            return self._describe(order)
        return self._run(order)

    def _prepare(self, modules: Sequence[str]) -> Answer:
        for module in ("moeplace.solving", *modules):
            # What cannot be imported here will fail in the run, where it is recorded.
            with contextlib.suppress(Exception):
                import_module(module)
        if "moeplace.caching._kernels" in modules and not self._warm:
            warm_up()
            self._warm = True
        return Ready()

    def _describe(self, order: Describe) -> Answer | None:
        _list_methods(order.method, order.group)
        ending = run_isolated(
            lambda report: describe_method(order, report),
            time_limit=0.0,
            grace=1.0,
            memory_limit_bytes=None,
            hangup=self._hangup,
            forked=self._forked,
        )
        if ending.abandoned:
            return None
        if isinstance(ending.report, Description):
            return ending.report
        message = ending.report.message if isinstance(ending.report, Failed) else ending.message
        return Description(error=f"{order.method!r} cannot be loaded: {message}")

    def _run(self, task: Task) -> Answer | None:
        try:
            instance = self._load(task)
        except MoeplaceError as error:
            return Trouble(str(error))
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        _list_methods(task.method, problem_of(instance).methods)
        ending = run_isolated(
            lambda report: run_method(task, instance, report),
            time_limit=task.time_limit,
            grace=task.grace,
            memory_limit_bytes=task.memory_limit_bytes,
            hangup=self._hangup,
            forked=self._forked,
        )
        if ending.abandoned:
            return None
        record, document = judged(task, instance, ending, started)
        # Nobody ends his own process with SIGKILL: somebody else did, or the kernel, for want of memory.
        killed = record.status == "crashed" and ending.signal == signal.SIGKILL
        return Result(record, document, killed)

    def _load(self, task: Task) -> Any:
        if self._instance is None or self._instance.sha256 != task.sha256:
            self._instance = None  # the old one need not be in memory beside the new one
            self._instance = load(task.path)
        if self._instance.sha256 != task.sha256:
            raise InputError("has changed since the run was planned", file=task.path)
        return self._instance


def _list_methods(method: str, group: str) -> None:
    """Have the entry points read here, where a method is looked for there: reading them takes as long as many a run."""
    if ":" not in method:
        installed(group)


def warm_up() -> None:
    """Let the heuristics' compiled loops be loaded, which takes longer than most of their runs, on tiny instances."""
    from moeplace.library import instance_files
    from moeplace.solving import solve

    with contextlib.suppress(MoeplaceError):  # without the library, every run loads them by itself
        for path in instance_files("tiny"):
            instance = load(path)
            for method in ("greedy", "local-search", "max-convolution"):
                solve(instance, method)


def judged(task: Task, instance: Any, ending: Ending, started: str) -> tuple[Record, bytes | None]:
    """Return the record of a run, and its solution document where the placement counts.

    The document comes from the process of the method. It is read anew, its placement is checked against this
    process's instance, and every number that the method claimed, also on its way, is compared.
    """
    status, message, solution = _verdict(instance, ending)
    ok = status == "ok" and solution is not None
    said = solution if ok else None
    trajectory = thinned(ending.trajectory)
    if said is not None and solution is not None:
        last = (solution.wall_s or 0.0, said.value, said.bound)
        trajectory = [point for point in trajectory if point[0] < last[0]] + [last]
    record = Record(
        key=task.key,
        set=task.set,
        instance=task.instance,
        sha256=task.sha256,
        method=task.label,
        parameters=task.parameters,
        seed=task.seed,
        threads=task.threads,
        time_limit=task.time_limit,
        status=status,
        message=message,
        termination=solution.status.termination if solution is not None and ok else None,
        latency_ns=said.value if said else None,
        baseline_ns=problem_of(instance).reference(instance),
        bound_ns=said.bound if said else None,
        bound_source=solution.bound_source if solution is not None and ok else None,
        guarantee=solution.guarantee if solution is not None and ok else None,
        picked_because=solution.picked_because if solution is not None and ok else None,
        wall_s=solution.wall_s if solution is not None and ok else None,
        process_s=round(ending.process_s, 4),
        cpu_s=round(ending.cpu_s, 4),
        peak_bytes=ending.peak_bytes,
        trajectory=[(round(seconds, 4), latency, bound) for seconds, latency, bound in trajectory],
        started=started,
        worker="",
        solution=f"solutions/{task.key}.json" if ok else None,
        traceback=ending.report.traceback if isinstance(ending.report, Failed) else None,
    )
    return record, solution.to_json() if solution is not None and ok else None


def _verdict(instance: Any, ending: Ending) -> tuple[RunStatus, str | None, Any]:
    problem = problem_of(instance)
    kind = problem.decision_type.__name__.lower()
    if ending.stopped is not None:
        return ending.stopped, ending.message, None
    if isinstance(ending.report, Failed):
        return ending.report.status, ending.report.message[:1000], None
    if not isinstance(ending.report, Done):
        return "crashed", ending.message, None
    try:
        solution = problem.read_solution(json.loads(ending.report.solution))
    except (ValueError, RecursionError, InputError) as error:
        return "failed", f"its solution document is damaged: {error}", None
    if solution.wall_s is None or not 0 <= solution.wall_s <= ending.process_s + 0.01:
        return "failed", f"it says that it took {solution.wall_s} s, its process took {ending.process_s:.3f} s", None
    try:
        problem.decision(instance, solution)
    except InputError as error:
        return "infeasible", f"its {kind} does not fit: {error}", None
    report = problem.check(instance, solution, None)
    said, cost = solution, report.value
    if cost is None or said.value != cost:
        return "wrong_cost", f"it says that its {kind} costs {said.value}; the checker finds {cost}", None
    if said.reference != report.reference:
        claim = f"it says that {problem.view.reference} cost {said.reference}; the checker finds {report.reference}"
        return "wrong_cost", claim, None
    lowest = min((latency for _, latency, _ in ending.trajectory if latency is not None), default=cost)
    if lowest < cost:
        return "wrong_cost", f"on its way it reported the cost {lowest}; the {kind} it returned costs {cost}", None
    bounds = [bound for _, _, bound in ending.trajectory if bound is not None]
    if said.bound is not None:
        bounds.append(said.bound)
    if bounds and max(bounds) > cost:
        return "false_bound", f"its bound {max(bounds)} is above the cost {cost} of its own {kind}", None
    if solution.status.termination == "optimal" and said.bound != cost:
        return "false_bound", f"it calls its {kind} optimal; its bound is {said.bound}, the cost {cost}", None
    if not report.ok:
        return "failed", f"the checker rejects its solution: {report.violations[0]}", None
    return "ok", None, solution


def thinned(
    trajectory: list[tuple[float, int | None, int | None]], most: int = MOST_POINTS
) -> list[tuple[float, int | None, int | None]]:
    """Return at most about ``most`` points of a trajectory: the first, and the last of each equal share of the time.

    Examples
    --------
    >>> thinned([(0.0, 9, None), (0.1, 8, None), (0.2, 7, None), (1.0, 5, None)], most=2)
    [(0.0, 9, None), (0.2, 7, None), (1.0, 5, None)]
    """
    if len(trajectory) <= most:
        return trajectory
    width = trajectory[-1][0] / most or 1.0
    latest = {int(point[0] / width): point for point in trajectory}
    return [trajectory[0], *(point for point in latest.values() if point is not trajectory[0])]


def orders(fd: int) -> Iterator[Order]:
    """Yield what is asked, until nobody asks any more."""
    frames = Frames(Order)
    while data := read_available(fd):
        yield from frames.feed(data)


def main() -> int:
    """Answer orders from standard input on standard output."""
    # Whoever interrupts the harness is answered by the harness, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    become_subreaper()
    worker = Worker(hangup=0, forked=lambda pid: write_all(answers, framed(Forked(pid))))
    with contextlib.suppress(BrokenPipeError):
        write_all(answers, framed(Ready()))
        for order in orders(0):
            answer = worker.answer(order)
            if answer is None:
                break
            write_all(answers, framed(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
