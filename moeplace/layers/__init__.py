"""The engine of layers that meet only in shared budgets: oracles, prices, plans, merging, master, proof.

It knows no server, no byte and no problem: what a plan means, and how an incumbent is improved, is the problem's side.
"""
