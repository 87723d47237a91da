"""What proves a bound, as a document: format ``moeplace/certificate`` version 1, kinds ``alphas`` and ``lists``."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from moeplace.base.arrays import Int64
from moeplace.base.certificates import Certificate, Trusted, packed, unpacked
from moeplace.base.documents import NonNegative
from moeplace.base.errors import InputError

ALPHA_BITS: Final = 10
"""Alphas are whole numbers of ``2**-ALPHA_BITS``: part of the format."""


Prices = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=3, max_length=3)]
"""Of a ns to the first token, of a ns of output, of a byte of local experts."""


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
    prices: Prices
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


class ListStep(Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a merge.

    Attributes
    ----------
    layer : int
        Whose plans join those of the steps before.
    prices : list of prices
        At which what there is then is bounded, in the unit of the specification's.
    """

    layer: NonNegative
    prices: list[Prices]


class ListedSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Why one main specification holds nothing cheaper.

    Attributes
    ----------
    main : int
        Index of the specification.
    prices : prices
        In price units, ``scale`` of them to one.
    scale : int
    merge : list of ListStep
        Of all plans that the prices leave; none where these say it. Layers that are in no step follow.
    """

    main: NonNegative
    prices: Prices
    scale: Annotated[int, Meta(ge=1)] = 1
    merge: list[ListStep] | UnsetType = UNSET


class Lists(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="lists"):
    """A lower bound by listing all plans of all layers, for each main specification. It needs no trust.

    Attributes
    ----------
    specs : list of ListedSpec
        Main specifications that are not in it are those of which the least costs of all layers say it.
    """

    specs: list[ListedSpec]


class ServerlessCertificate(Certificate[Alphas | Lists | Trusted], frozen=True, forbid_unknown_fields=True):
    """A certificate of the serverless problem; its bound is in price units.

    Attributes
    ----------
    bound_ns : int
        The lower bound, price units. (The key is the same in the certificates of all problems.)
    """

    bound_ns: Annotated[int, Meta(ge=0)]
