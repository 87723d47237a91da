"""``milp``: deployments in Pyomo, with one main specification or all: (V1) to (V4) of the serverless problem.

Sets: layers ``l``, experts ``k``, main specifications ``w``, remote specifications ``y``, replicas ``j``, rows ``i`` of
a layer with experts ``S_i`` and ``c_i`` tokens.

Variables::

    x[l,k,y,j] in {0,1}   expert k is remote, in replica j, and the layer's specification is y
    u[l,y,j]   in {0,1}   replica j is there, and the layer's specification is y
    m[w]       in {0,1}   the main specification is w
    pt[l], t[l,i] >= 0    time of the prefill, and of one token of row i
    s[w] >= 0             what the main function runs if its specification is w, else nothing

Model, with ``r[l,k] = sum_{y,j} x[l,k,y,j]``, ``a[l,k,y] = P_y(N_k) + 2 link(N_k)`` and ``h_y = g_y + 2 link(1) +
invoke``::

    minimise  sum_w H_w s[w]
              + cpu_price sum_{l,y,j} mb_y ( invoke u[l,y,j] + sum_k (a[l,k,y] + D_k h_y) x[l,k,y,j] )             (1)
    sum_{y,j} x[l,k,y,j]  <=  1                                          for all l, k                              (2)
    x[l,k,y,j]  <=  u[l,y,j]  <=  sum_k x[l,k,y,j]                       for all l, k, y, j                        (3)
    sum_y u[l,y,j] <= 1;   u[l,y,j] <= u[l,y,j-1]                        for all l, y, j                           (4)
    sum_{y' /= y} u[l,y',1]  <=  1 - u[l,y,1]                            for all l, y (by (4) with j = 1)          (5)
    pt[l]  >=  other + switch + sum_k P_w(N_k) (1 - r[l,k])
               - (1 - m[w]) sum_k P_w(N_k)                               for all l, w                              (6)
    pt[l]  >=  other + switch + sum_y ( invoke u[l,y,j] + sum_k a[l,k,y] x[l,k,y,j] )     for all l, j             (7)
    t[l,i] >=  g_w (|S_i| - sum_{k in S_i} r[l,k]) - (1 - m[w]) g_w |S_i|                 for all l, i, w          (8)
    t[l,i] >=  sum_{k in S_i, y, j} h_y x[l,k,y,j]                       for all l, i                              (9)
    cold + sum_l pt[l]  <=  ttft                                                                                   (10)
    sum_{l,i} c_i (other_decode_l + switch_decode + t[l,i])  <=  tpot tokens_out                                   (11)
    10^6 main + expert_bytes sum_{l,k} (1 - r[l,k]) + token_bytes tokens_out
               <=  sum_w 10^6 mb_w m[w]                                                                            (12)
    sum_{k,j} (expert_bytes + token_bytes N_k) x[l,k,y,j]  <=  10^6 mb_y for all l, y                              (13)
    token_bytes sum_{k,y} N_k x[l,k,y,j]  <=  payload                    for all l, j                              (14)
    sum_w m[w] = 1;   s[w] <= T m[w], T the most it may be;                                                        (15)
    sum_w s[w]  =  sum_l (pt[l] + sum_i c_i (other_decode_l + switch_decode + t[l,i]))                             (16)

With one main specification ``m`` is 1 and ``s`` the sum of (16), no variables.
"""

from __future__ import annotations

from typing import Any

import pyomo.environ as pyo

from moeplace.serverless.cost import (
    decode_budget,
    local_room,
    main_price,
    prefill_budget,
    prefill_ns,
    remote_decode_ns,
    remote_prefill_ns,
)
from moeplace.serverless.document import MB
from moeplace.serverless.instance import Instance


def build(instance: Instance, main: int | None = None) -> Any:
    """Build the model of one main specification, or of all.

    Parameters
    ----------
    instance : Instance
    main : int, optional
        Index of the main function's specification; all of ``main_specs`` without.

    Returns
    -------
    pyomo.environ.ConcreteModel
        With ``x`` indexed by (layer, expert, specification, replica), and ``m`` by main specification where these are
        all in it.
    """
    mains = instance.main_specs if main is None else (main,)
    platform, size, token = instance.platform, instance.model.expert_bytes, instance.model.token_bytes
    layers, experts = range(instance.layers), range(instance.experts)
    specs = instance.remote_specs
    replicas = range(min(platform.most_replicas, instance.experts))
    tokens = instance.prefill.tolist()
    decoded = instance.decoded.tolist()
    rows = [list(own.pairs()) for own in instance.rows]
    g, each = {w: instance.specs[w].decode_ns for w in mains}, {y: remote_decode_ns(instance, y) for y in specs}
    local = {(w, i): [prefill_ns(instance, w, n) for n in tokens[i]] for w in mains for i in layers}
    work = {(i, k, y): remote_prefill_ns(instance, y, tokens[i][k]) for i in layers for k in experts for y in specs}
    base = [platform.other_prefill_ns[i] + platform.switch_prefill_ns for i in layers]
    here = [max(sum(local[w, i]) for w in mains) for i in layers]
    there = [max((sum(work[i, k, y] for k in experts) for y in specs), default=0) for i in layers]
    most = [base[i] + max(here[i], there[i]) + platform.invoke_ns for i in layers]
    longest = max(*g.values(), *each.values(), 0)

    model = pyo.ConcreteModel(name="milp")
    model.x = pyo.Var(layers, experts, specs, replicas, domain=pyo.Binary)
    model.u = pyo.Var(layers, specs, replicas, domain=pyo.Binary)
    model.pt = pyo.Var(layers, bounds=lambda _, i: (0, most[i]))
    indices = [(i, r) for i in layers for r in range(len(rows[i]))]
    model.t = pyo.Var(indices, bounds=lambda _, i, r: (0, len(rows[i][r][0]) * longest))
    x, u, pt, t = model.x, model.u, model.pt, model.t
    remote = {(i, k): pyo.quicksum(x[i, k, y, j] for y in specs for j in replicas) for i in layers for k in experts}
    fixed = sum(
        count * (platform.other_decode_ns[i] + platform.switch_decode_ns) for i in layers for _, count in rows[i]
    )
    every = fixed + pyo.quicksum(rows[i][r][1] * t[i, r] for i, r in indices)
    price = {w: main_price(instance, w) for w in mains}
    model.rules = pyo.ConstraintList()
    if main is None:
        runs = sum(most) + fixed + sum(rows[i][r][1] * len(rows[i][r][0]) * longest for i, r in indices)
        model.m = pyo.Var(mains, domain=pyo.Binary)
        model.s = pyo.Var(mains, bounds=(0, runs))
        m, spent = model.m, pyo.quicksum(price[w] * model.s[w] for w in mains)
        model.rules.add(pyo.quicksum(m[w] for w in mains) == 1)  # (15)
        for w in mains:
            model.rules.add(model.s[w] <= runs * m[w])  # (15)
        model.rules.add(pyo.quicksum(model.s[w] for w in mains) == pyo.quicksum(pt[i] for i in layers) + every)  # (16)
    else:
        m, paid = {main: 1}, price[main]
        spent = paid * fixed + pyo.quicksum(paid * pt[i] for i in layers)
        spent += pyo.quicksum(paid * rows[i][r][1] * t[i, r] for i, r in indices)

    model.cost = pyo.Objective(  # (1)
        expr=spent
        + pyo.quicksum(
            platform.cpu_price * instance.specs[y].mb * platform.invoke_ns * u[i, y, j]
            for i in layers for y in specs for j in replicas
        )
        + pyo.quicksum(
            platform.cpu_price * instance.specs[y].mb * (work[i, k, y] + decoded[i][k] * each[y]) * x[i, k, y, j]
            for i in layers for k in experts for y in specs for j in replicas
        )
    )  # fmt: skip
    for i in layers:
        for k in experts:
            if specs:
                model.rules.add(remote[i, k] <= 1)  # (2)
            for y in specs:
                for j in replicas:
                    model.rules.add(x[i, k, y, j] <= u[i, y, j])  # (3)
        for y in specs:
            for j in replicas:
                model.rules.add(u[i, y, j] <= pyo.quicksum(x[i, k, y, j] for k in experts))  # (3)
                if j:
                    model.rules.add(u[i, y, j] <= u[i, y, j - 1])  # (4)
            need = pyo.quicksum((size + token * tokens[i][k]) * x[i, k, y, j] for k in experts for j in replicas)
            model.rules.add(need <= MB * instance.specs[y].mb)  # (13)
        for j in replicas if specs else ():
            model.rules.add(pyo.quicksum(u[i, y, j] for y in specs) <= 1)  # (4), (5)
            busy = pyo.quicksum(
                platform.invoke_ns * u[i, y, j] + pyo.quicksum(work[i, k, y] * x[i, k, y, j] for k in experts)
                for y in specs
            )
            model.rules.add(pt[i] >= base[i] + busy)  # (7)
            passed = [token * tokens[i][k] * x[i, k, y, j] for k in experts for y in specs if tokens[i][k]]
            if passed:
                model.rules.add(pyo.quicksum(passed) <= platform.payload_bytes)  # (14)
        for w in mains:
            own = local[w, i]
            held = pyo.quicksum(own[k] * (1 - remote[i, k]) for k in experts) - sum(own) * (1 - m[w])
            model.rules.add(pt[i] >= base[i] + held)  # (6)
    for i, r in indices:
        members, _ = rows[i][r]
        for w in mains:
            near = len(members) * m[w] - pyo.quicksum(remote[i, k] for k in members)
            model.rules.add(t[i, r] >= g[w] * near)  # (8)
        if specs:
            far = pyo.quicksum(each[y] * x[i, k, y, j] for k in members for y in specs for j in replicas)
            model.rules.add(t[i, r] >= far)  # (9)
    model.rules.add(pyo.quicksum(pt[i] for i in layers) <= prefill_budget(instance))  # (10)
    model.rules.add(every <= decode_budget(instance))  # (11)
    held = pyo.quicksum(size * (1 - remote[i, k]) for i in layers for k in experts)
    if specs or main is None:
        model.rules.add(held <= pyo.quicksum(local_room(instance, w) * m[w] for w in mains))  # (12)
    return model
