"""What a benchmark leaves behind: the run directory, its documents as types, reading and durable writing.

A run directory holds ``run.json`` (plan, instances, environment), ``records.jsonl`` (one line a finished run) and
``solutions/KEY.json``. Lines are only ever added, by one process, each forced to the disk before the next run counts;
so whatever ends that process, at most the last line is torn, and it is dropped when the file is next opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from moeplace.base.documents import NonNegative, canonical, parse, show
from moeplace.base.errors import InputError, OutputError, naming
from moeplace.base.files import read_json
from moeplace.comparing import KNOWN, Costs, Value, highest_bound, lowest_cost
from moeplace.library import instances_folder
from moeplace.problems import read_solution

if TYPE_CHECKING:
    import pandas as pd

RUN, RECORDS, SOLUTIONS = "run.json", "records.jsonl", "solutions"

_LARGEST = 2**64
"""Costs and bounds that methods report on their way are below, since a message holds no larger number."""

RunStatus = Literal[
    "ok", "refused", "failed", "crashed", "timeout", "memory", "infeasible", "wrong_cost", "false_bound", "no_solution"
]
Seconds = Annotated[float, Meta(ge=0)]
Total = Annotated[int, Meta(ge=0)]
"""A sum over servers or experts, which may pass 2**63."""


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
    cores: NonNegative
    memory_bytes: NonNegative
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    workers: NonNegative
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


class BenchPlan(Struct, frozen=True):
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
    problem : str
        Its name; what another problem than caching has no size of is None.
    """

    set: str
    name: str
    path: str
    sha256: str
    file_sha256: str
    best_known: KnownValues | None
    latency_model: str | None = None
    servers: NonNegative | None = None
    demands: NonNegative | None = None
    models: NonNegative | None = None
    layers: NonNegative | None = None
    items: NonNegative | None = None
    rows: NonNegative | None = None
    capacity_bytes_total: Total | None = None
    item_bytes_total: Total | None = None
    tokens: Total | None = None
    problem: str = "caching"


class Run(Struct, frozen=True):
    """The document ``run.json``; ``resumed`` has the environments of later starts that differ from the first."""

    format: Literal["moeplace/run"]
    version: Literal[1]
    environment: Environment
    plan: BenchPlan
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
        died), ``timeout`` and ``memory`` (stopped at a limit), ``infeasible``, ``wrong_cost``, ``false_bound``,
        ``no_solution`` (it says that the instance has none).
    termination : str or None
        As in a solution document.
    latency_ns, baseline_ns : int or None
        As the checker computed them, token-ns; of other problems than caching, value and reference in their unit.
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
    seed: NonNegative
    threads: Annotated[int, Meta(ge=1)]
    time_limit: Seconds
    status: RunStatus
    message: str | None
    termination: str | None
    latency_ns: NonNegative | None
    baseline_ns: NonNegative | None
    bound_ns: int | None
    bound_source: str | None
    guarantee: str | None
    picked_because: str | None
    wall_s: Seconds | None
    process_s: Seconds
    cpu_s: Seconds
    peak_bytes: NonNegative
    trajectory: list[tuple[float, int | None, int | None]]
    started: str
    worker: str
    solution: str | None
    traceback: str | None = None

    @property
    def who(self) -> str:
        """Method and seed, for messages."""
        return f"{self.method} (seed {self.seed})"


def run_key(sha256: str, method: str, parameters: Mapping[str, Any], seed: int, plan: BenchPlan) -> str:
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

    def solution(self, record: Record) -> Any:
        """Read the solution document of an ``ok`` record.

        Raises
        ------
        InputError
            There is none, it is damaged, or it is of another instance.
        """
        if record.solution is None:
            raise InputError(f"the run {record.key} ({record.who} on {record.instance}) has no solution")
        file = self.folder / record.solution
        solution = read_solution(file)
        if solution.instance.sha256 != record.sha256:
            said = f"expected the hash of {record.instance}, {record.sha256}, found {solution.instance.sha256}"
            raise InputError(said, place="instance.sha256", file=str(file))
        return solution

    def to_frame(self) -> pd.DataFrame:
        """Return the records as a pandas DataFrame: a row for each, its fields as columns, in the file's order."""
        import pandas as pd

        fields = Record.__struct_fields__
        return pd.DataFrame([[getattr(r, name) for name in fields] for r in self.records], columns=list(fields))

    def best_latency(self, sha256: str) -> Value | None:
        """Return the lowest checked cost of an instance and whose it is; the best known one counts, too."""
        known = self._known(sha256)
        costs = [(known.latency_ns, KNOWN)] if known is not None else []
        return lowest_cost([*costs, *((r.latency_ns, r.who) for r in self._ok(sha256))])

    def best_bound(self, sha256: str) -> Value | None:
        """Return the highest bound of an instance that no checked cost contradicts, and whose it is."""
        known = self._known(sha256)
        bounds = [(known.bound_ns, KNOWN)] if known is not None else []
        bounds += [(r.bound_ns, r.who) for r in self._ok(sha256)]
        return highest_bound(bounds, self.best_latency(sha256))

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
    records, _ = read_records(folder / RECORDS)  # before the plan, which a harness that goes on extends first
    run = read_plan(folder)
    _check_planned(records, run, folder / RECORDS)
    return RunData(folder, run, *cross_checked(records, run.instances))


def _check_planned(records: Sequence[Record], run: Run, file: Path) -> None:
    """Refuse records of runs that are not in the plan."""
    planned = {
        run_key(instance.sha256, method.method, method.parameters, seed, run.plan): (instance.sha256, method.name, seed)
        for instance in run.instances
        for method in run.plan.methods
        for seed in (run.plan.seeds if method.seeded else [0])
    }
    for number, record in enumerate(records, start=1):
        expected, found = planned.get(record.key), (record.sha256, record.method, record.seed)
        if expected != found:
            what = "no run of the plan" if expected is None else f"the plan has {show(list(expected))} for it"
            said = f"the run {record.key} is {show(list(found), 120)}; {what}"
            raise InputError(said, place=f"line {number}", file=str(file))


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
    with naming(file):
        return parse(read_json(file), Run)


class Line(Protocol):
    """A line of ``records.jsonl``: no two have the same key; ``solution`` is the path of a document, or None."""

    @property
    def key(self) -> str:
        """What it goes by."""

    @property
    def solution(self) -> str | None:
        """Where its solution document is."""


L = TypeVar("L", bound=Line)


def read_records(path: Path) -> tuple[list[Record], int]:
    """Read the records of a run and the length in bytes of the whole lines.

    Raises
    ------
    InputError
        A line before the last is damaged, or a run is recorded twice.
    """
    return read_lines(path, Record, _contradiction)


def read_lines(path: Path, kind: type[L], contradiction: Callable[[L], str | None]) -> tuple[list[L], int]:
    """Read records of a kind, as :func:`read_records` does; a contradiction in one is said as a text."""
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=str(path)) from None
    whole = data.rfind(b"\n") + 1  # what follows was being written when the harness ended
    records: list[L] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            record = msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _no_record(line, kind, number, error).in_file(str(path)) from None
        if (wrong := contradiction(record)) is not None:
            raise InputError(f"no record: {wrong}", place=f"line {number}", file=str(path))
        if record.key in lines:
            said = f"the run {record.key} stands in line {lines[record.key]} already"
            raise InputError(said, place=f"line {number}", file=str(path))
        lines[record.key] = number
        records.append(record)
    return records, whole


def _no_record(line: bytes, kind: type[Any], number: int, error: Exception) -> InputError:
    """Say what is wrong with a line; the decoder is quick, and :func:`parse` knows what was found."""
    try:
        parse(json.loads(line), kind)
    except InputError as better:
        return InputError(f"no record: {better}", place=f"line {number}")
    except (ValueError, RecursionError):
        pass
    return InputError(f"no record: {error}", place=f"line {number}")


def _contradiction(record: Record) -> str | None:
    """Return what the parts of a record, each right by itself, cannot say together."""
    if record.status == "ok":
        if record.latency_ns is None:
            return "latency_ns: expected a cost where the status is ok, found null"
    else:
        none = {"latency_ns": record.latency_ns, "bound_ns": record.bound_ns, "solution": record.solution}
        if given := [name for name, value in none.items() if value is not None]:
            return f"{given[0]}: expected null where the status is {record.status}, found {show(none[given[0]])}"
    for number in (record.bound_ns, *(number for _, *point in record.trajectory for number in point)):
        if number is not None and abs(number) >= _LARGEST:
            return f"expected a cost or bound below 2**64, found {show(number)}"
    return wrong_solution(record)


def wrong_solution(record: Line) -> str | None:
    """Return what is wrong with the path of a record's solution document: it must be where those of a run are."""
    if record.solution is not None and not re.fullmatch(rf"{SOLUTIONS}/\w[\w.-]*", record.solution):
        return f"solution: expected a file in {SOLUTIONS}, found {show(record.solution)}"
    return None


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
    costs = checked_costs(records, instances)
    result, wrong = [], []
    for record in records:
        message = refuted(record, costs)
        if message is not None:
            wrong.append(f"{record.instance}: {record.who}: {message}")
            record = without_result(record, "false_bound", message)
        result.append(record)
    for instance in instances:
        known = instance.best_known
        if known is not None and (message := costs.refutes(instance.sha256, known.bound_ns)) is not None:
            wrong.append(f"{instance.name}: {KNOWN}: {message}")
    return result, wrong


def checked_costs(records: Iterable[Record], instances: Iterable[PlannedInstance]) -> Costs:
    """Return the lowest checked cost of every instance; the best known ones count, too."""
    costs = Costs()
    for instance in instances:
        if instance.best_known is not None:
            costs.add(instance.sha256, instance.best_known.latency_ns, KNOWN)
    for record in records:
        if record.status == "ok":
            costs.add(record.sha256, record.latency_ns, record.who)
    return costs


def refuted(record: Record, costs: Costs) -> str | None:
    """Return what shows the bound of an ``ok`` record to be false, whether claimed at its end or on its way."""
    if record.status != "ok":
        return None
    return costs.refutes(record.sha256, claimed_bound(record), f" ({record.bound_source})")


def claimed_bound(record: Record) -> int | None:
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


class LineWriter(Generic[L]):
    """Appends records to a run directory, each on the disk before :meth:`add` returns.

    Parameters
    ----------
    folder : Path
        The run directory. A torn last line is cut off.
    kind : type
        Of the records.
    contradiction : callable
        As :func:`read_lines` takes it.

    Attributes
    ----------
    records : list
        What is in the file.
    """

    def __init__(self, folder: Path, kind: type[L], contradiction: Callable[[L], str | None]) -> None:
        self._folder = folder
        self._path = folder / RECORDS
        self.records, self._size = read_lines(self._path, kind, contradiction)
        self._keys = {record.key for record in self.records}
        with _writing(self._path):
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(self._size)
            solutions = folder / SOLUTIONS
            solutions.mkdir(exist_ok=True)
            for left in solutions.glob(".*"):  # half-written when the harness was killed
                left.unlink()

    def add(self, record: L, solution: bytes | None = None) -> None:
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


class RecordWriter(LineWriter[Record]):
    """Appends the records of a benchmark."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Record, _contradiction)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and force it to the disk.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    with _writing(path):
        # Opened as any file is, so that its mode is what the umask leaves; only one process writes to the folder.
        temporary = path.parent / f".{path.name}.{os.getpid()}"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
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
