"""Lower bounds on the cost of a deployment, for one main specification and for all."""
