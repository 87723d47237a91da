"""The serverless problem, as everything that serves every problem takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moeplace.base.documents import parse
from moeplace.base.plain import plain_problem
from moeplace.serverless.certificate import ServerlessCertificate
from moeplace.serverless.checking import recompute, recompute_numbers, recompute_reference
from moeplace.serverless.cost import cost, numbers, reference, refuses
from moeplace.serverless.document import INSTANCE_FORMAT, SOLUTION_FORMAT, Deployment
from moeplace.serverless.instance import Instance
from moeplace.serverless.shown import VIEW
from moeplace.serverless.verification import verify

METHOD_ORDER = ("auto", "layers", "milp", "cpsat", "local-search", "remoe", "best-split", "all-remote", "all-local")
"""The order in which methods are listed; others follow by name."""


def _read_certificate(document: object) -> ServerlessCertificate:
    return parse(document, ServerlessCertificate)


def _model_limit(instance: Instance, name: str) -> str | None:
    from moeplace.serverless.formulations import model_limit

    return model_limit(instance, name)


def _from_values(instance: Instance, values: Mapping[str, float]) -> Deployment:
    from moeplace.serverless.formulations import deployment_of_values

    return deployment_of_values(instance, values)


def _sizes(instance: Instance) -> dict[str, Any]:
    return {
        "models": 1,
        "layers": instance.layers,
        "items": instance.layers * instance.experts,
        "rows": sum(len(rows.count) for rows in instance.rows),
        "tokens": instance.request.tokens_in + instance.request.tokens_out,
    }


PROBLEM = plain_problem(
    name="serverless",
    instance_format=INSTANCE_FORMAT,
    solution_format=SOLUTION_FORMAT,
    instance_type=Instance,
    decision_type=Deployment,
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
    method_order=METHOD_ORDER,
    view=VIEW,
    sizes=_sizes,
    models="moeplace.models.serverless",
    model_limit=_model_limit,
    from_values=_from_values,
)
