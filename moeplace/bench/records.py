"""What a benchmark leaves behind: the run directory, its documents as types, reading and durable writing.

A run directory holds ``run.json`` (plan, instances, environment), ``records.jsonl`` (one line a finished run) and
``solutions/KEY.json``. Lines are only ever added, by one process, each forced to the disk before the next run counts;
so whatever ends that process, at most the last line is torn, and it is dropped when the file is next opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from moeplace.documents import NonNegative, canonical, parse
from moeplace.errors import InputError, OutputError
from moeplace.files import read_json
from moeplace.library import instances_folder
from moeplace.result import Solution, read_solution

RUN, RECORDS, SOLUTIONS = "run.json", "records.jsonl", "solutions"

RunStatus = Literal[
    "ok", "refused", "failed", "crashed", "timeout", "memory", "infeasible", "wrong_cost", "false_bound"
]
Seconds = Annotated[float, Meta(ge=0)]


class Environment(Struct, frozen=True):
    """The machine and the software of a run.

    Attributes
    ----------
    machine, cpu, system, python : str
    cores : int
        Logical cores this process may use.
    memory_bytes : int
    versions : dict
        Version of every package that matters, by name.
    commit : str or None
        Git commit of the checkout; None outside of one. ``dirty``: whether it had uncommitted changes.
    workers : int
        Runs at a time; ``scheduler`` is the address of the Dask scheduler, None for the local pool.
    load_average : float or None
        Of the last minute, when the harness began.
    started : str
        ISO 8601, UTC.
    """

    machine: str
    cpu: str
    system: str
    python: str
    cores: int
    memory_bytes: int
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    workers: int
    scheduler: str | None
    load_average: float | None
    started: str


class PlannedMethod(Struct, frozen=True):
    """A method with its parameters; ``name`` is its label in reports.

    ``seeded``: its result depends on the seed, so it is run with every seed; others are run once, with seed 0.
    """

    name: str
    method: str
    parameters: dict[str, Any] = {}
    seeded: bool = True


class Plan(Struct, frozen=True):
    """What is to be run: every instance with every method and seed, within these limits.

    Attributes
    ----------
    suites : list of str
        As given: names of sets, folders, files.
    methods : list of PlannedMethod
    seeds : list of int
    time_limit : float
        Seconds a method is given.
    grace : float
        Seconds past the limit until its process is asked to end, and as many again until it is killed.
    memory_limit_bytes : int or None
        Most resident memory of a run's processes together.
    threads : int
    """

    suites: list[str]
    methods: list[PlannedMethod]
    seeds: list[NonNegative]
    time_limit: Seconds
    grace: Seconds
    memory_limit_bytes: NonNegative | None
    threads: Annotated[int, Meta(ge=1)]


class KnownValues(Struct, frozen=True):
    """What ``best_known.json`` said of an instance when the run was planned."""

    latency_ns: NonNegative
    bound_ns: NonNegative | None
    optimal: bool


class PlannedInstance(Struct, frozen=True):
    """An instance of a run: where it is, what it is, how large it is.

    Attributes
    ----------
    set, name : str
    path : str
        Absolute, or relative to the folder of the instance library.
    sha256 : str
        Hash of the document; ``file_sha256`` of the file's bytes, which tells quickly that nothing changed.
    latency_model : str
    servers, demands, models, layers, items, rows : int
        ``layers`` over all models; ``items`` are experts of all layers; ``rows`` are activation rows.
    capacity_bytes_total, item_bytes_total : int
        Of all servers together; of all experts together, each once.
    tokens : int
    best_known : KnownValues or None
    """

    set: str
    name: str
    path: str
    sha256: str
    file_sha256: str
    latency_model: str
    servers: int
    demands: int
    models: int
    layers: int
    items: int
    rows: int
    capacity_bytes_total: int
    item_bytes_total: int
    tokens: int
    best_known: KnownValues | None


class Run(Struct, frozen=True):
    """The document ``run.json``; ``resumed`` has the environments of later starts that differ from the first."""

    format: Literal["moeplace/run"]
    version: Literal[1]
    environment: Environment
    plan: Plan
    instances: list[PlannedInstance]
    resumed: list[Environment] = []


class Record(Struct, frozen=True):
    """One finished run: a line of ``records.jsonl``.

    Attributes
    ----------
    key : str
        See :func:`run_key`.
    set, instance, sha256 : str
    method : str
        Its label in the plan. ``parameters`` are those given.
    seed, threads, time_limit : int, int, float
    status : str
        ``ok``: the placement passed the checker. Otherwise there is no latency and no bound, and ``message`` says
        what happened: ``refused`` (does not take the instance), ``failed`` (raised an error), ``crashed`` (its process
        died), ``timeout`` and ``memory`` (stopped at a limit), ``infeasible``, ``wrong_cost``, ``false_bound``.
    termination : str or None
        As in a solution document.
    latency_ns, baseline_ns : int or None
        As the checker computed them, token-ns.
    bound_ns, bound_source : int or None, str or None
        The proven lower bound on the cost and whose proof it is.
    guarantee, picked_because : str or None
    wall_s : float or None
        Wall seconds of the method, without imports and loading.
    process_s, cpu_s : float
        Wall seconds from the start to the end of its process; CPU seconds of it and its children.
    peak_bytes : int
        Peak resident memory of the process (with interpreter and libraries) and of processes it started.
    trajectory : list
        ``[seconds, latency_ns or None, bound_ns or None]``, improvements only, as the method reported them; in an
        ``ok`` record the last one is the checked result.
    started : str
        ISO 8601, UTC. ``worker`` says which worker ran it.
    solution : str or None
        Path of the solution document within the run directory.
    traceback : str or None
        Where in the method's code an error was raised, as Python prints it (its end, where it is long).
    """

    key: str
    set: str
    instance: str
    sha256: str
    method: str
    parameters: dict[str, Any]
    seed: int
    threads: int
    time_limit: float
    status: RunStatus
    message: str | None
    termination: str | None
    latency_ns: int | None
    baseline_ns: int | None
    bound_ns: int | None
    bound_source: str | None
    guarantee: str | None
    picked_because: str | None
    wall_s: float | None
    process_s: float
    cpu_s: float
    peak_bytes: int
    trajectory: list[tuple[float, int | None, int | None]]
    started: str
    worker: str
    solution: str | None
    traceback: str | None = None

    @property
    def who(self) -> str:
        """Method and seed, for messages."""
        return f"{self.method} (seed {self.seed})"


def run_key(sha256: str, method: str, parameters: Mapping[str, Any], seed: int, plan: Plan) -> str:
    """Return the stable id of a run: the same for the same instance, method, parameters, seed and limits."""
    parts = [sha256, method, dict(parameters), seed, plan.time_limit, plan.memory_limit_bytes, plan.threads]
    return hashlib.sha256(canonical(parts)).hexdigest()[:24]


@dataclass(frozen=True)
class RunData:
    """A run directory as read; its records are checked against one another.

    Attributes
    ----------
    folder : Path
    run : Run
    records : list of Record
        In the order in which they finished. A record whose bound is above a checked cost of the same instance has the
        status ``false_bound`` here, also where the line in the file, written before that cost was known, says ``ok``.
    contradictions : list of str
        One line for every bound that a checked cost shows to be false, naming both.
    """

    folder: Path
    run: Run
    records: list[Record]
    contradictions: list[str]

    def instance_path(self, instance: PlannedInstance, folder: str | os.PathLike[str] | None = None) -> Path:
        """Return where the file of an instance is (see :func:`locate`)."""
        return locate(instance, folder)

    def solution(self, record: Record) -> Solution:
        """Read the solution document of an ``ok`` record.

        Raises
        ------
        InputError
            There is none, or it is damaged.
        """
        if record.solution is None:
            raise InputError(f"the run {record.key} ({record.who} on {record.instance}) has no solution")
        return read_solution(self.folder / record.solution)

    def best_latency(self, sha256: str) -> tuple[int, str] | None:
        """Return the lowest checked cost of an instance and whose it is; the best known one counts, too."""
        costs = [(r.latency_ns, r.who) for r in self._ok(sha256) if r.latency_ns is not None]
        if (known := self._known(sha256)) is not None:
            costs.insert(0, (known.latency_ns, "best_known.json"))
        return min(costs, key=lambda cost: cost[0], default=None)

    def best_bound(self, sha256: str) -> tuple[int, str] | None:
        """Return the highest bound of an instance that no checked cost contradicts, and whose it is."""
        bounds = [(r.bound_ns, r.who) for r in self._ok(sha256) if r.bound_ns is not None]
        best, known = self.best_latency(sha256), self._known(sha256)
        if known is not None and known.bound_ns is not None and (best is None or known.bound_ns <= best[0]):
            bounds.insert(0, (known.bound_ns, "best_known.json"))
        return max(bounds, key=lambda bound: bound[0], default=None)

    def _ok(self, sha256: str) -> list[Record]:
        return [record for record in self.records if record.sha256 == sha256 and record.status == "ok"]

    def _known(self, sha256: str) -> KnownValues | None:
        return next((i.best_known for i in self.run.instances if i.sha256 == sha256), None)


def locate(instance: PlannedInstance, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return where the file of an instance is.

    Parameters
    ----------
    instance : PlannedInstance
    folder : path-like, optional
        A folder of instances, or of sets of instances, to look in instead.

    Raises
    ------
    InputError
        It is not there.
    """
    given = Path(instance.path)
    if folder is not None:
        places = [Path(folder) / given.name, Path(folder) / instance.set / given.name]
    else:
        places = [given if given.is_absolute() else instances_folder() / given]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"the instance {instance.name} is not there", file=str(places[-1]))


def read_run(path: str | os.PathLike[str]) -> RunData:
    """Read a run directory, also one that is still being written.

    Raises
    ------
    InputError
        It is no run directory, or one of its files is damaged.
    """
    folder = Path(path)
    run = read_plan(folder)
    records, _ = read_records(folder / RECORDS)
    return RunData(folder, run, *cross_checked(records, run.instances))


def read_plan(folder: Path) -> Run:
    """Read ``run.json``.

    Raises
    ------
    InputError
        It is missing or damaged.
    """
    file = folder / RUN
    if not file.is_file():
        raise InputError(f"is no run directory: there is no {RUN} in it", file=str(folder))
    try:
        return parse(read_json(file), Run)
    except InputError as error:
        raise error if error.file else error.in_file(str(file)) from None


def read_records(path: Path) -> tuple[list[Record], int]:
    """Read the records of a run and the length in bytes of the whole lines.

    Raises
    ------
    InputError
        A line before the last is damaged, or a run is recorded twice.
    """
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=str(path)) from None
    whole = data.rfind(b"\n") + 1  # what follows was being written when the harness ended
    records: list[Record] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            record = msgspec.json.decode(line, type=Record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"no record: {error}", place=f"line {number}", file=str(path)) from None
        if record.key in lines:
            said = f"the run {record.key} stands in line {lines[record.key]} already"
            raise InputError(said, place=f"line {number}", file=str(path))
        lines[record.key] = number
        records.append(record)
    return records, whole


def cross_checked(records: Iterable[Record], instances: Iterable[PlannedInstance]) -> tuple[list[Record], list[str]]:
    """Compare every bound with every checked cost of the same instance.

    Returns
    -------
    list of Record
        Those whose bound is above a cost now have the status ``false_bound``.
    list of str
        One line for every such bound, and for every best known one.
    """
    records, instances = list(records), list(instances)
    cheapest: dict[str, tuple[int, str]] = {
        i.sha256: (i.best_known.latency_ns, "best_known.json") for i in instances if i.best_known is not None
    }
    for record in records:
        if record.status == "ok" and record.latency_ns is not None:
            best = cheapest.get(record.sha256)
            if best is None or record.latency_ns < best[0]:
                cheapest[record.sha256] = record.latency_ns, record.who
    result, wrong = [], []
    for record in records:
        claimed = highest_bound(record) if record.status == "ok" else None
        if claimed is not None and claimed > cheapest[record.sha256][0]:
            cost, whose = cheapest[record.sha256]
            message = f"its bound {claimed} ({record.bound_source}) is above the checked cost {cost} of {whose}"
            wrong.append(f"{record.instance}: {record.who}: {message}")
            record = without_result(record, "false_bound", message)
        result.append(record)
    for instance in instances:
        known = instance.best_known
        if known is not None and known.bound_ns is not None and known.bound_ns > cheapest[instance.sha256][0]:
            cost, whose = cheapest[instance.sha256]
            message = f"its bound {known.bound_ns} is above the checked cost {cost} of {whose}"
            wrong.append(f"{instance.name}: best_known.json: {message}")
    return result, wrong


def highest_bound(record: Record) -> int | None:
    """Return the highest bound that a run claims, on its way or at its end."""
    claims = [bound for _, _, bound in record.trajectory if bound is not None]
    if record.bound_ns is not None:
        claims.append(record.bound_ns)
    return max(claims, default=None)


def without_result(record: Record, status: RunStatus, message: str) -> Record:
    """Return a record whose placement or bound does not count."""
    return msgspec.structs.replace(
        record,
        status=status,
        message=message,
        termination=None,
        latency_ns=None,
        bound_ns=None,
        bound_source=None,
        guarantee=None,
    )


class RecordWriter:
    """Appends records to a run directory, each on the disk before :meth:`add` returns.

    Parameters
    ----------
    folder : Path
        The run directory. A torn last line is cut off.

    Attributes
    ----------
    records : list of Record
        What is in the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / RECORDS
        self.records, self._size = read_records(self._path)
        self._keys = {record.key for record in self.records}
        with _writing(self._path):
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(self._size)
            solutions = folder / SOLUTIONS
            solutions.mkdir(exist_ok=True)
            for left in solutions.glob(".*"):  # half-written when the harness was killed
                left.unlink()

    def add(self, record: Record, solution: bytes | None = None) -> None:
        """Write a record, and before it the solution document it names.

        Raises
        ------
        OutputError
            One of them cannot be written (a full disk); what was there before is unharmed.
        """
        if record.key in self._keys:
            raise ValueError(f"the run {record.key} is recorded already")
        if record.solution is not None:
            assert solution is not None
            write_durably(self._folder / record.solution, solution)
        line = msgspec.json.encode(record) + b"\n"
        with _writing(self._path):
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:]) or 0
                os.fsync(self._file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._size)
                raise
        self._size += len(line)
        self._keys.add(record.key)
        self.records.append(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and force it to the disk.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    with _writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _writing(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
