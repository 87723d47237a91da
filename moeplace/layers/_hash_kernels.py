"""The compiled loops of open hash tables of integer vectors, by a code of each vector."""

from __future__ import annotations

from moeplace.base.compiled import compiled


@compiled
def place(table, key, vectors, code, vector):
    """Return the slot of a vector in an open hash table of indices, or the free one where it belongs."""
    last = len(table) - 1
    slot = (code ^ (code >> 29)) & last
    while table[slot] >= 0:
        p = table[slot]
        if key[p] == code:
            same = True
            for n in range(len(vector)):
                if vectors[p, n] != vector[n]:
                    same = False
                    break
            if same:
                return slot
        slot = (slot + 1) & last
    return slot


@compiled
def rehash(key, count, table):
    """Put the first entries into a larger, empty table."""
    last = len(table) - 1
    for p in range(count):
        slot = (key[p] ^ (key[p] >> 29)) & last
        while table[slot] >= 0:
            slot = (slot + 1) & last
        table[slot] = p
