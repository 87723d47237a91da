"""What the heuristics share: a placement under change, value functions and how they are merged."""
