"""What proves a bound on a caching instance, as a document (docs/certificates.md): kind ``cut``."""

from __future__ import annotations

import os
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Meta, Struct, UnsetType

from moeplace.base.certificates import Certificate, Trusted, packed, unpacked
from moeplace.base.documents import NonNegative, Positive, parse
from moeplace.base.errors import InputError
from moeplace.base.files import read_json

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
        return cls(smoothing, weights, packed(placement))

    def unpacked(self, servers: int, items: int) -> npt.NDArray[np.int64]:
        """Return the placement, int64 [N, I].

        Raises
        ------
        InputError
            It is not base64, or not of this many numbers.
        """
        try:
            numbers = unpacked(self.placement, servers * items, f"{servers} servers, {items} experts")
        except InputError as error:
            raise InputError(error.message, place="placement") from None
        return numbers.reshape(servers, items)


class Covering(Struct, frozen=True, forbid_unknown_fields=True):
    """What it is worth that a demand without a cloud reaches its experts.

    Attributes
    ----------
    demand : int
        Which one, from 0.
    prices : list of int
        One for each expert of the demand's model, layer by layer, in units of ``1 / (weight_unit * 2**20)`` token-ns; 0
        for an expert on its device.
    """

    demand: NonNegative
    prices: list[Annotated[int, Meta(ge=0)]]


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
    coverage : list of Covering, optional
        Where demands have no cloud: multipliers of what they need.
    """

    unit: Unit
    points: Annotated[list[Point], Meta(min_length=1)]
    weight_unit: Unit
    prices: list[Annotated[int, Meta(ge=0)]]
    price_unit: Positive
    coverage: list[Covering] | UnsetType = UNSET


class CachingCertificate(Certificate[Cut | Trusted], frozen=True, forbid_unknown_fields=True):
    """A certificate of the caching problem; its bound is in token-ns."""


def read_certificate(path: str | os.PathLike[str]) -> CachingCertificate:
    """Read a certificate file.

    Raises
    ------
    InputError
        The file cannot be read or is no certificate document.
    """
    document = read_json(path)
    try:
        return parse(document, CachingCertificate)
    except InputError as error:
        raise error.in_file(str(path)) from None
