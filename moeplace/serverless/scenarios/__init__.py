"""Serverless instances made from shared sources: platforms with prices, generated and imported routing."""
