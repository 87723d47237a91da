"""Caching: where the experts of Mixture-of-Experts models are held on edge servers."""
