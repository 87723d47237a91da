"""The bounds by alphas of all main specifications, with what proves them."""

from __future__ import annotations

from collections.abc import Sequence

from moeplace.base.certificates import AnyCertificate
from moeplace.base.documents import InstanceReference
from moeplace.base.incumbent import Incumbent
from moeplace.serverless.bounds.alphas import Ascent, Multipliers, Tuning, alpha_bound, free_scale
from moeplace.serverless.bounds.by_specs import SpecBounds, budgets
from moeplace.serverless.certificate import Alphas, AlphaSet, ServerlessCertificate, SpecProof
from moeplace.serverless.cost import largest_times
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
    threads : int
    """

    def __init__(
        self, instance: Instance, tables: Sequence[LayerTables], search: Incumbent, gap: float, threads: int = 1
    ) -> None:
        self.kept: dict[int, Multipliers] = {}
        self._reached: dict[int, int] = {}  # their bounds, also where they are above what any deployment costs
        super().__init__(instance, search, SOURCE, gap)
        self.tables, self.threads = tables, threads
        for main in instance.main_specs:
            if budgets(instance, main).min() < 0:
                self.prove(main, self.nothing)

    def take(self, main: int, by: Multipliers) -> int:
        """Compute the bound of some multipliers, keep it if it is better, and return it."""
        bound = alpha_bound(self.instance, self.tables, main, by)
        if main not in self.kept or bound > self.bound[main]:
            self._keep(main, by, bound)
        return bound

    def _keep(self, main: int, by: Multipliers, bound: int) -> None:
        self.kept[main], self._reached[main] = by, bound
        self.prove(main, min(bound, self.nothing))

    def limits(self, main: int, near: Multipliers, others: Multipliers | None, tuning: Tuning) -> Multipliers:
        """Look for prices that prove that nothing is within the limits; return the best ones found.

        Parameters
        ----------
        main : int
        near : Multipliers
            Good ones for the cost: their prices, and each of them alone, are what is tried first.
        others : Multipliers, optional
            What this found for another specification.
        tuning : Tuning
        """
        budget = [max(1, most) for most in budgets(self.instance, main).tolist()]

        def worth(by: Multipliers) -> float:
            """Return the bound, as a share of what the budgets are worth; keep what proves that nothing fits."""
            bound = alpha_bound(self.instance, self.tables, main, by)
            if bound >= self.nothing:
                self._keep(main, by, bound)
            return float(bound / sum(price * most for price, most in zip(by.prices, budget, strict=True)))

        def report(by: Multipliers) -> bool:
            worth(by)
            return self.bound[main] >= self.nothing or self._ended()

        first, every, byte = (max(1, price) for price in near.prices)
        tried = [] if others is None else [others]
        for prices in ((first, every, byte), (first, 0, 0), (0, every, 0), (0, 0, byte)):
            unit = free_scale(self.instance) // sum(p * most for p, most in zip(prices, budget, strict=True)) + 1
            tried.append(Multipliers((prices[0] * unit, prices[1] * unit, prices[2] * unit), near.first, near.every))
        found: list[tuple[float, Multipliers]] = []
        for by in tried:
            found.append((worth(by), by))
            if self.bound[main] >= self.nothing or self._ended():
                return by
        start = max(found, key=lambda own: own[0])[1]
        ascent = Ascent(self.instance, self.tables, main, None, start, self.threads)
        ascent.run(tuning.steps if others is None else tuning.later, report, tuning, self._ended)
        return ascent.multipliers()

    def missing(self) -> dict[int, int] | None:
        """Return how much more of a budget there must be at the least, the others as they are (V8).

        Returns
        -------
        dict or None
            By budget; one that is not in it helps by itself at no main specification. None where not all of these are
            proven by alphas.
        """
        least: dict[int, int] = {}
        longest = sum(largest_times(self.instance))
        for main in self.instance.main_specs:
            if budgets(self.instance, main).min() < 0:
                continue
            by = self.kept.get(main)
            if by is None or self.bound[main] < self.nothing:
                return None
            over = self._reached[main] - self.nothing
            for i, (price, most) in enumerate(zip(by.prices, budgets(self.instance, main).tolist(), strict=True)):
                more = over // price + 1 if price else None
                if more is not None and (i == 2 or most + more <= longest):  # else no deployment takes so long
                    least[i] = min(least.get(i, more), more)
        return least

    def why(self) -> str | None:
        """Say which limit must be how wide, or None where that is not known."""
        if not (least := self.missing()):  # also where the cold start alone is too long, or what is fixed too large
            return None
        first, every, _ = budgets(self.instance, self.instance.main_specs[0]).tolist()
        said = [
            f"{what} is at least {most + least[i]:,}, {least[i]:,} above its limit"
            for i, what, most in (
                (0, "the time to first token", self.instance.platform.cold_ns + first),
                (1, "the time of all output tokens", every),
            )
            if i in least
        ]
        if said:
            return f"where all other limits are kept, {', and '.join(said)}"
        return f"no main specification holds what cannot be remote; at least {least[2]:,} bytes are missing"

    def _ended(self) -> bool:
        return self.search.checkpoint() is not None

    def ascend(self, main: int, start: Multipliers | None, tuning: Tuning) -> Multipliers:
        """Look for good multipliers of a main specification, from others if there are some; return the best ones."""
        measure = min(self.search.latency_ns, self.nothing)
        if start is not None:
            self.take(main, start)
        if not (start is not None and self.done(main)):
            ascent = Ascent(self.instance, self.tables, main, max(1, measure), start, self.threads)
            steps = tuning.steps if start is None else tuning.later

            def report(by: Multipliers) -> bool:
                self.take(main, by)
                return self.done(main) or self.search.checkpoint() is not None

            ascent.run(steps, report, tuning, self._ended)
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
