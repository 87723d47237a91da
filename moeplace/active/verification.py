"""The verifier of certificates: one price, in integers, sharing nothing with what makes them.

Let ``c`` be what is minimised, ``u`` what has the budget ``B``, and ``p / q >= 0`` the price of a unit of ``u``. Every
choice within the budget costs at least what it costs with what it uses paid for and the budget's worth given back::

    sum_l c[l][k_l]  >=  sum_l c[l][k_l] + p/q (sum_l u[l][k_l] - B)  >=  sum_l min_k (c[l][k] + p/q u[l][k])  -  p/q B

so ``q`` times the cost is at least ``sum_l min_k (q c[l][k] + p u[l][k]) - p B``, an integer: (E3) of docs/active.md.

Of kind ``layers`` the same bounds what a choice in the first layers can still come to. All such choices are followed,
layer by layer, but for those that use too much, those that cannot come to less than the bound, and those for which
another one uses and costs no more. If none is left, every choice within the budget costs at least the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from moeplace.active.certificates import MergedLayers, Prices
from moeplace.active.instance import Instance
from moeplace.base.certificates import AnyCertificate


@dataclass(frozen=True)
class Tuning:
    """How much is done for a certificate before it is said to prove nothing.

    Attributes
    ----------
    most_states : int
        Choices in the first layers that are followed at a time.
    """

    most_states: int = 1 << 20


USUAL: Final = Tuning()
"""What is used unless something else is asked for."""


def verify(instance: Instance, certificate: AnyCertificate, tuning: Tuning = USUAL) -> list[str]:
    """Return what is wrong with a certificate that is not just somebody's word, a line each."""
    proof: object = certificate.proof
    if not isinstance(proof, Prices | MergedLayers):
        return ["it is of another problem"]
    if len(proof.prices) != 1:
        return [f"proof.prices: expected one price, for the one budget, found {len(proof.prices)}"]
    document = instance.document()
    if "loss_budget" in document:
        paid, used, budget = document["time_ns"], document["loss"], document["loss_budget"]
    else:
        paid, used, budget = document["loss"], document["time_ns"], document["time_budget_ns"]
    price, unit = proof.prices[0], proof.unit
    # The claim is that every cost is at least the bound; costs are integers, so that it proves all above bound - 1.
    enough = unit * (certificate.bound_ns - 1) + 1
    least = [
        min(unit * c + price * u for c, u in zip(costs, uses, strict=True))
        for costs, uses in zip(paid, used, strict=True)
    ]
    total = sum(least) - price * budget
    if total >= enough:
        return []
    if isinstance(proof, Prices):
        return [f"bound_ns: the certificate says {certificate.bound_ns}, its price proves {max(-(-total // unit), 0)}"]
    return _merge(paid, used, budget, price, unit, enough, least, tuning)


def _merge(
    paid: Sequence[Sequence[int]], used: Sequence[Sequence[int]], budget: int, price: int, unit: int, enough: int,
    least: Sequence[int], tuning: Tuning,
) -> list[str]:  # fmt: skip
    """Follow all choices within the budget that the price leaves below what is enough; say so if one is left."""
    states = [(0, 0)]
    rest, room = sum(least) - price * budget, budget - sum(map(min, used))
    for costs, uses, low in zip(paid, used, least, strict=True):
        rest -= low
        room += min(uses)
        new = sorted(
            (use + u, cost + c)
            for use, cost in states
            for c, u in zip(costs, uses, strict=True)
            if use + u <= room and unit * (cost + c) + price * (use + u) + rest < enough
        )
        states, cheapest = [], None
        for use, cost in new:
            if cheapest is None or cost < cheapest:
                states.append((use, cost))
                cheapest = cost
        if len(states) > tuning.most_states:
            return [f"proof: more than {tuning.most_states:,} choices may cost less than the bound"]
    below = [cost for _, cost in states if unit * cost < enough]
    return [f"bound_ns: a choice within the budget costs {below[-1]}"] if below else []
