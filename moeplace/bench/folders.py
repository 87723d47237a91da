"""A run directory: whether a folder is one, who may write to it, and beginning or going on with a run in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, TypeVar

import msgspec

from moeplace.base.errors import InputError, OutputError, naming
from moeplace.base.files import check_folder_writable
from moeplace.bench.environment import differences
from moeplace.bench.records import RECORDS, RUN, Environment, write_durably

LOCK = "lock"


class _Begun(Protocol):
    """A ``run.json``: where it was begun, and where it was gone on with."""

    @property
    def environment(self) -> Environment: ...
    @property
    def resumed(self) -> list[Environment]: ...


R = TypeVar("R", bound=_Begun)


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory, and no folder of instances with one that is named as the plan is."""
    return (folder / RUN).is_file() and any((folder / name).exists() for name in (RECORDS, LOCK))


@contextmanager
def begun(
    folder: Path, environment: Environment, read: Callable[[Path], R], plan: Callable[[R | None, list[Environment]], R]
) -> Iterator[tuple[R, list[str]]]:
    """Lock a run directory and write its ``run.json``: of a new run, or of one that is gone on with.

    Parameters
    ----------
    folder : Path
    environment : Environment
        Of this start.
    read : callable
        Reads the ``run.json`` of a run directory.
    plan : callable
        Returns the run from the earlier one (None where it begins) and the environments of all starts that differ, the
        first one first; refuses an earlier one that it does not extend.

    Yields
    ------
    run
        As it is written.
    list of str
        What the user should know: an environment that is not the first one.

    Raises
    ------
    InputError
        Another process is at work there; the folder holds something else; or ``plan`` refuses.
    OutputError
        It cannot be written to.
    """
    check_folder(folder)
    notes: list[str] = []
    with locked(folder):
        earlier = read(folder) if (folder / RUN).exists() else None
        environments = [environment] if earlier is None else [earlier.environment, *earlier.resumed]
        if changed := differences(environments[-1], environment):
            notes.append(f"{folder}: resumed in another environment: {', '.join(changed)}")
            environments.append(environment)
        with naming(folder):
            run = plan(earlier, environments)
        for left in folder.glob(f".{RUN}.*"):
            left.unlink(missing_ok=True)
        write_durably(folder / RUN, msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
        yield run, notes


def check_folder(folder: Path, suites: Sequence[str] = ()) -> None:
    """Refuse a folder that holds something else than a run, or one of the suites, or that cannot be made.

    Raises
    ------
    InputError
        It does.
    """
    try:
        for suite in suites:
            given = Path(suite)
            if given.exists() and given.resolve().is_relative_to(folder.resolve()):
                raise InputError(
                    f"holds the suite {suite}, beside which a run would write; give another", file=str(folder)
                )
        if folder.is_dir():
            ours = (LOCK, f".{RUN}.")  # the second is left where the harness was killed while it began
            if not (folder / RUN).exists() and any(not path.name.startswith(ours) for path in folder.iterdir()):
                raise InputError(f"holds other files and no {RUN}; give a new folder", file=str(folder))
    except OSError as error:
        raise InputError(f"cannot be used: {error.strerror}", file=str(folder)) from None
    check_folder_writable(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run directory where it is missing, and keep other processes from writing to it.

    Raises
    ------
    InputError
        Another process is at work there.
    OutputError
        It cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file: IO[str] = (folder / LOCK).open("a+")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(f"process {file.read().strip() or '?'} is at work there", file=str(folder)) from None
        except OSError as error:
            raise OutputError(f"{folder / LOCK}: cannot be locked: {error.strerror}") from None
        with contextlib.suppress(OSError):  # whose number is for the message only
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield
