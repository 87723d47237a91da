"""Compiled loops of the front; see :mod:`moeplace.active.front`."""

from __future__ import annotations

from moeplace.base.compiled import compiled


@compiled
def merge_layer(loss, time, own_loss, own_time, heads, out_loss, out_time, out_before, out_k, best):
    """Merge a front with one more layer, from where ``heads`` stand until the output is full.

    For each number of active experts the front moved by it is sorted by loss; the next point of all is the one of least
    loss, and of least time among those. It counts if its time is below ``best``, that of the last one that counted.
    ``heads [K]`` is the next point of the front for each number; at the end all are beyond the last one.

    Returns
    -------
    int, int, bool
        Points in the output, the last one's time, and whether there may be more.
    """
    points, count = len(loss), 0
    while True:
        chosen, least, soonest = -1, 0, 0
        for j in range(len(heads)):
            at = heads[j]
            while at < points and time[at] + own_time[j] >= best:
                at += 1
            heads[j] = at
            if at == points:
                continue
            lost, took = loss[at] + own_loss[j], time[at] + own_time[j]
            if chosen < 0 or lost < least or (lost == least and took < soonest):
                chosen, least, soonest = j, lost, took
        if chosen < 0:
            return count, best, False
        if count == len(out_loss):
            return count, best, True
        best = soonest
        out_loss[count], out_time[count] = least, soonest
        out_before[count], out_k[count] = heads[chosen], chosen + 1
        heads[chosen] += 1
        count += 1
