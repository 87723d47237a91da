"""Reading and writing documents: JSON in UTF-8, plain or gzip, whole or not at all."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from moeplace.base.errors import InputError, OutputError

_GZIP_MAGIC = b"\x1f\x8b"
MOST_INFLATED = 2**30  # bytes that a packed file may become: a few megabytes can hold gigabytes
SURROGATE = "a string holds half of a surrogate pair (\\ud800 to \\udfff)"
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON document, plain or gzip (told by its first bytes, not by its name).

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    object
        The document as Python's ``json`` reads it.

    Raises
    ------
    InputError
        Missing or unreadable file, truncated gzip, text that is not UTF-8, a syntax error (with line and
        column), a key given twice in one object, NaN or Infinity.
    """
    file = str(path)
    data = read_bytes(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start}", file=file) from None
    del data
    if text.startswith("\ufeff"):
        raise InputError("starts with a byte order mark; plain UTF-8 was expected", file=file)
    try:
        with no_garbage_collection():
            document = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        if _SURROGATE_ESCAPE.search(text):  # halves come in by escapes only: the text itself is UTF-8
            json.dumps(document, ensure_ascii=False).encode()
        return document
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"not JSON: {error.msg}", place=place, file=file) from None
    except RecursionError:
        raise InputError("not a moeplace document: nested too deeply", file=file) from None
    except InputError as error:
        raise error.in_file(file) from None
    except UnicodeEncodeError:
        raise InputError(SURROGATE, file=file) from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise InputError(f"not JSON that can be read: {error}", file=file) from None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read a file, unpacked where it is gzip (told by its first bytes, not by its name).

    Raises
    ------
    InputError
        Missing, unreadable or damaged file; one that unpacks to more than ``MOST_INFLATED`` bytes.
    """
    file = str(path)
    try:
        data = Path(path).read_bytes()
        if not data.startswith(_GZIP_MAGIC):
            return data
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            data = packed.read(MOST_INFLATED + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"damaged gzip file ({error})"
        raise InputError(f"cannot be read: {reason}", file=file) from None
    except ValueError as error:  # a NUL byte in the name
        raise InputError(f"cannot be read: {error}", file=file) from None
    if len(data) > MOST_INFLATED:
        raise InputError(f"unpacks to more than {MOST_INFLATED} bytes, the most that is read", file=file)
    return data


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InputError(f"the key {json.dumps(key)} stands twice in one object")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(f"not JSON: {name} is not a number here")


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the collector from walking a million small lists again and again; none of them is cyclic garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Say now, not after the work, that an output file cannot be written.

    Raises
    ------
    InputError
        The folder does not exist or is not writable, or the path is a folder; of a link, where it leads counts.
    """
    target = Path(path)
    try:
        with contextlib.suppress(FileNotFoundError):  # a link to what is yet to be written is fine
            target.stat()
        real = target.resolve()
        folder, exists = real.parent, real.exists()
        if real.is_dir():
            raise InputError("is a folder; a file name was expected", file=str(path))
        if not folder.is_dir():
            named = folder if target.is_symlink() else target.parent
            raise InputError(f"cannot be written: the folder {named} does not exist", file=str(path))
        # A file is replaced by a new one, which the folder must allow; a pipe or /dev/null is written to as it is.
        needed = [real] * exists + [folder] * (not exists or real.is_file())
        if not all(os.access(needs, os.W_OK) for needs in needed):
            raise InputError("cannot be written: permission denied", file=str(path))
    except OSError as error:  # a name that is too long, links in a circle
        raise InputError(f"cannot be written: {error.strerror}", file=str(path)) from None


def check_folder_writable(path: str | os.PathLike[str]) -> None:
    """Say now, not after the work, that a folder of results can neither be written to nor made, parents included.

    Raises
    ------
    InputError
        It is a file, or lies in what is no folder or not writable.
    """
    folder = Path(path)
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError("is a file; a folder was expected", file=str(path))
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=str(path)) from None
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"cannot be written: {existing} is no folder to write to", file=str(path))


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file under a temporary name beside ``path``, then move it into place.

    The target appears whole or not at all. A target that exists and is no regular file (a pipe, a
    terminal, ``/dev/null``) cannot be replaced that way and is written to as it is.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    target = Path(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            target.stat()  # refuses links in a circle
        if target.exists() and not target.is_file():
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / target.name
                write(temporary)
                target.write_bytes(temporary.read_bytes())
            return
        with _beside(target) as (temporary, resolved):
            write(temporary)
            _move(temporary, resolved)
    except (OSError, ValueError) as error:
        raise _cannot_be_written(path, error) from None


def write_all(contents: Mapping[str, bytes]) -> None:
    """Write several files, gzip as :func:`write_bytes`: all are on the disk before the first is moved into its place.

    Parameters
    ----------
    contents : mapping
        What each file gets, by its path; no two paths lead to one file.

    Raises
    ------
    OutputError
        One of the files cannot be written; then none is, unless it is the moving that fails.
    """
    with contextlib.ExitStack() as stack:
        written = []
        for path, data in contents.items():
            try:
                if (target := Path(path)).exists() and not target.is_file():
                    raise ValueError("it is there already, and no regular file")
                temporary, target = stack.enter_context(_beside(target))
                temporary.write_bytes(_packed(path, data))
            except (OSError, ValueError) as error:
                raise _cannot_be_written(path, error) from None
            written.append((path, temporary, target))
        for path, temporary, target in written:
            try:
                _move(temporary, target)
            except OSError as error:
                raise _cannot_be_written(path, error) from None


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[tuple[Path, Path]]:
    """Give an empty file beside a target, and the target itself; what is not moved from there is gone afterwards."""
    target = target.resolve()  # a symbolic link stays one
    # Short, as a name may have no more than about 255 bytes; the ending tells some writers their format.
    ending = target.suffix if len(target.suffix) < 20 else ""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:20]}.", suffix=ending)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary, target
    finally:
        temporary.unlink(missing_ok=True)


def _move(temporary: Path, target: Path) -> None:
    temporary.chmod(target.stat().st_mode if target.exists() else 0o666 & ~_umask())
    temporary.replace(target)


def _cannot_be_written(path: str | os.PathLike[str], error: OSError | ValueError) -> OutputError:
    return OutputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` whole or not at all; gzip (reproducible: no time, no name) where the name ends in .gz."""
    data = _packed(path, data)

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_whole(path, write)


class Saved:
    """What is written as a document: ``save`` for whatever has ``to_json``."""

    __slots__ = ()
    to_json: Callable[..., bytes]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the document, gzip where the name ends in ``.gz``; whole or not at all.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        write_bytes(path, self.to_json())


def _packed(path: str | os.PathLike[str], data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=9, mtime=0) if str(path).lower().endswith(".gz") else data
