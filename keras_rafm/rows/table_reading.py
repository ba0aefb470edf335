"""The ways in which training reads a table.

An optimizer needs to know them: a row of zeros in a gradient belongs to an idle row if the table is read by rows, but not
if it is read whole. A `RaFMLayer` declares them for its tables when it is built, and again when it makes a graph that reads
tables in another way.
"""

from __future__ import annotations

import enum


class TableReading(enum.Enum):
    """How training reads a variable that holds one row per feature."""

    #: The variable is not a table of a `RaFMLayer`. A sparse gradient holds the rows in the batch, perhaps repeatedly.
    UNKNOWN = "unknown"
    #: Only the rows in the batch. In a dense gradient, as on several replicas, rows of zeros were not read.
    BY_ROWS = "by rows"
    #: The rows in the batch and all rows of the head. A sparse gradient may hold rows of zeros, which the batch does not
    #: read: the table covers more slots than the head, whose other tables are read whole.
    BY_ROWS_WITH_HEAD = "by rows, with the head"
    #: The whole table, in the present graph. Another graph of the same layer may read it by rows.
    WHOLE = "whole"
    #: The whole table, in every graph.
    ALWAYS_WHOLE = "always whole"

    @property
    def is_whole(self) -> bool:
        """Whether training reads the whole table, so that the table has no idle rows."""
        return self in (TableReading.WHOLE, TableReading.ALWAYS_WHOLE)

    @property
    def is_by_rows(self) -> bool:
        """Whether training reads only some rows, so that a row of zeros in a gradient may be an idle row."""
        return self in (TableReading.BY_ROWS, TableReading.BY_ROWS_WITH_HEAD)
