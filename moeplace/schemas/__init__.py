"""JSON Schema files of the documents, for programs in other languages and for editors.

The files beside this module are generated from the types that read the documents (``scripts/build_schemas.py``); a
test compares them. A schema knows types, ranges and keys. What relates one part of a document to another (names,
lengths, sums) is checked when the document is read, see :meth:`moeplace.Instance.from_document`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final, Literal, get_type_hints

import msgspec

from moeplace.base.certificates import Certificate
from moeplace.base.documents import BestKnown, NonNegative
from moeplace.base.errors import InputError
from moeplace.base.plain import Objective, PlainSolution
from moeplace.bench.records import Record, Run
from moeplace.caching.document import InstanceDocument
from moeplace.caching.solution import Solution
from moeplace.serverless import document as serverless
from moeplace.serverless.certificate import ServerlessCertificate

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def _plain_solution(form: str, decision: type[msgspec.Struct], numbers: dict[str, type]) -> type[msgspec.Struct]:
    """Return the type of a solution document in the common envelope: decision and numbers where they stand in it."""
    objective = msgspec.defstruct("Objective", list(numbers.items()), bases=(Objective,), frozen=True, kw_only=True)
    own = {"format": Literal[form], "objective": objective}
    envelope = [field for field in msgspec.structs.fields(PlainSolution) if field.name not in ("decision", "numbers")]
    optional: Any = msgspec.field  # its overloads know no field of which either may be unset
    fields = [
        (f.name, own.get(f.name, f.type), optional(default=f.default, default_factory=f.default_factory))
        for f in envelope
    ]
    return msgspec.defstruct("Solution", [*fields[:3], *get_type_hints(decision).items(), *fields[3:]], kw_only=True)


DOCUMENTS: Final[dict[str, tuple[str, Any]]] = {
    "instance": ("Instance file of moeplace, versions 1 and 2", InstanceDocument),
    "solution": ("Solution file of moeplace, version 1", Solution),
    "certificate": ("Certificate of moeplace, version 1", Certificate),
    "run": ("run.json of a run directory of moeplace, version 1", Run),
    "record": ("A line of records.jsonl of a run directory of moeplace, version 1", Record),
    "best_known": ("Best known values of a set of instances, by instance name", dict[str, BestKnown]),
    "serverless": ("Instance file of the serverless problem of moeplace, version 1", serverless.InstanceDocument),
    "serverless_solution": (
        "Solution file of the serverless problem of moeplace, version 1",
        _plain_solution(
            "moeplace/serverless-solution", serverless.Deployment, {"ttft_ns": NonNegative, "tpot_ns": NonNegative}
        ),
    ),
    "serverless_certificate": (
        "Certificate of the serverless problem of moeplace, version 1",
        ServerlessCertificate,
    ),
}
"""Title and type of every document that has a schema, by the schema's name."""


def read_schema(name: str) -> dict[str, Any]:
    """Return a published schema.

    Parameters
    ----------
    name : str
        One of :data:`DOCUMENTS`.

    Raises
    ------
    InputError
        There is no such schema.

    Examples
    --------
    >>> read_schema("instance")["title"]
    'Instance file of moeplace, versions 1 and 2'
    """
    if name not in DOCUMENTS:
        raise InputError(f"no schema {name!r}; there are {', '.join(DOCUMENTS)}")
    schema: dict[str, Any] = json.loads(files(__name__).joinpath(file_name(name)).read_bytes())
    return schema


def generate_schema(name: str) -> dict[str, Any]:
    """Return a schema as the types of today have it (what ``scripts/build_schemas.py`` writes)."""
    title, kind = DOCUMENTS[name]
    head = {"$schema": DIALECT, "$id": f"urn:moeplace:schema:{name}:1", "title": title}
    return head | msgspec.json.schema(kind)


def file_name(name: str) -> str:
    """Return the name of the file that holds a schema."""
    return f"{name}.schema.json"
