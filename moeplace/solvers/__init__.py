"""Adapters to HiGHS and CP-SAT: each takes a model and how its variables' values become a decision.

No problem is known here, and no formulation is written here: these are in ``moeplace_models``.
"""
