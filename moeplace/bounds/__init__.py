"""Upper bounds on the saving of every placement, and what proves them.

:mod:`~moeplace.bounds.concave` needs no solver and writes certificates; its search solves a
:mod:`~moeplace.bounds.cut_program`. :mod:`~moeplace.bounds.layer_oracle` bounds and enumerates one layer at prices of
storage; :mod:`~moeplace.layers.merging` puts the layers' plans together.
"""
