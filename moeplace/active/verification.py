"""The verifier of certificates: one price, in integers, sharing nothing with what makes them.

Let ``c`` be what is minimised, ``u`` what has the budget ``B``, and ``p / q >= 0`` the price of a unit of ``u``. Every
choice within the budget costs at least what it costs with what it uses paid for and the budget's worth given back::

    sum_l c[l][k_l]  >=  sum_l c[l][k_l] + p/q (sum_l u[l][k_l] - B)  >=  sum_l min_k (c[l][k] + p/q u[l][k])  -  p/q B

so ``q`` times the cost is at least ``sum_l min_k (q c[l][k] + p u[l][k]) - p B``, an integer: (E3) of docs/active.md.
"""

from __future__ import annotations

from moeplace.active.certificates import Prices
from moeplace.active.instance import Instance
from moeplace.base.certificates import AnyCertificate


def verify(instance: Instance, certificate: AnyCertificate) -> list[str]:
    """Return what is wrong with a certificate that is not just somebody's word, a line each."""
    proof = certificate.proof
    if not isinstance(proof, Prices):
        return ["it is of another problem"]
    if len(proof.prices) != 1:
        return [f"proof.prices: expected one price, for the one budget, found {len(proof.prices)}"]
    document = instance.document()
    if "loss_budget" in document:
        paid, used, budget = document["time_ns"], document["loss"], document["loss_budget"]
    else:
        paid, used, budget = document["loss"], document["time_ns"], document["time_budget_ns"]
    price, unit = proof.prices[0], proof.unit
    total = -price * budget
    for costs, uses in zip(paid, used, strict=True):
        total += min(unit * c + price * u for c, u in zip(costs, uses, strict=True))
    # The claim is that every cost is at least the bound; costs are integers, so that it proves all above bound - 1.
    if total <= unit * (certificate.bound_ns - 1):
        proven = -(-total // unit)
        return [f"bound_ns: the certificate says {certificate.bound_ns}, its price proves {max(proven, 0)}"]
    return []
