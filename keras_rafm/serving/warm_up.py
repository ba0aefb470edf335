"""Warm-up requests: what TF Serving sends itself when it loads a version, so that the first real request isn't slow.

A graph is optimised and its kernels are made when a signature is first called, and memory grows with the first batch of a
size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_rafm.checks.arguments import integer
from keras_rafm.checks.optional_packages import imported
from keras_rafm.data.columns.raw_batches import as_raw_batch
from keras_rafm.data.raw.columns import MISSING, RawColumn
from keras_rafm.data.tfrecord import serialized_examples
from keras_rafm.serving.model_card import EXTRA
from keras_rafm.serving.model_inputs import Fed, ModelInputs
from keras_rafm.serving.signatures import RawInputs, Signature

FILE = "tf_serving_warmup_requests"
_MOST_RECORDS = 1000  # more, and TF Serving does not load the model


class WarmUpRows:
    """Real rows in every form that a signature takes them.

    Args:
        padded: As `serving_default` takes them.
        inputs: Of the model.
        raw: The raw columns they come from, or `None`.
        columns: Which columns those are.
    """

    def __init__(
        self, padded: Mapping[str, tf.Tensor], inputs: ModelInputs, raw: Mapping[str, Any] | None, columns: list[RawColumn]
    ) -> None:
        self._padded, self._inputs, self._raw, self._columns = padded, inputs, raw, columns
        self.number = int(next(iter(padded.values())).shape[0])
        if self.number == 0:
            raise ValueError("`warm_up` must have at least one row. Received: none")

    @classmethod
    def of_columns(cls, rows: Any, raw_inputs: RawInputs, inputs: ModelInputs) -> WarmUpRows:
        """Of raw columns, as a mapping or a data frame."""
        raw = as_raw_batch(rows, raw_inputs.columns)
        names = (named.spec.name for named in inputs.padded())
        padded = dict(zip(names, raw_inputs.padded(raw), strict=True))
        return cls(padded, inputs, raw, raw_inputs.columns)

    @classmethod
    def of_inputs(cls, fed: Fed, inputs: ModelInputs) -> WarmUpRows:
        """Of what the model itself takes."""
        return cls(inputs.to_padded(fed), inputs, None, [])

    def request(self, name: str, size: int) -> dict[str, tf.Tensor] | list[bytes]:
        """The tensors that a signature takes, of this many rows; those of `classify` and `regress` as examples.

        If there are fewer, some are taken repeatedly.
        """
        chosen = tf.range(size) % self.number
        if name == "raw":
            assert self._raw is not None
            return {
                column.name: _padded_column(tf.gather(self._raw[column.name], chosen), column) for column in self._columns
            }
        padded = {key: tf.gather(tensor, chosen) for key, tensor in self._padded.items()}
        if name == "ragged":
            return self._inputs.to_flat(padded)
        if name not in ("examples", "classify", "regress"):
            return padded
        if self._raw is None:
            examples = self._inputs.to_examples(padded)
        else:
            raw = {column.name: tf.gather(self._raw[column.name], chosen) for column in self._columns}
            examples = serialized_examples(raw, self._columns).numpy().tolist()
        return {"examples": tf.constant(examples)} if name == "examples" else examples


def write_warm_up(
    directory: Path, model_name: str, rows: WarmUpRows, signatures: Sequence[Signature], batch_sizes: Sequence[int]
) -> None:
    """Write the warm-up requests of a SavedModel.

    Args:
        directory: Of the SavedModel.
        model_name: By which the server will know it.
        rows: What is in the requests.
        signatures: Which are called.
        batch_sizes: Each in a request of its own for each signature.

    Raises:
        ImportError: `tensorflow-serving-api` is not installed.
        ValueError: A batch size is not positive, or there would be more requests than TF Serving takes.
    """
    logs = imported("tensorflow_serving.apis.prediction_log_pb2", "serving")
    sizes = [integer(size, "warm_up_batch_sizes", at_least=1) for size in batch_sizes]
    if not 1 <= len(sizes) * len(signatures) <= _MOST_RECORDS:
        raise ValueError(
            f"there must be 1 to {_MOST_RECORDS} warm-up requests. Received: {len(sizes)} batch sizes for "
            f"{len(signatures)} signatures"
        )
    with tf.io.TFRecordWriter(str(directory / EXTRA / FILE)) as writer:
        for own in signatures:
            for size in sizes:
                log = _log_of(logs, own, rows.request(own.name, size), model_name)
                writer.write(log.SerializeToString())


def _log_of(logs: Any, signature: Signature, request: dict[str, tf.Tensor] | list[bytes], model_name: str) -> Any:
    log = logs.PredictionLog()
    if isinstance(request, list):
        own = log.classify_log.request if signature.name == "classify" else log.regress_log.request
        own.input.example_list.examples.extend(tf.train.Example.FromString(text) for text in request)
    else:
        own = log.predict_log.request
        for name, tensor in request.items():
            own.inputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy()))
    own.model_spec.name = model_name
    own.model_spec.signature_name = signature.name
    return log


def _padded_column(values: Any, column: RawColumn) -> tf.Tensor:
    if not column.is_list:
        return values
    missing = MISSING[column.dtype]
    return values.to_tensor(tf.constant(missing, values.dtype))
