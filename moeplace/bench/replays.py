"""What a replay leaves behind: its run directory, and the statistics of it.

The directory has the files of a benchmark's (:mod:`moeplace.bench.records`), durable in the same way: ``run.json`` is
the plan, ``records.jsonl`` one line a finished decision or payment, ``solutions/KEY.json`` what was decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from moeplace.base.documents import NonNegative, parse
from moeplace.base.errors import InputError, naming
from moeplace.base.files import read_json
from moeplace.bench.folders import begun
from moeplace.bench.records import (
    RECORDS,
    RUN,
    SOLUTIONS,
    Environment,
    LineWriter,
    Seconds,
    read_lines,
    wrong_solution,
)

FORMAT = "moeplace/replay"
YARDSTICK, FREE = "hindsight", "free"
"""Kinds of decisions whose bounds say something of all policies."""


class ReplayPlan(Struct, frozen=True):
    """What is replayed: every policy over every window, decided within these limits.

    Attributes
    ----------
    policies : list of str
    method : str
        Makes the decisions, with ``parameters``, ``seed`` and ``threads``.
    time_limit : float or None
        Seconds a decision.
    start : str or None
        Hash of the placement that is in force before the first window; None where the first placement is made on the
        first window, and nobody pays on that one.
    """

    policies: list[str]
    method: str
    parameters: dict[str, Any]
    seed: NonNegative
    threads: Annotated[int, Meta(ge=1)]
    time_limit: Seconds | None
    start: str | None


class ReplayWindow(Struct, frozen=True):
    """A window: the instance's name, its file, its hash and tokens."""

    name: str
    path: str
    sha256: str
    tokens: NonNegative


class ReplayRun(Struct, frozen=True):
    """The document ``run.json``; ``resumed`` has the environments of later starts that differ from the first."""

    format: Literal["moeplace/replay"]
    version: Literal[1]
    environment: Environment
    plan: ReplayPlan
    windows: list[ReplayWindow]
    resumed: list[Environment] = []


class ReplayRecord(Struct, frozen=True):
    """One finished decision or payment: a line of ``records.jsonl``.

    Attributes
    ----------
    key : str
        ``KIND-WINDOW`` of a decision, ``pay-POLICY-WINDOW`` of a payment; windows count from 1.
    what : str
        ``decision`` or ``payment``.
    policy : str
        Of a payment; of a decision its kind: ``free`` (loading ignored), ``loading`` or ``hindsight``.
    window : int
        That is paid, or that the decision is for; of ``free`` the one that it was made on.
    sha256 : str
        Of the window.
    solution : str or None
        The decision's solution document in the run directory.
    source : str or None
        Of a payment: the key of the decision whose placement is in force, or ``start``.
    cost_ns, bound_ns : int or None
        Of a decision: what its method found and proved, on the instance that it was given.
    method, termination, bound_source : str or None
    wall_s : float or None
        Likewise.
    latency_ns, loading_ns, moved_experts, moved_bytes : int or None
        Of a payment: token-ns; what is new on its server.
    requests, requests_away, rows, rows_away : int or None
        Tokens' requests for experts, and tokens' rows, in all and away from home.
    """

    key: str
    what: Literal["decision", "payment"]
    policy: str
    window: Annotated[int, Meta(ge=1)]
    sha256: str
    solution: str | None = None
    source: str | None = None
    cost_ns: NonNegative | None = None
    bound_ns: NonNegative | None = None
    method: str | None = None
    termination: str | None = None
    bound_source: str | None = None
    wall_s: Seconds | None = None
    latency_ns: NonNegative | None = None
    loading_ns: NonNegative | None = None
    moved_experts: NonNegative | None = None
    moved_bytes: NonNegative | None = None
    requests: NonNegative | None = None
    requests_away: NonNegative | None = None
    rows: NonNegative | None = None
    rows_away: NonNegative | None = None

    @property
    def paid_ns(self) -> int:
        """Latency and loading of a payment together, token-ns."""
        return (self.latency_ns or 0) + (self.loading_ns or 0)


_PAID = (
    "latency_ns", "loading_ns", "moved_experts", "moved_bytes", "requests", "requests_away", "rows", "rows_away"
)  # fmt: skip


def _contradiction(record: ReplayRecord) -> str | None:
    """Return what the parts of a record, each right by itself, cannot say together."""
    needed = ("cost_ns", "solution") if record.what == "decision" else (*_PAID, "source")
    for name in needed:
        if getattr(record, name) is None:
            return f"{name}: expected one of a {record.what}, found null"
    expected = f"{record.policy}-{record.window:03}" if record.what == "decision" else payment_key(record)
    if record.key != expected:
        return f"key: expected {expected}, found {record.key}"
    return wrong_solution(record)


def payment_key(step: Any) -> str:
    """Return the key of what a policy pays on a window."""
    return f"pay-{step.policy}-{step.window:03}"


@dataclass(frozen=True)
class Row:
    """What a policy pays on one window, or on all that are paid (``window`` None), beside what nobody can be below.

    Attributes
    ----------
    policy : str
    window : int or None
    name : str
        Of the window's instance.
    tokens : int
    latency_ns, loading_ns, cost_ns : int
    moved_experts, moved_bytes, requests, requests_away, rows, rows_away : int
    bound_ns : int or None
        Proven lower bound on the cost of every policy, whatever was in force; None where one is missing.
    changes : int
        Windows before which something was loaded.
    """

    policy: str
    window: int | None
    name: str
    tokens: int
    latency_ns: int
    loading_ns: int
    cost_ns: int
    moved_experts: int
    moved_bytes: int
    requests: int
    requests_away: int
    rows: int
    rows_away: int
    bound_ns: int | None
    changes: int

    @property
    def regret_ns(self) -> int | None:
        """Cost beyond the bound: no policy whatsoever would have paid less by more than this, token-ns."""
        return None if self.bound_ns is None else self.cost_ns - self.bound_ns

    @property
    def regret(self) -> float | None:
        """The same as a share of the cost."""
        return None if self.regret_ns is None else self.regret_ns / self.cost_ns if self.cost_ns else 0.0

    @property
    def requests_share(self) -> float | None:
        """Share of expert requests away from home; None without any."""
        return self.requests_away / self.requests if self.requests else None

    @property
    def rows_share(self) -> float | None:
        """Share of rows away from home; None without any."""
        return self.rows_away / self.rows if self.rows else None


FIELDS = [
    "window", "instance", "policy", "tokens", "latency_ns", "loading_ns", "cost_ns", "moved_experts", "moved_bytes",
    "changes", "requests", "requests_away", "rows", "rows_away", "bound_ns", "regret_ns",
]  # fmt: skip
"""Columns of a replay's table; the window of a sum is "sum"."""


@dataclass(frozen=True)
class ReplayData:
    """A replay as read.

    Attributes
    ----------
    folder : Path
    run : ReplayRun
    records : list of ReplayRecord
        In the order in which they finished.
    """

    folder: Path
    run: ReplayRun
    records: Sequence[ReplayRecord]

    @property
    def paid(self) -> range:
        """The windows that policies pay on, from 1."""
        return range(1 if self.run.plan.start is not None else 2, len(self.run.windows) + 1)

    @property
    def decisions(self) -> Mapping[str, ReplayRecord]:
        """The decisions, by their keys."""
        return {record.key: record for record in self.records if record.what == "decision"}

    def bound(self, window: int) -> int | None:
        """Return the proven bound on what any policy pays on a window: (R3), and in the first one the yardstick's."""
        known = self.decisions
        keys = [f"{FREE}-{window:03}", *([f"{YARDSTICK}-{window:03}"] if window == self.paid.start else [])]
        bounds = [known[key].bound_ns for key in keys if key in known]
        return max((bound for bound in bounds if bound is not None), default=None)

    def rows(self) -> list[Row]:
        """Return what was paid so far, window by window, the policies in the plan's order."""
        paid = {(r.window, r.policy): r for r in self.records if r.what == "payment"}
        found = []
        for t in self.paid:
            window, bound = self.run.windows[t - 1], self.bound(t)
            for policy in self.run.plan.policies:
                if (record := paid.get((t, policy))) is not None:
                    values = {name: getattr(record, name) for name in _PAID}
                    changed = int(record.moved_experts != 0)
                    found.append(
                        Row(policy, t, window.name, window.tokens, cost_ns=record.paid_ns, bound_ns=bound,
                            changes=changed, **values)
                    )  # fmt: skip
        return found

    def sums(self, rows: Sequence[Row] | None = None) -> list[Row]:
        """Return the sums over windows, of the policies that have paid on the same, most, windows."""
        rows = self.rows() if rows is None else rows
        own = {policy: [row for row in rows if row.policy == policy] for policy in self.run.plan.policies}
        most = max(map(len, own.values()), default=0)
        found = []
        for policy, each in own.items():
            if not each or len(each) < most:
                continue
            names = ("tokens", "cost_ns", "changes", *_PAID)
            values: dict[str, Any] = {name: sum(getattr(row, name) for row in each) for name in names}
            bounds = [row.bound_ns for row in each]
            bound = None if None in bounds else sum(b for b in bounds if b is not None)
            found.append(Row(policy, None, "", bound_ns=bound, **values))
        return found

    def contradictions(self) -> list[str]:
        """Say which payments are below a bound that was called proven: then one of the two is wrong."""
        return [
            f"window {row.window} ({row.name}): {row.policy} pays {row.cost_ns}, below the bound {row.bound_ns}"
            for row in self.rows()
            if row.bound_ns is not None and row.cost_ns < row.bound_ns
        ]

    def table(self) -> list[dict[str, Any]]:
        """Return rows and sums as plain values, by the names of :data:`FIELDS`."""
        rows = self.rows()
        return [
            {name: getattr(row, name) for name in FIELDS if name not in ("window", "instance")}
            | {"window": "sum" if row.window is None else row.window, "instance": row.name}
            for row in (*rows, *self.sums(rows))
        ]

    def document(self) -> dict[str, Any]:
        """Return everything as a plain dict: plan, windows with their bounds, payments, sums, decisions."""
        plan = msgspec.to_builtins(self.run.plan)
        windows = [
            msgspec.to_builtins(window) | {"window": t, "paid": t in self.paid, "bound_ns": self.bound(t)}
            for t, window in enumerate(self.run.windows, 1)
        ]
        table = self.table()
        return {
            "run": str(self.folder),
            "plan": plan,
            "windows": windows,
            "payments": [row for row in table if row["window"] != "sum"],
            "sums": [row for row in table if row["window"] == "sum"],
            "decisions": [
                {key: value for key, value in msgspec.to_builtins(record).items() if value is not None}
                for record in self.decisions.values()
            ],
            "errors": self.contradictions(),
        }


def is_replay(folder: Path) -> bool:
    """Return whether a folder is the run directory of a replay."""
    if not (folder / RUN).is_file():
        return False
    document = read_json(folder / RUN)
    return isinstance(document, dict) and document.get("format") == FORMAT


def read_replay(path: Path) -> ReplayData:
    """Read the run directory of a replay, also one that is still being written.

    Raises
    ------
    InputError
        It is none, or one of its files is damaged.
    """
    records, _ = read_lines(path / RECORDS, ReplayRecord, _contradiction)
    return ReplayData(path, read_run(path), records)


def read_run(folder: Path) -> ReplayRun:
    """Read ``run.json``; raises as :func:`read_replay` does."""
    file = folder / RUN
    if not file.is_file():
        raise InputError(f"is no run directory: there is no {RUN} in it", file=str(folder))
    with naming(file):
        return parse(read_json(file), ReplayRun)


class ReplayFolder:
    """A run directory that this process alone writes to; made by :func:`opened`.

    Attributes
    ----------
    run : ReplayRun
    notes : list of str
        What the user should know: an environment that is not the first one.
    """

    def __init__(self, folder: Path, run: ReplayRun, writer: LineWriter[ReplayRecord], notes: list[str]) -> None:
        self.folder, self.run, self.notes = folder, run, notes
        self._writer = writer

    @property
    def data(self) -> ReplayData:
        """What is there by now."""
        return ReplayData(self.folder, self.run, list(self._writer.records))

    def find(self, key: str) -> ReplayRecord | None:
        """Return the record of a key, None where it is not there yet."""
        return next((record for record in self._writer.records if record.key == key), None)

    def add(self, record: ReplayRecord, solution: bytes | None = None) -> None:
        """Write a record and the solution document that it names; both are on the disk when this returns."""
        self._writer.add(record, solution)


def solution_path(key: str) -> str:
    """Return the path of a decision's solution document in the run directory."""
    return f"{SOLUTIONS}/{key}.json"


@contextmanager
def opened(
    folder: Path, plan: ReplayPlan, windows: Sequence[ReplayWindow], environment: Environment
) -> Iterator[ReplayFolder]:
    """Make a run directory, or go on with one that the plan extends: more policies, more windows at the end.

    Raises
    ------
    InputError
        Another process is at work there; the run was made with another plan; the folder holds something else.
    OutputError
        It cannot be written to.
    """

    def planned(earlier: ReplayRun | None, environments: list[Environment]) -> ReplayRun:
        together = plan if earlier is None else _extended(earlier, plan, windows)
        return ReplayRun("moeplace/replay", 1, environments[0], together, list(windows), environments[1:])

    with (
        begun(folder, environment, read_run, planned) as (run, notes),
        closing(LineWriter(folder, ReplayRecord, _contradiction)) as writer,
    ):
        yield ReplayFolder(folder, run, writer, notes)


def _extended(earlier: ReplayRun, plan: ReplayPlan, windows: Sequence[ReplayWindow]) -> ReplayPlan:
    """Return the plan with the policies of both; refuse another one."""
    old = earlier.plan
    for name in ("method", "parameters", "seed", "threads", "time_limit", "start"):
        before, now = getattr(old, name), getattr(plan, name)
        if before != now:
            raise InputError(f"was made with {name.replace('_', ' ')} {before}, not {now}; give another folder")
    for t, known in enumerate(earlier.windows, 1):
        if len(windows) < t or windows[t - 1].sha256 != known.sha256:
            what = "is left out here" if len(windows) < t else f"is {windows[t - 1].name} here, or has changed"
            raise InputError(f"was made with window {t} {known.name}, which {what}; give another folder")
    return msgspec.structs.replace(plan, policies=list(dict.fromkeys([*old.policies, *plan.policies])))
