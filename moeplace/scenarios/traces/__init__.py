"""Routing traces in the forms that people have them."""
