"""What proves a bound, as a document: format ``moeplace/certificate`` version 1 (docs/certificates.md).

A bound rests either on numbers which anybody can verify with the instance at hand, of a kind of the problem's own, or
on the proof of a solver, which is named. This module holds the form and nothing that makes or verifies one.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from moeplace.base.arrays import Int64
from moeplace.base.documents import InstanceReference, Named, NonNegative
from moeplace.base.errors import InputError
from moeplace.base.files import Saved

Proof = TypeVar("Proof")


def packed(numbers: npt.NDArray[np.integer], size: int = 2) -> str:
    """Return whole numbers as base64 of little-endian unsigned integers of two or four bytes each."""
    return base64.b64encode(numbers.astype(f"<u{size}").tobytes()).decode()


def unpacked(text: str, count: int | None, what: str = "", size: int = 2) -> Int64:
    """Return the numbers that :func:`packed` packed, int64.

    Parameters
    ----------
    text : str
    count : int or None
        How many there must be; None: any number.
    what : str
        Why so many, for the message.
    size : int
        Bytes of each.

    Raises
    ------
    InputError
        It is not base64, or not of this many numbers.
    """
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InputError("not base64") from None
    if count is None and len(data) % size:
        raise InputError(f"expected {size} bytes a number, found {len(data)} bytes")
    if count is not None and len(data) != size * count:
        raise InputError(f"expected {size * count} bytes{f' ({what})' if what else ''}, found {len(data)}")
    return np.frombuffer(data, dtype=f"<u{size}").astype(np.int64)


class Trusted(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="trusted"):
    """The word of a solver.

    Attributes
    ----------
    source : str
        Whose proof the bound rests on.
    """

    source: str


class Certificate(Saved, Struct, Generic[Proof], frozen=True, forbid_unknown_fields=True):
    """A certificate document. Each problem says which kinds of proof it reads.

    Attributes
    ----------
    instance : InstanceReference
        Name and hash of the instance that it is for.
    bound_ns : int
        The lower bound on the cost of every placement, token-ns, that is proven.
    proof : Trusted, or of a kind of the problem
    """

    format: Literal["moeplace/certificate"]
    version: Literal[1]
    instance: InstanceReference
    bound_ns: NonNegative
    proof: Proof

    @classmethod
    def make(cls, instance: Named, bound_ns: int, proof: Proof) -> Self:
        """Make a certificate for an instance."""
        reference = InstanceReference(instance.name, instance.sha256)
        return cls("moeplace/certificate", 1, reference, bound_ns, proof)

    def to_json(self) -> bytes:
        """Return the document."""
        return msgspec.json.encode(self) + b"\n"


AnyCertificate: TypeAlias = Certificate[Any]
"""A certificate of any problem."""
