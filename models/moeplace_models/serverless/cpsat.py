"""``cpsat``: all main specifications in one model for CP-SAT: (V1) to (V4) of the serverless problem, in integers.

What is chosen stands in Booleans of its own, and products of a choice with times become implied rows.

Variables::

    m[w], s[l,y]    Boolean: the main specification is w; layer l's remote specification is y
    q[l,k,j]        Boolean: expert k of layer l is in remote replica j
    f[l,j]          Boolean: replica j is there
    pt[l], gt[l]    times of the prefill and of all output tokens beside their fixed parts
    z[l,j], d[l]    time of replica j; of the layer's remote work for all output tokens
    c0, c[l]        cost of the main function, cost of the layer's remote function

Model, with ``r[l,k] = sum_j q[l,k,j]``::

    minimise  c0 + sum_l c[l]                                                                                      (1)
    sum_w m[w] = 1;   sum_j q[l,k,j] <= 1;   sum_y s[l,y] = f[l,0]                                                 (2)
    f[l,j] = OR_k q[l,k,j];   f[l,j] => f[l,j-1]                                                                   (3)
    m[w] => pt[l] >= sum_k P_w(N_k) (1 - r[l,k]);     pt[l] >= z[l,j]                                              (4)
    s[l,y] => z[l,j] >= invoke f[l,j] + sum_k (P_y(N_k) + 2 link(N_k)) q[l,k,j]                                    (5)
    m[w] => t[l,i] >= g_w (|S_i| - sum_{k in S_i} r[l,k]);   s[l,y] => t[l,i] >= h_y sum_{k in S_i} r[l,k]         (6)
    gt[l] = sum_i c_i t[l,i];    s[l,y] => d[l] >= h_y sum_k D_k r[l,k]                                            (7)
    m[w] => c0 >= H_w sum_l (pt[l] + gt[l] + fixed_l);    s[l,y] => c[l] >= cpu_price mb_y (sum_j z[l,j] + d[l])   (8)
    (V4) with m[w] or s[l,y] in front where it asks for one of them                                                (9)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from moeplace.serverless.cost import (
    decode_budget,
    largest_cost,
    local_room,
    main_price,
    prefill_budget,
    prefill_ns,
    remote_decode_ns,
    remote_prefill_ns,
)
from moeplace.serverless.document import MB
from moeplace.serverless.instance import LARGEST, Instance


@dataclass(frozen=True)
class DeploymentModel:
    """The model with the variables that decide.

    Attributes
    ----------
    model : ortools.sat.python.cp_model.CpModel
        Maximises the negated cost.
    m, s, q : dict
        By main specification; by (layer, specification); by (layer, expert, replica).
    """

    model: Any
    m: dict[int, Any]
    s: dict[tuple[int, int], Any]
    q: dict[tuple[int, int, int], Any]


def build(instance: Instance) -> DeploymentModel:
    """Build the model.

    Parameters
    ----------
    instance : Instance
        No deployment of it costs 2**60 price units.

    Returns
    -------
    DeploymentModel
    """
    platform, size, token = instance.platform, instance.model.expert_bytes, instance.model.token_bytes
    layers, experts = range(instance.layers), range(instance.experts)
    specs, mains = instance.remote_specs, instance.main_specs
    replicas = range(min(platform.most_replicas, instance.experts) if specs else 0)
    tokens = instance.prefill.tolist()
    decoded = instance.decoded.tolist()
    each = {y: remote_decode_ns(instance, y) for y in specs}
    ceiling = largest_cost(instance)

    model = cp_model.CpModel()
    total = cp_model.LinearExpr.sum
    m = {w: model.new_bool_var(f"m[{w}]") for w in mains}
    s = {(i, y): model.new_bool_var(f"s[{i},{y}]") for i in layers for y in specs}
    q = {(i, k, j): model.new_bool_var(f"q[{i},{k},{j}]") for i in layers for k in experts for j in replicas}
    model.add_exactly_one(m.values())
    times, costs = [], []
    local = 0
    for i in layers:
        r = [total([q[i, k, j] for j in replicas]) for k in experts]
        f = [model.new_bool_var("") for _ in replicas]
        for k in experts if specs else ():
            model.add_at_most_one(q[i, k, j] for j in replicas)  # (2)
        if specs:
            model.add(total([s[i, y] for y in specs]) == f[0])  # (2)
        for j in replicas:
            model.add_max_equality(f[j], [q[i, k, j] for k in experts])  # (3)
            if j:
                model.add_implication(f[j], f[j - 1])
        work = {y: [remote_prefill_ns(instance, y, n) for n in tokens[i]] for y in specs}
        most = platform.invoke_ns + max((sum(own) for own in work.values()), default=0)
        local_work = {w: [prefill_ns(instance, w, n) for n in tokens[i]] for w in mains}
        pt = model.new_int_var(0, max(most, *(sum(own) for own in local_work.values())), "")
        z = [model.new_int_var(0, most, "") for _ in replicas]
        for w in mains:
            model.add(pt >= total([a * (1 - r[k]) for k, a in enumerate(local_work[w])])).only_enforce_if(m[w])  # (4)
        for j in replicas:
            model.add(pt >= z[j])
            for y in specs:  # (5)
                busy = platform.invoke_ns * f[j] + total([a * q[i, k, j] for k, a in enumerate(work[y])])
                model.add(z[j] >= busy).only_enforce_if(s[i, y])
            passed = total([token * n * q[i, k, j] for k, n in enumerate(tokens[i])])
            model.add(passed <= platform.payload_bytes)  # (9)
        every = []
        slowest = max(*(instance.specs[w].decode_ns for w in mains), *each.values(), 0)
        for members, count in instance.rows[i].pairs():  # (6)
            t = model.new_int_var(0, len(members) * slowest, "")
            far = total([r[k] for k in members])
            for w in mains:
                model.add(t >= instance.specs[w].decode_ns * (len(members) - far)).only_enforce_if(m[w])
            for y in specs:
                model.add(t >= each[y] * far).only_enforce_if(s[i, y])
            every.append(count * t)
        d = model.new_int_var(0, sum(decoded[i]) * max(each.values(), default=0), "")
        c = model.new_int_var(0, ceiling, "")
        for y in specs:
            model.add(d >= total([each[y] * n * r[k] for k, n in enumerate(decoded[i])])).only_enforce_if(s[i, y])
            price = platform.cpu_price * instance.specs[y].mb
            model.add(c >= total([price * own for own in (*z, d)])).only_enforce_if(s[i, y])  # (8)
            need = total([(size + token * n) * r[k] for k, n in enumerate(tokens[i])])
            model.add(need <= MB * instance.specs[y].mb).only_enforce_if(s[i, y])  # (9)
        first_fixed = platform.other_prefill_ns[i] + platform.switch_prefill_ns
        every_fixed = instance.request.tokens_out * (platform.other_decode_ns[i] + platform.switch_decode_ns)
        times.append((pt + first_fixed, total(every) + every_fixed))
        costs.append(c)
        local += total([size * (1 - r[k]) for k in experts])
    c0 = model.new_int_var(0, ceiling, "")
    for w in mains:
        spent = total([main_price(instance, w) * (a + b) for a, b in times])
        model.add(c0 >= spent).only_enforce_if(m[w])  # (8)
        model.add(local <= local_room(instance, w)).only_enforce_if(m[w])  # (9)
    first, last = total([a for a, _ in times]), total([b for _, b in times])
    model.add(first <= min(prefill_budget(instance), LARGEST))  # (9)
    model.add(last <= min(decode_budget(instance), LARGEST))
    model.maximize(-c0 - total(costs))  # (1)
    return DeploymentModel(model, m, s, q)
