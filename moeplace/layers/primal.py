"""The plain primal side of a proof by layers: an incumbent, for problems whose cost is a reference less the value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moeplace.base.arrays import Int64
from moeplace.base.certificates import AnyCertificate
from moeplace.base.incumbent import Incumbent
from moeplace.layers.proof import Argument


class CostSide:
    """Joins a :class:`~moeplace.layers.proof.LayerProof` to an incumbent; see its ``Primal``.

    Parameters
    ----------
    search : Incumbent
        Receives bounds and decisions; it may begin without one.
    reference : int
        The cost of a decision is this less the sum of its plans' values, which are in units of costs here.
    layers : int
        How many there are.
    source : str
        Whose proof the bounds are.
    decision : callable
        The decision of one plan a layer, by the plans' codes.
    codes : callable, optional
        The plans' codes of a decision, with which the proof then begins; without it, a start is only an incumbent.
    repaired : callable, optional
        A decision that fits of one that may not; without it, what does not fit comes to nothing.
    scale : int
        The oracles' values are this many times the costs that they save, for finer prices; see
        :func:`~moeplace.layers.oracle.finest`.
    certificate : callable, optional
        What proves a bound on the cost; called only where a certificate is asked for.
    """

    def __init__(
        self,
        search: Incumbent,
        reference: int,
        layers: int,
        source: str,
        decision: Callable[[Sequence[Int64]], Any],
        codes: Callable[[Any], Sequence[Int64]] | None = None,
        repaired: Callable[[Any], Any] | None = None,
        scale: int = 1,
        certificate: Callable[[int], AnyCertificate] | None = None,
    ) -> None:
        if scale < 1:
            raise ValueError(f"expected a scale of at least 1, found {scale}")
        self.scale = scale
        self.search, self.reference, self.source = search, reference, source
        self._certificate = certificate
        self._layers, self._decision, self._codes, self._repaired = layers, decision, codes, repaired

    @property
    def value(self) -> int:
        """Value of the incumbent and what is not worth a unit of cost more; without one, of the ceiling."""
        return (self.reference - self.search.latency_ns + 1) * self.scale - 1

    def stop(self) -> bool:
        """Return whether the search has ended."""
        return self.search.checkpoint() is not None

    def prove(self, upper: int, argument: Argument) -> None:
        """Report a bound on the value as one on the cost."""
        bound, certificate = self.reference - upper // self.scale, self._certificate
        self.search.prove(bound, self.source, certificate and (lambda: certificate(max(bound, 0))))

    def known(self) -> list[list[Int64]]:
        """Return the incumbent's plans."""
        if self._codes is None or self.search.placement is None:
            return [[] for _ in range(self._layers)]
        return [[code] for code in self._codes(self.search.placement)]

    def offer(self, codes: Sequence[Int64]) -> bool:
        """Take plans that fit as the incumbent if they are better."""
        return self.search.offer(self._decision(codes))

    def repair(self, codes: Sequence[Int64]) -> None:
        """Offer what can be made of plans that may take more than the budgets have."""
        decision = self._decision(codes)
        self.search.offer(decision if self._repaired is None else self._repaired(decision))

    def polish(self) -> None:
        """Leave the incumbent as it is."""
