"""The order in which tests begin, and which of them stay in one process."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest

# Before NumPy is loaded, here and in processes that tests start. There is a process a core already: BLAS's own threads
# wait for one another by turning in circles, and products of small matrices took up to 30 times the processor seconds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

TOGETHER = ("test_cluster.py", "test_report_page.py", "test_report.py")
"""Files whose tests stay in one process: they share a cluster, a browser, a report, which take long to make."""
ALONE = "test_the_site_builds_without_a_warning"
"""The longest test of the others."""
EARLY = (
    "test_bench.py", "test_notebooks.py", "test_docs.py", "test_bound_crossing.py", "test_tuning.py",
    "test_serverless_methods.py",
)  # fmt: skip
"""Files with long tests, and with tests that wait: while they do, the wheel is tried in ``scripts/test``."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run, with ``-n auto``, one process more than there are cores: tests wait for processes, clocks and a browser."""
    return (os.cpu_count() or 1) + 1


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

    def rank(item: pytest.Item) -> int:
        return 0 if item.path.name in TOGETHER or item.name == ALONE else 1 if item.path.name in EARLY else 2

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Have Python's collector leave alone what collecting the tests has loaded: nearly half a million objects.

    They stay to the end, and going through all of them again and again took 0.3 s each time.
    """
    gc.collect()
    gc.freeze()
