"""What can be proven of a joint instance: by layers, and where these are too many or too large, by concave bounds."""

from __future__ import annotations

from dataclasses import dataclass

from moeplace.base.incumbent import Incumbent
from moeplace.caching.bounds import joint_concave, joint_layers, proving
from moeplace.caching.bounds.joint_concave import JointConcave
from moeplace.caching.bounds.joint_layers import JointLayers, refuses
from moeplace.caching.heuristics.joint import JointForms
from moeplace.layers.oracle import Float


@dataclass(frozen=True)
class Tuning:
    """Which bound is proven when. Whatever the numbers are, bounds hold.

    Attributes
    ----------
    exact_experts : int
        Most experts of a layer that is priced exactly.
    layers : moeplace.caching.bounds.joint_layers.Tuning
    concave : moeplace.caching.bounds.joint_concave.Tuning
    """

    exact_experts: int = proving.USUAL.exact_experts
    layers: joint_layers.Tuning = joint_layers.USUAL
    concave: joint_concave.Tuning = joint_concave.USUAL


USUAL = Tuning()
"""What is used unless something else is asked for."""


class JointProving:
    """The proof of a joint instance, and the prices that it has come to.

    Parameters
    ----------
    forms : JointForms
    search : Incumbent
        Receives bounds and placements with their active experts.
    tuning : Tuning
    """

    def __init__(self, forms: JointForms, search: Incumbent, tuning: Tuning = USUAL) -> None:
        self.forms, self.search, self.tuning = forms, search, tuning
        self.by_layers = refuses(forms, tuning.layers) is None
        self._layers: JointLayers | None = None
        self._concave: JointConcave | None = None

    @property
    def exact(self) -> bool:
        """Whether all layers are small enough to be priced exactly."""
        most = max((model.experts for model in self.forms.instance.models), default=0)
        return self.by_layers and most <= self.tuning.exact_experts

    def prices(self) -> Float | None:
        """Return the best prices known of a byte on each server and of a unit of loss, token-ns, or None."""
        running = self._layers or self._concave
        return None if running is None else running.prices()

    def run(self, threads: int) -> None:
        """Prove what can be proven."""
        if self.by_layers:
            self._layers = JointLayers(self.forms, self.search, threads, self.tuning.layers)
            self._layers.proof().run()
        else:
            self._concave = JointConcave(self.forms, self.search, threads, self.tuning.concave)
            self._concave.run()
