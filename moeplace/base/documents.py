"""The documents moeplace reads and writes, as typed structures: the one home of the file formats.

`msgspec` checks types, ranges and unknown keys; :func:`parse` turns what it says into an
:class:`~moeplace.base.errors.InputError` that names the place and what was found there. What relates one part of
a document to another (names, lengths, sums) is checked where the document becomes an instance.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from moeplace.base.errors import InputError
from moeplace.base.files import SURROGATE

INT64_MAX = 2**63 - 1

UNREACHABLE: Final = INT64_MAX
"""What arrays of times hold where a document has ``null``: never below a time that can be had."""

NonNegative = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Positive = Annotated[int, Meta(ge=1, le=INT64_MAX)]
Termination = Literal["optimal", "gap_limit", "time_limit", "iteration_limit", "interrupted", "completed"]


class BestKnown(Struct, frozen=True, forbid_unknown_fields=True):
    """The best known solution of an instance and the best proven bound on it."""

    sha256: str
    latency_ns: NonNegative
    bound_ns: NonNegative | None
    optimal: bool
    latency_method: str
    bound_method: str | None
    version: str
    date: str


class Named(Protocol):
    """An instance of any problem, as far as documents speak of it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def sha256(self) -> str:
        """Hash of its document, see :func:`canonical`."""


T = TypeVar("T")


def parse(document: object, kind: type[T]) -> T:
    """Check a document as ``json`` read it against its type.

    Parameters
    ----------
    document : object
        The document.
    kind : type
        The type it must be, for example :class:`InstanceDocument`.

    Returns
    -------
    T
        The typed document; nothing is coerced.

    Raises
    ------
    InputError
        With the place, what was expected and what was found.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), document, kind) from None
    except UnicodeEncodeError:
        raise InputError(SURROGATE) from None


def canonical(document: object) -> bytes:
    """Serialise a document with sorted keys and no white space (the text a hash is taken of).

    The bytes are those of ``json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)``
    in UTF-8.

    Raises
    ------
    InputError
        A string holds a lone surrogate, which has no UTF-8 form.
    """
    try:
        return msgspec.json.encode(document, order="sorted")
    except UnicodeEncodeError:
        raise InputError(SURROGATE) from None


_PLACE = re.compile(r" - at `(?:key in )?\$(?P<place>(?:\.\w+|\[\d+\]|\[\.\.\.\])*)`\Z")
_UNKNOWN = "Object contains unknown field `"
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])")


def _explain(text: str, document: object, kind: type) -> InputError:
    match = _PLACE.search(text)
    message, place = (text[: match.start()], match["place"]) if match else (text, "")
    known, found = _walk(place, document, kind)
    if text.startswith(_UNKNOWN):
        # The key is the file's own text and may itself read like a place, so it counts only where it stands.
        if not (isinstance(found, dict) and message[len(_UNKNOWN) : -1] in found):
            message, known = text, ""
        return InputError(f"unknown key {json.dumps(message[len(_UNKNOWN) : -1])}", place=known)
    message = message.replace("`", "")
    missing = re.match(r"Object missing required field (.*)", message, re.DOTALL)
    if missing:
        return InputError(f"the key {json.dumps(missing[1])} is missing", place=known)
    expected = re.sub(r"^Expected ", "", message)
    if expected.startswith("Invalid enum value"):
        expected = _choices(known, kind)
    expected = re.sub(r", got .*", "", expected)
    expected = re.sub(r"of length [<>]= 2$", "of 2", expected)  # pairs are the only lists of a fixed length
    for theirs, ours in _WORDS.items():
        expected = re.sub(theirs, ours, expected)
    return InputError(f"expected {expected}, found {show(found)}", place=known)


def _walk(place: str, document: object, kind: Any) -> tuple[str, Any]:
    """Follow a place of msgspec's as far as the document has it: the place in our words, and what stands there."""
    known = ""
    found: Any = document
    for step in _STEP.finditer(place):
        key, index, anything = step.groups()
        if anything:  # msgspec does not say which key of a free object
            if not isinstance(found, dict):
                break
            values = get_args(kind)[1] if not known and get_origin(kind) is dict else str | int
            wrong = [k for k, v in found.items() if not _fits(v, values)]
            if not wrong:
                break
            known, found = f"{known}[{json.dumps(wrong[0])}]", found[wrong[0]]
        elif key:
            if not isinstance(found, dict) or key not in found:
                break
            known, found = (f"{known}.{key}" if known else key), found[key]
        else:
            if not isinstance(found, list) or int(index) >= len(found):
                break
            known, found = f"{known}[{index}]", found[int(index)]
    return known, found


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


_WORDS = {
    r"\bint\b": "an integer",
    r"\bfloat\b": "a number",
    r"\bstr\b": "text",
    r"\barray\b": "a list",
    r"\bobject\b": "an object",
    r"\bbool\b": "true or false",
    r" \| ": " or ",
}


def _choices(place: str, kind: type) -> str:
    """List the values that a key with a fixed choice may have."""
    types: dict[str, Any] = get_type_hints(kind)
    for key in place.split("."):
        types = {"type": types.get(key)} if get_args(types.get(key)) else get_type_hints(types.get(key, object))
    return " or ".join(json.dumps(value) for value in get_args(types.get("type")))


def show(value: object, limit: int = 60) -> str:
    """Show a value of a document in an error line: as JSON, on one line, cut to ``limit`` characters."""
    if isinstance(value, list) and len(value) > 8:
        return f"a list of {len(value)}"
    if isinstance(value, dict) and len(value) > 4:
        return f"an object of {len(value)} keys"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**40:
        return "an integer of more than 40 digits"
    try:
        text = json.dumps(value, default=str)  # TOML has dates
    except (RecursionError, ValueError):  # nested too deeply, an integer of too many digits
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= limit else text[: limit - 3] + "..."


class InstanceReference(Struct, frozen=True):
    """The instance a solution belongs to."""

    name: str
    sha256: str


class Status(Struct, frozen=True):
    """Why the method ended, and what is proven of its placement."""

    termination: Termination
    solution: Literal["optimal", "feasible"]
