"""Caching instances made from shared sources: assembled, generated in suites, imported from routing traces.

The sources themselves (architectures, places, routing, readers of traces) are in :mod:`moeplace.scenarios`.
"""
