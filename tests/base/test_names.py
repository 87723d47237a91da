"""Names that documents of users import keep working, whatever moves inside."""

from __future__ import annotations

import importlib

import moeplace


def test_names_for_own_methods_are_found_in_all_their_places() -> None:
    places = {
        "stopping": ["moeplace.interrupt", "moeplace.base.stop"],
        "MethodInfo": ["moeplace.registry", "moeplace.base.registry"],
        "describe": ["moeplace.registry", "moeplace.base.registry"],
    }
    for name, modules in places.items():
        assert name in moeplace.__all__
        for module in modules:
            assert getattr(importlib.import_module(module), name) is getattr(moeplace, name), (module, name)
