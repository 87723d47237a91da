"""What proves a bound, as a document: format ``moeplace/certificate`` version 1 (docs/certificates.md).

A bound rests either on a *cut* or on *prices*, which anybody can verify with the instance at hand, or on the proof of a
solver, which is named. This module holds the document and nothing that makes or verifies one.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from moeplace.base.documents import InstanceReference, Named, NonNegative, Positive, parse
from moeplace.base.errors import InputError
from moeplace.base.files import read_json, write_bytes

LARGEST_UNIT = 2**16 - 1

SHARE_BITS = 20
"""Multipliers are whole numbers of ``2**-SHARE_BITS``: part of the format."""

Unit = Annotated[int, Meta(ge=1, le=LARGEST_UNIT)]


class Point(Struct, frozen=True, forbid_unknown_fields=True):
    """A fractional placement, at which the multipliers are taken.

    Attributes
    ----------
    smoothing : int
        How far above the smallest value a multiplier may still be positive, in units of the cut's ``unit``.
    weights : list of int
        One for each block (layer of a model): what this point counts in the average, of ``Cut.weight_unit``.
    placement : str
        ``unit`` times the fraction of every item on every server: base64 of two-byte little-endian integers, server
        by server, all items of all models within a server.
    """

    smoothing: Annotated[int, Meta(ge=0, le=LARGEST_UNIT)]
    weights: list[NonNegative]
    placement: str

    @classmethod
    def make(cls, smoothing: int, weights: list[int], placement: npt.NDArray[np.uint16]) -> Point:
        """Pack ``placement [N, I]``."""
        return cls(smoothing, weights, base64.b64encode(placement.astype("<u2").tobytes()).decode())

    def unpacked(self, servers: int, items: int) -> npt.NDArray[np.int64]:
        """Return the placement, int64 [N, I].

        Raises
        ------
        InputError
            It is not base64, or not of this many numbers.
        """
        try:
            data = base64.b64decode(self.placement.encode(), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise InputError("not base64", place="placement") from None
        if len(data) != 2 * servers * items:
            expected = f"{2 * servers * items} bytes ({servers} servers, {items} experts)"
            raise InputError(f"expected {expected}, found {len(data)}", place="placement")
        return np.frombuffer(data, dtype="<u2").reshape(servers, items).astype(np.int64)


class Cut(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cut"):
    """A linear upper bound on the saving, maximised over the capacities at given prices. It needs no trust.

    Attributes
    ----------
    unit : int
        What stands for 1 in the placements.
    points : list of Point
    weight_unit : int
        What the weights of all points sum to in every block.
    prices : list of int
        One for each server, of a byte, in units of ``1 / (price_unit * weight_unit * 2**20)`` token-ns.
    price_unit : int
    """

    unit: Unit
    points: Annotated[list[Point], Meta(min_length=1)]
    weight_unit: Unit
    prices: list[Annotated[int, Meta(ge=0)]]
    price_unit: Positive


class Prices(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="prices"):
    """Prices of budgets that layers share; each layer then costs at least the least it can with its use paid. No trust.

    Attributes
    ----------
    prices : list of int
        One for each budget, of a unit of it, in units of ``1 / unit`` of what is minimised.
    unit : int
    """

    prices: list[Annotated[int, Meta(ge=0)]]
    unit: Positive


class Trusted(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="trusted"):
    """The word of a solver.

    Attributes
    ----------
    source : str
        Whose proof the bound rests on.
    """

    source: str


class Certificate(Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate document.

    Attributes
    ----------
    instance : InstanceReference
        Name and hash of the instance that it is for.
    bound_ns : int
        The lower bound on the cost of every placement, token-ns, that is proven.
    proof : Cut, Prices or Trusted
    """

    format: Literal["moeplace/certificate"]
    version: Literal[1]
    instance: InstanceReference
    bound_ns: NonNegative
    proof: Cut | Prices | Trusted

    @classmethod
    def make(cls, instance: Named, bound_ns: int, proof: Cut | Prices | Trusted) -> Certificate:
        """Make a certificate for an instance."""
        reference = InstanceReference(instance.name, instance.sha256)
        return cls("moeplace/certificate", 1, reference, bound_ns, proof)

    def to_json(self) -> bytes:
        """Return the document."""
        return msgspec.json.encode(self) + b"\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the document, gzip where the name ends in ``.gz``; whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_bytes(path, self.to_json())


def read_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate file.

    Raises
    ------
    InputError
        The file cannot be read or is no certificate document.
    """
    document = read_json(path)
    try:
        return parse(document, Certificate)
    except InputError as error:
        raise error.in_file(str(path)) from None
