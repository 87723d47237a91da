"""Arguments and options that several commands share."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from moeplace.base.errors import InputError
from moeplace.base.files import check_writable

DOCUMENT = (".json", ".json.gz")
"""Endings of what is written as JSON: instances, solutions, certificates."""

RESERVED = ("instance", "method", "time_limit", "gap", "seed", "threads", "start", "progress")


def file_name(value: str) -> str:
    """Accept any file name but the empty one, which would mean the current folder."""
    if not value:
        raise click.BadParameter("the file name is empty")
    return value


def instance_file(value: str) -> str:
    """Return the file of an instance, which may be given by its name in the library."""
    from moeplace.library import located

    return str(located(file_name(value)))


def key_value(value: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``; the value is an integer, a number, true or false, else text."""
    key, equals, text = value.partition("=")
    key = key.replace("-", "_")
    if not equals or not key.isidentifier():
        raise click.BadParameter(f"expected KEY=VALUE, found {value!r}")
    if key in RESERVED:
        raise click.BadParameter(f"{key} is no parameter of a method; it has an option of its own")
    return key, parameter_value(text)


def parameter_value(text: str) -> int | float | bool | str:
    """Read the value of a parameter: an integer, a number, true or false, else text."""
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text


instance_argument = click.argument("instance", type=instance_file, metavar="INSTANCE")
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
threads_option = click.option(
    "--threads",
    type=int,
    default=1,
    show_default=True,
    help="Threads of a method; CP-SAT runs its portfolio of 8 workers from 2 on.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
parameter_option = click.option(
    "-p",
    "--param",
    "parameters",
    type=key_value,
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the method (see moeplace methods); may be repeated.",
)


def as_dict(parameters: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Return the parameters by name; one that is given twice is refused."""
    result = dict(parameters)
    for key in result:
        if sum(k == key for k, _ in parameters) > 1:
            raise InputError(f"the parameter {key} is given twice")
    return result


def find_methods_here(names: list[str]) -> None:
    """Let ``module:function`` be found in the current folder, as ``python -m`` would."""
    if any(":" in name for name in names) and "" not in sys.path:
        sys.path.insert(0, "")


def check_output(path: str | None, *inputs: str, endings: Collection[str] = ()) -> None:
    """Refuse, before any work is done, an output file that cannot be written or that the command uses otherwise.

    Every argument and option of the running command that is a file name counts, an input or another output,
    so that a new option is looked after without being listed. Files are compared, not their names.

    Parameters
    ----------
    path : str or None
        The output; nothing is checked where there is none.
    *inputs : str
        Files that are no argument or option of their own.
    endings : collection of str, optional
        One of them must end the file's name, in capitals or not. A document (:data:`DOCUMENT`) goes to a pipe or a
        device of any name; what the name's ending chooses the form of does not.

    Raises
    ------
    InputError
        One line that names the file.
    """
    if path is None:
        return
    check_writable(path)
    others = [("instance", name) for name in inputs]
    context = click.get_current_context(silent=True)
    own = False
    for parameter in context.command.params if context else ():
        if getattr(parameter.type, "func", None) not in (file_name, instance_file):
            continue
        value = context.params.get(parameter.name or "") if context else None
        for name in (value,) if isinstance(value, str) else value or ():
            if name is path and not own:
                own = True  # the output itself, once
            else:
                label = parameter.opts[0] if isinstance(parameter, click.Option) else "instance"
                others.append((label, name))
    for label, name in others:
        if _same_file(path, name):
            what = "the instance itself" if label == "instance" else f"the file of {label} as well"
            raise InputError(f"is {what}; it would be overwritten", file=path)
    if endings and not (endings is DOCUMENT and _is_device(path)):
        name = Path(path).name.lower()
        if not any(name.endswith(ending) and name != ending for ending in endings):
            *first, last = endings
            raise InputError(f"expected a name that ends in {', '.join(first)} or {last}", file=path)


def _is_device(path: str) -> bool:
    return Path(path).exists() and not Path(path).is_file()


def _same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):  # one of them is yet to be written, so that only their places can be compared
        return os.path.realpath(one) == os.path.realpath(other)
