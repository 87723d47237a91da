"""Measured times between users and servers, and the servers' storage, from tables: no model of radio or links."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace.base.documents import INT64_MAX, UNREACHABLE, show
from moeplace.base.errors import InputError
from moeplace.base.text import number
from moeplace.scenarios.csvtable import Row, Table, is_number, read_table
from moeplace.scenarios.geometry import Int64, on_plane
from moeplace.scenarios.places import (
    LATITUDE,
    LONGITUDE,
    STATION_NAMES,
    Positions,
    position,
    position_columns,
    read_names,
)

CLOUD: Final = "cloud"
DEVICE: Final = "device"
"""What a latency table calls the two that are no servers, in any case."""

USER: Final = ("user", "client", "source", "src", "from")
SERVER: Final = ("server", "station", "destination", "dst", "to")
MS: Final = ("ms", "latency_ms", "rtt_ms", "avg_ms", "latency", "rtt", "avg")
"""What the columns of pairs may be called, the first that is there; ``avg`` is the mean that ping prints."""

CAPACITY: Final = {"_bytes": 1, "_gb": 10**9, "_gib": 2**30}
LOADING: Final = {"load_bytes_per_s": 1, "load_gb_per_s": 10**9}
HOST, LAYER_SLOTS = "host", "layer_slots"
UNIT_NAMES: Final = {1: "bytes", 10**9: "GB (10^9 bytes)", 2**30: "GiB (2^30 bytes)"}

MOST_MS: Final = 10**9
"""Of one time: eleven days."""


@dataclass(frozen=True, eq=False)
class Servers:
    """A table of servers.

    Attributes
    ----------
    file : str
    names : tuple of str [N]
    capacity_bytes : tuple of int [N]
    positions : Positions or None
    notes : tuple of str
        What a person should know of the reading, a line each.
    hosts : tuple of (str or None) [N]
        The machine of each; empty where the table has no such column, None where a row has no such cell.
    load_bytes_per_s, layer_slots : tuple of (int or None) [N]
        Likewise.
    """

    file: str
    names: tuple[str, ...]
    capacity_bytes: tuple[int, ...]
    positions: Positions | None
    notes: tuple[str, ...]
    hosts: tuple[str | None, ...] = ()
    load_bytes_per_s: tuple[int | None, ...] = ()
    layer_slots: tuple[int | None, ...] = ()


@dataclass(frozen=True, eq=False)
class Measured:
    """Users, servers, and the measured times between them, in the place of a topology.

    Attributes
    ----------
    file : str
    stations, users : tuple of str
        Names: servers, users.
    server_ns : int64 array [U, N]
        :data:`~moeplace.base.documents.UNREACHABLE` where the table has no time.
    cloud_ns : int64 array [U]
        :data:`~moeplace.base.documents.UNREACHABLE` where there is no cloud.
    device_ns : int64 array [U] or None
        None where the table has no device.
    station_m : int64 array [N, 2] or None
        Positions, whole metres east and north of a corner.
    source : dict
    notes : tuple of str
        What a person should know of the reading, a line each.
    """

    file: str
    stations: tuple[str, ...]
    users: tuple[str, ...]
    server_ns: Int64
    cloud_ns: Int64
    device_ns: Int64 | None
    station_m: Int64 | None
    source: dict[str, str | int]
    notes: tuple[str, ...] = ()

    user_m = None
    users_named = True

    @property
    def home(self) -> Int64:
        """The quickest server of each user, int64 [U]."""
        quickest: Int64 = self.server_ns.argmin(axis=1).astype(np.int64)
        return quickest

    def parameters(self) -> dict[str, str | int]:
        """Return nothing: measured times depend on no parameter."""
        return {}

    def only(self, users: Sequence[int]) -> Measured:
        """Return the same with some of the users."""
        chosen = np.array(users, dtype=np.int64)
        return replace(
            self,
            users=tuple(self.users[u] for u in users),
            server_ns=self.server_ns[chosen],
            cloud_ns=self.cloud_ns[chosen],
            device_ns=None if self.device_ns is None else self.device_ns[chosen],
        )

    def far(self, message_bits: int, expert_bytes: int, *, cloud: bool = True) -> tuple[npt.NDArray[np.bool_], str]:
        """Tell which users have no server that is quicker than the cloud, bool [U], and what they are, for people.

        Without a cloud these are the users who reach no server.
        """
        far = self.server_ns.min(axis=1) >= self.cloud_ns  # the cloud's time is none where there is no cloud
        return far, "measured no quicker to any server than to the cloud" if cloud else "measured to no server"

    def latencies(self, message_bits: int, expert_bytes: int) -> tuple[Int64, Int64, Int64]:
        """Return the times of one expert of one token for every user: those measured, whatever its size.

        Returns
        -------
        server_ns : int64 array [U, N]
        cloud_ns, device_ns : int64 array [U]
            A device that was not measured is as far as the cloud; where there is no cloud it takes no time, since
            nothing is on it.
        """
        if self.device_ns is not None:
            return self.server_ns, self.cloud_ns, self.device_ns
        nowhere = self.cloud_ns == UNREACHABLE
        return self.server_ns, self.cloud_ns, np.where(nowhere, 0, self.cloud_ns)


def read_servers(path: str | os.PathLike[str]) -> Servers:
    """Read servers and their storage from a CSV file.

    Columns: ``name``; ``capacity_bytes``, ``capacity_gb`` (10^9 bytes) or ``capacity_gib`` (2^30), else the only other
    column whose name ends so; positions as in :func:`~moeplace.scenarios.places.read_positions`, or none. Further
    columns that may be there, with cells that may be empty: ``host``, ``load_bytes_per_s`` or ``load_gb_per_s`` (10^9
    bytes), ``layer_slots``.

    Raises
    ------
    InputError
        With the file and the line: a column that is missing, a name that is missing or there twice, no capacity, a
        cell that is none of its column.
    """
    table = read_table(path, "name and capacity_gb", lambda cells: True)
    name = table.column(*STATION_NAMES)
    if name is None:
        raise InputError(f"expected a column name, found {show(table.heading)}", place="line 1", file=table.file)
    if not table.rows:
        raise InputError("has a heading but no servers", file=table.file)
    column, heading, unit = _capacity_column(table)
    names = read_names(table, name)
    for own in names:
        if own.lower() in (CLOUD, DEVICE):
            raise InputError(f"a server cannot be called {own}", file=table.file)
    capacity = tuple(_capacity(table, row, column, heading, unit) for row in table.rows)
    columns, degrees = position_columns(table)
    positions = None
    if columns is not None:
        points = np.array([position(table, row, columns, degrees) for row in table.rows], dtype=np.float64)
        positions = Positions(table.file, points, degrees, names)
    host, slots = table.column(HOST), table.column(LAYER_SLOTS)
    rates = [there for text in LOADING if (there := table.column(text)) is not None]
    if len(rates) > 1:
        raise InputError(f"expected one of {' and '.join(LOADING)}, found both", place="line 1", file=table.file)
    rate = rates[0] if rates else None
    per_s = 1 if rate is None else LOADING[(table.heading or ())[rate].lower()]
    notes = table.notes([name, column, host, slots, rate, *(columns or ())])
    if not heading.startswith("capacity_"):
        notes.append(f"{table.file}: the storage is that of the column {heading}, in {UNIT_NAMES[unit]}")
    return Servers(
        table.file,
        names,
        capacity,
        positions,
        tuple(notes),
        tuple(_cell(row, host) or None for row in table.rows) if host is not None else (),
        _amounts(table, rate, per_s, least=1),
        _amounts(table, slots, 1, least=0),
    )


def _cell(row: Row, column: int) -> str:
    return row.cells[column] if column < len(row.cells) else ""


def _amounts(table: Table, column: int | None, unit: int, *, least: int) -> tuple[int | None, ...]:
    """Return a column of whole amounts; None where a cell is empty, nothing where there is no such column."""
    if column is None:
        return ()
    found: list[int | None] = []
    for row in table.rows:
        text = _cell(row, column)
        value = table.number(text) if text else None
        amount = None if value is None else value * unit
        if text and (amount is None or amount.denominator != 1 or not least <= amount <= INT64_MAX):
            what = "a whole number" if unit == 1 else f"a number that is a whole multiple of 1/{unit}"
            heading = (table.heading or ())[column]
            raise table.error(f"{heading}: expected {what}, at least {least}, found {show(text)}", row)
        found.append(None if amount is None else int(amount))
    return tuple(found)


def _capacity_column(table: Table) -> tuple[int, str, int]:
    """Return the column with the storage, its name, and how many bytes one is."""
    headings = [name.lower() for name in table.heading or ()]
    known = [name for name in headings if name in {f"capacity{ending}" for ending in CAPACITY}]
    found = known or [name for name in headings if name.endswith(tuple(CAPACITY))]
    if len(found) != 1:
        there = f"found {', '.join(found)}: one of them" if found else f"found {show(table.heading)}"
        raise InputError(f"expected a column capacity_bytes or capacity_gb, {there}", place="line 1", file=table.file)
    unit = next(unit for ending, unit in CAPACITY.items() if found[0].endswith(ending))
    return headings.index(found[0]), found[0], unit


def _capacity(table: Table, row: Row, column: int, heading: str, unit: int) -> int:
    """Return the storage of a row, bytes, rounded down."""
    text = row.cells[column] if column < len(row.cells) else ""
    value = table.number(text)
    if value is None or value < 0 or (unit == 1 and value.denominator != 1) or value * unit > INT64_MAX:
        what = "whole bytes" if unit == 1 else "a number that is not negative"
        raise table.error(f"{heading}: expected {what}, found {show(text)}", row)
    return int(value * unit)


@dataclass(frozen=True, eq=False)
class _Times:
    """Times as a table has them: by user, then by server, ns; both in the table's order."""

    file: str
    of: dict[str, dict[str, int]]
    servers: list[str]
    notes: list[str]


def read_measured(
    latency_file: str | os.PathLike[str],
    servers: Servers | None = None,
    cloud_ms: str | None = None,
    *,
    cloud: bool = True,
) -> Measured:
    """Read measured times: pairs ``user,server,ms``, or a matrix with a row for each user and servers in the heading.

    Times are round trips in milliseconds, until the output of an expert is back, kept to the nanosecond; a pair without
    one is unreachable. ``cloud`` and ``device`` are no servers.

    Parameters
    ----------
    latency_file : path-like
    servers : Servers, optional
        The servers, in their order; each must be measured. All that the table has where they are left out.
    cloud_ms : str, optional
        The time to the cloud of users for whom the table has none.
    cloud : bool
        Whether there is a cloud; times to it are not read without.

    Returns
    -------
    Measured

    Raises
    ------
    InputError
        With the file and the line or the name: no such table, a pair twice, a time that is none, a server or a user
        that nobody measured, a user without a time to the cloud.
    """
    times = _read_times(latency_file)
    notes = list(times.notes)
    names: tuple[str, ...] = tuple(times.servers)
    if servers is not None:
        names = servers.names
        notes += servers.notes
        for name in names:
            if name not in times.servers:
                rows = " (it is a row: users are rows, servers columns)" if name in times.of else ""
                raise InputError(f"server {show(name)} of {servers.file} is not measured{rows}", file=times.file)
        others = [name for name in times.servers if name not in names]
        if others:
            said = f"{number(len(others), 'server')} measured but not in {servers.file}, left out: {', '.join(others)}"
            notes.append(f"{times.file}: {said}")
    if not names:
        raise InputError("no server is measured", file=times.file)
    for user, own in times.of.items():
        if not own:
            raise InputError(f"no time of user {show(user)}", file=times.file)
    if cloud:
        to_cloud = _to_cloud(times, None if cloud_ms is None else given_ms(cloud_ms), notes)
    else:
        to_cloud = np.full(len(times.of), UNREACHABLE, dtype=np.int64)
        if unread := sum(CLOUD in own for own in times.of.values()):
            notes.append(f"{times.file}: times to the cloud of {number(unread, 'user')} are not read: --no-cloud")
    to_device = _to_device(times)
    server_ns = np.array(
        [[own.get(name, UNREACHABLE) for name in names] for own in times.of.values()], dtype=np.int64
    ).reshape(len(times.of), len(names))
    positions = servers.positions if servers is not None else None
    source: dict[str, str | int] = {"latency": Path(latency_file).name}
    if servers is not None:
        source["servers"] = Path(servers.file).name
    if cloud_ms is not None:
        source["cloud_ms"] = cloud_ms
    return Measured(
        file=times.file,
        stations=names,
        users=tuple(times.of),
        server_ns=server_ns,
        cloud_ns=to_cloud,
        device_ns=to_device,
        station_m=None if positions is None else _metres(positions),
        source=source,
        notes=tuple(notes),
    )


def _metres(positions: Positions) -> Int64:
    if positions.degrees:
        return on_plane(positions.points, positions.points)
    metres: Int64 = np.rint(positions.points).astype(np.int64)
    return metres


def _to_cloud(times: _Times, cloud: int | None, notes: list[str]) -> Int64:
    """Return the times to the cloud, of all users."""
    without = [user for user, own in times.of.items() if CLOUD not in own]
    if without and cloud is None:
        more = f" (and of {len(without) - 1} more)" if len(without) > 1 else ""
        raise InputError(
            f"no time to the cloud of user {show(without[0])}{more}; measure it as server cloud, or give --cloud-ms, "
            "or say that there is none (--no-cloud)",
            file=times.file,
        )
    if cloud is not None and not without:
        raise InputError("is without effect: every user's time to the cloud is measured", place="cloud_ms")
    if 0 < len(without) < len(times.of):
        notes.append(f"{times.file}: {len(without)} of {number(len(times.of), 'user')} with the time of --cloud-ms")
    return np.array([own.get(CLOUD, cloud) for own in times.of.values()], dtype=np.int64)


def _to_device(times: _Times) -> Int64 | None:
    """Return the times of the devices, which all users have or none."""
    device = [own[DEVICE] for own in times.of.values() if DEVICE in own]
    if not device:
        return None
    if len(device) < len(times.of):
        user = next(user for user, own in times.of.items() if DEVICE not in own)
        raise InputError(f"no time of the device of user {show(user)}; all users have one or none", file=times.file)
    return np.array(device, dtype=np.int64)


def _read_times(path: str | os.PathLike[str]) -> _Times:
    table = read_table(path, "user, server and ms", _headed)
    if len(table.heading or table.rows[0].cells) < 2:
        raise InputError(
            "expected cells with commas, semicolons or tabs between them, and names: user,server,ms, or user and the "
            f"servers; found {show((table.heading or table.rows[0].cells)[0])}",
            place="line 1",
            file=table.file,
        )
    user, server, ms = (table.column(*names) for names in (USER, SERVER, MS))
    if table.heading is None and _are_pairs(table):
        user, server, ms = 0, 1, 2
    elif table.heading is None or _is_a_row(table.heading):
        raise InputError(
            "expected a heading with names: user,server,ms, or user and the servers; found "
            f"{show(table.heading or table.rows[0].cells)}",
            place="line 1",
            file=table.file,
        )
    if None not in (user, server, ms):
        return _pairs(table, user, server, ms)  # type: ignore[arg-type]
    return _matrix(table)


def _headed(cells: list[str]) -> bool:
    """Tell a heading from a first pair ``client,north,1.2`` and from the first line of a matrix without names."""
    return not (is_number(cells[0]) or (len(cells) == 3 and is_number(cells[2]) and not is_number(cells[1])))


def _are_pairs(table: Table) -> bool:
    """Tell whether the lines of a table without a heading are user, server, time."""
    cells = table.rows[0].cells
    if len(cells) != 3 or is_number(cells[0]):
        return False
    return not any(is_number(cell) for row in table.rows for cell in row.cells[1:2])


def _is_a_row(heading: list[str]) -> bool:
    """Tell whether what should be a heading is the row of a user: servers may be called by numbers, not then."""
    return heading[0].lower() not in (*USER, "name", "") and all(map(is_number, filter(None, heading[1:])))


class _Reader:
    """Turns cells into times, and remembers how many had to be rounded."""

    def __init__(self, table: Table) -> None:
        self.table, self.rounded = table, 0

    def ns(self, row: Row, text: str, what: str) -> int:
        value = self.table.number(text)
        if value is None or not 0 <= value <= MOST_MS:
            raise self.table.error(
                f"{what}: expected milliseconds, found {show(text)}; a server out of reach has no entry", row
            )
        ns = value * 10**6
        self.rounded += ns.denominator != 1
        return round(ns)

    def notes(self, read: Sequence[int | None]) -> list[str]:
        notes = self.table.notes(read)
        if self.rounded:
            notes.append(f"{self.table.file}: {number(self.rounded, 'time')} rounded to the nanosecond")
        return notes


def _pairs(table: Table, user: int, server: int, ms: int) -> _Times:
    reader = _Reader(table)
    of: dict[str, dict[str, int]] = {}
    servers: dict[str, None] = {}
    lines: dict[tuple[str, str], Row] = {}
    for row in table.rows:
        own, name, text = (row.cells[i] if i < len(row.cells) else "" for i in (user, server, ms))
        if not own or not name:
            raise table.error(f"the {'server' if own else 'user'} is missing", row)
        name = _server(name)
        if (own, name) in lines:
            pair = f"{own}, {name}"
            raise table.error(f"the pair {pair} stands in {lines[own, name].place} already; one row a pair", row)
        lines[own, name] = row
        times = of.setdefault(own, {})
        if text:
            times[name] = reader.ns(row, text, f"{own}, {name}")
            if name not in (CLOUD, DEVICE):
                servers[name] = None
    if not of:
        raise InputError("has a heading but no times", file=table.file)
    notes = reader.notes([user, server, ms])
    if table.heading is None:
        notes.append(f"{table.file}: has no heading; the columns are taken as user, server, ms")
    elif (heading := table.heading[ms].lower()) not in MS[:4]:
        notes.append(f"{table.file}: the column {heading} is taken as milliseconds, there and back")
    return _Times(table.file, of, list(servers), notes)


def _matrix(table: Table) -> _Times:
    headings = table.heading or []
    lowered = [name.lower() for name in headings]
    if lowered[0] in SERVER or any(name in (*SERVER, *MS) for name in lowered[1:]):
        raise InputError(
            "expected columns user, server and ms, or a matrix: user and the names of the servers, a row for each "
            f"user; found {show(table.heading)}",
            place="line 1",
            file=table.file,
        )
    columns: dict[str, int] = {}
    for i, name in enumerate(headings[1:], 1):
        if not name:
            raise InputError("a column without a name", place="line 1", file=table.file)
        if lowered[i] in (*LATITUDE, *LONGITUDE):
            continue  # said as not read
        if _server(name) in columns:
            raise InputError(f"the server {show(name)} stands there twice", place="line 1", file=table.file)
        columns[_server(name)] = i
    if not table.rows:
        raise InputError("has a heading but no times", file=table.file)
    reader = _Reader(table)
    of: dict[str, dict[str, int]] = {}
    measured: set[str] = set()
    for user, row in zip(read_names(table, 0), table.rows, strict=True):
        cells = ((name, row.cells[i] if i < len(row.cells) else "") for name, i in columns.items())
        of[user] = {name: reader.ns(row, text, f"{user}, {name}") for name, text in cells if text}
        measured |= of[user].keys()
    servers = [name for name in columns if name in measured and name not in (CLOUD, DEVICE)]
    return _Times(table.file, of, servers, reader.notes([0, *columns.values()]))


def _server(name: str) -> str:
    """Return the name of a server; cloud and device in any case are those two."""
    return name.lower() if name.lower() in (CLOUD, DEVICE) else name


def given_ms(text: str) -> int:
    """Read a time in milliseconds that is an option, ns.

    Raises
    ------
    InputError
        No number, negative, too long, or no whole nanoseconds.
    """
    ns = Fraction(Decimal(text)) * 10**6 if is_number(text) and "," not in text and len(text) < 40 else None
    if ns is None or not 0 <= ns <= MOST_MS * 10**6 or ns.denominator != 1:
        raise InputError(f"expected milliseconds, at most six decimals, found {show(text)}", place="cloud_ms")
    return int(ns)
