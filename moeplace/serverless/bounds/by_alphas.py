"""The bounds by alphas of all main specifications, with what proves them."""

from __future__ import annotations

from collections.abc import Sequence

from moeplace.base.certificates import AnyCertificate
from moeplace.base.documents import InstanceReference
from moeplace.base.incumbent import Incumbent
from moeplace.serverless.bounds.alphas import Ascent, Multipliers, Tuning, alpha_bound
from moeplace.serverless.bounds.by_specs import SpecBounds, budgets
from moeplace.serverless.certificate import Alphas, AlphaSet, ServerlessCertificate, SpecProof
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import LayerTables

SOURCE = "alphas for the maxima of times, in integers"
"""Whose proof the bounds are: nobody's, they can be verified."""


class AlphaBounds(SpecBounds):
    """The best bound of each main specification with its multipliers.

    Parameters
    ----------
    instance : Instance
    tables : sequence of LayerTables
    search : Incumbent
    gap : float
    """

    def __init__(self, instance: Instance, tables: Sequence[LayerTables], search: Incumbent, gap: float) -> None:
        self.kept: dict[int, Multipliers] = {}
        super().__init__(instance, search, SOURCE, gap)
        self.tables = tables
        for main in instance.main_specs:
            if budgets(instance, main).min() < 0:
                self.prove(main, self.nothing)

    def take(self, main: int, by: Multipliers) -> int:
        """Compute the bound of some multipliers, keep it if it is better, and return it."""
        bound = alpha_bound(self.instance, self.tables, main, by)
        if main not in self.kept or bound > self.bound[main]:
            self.kept[main] = by
            self.prove(main, min(bound, self.nothing))
        return bound

    def rays(self, main: int, by: Multipliers) -> None:
        """Try multipliers of ever higher prices: where nothing fits, they prove it."""
        first, every, byte = (max(1, price) for price in by.prices)
        for prices in ((first, every, byte), (first, 0, 0), (0, every, 0), (0, 0, byte)):
            scale = self.nothing.bit_length()
            if self.take(main, Multipliers(tuple(p << scale for p in prices), by.first, by.every)) >= self.nothing:  # type: ignore[arg-type]
                return

    def ascend(self, main: int, start: Multipliers | None, tuning: Tuning) -> Multipliers:
        """Look for good multipliers of a main specification, from others if there are some; return the best ones."""
        measure = min(self.search.latency_ns, self.nothing)
        if start is not None:
            self.take(main, start)
        if not (start is not None and self.done(main)):
            ascent = Ascent(self.instance, self.tables, main, max(1, measure), start)
            steps = tuning.steps if start is None else tuning.later

            def report(by: Multipliers) -> bool:
                self.take(main, by)
                return self.done(main) or self.search.checkpoint() is not None

            ascent.run(steps, report, tuning, lambda: self.search.checkpoint() is not None)
            if main not in self.kept:
                self.take(main, ascent.multipliers())
        return self.kept[main]

    def _told(self, bound: int) -> None:
        """Report the smallest bound, with what proves it."""
        kept = dict(self.kept)
        whole = all(main in kept or budgets(self.instance, main).min() < 0 for main in self.instance.main_specs)
        self.search.prove(bound, self.source, (lambda: self._certificate(bound, kept)) if whole else None)

    def _certificate(self, bound: int, kept: dict[int, Multipliers]) -> AnyCertificate:
        sets: list[AlphaSet] = []
        position: dict[int, int] = {}
        specs = []
        for main, by in sorted(kept.items()):
            key = id(by.first)  # multipliers that another specification began with are written once
            if key not in position:
                position[key] = len(sets)
                sets.append(AlphaSet.make(by.first, by.every))
            specs.append(SpecProof(main, list(by.prices), position[key]))
        reference = InstanceReference(self.instance.name, self.instance.sha256)
        return ServerlessCertificate("moeplace/certificate", 1, reference, bound, Alphas(specs, sets))
