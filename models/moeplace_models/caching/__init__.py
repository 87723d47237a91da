"""Formulations of the caching problem."""
