"""Gzip files that are damaged in different ways."""

DAMAGES = ("truncated", "header only", "checksum", "contents", "trailing")


def damaged_gzip(packed: bytes, damage: str) -> bytes:
    """Return a gzip file of at least 1,200 bytes with one of the `DAMAGES`."""
    return {
        "truncated": packed[: len(packed) // 2],
        "header only": packed[:5],
        "checksum": packed[:-8] + bytes(8),
        "contents": packed[:1000] + bytes(100) + packed[1100:],
        "trailing": packed + b"something else",
    }[damage]
