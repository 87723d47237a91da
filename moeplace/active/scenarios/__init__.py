"""Instances of active experts made from shared sources: rooflines, generated and imported routing.

The sources themselves (architectures, hardware, routing, readers of traces) are in :mod:`moeplace.scenarios`.
"""
