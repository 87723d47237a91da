"""Platforms: what memory costs, how fast an expert runs on what it buys, and what else takes time; TOML files.

How a specification's times come about, for an expert of ``bytes`` with ``weights`` weights on ``v = min(mb /
mb_per_vcpu, most_vcpus)`` virtual CPUs, all rounded up::

    prefill_ns           = bytes / (gb_per_s_per_vcpu v)
    prefill_ns_per_token = 2 weights / (gflops_per_vcpu v)
    decode_ns            = max of the two                                                                          (V5)

Whoever has measured times writes them into the instance instead.
"""

from __future__ import annotations

import os
import tomllib
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from moeplace.base.documents import NonNegative, Positive, parse
from moeplace.base.errors import InputError, naming
from moeplace.base.files import read_bytes
from moeplace.base.text import did_you_mean


class Range(Struct, frozen=True, forbid_unknown_fields=True, rename={"first": "from", "last": "to"}):
    """Memory sizes in even steps, MB; the last one counts where a step meets it."""

    first: Positive
    last: Positive
    step: Positive

    def sizes(self) -> list[int]:
        """Return the sizes, rising."""
        return list(range(self.first, self.last + 1, self.step))


class Memory(Struct, frozen=True, forbid_unknown_fields=True):
    """What memory can be had, as ranges or lists, and how much CPU comes with it."""

    mb_per_vcpu: Positive
    main: Range | Annotated[list[Positive], Meta(min_length=1)]
    remote: Range | list[Positive]


class Speed(Struct, frozen=True, forbid_unknown_fields=True):
    """How fast one virtual CPU is, and how many of them one expert can use."""

    most_vcpus: Annotated[float, Meta(gt=0, lt=1e6)]
    gflops_per_vcpu: Annotated[float, Meta(gt=0, lt=1e9)]
    gb_per_s_per_vcpu: Annotated[float, Meta(gt=0, lt=1e9)]


class Fixed(Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in an instance as it stands here; the ``other_`` times are of one layer."""

    gpu_mb: NonNegative
    main_mb: NonNegative
    link_bytes_per_s: Positive
    payload_bytes: NonNegative
    most_replicas: Positive
    invoke_ns: NonNegative
    switch_prefill_ns: NonNegative
    switch_decode_ns: NonNegative
    other_prefill_ns: NonNegative
    other_decode_ns: NonNegative
    cold_ns: NonNegative


class PlatformFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A platform file.

    Attributes
    ----------
    name, source : str
        ``source``: price lists with their dates.
    price_unit_usd : str
    cpu_price, gpu_price : int
        Of one MB for one ns, in that unit.
    memory, speed, fixed : Struct
    """

    name: str
    source: str
    price_unit_usd: str
    cpu_price: NonNegative
    gpu_price: NonNegative
    memory: Memory
    speed: Speed
    fixed: Fixed

    def with_gpu(self, mb: int) -> PlatformFile:
        """Return the platform with another size of the non-experts on the GPU, MB."""
        return msgspec.structs.replace(self, fixed=msgspec.structs.replace(self.fixed, gpu_mb=mb))

    def document(self, layers: int, expert_bytes: int, weights: int) -> dict[str, Any]:
        """Return the parts ``specs``, ``main_specs``, ``remote_specs`` and ``platform`` of an instance document."""
        main, remote = (_sizes(given) for given in (self.memory.main, self.memory.remote))
        mb = sorted({*main, *remote})
        fixed = msgspec.to_builtins(self.fixed)
        fixed |= {key: [fixed[key]] * layers for key in ("other_prefill_ns", "other_decode_ns")}
        prices = {key: getattr(self, key) for key in ("cpu_price", "gpu_price", "price_unit_usd")}
        return {
            "specs": [self._spec(size, expert_bytes, weights) for size in mb],
            "main_specs": [mb.index(size) for size in main],
            "remote_specs": [mb.index(size) for size in remote],
            "platform": prices | fixed,
        }

    def _spec(self, mb: int, expert_bytes: int, weights: int) -> dict[str, int]:
        """Return one specification with its times (V5)."""
        speed = self.speed
        cpus = min(Fraction(mb, self.memory.mb_per_vcpu), _exact(speed.most_vcpus))
        read = -(-expert_bytes // (_exact(speed.gb_per_s_per_vcpu) * cpus))  # 1 GB/s is one byte a ns
        compute = -(-2 * weights // (_exact(speed.gflops_per_vcpu) * cpus))
        return {
            "mb": mb,
            "prefill_ns": int(read),
            "prefill_ns_per_token": int(compute),
            "decode_ns": int(max(read, compute)),
        }


def _exact(number: float) -> Fraction:
    return Fraction(Decimal(str(number)))


def _sizes(given: Range | list[int]) -> list[int]:
    return given.sizes() if isinstance(given, Range) else sorted(set(given))


def platform_names() -> list[str]:
    """Return the names of the presets.

    Examples
    --------
    >>> platform_names()
    ['alibaba-fc', 'aws-lambda']
    """
    folder = files("moeplace.serverless.scenarios").joinpath("presets")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_platform(name: str | os.PathLike[str]) -> PlatformFile:
    """Return a platform: a preset by its name, or a TOML file.

    Raises
    ------
    InputError
        No such preset or file, no TOML, or no platform.

    Examples
    --------
    >>> read_platform("aws-lambda").cpu_price
    1667
    """
    text = os.fspath(name)
    if text in platform_names():
        preset = files("moeplace.serverless.scenarios").joinpath("presets", f"{text}.toml")
        return _parsed(preset.read_bytes(), text)
    if not text.endswith(".toml") and not Path(text).exists():
        known = platform_names()
        raise InputError(
            f"no platform {text!r}; there are {', '.join(known)}, or a .toml file{did_you_mean(text, known)}"
        )
    return _parsed(read_bytes(text), text)


def _parsed(data: bytes, name: str) -> PlatformFile:
    try:
        raw = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not TOML: {error}", file=name) from None
    with naming(name):
        read = parse(raw, PlatformFile)
    if not _sizes(read.memory.main):
        raise InputError("no size from the first to the last", place="memory.main", file=name)
    return read
