"""The methods: each a function of an instance that returns a placement, or an outcome with a bound."""
