"""The compiled inner loops of tables: text to integers, the order of tokens, tokens that are only counted.

Only :mod:`moeplace.scenarios.traces.tables` imports this module.
"""

from __future__ import annotations

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
