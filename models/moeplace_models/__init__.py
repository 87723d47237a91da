"""The algebraic formulations: one readable file a model, equations numbered.

Each file states variables, constraints and objective of one formulation and nothing else; solving is the
business of ``moeplace.solvers``. Imports go one way, from here to ``moeplace``.
"""
