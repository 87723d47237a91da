"""Runs looked at: statistics, tables, pictures and one page of what the harness recorded.

:mod:`~moeplace.report.collect` reads run directories, :mod:`~moeplace.report.statistics` holds every formula (each
explained in docs/reporting.md), the other modules only show what these two say.
"""
