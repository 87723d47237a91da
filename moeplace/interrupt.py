"""Where ``stopping`` was at first; ``from moeplace import stopping`` is the way to it now."""

from moeplace.base.stop import stopping

__all__ = ["stopping"]
