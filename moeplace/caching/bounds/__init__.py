"""Upper bounds on the saving of every placement, and what proves them; nothing here is a method.

:mod:`~moeplace.caching.bounds.concave` needs no solver and writes certificates; its search solves a
:mod:`~moeplace.caching.bounds.cut_program`. :mod:`~moeplace.caching.bounds.layer_oracle` bounds and enumerates one
layer at prices of storage; :mod:`~moeplace.caching.bounds.by_layers` gives layers, storage and incumbent to the engine
in :mod:`moeplace.layers`. :mod:`~moeplace.caching.bounds.independent` proves layers that share nothing one by one, with
what one server of a layer holds in :mod:`~moeplace.caching.bounds.server_oracle`.
:mod:`~moeplace.caching.bounds.proving` says which bound is proven when.
"""
