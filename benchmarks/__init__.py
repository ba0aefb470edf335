"""Measurements behind the defaults and the tables of `benchmarks/README.md`: `python -m benchmarks.NAME`."""
