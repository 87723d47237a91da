"""Formulations of the serverless problem."""
