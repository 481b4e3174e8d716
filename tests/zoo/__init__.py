"""Whole runs on networks of the kinds that people have: `pytest -m zoo`."""
