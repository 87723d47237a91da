"""Solutions as other solvers write them: the values of a model's variables by their names.

Read are the text forms that name variables: HiGHS (styles 0, 1 and 4 of its ``solution_file``), Gurobi (``.sol``,
``.mst``), SCIP, CBC, the form of MIPLIB (``=obj=``), and the XML of CPLEX. What a name means is a problem's business.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree

from moeplace.base.documents import show
from moeplace.base.errors import InputError, naming
from moeplace.base.files import read_bytes

ENDINGS: Final = (".sol", ".mst", ".sol.gz", ".mst.gz")
"""What the names of such files end in."""

FORMS: Final = "HiGHS (style 0, 1 or 4), Gurobi, SCIP, CBC and CPLEX write files that can be read"


@dataclass
class SolverValues:
    """What a solution file says.

    Attributes
    ----------
    values : dict
        Value of each variable by its name; a variable that is not there is 0.
    objective : float or None
        What the file says its objective is.
    """

    values: dict[str, float] = field(default_factory=dict)
    objective: float | None = None

    def add(self, name: str, value: str, place: str) -> None:
        """Take a variable in; refuse a second value of the same one, and what is no finite number."""
        if name in self.values:
            raise InputError(f"a second value of {show(name)}", place=place)
        self.values[name] = _number(value, place)


def read_values(path: str | os.PathLike[str]) -> SolverValues:
    """Read a solution file of a solver, plain or gzip.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    SolverValues

    Raises
    ------
    InputError
        With the file and the line: a file that cannot be read, is cut off, holds no solution, or is of another form.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start}", file=str(path)) from None
    with naming(path):
        found = SolverValues()
        _form(text)(text, found)
        if not found.values:
            raise InputError("holds no value of a variable")
    return found


def _form(text: str) -> Callable[[str, SolverValues], None]:
    if text.lstrip("\ufeff \t\r\n").startswith("<"):
        return _cplex
    if re.search(r"^# Primal solution values", text, re.MULTILINE):
        return _highs
    if re.search(r"^ +Index +Status +Lower +Upper +Primal ", text, re.MULTILINE):
        return _highs_table
    return _lines


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"expected a number, found {show(text)}", place=place)
    return value


def _numbered(text: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every line with something in it."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"line {number}", line.strip()


def _pair(line: str, place: str) -> tuple[str, str]:
    name, *rest = line.split()
    if not rest:
        raise InputError(f"expected a variable's name and its value, found {show(line)}", place=place)
    return name, rest[0]


def _highs(text: str, found: SolverValues) -> None:
    """HiGHS, styles 0 and 4: the lines after ``# Columns N``; a negative N counts those that are not 0."""
    lines = _numbered(text)
    for place, line in lines:
        if line.startswith("# Primal solution values"):
            place, state = next(lines, (place, "None"))
            if state != "Feasible":
                raise InputError(f"holds no feasible solution: HiGHS says {show(state)}", place=place)
        elif line.startswith("Objective "):
            found.objective = _number(line.split()[1], place)
        elif line.startswith("# Columns"):
            count = re.fullmatch(r"# Columns (-?\d+)", line)
            if count is None:
                raise InputError(f"expected '# Columns' and how many, found {show(line)}", place=place)
            for i in range(abs(int(count[1]))):
                place, line = next(lines, (place, "#"))
                if line.startswith("#"):
                    raise InputError(f"is cut off: {i} of {abs(int(count[1]))} columns", place=place)
                found.add(*_pair(line, place), place)
            return
    raise InputError("is cut off: no columns")


def _highs_table(text: str, found: SolverValues) -> None:
    """HiGHS, style 1: a table of columns and one of rows, with empty cells."""
    where, inside = (0, 0), False
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"line {number}"
        if heading := re.match(r" +Index +Status +Lower( +Upper)( +Primal) ", line):
            where = heading.span(2)
        elif line.strip() in ("Columns", "Rows"):
            inside = line.strip() == "Columns"
        elif line.startswith("Objective value:"):
            found.objective = _number(line.split(":")[1].strip(), place)
        elif inside and line.strip() and not line.startswith("Model status"):
            name, cell = line.split()[-1], line[slice(*where)].strip()
            found.add(name, cell, place)


_OBJECTIVE: Final = re.compile(
    r"(?:#\s*)?objective value\s*[:=]\s*(\S+)|=obj=\s*(\S+)|\S.* - objective value\s+(\S+)", re.IGNORECASE
)
_NOTHING: Final = re.compile(
    r"no solution|solution status:\s*infeasible|(integer )?infeasible\b|unbounded\b", re.IGNORECASE
)


def _lines(text: str, found: SolverValues) -> None:
    """Gurobi, SCIP, CBC, MIPLIB: a name and its value a line, in CBC's after the column's number."""
    for place, line in _numbered(text):
        if said := _OBJECTIVE.match(line):
            if line.lower().startswith("infeasible"):
                raise InputError(f"holds no feasible solution: {show(line)}", place=place)
            found.objective = _number(next(filter(None, said.groups())), place)
        elif _NOTHING.match(line):
            raise InputError(f"holds no feasible solution: {show(line)}", place=place)
        elif not line.lower().startswith(("#", "solution status:")):
            found.add(*_entry(line.split(), line, place), place)


def _entry(words: Sequence[str], line: str, place: str) -> tuple[str, str]:
    if words[0] == "**":
        raise InputError(f"holds no feasible solution: CBC marks {show(line)}", place=place)
    if len(words) == 4 and words[0].isdecimal():
        return words[1], words[2]
    if len(words) == 2 or (len(words) == 3 and words[2].startswith("(obj:")):
        return words[0], words[1]
    raise InputError(f"expected a variable's name and its value, found {show(line)}; {FORMS}", place=place)


def _cplex(text: str, found: SolverValues) -> None:
    """CPLEX: ``<variable name="..." value="..."/>`` of one solution."""
    if "<!" in text.replace("<!--", ""):
        raise InputError("defines entities or a document type, which no solver does")
    try:
        root = ElementTree.fromstring(text.lstrip("\ufeff \t\r\n"))
    except ElementTree.ParseError as error:
        raise InputError(f"not XML: {error}") from None
    solutions = [root] if root.tag == "CPLEXSolution" else root.findall("CPLEXSolution")
    if len(solutions) != 1:
        raise InputError(f"expected one CPLEXSolution, found {len(solutions)} in <{root.tag}>")
    header = solutions[0].find("header")
    if header is not None and (said := header.get("objectiveValue")) is not None:
        found.objective = _number(said, "header")
    for i, variable in enumerate(solutions[0].iterfind("variables/variable")):
        found.add(variable.get("name", ""), variable.get("value", ""), f"variable[{i}]")
