"""The commands `evaluate` and `predict`."""

from __future__ import annotations

import argparse

import tensorflow as tf

from keras_rafm.cli.commands.measuring import measure, print_metrics
from keras_rafm.cli.commands.progress import counted
from keras_rafm.cli.commands.reading import skipped_rows, with_explained_errors
from keras_rafm.cli.commands.run import Run
from keras_rafm.cli.commands.source import format_of_run, source_of
from keras_rafm.cli.output import output
from keras_rafm.data.raw.files import files_of


def evaluate(parsed: argparse.Namespace) -> None:
    """Print the metrics of a run's model on files, by default on the test data of the run."""
    run = Run(parsed.run)
    schema, model = run.schema(), run.model()
    split, files = ("data", files_of(parsed.data)) if parsed.data else ("test", _test_files(run))
    file_format = format_of_run(run, parsed, files)
    with skipped_rows(parsed.on_error) as on_error:
        batches = schema.dataset(files, parsed.batch_size, file_format=file_format, on_error=on_error)
        checked_batches = with_explained_errors(batches, schema, files, file_format, on_error)
        rows = counted(checked_batches, "evaluating", lambda batch: int(batch[1].shape[0]))
        print_metrics(split, measure(model, schema.task, rows))


def predict(parsed: argparse.Namespace) -> None:
    """Write the score of each row."""
    run = Run(parsed.run)
    schema, model = run.schema(), run.model()
    files = files_of(parsed.data)
    is_classifier = schema.task == "classification"
    file_format = format_of_run(run, parsed, files)
    with skipped_rows(parsed.on_error) as on_error, output(parsed.output, files) as file:
        batches = schema.dataset(files, parsed.batch_size, training=False, file_format=file_format, on_error=on_error)
        file.write("score,probability\n" if is_classifier else "prediction\n")
        checked_batches = with_explained_errors(batches, schema, files, file_format, on_error, training=False)
        for inputs in counted(checked_batches, "predicting", lambda inputs: int(inputs["ids"].shape[0])):
            scores = model.predict_on_batch(inputs)[:, 0]
            if is_classifier:
                probabilities = tf.sigmoid(scores).numpy()
                file.writelines(f"{s:.9g},{p:.9g}\n" for s, p in zip(scores, probabilities, strict=True))
            else:
                file.writelines(f"{score:.9g}\n" for score in scores)


def _test_files(run: Run) -> list[str]:
    return source_of(run.settings(), run.schema()).files["test"]
