"""Reading places: tables of positions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moeplace.base.documents import show
from moeplace.base.errors import InputError
from moeplace.scenarios.csvtable import Row, Table, is_number, read_table

LATITUDE: Final = ("latitude", "lat")
LONGITUDE: Final = ("longitude", "lon", "lng")
X: Final = ("x", "x_m")
Y: Final = ("y", "y_m")

STATION_NAMES: Final = ("name", "station", "server")
USER_NAMES: Final = ("user", "name")

_MOST_M = 1e9


@dataclass(frozen=True, eq=False)
class Positions:
    """Places of one table.

    Attributes
    ----------
    file : str
    points : float64 array [P, 2]
        Latitude and longitude in degrees, or x and y in metres.
    degrees : bool
    names : tuple of str or None
        All different; None where the table has no names.
    notes : tuple of str
        What a person should know of the reading, a line each.
    """

    file: str
    points: npt.NDArray[np.float64]
    degrees: bool
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def only(self, rows: Sequence[int]) -> Positions:
        """Return some of them."""
        names = None if self.names is None else tuple(self.names[row] for row in rows)
        return Positions(self.file, self.points[list(rows)], self.degrees, names, self.notes)


def read_positions(path: str | os.PathLike[str], *, of_users: bool = False) -> Positions:
    """Read positions from a CSV file: degrees, or metres on a plane.

    The columns are called ``latitude`` (or ``lat``) and ``longitude`` (``lon``, ``lng``), or ``x`` and ``y`` (``x_m``,
    ``y_m``), in any case. Without a heading the numbers of a line are a latitude and a longitude, after a name or not.

    Parameters
    ----------
    path : path-like
    of_users : bool
        Names are in the column ``user``, else ``name``, and must differ: a trace may name them. Stations' are in
        ``name``, ``station`` or ``server``; where they repeat they name nothing.

    Raises
    ------
    InputError
        With the file and the line.
    """
    table = read_table(path, "LATITUDE and LONGITUDE", lambda cells: sum(map(is_number, cells)) < 2)
    if not table.rows:
        raise InputError("has a heading but no positions", file=table.file)
    notes = []
    if table.heading is None:
        table, how = _guessed(table)
        notes.append(how)
    name = table.column(*(USER_NAMES if of_users else STATION_NAMES))
    columns, degrees = position_columns(table)
    if columns is None:
        raise InputError(
            f"expected columns LATITUDE and LONGITUDE, or X and Y (metres), found {show(table.heading)}",
            place="line 1",
            file=table.file,
        )
    points = np.array([position(table, row, columns, degrees) for row in table.rows], dtype=np.float64)
    notes += table.notes([name, *columns])
    own = None
    if name is not None:
        try:
            own = read_names(table, name)
        except InputError as error:
            if of_users:
                raise
            notes.append(f"{error}; stations are numbered")
    return Positions(table.file, points, degrees, own, tuple(notes))


def _guessed(table: Table) -> tuple[Table, str]:
    """Give a table without a heading one, and say so."""
    numbers = [i for i, cell in enumerate(table.rows[0].cells) if is_number(cell)]
    width = len(table.rows[0].cells)
    if numbers == [0, 1] == list(range(width)):
        heading = ["latitude", "longitude"]
    elif numbers == [1, 2] and width == 3:
        heading = ["name", "latitude", "longitude"]
    else:
        raise table.error(
            f"no heading: expected latitude,longitude or name,latitude,longitude, found {show(table.rows[0].cells)}",
            table.rows[0],
        )
    said = f"{table.file}: has no heading; the columns are taken as {', '.join(heading)}"
    return Table(table.file, heading, table.rows, table.decimal_comma), said


def position_columns(table: Table) -> tuple[tuple[int, int] | None, bool]:
    """Return the two columns of a table's positions, None where it has none, and whether they are degrees."""
    for first, second, degrees in ((LATITUDE, LONGITUDE, True), (X, Y, False)):
        a, b = table.column(*first), table.column(*second)
        if a is not None and b is not None:
            return (a, b), degrees
    return None, True


def position(table: Table, row: Row, columns: tuple[int, int], degrees: bool) -> tuple[float, float]:
    """Return the position of a row: latitude and longitude, or x and y."""
    cells = [row.cells[i] if i < len(row.cells) else "" for i in columns]
    numbers = [table.number(cell) for cell in cells]
    # What is no number goes on as it was written, so that the error shows it.
    values = [cell if number is None else float(number) for cell, number in zip(cells, numbers, strict=True)]
    if degrees:
        return in_degrees(values[0], values[1], row.place, table.file)
    for name, value in zip("xy", values, strict=True):
        if isinstance(value, str) or not abs(value) <= _MOST_M:
            found = f"found {show(value)}" if value != "" else "it is missing"
            raise table.error(f"expected {name} in metres, {found}", row)
    return float(values[0]), float(values[1])


def read_names(table: Table, column: int) -> tuple[str, ...]:
    """Return a table's names, which must be there and differ."""
    lines: dict[str, Row] = {}
    for row in table.rows:
        name = row.cells[column] if column < len(row.cells) else ""
        if not name:
            raise table.error("the name is missing", row)
        if name in lines:
            raise table.error(f"the name {show(name)} stands in {lines[name].place} already", row)
        lines[name] = row
    return tuple(lines)


def in_degrees(
    latitude: float | str | None, longitude: float | str | None, place: str, file: str
) -> tuple[float, float]:
    """Check a latitude and a longitude; text is what was no number.

    Raises
    ------
    InputError
        With the file and the place: missing, no number, out of range.
    """
    result = []
    for value, name, most in ((latitude, "latitude", 90), (longitude, "longitude", 180)):
        if value is None or value == "":
            raise InputError(f"the {name} is missing", place=place, file=file)
        if isinstance(value, str):
            raise InputError(f"expected a {name} in degrees, found {show(value)}", place=place, file=file)
        if not -most <= value <= most:  # not a number, too
            raise InputError(f"expected a {name} from -{most} to {most}, found {value}", place=place, file=file)
        result.append(value)
    return result[0], result[1]


def within_box(places: Positions, box: Sequence[float] | None) -> Positions:
    """Return the places within a box of latitudes and longitudes; all of them without one."""
    if box is None:
        return places
    if not places.degrees:
        raise InputError("has x and y in metres; a box is of latitudes and longitudes", file=places.file)
    south, west, north, east = box
    inside = np.all((places.points >= (south, west)) & (places.points <= (north, east)), axis=1)
    if not inside.any():
        raise InputError(
            f"none of {len(inside)} positions is within the box {south}, {west}, {north}, {east}", file=places.file
        )
    return places.only(np.flatnonzero(inside).tolist())
