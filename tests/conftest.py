"""The order in which tests begin, and which of them stay in one process."""

from __future__ import annotations

from typing import Any

import pytest

TOGETHER = ("test_cluster.py", "test_report_page.py", "test_report.py")
"""Files whose tests stay in one process: they share a cluster, a browser, a report, which take long to make."""
ALONE = "test_the_site_builds_without_a_warning"
"""The longest test of the others."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give out files in TOGETHER as a whole and all other tests one by one.

    Not by marks of groups: pytest-xdist 3.8 writes them into the tests' ids, which pytest from 9.2 on does not heed.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith(TOGETHER) else nodeid

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: at the end all would wait for it."""
    items.sort(key=lambda item: item.path.name not in TOGETHER and item.name != ALONE)
