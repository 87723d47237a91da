"""Caching: where the experts of Mixture-of-Experts models are held on edge servers.

What only this problem knows: its documents, evaluation, checker, saving form, terms and pictures. Running any method,
solvers and whatever two problems share are elsewhere.
"""
