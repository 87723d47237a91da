"""``python -m moeplace``: the same as the command ``moeplace``."""

import sys

from moeplace.cli import main

if __name__ == "__main__":
    sys.exit(main())
