"""The one door for every problem: the ``format`` of a document, or the type of an instance, leads to its problem.

Our own problems stand in a table and are imported when they are needed; anybody's are found in the entry point group
``moeplace.problems``, whose entries are :class:`~moeplace.base.problem.Problem` records by their names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any, NamedTuple

from moeplace.base.certificates import AnyCertificate
from moeplace.base.documents import show
from moeplace.base.errors import InputError, MoeplaceError, naming
from moeplace.base.files import read_json
from moeplace.base.problem import Problem
from moeplace.base.registry import installed
from moeplace.library import located

GROUP = "moeplace.problems"


class _Ours(NamedTuple):
    instance_format: str
    solution_format: str
    where: str


OURS = {
    "caching": _Ours("moeplace/instance", "moeplace/solution", "moeplace.caching.problem:PROBLEM"),
    "active-experts": _Ours(
        "moeplace/active-experts", "moeplace/active-experts-solution", "moeplace.active.problem:PROBLEM"
    ),
    "serverless": _Ours("moeplace/serverless", "moeplace/serverless-solution", "moeplace.serverless.problem:PROBLEM"),
}
"""Our own problems: formats of instances and solutions, and where the problem is."""

TRACES = (".csv", ".npz", ".npy", ".jsonl", ".parquet", ".tsv")
"""How names of files end that are rather a trace than an instance."""

FIRST = "caching"
"""Whose readers say what is wrong with a document that says no format."""


def problem_names() -> list[str]:
    """Return the names of all installed problems, ours first.

    Examples
    --------
    >>> problem_names()[0]
    'caching'
    """
    return [*OURS, *sorted({entry.name for entry in installed(GROUP)} - OURS.keys())]


def find_problem(name: str) -> Problem:
    """Return a problem by its name.

    Raises
    ------
    InputError
        There is none, or it cannot be loaded.
    """
    if name in OURS:
        module, _, attribute = OURS[name].where.partition(":")
        problem: Problem = getattr(import_module(module), attribute)
        return problem
    for entry in installed(GROUP):
        if entry.name == name:
            return _load(entry)
    raise InputError(f"no problem {name!r}; there are {', '.join(problem_names())}")


def _load(entry: EntryPoint) -> Problem:
    try:
        problem = entry.load()
    except Exception as error:  # importing a module runs it, and it may raise anything
        raise InputError(f"the problem {entry.name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(problem, Problem):
        raise InputError(f"the problem {entry.name!r} is a {type(problem).__name__}, not a Problem")
    if problem.name != entry.name:
        raise InputError(f"the problem {entry.name!r} calls itself {problem.name!r}")
    return problem


def problem_of(instance: Any) -> Problem:
    """Return the problem that an instance is of.

    Raises
    ------
    InputError
        Of none that is installed.
    """
    failures = []
    for name in problem_names():
        try:
            problem = find_problem(name)
        except InputError as error:  # somebody's broken problem is no reason not to find the others
            failures.append(str(error))
            continue
        if isinstance(instance, problem.instance_type):
            return problem
    said = "; ".join([f"no problem has instances of the type {type(instance).__name__}", *failures])
    raise InputError(said)


def problem_of_document(document: object, what: str = "instance") -> Problem:
    """Return the problem that a document is of, by its ``format``.

    Parameters
    ----------
    document : object
        As ``json`` read it. One without a format is left to the first problem's readers, which say what is missing.
    what : {"instance", "solution"}

    Raises
    ------
    InputError
        No installed problem has this format; the known ones are named.
    """
    said = document.get("format") if isinstance(document, dict) else None
    if not isinstance(said, str):
        return find_problem(FIRST)
    key = f"{what}_format"
    known, failures = [], []
    for name in problem_names():
        if name in OURS:  # known without importing it
            form = getattr(OURS[name], key)
        else:
            try:
                form = getattr(find_problem(name), key)
            except InputError as error:
                failures.append(str(error))
                continue
        if form == said:
            return find_problem(name)
        known.append(json.dumps(form))
    message = f"expected {' or '.join(known)}, found {show(said)}"
    raise InputError("; ".join([message, *failures]), place="format")


def load(path: str | os.PathLike[str]) -> Any:
    """Read an instance file of any problem (``.json`` or ``.json.gz``).

    Parameters
    ----------
    path : path-like
        The file; or the name of an instance of the library.

    Returns
    -------
    Instance
        Of the problem that the document's ``format`` names: :class:`moeplace.Instance` for caching.

    Raises
    ------
    InputError
        One line: the file, the place in it, what was expected and what was found.
    """
    return load_with_problem(path)[1]


def load_with_problem(path: str | os.PathLike[str]) -> tuple[Problem, Any]:
    """Do what :func:`load` does and return the problem, too."""
    problem, read = problem_of_file(path)
    return problem, read()


def problem_of_file(path: str | os.PathLike[str]) -> tuple[Problem, Callable[[], Any]]:
    """Return the problem of an instance file, and what makes the instance of the document that was read.

    In between there is time to refuse what needs no instance, which takes longer to make than to read.

    Raises
    ------
    InputError
        The file cannot be read, or its format is unknown; the second, that it is no such instance.
    """
    path = located(path)
    try:
        document = read_json(path)
    except InputError as error:
        if path.suffix in TRACES and path.exists():
            hint = f"{error.message}; a routing trace is made an instance by moeplace import"
            raise InputError(hint, place=error.place, file=error.file) from None
        raise
    with naming(path):
        problem = problem_of_document(document)

    def read() -> Any:
        with naming(path):
            return problem.from_document(document)

    return problem, read


def read_solution(path: str | os.PathLike[str]) -> Any:
    """Read a solution file of any problem.

    Returns
    -------
    Solution
        :class:`moeplace.Solution` for caching, :class:`moeplace.base.plain.PlainSolution` for most others.

    Raises
    ------
    InputError
        The file cannot be read or is no solution document.
    """
    document = read_json(path)
    with naming(path):
        return problem_of_document(document, "solution").read_solution(document)


def check(instance: Any, solution: Any, certificate: AnyCertificate | None = None) -> Any:
    """Recompute everything a solution says.

    Parameters
    ----------
    instance : Instance
        Of any problem.
    solution : Solution
        Of the same problem.
    certificate : Certificate, optional
        What proves the solution's bound; verified, too.

    Returns
    -------
    Report
        Every violated constraint and every wrong number, each one line.

    Raises
    ------
    InputError
        The solution is of another problem.
    """
    problem = problem_of(instance)
    check_same_problem(problem, solution)
    return problem.check(instance, solution, certificate)


def check_same_problem(problem: Problem, solution: Any) -> None:
    """Refuse a solution of another problem.

    Raises
    ------
    InputError
        It is.
    """
    found = getattr(solution, "format", type(solution).__name__)
    if not isinstance(solution, problem.solution_type) or found != problem.solution_format:
        raise InputError(f"expected {json.dumps(problem.solution_format)}, found {show(found)}", place="format")


def installed_problems() -> tuple[list[Problem], list[str]]:
    """Return all problems that can be loaded, and why others cannot."""
    problems, failures = [], []
    for name in problem_names():
        try:
            problems.append(find_problem(name))
        except MoeplaceError as error:
            failures.append(str(error))
    return problems, failures
