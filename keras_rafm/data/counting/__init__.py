"""Counts of values and features."""
