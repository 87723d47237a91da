"""Running methods over suites of instances, each run in a process of its own, and keeping what came of it."""
