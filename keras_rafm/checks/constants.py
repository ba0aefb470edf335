"""Constants that every room shares."""

from __future__ import annotations

from typing import Final

#: The feature id of padding: such an occurrence contributes nothing.
PADDING_ID: Final = -1
