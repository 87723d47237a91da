"""Small tables that people write: CSV with commas, semicolons or tabs, with a heading or without one."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final, NamedTuple

from moeplace.base.documents import show
from moeplace.base.errors import InputError
from moeplace.base.files import read_bytes

SEPARATORS: Final = ("\t", ";", ",")
"""What may stand between cells: the first of them that the first line has."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_MOST_DIGITS = 60


class Row(NamedTuple):
    """The cells of a line, white space around them taken off, and where it is."""

    line: int
    cells: list[str]

    @property
    def place(self) -> str:
        """Where the row is in the file, for people."""
        return f"line {self.line}"


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it was read: every cell still text.

    Attributes
    ----------
    file : str
    heading : list of str or None
        None where the first line is a row like the others.
    rows : list of Row
        Without empty lines; none has more cells than the first line.
    decimal_comma : bool
        Numbers are written 48,1: only where semicolons stand between the cells.
    """

    file: str
    heading: list[str] | None
    rows: list[Row]
    decimal_comma: bool

    def column(self, *names: str) -> int | None:
        """Return the column of the first name that the heading has, in any case; None where it has none.

        Raises
        ------
        InputError
            The heading has the name twice.
        """
        own = [name.lower() for name in self.heading or ()]
        for name in names:
            if own.count(name) > 1:
                raise InputError(f"the column {name} stands there twice", place="heading", file=self.file)
            if name in own:
                return own.index(name)
        return None

    def number(self, text: str) -> Fraction | None:
        """Return a cell as a number, exactly; None where it is none (NaN and infinity are none)."""
        if self.decimal_comma:
            if "." in text:
                return None  # 1.234 between numbers like 1,5: a thousand, or not? Nobody could tell.
            text = text.replace(",", ".")
        if len(text) > _MOST_DIGITS or not _NUMBER.fullmatch(text):
            return None
        return Fraction(Decimal(text))

    def error(self, message: str, row: Row | None = None) -> InputError:
        """Return an error that names the file and the row."""
        return InputError(message, place=row.place if row else "", file=self.file)

    def notes(self, read: Sequence[int | None]) -> list[str]:
        """Say what a person should know of the reading.

        Parameters
        ----------
        read : sequence of int or None
            The columns that were read.
        """
        said = []
        unread = [name or "(without a name)" for i, name in enumerate(self.heading or ()) if i not in read]
        if unread:
            said.append(f"{self.file}: columns that are not read: {', '.join(unread)}")
        if self.decimal_comma:
            said.append(f"{self.file}: numbers such as 1,5 are read with a decimal comma")
        return said


def is_number(text: str) -> bool:
    """Tell whether a cell is a number, with a decimal point or comma."""
    return bool(_NUMBER.fullmatch(text) or _DECIMAL_COMMA.fullmatch(text))


def read_table(path: str | os.PathLike[str], expected: str, headed: Callable[[list[str]], bool]) -> Table:
    """Read a table in UTF-8, plain or gzip.

    Parameters
    ----------
    path : path-like
    expected : str
        What the heading should have, for the error of an empty file.
    headed : callable
        Whether the first line's cells are a heading.

    Raises
    ------
    InputError
        With the file and the line: not readable, no CSV, empty, no row, a row with more cells than the first line.
    """
    file = str(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
        first_line = next((line for line in text.splitlines() if line.strip()), "")
        separator = next((s for s in SEPARATORS if s in first_line), ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = [Row(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV file in UTF-8: {error}", file=file) from None
    rows = [row for row in rows if any(row.cells)]
    if not rows:
        raise InputError(f"is empty; a heading with {expected} was expected", file=file)
    heading = rows.pop(0).cells if headed(rows[0].cells) else None
    width = len(heading or rows[0].cells)
    for row in rows:
        while len(row.cells) > width and not row.cells[-1]:
            row.cells.pop()
        if len(row.cells) > width:
            what = f"the heading has {width}" if heading else f"the first line has {width}"
            shown = show(row.cells)
            raise InputError(f"{len(row.cells)} cells, {what}: {shown}", place=row.place, file=file)
    decimal_comma = separator == ";" and any(_DECIMAL_COMMA.fullmatch(cell) for row in rows for cell in row.cells)
    return Table(file, heading, rows, decimal_comma)
