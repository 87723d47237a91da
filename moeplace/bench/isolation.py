"""One run in a process of its own, with limits that hold whatever the method does.

The process is forked from a worker that has the libraries imported and the instance read, so that starting one costs
milliseconds; what a method does to its memory, its modules or its instance ends with it. It hands over a solution
document, which the worker checks against its own instance. The method's time runs from its first instruction;
``grace`` seconds past the limit it is asked to end (SIGTERM, which our methods take as Ctrl-C), as many seconds later
it is killed with everything it started.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from moeplace.base.errors import InputError
from moeplace.bench.messages import (
    Began,
    Describe,
    Description,
    Done,
    Failed,
    Frames,
    Progressed,
    Report,
    Task,
    framed,
    read_available,
    write_all,
)
from moeplace.bench.records import RunStatus

if TYPE_CHECKING:
    from moeplace.base.registry import Method

START_S = 60.0
"""Seconds that importing a method may take."""
_TICK_S = 0.05
"""How often the memory of the process and its descendants is looked at."""
_TAIL = 2000
MOST_TRACEBACK = 8000
"""Characters of a traceback that are kept."""
_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass
class Ending:
    """How the process of a run has ended.

    ``report`` is its last word, if it had one; ``stopped`` says which limit the worker ended it for;
    ``abandoned``: the worker was told to give up.
    """

    report: Done | Failed | Description | None = None
    stopped: RunStatus | None = None
    message: str = ""
    signal: int | None = None
    exit_code: int = 0
    abandoned: bool = False
    trajectory: list[tuple[float, int | None, int | None]] = field(default_factory=list)
    process_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0


def become_subreaper() -> None:
    """Let processes whose parent has ended come to this one (Linux), so that nothing a method starts gets away."""
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def run_isolated(
    work: Callable[[Callable[[Report], None]], None],
    *,
    time_limit: float,
    grace: float,
    memory_limit_bytes: int | None,
    hangup: int,
    forked: Callable[[int], None],
) -> Ending:
    """Fork a process, let it work, and see to it that it ends.

    Parameters
    ----------
    work : callable
        What the process does; it is given the function to report with.
    time_limit, grace : float
        Seconds, see above.
    memory_limit_bytes : int or None
        Most resident memory of the process and its descendants together, looked at every 50 ms.
    hangup : int
        A file descriptor that shows, by its end, that nobody waits for the result any more.

    forked : callable
        Told the number of the process.

    Returns
    -------
    Ending
    """
    ours, theirs = socket.socketpair()
    output, their_output = os.pipe()
    gc.collect()
    gc.freeze()  # what is shared with the process stays shared: its collector leaves it alone
    worker = os.getpid()
    began = time.monotonic()
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; those here are idle ones of libraries, which never run Python.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _child(work, theirs.fileno(), their_output, worker)
    theirs.close()
    os.close(their_output)
    forked(pid)
    try:
        watch = _Watch(pid, ours.fileno(), output, began, time_limit, grace, memory_limit_bytes, hangup)
        return watch.run()
    finally:
        gc.unfreeze()
        ours.close()
        os.close(output)


class _Watch:
    """Follows one process from its start to its end."""

    def __init__(
        self,
        pid: int,
        channel: int,
        output: int,
        began: float,
        time_limit: float,
        grace: float,
        memory_limit: int | None,
        hangup: int,
    ) -> None:
        self.pid, self.channel, self.output, self.hangup = pid, channel, output, hangup
        self.began, self.time_limit, self.grace, self.memory_limit = began, time_limit, grace, memory_limit
        self.ending = Ending()
        self.frames = Frames(Report)
        self.tail = b""
        self.ask = began + START_S
        """When the process is asked to end; killed ``grace`` seconds later."""
        self.running = self.asked = False

    def run(self) -> Ending:
        open_pipes = [self.channel, self.output, self.hangup]
        for fd in (self.channel, self.output):
            os.set_blocking(fd, False)
        while self.ending.report is None and self.ending.stopped is None:
            ready, _, _ = select.select(open_pipes, [], [], _TICK_S)
            if self.hangup in ready and read_at_end(self.hangup):
                self.ending.abandoned = True
                break
            for fd in (self.channel, self.output):
                if fd in ready and not self._read(fd):
                    open_pipes.remove(fd)
            if self.ending.report is None and self._gone():
                self._read(self.channel)
                break
            self._limits()
        self._end()
        return self.ending

    def _read(self, fd: int) -> bool:
        """Take what a pipe has; say whether it is still open."""
        data = read_available(fd)
        if data is None:
            return True
        if fd == self.output:
            self.tail = (self.tail + data)[-_TAIL:]
            return bool(data)
        try:
            messages = self.frames.feed(data)
        except ValueError as error:
            self.ending.report = Failed("failed", f"it wrote on the harness's channel ({error})")
            return True
        for message in messages:
            if isinstance(message, Began):
                self.running = True
                self.ask = time.monotonic() + self.time_limit + self.grace
            elif isinstance(message, Progressed):
                self.ending.trajectory.append((message.seconds, message.latency_ns, message.bound_ns))
            else:
                self.ending.report = message
        return bool(data)

    def _gone(self) -> bool:
        """Return whether the process has ended; it is not waited for, so that its number stays its own."""
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        return bool(psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE)

    def _limits(self) -> None:
        now = time.monotonic()
        if now >= self.ask and not self.asked:
            self.asked = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        if now >= self.ask + self.grace:
            self.ending.stopped = "timeout"
            over = f"still running {2 * self.grace:g} s past its limit of {self.time_limit:g} s"
            self.ending.message = over if self.running else f"not imported within {START_S:g} s"
        used = 0
        for pid in descendants(os.getpid()):
            with contextlib.suppress(psutil.Error):
                used += psutil.Process(pid).memory_info().rss
        self.ending.peak_bytes = max(self.ending.peak_bytes, used)
        if self.memory_limit is not None and used > self.memory_limit:
            self.ending.stopped = "memory"
            self.ending.message = f"{used / 2**30:.2f} GiB resident, the limit is {self.memory_limit / 2**30:.2f} GiB"

    def _end(self) -> None:
        """Kill what is left of the process and of what it started, and take its account."""
        ending = self.ending
        if ending.report is not None:  # it ends by itself, in a moment
            deadline = time.monotonic() + 1.0
            while not self._gone() and time.monotonic() < deadline:
                time.sleep(0.001)
        # Its own group first: as long as it is not waited for, its number is nobody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        ending.process_s = time.monotonic() - self.began
        kill_descendants()
        ending.cpu_s = usage.ru_utime + usage.ru_stime
        ending.peak_bytes = max(ending.peak_bytes, usage.ru_maxrss * (1024 if _LINUX else 1))
        if os.WIFSIGNALED(status):
            ending.signal = os.WTERMSIG(status)
        else:
            ending.exit_code = os.WEXITSTATUS(status)
        if ending.report is None and ending.stopped is None:
            self._read(self.output)
            lines = self.tail.decode(errors="replace").split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "")
            if ending.signal is not None:
                ending.message = f"its process was killed by {signal.Signals(ending.signal).name}"
            else:
                ending.message = f"its process ended with exit code {ending.exit_code} and without a result"
            ending.message += f": {said[:200]}" if said else ""


def kill_descendants() -> None:
    """Kill every process below this one, and reap ended children."""
    for _ in range(20):  # one that is just being started escapes the first round
        found = descendants(os.getpid())
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0 if found else os.WNOHANG)[0]:
                pass
        if not found:
            break


def descendants(pid: int) -> list[int]:
    """Return the processes below one, its children first."""
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        # Not Linux, or a kernel that does not list them: by way of every process there is.
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return found + [below for child in found for below in descendants(child)]


def read_at_end(fd: int) -> bool:
    """Return whether a pipe that has something to read has come to its end; what it has stays in it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(event & (select.POLLHUP | select.POLLERR) and not event & select.POLLIN for _, event in poll.poll(0))


# --- in the process of the run ------------------------------------------------------------------------------------


def _child(work: Callable[[Callable[[Report], None]], None], channel: int, output: int, worker: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        if _LINUX:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != worker:  # it ended before that
                os._exit(1)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
                file.write("1000")  # short of memory, the kernel ends this process and not the harness
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        channel = os.dup(channel)  # past the standard streams, whatever their numbers were
        # The worker's own pipes must not be within a method's reach.
        os.closerange(3, channel)
        os.closerange(channel + 1, 4096)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
        lock = threading.Lock()

        def report(message: Report) -> None:
            with lock:
                write_all(channel, framed(message))

        try:
            work(report)
        except KeyboardInterrupt:
            report(Failed("timeout", "it was asked to end after its limit, and did so without a placement"))
        except MemoryError as error:
            report(Failed("memory", f"MemoryError: {error}"))
        except BaseException as error:
            report(Failed("failed", f"{type(error).__name__}: {error}", _traceback(error)))
        code = 0
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_method(task: Task, instance: Any, report: Callable[[Report], None]) -> None:
    """Run a method and report what becomes of it (in the process of the run)."""
    from importlib import import_module

    from moeplace.base.errors import (
        BoundError,
        InfeasibleError,
        MethodError,
        MethodLimitError,
        MoeplaceError,
        NoSolutionError,
    )
    from moeplace.base.registry import find_method, method_info
    from moeplace.base.result import REFUSED_CLAIM
    from moeplace.problems import problem_of
    from moeplace.solving import solve

    find_here(task.method)
    try:
        group = problem_of(instance).methods
        for module in method_info(find_method(task.method, group)).imports:
            import_module(module)
        progress = _Improvements(report)
        report(Began())
        progress.began = time.perf_counter()
        solution = solve(
            instance,
            task.method,
            time_limit=task.time_limit,
            seed=task.seed,
            threads=task.threads,
            progress=progress,
            **task.parameters,
        )
        if REFUSED_CLAIM in solution.details:
            report(Failed("false_bound", str(solution.details[REFUSED_CLAIM])))
        else:
            report(Done(solution.to_json()))
    except MethodLimitError as error:
        report(Failed("refused", error.reason))
    except NoSolutionError as error:
        report(Failed("no_solution", error.reason))
    except InfeasibleError as error:
        report(Failed("infeasible", str(error)))
    except BoundError as error:
        report(Failed("false_bound", str(error)))
    except MethodError as error:
        status: RunStatus = "memory" if isinstance(error.__cause__, MemoryError) else "failed"
        report(Failed(status, str(error), _traceback(error.__cause__)))
    except MoeplaceError as error:
        report(Failed("failed", str(error)))


def _traceback(error: BaseException | None) -> str | None:
    """Return the end of an error's traceback, where its cause is."""
    return "".join(traceback.format_exception(error))[-MOST_TRACEBACK:] if error is not None else None


def describe_method(asked: Describe, report: Callable[[Report], None]) -> None:
    """Import a method and report what it says of itself (in a process of its own)."""
    from moeplace.base.errors import MoeplaceError
    from moeplace.base.registry import method_info

    find_here(asked.method)
    try:
        method = checked_method(asked)
        info = method_info(method)
        ours = method.__module__.split(".")[0] in ("moeplace", "moeplace_models")
        # What somebody else's method needs is imported in its own processes only.
        description = Description([method.__module__, *info.imports] if ours else [], info.seeded(asked.parameters))
    except MoeplaceError as error:
        description = Description(error=str(error))
    report(description)


def checked_method(asked: Describe) -> Method:
    """Import a method that has the parameters it is given.

    Raises
    ------
    InputError
        It does not exist, cannot be loaded or has not such a parameter.
    MethodError
        It does not take what every method must take.
    """
    from moeplace.base.registry import COMMON, check_parameters, find_method

    method = find_method(asked.method, asked.group)
    for key in asked.parameters:
        if key in ("instance", "method", *COMMON):
            raise InputError(f"{key} is no parameter of a method; {asked.method} gets it from the benchmark")
    # A gap of 0 is what every method is asked for anyway.
    check_parameters(asked.method, method, {k: v for k, v in asked.parameters.items() if k != "gap" or v})
    return method


def find_here(method: str) -> None:
    """Let ``module:function`` be found in the current folder."""
    if ":" in method and "" not in sys.path:
        sys.path.insert(0, "")


class _Improvements:
    """Passes on what a method reports where it improves, with the time on this side's clock, not on the method's."""

    def __init__(self, report: Callable[[Report], None]) -> None:
        self._report = report
        self.began = 0.0
        self._latency_ns: int | None = None
        self._bound_ns: int | None = None

    def __call__(self, progress: Any) -> None:
        latency_ns, bound_ns = self._latency_ns, self._bound_ns
        if progress.latency_ns is not None:
            reported = index(progress.latency_ns)
            latency_ns = reported if latency_ns is None else min(reported, latency_ns)
        if progress.bound_ns is not None:
            proven = index(progress.bound_ns)
            bound_ns = proven if bound_ns is None else max(proven, bound_ns)
        if (latency_ns, bound_ns) != (self._latency_ns, self._bound_ns):
            self._latency_ns, self._bound_ns = latency_ns, bound_ns
            self._report(Progressed(time.perf_counter() - self.began, latency_ns, bound_ns))


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
