"""The instance: what each layer takes and loses with every number of active experts, and the budget."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET

from moeplace.active.document import InstanceDocument, Model, layout
from moeplace.base.arrays import Int64
from moeplace.base.documents import INT64_MAX, canonical, parse, show
from moeplace.base.errors import InputError, naming
from moeplace.base.files import read_json, write_bytes


@dataclass(frozen=True, eq=False, repr=False)
class Instance:
    """One problem of active experts (`L` layers, 1 to `K` active experts); every number is an integer.

    Made by :func:`load` or :meth:`from_document`, never by hand. Arrays are read-only.

    Attributes
    ----------
    name, notes : str
        As the document gives them (no notes: empty).
    sha256 : str
        Hash of the instance document (see :func:`moeplace.base.documents.canonical`).
    model : Model
    time_ns : int64 array [L, K]
        What layer ``l`` takes a step with ``k + 1`` active experts, ns.
    loss : int64 array [L, K]
        What it costs in quality.
    fixed_ns : int
        What a step takes besides, ns.
    tokens_per_step : int
        Requests served at once.
    minimises : {"time_ns", "loss"}
        What is minimised; the other one has the budget.
    budget : int
        The most that all layers may lose, or take, in sum.
    source : dict
        Where the data came from (strings and integers), possibly empty.
    """

    name: str
    notes: str
    sha256: str
    model: Model
    time_ns: Int64
    loss: Int64
    fixed_ns: int
    tokens_per_step: int
    minimises: Literal["time_ns", "loss"]
    budget: int
    source: dict[str, str | int]
    # An absent key and an empty one give documents with different hashes.
    _has_notes: bool = False
    _has_source: bool = False

    @classmethod
    def from_document(cls, document: object) -> Instance:
        """Make an instance from an instance document (the object that ``json`` reads).

        Raises
        ------
        InputError
            Whatever is wrong with the document, with the place in it.
        """
        said = parse(document, InstanceDocument)
        model = said.model
        if model.top_k > model.experts:
            raise InputError(f"expected at most the {model.experts} experts of a layer, found {model.top_k}",
                             place="model.top_k")  # fmt: skip
        for name, table in (("time_ns", said.time_ns), ("loss", said.loss)):
            _check_table(name, table, model)
        both = said.loss_budget is not UNSET and said.time_budget_ns is not UNSET
        if both or (said.loss_budget is UNSET and said.time_budget_ns is UNSET):
            found = "both" if both else "neither"
            raise InputError(f'expected one of "loss_budget" and "time_budget_ns", found {found}')
        most = sum(map(max, said.time_ns)) + said.fixed_ns
        if most >= INT64_MAX:
            raise InputError(f"a step may take {most} ns; it must be less than {INT64_MAX}", place="time_ns")
        if (most := sum(map(max, said.loss))) >= INT64_MAX:
            raise InputError(f"layers may lose {most} in sum; it must be less than {INT64_MAX}", place="loss")
        tables = np.array(said.time_ns, dtype=np.int64), np.array(said.loss, dtype=np.int64)
        for array in tables:
            array.setflags(write=False)
        lossy = said.loss_budget is not UNSET
        budget = said.loss_budget if lossy else said.time_budget_ns
        assert isinstance(budget, int)
        return cls(
            name=said.name,
            notes=said.notes or "",
            sha256=hashlib.sha256(canonical(document)).hexdigest(),
            model=model,
            time_ns=tables[0],
            loss=tables[1],
            fixed_ns=said.fixed_ns,
            tokens_per_step=said.tokens_per_step,
            minimises="time_ns" if lossy else "loss",
            budget=budget,
            source=said.source or {},
            _has_notes=said.notes is not UNSET,
            _has_source=said.source is not UNSET,
        )

    def document(self) -> dict[str, Any]:
        """Return the instance document; the same, value for value, that the instance was made from."""
        document: dict[str, Any] = {
            "format": "moeplace/active-experts",
            "version": 1,
            "name": self.name,
            "model": msgspec.to_builtins(self.model),
            "time_ns": self.time_ns.tolist(),
            "loss": self.loss.tolist(),
            "fixed_ns": self.fixed_ns,
            "tokens_per_step": self.tokens_per_step,
            "loss_budget" if self.minimises == "time_ns" else "time_budget_ns": self.budget,
        }
        if self._has_notes:
            document["notes"] = self.notes
        if self._has_source:
            document["source"] = dict(self.source)
        return document

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the instance document, gzip where the name ends in ``.gz``; whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_bytes(path, layout(self.document()))

    def with_budget(self, *, loss: int | None = None, time_ns: int | None = None) -> Instance:
        """Return the same instance with another budget: of one of both kinds.

        Raises
        ------
        InputError
            The budget is negative, or both or none are given.
        """
        kept = {k: v for k, v in self.document().items() if k not in ("loss_budget", "time_budget_ns")}
        given = {"loss_budget": loss, "time_budget_ns": time_ns}
        return Instance.from_document(kept | {key: value for key, value in given.items() if value is not None})

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.model.layers

    @property
    def top_k(self) -> int:
        """The most active experts of a layer."""
        return self.model.top_k

    @property
    def cost(self) -> Int64:
        """The table of what is minimised, int64 [L, K]."""
        return self.time_ns if self.minimises == "time_ns" else self.loss

    @property
    def usage(self) -> Int64:
        """The table of what has the budget, int64 [L, K]."""
        return self.loss if self.minimises == "time_ns" else self.time_ns

    @cached_property
    def least_usage(self) -> int:
        """What all layers use of the budget at the least."""
        return sum(self.usage.min(axis=1).tolist())

    def __repr__(self) -> str:
        return f"<Instance {self.name!r}: {self.layers} layers, 1 to {self.top_k} active experts>"


def _check_table(name: str, table: list[list[int]], model: Model) -> None:
    if len(table) != model.layers:
        raise InputError(f"expected a list for each of {model.layers} layers, found {len(table)}", place=name)
    for layer, row in enumerate(table):
        if len(row) != model.top_k:
            expected = f"{model.top_k} integers, for 1 to {model.top_k} active experts"
            raise InputError(f"expected {expected}, found {show(row)}", place=f"{name}[{layer}]")


def load(path: str | os.PathLike[str]) -> Instance:
    """Read an instance file (``.json`` or ``.json.gz``).

    Raises
    ------
    InputError
        One line: the file, the place in it, what was expected and what was found.
    """
    document = read_json(path)
    with naming(path):
        return Instance.from_document(document)
