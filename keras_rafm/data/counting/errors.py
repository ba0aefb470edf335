"""The error of counting out of core."""


class DuckDBCountError(ValueError):
    """DuckDB could not count files, or not in the same way as this package's readers."""
