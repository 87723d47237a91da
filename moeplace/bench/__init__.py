"""Running methods over suites of instances, each run in a process of its own, and keeping what came of it.

What the records mean (statistics, tables, pictures) is in :mod:`moeplace.report`.
"""
