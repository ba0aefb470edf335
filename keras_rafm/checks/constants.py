"""Constants that the whole package shares."""

from __future__ import annotations

from typing import Final

#: The feature id of padding. An occurrence with this id contributes nothing to the score.
PADDING_ID: Final = -1
