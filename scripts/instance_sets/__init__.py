"""How the shipped instance sets are made; ``scripts/build_instances.py`` runs it."""
