"""Warm-up requests, which TF Serving sends to each version on loading, so that the first real request isn't slow.

The first call of a signature optimises its graph and creates its kernels, and the first batch of a size allocates memory.
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
from keras_rafm.serving.model_inputs import ModelInputs
from keras_rafm.serving.raw_inputs import RawInputs
from keras_rafm.serving.saved_model import EXTRA
from keras_rafm.serving.signatures import Signature

FILE = "tf_serving_warmup_requests"
_MOST_RECORDS = 1000  # TF Serving does not load a model with more


class WarmUpRows:
    """Real rows, and the requests of each signature with them.

    Args:
        padded: The rows as `serving_default` takes them.
        inputs: The inputs of the model.
        raw: The raw columns of the rows; `None` if the model is exported without a schema.
        columns: The raw columns of the schema.

    Raises:
        ValueError: There are no rows.
    """

    def __init__(
        self, padded: Mapping[str, tf.Tensor], inputs: ModelInputs, raw: Mapping[str, Any] | None, columns: list[RawColumn]
    ) -> None:
        self._padded, self._inputs, self._raw, self._columns = padded, inputs, raw, columns
        self._num_rows = int(next(iter(padded.values())).shape[0])
        if self._num_rows == 0:
            raise ValueError("`warm_up` must have at least one row. Received: none")

    @classmethod
    def make(cls, rows: Any, inputs: ModelInputs, raw_inputs: RawInputs | None) -> WarmUpRows:
        """Return rows given as raw columns, or, without a schema, as `model.predict` takes them."""
        if raw_inputs is None:
            return cls(inputs.to_padded(inputs.from_model_inputs(rows)), inputs, raw=None, columns=[])
        raw = as_raw_batch(rows, raw_inputs.columns)
        return cls(raw_inputs.to_padded(raw), inputs, raw, raw_inputs.columns)

    def request(self, signature: str, size: int) -> dict[str, tf.Tensor] | list[bytes]:
        """Return a request of a signature: tensors by name, or examples for `classify` and `regress`.

        Args:
            signature: The name of the signature.
            size: The number of rows. If there are fewer rows, they are repeated.
        """
        chosen = tf.range(size) % self._num_rows
        if signature == "raw":
            assert self._raw is not None
            return {
                column.name: _padded_column(tf.gather(self._raw[column.name], chosen), column) for column in self._columns
            }
        padded = {key: tf.gather(tensor, chosen) for key, tensor in self._padded.items()}
        if signature == "ragged":
            return self._inputs.to_flat(padded)
        if signature not in ("examples", "classify", "regress"):
            return padded
        if self._raw is None:
            examples = self._inputs.to_examples(padded)
        else:
            raw = {column.name: tf.gather(self._raw[column.name], chosen) for column in self._columns}
            examples = serialized_examples(raw, self._columns).numpy().tolist()
        return {"examples": tf.constant(examples)} if signature == "examples" else examples


def write_warm_up(
    directory: Path,
    model_name: str,
    rows: WarmUpRows,
    signatures: Sequence[Signature],
    *,
    batch_sizes: Sequence[int],
    wanted: Sequence[str] | None,
) -> None:
    """Write the warm-up requests of a SavedModel.

    Args:
        directory: The SavedModel.
        model_name: The name by which the server knows the model.
        rows: The rows of the requests.
        signatures: All signatures of the model.
        batch_sizes: The numbers of rows. Each signature gets one request of each size.
        wanted: The names of the signatures to call. `None`: all but `ragged`.

    Raises:
        ImportError: `tensorflow-serving-api` is not installed.
        ValueError: A name is unknown, a batch size is not positive, or there are more requests than TF Serving takes.
    """
    called = _chosen(signatures, wanted)
    logs = imported("tensorflow_serving.apis.prediction_log_pb2", "serving")
    sizes = [integer(size, "warm_up_batch_sizes", at_least=1) for size in batch_sizes]
    if not 1 <= len(sizes) * len(called) <= _MOST_RECORDS:
        raise ValueError(
            f"there must be 1 to {_MOST_RECORDS} warm-up requests. Received: {len(sizes)} batch sizes for "
            f"{len(called)} signatures"
        )
    with tf.io.TFRecordWriter(str(directory / EXTRA / FILE)) as writer:
        for signature in called:
            for size in sizes:
                log = _log_of(logs, signature.name, rows.request(signature.name, size), model_name)
                writer.write(log.SerializeToString())


def _chosen(signatures: Sequence[Signature], wanted: Sequence[str] | None) -> list[Signature]:
    by_name = {signature.name: signature for signature in signatures}
    if wanted is None:
        return [signature for signature in signatures if signature.name != "ragged"]
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise ValueError(f"`warm_up_signatures` must be among {', '.join(by_name)}. Received: {unknown}")
    return [by_name[name] for name in dict.fromkeys(wanted)]


def _log_of(logs: Any, signature: str, tensors_or_examples: dict[str, tf.Tensor] | list[bytes], model_name: str) -> Any:
    """Return a request as a `PredictionLog`."""
    log = logs.PredictionLog()
    if isinstance(tensors_or_examples, list):
        request = log.classify_log.request if signature == "classify" else log.regress_log.request
        request.input.example_list.examples.extend(tf.train.Example.FromString(text) for text in tensors_or_examples)
    else:
        request = log.predict_log.request
        for name, tensor in tensors_or_examples.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy()))
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    return log


def _padded_column(values: Any, column: RawColumn) -> tf.Tensor:
    """Return a column with missing values at the end of shorter lists."""
    if not column.is_list:
        return values
    missing = MISSING[column.dtype]
    return values.to_tensor(tf.constant(missing, values.dtype))
