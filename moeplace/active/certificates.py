"""What proves a bound on active experts, as a document (docs/active.md): kinds ``prices`` and ``layers``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from moeplace.base.certificates import Certificate, Trusted
from moeplace.base.documents import Positive


class _Priced(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    prices: list[Annotated[int, Meta(ge=0)]]
    unit: Positive


class Prices(_Priced, frozen=True, forbid_unknown_fields=True, tag="prices"):
    """Prices of budgets that layers share; each layer then costs at least the least it can with its use paid. No trust.

    Attributes
    ----------
    prices : list of int
        One for each budget, of a unit of it, in units of ``1 / unit`` of what is minimised.
    unit : int
    """


class MergedLayers(_Priced, frozen=True, forbid_unknown_fields=True, tag="layers"):
    """Prices as above, for a merge of all layers: what cannot cost less than the bound by them is dropped. No trust.

    Attributes
    ----------
    prices, unit
        As there.
    """


class ActiveCertificate(Certificate[Prices | MergedLayers | Trusted], frozen=True, forbid_unknown_fields=True):
    """A certificate of the problem of active experts; its bound is in the unit of what is minimised."""
