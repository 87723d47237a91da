"""Searches that methods share: they return deployments and prove nothing."""
