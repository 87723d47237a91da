"""The documents of the serverless problem as types: the one home of their formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from moeplace.base.documents import NonNegative, Positive

INSTANCE_FORMAT: Final = "moeplace/serverless"
SOLUTION_FORMAT: Final = "moeplace/serverless-solution"

MB = 10**6
"""Bytes of one MB, the unit of memory specifications."""


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """One MoE language model: its MoE layers, the experts in them, and what one token's activation takes."""

    name: str
    layers: Positive
    experts: Positive
    top_k: Positive
    expert_bytes: Positive
    token_bytes: Positive


class Decode(Struct, frozen=True, forbid_unknown_fields=True):
    """The output tokens in columns: ``count[i]`` tokens used exactly ``experts[i]`` at ``layer[i]``."""

    layer: list[NonNegative]
    experts: list[Annotated[list[NonNegative], Meta(min_length=1)]]
    count: list[Positive]


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """One request: ``prefill[l][e]`` prompt tokens go to expert e at layer l."""

    tokens_in: Positive
    tokens_out: Positive
    prefill: list[list[NonNegative]]
    decode: Decode


class Spec(Struct, frozen=True, forbid_unknown_fields=True):
    """A memory specification, and how fast one expert runs on what it buys.

    Attributes
    ----------
    mb : int
        Memory, 10**6 bytes.
    prefill_ns, prefill_ns_per_token : int
        One expert takes ``prefill_ns + n * prefill_ns_per_token`` for n > 0 prompt tokens.
    decode_ns : int
        One expert, one output token.
    """

    mb: Positive
    prefill_ns: NonNegative
    prefill_ns_per_token: NonNegative
    decode_ns: NonNegative


class Platform(Struct, frozen=True, forbid_unknown_fields=True):
    """What the platform charges and how fast it is; prices are of one MB for one ns, in ``price_unit_usd``."""

    cpu_price: NonNegative
    gpu_price: NonNegative
    price_unit_usd: str
    gpu_mb: NonNegative
    main_mb: NonNegative
    link_bytes_per_s: Positive
    payload_bytes: NonNegative
    most_replicas: Positive
    invoke_ns: NonNegative
    switch_prefill_ns: NonNegative
    switch_decode_ns: NonNegative
    other_prefill_ns: list[NonNegative]
    other_decode_ns: list[NonNegative]
    cold_ns: NonNegative


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Most time to the first token, and per output token."""

    ttft_ns: NonNegative
    tpot_ns: NonNegative


class InstanceDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """The instance file, version 1."""

    format: Literal["moeplace/serverless"]
    version: Literal[1]
    name: str
    model: Model
    request: Request
    specs: Annotated[list[Spec], Meta(min_length=1)]
    main_specs: Annotated[list[NonNegative], Meta(min_length=1)]
    remote_specs: list[NonNegative]
    platform: Platform
    limits: Limits
    notes: str | UnsetType = UNSET
    source: dict[str, str | int] | UnsetType = UNSET


class LayerChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """One layer: its remote experts, split into replicas, and their specification; no remote experts: None, []."""

    spec: NonNegative | None
    replicas: list[Annotated[list[NonNegative], Meta(min_length=1)]]


class Choices(Struct, frozen=True, forbid_unknown_fields=True):
    """The main function's specification, and every layer's choice."""

    main_spec: NonNegative
    layers: list[LayerChoice]


class Deployment(Struct, frozen=True):
    """What methods return: indices into the instance's ``specs``, and experts."""

    deployment: Choices

    @classmethod
    def of(cls, main_spec: int, layers: Sequence[tuple[int | None, Sequence[Sequence[int]]]]) -> Deployment:
        """Make a deployment of a main specification and (specification, replicas) of every layer, in a fixed order."""
        ordered = [LayerChoice(spec, sorted(sorted(replica) for replica in replicas)) for spec, replicas in layers]
        return cls(Choices(main_spec, ordered))

    @property
    def main_spec(self) -> int:
        """Index of the main function's specification."""
        return self.deployment.main_spec

    @property
    def layers(self) -> Sequence[LayerChoice]:
        """Every layer's choice."""
        return self.deployment.layers


class Objective(Struct, frozen=True):
    """The numbers of a solution; None is "not known".

    Attributes
    ----------
    value, bound, reference : int
        The cost in price units, a proven bound on it, and the cost with everything local at its best specification.
    ttft_ns, tpot_ns : int
        Time to the first token, and for each further one, rounded up.
    """

    value: int
    bound: int | None
    gap: float | None
    reference: int | None
    ttft_ns: NonNegative
    tpot_ns: NonNegative
