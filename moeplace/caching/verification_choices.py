"""Which numbers of active experts count where they are open, and what choices of them come to: for the verifiers alone.

Made from the instance's own table of losses, and shared with nothing that makes certificates. Two numbers of a layer
need not be looked at: one that the budget has no room for even where all other layers lose the least they can; and one
that loses no less than a smaller one, since no row waits longer for fewer experts. A layer that nobody asks for waits
for nothing, so that only its least loss counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from moeplace.base.errors import InputError
from moeplace.caching.instance import Instance
from moeplace.caching.verification_rows import Block, row_blocks

# For each block the numbers of active experts that count, ascending, and what each of them loses.
Numbers: TypeAlias = list[dict[int, int]]


def open_numbers(instance: Instance) -> tuple[Numbers, int] | None:
    """Return the numbers that count, and the budget of loss; None where nothing is open.

    Raises
    ------
    InputError
        No choice is within the budget.
    """
    if instance.active is None:
        return None
    budget = instance.active.budget
    tables = [table for model in instance.models for table in instance.active.loss[model.name]]
    spare = budget - sum(map(min, tables))
    if spare < 0:
        raise InputError(f"no choice is within the budget of loss, the least is {-spare} more", place="active")
    asked = set(instance.item_block[instance.rows.item[instance.rows.start[:-1]]].tolist())
    numbers: Numbers = []
    for b, table in enumerate(tables):
        own: dict[int, int] = {}
        for k, loss in enumerate(table, start=1):
            if loss <= min(table) + spare and all(loss < other for other in own.values()):
                own[k] = loss
        numbers.append(own if b in asked else dict([min(own.items(), key=lambda pair: pair[1])]))
    return numbers, budget


def fewest_blocks(instance: Instance) -> list[Block]:
    """Return the rows of every block; where numbers are open, cut to the smallest that counts.

    No choice within the budget waits less than that, whatever the servers hold: what bounds these rows bounds all.
    """
    found = open_numbers(instance)
    if found is None:
        return row_blocks(instance)
    fewest = [min(own) for own in found[0]]
    cuts = {k: row_blocks(instance, k) for k in set(fewest)}
    return [cuts[k][b] for b, k in enumerate(fewest)]


def most_chosen(
    worths: Sequence[Sequence[tuple[int, int]]], budget: int, price: int, need: int, most_states: int
) -> int | None:
    """Return the largest sum of worths of one choice a layer within a budget, if it is at least what is needed.

    All choices in the first layers are followed, layer by layer, but for those that lose too much, those that cannot
    reach the need, and those for which another one loses no more and is worth no less.

    Parameters
    ----------
    worths : sequence of sequences of (int, int)
        For each layer what its choices are worth, and what they lose.
    budget, need : int
    price : int
        Of a unit of the budget, not negative. By weak duality no choice is worth more than the sum over layers of the
        most of worth less price times loss, and what the budget costs; that it is a good price saves time.
    most_states : int
        Choices in the first layers that are followed at a time.

    Raises
    ------
    InputError
        They were more.
    """
    best = [max(worth - price * loss for worth, loss in own) for own in worths]
    least = [min(loss for _, loss in own) for own in worths]
    rest, room = sum(best) + price * budget, budget - sum(least)
    states = [(0, 0)]
    for own, most, lost in zip(worths, best, least, strict=True):
        rest -= most
        room += lost
        new = sorted(
            (used + loss, -worth - value)
            for used, value in states
            for worth, loss in own
            if used + loss <= room and value + worth - price * (used + loss) + rest >= need
        )
        states = []
        for used, negative in new:
            if not states or -negative > states[-1][1]:
                states.append((used, -negative))
        if len(states) > most_states:
            raise InputError(f"more than {most_states:,} choices of active experts may reach beyond the bound")
    return states[-1][1] if states and states[-1][1] >= need else None
