"""Measurements behind the defaults and the tables: `python -m benchmarks.NAME`."""
