"""The order in which tests begin."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what has to stay in one process, the longest of all: at the end all would wait for it."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
