"""The exact cost of a deployment (V1) to (V3), and whether it is within the limits (V4).

Write w for the main function's specification, R for the remote experts of a layer, y for their specification, R_1 ..
R_z for their replicas, ``link(n) = ceil(n * token_bytes * 10^9 / link_bytes_per_s)``, ``P_v(n)`` for one expert's time
for n prompt tokens at specification v (0 for none) and ``g_v`` for its time for an output token::

    PT_l = other_prefill + switch_prefill + max( sum over local k of P_w(N_k),  max_j Z_j )
           with  Z_j = invoke + sum over k in R_j of (P_y(N_k) + 2 link(N_k))                                       (V1)
    GT_l = sum over rows (S,c) of  c * ( other_decode + switch_decode
                                         + max( |S - R| g_w,  |S & R| (g_y + 2 link(1) + invoke) ) )                (V2)
    cost = (PT + GT) (gpu_price gpu_mb + cpu_price mb_w)
           + cpu_price * sum over l of mb_y ( sum_j Z_j + sum of c |S & R| (g_y + 2 link(1) + invoke) )             (V3)

    cold + PT <= ttft;   GT <= tpot * tokens_out;
    10^6 main_mb + bytes of local experts + token_bytes * tokens_out <= 10^6 mb_w;
    bytes of remote experts + token_bytes * their prefill tokens <= 10^6 mb_y for every layer;
    token_bytes * prefill tokens of a replica <= payload;   z <= most_replicas                                      (V4)

All in Python's integers. Source: Remoe (arXiv 2512.18674), equations (2), (3) and (5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moeplace.base.text import number
from moeplace.serverless.document import MB, Deployment, LayerChoice
from moeplace.serverless.instance import Instance, link_ns


def link(instance: Instance, tokens: int) -> int:
    """Return ``link(n)``, ns."""
    return link_ns(instance.model.token_bytes, instance.platform.link_bytes_per_s, tokens)


def prefill_ns(instance: Instance, spec: int, tokens: int) -> int:
    """Return ``P_v(n)``, ns."""
    own = instance.specs[spec]
    return own.prefill_ns + tokens * own.prefill_ns_per_token if tokens else 0


def remote_prefill_ns(instance: Instance, spec: int, tokens: int) -> int:
    """Return what one remote expert adds to its replica's ``Z_j``, ns."""
    return prefill_ns(instance, spec, tokens) + 2 * link(instance, tokens)


def remote_decode_ns(instance: Instance, spec: int) -> int:
    """Return what one remote expert adds to one output token, ns."""
    return instance.specs[spec].decode_ns + 2 * link(instance, 1) + instance.platform.invoke_ns


def main_price(instance: Instance, spec: int) -> int:
    """Return ``gpu_price gpu_mb + cpu_price mb_w``, price units per ns."""
    platform = instance.platform
    return platform.gpu_price * platform.gpu_mb + platform.cpu_price * instance.specs[spec].mb


def local_room(instance: Instance, spec: int) -> int:
    """Return the bytes that a main function has for local experts; below 0 where nothing fits at all."""
    fixed = MB * instance.platform.main_mb + instance.model.token_bytes * instance.request.tokens_out
    return MB * instance.specs[spec].mb - fixed


def prefill_budget(instance: Instance) -> int:
    """Return the ns that the sum of all ``PT_l`` may have; below 0 where the cold start is too long already."""
    return instance.limits.ttft_ns - instance.platform.cold_ns


def decode_budget(instance: Instance) -> int:
    """Return the ns that the sum of all ``GT_l`` may have."""
    return instance.limits.tpot_ns * instance.request.tokens_out


@dataclass(frozen=True)
class Evaluation:
    """What a deployment comes to.

    Attributes
    ----------
    prefill_ns, decode_ns : list of int
        ``PT_l`` and ``GT_l`` of each layer.
    remote_cost : list of int
        What each layer's remote function costs, price units.
    cost : int
        (V3), price units.
    local_bytes : int
        Of the local experts.
    """

    prefill_ns: list[int]
    decode_ns: list[int]
    remote_cost: list[int]
    cost: int
    local_bytes: int

    def ttft_ns(self, instance: Instance) -> int:
        """Return the time to the first token, ns."""
        return instance.platform.cold_ns + sum(self.prefill_ns)

    def tpot_ns(self, instance: Instance) -> int:
        """Return the time per output token, ns, rounded up."""
        return -(-sum(self.decode_ns) // instance.request.tokens_out)


def evaluate(instance: Instance, deployment: Deployment) -> Evaluation:
    """Return what a deployment comes to; its indices must be the instance's."""
    main, prefill, decode, remote, held = deployment.main_spec, [], [], [], 0
    for layer, choice in enumerate(deployment.layers):
        spent = layer_times(instance, layer, main, choice)
        prefill.append(spent[0])
        decode.append(spent[1])
        remote.append(spent[2])
        held += instance.experts - sum(map(len, choice.replicas))
    cost = (sum(prefill) + sum(decode)) * main_price(instance, main) + sum(remote)
    return Evaluation(prefill, decode, remote, cost, held * instance.model.expert_bytes)


def layer_times(instance: Instance, layer: int, main: int, choice: LayerChoice) -> tuple[int, int, int]:
    """Return ``PT_l`` and ``GT_l`` (V1), (V2), ns, and what the layer's remote function costs (V3), price units."""
    platform, tokens = instance.platform, instance.prefill[layer].tolist()
    remote = {k for replica in choice.replicas for k in replica}
    local = sum(prefill_ns(instance, main, n) for k, n in enumerate(tokens) if k not in remote)
    z, each = [], 0
    if choice.spec is not None:
        each = remote_decode_ns(instance, choice.spec)
        for replica in choice.replicas:
            own = (remote_prefill_ns(instance, choice.spec, tokens[k]) for k in replica)
            z.append(platform.invoke_ns + sum(own))
    pt = platform.other_prefill_ns[layer] + platform.switch_prefill_ns + max(local, *z, 0)
    gt, busy, g = 0, sum(z), instance.specs[main].decode_ns
    for experts, count in instance.rows[layer].pairs():
        far = len(remote.intersection(experts))
        fixed = platform.other_decode_ns[layer] + platform.switch_decode_ns
        gt += count * (fixed + max((len(experts) - far) * g, far * each))
        busy += count * far * each
    mb = 0 if choice.spec is None else instance.specs[choice.spec].mb
    return pt, gt, platform.cpu_price * mb * busy


def cost(instance: Instance, deployment: Deployment) -> int:
    """Return the exact cost of a deployment, price units."""
    return evaluate(instance, deployment).cost


def refuses(instance: Instance, deployment: Deployment) -> str | None:
    """Say why a deployment is not allowed, or return None."""
    return _wrong_shape(instance, deployment) or next(iter(_over_limits(instance, deployment)), None)


def _wrong_shape(instance: Instance, deployment: Deployment) -> str | None:
    if deployment.main_spec not in instance.main_specs:
        return f"the main function cannot have the specification {deployment.main_spec}"
    if len(deployment.layers) != instance.layers:
        return f"it has {number(len(deployment.layers), 'layer')}, not {instance.layers}"
    for layer, choice in enumerate(deployment.layers):
        experts = [k for replica in choice.replicas for k in replica]
        if (choice.spec is None) != (not choice.replicas):
            return f"layer {layer} has remote experts without a specification, or the other way round"
        if choice.spec is not None and choice.spec not in instance.remote_specs:
            return f"remote experts of layer {layer} cannot have the specification {choice.spec}"
        if not all(choice.replicas) or len(set(experts)) < len(experts) or max(experts, default=0) >= instance.experts:
            return f"the replicas of layer {layer} are no partition of some of its experts"
    return None


def _over_limits(instance: Instance, deployment: Deployment) -> list[str]:
    spent, model, platform = evaluate(instance, deployment), instance.model, instance.platform
    asked: list[tuple[str, int, int]] = [
        ("the time to first token", spent.ttft_ns(instance), instance.limits.ttft_ns),
        ("the time of all output tokens", sum(spent.decode_ns), decode_budget(instance)),
        ("the bytes of local experts", spent.local_bytes, local_room(instance, deployment.main_spec)),
    ]
    for layer, choice in enumerate(deployment.layers):
        if choice.spec is not None:
            tokens = [sum(int(instance.prefill[layer, k]) for k in replica) for replica in choice.replicas]
            count = sum(map(len, choice.replicas))
            need = model.expert_bytes * count + model.token_bytes * sum(tokens)
            asked += [
                (f"the remote memory of layer {layer}", need, MB * instance.specs[choice.spec].mb),
                (f"the payload of layer {layer}", model.token_bytes * max(tokens), platform.payload_bytes),
                (f"the replicas of layer {layer}", len(choice.replicas), platform.most_replicas),
            ]
    return [f"{what}: {found:,} of {most:,}, {found - most:,} above it" for what, found, most in asked if found > most]


def all_local(instance: Instance, main: int) -> Deployment:
    """Return the deployment without remote experts."""
    return Deployment.of(main, [(None, [])] * instance.layers)


def best_all_local(instance: Instance) -> Deployment | None:
    """Return the cheapest deployment without remote experts that is within the limits, or None."""
    made = (all_local(instance, main) for main in instance.main_specs)
    fitting = [deployment for deployment in made if refuses(instance, deployment) is None]
    return min(fitting, key=lambda deployment: cost(instance, deployment), default=None)


def reference(instance: Instance) -> int | None:
    """Return what everything local costs at its best specification, or None where that is not within the limits."""
    best = best_all_local(instance)
    return None if best is None else cost(instance, best)


def numbers(instance: Instance, deployment: Deployment) -> dict[str, int]:
    """Return the times that a solution says beside its cost."""
    spent = evaluate(instance, deployment)
    return {"ttft_ns": spent.ttft_ns(instance), "tpot_ns": spent.tpot_ns(instance)}


def largest_times(instance: Instance) -> tuple[int, int]:
    """Return what no deployment's times exceed, both together, ns: what is fixed, and what experts take."""
    model, platform = instance.model, instance.platform
    fixed = [
        a + platform.switch_prefill_ns + instance.request.tokens_out * (b + platform.switch_decode_ns)
        for a, b in zip(platform.other_prefill_ns, platform.other_decode_ns, strict=True)
    ]
    specs: Sequence[int] = sorted({*instance.main_specs, *instance.remote_specs})
    busy = 0
    for layer in range(instance.layers):
        own = [max(remote_prefill_ns(instance, v, n) for v in specs) for n in instance.prefill[layer].tolist()]
        decode = int(instance.decoded[layer].sum()) * max(remote_decode_ns(instance, v) for v in specs)
        busy += sum(own) + decode + platform.invoke_ns * min(platform.most_replicas, model.experts)
    return sum(fixed), busy


def largest_cost(instance: Instance) -> int:
    """Return more than any deployment costs, price units."""
    fixed, busy = largest_times(instance)
    dearest = max(main_price(instance, v) for v in instance.main_specs)
    remote = instance.platform.cpu_price * max((instance.specs[v].mb for v in instance.remote_specs), default=0)
    return (fixed + busy) * dearest + busy * remote + 1


def why_infeasible(instance: Instance) -> str:
    """Say which limit fails by how much with everything local at the largest specification."""
    largest = instance.main_specs[-1]
    over = _over_limits(instance, all_local(instance, largest))
    said = f"with everything local at the largest specification ({instance.specs[largest].mb:,} MB)"
    return f"{said} {'; '.join(over)}"
