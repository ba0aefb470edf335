"""Columns of a `Schema`."""
