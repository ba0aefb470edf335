"""Small tables beside the examples: what is known of a user or an item."""

from __future__ import annotations

from collections.abc import Iterable

from keras_rafm.data.known.sources import Source


class Codes(dict[str, int]):
    """Numbers strings in the order in which they are first asked for."""

    def __missing__(self, key: str) -> int:
        self[key] = len(self)
        return self[key]


class Table(dict[str, str]):
    """Further fields by key, each with a tab before it.

    Args:
        source: What the fields are from.
        what: What a key is called, such as `"user"`.
        rows: Key and fields.

    Raises:
        ValueError: A field has a tab or a line break in it, or a key is there twice with other fields; when asked for a
            key, that there is no such one.
    """

    def __init__(self, source: Source, what: str, rows: Iterable[tuple[str, list[str]]]) -> None:
        super().__init__()
        self._source, self._what = source, what
        for key, fields in rows:
            text = "".join("\t" + field for field in fields)
            if text.count("\t") != len(fields) or "\n" in text or "\r" in text:
                raise ValueError(
                    f"{source.name}: fields must have no tabs and line breaks. Received: {fields} of {what} {key!r}"
                )
            if self.setdefault(key, text) != text:
                raise ValueError(f"{source.name}: {what} {key!r} must be there once. Received several rows of it")

    def __missing__(self, key: str) -> str:
        raise ValueError(f"{self._source.name}: there is no {self._what} {key!r}, of which there are examples")
