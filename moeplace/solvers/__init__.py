"""Solver adapters: each takes an algebraic model and a search, and improves the search's incumbent and bound."""
