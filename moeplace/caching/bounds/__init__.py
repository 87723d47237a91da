"""Upper bounds on the saving of every placement, and what proves them.

:mod:`~moeplace.caching.bounds.concave` needs no solver and writes certificates; its search solves a
:mod:`~moeplace.caching.bounds.cut_program`. :mod:`~moeplace.caching.bounds.layer_oracle` bounds and enumerates one
layer at prices of storage; :mod:`~moeplace.layers.merging` puts the layers' plans together.
"""
