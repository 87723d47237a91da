"""JSON Schema files of the documents, for programs in other languages and for editors.

The files beside this module are generated from the types that read the documents (``scripts/build_schemas.py``); a
test compares them. A schema knows types, ranges and keys. What relates one part of a document to another (names,
lengths, sums) is checked when the document is read, see :meth:`moeplace.Instance.from_document`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

import msgspec

from moeplace.active.certificates import ActiveCertificate
from moeplace.active.document import SOLUTION_FORMAT, Choice
from moeplace.active.document import InstanceDocument as ActiveInstance
from moeplace.active.document import Objective as ActiveObjective
from moeplace.base.documents import BestKnown
from moeplace.base.errors import InputError
from moeplace.base.plain import document_type
from moeplace.bench.records import Record, Run
from moeplace.bench.replays import ReplayRecord, ReplayRun
from moeplace.caching.certificates import CachingCertificate
from moeplace.caching.document import InstanceDocument
from moeplace.caching.solution import Solution
from moeplace.serverless import document as serverless
from moeplace.serverless.certificate import ServerlessCertificate

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


DOCUMENTS: Final[dict[str, tuple[str, Any]]] = {
    "instance": ("Instance file of moeplace, versions 1 and 2", InstanceDocument),
    "solution": ("Solution file of moeplace, version 1", Solution),
    "certificate": ("Certificate of moeplace, version 1", CachingCertificate),
    "run": ("run.json of a run directory of moeplace, version 1", Run),
    "record": ("A line of records.jsonl of a run directory of moeplace, version 1", Record),
    "replay": ("run.json of a replay directory of moeplace, version 1", ReplayRun),
    "replay_record": ("A line of records.jsonl of a replay directory of moeplace, version 1", ReplayRecord),
    "best_known": ("Best known values of a set of instances, by instance name", dict[str, BestKnown]),
    "active_experts": ("Instance of active experts of moeplace, version 1", ActiveInstance),
    "active_experts_solution": (
        "Solution of active experts of moeplace, version 1",
        document_type(SOLUTION_FORMAT, Choice, ActiveObjective),
    ),
    "active_experts_certificate": ("Certificate of active experts of moeplace, version 1", ActiveCertificate),
    "serverless": ("Instance of serverless deployment of moeplace, version 1", serverless.InstanceDocument),
    "serverless_solution": (
        "Solution of serverless deployment of moeplace, version 1",
        document_type(serverless.SOLUTION_FORMAT, serverless.Deployment, serverless.Objective),
    ),
    "serverless_certificate": (
        "Certificate of serverless deployment of moeplace, version 1",
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
