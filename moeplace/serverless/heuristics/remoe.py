"""Remoe's pipeline (arXiv 2512.18674), stage by stage, as this project reads it.

1. *Main memory for the worst case.* From everything remote downwards, the share b of remote experts; the main function
   gets the smallest specification that holds the others. With n activations used alike, Hoeffding's inequality puts at
   most ``(1 - b) n + sqrt(tail n)`` of them on local experts but with probability ``exp(-2 tail)`` (``tail = 3/2``:
   5 %; the paper's ``sqrt(3 n) / 2`` is ``tail = 3/4``: 22 %), and as much above b n on remote ones. The first b whose
   times are within both limits then is taken.
2. *Remote experts* are those of least use, as many in each layer.
3. *Remote memory.* A layer's remote time over memory y is fitted by ``th1 exp(-th2 y) + th3``; what it costs, plus a
   multiplier times its time, is minimised over y and rounded up to a specification. The multiplier, the same for all
   layers, is the smallest at which the limits hold.
4. *Replicas* by LPT: one in each layer at first, then one more where that lowers the cost most, while it lowers it.

Each stage can be switched off; what takes its place stands in :class:`Stages`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit, minimize_scalar

from moeplace.base.arrays import Bool
from moeplace.base.stop import Stop
from moeplace.serverless.bounds.by_specs import budgets
from moeplace.serverless.cost import cost, layer_times, link, main_price, refuses, remote_decode_ns
from moeplace.serverless.document import MB, Deployment, LayerChoice
from moeplace.serverless.heuristics.baselines import by_use
from moeplace.serverless.instance import Instance
from moeplace.serverless.plans import LayerTables, kernels


@dataclass(frozen=True)
class Stages:
    """Which stages of the pipeline are done.

    Attributes
    ----------
    worst_case : bool
        Off: every main specification is tried, with as many experts local as it holds, and the cheapest end is kept.
    fit : bool
        Off: each layer gets the remote specification at which it costs least, by the exact cost, and the fastest where
        the limits do not hold.
    grow : bool
        Off: every layer has the fewest replicas that its payloads allow.
    tail : float
        Of stage 1.
    """

    worst_case: bool = True
    fit: bool = True
    grow: bool = True
    tail: float = 1.5


@dataclass
class Pipeline:
    """One run of the pipeline."""

    instance: Instance
    tables: Sequence[LayerTables]
    stages: Stages
    stop: Stop
    tried: int = 0

    def run(self) -> Deployment | None:
        """Return the deployment that the pipeline comes to; None where no share comes to one within the limits."""
        found: list[Deployment] = []
        for main, count in self._mains():
            if self.stop and found:
                break
            self.tried += 1
            made = self._deploy(main, count)
            if made is not None and refuses(self.instance, made) is None:
                found.append(made)
                if self.stages.worst_case:
                    break
        return min(found, key=lambda deployment: cost(self.instance, deployment), default=None)

    def _mains(self) -> Iterator[tuple[int, int]]:
        """Yield main specifications with a number of remote experts a layer, in the order in which they are tried.

        After the first share that is within the limits in the worst case come the smaller ones, for where it turns out
        not to be within them; last those that were passed over.
        """
        instance = self.instance
        held = instance.layers * instance.model.expert_bytes
        room = {main: int(budgets(instance, main)[2]) for main in instance.main_specs}
        if not self.stages.worst_case:
            for main, free in room.items():
                if free >= 0:
                    count = max(0, instance.experts - free // held)
                    if count == 0 or instance.remote_specs:
                        yield main, count
            return
        passed, reached = [], False
        for count in range(instance.experts if instance.remote_specs else 0, -1, -1):
            holding = [main for main, free in room.items() if (instance.experts - count) * held <= free]
            if not holding:
                break
            reached = reached or self._worst_case(holding[0], count)
            if reached:
                yield holding[0], count
            else:
                passed.append((holding[0], count))
        yield from reversed(passed)

    def _worst_case(self, main: int, count: int) -> bool:
        """Return whether both limits hold in the worst case that Hoeffding's inequality allows."""
        instance, platform = self.instance, self.instance.platform
        own, share = instance.specs[main], count / instance.experts
        first_budget, every_budget, _ = budgets(instance, main).tolist()

        def most(n: int, part: float) -> int:
            return min(n, math.ceil(part * n + math.sqrt(self.stages.tail * n))) if part else 0

        n = instance.request.tokens_in * instance.model.top_k
        here, there = most(n, 1 - share), most(n, share)
        first = (instance.experts - count) * own.prefill_ns + here * own.prefill_ns_per_token
        out = instance.request.tokens_out * instance.model.top_k
        every = most(out, 1 - share) * own.decode_ns
        if count:
            spec = instance.remote_specs[-1]
            far = instance.specs[spec]
            work = count * far.prefill_ns + there * far.prefill_ns_per_token + 2 * link(instance, there)
            first = max(first, platform.invoke_ns + -(-work // min(platform.most_replicas, count)))
            every = max(every, most(out, share) * remote_decode_ns(instance, spec))
        bases = [(table.first_base, table.every_base) for table in self.tables]
        return bool(
            sum(a for a, _ in bases) + instance.layers * first <= first_budget
            and sum(b for _, b in bases) + instance.layers * every <= every_budget
        )

    def _deploy(self, main: int, count: int) -> Deployment | None:
        """Do stages 2 to 4 for one main specification and number of remote experts a layer."""
        instance = self.instance
        sets = []
        for table in self.tables:
            remote = np.zeros(instance.experts, dtype=np.bool_)
            remote[by_use(table)[:count]] = True
            sets.append(remote)
        if not count:
            return Deployment.of(main, [(None, [])] * instance.layers)
        if self.stages.fit:
            choices = self._fitted(main, sets)
        else:
            choices = self._cheapest(main, sets, 0.0)
            if choices is not None and not self._in_time(main, choices):
                choices = self._cheapest(main, sets, 1e6)
        if choices is None:
            return None
        if self.stages.grow:
            choices = [self._grown(i, main, choice) for i, choice in enumerate(choices)]
        return Deployment.of(main, [(choice.spec, choice.replicas) for choice in choices])

    def _split(self, layer: int, spec: int, remote: Bool, parts: int) -> LayerChoice | None:
        """Split a remote set by LPT into so many replicas, or more where its payloads need more."""
        table, v = self.tables[layer], self.instance.remote_specs.index(spec)
        part = np.full(self.instance.experts, -1, dtype=np.int8)
        for z in range(parts, min(self.instance.platform.most_replicas, int(remote.sum())) + 1):
            if kernels().longest_first(table.order, table.work[v], table.tokens, remote, z, table.room, part) >= 0:
                return LayerChoice(spec, [np.flatnonzero(part == j).tolist() for j in range(z)])
        return None

    def _fitting(self, layer: int, remote: Bool) -> list[int]:
        """Return the remote specifications whose memory holds a set."""
        model = self.instance.model
        need = int(remote.sum()) * model.expert_bytes + model.token_bytes * int(self.tables[layer].tokens[remote].sum())
        return [v for v in self.instance.remote_specs if need <= MB * self.instance.specs[v].mb]

    def _amount(self, layer: int, main: int, choice: LayerChoice, multiplier: float = 0.0) -> float:
        first, every, remote = layer_times(self.instance, layer, main, choice)
        return (1 + multiplier) * main_price(self.instance, main) * (first + every) + float(remote)

    def _in_time(self, main: int, choices: Sequence[LayerChoice]) -> bool:
        times = [layer_times(self.instance, i, main, choice) for i, choice in enumerate(choices)]
        first, every, _ = budgets(self.instance, main).tolist()
        return bool(sum(t[0] for t in times) <= first and sum(t[1] for t in times) <= every)

    def _cheapest(self, main: int, sets: Sequence[Bool], multiplier: float) -> list[LayerChoice] | None:
        chosen = []
        for layer, remote in enumerate(sets):
            made = [self._split(layer, spec, remote, 1) for spec in self._fitting(layer, remote)]
            usable = [choice for choice in made if choice is not None]
            if not usable:
                return None
            chosen.append(min(usable, key=lambda choice: self._amount(layer, main, choice, multiplier)))
        return chosen

    def _fitted(self, main: int, sets: Sequence[Bool]) -> list[LayerChoice] | None:
        """Choose memory by the fitted curves and one multiplier for all layers."""
        curves = [self._curve(layer, remote) for layer, remote in enumerate(sets)]
        price, mains = float(self.instance.platform.cpu_price), float(main_price(self.instance, main))

        def at(multiplier: float) -> list[LayerChoice] | None:
            chosen = []
            for layer, (remote, curve) in enumerate(zip(sets, curves, strict=True)):
                fitting = self._fitting(layer, remote)
                if not fitting:
                    return None
                mb = [self.instance.specs[v].mb for v in fitting]
                wanted = float(mb[0])
                if len(mb) > 1:
                    found = minimize_scalar(
                        lambda y, curve=curve: (price * y + (1 + multiplier) * mains) * curve(y),
                        bounds=(mb[0], mb[-1]), method="bounded",
                    )  # fmt: skip
                    wanted = float(found.x)
                spec = next((v for v, m in zip(fitting, mb, strict=True) if m >= wanted), fitting[-1])
                choice = self._split(layer, spec, remote, 1)
                if choice is None:
                    return None
                chosen.append(choice)
            return chosen

        chosen = at(0.0)
        if chosen is None or self._in_time(main, chosen):
            return chosen
        multiplier = 1.0
        for _ in range(20):  # the multiplier doubles until the limits hold; growing replicas may still help where not
            chosen = at(multiplier)
            if chosen is None or self._in_time(main, chosen):
                break
            multiplier *= 2
        return chosen

    def _curve(self, layer: int, remote: Bool) -> _Curve:
        """Fit a layer's remote time over memory."""
        instance, table = self.instance, self.tables[layer]
        mb = np.array([instance.specs[v].mb for v in instance.remote_specs], dtype=np.float64)
        decoded = int(instance.decoded[layer][remote].sum())
        time = (table.work[:, remote].sum(axis=1) + decoded * table.each).astype(np.float64)
        return _Curve.fitted(mb, time)

    def _grown(self, layer: int, main: int, choice: LayerChoice) -> LayerChoice:
        """Add replicas while each lowers the layer's cost; no other layer's cost depends on them."""
        if choice.spec is None:
            return choice
        remote = np.zeros(self.instance.experts, dtype=np.bool_)
        remote[[k for replica in choice.replicas for k in replica]] = True
        best, amount = choice, self._amount(layer, main, choice)
        while True:
            more = self._split(layer, choice.spec, remote, len(best.replicas) + 1)
            if more is None or (found := self._amount(layer, main, more)) >= amount:
                return best
            best, amount = more, found


@dataclass(frozen=True)
class _Curve:
    """``th1 exp(-th2 y) + th3``, in units of the largest time and memory."""

    th1: float
    th2: float
    th3: float
    mb: float
    time: float

    def __call__(self, y: float) -> float:
        return self.time * (self.th1 * math.exp(-self.th2 * y / self.mb) + self.th3)

    @classmethod
    def fitted(cls, mb: np.ndarray, time: np.ndarray) -> _Curve:
        """Return the curve of least squares; a constant where the points say no more."""
        import warnings

        top, most = float(mb.max()), float(time.max()) or 1.0
        if len(mb) >= 3:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", OptimizeWarning)
                    (a, b, c), _ = curve_fit(
                        lambda y, a, b, c: a * np.exp(-b * y) + c, mb / top, time / most, p0=(1.0, 5.0, 0.1),
                        bounds=(0, [1e6, 1e3, 1e3]),
                    )  # fmt: skip
                return cls(float(a), float(b), float(c), top, most)
            except (RuntimeError, OptimizeWarning):
                pass
        return cls(0.0, 0.0, float(time.mean()) / most, top, most)
