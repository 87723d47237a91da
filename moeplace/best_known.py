"""What is known of the shipped instances: ``best_known.json``, one file beside the instances of a set."""

from __future__ import annotations

import os
from pathlib import Path

from moeplace.documents import BestKnown, parse
from moeplace.errors import InputError
from moeplace.files import read_json

FILE_NAME = "best_known.json"


def read_best_known(folder: str | os.PathLike[str]) -> dict[str, BestKnown]:
    """Read the best known solutions of a set of instances, by instance name.

    Parameters
    ----------
    folder : path-like
        The folder of the set.

    Returns
    -------
    dict of str to BestKnown
        Empty where the folder has no such file.

    Raises
    ------
    InputError
        The file cannot be read or is no such document.
    """
    path = Path(folder) / FILE_NAME
    if not path.exists():
        return {}
    try:
        return parse(read_json(path), dict[str, BestKnown])
    except InputError as error:
        raise error if error.file else error.in_file(str(path)) from None
