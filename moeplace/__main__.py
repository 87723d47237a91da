"""``python -m moeplace`` and the command ``moeplace``: ready to be interrupted before anything large is loaded."""

import gc
import sys

from moeplace.base.stop import INTERRUPTED, heed_from_the_start


def console() -> None:
    """Run the command of this process and end the process with its exit code."""
    asked = heed_from_the_start()
    # Modules make many objects, and all of them stay: looking through them again and again takes a tenth of the start.
    gc.set_threshold(50_000, 20, 20)
    try:
        from moeplace.cli import console as run
    except BaseException:
        if asked():
            sys.exit(INTERRUPTED)
        raise
    run()


if __name__ == "__main__":
    console()
