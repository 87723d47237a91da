"""The catalogue of Mixture-of-Experts architectures: shapes and sizes of published models.

The facts are data (``architectures.json``), one line a model, each with its source; sizes are computed from them here.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Final

import msgspec
from msgspec import Struct

from moeplace.base.documents import Positive
from moeplace.base.errors import InputError

WEIGHT_32NDS: Final = {"bf16": 16 * 32, "int8": 8 * 32, "int4": 4 * 32, "mxfp4": 4 * 32 + 8}
"""Bits that 32 weights take. MXFP4 adds one scale of 8 bits to every 32 weights of 4 bits (OCP Microscaling
Formats 1.0); the scales of int8 and int4, which depend on the quantiser, are not counted (some 3 to 6 % more)."""

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
    hidden_size, expert_width, matrices : int or None
        Width of the hidden state, inner width of an expert, and weight matrices of an expert (3: gate, up and down; 2:
        up and down); None where not looked up.
    source : str
        Where the facts were seen.
    biased : bool
        Whether experts have biases.
    mxfp4 : bool
        Whether the experts were published in MXFP4.
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
    hidden_size: Positive | None
    expert_width: Positive | None
    matrices: Positive | None
    source: str
    biased: bool = False
    mxfp4: bool = False
    recalled: list[str] = []

    @property
    def weights_per_expert(self) -> int | None:
        """Entries of an expert's weight matrices; None where the widths are not known."""
        if self.hidden_size is None or self.expert_width is None or self.matrices is None:
            return None
        return self.matrices * self.hidden_size * self.expert_width

    @property
    def biases_per_expert(self) -> int | None:
        """Entries of an expert's biases: one for each output of each matrix; None where the widths are not known."""
        if not self.biased:
            return 0
        if self.hidden_size is None or self.expert_width is None or self.matrices is None:
            return None
        return (self.matrices - 1) * self.expert_width + self.hidden_size

    @property
    def parameters_per_expert(self) -> int | None:
        """Weights and biases of one expert; None where the widths are not known."""
        weights, biases = self.weights_per_expert, self.biases_per_expert
        return None if weights is None or biases is None else weights + biases

    @property
    def precisions(self) -> tuple[str, ...]:
        """What :meth:`expert_bytes` takes for this model; empty where the widths are not known."""
        if self.weights_per_expert is None:
            return ()
        return tuple(name for name in WEIGHT_32NDS if name != "mxfp4" or self.mxfp4)

    @property
    def default_precision(self) -> str:
        """What the experts were published in: MXFP4 or bf16."""
        return "mxfp4" if self.mxfp4 else "bf16"

    def expert_bytes(self, precision: str) -> int:
        """Return the size of one routed expert.

        Parameters
        ----------
        precision : str
            ``bf16``, ``int8`` or ``int4``; ``mxfp4`` for the models that were published in it.

        Returns
        -------
        int
            Bytes: the weights in that precision, biases in bf16.

        Raises
        ------
        InputError
            The model has no such precision, or its widths are not known.

        Examples
        --------
        >>> find_architecture("mixtral-8x7b").expert_bytes("int4")
        88080384
        """
        weights, biases = self.weights_per_expert, self.biases_per_expert
        if weights is None or biases is None:
            raise InputError(f"the size of an expert of {self.name} is not known; choose another model or give a shape")
        if precision not in self.precisions:
            raise InputError(f"no precision {precision!r} of {self.name}; there are {', '.join(self.precisions)}")
        return -(-weights * WEIGHT_32NDS[precision] // (32 * 8)) + biases * BIAS_BYTES

    def message_bits(self) -> int:
        """Return the size of one token's hidden state, bits (bf16).

        Raises
        ------
        InputError
            The width is not known.
        """
        if self.hidden_size is None:
            raise InputError(f"the width of {self.name} is not known; choose another model or give a shape")
        return self.hidden_size * HIDDEN_BITS


@cache
def architectures() -> tuple[Architecture, ...]:
    """Return the catalogue, in its order."""
    text = resources.files("moeplace.scenarios").joinpath("architectures.json").read_text(encoding="utf-8")
    return tuple(msgspec.convert(json.loads(text), list[Architecture]))


def find_architecture(name: str) -> Architecture:
    """Return a model of the catalogue by its name or its title, upper or lower case.

    Raises
    ------
    InputError
        There is none of that name.

    Examples
    --------
    >>> find_architecture("Qwen3-30B-A3B").name
    'qwen3-30b'
    """
    for architecture in architectures():
        if name.lower() in (architecture.name, architecture.title.lower()):
            return architecture
    raise InputError(f"no model {name!r} in the catalogue; there are {', '.join(a.name for a in architectures())}")
