"""How a step runs: its log, lock, fingerprint and requests."""
