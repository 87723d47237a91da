"""The same runs on a Dask cluster: inside every Dask worker a worker process of ours, with the same isolation.

Instances travel by content: the bytes of each file are one task of the graph, named by their hash, which the scheduler
can make again wherever a Dask worker is lost. A run whose Dask worker is killed is begun again on another one. Where
the harness is stopped or killed, the scheduler cancels its tasks, and the runs end.
"""

from __future__ import annotations

import atexit
import os
import select
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from moeplace.base.errors import InputError, MoeplaceError
from moeplace.bench.messages import Prepare, Result, Task, Trouble
from moeplace.bench.pool import ATTEMPTS, Finished, WorkerProcess, finished, start_worker

try:
    import distributed
except ImportError:  # pragma: no cover
    distributed = None

_CONNECT_S = 10
_TICK_S = 0.2


def cluster_pool(address: str, threads: int, modules: Sequence[str] = ()) -> ClusterPool:
    """Connect to a Dask scheduler.

    Parameters
    ----------
    address : str
        Such as ``tcp://host:8786``.
    threads : int
        Threads of each run.
    modules : sequence of str
        Libraries that the runs need.

    Raises
    ------
    InputError
        Dask is not installed, nobody answers there, or a worker has another version of moeplace.
    """
    if distributed is None:
        raise InputError("--scheduler needs Dask: install moeplace[cluster]")
    try:
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"no Dask scheduler answers at {address!r}: {reason[:200]}") from None
    try:
        here = version("moeplace")
        try:
            found = client.run(_version)
        except Exception as error:  # above all: moeplace is not installed there
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"a Dask worker cannot run moeplace: {type(error).__name__}: {reason}") from None
        for worker, there in found.items():
            if there != here:
                raise InputError(f"the Dask worker {worker} has moeplace {there}, here it is {here}")
        return ClusterPool(client, threads, modules)
    except BaseException:
        _close(client)
        raise


def _close(client: Any) -> None:
    """Close a client. Dask asserts that this went smoothly; if not, that must not hide what happened before."""
    with suppress(AssertionError, OSError):
        client.close()


class ClusterPool:
    """Runs on a Dask cluster; made by :func:`cluster_pool`."""

    def __init__(self, client: Any, threads: int, modules: Sequence[str]) -> None:
        self._client, self._threads, self._modules = client, threads, list(modules)

    @property
    def workers(self) -> int:
        """Runs at a time, at the moment."""
        return sum(self._client.nthreads().values())

    def results(self, tasks: Sequence[Task], stopped: Callable[[], bool]) -> Iterator[Finished]:
        """Run the tasks, see :class:`~moeplace.bench.pool.Pool`.

        Raises
        ------
        MoeplaceError
            An instance cannot be read, or a worker process does not start.
        """
        with self._client.as_current():
            queue = distributed.as_completed()
        attempts = Counter[str]()
        of: dict[Any, Task] = {}
        contents: dict[str, Any] = {}

        def submit(task: Task) -> None:
            attempts[task.key] += 1
            if task.path not in contents:
                contents[task.path] = self._content(task)
            future = self._client.submit(
                run_here,
                msgspec.msgpack.encode(task),
                contents[task.path],
                self._threads,
                self._modules,
                key=f"moeplace-run-{task.key}-{attempts[task.key]}-{os.getpid()}",
                priority=-len(of),
                pure=False,
            )
            of[future] = task
            queue.add(future)

        # Not all at once: what is submitted is held by the scheduler, and a cancelled queue takes it long to forget.
        waiting = iter(tasks)
        under_way = 0
        for task in waiting:
            submit(task)
            under_way += 1
            if under_way >= 4 * max(1, self.workers):
                break
        while under_way and not stopped():
            if self._client.status != "running":
                raise MoeplaceError("the Dask scheduler is gone; the same command goes on when there is one again")
            batch = queue.next_batch(block=False)
            if not batch:
                time.sleep(0.01)
            for done in batch:
                task = of.pop(done)
                outcome = self._outcome(done, task, attempts[task.key])
                done.release()
                if outcome is None:
                    submit(task)
                    continue
                under_way -= 1
                if (following := next(waiting, None)) is not None:
                    submit(following)
                    under_way += 1
                yield outcome

    def _outcome(self, done: Any, task: Task, attempts: int) -> Finished | None:
        """Return what came of a run; None where it is to be tried again."""
        worker, answer = "cluster", None
        try:
            worker, data = done.result()
            answer = msgspec.msgpack.decode(data, type=Result | Trouble | None)
        except (distributed.KilledWorker, distributed.CancelledError, OSError) as error:
            worker = str(getattr(getattr(error, "last_worker", None), "address", worker))
        except MoeplaceError:
            raise
        except Exception as error:  # raised beside a method, never by one: the cluster is not what it should be
            raise MoeplaceError(f"a Dask worker failed: {type(error).__name__}: {error}") from error
        if isinstance(answer, Trouble):
            raise MoeplaceError(f"{worker}: {answer.message}")
        if (answer is None or answer.killed) and attempts < ATTEMPTS:
            return None
        return finished(task, answer, worker, attempts)

    def _content(self, task: Task) -> Any:
        try:
            data = Path(task.path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=task.path) from None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")  # it is the data, and sent once
            return self._client.submit(_held, data, key=f"moeplace-instance-{task.sha256}", pure=True)

    def close(self) -> None:
        """Give up what is under way and leave the cluster."""
        _close(self._client)

    def __enter__(self) -> ClusterPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# --- in the Dask worker -------------------------------------------------------------------------------------------


_idle: dict[int, list[WorkerProcess]] = {}
"""Worker processes without work, by threads."""
_files: dict[str, str] = {}
_lock = threading.Lock()


def run_here(data: bytes, content: bytes, threads: int, modules: list[str]) -> tuple[str, bytes]:
    """Run a task in a worker process beside this Dask worker; return the Dask worker's name and the answer.

    The worker process is kept for the next task. It is ended when the task is cancelled, and ends when the Dask worker
    does.
    """
    task = msgspec.msgpack.decode(data, type=Task)
    dask_worker = distributed.get_worker()
    name = f"{dask_worker.name}" if dask_worker.name else dask_worker.address
    task = msgspec.structs.replace(task, path=_file(task, content))
    worker = _take(threads, modules)
    worker.send(task)
    key = distributed.worker.thread_state.key
    while True:
        ready, _, _ = select.select([worker], [], [], _TICK_S)
        answers = worker.available() if ready else []
        if answers is None or _cancelled(dask_worker, key):
            worker.close()
            return name, msgspec.msgpack.encode(None)
        if answers:
            with _lock:
                _idle.setdefault(threads, []).append(worker)
            return name, msgspec.msgpack.encode(answers[0])


def _cancelled(dask_worker: Any, key: str) -> bool:
    state = dask_worker.state.tasks.get(key)
    return state is None or state.state == "cancelled"


def _take(threads: int, modules: list[str]) -> WorkerProcess:
    with _lock:
        worker = idle.pop() if (idle := _idle.get(threads)) else None
    worker = worker or start_worker("", threads)
    worker.ask(Prepare(modules))  # what is there already costs nothing
    return worker


def _file(task: Task, content: bytes) -> str:
    """Write the bytes of an instance beside the Dask worker, once."""
    with _lock:
        if task.sha256 not in _files:
            if not _files:
                folder = tempfile.TemporaryDirectory(prefix="moeplace-")
                atexit.register(folder.cleanup)
                _files[""] = folder.name
            path = Path(_files[""]) / f"{task.sha256}{Path(task.path).suffix}"
            path.write_bytes(content)
            _files[task.sha256] = str(path)
        return _files[task.sha256]


def _held(data: bytes) -> bytes:
    return data


def _version() -> str:
    return version("moeplace")
