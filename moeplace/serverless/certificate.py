"""What proves a bound by alphas, as a document: format ``moeplace/certificate`` version 1, kind ``alphas``."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct

from moeplace.base.arrays import Int64
from moeplace.base.certificates import Certificate, Trusted, packed, unpacked
from moeplace.base.documents import NonNegative
from moeplace.base.errors import InputError

ALPHA_BITS: Final = 10
"""Alphas are whole numbers of ``2**-ALPHA_BITS``: part of the format."""


class AlphaSet(Struct, frozen=True, forbid_unknown_fields=True):
    """The alphas of all maxima.

    Attributes
    ----------
    first : list of int
        Of the prefill of each layer, in ``2**-ALPHA_BITS``.
    every : str
        Of the rows of output tokens, layer by layer, each layer's different sets of experts in lexical order: base64
        of two-byte little-endian integers, in the same unit.
    """

    first: list[NonNegative]
    every: str

    @classmethod
    def make(cls, first: Int64, every: list[Int64]) -> AlphaSet:
        """Pack alphas."""
        return cls(first.tolist(), packed(np.concatenate(every)))

    def rows(self) -> list[int]:
        """Return the alphas of all rows.

        Raises
        ------
        InputError
            They are not base64, or not of two bytes each.
        """
        try:
            return list(map(int, unpacked(self.every, None)))
        except InputError as error:
            raise InputError(error.message, place="every") from None


class SpecProof(Struct, frozen=True, forbid_unknown_fields=True):
    """The multipliers of one main specification.

    Attributes
    ----------
    main : int
        Index of the specification.
    prices : list of int
        Of a ns to the first token, of a ns of output, of a byte of the main function: price units.
    alphas : int
        Which of the certificate's sets of alphas.
    """

    main: NonNegative
    prices: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=3, max_length=3)]
    alphas: NonNegative


class Alphas(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="alphas"):
    """A lower bound for each main specification by multipliers for each maximum. It needs no trust.

    Attributes
    ----------
    specs : list of SpecProof
        One for each main specification at which anything fits at all.
    alphas : list of AlphaSet
    """

    specs: list[SpecProof]
    alphas: list[AlphaSet]


class ServerlessCertificate(Certificate[Alphas | Trusted], frozen=True, forbid_unknown_fields=True):
    """A certificate of the serverless problem; its bound is in price units.

    Attributes
    ----------
    bound_ns : int
        The lower bound, price units. (The key is the same in the certificates of all problems.)
    """

    bound_ns: Annotated[int, Meta(ge=0)]
