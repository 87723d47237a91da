"""Active experts: how many experts each layer of a Mixture-of-Experts model uses, (E1) and (E2) of docs/active.md.

What only this problem knows: its documents, costs, checker and verifier, the exact front, heuristics, formulations
given to solvers, and instances from rooflines. Running any method and whatever two problems share are elsewhere.
"""
