"""The command `export`."""

from __future__ import annotations

import argparse

from keras_rafm.cli.commands.run import Run
from keras_rafm.cli.commands.source import format_of_run
from keras_rafm.data.raw.files import files_of
from keras_rafm.serving.export import export as export_model


def export(parsed: argparse.Namespace) -> None:
    """Write a run's model as a version of a SavedModel for TF Serving."""
    run = Run(parsed.run)
    schema, model = run.schema(), run.model()
    warm_up = None
    if parsed.warm_up:
        files = files_of(parsed.warm_up)
        blocks = schema.raw_dataset(files, training=False, file_format=format_of_run(run, parsed, files))
        warm_up = next(iter(blocks))
    version = export_model(
        model,
        parsed.directory,
        schema,
        signatures=parsed.signatures,
        level=parsed.level,
        precision=parsed.precision,
        metrics=_reported_metrics(run, parsed.level),
        warm_up=warm_up,
        warm_up_batch_sizes=parsed.warm_up_batch_sizes,
        version=parsed.as_version,
        keep=parsed.keep,
    )
    print(f"exported to {version}")


def _reported_metrics(run: Run, level: int | None) -> dict[str, float]:
    """Return the metrics of a level in the run's report, which has those of the highest and of the lowest level only."""
    metrics = {}
    for split, of_levels in (run.report() or {"splits": {}})["splits"].items():
        names = list(of_levels)
        if level in (None, len(run.plan().ranks), 1):
            of_level = of_levels[names[0] if level == 1 else names[-1]]
            metrics.update({f"{split}_{name}": value for name, value in of_level.items() if value is not None})
    return metrics
