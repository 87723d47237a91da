"""The catalogue of Mixture-of-Experts architectures: shapes and sizes of published models.

The facts are data (``architectures.json``), one line a model, each with its source; sizes are computed from them here.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Final, Literal

import msgspec
from msgspec import Struct

from moeplace.base.documents import Positive
from moeplace.base.errors import InputError


class Precision(Struct, frozen=True):
    """How weights are kept.

    Attributes
    ----------
    name : str
    bits : int
        Of one weight.
    block : tuple of int or None
        (outputs, inputs) of a matrix that share a scale, 0 for all of them; None where no scales are counted.
    scale_bits : int
        Of one scale, with its zero point where there is one.
    """

    name: str
    bits: int
    block: tuple[int, int] | None = None
    scale_bits: int = 0

    def matrix_bytes(self, outputs: int, inputs: int) -> int:
        """Return the size of one weight matrix with its scales.

        Examples
        --------
        >>> Precision("fp8", 8, (128, 128), 32).matrix_bytes(2048, 7168) - 2048 * 7168
        3584
        """
        size = -(-outputs * inputs * self.bits // 8)
        if self.block is None:
            return size
        rows, columns = (
            -(-whole // (part or whole)) for whole, part in zip((outputs, inputs), self.block, strict=True)
        )
        return size + -(-rows * columns * self.scale_bits // 8)

    def __str__(self) -> str:
        if self.block is None:
            return self.name
        rows, columns = (str(part) if part else "all" for part in self.block)
        return f"{self.name}, {self.scale_bits}-bit scales for {rows} x {columns} weights"


PRECISIONS: Final = {
    precision.name: precision
    for precision in (
        Precision("bf16", 16),
        Precision("fp8", 8),
        Precision("int8", 8),
        Precision("int4", 4),
        Precision("mxfp4", 4, (1, 32), 8),
    )
}
"""What experts of the catalogue may be kept in.

MXFP4 has one scale of 8 bits for 32 weights of 4 bits (OCP Microscaling Formats 1.0). Scales of fp8, int8 and int4
depend on the quantiser and are not counted (fp8 by blocks: a fortieth of a percent more; int8 and int4: some 3 to 6 %),
except those of the published weights, where they were seen.
"""

BIAS_BYTES: Final = 2
"""Biases stay in bf16 whatever the weights are in."""

HIDDEN_BITS: Final = 16
"""Width of one number of a hidden state (bf16)."""


class Architecture(Struct, frozen=True, forbid_unknown_fields=True):
    """One published model.

    Attributes
    ----------
    name, title : str
        Name in instances and on the command line; the name it was published under.
    moe_layers, layers : int
        Layers with routed experts; all layers.
    experts : int
        Routed experts of every MoE layer.
    shared_experts : int or None
        Experts of a layer that every token uses, in widths of a routed one; they stay with the dense part of the model.
    top_k : int
        Routed experts that a token uses at a layer.
    hidden_size, expert_width, matrices : int
        Width of the hidden state, inner width of an expert, and weight matrices of an expert (3: gate, up and down; 2:
        up and down).
    source : str
        Where the facts were seen.
    biased : bool
        Whether experts have biases.
    published : str
        The precision that the experts were published in.
    scale_block : tuple of int or None
        (outputs, inputs) of a published matrix that share a 32-bit scale; None where there are no such scales, or none
        were seen.
    repositories : list of str
        Names of repositories with these weights.
    recalled : list of str
        Those of the fields above that were recalled, not seen in a source.
    """

    name: str
    title: str
    moe_layers: Positive
    layers: Positive
    experts: Positive
    shared_experts: int | None
    top_k: Positive
    hidden_size: Positive
    expert_width: Positive
    matrices: Literal[2, 3]
    source: str
    biased: bool = False
    published: Literal["bf16", "fp8", "mxfp4"] = "bf16"
    scale_block: tuple[Positive, Positive] | None = None
    repositories: list[str] = []
    recalled: list[str] = []

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(Outputs, inputs) of an expert's weight matrices."""
        inner = [(self.expert_width, self.hidden_size)] * (self.matrices - 1)
        return [*inner, (self.hidden_size, self.expert_width)]

    @property
    def biases_per_expert(self) -> int:
        """Entries of an expert's biases: one for each output of each matrix."""
        return sum(outputs for outputs, _ in self.shapes) if self.biased else 0

    @property
    def parameters_per_expert(self) -> int:
        """Weights and biases of one expert."""
        return self.matrices * self.hidden_size * self.expert_width + self.biases_per_expert

    @property
    def precisions(self) -> tuple[str, ...]:
        """What :meth:`expert_bytes` takes for this model."""
        return tuple(name for name in PRECISIONS if name != "mxfp4" or self.published == "mxfp4")

    def precision(self, name: str) -> Precision:
        """Return a precision by its name, with the scales of the published weights where it is theirs.

        Raises
        ------
        InputError
            The model has no such precision.
        """
        if name not in self.precisions:
            raise InputError(f"no precision {name!r} of {self.name}; there are {', '.join(self.precisions)}")
        if name == self.published and self.scale_block is not None:
            return msgspec.structs.replace(PRECISIONS[name], block=self.scale_block, scale_bits=32)
        return PRECISIONS[name]

    def expert_bytes(self, precision: str | Precision) -> int:
        """Return the size of one routed expert.

        Parameters
        ----------
        precision : str or Precision
            One of :attr:`precisions`, or any other.

        Returns
        -------
        int
            Bytes: the weights in that precision with the scales that are counted, biases in bf16.

        Raises
        ------
        InputError
            The model has no precision of that name.

        Examples
        --------
        >>> find_architecture("mixtral-8x7b").expert_bytes("int4")
        88080384
        """
        kept = self.precision(precision) if isinstance(precision, str) else precision
        return sum(kept.matrix_bytes(*shape) for shape in self.shapes) + self.biases_per_expert * BIAS_BYTES

    def message_bits(self) -> int:
        """Return the size of one token's hidden state, bits (bf16)."""
        return self.hidden_size * HIDDEN_BITS


@cache
def architectures() -> tuple[Architecture, ...]:
    """Return the catalogue, in its order."""
    text = resources.files("moeplace.scenarios").joinpath("architectures.json").read_text(encoding="utf-8")
    return tuple(msgspec.convert(json.loads(text), list[Architecture]))


def find_architecture(name: str) -> Architecture:
    """Return a model of the catalogue by its name, its title, or a repository of it, upper or lower case.

    Raises
    ------
    InputError
        There is none of that name.

    Examples
    --------
    >>> find_architecture("Qwen3-30B-A3B").name, find_architecture("Qwen/Qwen3-30B-A3B").name
    ('qwen3-30b', 'qwen3-30b')
    """
    for architecture in architectures():
        if name.lower() in map(str.lower, (architecture.name, architecture.title, *architecture.repositories)):
            return architecture
    hint = "; --config reads a repository's config.json" if "/" in name else ""
    raise InputError(
        f"no model {name!r} in the catalogue; there are {', '.join(a.name for a in architectures())}{hint}"
    )
