"""The instances that come with the package: sets of files with their best known solutions.

In a checkout they are in the folder ``instances`` at its top, in an installed wheel inside the package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from moeplace.base.documents import BestKnown, parse
from moeplace.base.errors import InputError, naming
from moeplace.base.files import read_json, write_bytes
from moeplace.base.text import did_you_mean

BEST_KNOWN = "best_known.json"


def instances_folder() -> Path:
    """Return the folder that holds the sets.

    Raises
    ------
    InputError
        The instances are neither beside nor inside the package.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "instances", package.parent / "instances"):
        if folder.is_dir():
            return folder
    raise InputError("the instances are missing from this installation")


def set_names() -> list[str]:
    """Return the names of the sets: of caching from the smallest instances to the largest, the real ones, then others.

    Examples
    --------
    >>> set_names()
    ['tiny', 'small', 'medium', 'large', 'real', 'collaboration', 'joint', 'active', 'serverless']
    """
    found = {folder.name for folder in instances_folder().iterdir() if any(folder.glob("*.json*"))}
    order = ["tiny", "small", "medium", "large", "real", "collaboration", "joint", "active", "serverless"]
    return [name for name in order if name in found] + sorted(found - set(order))


def instance_files(set_name: str | None = None) -> list[Path]:
    """Return the instance files of a set, or of all sets, by name.

    Parameters
    ----------
    set_name : str, optional
        One of :func:`set_names`.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        There is no such set.

    Examples
    --------
    >>> [path.name for path in instance_files("tiny")][-1]
    'tiny_unreachable_server.json'
    """
    if set_name is None:
        return [path for name in set_names() for path in instance_files(name)]
    folder = _set_folder(set_name)
    return sorted(path for path in folder.iterdir() if is_instance(path))


def located(instance: str | os.PathLike[str]) -> Path:
    """Return the file of an instance: what is named itself if it is there, else that of the library by this name.

    Parameters
    ----------
    instance : path-like
        A file, or the name of an instance of the library, with its set (``tiny/tiny_sum_adds_up``) or without.

    Raises
    ------
    InputError
        It reads as a name, but there is neither such a file nor such an instance; the one most like it is named.

    Examples
    --------
    >>> located("tiny_sum_adds_up").name, str(located("elsewhere/own.json"))
    ('tiny_sum_adds_up.json', 'elsewhere/own.json')
    """
    path = Path(instance)
    if is_instance(path):
        return path
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):  # no name for a file: whoever reads it says why
        return path
    else:
        return path
    known = {instance_name(file): file for file in instance_files()}
    file = known.get(path.name)
    if file is not None and path.parent.name in ("", file.parent.name):
        return file
    said = "no such file, and no instance of the library has this name (see moeplace instances)"
    raise InputError(said + did_you_mean(path.name, known), file=str(instance))


def best_known(set_name: str) -> dict[str, BestKnown]:
    """Return the best known solution values of a set by instance name; empty where none are recorded.

    Raises
    ------
    InputError
        There is no such set, or its file is damaged.

    Examples
    --------
    >>> best_known("tiny")["tiny_top1_greedy_works"].latency_ns
    360000000
    """
    return read_best_known(_set_folder(set_name))


def read_best_known(folder: str | os.PathLike[str]) -> dict[str, BestKnown]:
    """Read the ``best_known.json`` of a folder of instances, by instance name; empty where there is none.

    Raises
    ------
    InputError
        The file cannot be read or is no such document.
    """
    path = Path(folder) / BEST_KNOWN
    if not path.exists():
        return {}
    with naming(path):
        return parse(read_json(path), dict[str, BestKnown])


def write_best_known(folder: str | os.PathLike[str], records: Mapping[str, BestKnown]) -> None:
    """Write the ``best_known.json`` of a folder, one line an instance, by name; whole or not at all.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    lines = (f"  {json.dumps(name)}: {json.dumps(msgspec.to_builtins(records[name]))}" for name in sorted(records))
    write_bytes(Path(folder) / BEST_KNOWN, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def instance_name(path: Path) -> str:
    """Return the name that an instance file must have inside: the file's, without its endings."""
    return path.name.removesuffix(".gz").removesuffix(".json")


def is_instance(path: Path) -> bool:
    """Return whether a file in a folder of instances is one, by its name."""
    return path.name.endswith((".json", ".json.gz")) and path.name != BEST_KNOWN


def _set_folder(set_name: str) -> Path:
    if set_name not in set_names():
        raise InputError(f"no set of instances {set_name!r}; there are {', '.join(set_names())}")
    return instances_folder() / set_name
