"""The commands `count` and `plan`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from keras_rafm.cli.checks import candidate_thresholds, schema_path
from keras_rafm.cli.commands.progress import bar
from keras_rafm.cli.commands.reading import skipped_rows
from keras_rafm.cli.commands.source import Source, source_of
from keras_rafm.cli.parser import settings_of
from keras_rafm.data import Schema
from keras_rafm.data.raw.errors import OnError
from keras_rafm.rank_plan import RankPlan


def count(parsed: argparse.Namespace) -> None:
    """Count training data, print the schema and its most frequent values, and write the schema."""
    settings = settings_of(parsed)
    source = source_of(settings, with_labels=False)
    with skipped_rows(settings.on_error) as on_error:
        adapt(source, on_error)
    source.schema.summary()
    if parsed.top > 0:
        print()
        for name in source.schema.columns:
            print(f"{name}: {_most_frequent(source.schema, name, parsed.top)}")
    if parsed.output:
        source.schema.save(parsed.output)
        print(f"\nthe schema is in {parsed.output}")


def plan(parsed: argparse.Namespace) -> None:
    """Print a rank plan, and a comparison of thresholds if several are given."""
    settings = settings_of(parsed)
    candidates = candidate_thresholds(parsed, settings)
    if parsed.schema is not None:
        schema = Schema.load(schema_path(Path(parsed.schema)))
    else:
        source = source_of(settings, with_labels=False)
        with skipped_rows(settings.on_error) as on_error:
            adapt(source, on_error)
        schema = source.schema
    RankPlan.from_counts(schema.counts, settings.ranks, settings.thresholds).summary()
    if len(candidates) > 1:
        print()
        _print_table(_comparison(schema.counts, settings.ranks, candidates))


def adapt(source: Source, on_error: OnError | None) -> None:
    """Adapt the schema to the training data and show a progress bar.

    Raises:
        ValueError: See `Schema.adapt`.
    """
    with bar("counting", " rows") as shown:

        def progress(done: int, total: int | None, unit: str) -> None:
            shown.total, shown.unit = total, f" {unit}"
            shown.update(done - shown.n)

        source.schema.adapt(source.files["train"], file_format=source.file_format, on_error=on_error, progress=progress)


def _most_frequent(schema: Schema, name: str, number: int) -> str:
    counts = schema.counts[schema.id_range(name).start : schema.id_range(name).stop]
    values = schema.vocabulary(name)
    top = np.argsort(-counts, kind="stable")[:number]
    return ", ".join(f"{values[index] or name} {counts[index]:,}" for index in top)


def _comparison(counts: Any, ranks: tuple[int, ...], candidates: list[tuple[float, ...]]) -> list[tuple[str, ...]]:
    """Return a table with one row per candidate thresholds, after a row of headings."""
    table: list[tuple[str, ...]] = [("thresholds", "factors", f"of FM-{ranks[-1]}", "occurrences per level")]
    total = max(1.0, float(counts.sum()))
    for thresholds in candidates:
        rank_plan = RankPlan.from_counts(counts, ranks, thresholds)
        shares = [float(counts[rank_plan.levels == level].sum()) / total for level in range(1, rank_plan.num_levels + 1)]
        table.append(
            (
                ",".join(f"{threshold:g}" for threshold in thresholds),
                f"{rank_plan.num_active_factors:,}",
                f"{rank_plan.num_active_factors / (ranks[-1] * rank_plan.num_features):.1%}",
                " ".join(f"{share:.1%}" for share in shares),
            )
        )
    return table


def _print_table(table: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
