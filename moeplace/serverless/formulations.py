"""The serverless problem's formulations given to solvers: what their variables mean, and one bound for each model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moeplace.base.arrays import Bool
from moeplace.base.documents import Termination
from moeplace.base.errors import InputError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop
from moeplace.serverless.bounds.by_specs import SpecBounds, budgets
from moeplace.serverless.cost import largest_cost, refuses
from moeplace.serverless.document import Deployment
from moeplace.serverless.instance import Instance
from moeplace.solvers.decoding import INTEGRAL, Decoding

MOST_VARIABLES = 60_000
"""Variables above which a model is not built: it would take minutes."""

MOST_COST = 1 << 60
"""CP-SAT takes costs below this."""


def variables(instance: Instance) -> int:
    """Return about how many variables the model of one main specification has."""
    replicas = min(instance.platform.most_replicas, instance.experts)
    per_layer = (instance.experts + 1) * len(instance.remote_specs) * replicas
    return instance.layers * per_layer + sum(len(rows.count) for rows in instance.rows)


def refuses_milp(instance: Instance) -> str | None:
    """Say why ``milp`` does not take an instance, or return None."""
    n = variables(instance)
    return f"{n:,} variables for each main specification, at most {MOST_VARIABLES:,}" if n > MOST_VARIABLES else None


def model_limit(instance: Instance, name: str) -> str | None:
    """Say why a formulation of an instance is not built for export, or return None."""
    return refuses_milp(instance) if name == "milp" else None


_VARIABLE = re.compile(r"([mx])[(\[_]([\d_,]+?)[)\]_]?")


def deployment_of_values(instance: Instance, values: Mapping[str, float]) -> Deployment:
    """Return the deployment that a solver's values of an exported model mean.

    Parameters
    ----------
    instance : Instance
        The one that was exported.
    values : mapping
        Values by the variables' names; ``m(w)`` says whether the main specification is ``w``, ``x(l_k_y_j)`` whether
        expert ``k`` of layer ``l`` is in replica ``j`` of the specification ``y``.

    Raises
    ------
    InputError
        No such variable; a number that the instance has not; a value that is neither 0 nor 1; not one main
        specification, or several specifications in a layer; a deployment that is not within the limits.
    """
    mains: list[int] = []
    chosen: list[list[tuple[int, int, int]]] = [[] for _ in range(instance.layers)]
    found = False
    for name, value in values.items():
        match = _VARIABLE.fullmatch(name)
        numbers = [int(n) for n in re.split("[_,]", match[2]) if n] if match else []
        if match is None or len(numbers) != (1 if match[1] == "m" else 4):
            continue
        found = True
        layer = numbers[0]
        known = (
            layer in instance.main_specs
            if match[1] == "m"
            else layer < instance.layers and numbers[1] < instance.experts and numbers[2] in instance.remote_specs
        )
        if not known:
            raise InputError("the instance has no such choice; was another one exported?", place=name)
        if min(abs(value), abs(value - 1)) > INTEGRAL:
            raise InputError(f"{value:g} is neither 0 nor 1: no deployment, as of a relaxation", place=name)
        if value > 0.5 and match[1] == "m":
            mains.append(layer)
        elif value > 0.5:
            chosen[layer].append((numbers[1], numbers[2], numbers[3]))
    if not found:
        raise InputError("no variable m(SPECIFICATION); is it a solution of a model that moeplace export wrote?")
    if len(mains) != 1:
        raise InputError(f"{len(mains)} main specifications, expected one")
    deployment = _deployment(mains[0], chosen)
    if reason := refuses(instance, deployment):
        raise InputError(reason)
    return deployment


def _deployment(main: int, chosen: Sequence[Sequence[tuple[int, int, int]]]) -> Deployment:
    """Return the deployment of each layer's remote experts as (expert, specification, replica)."""
    layers: list[tuple[int | None, list[list[int]]]] = []
    for layer, own in enumerate(chosen):
        if len(specs := {y for _, y, _ in own}) > 1:
            raise InputError(f"{len(specs)} specifications, expected one", place=f"layer {layer}")
        parts = [[k for k, _, j in own if j == part] for part in sorted({j for _, _, j in own})]
        layers.append((own[0][1] if own else None, parts))
    return Deployment.of(main, layers)


def refuses_cpsat(instance: Instance) -> str | None:
    """Say why ``cpsat`` does not take an instance, or return None."""
    ceiling = largest_cost(instance)
    if ceiling >= MOST_COST:
        return f"a deployment may cost {ceiling:,} price units, CP-SAT takes less than 2**60"
    return refuses_milp(instance)


class SpecSearch:
    """A search among the deployments of one main specification, as a solver sees it; see ``Incumbent``."""

    def __init__(self, bounds: SpecBounds, main: int) -> None:
        self.bounds, self.main = bounds, main
        self.ending: Termination = "completed"

    @property
    def stop(self) -> Stop:
        """Time limit and interruption."""
        return self.bounds.search.stop

    @property
    def placement(self) -> Any:
        """The incumbent, where it has this main specification."""
        held = self.bounds.search.placement
        return held if held is not None and held.main_spec == self.main else None

    def checkpoint(self) -> Termination | None:
        """Return why to end, or None; a specification without anything better has been proven."""
        return self.bounds.search.checkpoint() or ("optimal" if self.bounds.done(self.main) else None)

    def offer(self, deployment: Deployment) -> bool:
        """Take a deployment if it is better."""
        return self.bounds.search.offer(deployment)

    def prove(self, bound: int, source: str) -> None:
        """Take a bound on what has this main specification."""
        self.bounds.source = source
        self.bounds.prove(self.main, min(bound, self.bounds.search.latency_ns))

    def prove_none(self, source: str) -> None:
        """Take a proof that nothing with this main specification fits."""
        self.bounds.source = source
        self.bounds.prove(self.main, self.bounds.nothing)

    def distrust(self, source: str, why: str) -> None:
        """Drop all bounds."""
        self.bounds.search.distrust(source, why)


def improve_milp(instance: Instance, main: int, bounds: SpecBounds, *, seed: int, threads: int) -> None:
    """Run HiGHS on the model of one main specification."""
    from moeplace.solvers import highs
    from moeplace_models.serverless import milp

    room = budgets(instance, main)
    held = instance.layers * instance.experts * instance.model.expert_bytes
    if room.min() < 0 or (not instance.remote_specs and held > room[2]):
        bounds.prove(main, bounds.nothing)
        return
    model = milp.build(instance, main)
    keys = list(model.x)

    def decision(values: Bool) -> Deployment:
        chosen = [key for key, value in zip(keys, values.tolist(), strict=True) if value]
        return _deployment(main, [[key[1:] for key in chosen if key[0] == i] for i in range(instance.layers)])

    def values(deployment: Deployment) -> Bool:
        held = {
            (layer, k, choice.spec, j)
            for layer, choice in enumerate(deployment.layers)
            for j, part in enumerate(choice.replicas)
            for k in part
        }
        return np.array([key in held for key in keys], dtype=np.bool_)

    search: Any = SpecSearch(bounds, main)
    highs.improve(model, Decoding([model.x[key] for key in keys], decision, values), search, seed=seed, threads=threads)
    bounds.search.ending = search.ending


def improve_cpsat(instance: Instance, search: Incumbent, *, seed: int, threads: int) -> None:
    """Run CP-SAT on the model of all main specifications."""
    from moeplace.solvers import cpsat
    from moeplace_models.serverless import cpsat as formulation

    made = formulation.build(instance)
    kinds: list[tuple[Any, ...]] = [("m", w) for w in made.m]
    kinds += [("s", *key) for key in made.s] + [("q", *key) for key in made.q]

    def decision(values: Bool) -> Deployment:
        true = {kind for kind, value in zip(kinds, values.tolist(), strict=True) if value}
        (main,) = (int(kind[1]) for kind in true if kind[0] == "m")
        layers: list[tuple[int | None, list[list[int]]]] = []
        for layer in range(instance.layers):
            own = [kind[2:] for kind in true if kind[0] == "q" and kind[1] == layer]
            parts = [[k for k, j in own if j == part] for part in sorted({j for _, j in own})]
            specs = [int(kind[2]) for kind in true if kind[0] == "s" and kind[1] == layer]
            layers.append((specs[0] if specs else None, parts))
        return Deployment.of(main, layers)

    def values(deployment: Deployment) -> Bool:
        true: set[tuple[Any, ...]] = {("m", deployment.main_spec)}
        for layer, choice in enumerate(deployment.layers):
            true.add(("s", layer, choice.spec))
            true |= {("q", layer, k, j) for j, part in enumerate(choice.replicas) for k in part}
        return np.array([kind in true for kind in kinds], dtype=np.bool_)

    variables = [*made.m.values(), *made.s.values(), *made.q.values()]
    if search.placement is not None:
        for variable, value in zip(variables, values(search.placement).tolist(), strict=True):
            made.model.add_hint(variable, value)
    cpsat.improve(
        made.model, Decoding(variables, decision, values), search, constant=0, unit=1,
        largest=float(largest_cost(instance)), seed=seed, threads=threads,
    )  # fmt: skip
