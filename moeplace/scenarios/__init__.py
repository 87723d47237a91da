"""Where instances come from: architectures, topologies, routing generated or read from traces, and their assembly."""
