"""The methods: each a function of an instance that returns a deployment, or an outcome with a bound.

What two methods share is in ``heuristics`` and ``bounds``.
"""
