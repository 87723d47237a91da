"""Numbers and names as they are shown to people: units, shares, counts, and text that stays on its line.

What is claimed is rounded to the safe side: a gap upwards, a certified ratio downwards; "0 %" is exactly zero.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOTHING = "-"
"""What stands where a number is not known."""

MOST_NUMBERS = 12
"""How many numbers of a list are shown."""

_UNITS = [(1, "ns"), (10**3, "µs"), (10**6, "ms"), (10**9, "s")]


def time_unit(ns: float) -> tuple[int, str]:
    """Return the largest unit that a time is at least one of, in ns, with its name.

    Examples
    --------
    >>> time_unit(4_000_000), time_unit(0)
    ((1000000, 'ms'), (1, 'ns'))
    """
    return max((unit for unit in _UNITS if ns >= unit[0]), default=_UNITS[0])


def duration(ns: float | None) -> str:
    """Show a time in the unit that fits it.

    Examples
    --------
    >>> duration(12_345_678), duration(0), duration(None)
    ('12.35 ms', '0 ns', '-')
    """
    if ns is None:
        return NOTHING
    size, name = time_unit(ns)
    return f"{ns / size:.4g} {name}"


def size(n_bytes: float) -> str:
    """Show a number of bytes.

    Examples
    --------
    >>> size(0), size(3_000), size(999_600), size(13_200_000_000)
    ('0 B', '3 kB', '1 MB', '13.2 GB')
    """
    names = ["B", "kB", "MB", "GB", "TB", "PB", "EB"]
    # 999,600 is 1 MB, not 1e+03 kB: what decides is the number as it is shown.
    power = min(int(math.log10(float(f"{n_bytes:.3g}"))) // 3, len(names) - 1) if n_bytes >= 1 else 0
    return f"{n_bytes / 1000**power:.3g} {names[power]}" if n_bytes < 10**21 else f"{n_bytes:.3g} B"


def percent(share: float | None, decimals: int = 2) -> str:
    """Show a share.

    Examples
    --------
    >>> percent(0.5), percent(0.0), percent(None)
    ('50.00 %', '0.00 %', '-')
    """
    return NOTHING if share is None else f"{100 * share:.{decimals}f} %"


def gap_percent(gap: float | None) -> str:
    """Show a gap, rounded up.

    Examples
    --------
    >>> gap_percent(0.0), gap_percent(1e-12), gap_percent(0.0123451), gap_percent(None)
    ('0 %', '0.001 %', '1.235 %', '-')
    """
    if gap is None:
        return NOTHING
    return "0 %" if gap == 0 else f"{math.ceil(round(gap * 1e5, 6) or 1) / 1e3:.3f} %"


def ratio_down(ratio: float) -> str:
    """Show a certified ratio, rounded down.

    Examples
    --------
    >>> ratio_down(1.0), ratio_down(0.99999999), ratio_down(0.5)
    ('1', '0.9999', '0.5000')
    """
    return "1" if ratio == 1 else f"{math.floor(round(ratio * 1e4, 6)) / 1e4 if ratio < 0.9999 else 0.9999:.4f}"


def number(value: int, noun: str = "", plural: str = "") -> str:
    """Show a count, with the noun in its right form.

    Examples
    --------
    >>> number(1, "server"), number(12345, "entry", "entries")
    ('1 server', '12,345 entries')
    """
    if not noun:
        return f"{value:,}"
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def numbers(values: Sequence[int]) -> str:
    """Show rising whole numbers, in short where they are evenly spaced.

    Examples
    --------
    >>> numbers([3, 4, 5]), numbers([1, 3, 5, 7]), numbers([0, 1, 5, 9]), numbers([6])
    ('3 to 5', '1 to 7 in steps of 2', '0, 1, 5, 9', '6')
    """
    steps = {b - a for a, b in itertools.pairwise(values)}
    if len(values) > 2 and len(steps) == 1:
        (step,) = steps
        return f"{values[0]} to {values[-1]}" + (f" in steps of {step}" if step > 1 else "")
    shown = ", ".join(map(str, values[:MOST_NUMBERS]))
    return shown if len(values) <= MOST_NUMBERS else f"{shown}, ... {values[-1]} ({len(values)} in all)"


def bar(share: float, width: int = 10) -> str:
    """Draw a share, with its percentage; only what is full looks full, and only what is empty looks empty.

    Examples
    --------
    >>> bar(0.999), bar(0.001), bar(1.0)
    ('█████████░  99 %', '█░░░░░░░░░   0 %', '██████████ 100 %')
    """
    filled = math.floor(share * width + 0.5)
    if 0 < share < 1:
        filled = min(max(filled, 1), width - 1)
    return "█" * filled + "░" * (width - filled) + f"{math.floor(100 * share):4d} %"


def one_line(text: str) -> str:
    r"""Return a text with everything that is not printable escaped: line breaks, terminal codes, half surrogates.

    Examples
    --------
    >>> print(one_line("a name\nwith a break"))
    a name\nwith a break
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return what is to follow "there is no such word": the known word that is most like it, if one is.

    Examples
    --------
    >>> did_you_mean("milq", ["cpsat", "milp"]), did_you_mean("x", ["cpsat", "milp"])
    ("; did you mean 'milp'?", '')
    """
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def markdown(text: str) -> str:
    r"""Return a text for one line of Markdown, in which none of its characters means anything.

    Examples
    --------
    >>> print(markdown("<b>a_b</b> | [c](d)"))
    \<b\>a\_b\</b\> \| \[c\](d)
    """
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", one_line(text))


_MEANS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def as_csv(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    r"""Return rows as CSV in UTF-8; None is an empty field.

    A spreadsheet takes text that begins with ``=``, ``+``, ``-``, ``@`` or white space for a formula and runs it. Such
    text gets an apostrophe in front, and so does text that begins with one: then whoever reads the file can take the
    first apostrophe off, always. Numbers stay as they are.

    Examples
    --------
    >>> as_csv(["name", "value"], [{"name": "=1+1", "value": -1}, {"name": None, "value": "a-b"}])
    b"name,value\n'=1+1,-1\n,a-b\n"
    """
    lines = [",".join(fields), *(",".join(_cell(row.get(field)) for field in fields) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    if isinstance(value, str) and value.startswith(_MEANS_A_FORMULA):
        text = f"'{text}"
    if any(character in text for character in ',"\r\n'):  # csv.writer of Python 3.11 leaves a carriage return bare
        text = '"' + text.replace('"', '""') + '"'
    return text
