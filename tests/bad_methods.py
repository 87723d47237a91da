"""Methods that misbehave, each in one way, for the tests of the harness; found as ``bad_methods:name``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import moeplace.caching.evaluation
import moeplace.caching.placement
from moeplace import Instance, Outcome, Placement, Progress
from moeplace.caching.methods.baselines import popular


def segfault(instance: Instance, **options: Any) -> Placement:
    """Read memory that is nobody's."""
    import ctypes

    print("about to crash", flush=True)
    ctypes.string_at(0)
    return Placement.empty(instance)


def leave(instance: Instance, **options: Any) -> Placement:
    """End the process."""
    os._exit(3)


def hang(instance: Instance, **options: Any) -> Placement:
    """Go on for ever, whatever signal comes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    options["progress"](Progress(0.0, instance.baseline_ns))
    while True:
        time.sleep(1)


def late(instance: Instance, **options: Any) -> Placement:
    """Go on past the limit; end when asked to."""
    from moeplace.base.stop import stopping

    with stopping() as stop:  # of the time limit it knows nothing
        while not stop:
            time.sleep(0.01)
    return Placement.empty(instance)


def eat(instance: Instance, **options: Any) -> Placement:
    """Take more and more memory."""
    eaten = []
    while True:
        eaten.append(np.ones(4_000_000))
        time.sleep(0.001)


def eat_at_once(instance: Instance, **options: Any) -> Placement:
    """Ask for more memory than any machine has."""
    return Placement(np.ones((1 << 40, 1 << 20), dtype=np.bool_))


def eat_elsewhere(instance: Instance, **options: Any) -> Placement:
    """Let another process take the memory."""
    code = "a = []\nimport time\nwhile True:\n a.append(bytearray(30_000_000)); time.sleep(0.005)"
    subprocess.run([sys.executable, "-c", code], check=False)
    return Placement.empty(instance)


def leave_a_child(instance: Instance, *, where: str, **options: Any) -> Placement:
    """Start a process in a session of its own and do not wait for it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(where).write_text(str(child.pid))
    return Placement.empty(instance)


def leave_a_child_and_kill_the_worker(instance: Instance, *, where: str, **options: Any) -> Placement:
    """Start a process that outlives this one, then kill the worker that would end it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with Path(where).open("a") as file:
        file.write(f"{child.pid}\n")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)  # it is killed long before
    return Placement.empty(instance)


def overfull(instance: Instance, **options: Any) -> Placement:
    """Return everything everywhere."""
    return Placement(np.ones((len(instance.servers), instance.n_items), dtype=np.bool_))


class Persuasive(Placement):
    """A placement that says of itself that it fits."""

    def overfull(self, instance: Instance) -> list[tuple[int, int]]:
        return []


def persuasive(instance: Instance, **options: Any) -> Placement:
    """Return everything everywhere in a way that passes the checks in this process."""
    return Persuasive(np.ones((len(instance.servers), instance.n_items), dtype=np.bool_))


def cheap(instance: Instance, **options: Any) -> Placement:
    """Replace the evaluator of this process by a friendlier one."""
    moeplace.caching.evaluation.latency_ns = lambda instance, placement: 1
    return Placement.empty(instance)


def boastful(instance: Instance, **options: Any) -> Placement:
    """Report a better placement than it returns."""
    options["progress"](Progress(0.0, 1))
    return Placement.empty(instance)


def tamper(instance: Instance, **options: Any) -> Placement:
    """Change the instance so that everything costs nothing."""
    for array in (instance.cloud_ns, instance.server_ns):
        array.setflags(write=True)
        array[:] = 0
    return Placement.empty(instance)


def claim(instance: Instance, **options: Any) -> Outcome:
    """Call empty servers optimal."""
    bound = instance.baseline_ns
    return Outcome(Placement.empty(instance), bound_ns=bound, bound_source="a claim")


def claim_more(instance: Instance, **options: Any) -> Outcome:
    """Claim a bound above the placement's own cost."""
    return Outcome(Placement.empty(instance), bound_ns=instance.baseline_ns + 1, bound_source="a claim")


def claim_on_the_way(instance: Instance, **options: Any) -> Outcome:
    """Claim it in progress only."""
    options["progress"](Progress(0.0, None, instance.baseline_ns + 1))
    return popular(instance, **options)


def claim_optimal(instance: Instance, **options: Any) -> Outcome:
    """Call a placement optimal and prove nothing."""
    return Outcome(Placement.empty(instance), termination="optimal")


def forge(instance: Instance, **options: Any) -> Placement:
    """Write on every file that is open."""
    for fd in range(3, 64):
        try:
            os.write(fd, b"\x00" * 7 + b"\x08" + b"\xffrubbish")
        except OSError:
            continue
    time.sleep(600)  # it is killed long before
    return Placement.empty(instance)


def suicide(instance: Instance, **options: Any) -> Placement:
    """Kill the own process, as the kernel would for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return Placement.empty(instance)


def patricide(instance: Instance, **options: Any) -> Placement:
    """Kill the worker."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)  # it is killed long before
    return Placement.empty(instance)


def broken(instance: Instance, **options: Any) -> Placement:
    """Fail."""
    raise RuntimeError("two\nlines")


def nap(
    instance: Instance,
    *,
    time_limit: float | None,
    seed: int,
    threads: int,
    start: Placement | None,
    progress: Any,
    seconds: float = 0.05,
) -> Outcome:
    """Sleep, then do as ``popular``."""
    time.sleep(seconds)
    options = {"time_limit": None, "threads": threads, "start": start, "progress": None}
    return popular(instance, seed=seed, **options)  # type: ignore[arg-type]
