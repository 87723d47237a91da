"""Where ``MethodInfo`` and ``describe`` were at first; ``from moeplace import describe`` is the way to them now."""

from moeplace.base.registry import MethodInfo, describe

__all__ = ["MethodInfo", "describe"]
