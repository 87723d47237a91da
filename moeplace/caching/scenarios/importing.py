"""From routing traces to an instance: which requests count, whose they are, what is dropped, the counting itself."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from moeplace.base.documents import show
from moeplace.base.errors import InputError
from moeplace.base.text import number
from moeplace.caching.document import Model
from moeplace.caching.instance import Instance
from moeplace.caching.scenarios.assembly import Part, assemble
from moeplace.caching.scenarios.suites import (
    OF_THE_CLOUD,
    Scenario,
    ScenarioModels,
    Setting,
    default_name,
    read_sources,
    scenario_models,
    setting,
)
from moeplace.scenarios.catalogue import find_architecture
from moeplace.scenarios.counting import SetCounts, as_int32
from moeplace.scenarios.losses import losses, read_losses
from moeplace.scenarios.model_config import Published
from moeplace.scenarios.ranked import RouterMass, need_ranks, open_gates
from moeplace.scenarios.traces.common import (
    TIME,
    Batch,
    FillerRow,
    Reading,
    Request,
    Shape,
    TraceFile,
    moment,
    without_fillers,
)
from moeplace.scenarios.traces.opening import open_trace

Int64 = npt.NDArray[np.int64]
Line: TypeAlias = Sequence[int] | Mapping[str, int]

REASONS: Final = {
    1: "expert out of range",
    2: "expert twice in a row",
    3: "no expert (padding)",
}
"""Why a row may be dropped, by the fault that the kernel reports; padding always is."""

REPEATED: Final = "of tokens that an earlier response has"
"""Why a row of a later turn of a conversation is dropped."""


@dataclass(frozen=True)
class Selection:
    """Which requests of a trace count: all, or a part of every profile's, chosen by a seed.

    Attributes
    ----------
    fraction : Fraction or None
        Share of every profile's requests, rounded to whole requests.
    fold : tuple of int or None
        ``(i, n)``: the i-th (from 1) of n parts of every profile's requests, as equal as can be.
    rest : bool
        All others instead.
    """

    fraction: Fraction | None = None
    fold: tuple[int, int] | None = None
    rest: bool = False

    def __post_init__(self) -> None:
        if self.fraction is not None and self.fold is not None:
            raise InputError("a fraction and a fold cannot be given both")
        if self.fraction is None and self.fold is None and self.rest:
            raise InputError("the rest of what? a fraction or a fold is missing")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise InputError(f"a fraction of {self.fraction}; expected more than 0 and less than 1")
        if self.fold is not None and not 1 <= self.fold[0] <= self.fold[1] >= 2:
            raise InputError(f"fold {self.fold[0]} of {self.fold[1]}; expected 1 of 2 to n of n")

    @property
    def label(self) -> str:
        """What an instance's name says of it, empty for everything."""
        part = ""
        if self.fraction is not None:
            part = f"f{round(100 * self.fraction):02}"
        elif self.fold is not None:
            part = f"fold{self.fold[0]}of{self.fold[1]}"
        return f"{part}rest" if part and self.rest else part

    def keep(self, requests: int, seed: np.uint64) -> npt.NDArray[np.bool_]:
        """Return which of a profile's requests count, bool [requests]."""
        from moeplace.scenarios import _kernels

        rank = _kernels.shuffled(requests, seed)
        if self.fraction is not None:
            chosen = rank < round(self.fraction * requests)
        elif self.fold is not None:
            chosen = rank % self.fold[1] == self.fold[0] - 1
        else:
            return np.ones(requests, dtype=np.bool_)
        return np.asarray(chosen != self.rest)


@dataclass
class Window:
    """One of the pieces that a trace is cut into.

    Attributes
    ----------
    begin, end : str
        Times as the trace has them, the end not included but in the last one; empty where it was cut by order.
    requests, rows, tokens : int
        What is counted in it.
    users : int
        Users with a row in it.
    """

    begin: str = ""
    end: str = ""
    requests: int = 0
    rows: int = 0
    tokens: int = 0
    users: int = 0


@dataclass
class Report:
    """What an import read, counted and left out.

    Attributes
    ----------
    files : list of str
    rows, counted, unselected, skipped : int
        Rows read (one token at one layer each), counted, of requests that were not selected, of skipped layers or
        layers that are cut away.
    dropped : Counter
        Rows left out because of what is in them, by reason.
    short : int
        Counted rows with fewer than ``top_k`` experts.
    fillers : int
        Fillers taken out of rows.
    failed : int
        Responses without routing that were dropped.
    requests, selected : int
        Requests in the files, and those that count.
    profiles : dict
        Users of each profile.
    tokens : int
        Tokens counted.
    idle : list of str
        Users of the topology without any token; they are not in the instance.
    left_out : list of str
        Users who are left out, with their requests, because no server is worth much to them.
    empty_layers : list of int
        Layers of the model without any row that counts.
    untimed : int
        Requests that count and say no time, in a trace that is cut by time: they are left out.
    mass : RouterMass or None
        How the ranks share the router's weight of all counted rows; None where weights are not given.
    published : Published or None
        What the model's config.json says; None where the model is another one's.
    windows : list of Window
        The pieces that the trace is cut into; empty where it is not.
    notes : list of str
        What readers of traces, places and tables guessed, joined or left out, for people, a line each.
    seconds : float
        Wall time of reading and counting.
    """

    files: list[str] = field(default_factory=list)
    rows: int = 0
    counted: int = 0
    unselected: int = 0
    skipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    short: int = 0
    fillers: int = 0
    failed: int = 0
    requests: int = 0
    selected: int = 0
    profiles: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    idle: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    empty_layers: list[int] = field(default_factory=list)
    untimed: int = 0
    mass: RouterMass | None = None
    published: Published | None = None
    windows: list[Window] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """Return everything as a plain dict."""
        found = {key: dict(value) if isinstance(value, Counter) else value for key, value in vars(self).items()}
        del found["mass"], found["published"]
        if self.mass is not None:
            found |= {"sorted_rows": self.mass.sorted_rows, "unweighed": self.mass.unweighed}
        return found | {"windows": [vars(window) for window in self.windows]}


def count_traces(
    traces: Sequence[TraceFile],
    shape: Shape,
    line: Line | Callable[[list[str]], Line],
    *,
    selection: Selection | None = None,
    seed: int = 0,
    ranked: bool = False,
    gates: Sequence[str | os.PathLike[str]] = (),
    drop_bad_rows: bool = False,
    report: Report | None = None,
    progress: Callable[[Report, float | None], None] | None = None,
) -> tuple[SetCounts, list[str]]:
    """Count the expert sets of traces by user.

    Requests go to users so: where the trace names users, each has its own; else the line of users is cut among the
    profiles by their shares of the rows (largest remainder, at least one user each while there are enough), and a
    profile's selected requests are dealt to its users in turn.

    Parameters
    ----------
    traces : sequence of TraceFile
    shape : Shape
    line : sequence of int, mapping of str to int, or callable
        The users in the order in which profiles take them; neighbours in it share interests. Where users have names by
        which the trace calls them: the user of each name, -1 for one whose requests are left out. A function is given
        the names of the trace's users (none: an empty list) and returns either.
    selection : Selection, optional
    seed : int
        Chooses the requests of a selection; nothing else.
    ranked : bool
        Experts stand in falling router weight, an order that is kept.
    gates : sequence of path-like
        Router weights, a file beside each trace or none: experts are put into falling weight, an order that is kept.
    drop_bad_rows : bool
        Rows that cannot be counted are dropped and reported instead of refused.
    report : Report, optional
        Filled in.
    progress : callable, optional
        Called with the report and the share of the rows that are read: before each file that is looked through for
        requests, when nobody knows how many rows there are (None), and after every piece.

    Returns
    -------
    SetCounts
        Demand ``u`` is user ``u``.
    list of str
        Names of the users as the trace gives them, empty where it gives none.

    Raises
    ------
    InputError
        A trace that is damaged, empty, or of another model; nothing selected.
    """
    (counts,), names = count_windows(
        traces, shape, line, selection=selection, seed=seed, ranked=ranked, gates=gates, drop_bad_rows=drop_bad_rows,
        report=report, progress=progress,
    )  # fmt: skip
    return counts, names


def count_windows(
    traces: Sequence[TraceFile],
    shape: Shape,
    line: Line | Callable[[list[str]], Line],
    *,
    windows: int = 1,
    selection: Selection | None = None,
    seed: int = 0,
    ranked: bool = False,
    gates: Sequence[str | os.PathLike[str]] = (),
    drop_bad_rows: bool = False,
    report: Report | None = None,
    progress: Callable[[Report, float | None], None] | None = None,
) -> tuple[list[SetCounts], list[str]]:
    """Count the expert sets of traces by user, and by window where they are cut into several.

    Windows are of equal length in time; in a trace without times, of as equally many rows as whole requests allow, in
    the order of the files. Every request counts whole in the window in which it begins.

    Parameters
    ----------
    traces, shape, line, selection, seed, ranked, gates, drop_bad_rows, report, progress
        As in :func:`count_traces`; times are those of the traces' ``reading.columns.time``.
    windows : int

    Returns
    -------
    list of SetCounts
        One a window.
    list of str
        Names of the users as the trace gives them, empty where it gives none.

    Raises
    ------
    InputError
        As there; times of two kinds, or no two of them, or none in the column that is named.
    """
    report = report if report is not None else Report()
    if len(gates) not in (0, len(traces)):
        raise InputError(
            f"{number(len(gates), 'file')} of router weights beside {number(len(traces), 'trace')}; expected one for "
            "each, in the same order",
            place="--gates",
        )
    _warm_up()
    began = time.monotonic()
    found: list[list[Request]] = []
    for trace in traces:
        if progress is not None:
            progress(report, None)
        own = trace.requests()
        for request in own:
            if request.profile is None:
                request.profile = trace.path.name.split(".")[0] if len(traces) > 1 else ""
        found.append(own)
        report.files.append(str(trace.path))
    weights = [open_gates(path, trace) for path, trace in zip(gates, traces, strict=True)] if gates else []
    if gates:
        report.mass = RouterMass.of(shape.layers, shape.top_k)
    requests = [request for own in found for request in own]
    report.requests = len(requests)
    if callable(line):
        line = line(_named(requests))
    whose, names = _deal(requests, line, selection or Selection(), seed, report)
    if not (whose >= 0).any():
        there = f"there is {len(requests)}" if len(requests) == 1 else f"there are {len(requests)}"
        raise InputError(f"no request is selected; {there} in all", file=str(traces[0].path))
    window = np.zeros(len(requests), dtype=np.int64)
    if windows > 1:
        named_column = traces[0].reading.columns.time
        window = _cut(requests, whose, windows, report, named_column, str(traces[0].path))
        whose = np.where(window < 0, -1, whose)
        report.selected = int((whose >= 0).sum())
    rows = max(1, sum(request.rows for request in requests))
    ranked = ranked or bool(gates)
    counts = [SetCounts(shape.layers, shape.experts, shape.top_k, ranked=ranked) for _ in range(windows)]
    first = 0
    for t, (trace, own) in enumerate(zip(traces, found, strict=True)):
        for batch in trace.batches():
            weight = weights[t].take(len(batch.request)) if gates else None
            _count(batch, weight, whose[first:], window[first:], shape, counts, report, drop_bad_rows, trace.path)
            report.seconds = time.monotonic() - began
            if progress is not None:
                progress(report, min(1.0, report.rows / rows))
        first += len(own)
        report.failed += trace.failed
        report.rows += trace.repeated
        report.dropped.update({REPEATED: trace.repeated} if trace.repeated else {})
        report.notes += [f"{trace.path}: {note}" for note in trace.notes]
    report.tokens = sum(int(own.tokens.sum()) for own in counts)
    for counted, piece in zip(counts, report.windows, strict=False):
        piece.rows, piece.tokens = int(counted.layer_tokens.sum()), int(counted.tokens.sum())
        piece.users = int((counted.tokens > 0).sum())
    if not report.tokens:
        raise InputError("has no row that counts", file=str(traces[0].path))
    report.empty_layers = np.flatnonzero(sum(own.layer_tokens.sum(axis=0) for own in counts) == 0).tolist()
    report.seconds = time.monotonic() - began
    return counts, names


def _cut(requests: list[Request], whose: Int64, windows: int, report: Report, column: str, file: str) -> Int64:
    """Return the window of every request (-1: it counts and says no time), and fill in the report's windows."""
    counted = np.flatnonzero(whose >= 0).tolist()
    times = {i: found for i in counted if (found := moment(requests[i].time)) is not None}
    report.windows = [Window() for _ in range(windows)]
    window = np.zeros(len(requests), dtype=np.int64)
    if not times:
        if column != TIME or any(requests[i].time is not None for i in counted):
            said = next((requests[i].time for i in counted if requests[i].time is not None), None)
            raise InputError(f"no request has a time in {column!r}: found {show(said)}", file=file)
        total, before, across = sum(requests[i].rows for i in counted), 0, 0
        for i in counted:
            window[i] = before * windows // max(total, 1)
            before += requests[i].rows
            across += max(before - 1, 0) * windows // max(total, 1) > window[i]
        report.notes.append(
            f"no time in the trace: cut by order, {windows} windows of equally many rows; {number(across, 'request')} "
            "over an edge counted whole where it begins"
        )
    else:
        if len({dated for _, dated in times.values()}) > 1:
            raise InputError(f"times of two kinds in {column!r}: numbers and dates", file=file)
        first, last = min(t for t, _ in times.values()), max(t for t, _ in times.values())
        if first == last:
            raise InputError(f"all requests begin at the same time, {requests[next(iter(times))].time}", file=file)
        dated = next(iter(times.values()))[1]
        edges = [first + (last - first) * w / windows for w in range(windows + 1)]
        for piece, (begin, end) in zip(report.windows, itertools.pairwise(edges), strict=True):
            piece.begin, piece.end = _time_said(begin, dated), _time_said(end, dated)
        for i in counted:
            window[i] = min(windows - 1, int((times[i][0] - first) * windows / (last - first))) if i in times else -1
        report.untimed = len(counted) - len(times)
        if report.untimed:
            report.notes.append(f"{number(report.untimed, 'request')} without a time in {column!r} left out")
        report.notes.append(f"{windows} windows of equal length; a request counts whole in the one in which it begins")
    for i in counted:
        if window[i] >= 0:
            report.windows[window[i]].requests += 1
    for w, piece in enumerate(report.windows, 1):
        if not piece.requests:
            report.notes.append(f"window {w} of {windows} has no request")
    return window


def _time_said(value: Fraction, dated: bool) -> str:
    """Return a time for people: a date in UTC to the second, or a number of few digits."""
    if dated:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=round(value))).isoformat().replace("+00:00", "Z")
    return f"{float(value):.15g}"


def _warm_up() -> None:
    """Have the compiled loops loaded, so that what is said of the speed is of the reading."""
    from moeplace.scenarios import _kernels

    one = np.zeros((1, 1), dtype=np.int32)
    _kernels.check_rows(one, 1)
    SetCounts(1, 1, 1).add(0, one[None])


def _named(requests: list[Request]) -> list[str]:
    """Return the users that a trace names, in its order."""
    named = [request.user for request in requests if request.user is not None]
    if named and len(named) != len(requests):
        raise InputError(f"{len(named)} of {len(requests)} requests name a user; all or none must")
    return list(dict.fromkeys(named))


def _deal(
    requests: list[Request], line: Line, selection: Selection, seed: int, report: Report
) -> tuple[Int64, list[str]]:
    """Return the user of every request (-1: not selected) and the users' names."""
    named = _named(requests)
    label = [request.user if named else request.profile for request in requests]
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(label):
        groups.setdefault(name or "", []).append(i)
    seats: list[int] = []
    if not isinstance(line, Mapping):
        seats = _seats([sum(requests[i].rows for i in own) for own in groups.values()], len(line), bool(named))
    whose = np.full(len(requests), -1, dtype=np.int64)
    first = 0
    for g, (name, own) in enumerate(groups.items()):
        chosen = np.array(own)[selection.keep(len(own), np.uint64((seed * 0x9E3779B97F4A7C15 + g + 1) % 2**64))]
        if isinstance(line, Mapping):
            whose[chosen] = line[name]
            report.selected += len(chosen) if line[name] >= 0 else 0
            continue
        report.selected += len(chosen)
        # More groups than users: they share, in turn.
        own_users = np.array(line[first : first + seats[g]] if seats[g] else [line[g % len(line)]])
        whose[chosen] = own_users[np.arange(len(chosen)) % len(own_users)]
        first += seats[g]
        if not named:
            report.profiles[name] = len(own_users)
    if isinstance(line, Mapping):
        return whose, []
    return whose, list(groups) if named and len(groups) <= len(line) else []


def _seats(rows: list[int], users: int, named: bool) -> list[int]:
    """Divide users among groups by their rows; none at all where there are more groups than users."""
    if len(rows) > users:
        return [0] * len(rows)
    if named:
        return [1] * len(rows)
    total = max(1, sum(rows))
    seats = [max(1, users * own // total) for own in rows]
    while sum(seats) > users:
        most = max(range(len(rows)), key=lambda g: (seats[g] * total - users * rows[g] if seats[g] > 1 else -total, -g))
        seats[most] -= 1
    while sum(seats) < users:
        seats[max(range(len(rows)), key=lambda g: (users * rows[g] - seats[g] * total, -g))] += 1
    return seats


class _Places:
    """The places of an import, and whose they are: what :func:`count_traces` takes for a line of users.

    Their files are read before a long trace is, so that what is wrong with them is said at once. Which users of a file
    count is known when the trace's are.
    """

    def __init__(self, scenario: Scenario, known: ScenarioModels) -> None:
        self._scenario, self._known, self._sources = scenario, known, read_sources(scenario)
        self._made: Setting | None = None

    def __call__(self, named: list[str]) -> Line:
        """Return the users in the order in which profiles take them, or by name where both sides have names."""
        made = self._made = setting(self._scenario, known=self._known, sources=self._sources, users=named or None)
        if named and made.topology.users_named:
            return {name: u for u, name in enumerate(made.topology.users)} | dict.fromkeys(made.left_out, -1)
        if len(named) > (places := len(made.topology.users)):
            more = f"the trace names {len(named)} users, more than the places (--users): {places}"
            made.notes.append(f"{more}; they share these and go by their names")
        return self.in_order()

    def in_order(self) -> list[int]:
        """Return the users by their stations: neighbours share interests. Users of the trace keep their order."""
        home = self.setting().topology.home.tolist()
        return sorted(range(len(home)), key=lambda u: (home[u], u))

    def setting(self) -> Setting:
        """Return the setting, once the line was asked for."""
        assert self._made is not None
        return self._made


def _count(
    batch: Batch,
    weight: npt.NDArray[Any] | None,
    whose: Int64,
    window: Int64,
    shape: Shape,
    counts: list[SetCounts],
    report: Report,
    drop_bad_rows: bool,
    path: Path,
) -> None:
    from moeplace.scenarios import _kernels

    report.rows += len(batch.request)
    layer = batch.layer - shape.skip_layers
    user = whose[batch.request]
    kept = (layer >= 0) & (layer < shape.layers)
    report.skipped += int(len(kept) - kept.sum())
    report.unselected += int((kept & (user < 0)).sum())
    kept &= user >= 0
    try:
        experts, fillers = without_fillers(batch.experts, shape)
    except FillerRow as error:
        raise InputError(str(error), place=batch.place(error.row), file=str(path)) from None
    report.fillers += fillers
    experts = as_int32(experts)
    fault = _kernels.check_rows(experts, shape.experts)
    bad = kept & (fault > 0)
    if bad.any():
        worse = bad & (fault != 3)
        if worse.any() and not drop_bad_rows:
            row = int(np.argmax(worse))
            raise InputError(
                _said(fault[row], batch.experts[row].tolist(), shape), place=batch.place(row), file=str(path)
            )
        for code, count in zip(*np.unique(fault[bad], return_counts=True), strict=True):
            report.dropped[REASONS[int(code)]] += int(count)
        kept &= ~bad
    within = window[batch.request]
    if not kept.all():
        user, layer, experts, within = user[kept], layer[kept], experts[kept], within[kept]
    if weight is not None and report.mass is not None:
        experts = report.mass.ranked(experts, weight[kept], layer)
    if len(counts) == 1:
        counts[0].add_rows(user, layer, experts)
    else:
        for w in np.unique(within).tolist():
            own = within == w
            counts[w].add_rows(user[own], layer[own], experts[own])
    report.counted += len(user)
    width = experts.shape[1]
    if len(user):
        report.short += int((experts < 0).any(axis=1).sum()) if width == shape.top_k else len(user)


def _said(fault: int, experts: list[int], shape: Shape) -> str:
    if fault == 1:
        bad = next(e for e in experts if e >= shape.experts or e < -1)
        return f"expert {bad}, the model has {shape.experts} (from 0)"
    bad = next(e for i, e in enumerate(experts) if e >= 0 and e in experts[:i])
    return f"expert {bad} stands twice in one row"


def import_traces(
    paths: Sequence[str | os.PathLike[str]],
    scenario: Scenario,
    *,
    reading: Reading | None = None,
    skip_layers: int = 0,
    fillers: Sequence[int] = (),
    selection: Selection | None = None,
    gates: Sequence[str | os.PathLike[str]] = (),
    loss: str | os.PathLike[str] | None = None,
    drop_bad_rows: bool = False,
    progress: Callable[[Report, float | None], None] | None = None,
) -> tuple[Instance, Report]:
    """Make an instance of routing traces.

    Parameters
    ----------
    paths : sequence of path-like
        The traces, all of one model.
    scenario : Scenario
        The model (one), the places, users, storage, links. What it says of generated routing is not used.
    reading : Reading, optional
        Names of columns, and how traces are read where they do not say it.
    skip_layers : int
        The trace's first so many layers are left out.
    fillers : sequence of int
        Numbers in the trace that stand for no expert of the model.
    selection : Selection, optional
        Which requests count.
    gates : sequence of path-like
        Router weights, a file beside each trace or none: experts are put into falling weight, as ``scenario.ranked``
        says of traces that they stand. With ``scenario.loss_budget`` the loss is the share of the weight that is left
        out, over all that is counted (:mod:`moeplace.scenarios.losses`).
    loss : path-like, optional
        Measured losses instead, see :func:`~moeplace.scenarios.losses.read_losses`.
    drop_bad_rows : bool
        Rows that cannot be counted are dropped instead of refused.
    progress : callable, optional
        Called with the report while reading.

    Returns
    -------
    Instance
    Report

    Raises
    ------
    InputError
        A trace or the scenario is not usable; the first thing that is wrong.
    """
    (instance,), report = import_windows(
        paths, scenario, reading=reading, skip_layers=skip_layers, fillers=fillers, selection=selection,
        gates=gates, loss=loss, drop_bad_rows=drop_bad_rows, progress=progress,
    )  # fmt: skip
    return instance, report


def import_windows(
    paths: Sequence[str | os.PathLike[str]],
    scenario: Scenario,
    *,
    windows: int = 1,
    reading: Reading | None = None,
    skip_layers: int = 0,
    fillers: Sequence[int] = (),
    selection: Selection | None = None,
    gates: Sequence[str | os.PathLike[str]] = (),
    loss: str | os.PathLike[str] | None = None,
    drop_bad_rows: bool = False,
    progress: Callable[[Report, float | None], None] | None = None,
) -> tuple[list[Instance], Report]:
    """Make an instance of each window of routing traces: the same servers, models and users in all.

    Parameters
    ----------
    paths, scenario, reading, skip_layers, fillers, selection, gates, loss, drop_bad_rows, progress
        As in :func:`import_traces`.
    windows : int
        How many; see :func:`count_windows` for where they are cut. Losses are those of all windows together. Names end
        in ``_w01``, ``_w02``, ... A user with rows in some window stays in all, in those without with one token, the
        least that a file can say, and no row.

    Returns
    -------
    list of Instance
        In their order.
    Report

    Raises
    ------
    InputError
        As there.
    """
    if windows > 1:
        reading = reading or Reading()
        reading = replace(reading, columns=replace(reading.columns, time=reading.columns.time or TIME))
    selection = selection or Selection()
    if gates:
        scenario = msgspec.structs.replace(scenario, ranked=True)
    if len(scenario.models) > 1:
        raise InputError(f"{len(scenario.models)} models; a trace is of one", place="models")
    known = scenario_models(scenario)
    (model, *_), message_bits, _, published = known
    places = _Places(scenario, known)
    own_numbers: tuple[int, ...] = ()
    whole = model.layers
    if scenario.models:
        whole = find_architecture(scenario.models[0].partition(":")[0]).moe_layers
    elif published is not None:
        whole, own_numbers = published.architecture.moe_layers, tuple(published.layer_index)
    shape = Shape(
        model.layers, model.experts, model.top_k, skip_layers, whole - model.layers, tuple(fillers), own_numbers
    )
    traces = [open_trace(path, shape, reading) for path in paths]
    table = _measured_losses(scenario, traces[0], model, gates, loss)
    report = Report(published=published)
    counts, names = count_windows(
        traces,
        shape,
        places,
        windows=windows,
        selection=selection,
        seed=scenario.seed,
        ranked=scenario.ranked,
        gates=gates,
        drop_bad_rows=drop_bad_rows,
        report=report,
        progress=progress,
    )
    made = places.setting()
    scenario, topology = made.scenario, made.topology
    report.left_out = made.left_out
    report.notes += made.notes
    if names:
        users = list(topology.users)
        for u, name in zip(places.in_order(), names, strict=False):
            users[u] = name
        topology = replace(topology, users=tuple(users))
    tokens = np.zeros(scenario.users, dtype=np.int64)
    for own in counts:
        tokens[: own.demands] += own.tokens
    report.idle = [topology.users[u] for u in np.flatnonzero(tokens == 0).tolist()]
    name = scenario.name or _name(scenario, known, paths, selection)
    if scenario.loss_budget is not None and table is None:
        assert report.mass is not None
        table = losses(report.mass)
    source = _source(scenario, paths, selection, report, gates, loss) | topology.source | topology.parameters()
    if scenario.no_cloud:
        source = {key: value for key, value in source.items() if key not in OF_THE_CLOUD}
    instances = []
    for w, own in enumerate(counts, 1):
        piece, ending, which = dict[str, str | int](), "", ""
        if windows > 1:
            cut = report.windows[w - 1]
            ending, which = window_ending(w, windows), f", window {w} of {windows}"
            piece = {"window": f"{w} of {windows}", "requests": cut.requests, "rows_counted": cut.rows}
            piece |= {"window_begin": cut.begin, "window_end": cut.end} if cut.begin else {}
        instances.append(
            assemble(
                name + ending,
                [Part(model, message_bits[0], own, range(scenario.users), stays=tokens > 0 if windows > 1 else None)],
                topology,
                made.hardware,
                cloud=not scenario.no_cloud,
                latency_model=scenario.latency_model,
                losses=None if table is None else [table],
                loss_budget=scenario.loss_budget,
                source=source | piece,
                notes=f"Routing counted from {', '.join(map(_stem, paths))}{which}.",
            )
        )
    return instances, report


def _measured_losses(
    scenario: Scenario,
    trace: TraceFile,
    model: Model,
    gates: Sequence[str | os.PathLike[str]],
    loss: str | os.PathLike[str] | None,
) -> list[list[int]] | None:
    """Return the losses of a file, if any; refuse a budget without ranks or losses, and losses without a budget."""
    if scenario.loss_budget is None:
        if loss is not None:
            raise InputError("is without effect: nothing may be lost without --loss-budget", place="--loss")
        return None
    need_ranks(trace, gates or None, scenario.ranked)
    if loss is not None:
        return read_losses(loss, model.layers, model.top_k)
    if not gates:
        raise InputError("losses are missing: router weights (--gates), or measured ones (--loss)")
    return None


def window_ending(window: int, windows: int) -> str:
    """Return what names of a window's instance and file end in.

    Examples
    --------
    >>> window_ending(3, 8), window_ending(3, 100)
    ('_w03', '_w003')
    """
    return f"_w{window:0{max(2, len(str(windows)))}}"


def _stem(path: str | os.PathLike[str]) -> str:
    """Return a trace's name without its endings: the same trace in another form makes the same instance."""
    return Path(Path(path).name.removesuffix(".gz")).stem


def _name(
    scenario: Scenario, known: ScenarioModels, paths: Sequence[str | os.PathLike[str]], selection: Selection
) -> str:
    """Return the name of a generated instance with the first trace's name, and the part of it, in it."""
    name = default_name(scenario, known=known)
    numbers = re.search(r"_s\d+_u\d+_c\d+_seed\d+$", name)
    at = numbers.start() if numbers else len(name)
    stem = re.sub(r"[^a-z0-9.+-]+", "-", Path(paths[0]).name.partition(".")[0].lower()).strip("-")
    return "_".join(filter(None, (name[:at], stem, selection.label))) + name[at:]


def _source(
    scenario: Scenario,
    paths: Sequence[str | os.PathLike[str]],
    selection: Selection,
    report: Report,
    gates: Sequence[str | os.PathLike[str]],
    loss: str | os.PathLike[str] | None,
) -> dict[str, str | int]:
    part = ""
    if selection.fraction is not None:
        part = f"{selection.fraction} of every profile's requests"
    elif selection.fold is not None:
        part = f"fold {selection.fold[0]} of {selection.fold[1]}"
    values: dict[str, str | int] = {
        "importer": "moeplace import",
        "routing": ", ".join(map(_stem, paths)),
        "part": f"all but {part}" if selection.rest else part,
        "requests": report.selected,
        "rows_counted": report.counted,
        "rows_dropped": sum(report.dropped.values()),
        "models": " ".join(scenario.models),
        "config": "" if scenario.config is None else Path(scenario.config).name,
        "capacity": scenario.capacity if scenario.servers is None else "",
        "seed": scenario.seed,
        "far_users": scenario.far_users or "",
        "unplaced": scenario.unplaced or "",
        "no_cloud": int(scenario.no_cloud) or "",
        "gpus_per_station": scenario.gpus_per_station if scenario.gpus_per_station > 1 else "",
        "load_gb_per_s": "" if scenario.load_gb_per_s is None else repr(scenario.load_gb_per_s),
        "load_weight": scenario.load_weight or "",
        "layer_slots": "" if scenario.layer_slots is None else scenario.layer_slots,
        "gates": ", ".join(Path(path).name for path in gates),
    }
    if scenario.loss_budget is not None:
        values["loss"] = "router weight, parts per million" if loss is None else f"measured, {Path(loss).name}"
    return {key: value for key, value in values.items() if value != ""}
