"""Formulations of the problem of active experts."""
