"""A deployment as a picture: what ``moeplace plot deployment`` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moeplace.base import style
from moeplace.base.text import one_line
from moeplace.serverless.cost import evaluate
from moeplace.serverless.document import Deployment
from moeplace.serverless.instance import Instance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOCAL = "0.88"
"""The shade of grey of local experts; each replica has a colour of the palette."""


def deployment(instance: Instance, chosen: Deployment, title: str) -> Figure:
    """Draw a deployment that fits.

    Left: the experts of each layer in falling use, local ones grey, remote ones in the colour of their replica. Right:
    the memory of each layer's remote function beside that of the main one, and the times of each layer, with what the
    limits leave for a layer in the mean as a line, where it is near the bars.

    Parameters
    ----------
    instance : Instance
    chosen : Deployment
    title : str
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    spent, layers = evaluate(instance, chosen), instance.layers
    colour = np.empty((layers, instance.experts, 3))
    colour[:] = to_rgb(LOCAL)
    handles: dict[str, Any] = {"local": Patch(color=LOCAL)}
    for j in range(max(len(choice.replicas) for choice in chosen.layers)):
        handles[f"replica {j + 1}"] = Patch(color=style.PALETTE[j % len(style.PALETTE)])
    for layer, choice in enumerate(chosen.layers):
        place = np.empty(instance.experts, dtype=np.intp)
        place[np.lexsort((-instance.prefill[layer], -instance.decoded[layer]))] = np.arange(instance.experts)
        for j, replica in enumerate(choice.replicas):
            colour[layer, place[replica]] = to_rgb(style.PALETTE[j % len(style.PALETTE)])
    figure = style.new_figure(9.0, 1.9 + 0.16 * max(layers, 12))
    grid = figure.add_gridspec(1, 4, width_ratios=(3, 1, 1, 1))
    experts, memory, first, every = (figure.add_subplot(cell) for cell in grid)
    experts.imshow(colour, aspect="auto", interpolation="none")
    experts.grid(False)
    for side in (experts.xaxis, experts.yaxis):
        side.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    experts.set(xlabel="experts in falling use", ylabel="layer", title="remote, by replica")
    at = np.arange(layers)
    remote = [0 if choice.spec is None else instance.specs[choice.spec].mb for choice in chosen.layers]
    memory.barh(at, remote, color=style.PALETTE[0])
    main = instance.specs[chosen.main_spec].mb
    memory.set_xlim(0, 1.05 * max(main, *remote))
    memory.set(xlabel="MB", title=f"remote memory\nmain {main:,} MB")
    limit = instance.limits
    for axis, times, most, name in (
        (first, spent.prefill_ns, limit.ttft_ns - instance.platform.cold_ns, "first token"),
        (every, spent.decode_ns, limit.tpot_ns * instance.request.tokens_out, "output"),
    ):
        axis.barh(at, [ns / 1e6 for ns in times], color=style.PALETTE[1])
        used = sum(times) / most if most > 0 else 1.0
        share = most / layers / 1e6
        if share <= 2 * max(times) / 1e6:  # else the line would squeeze the bars
            handles["an equal share of the limit"] = axis.axvline(share, color="black", linewidth=1)
        axis.set(xlabel="ms", title=f"{name}\n{100 * used:.0f} % of limit")
    for axis in (memory, first, every):
        axis.set_ylim(layers - 0.5, -0.5)
        axis.set_yticks([])
        style.quiet(axis)
    figure.suptitle(one_line(title))
    style.legend_below(figure, list(handles.values()), list(handles), columns=6)
    return figure
