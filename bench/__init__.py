"""Measurements: each module is a command that prints its result as one JSON line last."""
