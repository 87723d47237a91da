"""The compiled inner loops of tables: text and JSON to integers, the order of tokens, tokens that are only counted.

Only :mod:`moeplace.scenarios.traces.tables` and :mod:`moeplace.scenarios.traces.lines` import this module.
"""

from __future__ import annotations

import numpy as np

from moeplace.base.compiled import compiled

_SPACE, _TAB, _COMMA, _SEMICOLON, _BAR, _MINUS, _ZERO = 32, 9, 44, 59, 124, 45, 48
_OPEN, _CLOSE, _OPEN_ROUND, _CLOSE_ROUND = 91, 93, 40, 41


@compiled
def parse_lists(data, offsets, out):
    """Write the integers of texts such as ``3 17 4`` or ``[3, 17, 4]`` into the rows of ``out``, which holds -1.

    Text ``i`` is ``data[offsets[i]:offsets[i + 1]]``. Returns a row and what is wrong with it: 0 nothing (the row is
    the most integers of a text), 1 no integers, 2 too many for ``out``.
    """
    most = 0
    for r in range(len(offsets) - 1):
        i, end = offsets[r], offsets[r + 1]
        while i < end and (data[i] == _SPACE or data[i] == _OPEN or data[i] == _OPEN_ROUND):
            i += 1
        while i < end and (data[end - 1] == _SPACE or data[end - 1] == _CLOSE or data[end - 1] == _CLOSE_ROUND):
            end -= 1
        found = 0
        while i < end:
            if found:
                before = i
                while i < end and (
                    data[i] == _SPACE
                    or data[i] == _COMMA
                    or data[i] == _SEMICOLON
                    or data[i] == _BAR
                    or data[i] == _TAB
                ):
                    i += 1
                if i == before or i == end:  # noqa: SIM109 - numba
                    return r, 1
            sign = 1
            if data[i] == _MINUS:
                sign = -1
                i += 1
            value = 0
            digits = 0
            while i < end and _ZERO <= data[i] <= _ZERO + 9:
                value = 10 * value + (data[i] - _ZERO)
                digits += 1
                i += 1
            if digits == 0 or digits > 18:
                return r, 1
            if found == out.shape[1]:
                return r, 2
            out[r, found] = sign * value
            found += 1
        most = max(most, found)
    return most, 0


@compiled
def fill_lists(values, offsets, out):
    """Write lists of integers into the rows of ``out``; return the most of a row, -1 - r where row r has too many."""
    most = 0
    for r in range(len(offsets) - 1):
        n = offsets[r + 1] - offsets[r]
        if n > out.shape[1]:
            return -1 - r
        most = max(most, n)
        for i in range(n):
            out[r, i] = values[offsets[r] + i]
    return most


@compiled
def first_out_of_order(group, token, last):
    """Return the first row whose token is not greater than the one before in its group (-1: none).

    ``last [groups]`` is the last token of each and is brought up to date, at a bad row's group too.
    """
    for r in range(len(group)):
        if token[r] <= last[group[r]]:
            return r
        last[group[r]] = token[r]
    return -1


@compiled
def count_tokens(group, size, seen, state, token):
    """Write the number of each row's token, ``size`` rows of a group a token.

    ``seen [groups]`` counts rows; ``state`` is the last group, the length of its run, the greatest common divisor of
    the lengths of the runs before, and their number. Returns the first row of a run that begins inside a token, or -1.
    """
    for r in range(len(group)):
        g = group[r]
        if g != state[0]:
            if seen[g] % size != 0:
                return r
            a, b = state[2], state[1]
            while b != 0:
                a, b = b, a % b
            state[2] = a
            state[3] += 1
            state[0] = g
            state[1] = 0
        token[r] = seen[g] // size
        seen[g] += 1
        state[1] += 1
    return -1


_QUOTE, _BACKSLASH, _COLON, _NEWLINE, _RETURN = 34, 92, 58, 10, 13
_OPEN_CURLY, _CLOSE_CURLY, _SMALL_U = 123, 125, 117

NUMBER, LIST, LABEL = 0, 1, 2
"""What a value is read as: an integer, a list of integers, or whatever stands there, to be decoded by others."""


@compiled
def _blank(data, i, end):
    """Return the next place that is no blank of a line."""
    while i < end and (data[i] == _SPACE or data[i] == _TAB or data[i] == _RETURN):
        i += 1
    return i


@compiled
def _integer(data, i, end):
    """Return an integer and the place after it; the place is -1 where none stands that fits."""
    sign = 1
    if i < end and data[i] == _MINUS:
        sign = -1
        i += 1
    first, value = i, 0
    while i < end and _ZERO <= data[i] <= _ZERO + 9:
        value = 10 * value + (data[i] - _ZERO)
        i += 1
    if i == first or i - first > 18 or (data[first] == _ZERO and i - first > 1):
        return 0, -1
    return sign * value, i


@compiled
def _string(data, i, end):
    """Return the place after a string that begins here, or -1."""
    i += 1
    while i < end and data[i] != _QUOTE:
        if data[i] < _SPACE:
            return -1
        if data[i] == _BACKSLASH:
            i += 1
            if i >= end:
                return -1
            escaped = False
            for c in b'"\\/bfnrtu':
                escaped |= data[i] == c
            if not escaped:
                return -1
            if data[i] == _SMALL_U:
                for _ in range(4):
                    i += 1
                    if i >= end:
                        return -1
                    c = data[i]
                    if not (_ZERO <= c <= _ZERO + 9 or 65 <= c <= 70 or 97 <= c <= 102):
                        return -1
        i += 1
    return i + 1 if i < end else -1


@compiled
def _scalar(data, i, end):
    """Return the place after a string, number, true, false or null, or -1."""
    if data[i] == _QUOTE:
        return _string(data, i, end)
    for word in (b"true", b"false", b"null"):
        if data[i] == word[0]:
            for j in range(len(word)):
                if i + j >= end or data[i + j] != word[j]:
                    return -1
            return i + len(word)
    first = i
    while i < end and (
        _ZERO <= data[i] <= _ZERO + 9 or data[i] == _MINUS or data[i] == 43 or data[i] == 46
        or data[i] == 69 or data[i] == 101
    ):  # fmt: skip
        i += 1
    return i if i > first else -1


@compiled
def _value(data, i, end):
    """Return the place after a value that nobody reads, or -1; of nested ones strings and brackets are looked at."""
    if data[i] != _OPEN and data[i] != _OPEN_CURLY:
        return _scalar(data, i, end)
    depth = 0
    while i < end and data[i] != _NEWLINE:
        c = data[i]
        if c == _QUOTE:
            i = _string(data, i, end)
            if i < 0:
                return -1
            continue
        if c == _OPEN or c == _OPEN_CURLY:  # noqa: SIM109 - numba
            depth += 1
        elif c == _CLOSE or c == _CLOSE_CURLY:  # noqa: SIM109 - numba
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return -1


@compiled
def scan_objects(data, keys, key_start, kind, slot, numbers, lists, label_run, label_span):
    """Read lines of JSON objects; return how many, or -1 where a line is not as usual.

    Key ``f`` is ``keys[key_start[f]:key_start[f + 1]]``; what it is read as says ``kind``, and where it goes ``slot``:
    a row of ``numbers [numbers, R]``, into ``lists [R, W]``, which holds -1, or a row of ``label_run [labels, R]``. The
    values of a label are numbered by runs of equal bytes, and ``label_span [labels, R, 2]`` has the bytes of each run.
    Every key must stand in every line once.
    """
    n, end, row, i = len(kind), len(data), 0, 0
    runs = np.zeros(len(label_run), np.int64)
    while i < end:
        i = _blank(data, i, end)
        if i >= end or data[i] != _OPEN_CURLY:
            return -1
        i = _blank(data, i + 1, end)
        seen = 0
        while True:
            if i >= end or data[i] != _QUOTE:
                return -1
            first = i + 1
            i = _string(data, i, end)
            if i < 0:
                return -1
            length = i - 1 - first
            field = -1
            for f in range(n):
                if key_start[f + 1] - key_start[f] == length:
                    same = True
                    for j in range(length):
                        if keys[key_start[f] + j] != data[first + j]:
                            same = False
                            break
                    if same:
                        field = f
                        break
            i = _blank(data, i, end)
            if i >= end or data[i] != _COLON:
                return -1
            i = _blank(data, i + 1, end)
            if i >= end:
                return -1
            if field < 0:
                for j in range(first, first + length):
                    if data[j] == _BACKSLASH:  # an escaped name may be one of ours
                        return -1
                i = _value(data, i, end)
                if i < 0:
                    return -1
            else:
                if seen & (1 << field):
                    return -1
                seen |= 1 << field
                if kind[field] == NUMBER:
                    numbers[slot[field], row], i = _integer(data, i, end)
                    if i < 0:
                        return -1
                elif kind[field] == LIST:
                    if data[i] != _OPEN:
                        return -1
                    i = _blank(data, i + 1, end)
                    found = 0
                    while i < end and data[i] != _CLOSE:
                        if found == lists.shape[1]:
                            return -1
                        lists[row, found], i = _integer(data, i, end)
                        if i < 0:
                            return -1
                        found += 1
                        i = _blank(data, i, end)
                        if i < end and data[i] == _COMMA:
                            i = _blank(data, i + 1, end)
                            if i < end and data[i] == _CLOSE:
                                return -1
                        elif i >= end or data[i] != _CLOSE:
                            return -1
                    i += 1
                else:
                    first = i
                    i = _scalar(data, i, end)
                    if i < 0:
                        return -1
                    s = slot[field]
                    run = runs[s] - 1
                    same = run >= 0 and label_span[s, run, 1] - label_span[s, run, 0] == i - first
                    if same:
                        before = label_span[s, run, 0]
                        for j in range(i - first):
                            if data[before + j] != data[first + j]:
                                same = False
                                break
                    if not same:
                        run += 1
                        label_span[s, run, 0] = first
                        label_span[s, run, 1] = i
                        runs[s] += 1
                    label_run[s, row] = run
            i = _blank(data, i, end)
            if i >= end:
                return -1
            if data[i] == _CLOSE_CURLY:
                break
            if data[i] != _COMMA:
                return -1
            i = _blank(data, i + 1, end)
        if seen != (1 << n) - 1:
            return -1
        i = _blank(data, i + 1, end)
        if i < end and data[i] != _NEWLINE:
            return -1
        i += 1
        row += 1
    return row
