"""Where instances come from: generated, or imported from routing traces."""
