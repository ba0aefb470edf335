"""The raw columns of a schema as inputs of signatures, and the check that a schema fits a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_rafm.data.columns.encoder import Encoder, tables_from_files
from keras_rafm.data.formats.examples import parse_examples
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.schema import Schema
from keras_rafm.serving.model_inputs import LEGAL_NAMES, ModelInputs, NamedSpec, is_legal_name
from keras_rafm.serving.served_model import ServedModel

_MEANINGS_OF_MISSING = {"string": "an empty string", "int64": "−2**63", "float32": "NaN"}


class RawInputs:
    """The raw columns of a schema as inputs of a model.

    Args:
        schema: The schema.
        inputs: The inputs of the model that was made for the schema.
        folder: The folder that the schema is saved in. The vocabularies there become assets of the SavedModel.
    """

    def __init__(self, schema: Schema, inputs: ModelInputs, folder: Path) -> None:
        self.encoder: Encoder = schema.new_encoder(tables_from_files(folder, schema.columns))
        self.columns = schema.raw_columns(training=False)
        self._dtypes = {named.spec.name: named.spec.dtype for named in inputs.padded_specs()}

    def specs(self) -> list[NamedSpec]:
        """Return the columns as inputs of a signature."""
        return specs_of_columns(self.columns)

    def to_padded(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Return the padded request for a batch of raw columns, in the order of `serving_default`'s inputs."""
        encoded = self.encoder(raw)
        return {name: tf.cast(encoded[name], dtype) for name, dtype in self._dtypes.items()}

    def from_examples(self, examples: tf.Tensor) -> list[Any]:
        """Return the columns of serialised `tf.train.Example`s. Absent features become missing values."""
        parsed = parse_examples(examples, self.columns, "the request", tf.constant(0, tf.int64), frozenset())
        return [parsed[column.name] for column in self.columns]


def specs_of_columns(columns: Sequence[RawColumn]) -> list[NamedSpec]:
    """Return raw columns as inputs of a signature."""
    return [
        NamedSpec(
            tf.TensorSpec([None, None] if column.is_list else [None], tf.as_dtype(column.dtype), column.name),
            f"column '{column.name}'; {_MEANINGS_OF_MISSING[column.dtype]} where a value is missing"
            + (" and at the end of shorter lists" if column.is_list else ""),
        )
        for column in columns
    ]


def illegal_input_names(schema: Schema) -> list[str]:
    """Return the names of columns that an input of the signature `raw` can't have."""
    names = [column.name for column in schema.raw_columns(training=False)]
    return [name for name in names if not is_legal_name(name)]


def check_schema(schema: Schema, served: ServedModel) -> None:
    """Refuse a schema that a model was not made for.

    Raises:
        ValueError: The inputs of the model or its number of features are not those of the schema, or an input of a
            signature can't have the name of a column.
    """
    specs = {named.spec.name: named.spec for named in served.inputs.padded_specs()}
    expected = {"ids", "values"} if schema.has_values else {"ids"}
    if specs.keys() != expected:
        raise ValueError(
            f"the model must have the inputs of schema.inputs(), {sorted(expected)}, to be exported with the schema. "
            f"Received: a model with the inputs {sorted(specs)}"
        )
    width = schema.inputs()["ids"].shape[1]
    for name, spec in specs.items():
        if spec.shape[1] not in (None, width):
            raise ValueError(
                f"the model must have the inputs of schema.inputs(), of width {width}, to be exported with the schema. "
                f"Received: a model with the input '{name}' of width {spec.shape[1]}"
            )
    illegal = illegal_input_names(schema)
    if illegal:
        raise ValueError(f"columns of an exported schema must have {LEGAL_NAMES}. Received: {illegal}")
    for layer in served.rafm_layers:
        if layer.num_features != schema.num_features:
            raise ValueError(
                f"the schema must be the one that the model was made for. Received: a schema of {schema.num_features:,} "
                f"features, but layer {layer.name} has {layer.num_features:,}"
            )
