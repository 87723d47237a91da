"""The methods: each a function of an instance that returns a placement, or an outcome with a bound.

A module says what its method takes and in which order pieces run; what two methods share is in
``heuristics`` and ``bounds``.
"""
