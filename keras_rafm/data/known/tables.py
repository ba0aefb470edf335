"""Tables of the further fields of users and items."""

from __future__ import annotations

from collections.abc import Iterable

from keras_rafm.data.known.sources import Source


class Codes(dict[str, int]):
    """Numbers strings in the order in which they are first looked up."""

    def __missing__(self, key: str) -> int:
        self[key] = len(self)
        return self[key]


class Table(dict[str, str]):
    """The further fields of each key, each preceded by a tab.

    Args:
        source: The file of the fields, for errors.
        what: The kind of key, such as `"user"`, for errors.
        rows: Key and fields of each row.

    Raises:
        ValueError: A field has a tab or a line break, or a key is repeated with other fields. Looking up an unknown key
            raises it too.
    """

    def __init__(self, source: Source, what: str, rows: Iterable[tuple[str, list[str]]]) -> None:
        super().__init__()
        self._source, self._what = source, what
        for key, fields in rows:
            text = "".join("\t" + field for field in fields)
            if text.count("\t") != len(fields) or "\n" in text or "\r" in text:
                raise ValueError(
                    f"{source.name}: fields must not contain tabs or line breaks. Received: {fields} of {what} {key!r}"
                )
            if self.setdefault(key, text) != text:
                raise ValueError(f"{source.name}: {what} {key!r} must occur in one row only. Received: several rows")

    def __missing__(self, key: str) -> str:
        raise ValueError(f"{self._source.name}: {self._what} {key!r} is missing, but occurs in the ratings")
