"""The instances that come with the package: sets of files with their best known solutions.

In a checkout they are in the folder ``instances`` at its top, in an installed wheel inside the package.
"""

from __future__ import annotations

import os
from pathlib import Path

from moeplace.documents import BestKnown, parse
from moeplace.errors import InputError
from moeplace.files import read_json

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
    """Return the names of the sets: generated ones from the smallest instances to the largest, then the real one.

    Examples
    --------
    >>> set_names()
    ['tiny', 'small', 'medium', 'large', 'real']
    """
    found = {folder.name for folder in instances_folder().iterdir() if any(folder.glob("*.json*"))}
    order = ["tiny", "small", "medium", "large", "real"]
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
    try:
        return parse(read_json(path), dict[str, BestKnown])
    except InputError as error:
        raise error if error.file else error.in_file(str(path)) from None


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
