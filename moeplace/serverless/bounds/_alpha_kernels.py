"""The compiled loops of the smoothed bound. Only :mod:`moeplace.serverless.bounds.alphas` imports this module.

Floats throughout: they only propose multipliers, whose bound is then computed in integers.
"""

from __future__ import annotations

import numpy as np

from moeplace.base.compiled import compiled


@compiled
def _soft(coefficient, temperature):
    """Return the smoothed minimum of nothing and a coefficient, and how much of it is taken."""
    ratio = coefficient / temperature
    if ratio > 40.0:
        return 0.0, 0.0
    if ratio < -40.0:
        return coefficient, 1.0
    share = 1.0 / (1.0 + np.exp(ratio))
    return -temperature * np.log1p(np.exp(-ratio)), share


@compiled
def smoothed(
    start,
    expert,
    count,
    base_first,
    base_every,
    local,
    decoded,
    work,
    each,
    price,
    allowed,
    cap,
    most,
    invoke,
    g,
    first_price,
    every_price,
    expert_price,
    alpha_first,
    alpha_every,
    temperature,
    active,
    value,
    d_every,
    usage,
):
    """Return a layer's smoothed relaxation and the derivative by ``alpha_first``.

    ``work [V, E]``, ``each [V]``, ``price [V]`` (of a ns), ``allowed [V, E]``: of each remote specification; only those
    that are ``active [V]`` count. ``cap [V, most]``: experts that a specification holds in so many replicas.
    ``value [V + 1]`` returns the least value of each (and of no remote experts); ``d_every [R]`` the derivatives by
    ``alpha_every``, and ``usage [3]`` those by the two prices and by that of a local expert.
    """
    n_rows, n_experts, n_specs = len(start) - 1, len(local), len(each)
    all_local = 0.0
    for e in range(n_experts):
        all_local += local[e]
    all_every = 0.0
    for i in range(n_rows):
        all_every += count[i] * (start[i + 1] - start[i]) * g
    nothing = first_price * (base_first + all_local) + every_price * (base_every + all_every) + expert_price * n_experts
    value[n_specs] = nothing
    least = nothing
    found = np.full((n_specs, most), np.inf)
    taken = np.zeros((n_specs, most, n_experts))
    intercept = np.zeros(n_specs)
    lowest = np.zeros((n_specs, n_rows))
    slope = np.zeros(n_experts)
    coefficient = np.zeros(n_experts)
    for v in range(n_specs):
        value[v] = np.inf
        if not active[v]:
            continue
        slope[:] = 0.0
        h = each[v]
        for i in range(n_rows):
            k = start[i + 1] - start[i]
            a = alpha_every[i]
            s = (1.0 - a) * h - a * g
            best = np.inf
            at = 0
            kink = int(k * g / (g + h)) if g + h > 0 else 0
            for n in range(max(0, kink), min(k, kink + 1) + 1):
                here = max((k - n) * g, n * h) - s * n
                if here < best:
                    best = here
                    at = n
            intercept[v] += count[i] * best
            lowest[v, i] = at
            for j in range(start[i], start[i + 1]):
                slope[expert[j]] += count[i] * s
        for z in range(1, most + 1):
            if z > cap[v, z - 1]:
                continue
            total = (
                first_price * (base_first + alpha_first * all_local + (1.0 - alpha_first) * invoke)
                + every_price * (base_every + intercept[v])
                + price[v] * z * invoke
                + expert_price * n_experts
            )
            shift = 0.0
            number = 0.0
            low = np.inf
            high = -np.inf
            for e in range(n_experts):
                if not allowed[v, e]:
                    coefficient[e] = np.inf
                    continue
                coefficient[e] = (
                    first_price * ((1.0 - alpha_first) * work[v, e] / z - alpha_first * local[e])
                    + every_price * slope[e]
                    + price[v] * (work[v, e] + decoded[e] * h)
                    - expert_price
                )
                low = min(low, -coefficient[e])
                high = max(high, -coefficient[e])
                number += _soft(coefficient[e], temperature)[1]
            most_here = cap[v, z - 1]
            if number > most_here or number < z:  # at most what fits, at least one expert a replica
                wanted = float(most_here) if number > most_here else float(z)
                spread = 60.0 * temperature
                low -= spread
                high += spread
                for _ in range(40):
                    shift = 0.5 * (low + high)
                    number = 0.0
                    for e in range(n_experts):
                        number += _soft(coefficient[e] + shift, temperature)[1]
                    if number > wanted:
                        low = shift
                    else:
                        high = shift
                total -= shift * wanted
            for e in range(n_experts):
                own, share = _soft(coefficient[e] + shift, temperature)
                total += own
                taken[v, z - 1, e] = share
            found[v, z - 1] = total
            value[v] = min(value[v], total)
            least = min(least, total)
    weight_none = np.exp(-(nothing - least) / temperature)
    total_weight = weight_none
    for v in range(n_specs):
        for z in range(most):
            if found[v, z] < np.inf:
                total_weight += np.exp(-(found[v, z] - least) / temperature)
    d_first = 0.0
    d_every[:] = 0.0
    share = weight_none / total_weight
    usage[0] = share * (base_first + all_local)
    usage[1] = share * (base_every + all_every)
    usage[2] = share * n_experts
    for v in range(n_specs):
        for z in range(most):
            if found[v, z] == np.inf:
                continue
            weight = np.exp(-(found[v, z] - least) / temperature) / total_weight
            if weight < 1e-6:
                continue
            h = each[v]
            here, there, held = 0.0, float(invoke), 0.0
            for e in range(n_experts):
                x = taken[v, z, e]
                here += local[e] * (1.0 - x)
                there += work[v, e] * x / (z + 1)
                held += 1.0 - x
            d_first += weight * first_price * (here - there)
            usage[0] += weight * (base_first + alpha_first * here + (1.0 - alpha_first) * there)
            usage[2] += weight * held
            every = base_every + intercept[v]
            for i in range(n_rows):
                n = 0.0
                for j in range(start[i], start[i + 1]):
                    n += taken[v, z, expert[j]]
                a = alpha_every[i]
                every += count[i] * ((1.0 - a) * h - a * g) * n
                d_every[i] += weight * every_price * count[i] * (g + h) * (lowest[v, i] - n)
            usage[1] += weight * every
    return least - temperature * np.log(total_weight), d_first
