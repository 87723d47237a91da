"""What a benchmark is to run: suites of instances, methods with parameters, seeds; and whether a run fits its plan."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from moeplace.base.documents import parse, show
from moeplace.base.errors import InputError, naming
from moeplace.bench.messages import Task
from moeplace.bench.records import BenchPlan, KnownValues, PlannedInstance, PlannedMethod, Run, locate, run_key
from moeplace.library import (
    instance_files,
    instances_folder,
    is_instance,
    read_best_known,
    set_names,
)
from moeplace.problems import load, problem_of


class MethodsFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML file of methods: ``[[method]]`` tables with ``method``, and optionally ``name`` and ``parameters``."""

    method: list[MethodEntry]


class MethodEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One of its tables."""

    method: str
    name: str | None = None
    parameters: dict[str, Any] = {}


def suite_files(suites: Iterable[str]) -> list[tuple[str, Path]]:
    """Return the set and the path of every instance of some suites.

    Parameters
    ----------
    suites : iterable of str
        Each the name of a set of the library, a folder of instances, or an instance file. A folder or file goes by
        the folder's name.

    Raises
    ------
    InputError
        One is neither, has no instances, or has a name that is not UTF-8.
    """
    found: dict[Path, str] = {}
    for suite in suites:
        if suite in set_names():
            entries = [(suite, path) for path in instance_files(suite)]
        elif (folder := Path(suite)).is_dir():
            paths = sorted(path for path in folder.iterdir() if is_instance(path))
            entries = [(folder.resolve().name, path) for path in paths]
            if not entries:
                raise InputError("there are no instances in this folder", file=suite)
        elif Path(suite).is_file():
            entries = [(Path(suite).resolve().parent.name, Path(suite))]
        else:
            raise InputError(f"no set, folder or file {suite!r}; the sets are {', '.join(set_names())}")
        for name, path in entries:
            check_text(str(path.resolve()), "the name of a file that is benchmarked")
            found.setdefault(path.resolve(), name)
    return [(name, path) for path, name in found.items()]


def check_text(text: str, what: str) -> None:
    """Refuse a name that the documents of a run, which are UTF-8, cannot hold.

    Raises
    ------
    InputError
        It is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        raise InputError(f"expected UTF-8 as {what}, found the byte {byte:#04x}", file=text) from None


def planned_instances(
    files: Sequence[tuple[str, Path]],
    earlier: Run | None = None,
    reading: Callable[[int, Path], None] = lambda done, path: None,
) -> list[PlannedInstance]:
    """Read instances and say what they are.

    Parameters
    ----------
    files : sequence of (str, Path)
        Set and path of each.
    earlier : Run, optional
        A run that may know them: a file whose bytes have not changed is not read again.
    reading : callable
        Told how many are done and which one is next.

    Raises
    ------
    InputError
        A file is no instance, or the same instance comes twice.
    """
    known = {instance.file_sha256: instance for instance in (earlier.instances if earlier else ())}
    result: list[PlannedInstance] = []
    paths: dict[str, Path] = {}
    for done, (set_name, path) in enumerate(files):
        reading(done, path)
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=str(path)) from None
        stored = _stored_path(path)
        if digest in known:
            instance = msgspec.structs.replace(known[digest], set=set_name, path=stored)
        else:
            instance = _described(load(path), set_name, stored, digest, path)
        if instance.sha256 in paths:
            raise InputError(f"is the same instance as {paths[instance.sha256]}", file=str(path))
        paths[instance.sha256] = path
        if result and result[0].problem != instance.problem:
            said = f"expected an instance of {result[0].problem}, as the first is, found one of {instance.problem}"
            raise InputError(said, file=str(path))
        result.append(instance)
    return result


def _stored_path(path: Path) -> str:
    path, library = path.resolve(), instances_folder().resolve()
    return path.relative_to(library).as_posix() if path.is_relative_to(library) else str(path)


def _described(instance: Any, set_name: str, stored: str, digest: str, path: Path) -> PlannedInstance:
    known = read_best_known(path.parent).get(instance.name)
    if known is not None and known.sha256 != instance.sha256:
        known = None
    return PlannedInstance(
        set=set_name,
        name=instance.name,
        path=stored,
        sha256=instance.sha256,
        file_sha256=digest,
        problem=problem_of(instance).name,
        best_known=KnownValues(known.latency_ns, known.bound_ns, known.optimal) if known is not None else None,
        **problem_of(instance).sizes(instance),
    )


def method_specification(text: str, value: Callable[[str], Any]) -> PlannedMethod:
    """Read ``method`` or ``method[key=value,...]``.

    Parameters
    ----------
    text : str
    value : callable
        Reads the value of a parameter.

    Raises
    ------
    InputError
        It is not of that form.

    Examples
    --------
    >>> method_specification("local-search[kicks=100]", int).parameters
    {'kicks': 100}
    """
    name, bracket, rest = text.strip().partition("[")
    if not name or (bracket and not rest.endswith("]")):
        raise InputError(f"{text!r} is not of the form method or method[key=value,...]")
    parameters: dict[str, Any] = {}
    for part in rest.removesuffix("]").split(",") if bracket else ():
        key, equals, said = part.strip().partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier() or key in parameters:
            raise InputError(f"{text!r}: expected key=value once for each key, found {part!r}")
        parameters[key] = value(said.strip())
    return PlannedMethod(label(name, parameters), name, parameters)


def split_methods(text: str) -> list[str]:
    """Split at the commas that are outside of brackets.

    Examples
    --------
    >>> split_methods("cpsat,local-search[kicks=1,enumerate=8]")
    ['cpsat', 'local-search[kicks=1,enumerate=8]']
    """
    parts, depth = [""], 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def label(method: str, parameters: dict[str, Any]) -> str:
    """Return what a method with parameters is called where it was given no name."""
    if not parameters:
        return method
    said = {key: value if isinstance(value, str) else show(value) for key, value in parameters.items()}
    return f"{method}[{','.join(f'{key}={said[key]}' for key in sorted(said))}]"


def read_methods(path: str) -> list[PlannedMethod]:
    """Read a TOML file of methods, see :class:`MethodsFile`.

    Raises
    ------
    InputError
        It cannot be read or is no such file.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except ValueError as error:
        raise InputError(f"not TOML: {error}", file=path) from None
    with naming(path):
        entries = parse(document, MethodsFile).method
    for i, entry in enumerate(entries):
        for key, value in entry.parameters.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                place = f"method[{i}].parameters.{key}"
                raise InputError(f"expected a value that JSON has, found {value}", place=place, file=path) from None
    return [PlannedMethod(e.name or label(e.method, e.parameters), e.method, e.parameters) for e in entries]


def read_seeds(text: str) -> list[int]:
    """Read seeds: numbers and ranges with commas between them.

    Raises
    ------
    InputError
        Something else stands there.

    Examples
    --------
    >>> read_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise InputError(f"seeds are numbers and ranges such as 0,1,2 or 0-4, found {text!r}")
        if int(last or first) >= 2**31:
            raise InputError(f"seeds are below 2**31, found {text!r}")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def extended(
    earlier: BenchPlan, methods: Sequence[PlannedMethod], seeds: Sequence[int], **limits: float | None
) -> BenchPlan:
    """Return the plan of a run with more methods and seeds.

    Parameters
    ----------
    earlier : BenchPlan
    methods : sequence of PlannedMethod
        To add; one that is there already, under this name, is passed over.
    seeds : sequence of int
        To add, for all methods.
    **limits
        Fields that were asked for; :func:`check_extends` refuses others than the plan's own.
    """
    known = [(method.name, method.method, method.parameters) for method in earlier.methods]
    added = [method for method in methods if (method.name, method.method, method.parameters) not in known]
    return msgspec.structs.replace(
        earlier,
        methods=[*earlier.methods, *added],
        seeds=list(dict.fromkeys([*earlier.seeds, *seeds])),
        **limits,
    )


def tasks_of(run: Run) -> list[Task]:
    """Return every run of a plan, instance by instance, so that workers need not read one again and again."""
    plan = run.plan
    return [
        Task(
            key=run_key(instance.sha256, method.method, method.parameters, seed, plan),
            set=instance.set,
            instance=instance.name,
            sha256=instance.sha256,
            path=str(locate(instance)),
            label=method.name,
            method=method.method,
            parameters=method.parameters,
            seed=seed,
            threads=plan.threads,
            time_limit=plan.time_limit,
            grace=plan.grace,
            memory_limit_bytes=plan.memory_limit_bytes,
        )
        for instance in run.instances
        for method in plan.methods
        for seed in (plan.seeds if method.seeded else [0])
    ]


ADD = "moeplace bench RUN --add METHODS --seeds SEEDS only adds to it"


def check_extends(earlier: Run, plan: BenchPlan, instances: Sequence[PlannedInstance]) -> None:
    """Refuse to go on with a run whose plan has what the new one has not; more methods, seeds, instances are taken.

    Raises
    ------
    InputError
        Another limit; a method, seed or instance that is left out; an instance that has changed.
    """
    old = earlier.plan
    for name, unit in (("time_limit", " s"), ("grace", " s"), ("memory_limit_bytes", " bytes"), ("threads", "")):
        before, now = getattr(old, name), getattr(plan, name)
        if before != now:
            what = name.removesuffix("_bytes").replace("_", " ")
            raise InputError(f"was made with {what} {before}{unit}, not {now}{unit}; give another folder")
    ways = {method.name: method for method in plan.methods}
    for method in old.methods:
        if method.name not in ways:
            raise InputError(f"was made with the method {method.name} too, which is left out here; {ADD}")
        if ways[method.name] != method:
            raise InputError(f"was made with another method named {method.name}: {show(msgspec.to_builtins(method))}")
    if missing := [seed for seed in old.seeds if seed not in plan.seeds]:
        raise InputError(f"was made with the seed {missing[0]} too, which is left out here; {ADD}")
    here = {instance.sha256 for instance in instances}
    named = {(instance.set, instance.name) for instance in instances}
    for instance in earlier.instances:
        if instance.sha256 not in here:
            changed = (instance.set, instance.name) in named
            what = "has changed since" if changed else "is left out here"
            raise InputError(f"was made with the instance {instance.name}, which {what}")
