"""Layers that meet only in shared budgets: oracles, prices, merging, proof. No problem is known here."""
