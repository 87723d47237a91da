"""What machine and what software a benchmark ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from moeplace.bench.records import Environment

PACKAGES = ("moeplace", "numpy", "scipy", "numba", "pyomo", "highspy", "ortools", "distributed")
"""Whose versions are recorded, where they are installed."""


def cores() -> int:
    """Return how many logical cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def capture(workers: int, scheduler: str | None = None) -> Environment:
    """Describe this machine, its load and the installed software."""
    commit, dirty = _commit()
    return Environment(
        machine=platform.machine(),
        cpu=_cpu(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cores=cores(),
        memory_bytes=psutil.virtual_memory().total,
        versions=_versions(),
        commit=commit,
        dirty=dirty,
        workers=workers,
        scheduler=scheduler,
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def differences(first: Environment, other: Environment) -> list[str]:
    """Say in what two environments differ that may change a result or a time."""
    result = []
    for name in ("machine", "cpu", "system", "python", "cores", "memory_bytes", "versions", "commit", "dirty"):
        here, there = getattr(first, name), getattr(other, name)
        if name == "versions":
            for package in sorted(here.keys() | there.keys()):
                if here.get(package) != there.get(package):
                    result.append(f"{package} {here.get(package)}, now {there.get(package)}")
        elif here != there:
            result.append(f"{name} {here}, now {there}")
    if (first.workers, first.scheduler) != (other.workers, other.scheduler):
        result.append(f"{first.workers} workers, now {other.workers}")
    return result


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _commit() -> tuple[str | None, bool | None]:
    """Return the commit of the checkout this package is in, and whether it had uncommitted changes."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    # Else "status" writes the index anew, and a harness that is killed then leaves its lock in the repository.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
