"""``python -m moeplace``: the same as the command ``moeplace``."""

from moeplace.cli import console

if __name__ == "__main__":
    console()
