"""From a routing trace to instances: experts counted, router weight or measured sensitivities as the loss."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeplace.active.scenarios.assembly import LOSS_BUDGET, Assembled, Served, assemble, numbered, stem_of
from moeplace.active.scenarios.roofline import BATCHES, Device
from moeplace.base.errors import InputError
from moeplace.scenarios.losses import losses, read_losses
from moeplace.scenarios.ranked import RankedTokens, need_ranks, read_ranked
from moeplace.scenarios.traces.common import Reading, Shape
from moeplace.scenarios.traces.opening import open_trace


@dataclass(frozen=True)
class Imported:
    """Instances of a trace, one a number of requests.

    Attributes
    ----------
    made : list of Assembled
    tokens : RankedTokens
        What was read, with counts of what was dropped or sorted.
    loss : str
        Where the losses are from, for people.
    notes : list of str
    """

    made: list[Assembled]
    tokens: RankedTokens
    loss: str
    notes: list[str]

    def document(self) -> dict[str, Any]:
        """Return what was read as a plain dict."""
        tokens = self.tokens
        return {
            "tokens": tokens.tokens,
            "rows": tokens.rows,
            "sorted_rows": 0 if tokens.mass is None else tokens.mass.sorted_rows,
            "short": tokens.short,
            "unweighed": 0 if tokens.mass is None else tokens.mass.unweighed,
            "fillers": tokens.fillers,
            "skipped": tokens.skipped,
            "dropped": dict(tokens.dropped),
            "loss": self.loss,
            "notes": self.notes,
        }


def import_trace(
    path: str | os.PathLike[str],
    found: Served,
    on: Device,
    requests: Sequence[int],
    *,
    gates: str | os.PathLike[str] | None = None,
    ranked: bool = False,
    loss: str | os.PathLike[str] | None = None,
    reading: Reading | None = None,
    skip_layers: int = 0,
    fillers: Sequence[int] = (),
    drop_bad_rows: bool = False,
    seed: int = 0,
    name: str | None = None,
    batches: int = BATCHES,
    fixed_ns: int = 0,
    loss_budget: int | None = None,
    time_budget_ns: int | None = None,
) -> Imported:
    """Make an instance of a trace for each number of requests.

    Parameters
    ----------
    path : path-like
    found : Served
        The trace's model.
    on : Device
    requests : sequence of int
    gates : path-like, optional
        Router weights beside a trace of arrays: they give the ranks, and the loss where there is no file of it.
    ranked : bool
        Rows stand in falling router weight.
    loss : path-like, optional
        Measured sensitivities, see :func:`~moeplace.scenarios.losses.read_losses`.
    reading, skip_layers, fillers, drop_bad_rows
        As in ``moeplace import`` for caching.
    seed, name, batches, fixed_ns, loss_budget, time_budget_ns
        As in :func:`moeplace.active.scenarios.assembly.assemble`; without a budget and with losses by router weight,
        the budget is :data:`~moeplace.active.scenarios.assembly.LOSS_BUDGET`.

    Raises
    ------
    InputError
        Ranks or losses are not known, or a file cannot be used.
    """
    model = found.model
    if loss is None and gates is None:
        raise InputError("losses are missing: router weights (--gates), or measured ones (--loss)")
    table = None if loss is None else read_losses(loss, model.layers, model.top_k)
    if loss_budget is None and time_budget_ns is None:
        if table is not None:
            raise InputError("losses of a file have a unit of their own: --loss-budget or --time-budget-ns is needed")
        loss_budget = LOSS_BUDGET
    shape = Shape(
        model.layers, model.experts, model.top_k, skip_layers, found.whole - model.layers, tuple(fillers), found.numbers
    )
    trace = open_trace(path, shape, reading)
    need_ranks(trace, gates, ranked)
    tokens = read_ranked(trace, gates=gates, drop_bad_rows=drop_bad_rows)
    said = "router weight of the dropped ranks, parts per million of that of all layers (a proxy)"
    source: dict[str, str | int] = {"importer": "moeplace import", "routing": Path(path).name, "tokens": tokens.tokens}
    if table is None:
        assert tokens.mass is not None
        table = losses(tokens.mass)
        source |= {"loss": "router weight, parts per million", "gates": Path(str(gates)).name}
    else:
        said = f"measured, of {Path(str(loss)).name}"
        source |= {"loss": f"measured, {Path(str(loss)).name}"}
    made = [
        assemble(
            found, tokens, table, on, batch, name=numbered(name, batch, requests), stem=stem_of(path),
            batches=batches, seed=seed, fixed_ns=fixed_ns, loss_budget=loss_budget, time_budget_ns=time_budget_ns,
            notes=f"Experts counted on {Path(path).name}, times by the roofline, loss: {said}.", source=source,
        )
        for batch in requests
    ]  # fmt: skip
    return Imported(made, tokens, said, [*found.notes, *tokens.notes])
