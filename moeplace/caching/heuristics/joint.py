"""Placements and active experts together: saving forms for every number of active experts, and turns between the two.

Layers are valued alone, so a choice of active experts, one number a layer, has the saving form whose layers are those
of the rows cut to these numbers. What a layer costs with each number is a table for a placement that is fixed: the best
choice within the budget of loss is then a knapsack of one number a layer (:mod:`moeplace.layers.choosing`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from moeplace.base.arrays import Bool, Int64
from moeplace.base.errors import InputError, NoSolutionError
from moeplace.base.incumbent import Incumbent
from moeplace.base.stop import Stop
from moeplace.caching.evaluation import Evaluation
from moeplace.caching.heuristics.climb import ENUMERATED, Climb
from moeplace.caching.heuristics.working_placement import WorkingPlacement
from moeplace.caching.instance import Instance
from moeplace.caching.placement import Placement
from moeplace.caching.saving import Layer, SavingForm, held_by, saving_form
from moeplace.caching.terms import AggregatedProblem, aggregate
from moeplace.layers.choosing import choose
from moeplace.layers.oracle import no_stop

_NEVER: Final = int(np.iinfo(np.int64).max)


def refuses(instance: Instance) -> str | None:
    """Say why an instance is none that leaves active experts open, or None."""
    return "the instance leaves no number of active experts open" if instance.choices is None else None


class JointForms:
    """A joint instance by the number of experts that each of its layers uses.

    Parameters
    ----------
    instance : Instance
        With :attr:`Instance.active`.

    Attributes
    ----------
    options : list of list of int
        Of each block, the numbers of active experts that may be in a best solution, ascending: each loses less than all
        smaller ones (fewer experts never take longer), and no more than the other layers leave of the budget.
    loss : int64 array [B, K]
        What each number, 1 first, loses.
    budget : int
    first : int64 array [B]
        The choice that loses least.
    tops : list of int
        The most experts that a row of each block has.

    Raises
    ------
    InputError
        There is nothing to choose in the instance.
    NoSolutionError
        No choice is within the budget.
    """

    def __init__(self, instance: Instance) -> None:
        choices = instance.choices
        if choices is None:
            raise InputError(refuses(instance) or "")
        if (said := choices.shortage) is not None:
            raise NoSolutionError(said)
        self.instance, self.budget = instance, choices.budget
        width = max(map(len, choices.losses), default=1)
        self.loss: Int64 = np.array(
            [losses + losses[-1:] * (width - len(losses)) for losses in choices.losses], dtype=np.int64
        ).reshape(-1, width)
        asked = np.zeros(instance.n_blocks, dtype=np.bool_)
        asked[instance.row_block] = True
        self.options = [own if some else own[-1:] for own, some in zip(choices.useful, asked.tolist(), strict=True)]
        self.first = self.uniform(int(width))
        self.tops: list[int] = instance.block_top_k.tolist()
        self._cuts: dict[int, tuple[SavingForm, dict[int, Layer], Int64]] = {}
        everything = instance.cut(self.tops)
        self._all_active = Evaluation(everything, Placement.empty(everything)).block_ns

    @property
    def single(self) -> bool:
        """Whether there is nothing to choose: one number of active experts for each layer."""
        return all(len(own) == 1 for own in self.options)

    @property
    def numbers(self) -> list[int]:
        """All numbers of active experts that some layer may use, ascending."""
        return sorted({k for own in self.options for k in own})

    def within(self, active: Int64) -> bool:
        """Return whether a choice is within the budget of loss."""
        lost: int = sum(self.loss[np.arange(len(active)), active - 1].tolist())
        return lost <= self.budget

    def placement(self, active: Int64, held: Bool) -> Placement:
        """Return a choice and what the servers hold as a decision."""
        return Placement(held, active)

    def decision(self, placement: Placement) -> tuple[Int64, Bool]:
        """Return active experts, of the options, and what the servers hold: no worse than a decision."""
        active, held = placement.active, placement.cached
        if active is None or any(k not in own for k, own in zip(active.tolist(), self.options, strict=True)):
            return self.choice(held), held
        return active, held

    def uniform(self, k: int) -> Int64:
        """Return for each layer the option that is nearest to ``k``, from above where there is one, int64 [B]."""
        return np.array([next((o for o in own if o >= k), own[-1]) for own in self.options], dtype=np.int64)

    def beginnings(self, stop: Callable[[], bool] = no_stop) -> list[Int64]:
        """Return choices within the budget from which a search may begin, each once, [B] each.

        The least loss: all experts, where each that is left out costs. As many experts left out as the budget allows.
        For each model the smallest number that all its layers can have, while the others lose the least.
        """
        width = self.loss.shape[1]
        left_out = np.broadcast_to(np.arange(width, 0, -1, dtype=np.int64), self.loss.shape)
        loss = np.full(self.loss.shape, self.budget + 1, dtype=np.int64)
        for b, own in enumerate(self.options):
            for k in own:
                loss[b, k - 1] = self.loss[b, k - 1]
        most = choose(np.ascontiguousarray(left_out), loss, self.budget, stop=stop)
        assert most is not None, "some choice is within the budget"
        found = [self.first, most.choice + 1]
        for model in range(len(self.instance.models)):
            mine = self.instance.block_model == model
            for k in range(1, width + 1):
                active = np.where(mine, self.uniform(k), self.first)
                if self.within(active):
                    found.append(active)
                    break
        return [found[i] for i in sorted(np.unique(np.array(found), axis=0, return_index=True)[1].tolist())]

    def problem(self, k: int) -> AggregatedProblem:
        """Return the aggregated problem with ``k`` active experts where a model has so many."""
        return aggregate(self._cut(k)[0].instance)

    def form(self, active: Int64) -> SavingForm:
        """Return the saving form of a choice."""
        layers = []
        for b, k in enumerate(active.tolist()):
            if (layer := self.layer(b, k)) is not None:
                layers.append(layer)
        return SavingForm(self.instance.cut(active), layers, self.instance.capacity_bytes)

    def uniform_form(self, k: int) -> SavingForm:
        """Return the saving form with ``k`` active experts where a model has so many."""
        return self._cut(k)[0]

    def layer(self, block: int, k: int) -> Layer | None:
        """Return a block's layer with ``k`` active experts; None where no server is of use to it."""
        return self._cut(k)[1].get(block)

    def saving_ns(self, block: int, k: int, part: Bool) -> int:
        """Return what a block saves with ``k`` active experts and ``part [N, E]`` on the servers, loading deducted."""
        if (layer := self.layer(block, k)) is not None:
            return layer.saving_ns(part)
        load = self.instance.load_ns(self.items(block))  # it helps nobody
        return 0 if load is None else -int(load[part].sum())

    def baseline(self, block: int, k: int) -> int:
        """Return what a block costs with empty servers and ``k`` active experts, token-ns."""
        return int(self._cut(k)[2][block])

    def offset(self, block: int, k: int) -> int:
        """Return by how much less a block costs with ``k`` active experts and empty servers than with all, token-ns."""
        return int(self._all_active[block]) - self.baseline(block, k)

    def costs(self, held: Bool) -> Int64:
        """Return what each block costs with each of its options, int64 [B, K]; the largest number where it is none."""
        table = np.full(self.loss.shape, _NEVER, dtype=np.int64)
        for b, own in enumerate(self.options):
            items = self.items(b)
            part = np.ascontiguousarray(held[:, items])
            for k in own:
                table[b, k - 1] = self.baseline(b, k) - self.saving_ns(b, k, part)
        return table

    def choice(self, held: Bool, stop: Callable[[], bool] = no_stop) -> Int64:
        """Return the active experts that cost least while the servers hold this, int64 [B]: (A1), with a table."""
        costs = self.costs(held)
        values = np.where(costs == _NEVER, 0, costs.max(axis=1, where=costs < _NEVER, initial=0)[:, None] - costs)
        loss = np.where(costs == _NEVER, self.budget + 1, self.loss)
        found = choose(values, loss, self.budget, stop=stop)
        assert found is not None, "some choice is within the budget"
        return found.choice + 1

    def cost_ns(self, active: Int64, held: Bool) -> int:
        """Return what a choice and a placement cost, token-ns, loading included."""
        costs = self.costs(held)
        return sum(costs[np.arange(len(active)), active - 1].tolist())

    @property
    def most_saving(self) -> int:
        """Saving if every server held everything, loading were free and no budget of loss were kept, token-ns."""
        saving = 0
        for b, own in enumerate(self.options):
            layers = [(self.offset(b, k), self.layer(b, k)) for k in own]
            saving += max(offset + (0 if layer is None else layer.most_ns) for offset, layer in layers)
        return saving

    def items(self, block: int) -> slice:
        """Return the items of a block."""
        return slice(int(self.instance.block_start[block]), int(self.instance.block_start[block + 1]))

    def _cut(self, k: int) -> tuple[SavingForm, dict[int, Layer], Int64]:
        if k not in self._cuts:
            cut = self.instance.cut(np.minimum(k, self.tops))
            form = saving_form(cut)
            layers = {int(np.searchsorted(cut.block_start, layer.items.start)): layer for layer in form.layers}
            self._cuts[k] = form, layers, Evaluation(cut, Placement.empty(cut)).block_ns
        return self._cuts[k]


class PartStop(Stop):
    """A stop for a piece of a search: when the search has ended, or a part of the time that it has left is over.

    Parameters
    ----------
    search : Incumbent
    parts : int
        One of so many.
    """

    def __init__(self, search: Incumbent, parts: int) -> None:
        remaining = search.stop.remaining
        super().__init__(None if remaining is None else remaining / parts)
        self._search = search

    def __bool__(self) -> bool:
        return super().__bool__() or self._search.checkpoint() is not None


def alternate(
    forms: JointForms,
    active: Int64,
    held: Bool | None,
    stop: Stop,
    found: Callable[[Int64, Bool], object],
    threads: int,
    enumerated: int = ENUMERATED,
) -> tuple[Int64, Bool]:
    """Take turns between placement and active experts until neither helps.

    Parameters
    ----------
    forms : JointForms
    active : int64 array [B]
        Within the budget.
    held : bool array [N, I]
        What fits, or None: then both beginnings of ``local-search`` are tried.
    stop : Stop
    found : callable
        Told of what is better than what was before: active experts and what the servers hold.
    threads : int
    enumerated : int
        Most experts of a layer whose sets are all tried.

    Returns
    -------
    int64 array [B], bool array [N, I]
    """
    started = held is not None
    while True:
        form = forms.form(active)
        plan = WorkingPlacement(form, held_by(form.instance, None, stop) if held is None else held.copy(), threads)
        Climb(plan, stop, lambda saving: None, enumerated).begin(started)
        held, started = plan.placement().cached.copy(), True
        found(active, held)
        if stop:
            return active, held
        better = forms.choice(held, lambda: bool(stop))
        if forms.cost_ns(better, held) >= forms.cost_ns(active, held):
            return active, held
        active = better
        found(active, held)
