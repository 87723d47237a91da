"""The problem of active experts, as everything that serves every problem takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeplace.active.certificates import ActiveCertificate
from moeplace.active.checking import recompute, recompute_numbers, recompute_reference
from moeplace.active.cost import cost, numbers, reference, refuses
from moeplace.active.document import INSTANCE_FORMAT, SOLUTION_FORMAT, Choice
from moeplace.active.instance import Instance
from moeplace.active.shown import VIEW
from moeplace.active.verification import verify
from moeplace.base.documents import parse
from moeplace.base.plain import plain_problem

ORDER = ["auto", "front", "layers", "milp", "cpsat", "greedy", "schedule", "uniform"]
"""The order in which the methods are listed; others follow by name."""


def _from_values(instance: Instance, values: Mapping[str, float]) -> Choice:
    from moeplace.active.formulations import choice_of_values

    return choice_of_values(instance, values)


def _read_certificate(document: object) -> ActiveCertificate:
    return parse(document, ActiveCertificate)


def _sizes(instance: Instance) -> dict[str, Any]:
    return {"models": 1, "layers": instance.layers, "items": instance.layers * instance.model.experts}


PROBLEM = plain_problem(
    name="active-experts",
    instance_format=INSTANCE_FORMAT,
    solution_format=SOLUTION_FORMAT,
    instance_type=Instance,
    decision_type=Choice,
    from_document=Instance.from_document,
    cost=cost,
    refuses=refuses,
    recompute=recompute,
    reference=reference,
    numbers=numbers,
    recompute_numbers=recompute_numbers,
    recompute_reference=recompute_reference,
    verify=verify,
    read_certificate=_read_certificate,
    methods="moeplace.methods.active",
    method_order=ORDER,
    view=VIEW,
    sizes=_sizes,
    models="moeplace.models.active",
    from_values=_from_values,
)
