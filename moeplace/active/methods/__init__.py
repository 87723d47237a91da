"""The methods: each a function of an instance that returns a choice, or an outcome with a bound."""
