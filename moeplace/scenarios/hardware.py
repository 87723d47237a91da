"""The catalogue of accelerators: how fast they read memory and how fast they compute.

The facts are data (``hardware.json``), one line a device, each with where it was seen. Figures are the makers' peaks:
dense bf16 on matrix units, and the bandwidth of the device's own memory. What programs reach is less.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import msgspec
from msgspec import Struct

from moeplace.base.documents import Positive
from moeplace.base.errors import InputError
from moeplace.base.text import did_you_mean


class Hardware(Struct, frozen=True, forbid_unknown_fields=True):
    """One device.

    Attributes
    ----------
    name, title : str
        Name on the command line; what it is sold as.
    gb_per_s, tflops : int
        Memory bandwidth, 10**9 bytes a second; 10**12 operations a second, dense bf16.
    source : str
        Where the figures were seen.
    """

    name: str
    title: str
    gb_per_s: Positive
    tflops: Positive
    source: str

    @property
    def bytes_per_s(self) -> int:
        """Memory bandwidth."""
        return self.gb_per_s * 10**9

    @property
    def flops(self) -> int:
        """Operations a second; a multiplication and an addition are two."""
        return self.tflops * 10**12


@cache
def devices() -> tuple[Hardware, ...]:
    """Return the catalogue, in its order."""
    text = resources.files("moeplace.scenarios").joinpath("hardware.json").read_text(encoding="utf-8")
    return tuple(msgspec.convert(json.loads(text), list[Hardware]))


def find_hardware(name: str) -> Hardware:
    """Return a device of the catalogue by its name, upper or lower case.

    Raises
    ------
    InputError
        There is none of that name.

    Examples
    --------
    >>> find_hardware("H100-SXM").gb_per_s
    3350
    """
    for device in devices():
        if device.name == name.lower():
            return device
    known = [device.name for device in devices()]
    raise InputError(f"no hardware {name!r}; there are {', '.join(known)}" + did_you_mean(name, known))
