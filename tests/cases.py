"""What tests of every kind share: many cases of one test, and how long others are waited for."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
REALDATA = Path(os.environ.get("MOEPLACE_REALDATA", ROOT.parent / "shared" / "realdata"))
"""Real traces and networks, which are not part of the project; tests that need them are skipped without."""

PATIENCE_S = 240
"""Most that another process is waited for: it ends a test that would never end, and no test depends on it."""


def looped(name: str, values: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test for each value of an argument, as one test; a failure notes which value it was.

    For cases that differ in a number only: each case of ``pytest.mark.parametrize`` costs more in pytest than most of
    ours take. What a fixture gives is the same for all values, so a test that writes files must name them anew.
    """
    values = list(values)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        others = [parameter for parameter in signature.parameters.values() if parameter.name != name]

        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            for value in values:
                try:
                    test(*args, **{**kwargs, name: value})
                except BaseException as error:
                    error.add_note(f"with {name} = {value!r}")
                    raise

        # Pytest reads from it which fixtures and parameters a test takes.
        run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return run

    if not values:
        raise ValueError(f"no values for {name}: the test would pass without having run")
    return decorate
