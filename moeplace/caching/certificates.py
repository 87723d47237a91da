"""What proves a bound on a caching instance, as a document (docs/certificates.md).

Kinds ``cut`` and ``layers``; where active experts are open, also ``cuts``, and ``layers`` with their numbers.
"""

from __future__ import annotations

import os
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Meta, Struct, UnsetType

from moeplace.base.arrays import Int64
from moeplace.base.certificates import Certificate, Trusted, packed, unpacked
from moeplace.base.documents import NonNegative, Positive, parse
from moeplace.base.errors import InputError, naming
from moeplace.base.files import read_json

LARGEST_UNIT = 2**16 - 1

SHARE_BITS = 20
"""Multipliers are whole numbers of ``2**-SHARE_BITS``: part of the format."""

MANTISSA_BITS = 20
"""Of a code of odds, the bits that are its mantissa: part of the format."""

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


Whole = Annotated[int, Meta(ge=0)]
"""A number that may have any length."""


class ActiveCut(Struct, frozen=True, forbid_unknown_fields=True):
    """A linear upper bound on the saving of each layer with one number of active experts.

    Attributes
    ----------
    experts : int
        The number: of every row, the first so many experts count.
    points : list of Point
        As in :class:`Cut`, with weights for the layers that may use this number, all 0 for others.
    coverage : list of Covering, optional
        As in :class:`Cut`.
    """

    experts: Positive
    points: list[Point]
    coverage: list[Covering] | UnsetType = UNSET


class ActiveCuts(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cuts"):
    """Where active experts are open: a cut for each number of them, and the choice that prices leave. No trust.

    Attributes
    ----------
    unit, weight_unit, prices, price_unit
        As in :class:`Cut`.
    loss_price : int
        Of a unit of loss, in units of ``1 / (price_unit * weight_unit * 2**20)`` token-ns.
    cuts : list of ActiveCut
        One for each number of active experts that some layer may use.
    """

    unit: Unit
    weight_unit: Unit
    prices: list[Whole]
    price_unit: Positive
    loss_price: Whole
    cuts: list[ActiveCut]


class ActiveOdds(Struct, frozen=True, forbid_unknown_fields=True):
    """The odds of a layer with one number of active experts.

    Attributes
    ----------
    experts : int
        The number.
    odds, slot_prices
        As in :class:`LayerWorth`, of the layer's rows cut to their first so many experts.
    """

    experts: Positive
    odds: str
    slot_prices: list[Whole] | UnsetType = UNSET


class LayerWorth(Struct, frozen=True, forbid_unknown_fields=True):
    """What a layer is worth at most at the prices, and the odds by which that is shown.

    Attributes
    ----------
    most : int
        No plan of the layer is worth more, in the proof's units.
    odds : str
        By which the weights of the layer's terms are shared out over their experts: base64 of four-byte little-endian
        integers, see :func:`odds_codes`; radius set by radius set (docs/certificates.md says in which order), all
        experts of the layer within each. Empty: all alike.
    slot_prices : list of int, optional
        Where slots limit the layer: of each server of the instance, what a slot is worth.
    active : list of ActiveOdds, optional
        Where the proof is of all choices of active experts: the odds of each number, in the place of the two above.
    """

    most: int
    odds: str
    slot_prices: list[Whole] | UnsetType = UNSET
    active: list[ActiveOdds] | UnsetType = UNSET


class MergeStep(Struct, frozen=True, forbid_unknown_fields=True):
    """A step of the merge of the layers' plans.

    Attributes
    ----------
    layer : int
        Which one is merged, from 0 over all layers of all models.
    prices : list of list of int
        Prices, each as those of the proof, at which states are bounded.
    """

    layer: NonNegative
    prices: Annotated[list[list[Whole]], Meta(min_length=1)]


class Layers(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="layers"):
    """Prices of storage at which layers fall apart, what they are worth then, and how to merge the rest. No trust.

    Attributes
    ----------
    unit : int
        Weights are rounded up to multiples of so many token-ns, what loading costs is rounded down.
    scale : int
        Prices and worths are in units of ``unit / scale`` token-ns.
    size_unit : int
        Bytes that are one unit of storage; all sizes of experts are multiples of it.
    prices : list of int
        Of a unit of storage on each server; where the proof is of all choices of active experts, of a unit of loss
        after them.
    layers : list of LayerWorth
        All layers of all models.
    merge : list of MergeStep, optional
        Where layers must be enumerated and merged.
    """

    unit: Positive
    scale: Positive
    size_unit: Positive
    prices: list[Whole]
    layers: list[LayerWorth]
    merge: list[MergeStep] | UnsetType = UNSET


def odds_codes(odds: npt.NDArray[np.float64]) -> Int64:
    """Return codes of odds: ``code`` stands for ``2**(code >> 20) * (1 + (code % 2**20) / 2**20)``, but for a factor.

    Parameters
    ----------
    odds : float64 array
        From 0 to 1; what is less than ``2**-1000`` counts as that.

    Returns
    -------
    int64 array
        Below ``2**30``.

    Examples
    --------
    >>> odds_codes(np.array([1.0, 0.5, 0.0])).tolist()
    [1048576000, 1047527424, 0]
    """
    mantissa, exponent = np.frexp(np.maximum(odds, 2.0**-1000))
    steps = 1 << MANTISSA_BITS
    code: Int64 = (999 + exponent.astype(np.int64)) * steps + np.rint((2 * mantissa - 1) * steps).astype(np.int64)
    return code


class CachingCertificate(Certificate[Cut | ActiveCuts | Layers | Trusted], frozen=True, forbid_unknown_fields=True):
    """A certificate of the caching problem; its bound is in token-ns."""


def read_certificate(path: str | os.PathLike[str]) -> CachingCertificate:
    """Read a certificate file.

    Raises
    ------
    InputError
        The file cannot be read or is no certificate document.
    """
    document = read_json(path)
    with naming(path):
        return parse(document, CachingCertificate)
