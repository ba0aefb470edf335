"""Conversions between requests and the inputs of a functional model.

A request is a mapping from names to tensors. It has one of three forms, which all hold the same samples:

- *padded*: ids `[B, F]`, with −1 as padding, and values of the same shape;
- *flat*: the ids of all samples end to end, with row splits, as in a `tf.RaggedTensor`;
- *examples*: serialised `tf.train.Example`s.
"""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.checks.model_inputs import pair_inputs
from keras_rafm.checks.tensors import after_checks, require
from keras_rafm.layer import RaFMLayer
from keras_rafm.training.functional_graph import LayerCall, calls_of, nodes_above

#: The named tensors of a request.
Request = Mapping[str, tf.Tensor]
#: The value of each model input, by the `id` of its `keras.KerasTensor`.
InputValues = dict[int, Any]

#: What the names of inputs must be, for messages.
LEGAL_NAMES = "names of letters, digits and underscores, a letter first, other than 'self' and Python's keywords"

# TensorFlow renames the inputs of a signature that have other names.
_LEGAL_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")
_EXAMPLE_DTYPES = {"string": tf.string, "float": tf.float32, "int": tf.int64}
_EXAMPLE_LISTS = {tf.string: "bytes_list", tf.int64: "int64_list", tf.float32: "float_list"}


class NamedSpec(NamedTuple):
    """A tensor of a request or of a response.

    Attributes:
        spec: Its name, dtype and shape.
        meaning: A short description for the model card.
    """

    spec: tf.TensorSpec
    meaning: str


def by_name(specs: list[NamedSpec], tensors: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
    """Return the request that consists of these tensors, in the order of `specs`."""
    return {named.spec.name: tensor for named, tensor in zip(specs, tensors, strict=True)}


@dataclass
class _IdsInput:
    """A model input of ids, and the model inputs of values that belong to it.

    Attributes:
        tensor: The model input of ids. A sparse one holds its values too.
        name: The name of the ids in requests.
        row_splits: The name of their row splits in flat requests.
        values: The model inputs of values by their names in requests; `None` for the values of a sparse input.
        is_direct: Whether only `RaFMLayer`s read these inputs. They take ids and values in any form.
    """

    tensor: Any
    name: str
    row_splits: str
    values: dict[str, Any] = field(default_factory=dict)
    is_direct: bool = True

    @property
    def is_sparse(self) -> bool:
        return bool(getattr(self.tensor, "sparse", False))

    @property
    def names(self) -> list[str]:
        return [self.name, *self.values]

    @property
    def dtype(self) -> str:
        return "int64" if self.is_sparse else self.tensor.dtype

    def values_dtype(self, name: str) -> str:
        return self.tensor.dtype if self.is_sparse else self.values[name].dtype

    @property
    def width(self) -> int | None:
        return None if self.is_sparse else self.tensor.shape[1]

    def to_model(self, ids: Any, values: Mapping[str, Any]) -> InputValues:
        """Return the values of the model inputs from dense or ragged ids and values."""
        if self.is_sparse:
            (only_values,) = values.values()
            if self.is_direct:  # a layer takes a mapping in place of a sparse tensor
                return {id(self.tensor): {"ids": ids, "values": only_values}}
            return {id(self.tensor): _as_sparse(ids, only_values, self.tensor.shape[1])}
        if not self.is_direct:
            ids, values = self._as_declared(ids, values)
        return {id(self.tensor): ids, **{id(self.values[name]): tensor for name, tensor in values.items()}}

    def _as_declared(self, ids: Any, values: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Convert ids and values to the kind of tensor, dense or ragged, that the model declares."""
        is_ragged = isinstance(ids, tf.RaggedTensor)
        if not getattr(self.tensor, "ragged", False):
            return _padded(ids, values, self.tensor.shape[1], self.name) if is_ragged else (ids, values)
        if is_ragged:
            return ids, values
        rows = tf.RaggedTensor.from_tensor(ids, padding=PADDING_ID)
        lengths = rows.row_lengths()
        return rows, {name: tf.RaggedTensor.from_tensor(tensor, lengths=lengths) for name, tensor in values.items()}


def is_legal_name(name: str) -> bool:
    """Return whether an input of a signature can have this name. TensorFlow passes it as a keyword argument."""
    return _LEGAL_NAME.fullmatch(name) is not None and not keyword.iskeyword(name) and name != "self"


class ModelInputs:
    """The inputs of a functional model, and their conversion from and to requests.

    Ids are named `ids` and their values `values` if all `RaFMLayer`s share them and no other input has such a name.
    Otherwise they have the names of the model inputs, as all other inputs do.

    Args:
        model: A functional model with a `RaFMLayer`.

    Raises:
        ValueError: The model has no `RaFMLayer`, an input is ragged or sparse and feeds something other than a
            `RaFMLayer`, or a signature can't have the names of the inputs.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._calls = calls_of(model)
        self._groups = _ids_inputs(model, self._calls)
        grouped = {id(tensor) for group in self._groups for tensor in (group.tensor, *group.values.values())}
        ids_of_values = {id(call.values) for call in self._calls if call.values is not None}
        are_shared = len(ids_of_values) == 1 and not self._groups
        self._others: dict[str, Any] = {}
        for tensor in model.inputs:
            if id(tensor) in grouped:
                continue
            for kind in ("sparse", "ragged"):
                if getattr(tensor, kind, False):
                    raise ValueError(
                        f"Input '{tensor.name}' is {kind} and not the input of a RaFMLayer: it can't be exported"
                    )
            self._others["values" if are_shared and id(tensor) in ids_of_values else tensor.name] = tensor
        self._check_names()

    def _check_names(self) -> None:
        names = [named.spec.name for named in self.flat_specs()]
        wrong = [name for name in names if not is_legal_name(name)]
        names = [named.spec.name for named in self.padded_specs()]
        wrong += [name for name in dict.fromkeys(names) if not is_legal_name(name) or names.count(name) > 1]
        if wrong:
            raise ValueError(
                f"inputs of an exported model must have distinct {LEGAL_NAMES}. Received: {list(dict.fromkeys(wrong))}"
            )

    @property
    def why_not_flat(self) -> str | None:
        """Why requests can't be flat; `None` if they can."""
        if not self._groups:
            return "the ids of its RaFMLayers are computed in the graph"
        names = [name for group in self._groups for name in group.values]
        if len(set(names)) < len(names):
            return "several inputs of ids share one input of values"
        return None

    @property
    def why_not_in_examples(self) -> str | None:
        """Why requests can't be `tf.train.Example`s; `None` if they can."""
        if self.why_not_flat is not None:
            return self.why_not_flat
        for name, tensor in self._others.items():
            if any(size is None for size in tensor.shape[1:]):
                return f"the input '{name}' has no fixed shape"
        return None

    def from_model_inputs(self, inputs: Any) -> InputValues:
        """Return the value of each input from `inputs` as `model.predict` takes them.

        Raises:
            ValueError: An input is missing or has another shape than the model declares.
        """
        pairs = pair_inputs(inputs, self._model.input, self._model.inputs)
        if not pairs or any(value is None for value, _ in pairs):
            raise ValueError(
                f"inputs must be those of the model: {[tensor.name for tensor in self._model.inputs]}. "
                f"Received: {keras.tree.map_structure(type, inputs)}"
            )
        input_values = {}
        for value, declared in pairs:
            tensor = tf.cast(value, declared.dtype)
            if tensor.shape.rank == 1 and len(declared.shape) == 2:  # Keras takes a vector as a column
                tensor = tensor[:, tf.newaxis]
            if not tensor.shape.is_compatible_with(declared.shape):
                raise ValueError(
                    f"'{declared.name}' must be of shape {tuple(declared.shape)}. Received: {tuple(tensor.shape)}"
                )
            input_values[id(declared)] = tensor
        return input_values

    def padded_specs(self) -> list[NamedSpec]:
        """Return the tensors of a padded request, in the order of the model inputs."""
        specs: dict[int, list[NamedSpec]] = {}
        for group in self._groups:
            shape = [None, group.width]
            specs[id(group.tensor)] = [
                NamedSpec(
                    tf.TensorSpec(shape, group.dtype, group.name),
                    "feature ids, one row per sample; −1 is padding, and unknown ids count as padding",
                )
            ]
            for name, tensor in group.values.items():
                spec = NamedSpec(tf.TensorSpec(shape, group.values_dtype(name), name), f"value of each of `{group.name}`")
                if tensor is None:
                    specs[id(group.tensor)].append(spec)
                else:
                    specs[id(tensor)] = [spec]
        for name, tensor in self._others.items():
            specs[id(tensor)] = [_spec_of_other(name, tensor)]
        return [spec for tensor in self._model.inputs for spec in specs[id(tensor)]]

    def from_padded(self, request: Request) -> InputValues:
        """Return the value of each model input from a padded request."""
        # Values are left out: `RaFMLayer` checks that their shape is that of the ids.
        names = [*(group.name for group in self._groups), *self._others]
        request = _with_equal_rows(request, {name: tf.shape(request[name])[0] for name in names})
        input_values = {id(tensor): request[name] for name, tensor in self._others.items()}
        for group in self._groups:
            input_values.update(group.to_model(request[group.name], {name: request[name] for name in group.values}))
        return input_values

    def to_padded(self, input_values: InputValues) -> dict[str, tf.Tensor]:
        """Return the padded request for model inputs, which may be dense, ragged or sparse."""
        request = {name: input_values[id(tensor)] for name, tensor in self._others.items()}
        for group in self._groups:
            ids = input_values[id(group.tensor)]
            values = {name: None if tensor is None else input_values[id(tensor)] for name, tensor in group.values.items()}
            if isinstance(ids, tf.SparseTensor):
                lists = tf.RaggedTensor.from_value_rowids(ids.indices[:, 1], ids.indices[:, 0], nrows=ids.dense_shape[0])
                ids, values = lists, dict.fromkeys(values, lists.with_flat_values(ids.values))
            if isinstance(ids, tf.RaggedTensor):
                ids, values = _padded(ids, values, group.width, group.name)
            request.update({group.name: ids, **values})
        return request

    def flat_specs(self) -> list[NamedSpec]:
        """Return the tensors of a flat request."""
        specs = []
        for group in self._groups:
            specs.append(
                NamedSpec(
                    tf.TensorSpec([None], group.dtype, group.name),
                    "feature ids of all samples end to end; unknown ids contribute nothing",
                )
            )
            specs += [
                NamedSpec(tf.TensorSpec([None], group.values_dtype(name), name), f"value of each of `{group.name}`")
                for name in group.values
            ]
            specs.append(
                NamedSpec(
                    tf.TensorSpec([None], tf.int64, group.row_splits),
                    f"position in `{group.name}` at which each sample begins, then the size of `{group.name}`; "
                    "ascending from 0",
                )
            )
        return [*specs, *(_spec_of_other(name, tensor) for name, tensor in self._others.items())]

    def from_flat(self, request: Request) -> InputValues:
        """Return the value of each model input from a flat request."""
        rows: dict[str, tf.RaggedTensor] = {}
        num_rows = {group.row_splits: tf.size(request[group.row_splits]) - 1 for group in self._groups}
        num_rows.update({name: tf.shape(request[name])[0] for name in self._others})
        request = _with_equal_rows(request, num_rows)
        for group in self._groups:
            tensors = {name: request[name] for name in group.names}
            splits = _checked_splits(request[group.row_splits], group.row_splits, tensors)
            for name, tensor in tensors.items():
                rows[name] = tf.RaggedTensor.from_row_splits(tensor, splits, validate=False)
        return self._from_ragged(rows, request)

    def to_flat(self, padded: Request) -> dict[str, tf.Tensor]:
        """Return the flat request with the samples of a padded one."""
        request = {name: padded[name] for name in self._others}
        for group in self._groups:
            is_present = padded[group.name] != PADDING_ID
            request.update({name: tf.boolean_mask(padded[name], is_present) for name in group.names})
            lengths = tf.reduce_sum(tf.cast(is_present, tf.int64), axis=1)
            request[group.row_splits] = tf.concat([[tf.constant(0, tf.int64)], tf.cumsum(lengths)], axis=0)
        return request

    def example_features(self) -> dict[str, Any]:
        """Return the features of `tf.train.Example`s, as `tf.io.parse_example` takes them."""
        features: dict[str, Any] = {}
        for group in self._groups:
            features[group.name] = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
            features.update({name: tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64) for name in group.values})
        for name, tensor in self._others.items():
            dtype = tf.as_dtype(tensor.dtype)
            kind = "string" if dtype == tf.string else "int" if dtype.is_integer or dtype.is_bool else "float"
            features[name] = tf.io.FixedLenFeature(tensor.shape[1:], _EXAMPLE_DTYPES[kind])
        return features

    def from_examples(self, examples: tf.Tensor) -> InputValues:
        """Parse serialised `tf.train.Example`s (string `[B]`) into the value of each model input."""
        parsed = tf.io.parse_example(examples, self.example_features())
        rows = {}
        for group in self._groups:
            ids = rows[group.name] = parsed[group.name]
            for name in group.values:
                are_equal = tf.equal(parsed[name].row_lengths(), ids.row_lengths())
                checked = require(
                    tf.reduce_all(are_equal),
                    f"the features '{group.name}' and '{name}' must have equally many numbers. Received the example",
                    functools.partial(_first_where_not, are_equal),
                )
                # `after_checks` comes before the cast: a cast that changes nothing makes no operation that could wait.
                values = tf.cast(after_checks(checked, parsed[name].flat_values), group.values_dtype(name))
                rows[name] = ids.with_flat_values(values)
            rows[group.name] = ids.with_flat_values(_narrowed(ids.flat_values, group.dtype))
        others = {name: tf.cast(parsed[name], tensor.dtype) for name, tensor in self._others.items()}
        return self._from_ragged(rows, others)

    def to_examples(self, padded: Request) -> list[bytes]:
        """Return serialised `tf.train.Example`s with the samples of a padded request."""
        features = self.example_features()
        ids_names = {name: group.name for group in self._groups for name in group.names}
        examples = []
        for row in range(int(next(iter(padded.values())).shape[0])):
            example = tf.train.Example()
            for name, feature in features.items():
                tensor = padded[name][row]
                if name in ids_names:
                    tensor = tf.boolean_mask(tensor, padded[ids_names[name]][row] != PADDING_ID)
                numbers = tf.reshape(tf.cast(tensor, feature.dtype), [-1]).numpy().tolist()
                getattr(example.features.feature[name], _EXAMPLE_LISTS[feature.dtype]).value.extend(numbers)
            examples.append(example.SerializeToString(deterministic=True))
        return examples

    def _from_ragged(self, rows: Mapping[str, tf.RaggedTensor], others: Request) -> InputValues:
        input_values = {id(tensor): others[name] for name, tensor in self._others.items()}
        for group in self._groups:
            input_values.update(group.to_model(rows[group.name], {name: rows[name] for name in group.values}))
        return input_values


def _ids_inputs(model: keras.Model, calls: list[LayerCall]) -> list[_IdsInput]:
    """Return the inputs of ids that `RaFMLayer`s are called with, each with its inputs of values."""
    tensors = {id(call.ids): call.ids for call in calls if call.ids is not None}
    values = {id(call.values) for call in calls if call.values is not None}
    other_names = {tensor.name for tensor in model.inputs if id(tensor) not in {*tensors, *values}}
    are_shared = len(tensors) == 1 and len(values) <= 1 and all(call.ids is not None for call in calls)
    are_shared = are_shared and not other_names & {"ids", "values", "row_splits"}
    with_computed_values = {id(call.ids) for call in calls if call.has_values and call.values is None}
    other_nodes = [node for node in nodes_above(model.outputs) if not isinstance(node.operation, RaFMLayer)]
    read_elsewhere = {id(tensor) for node in other_nodes for tensor in node.input_tensors}
    read_elsewhere.update(id(output) for output in model.outputs)
    groups = []
    for key, tensor in tensors.items():
        name = "ids" if are_shared else tensor.name
        group = _IdsInput(tensor, name, "row_splits" if are_shared else f"{name}_row_splits")
        if group.is_sparse:
            group.values["values" if are_shared else f"{name}_values"] = None
        for call in calls:
            if call.values is not None and call.ids is tensor:
                group.values["values" if are_shared else call.values.name] = call.values
        members = {key, *(id(value) for value in group.values.values() if value is not None)}
        # Values that are computed from a dense input are dense, and the ids must be like them.
        group.is_direct = not read_elsewhere & members and (group.is_sparse or key not in with_computed_values)
        groups.append(group)
    return groups


def _spec_of_other(name: str, tensor: Any) -> NamedSpec:
    return NamedSpec(tf.TensorSpec(tensor.shape, tensor.dtype, name), f"the model's input '{tensor.name}'")


def _with_equal_rows(request: Request, num_rows: Mapping[str, tf.Tensor]) -> Request:
    """Return the request, checked to have one number of samples. Otherwise TensorFlow might broadcast a tensor."""
    if len(num_rows) < 2:
        return request
    together = tf.stack(list(num_rows.values()))
    checked = require(
        tf.reduce_all(tf.equal(together, together[0])),
        f"{', '.join(f'`{name}`' for name in num_rows)} must have equally many samples. Received",
        lambda: together,
    )
    return {name: after_checks(checked, tensor) for name, tensor in request.items()}


def _checked_splits(splits: tf.Tensor, name: str, tensors: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return row splits, checked to be valid for all of the tensors."""
    sizes = tf.stack([tf.size(tensor, tf.int64) for tensor in tensors.values()])
    # The splits between the values that they must begin and end with: this sequence must ascend.
    bounded = tf.concat([[tf.constant(0, tf.int64)], splits, [tf.reduce_min(sizes)]], axis=0)
    ends_match = tf.reduce_all(tf.equal(sizes, tf.reduce_max(splits))) & tf.equal(tf.reduce_min(splits), 0)
    checked = require(
        ends_match & tf.reduce_all(bounded[1:] >= bounded[:-1]),
        f"`{name}` must ascend from 0 to the size of {' and '.join(f'`{key}`' for key in tensors)}. "
        "Received, after these sizes,",
        lambda: tf.concat([sizes, splits], axis=0),
    )
    return after_checks(checked, splits)


def _padded(
    ids: tf.RaggedTensor, values: Mapping[str, tf.RaggedTensor], width: int | None, name: str
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Pad ragged ids and values to the width that the model takes, or to the longest row if it takes any."""
    checked = []
    if width is not None:
        longest = ids.bounding_shape(axis=1)
        checked = require(
            longest <= width,
            f"a sample must have at most {width} of `{name}`. Received",
            lambda: longest,
        )
    with tf.control_dependencies(checked):
        padded = ids.to_tensor(tf.constant(PADDING_ID, ids.dtype), shape=[None, width])
    return padded, {key: tensor.to_tensor(shape=[None, width]) for key, tensor in values.items()}


def _as_sparse(ids: Any, values: Any, num_columns: int) -> tf.SparseTensor:
    if isinstance(ids, tf.RaggedTensor):
        ids, values = ids.to_tensor(tf.constant(PADDING_ID, ids.dtype)), values.to_tensor()
    kept = tf.where((ids >= 0) & (ids < num_columns))
    indices = tf.stack([kept[:, 0], tf.gather_nd(ids, kept)], axis=1)
    shape = tf.stack([tf.shape(ids, out_type=tf.int64)[0], tf.constant(num_columns, tf.int64)])
    return tf.SparseTensor(indices, tf.gather_nd(values, kept), shape)


def _narrowed(ids: tf.Tensor, dtype: str) -> tf.Tensor:
    """Cast int64 ids to another dtype. Ids that it can't hold become padding: they are unknown in any case."""
    limits = tf.as_dtype(dtype)
    if limits == ids.dtype:
        return ids
    return tf.cast(tf.where((ids >= limits.min) & (ids <= limits.max), ids, PADDING_ID), limits)


def _first_where_not(condition: tf.Tensor) -> tf.Tensor:
    return tf.where(~condition)[0, 0]
