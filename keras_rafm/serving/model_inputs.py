"""What a request holds and what the model takes: named tensors -> the inputs of a functional model."""

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
from keras_rafm.checks.tensors import require
from keras_rafm.layer import RaFMLayer
from keras_rafm.training.downstream import nodes_above

#: The named tensors of a request.
Request = Mapping[str, tf.Tensor]
#: Value of each model input, by the `id` of its `keras.KerasTensor`.
Fed = dict[int, Any]

# TensorFlow renames any other input of a signature.
_LEGAL_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")
_EXAMPLE_DTYPES = {"string": tf.string, "float": tf.float32, "int": tf.int64}


class NamedSpec(NamedTuple):
    """A tensor of a request or of a response.

    Attributes:
        spec: Its name, dtype and shape.
        meaning: What it is, in a few words.
    """

    spec: tf.TensorSpec
    meaning: str


class LayerCall(NamedTuple):
    """A `RaFMLayer` in the graph, and the inputs of the model that it takes.

    Attributes:
        layer: The layer.
        ids: The input that is its ids, or is sparse; `None` if they are computed in the graph.
        values: The input that is its values; `None` without, or if they are computed in the graph.
        has_values: Whether it takes values.
    """

    layer: RaFMLayer
    ids: Any
    values: Any
    has_values: bool


@dataclass
class _Ids:
    """An input of ids, and the inputs of values that belong to it.

    Attributes:
        tensor: The input; a sparse one holds its values too.
        name: In requests.
        row_splits: Name of its row splits in requests.
        values: Those inputs, by their names in requests; `None` stands for those of a sparse input.
        is_direct: Whether nothing but `RaFMLayer`s read it and its values, which take them in any form.
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
    def dtype(self) -> str:
        return "int64" if self.is_sparse else self.tensor.dtype

    def values_dtype(self, name: str) -> str:
        return self.tensor.dtype if self.is_sparse else self.values[name].dtype

    @property
    def width(self) -> int | None:
        return None if self.is_sparse else self.tensor.shape[1]

    def fed(self, ids: Any, values: Mapping[str, Any]) -> Fed:
        """The inputs of the model from dense or ragged ids and values."""
        if self.is_sparse:
            (own,) = values.values()
            both = {"ids": ids, "values": own}  # which a layer takes as well
            return {id(self.tensor): both if self.is_direct else _as_sparse(ids, own, self.tensor.shape[1])}
        if not self.is_direct:
            ids, values = self._as_declared(ids, values)
        return {id(self.tensor): ids, **{id(self.values[name]): own for name, own in values.items()}}

    def _as_declared(self, ids: Any, values: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        is_ragged = isinstance(ids, tf.RaggedTensor)
        if not getattr(self.tensor, "ragged", False):
            return _padded(ids, values, self.tensor.shape[1], self.name) if is_ragged else (ids, values)
        if is_ragged:
            return ids, values
        rows = tf.RaggedTensor.from_tensor(ids, padding=PADDING_ID)
        lengths = rows.row_lengths()
        return rows, {name: tf.RaggedTensor.from_tensor(own, lengths=lengths) for name, own in values.items()}


def is_legal_name(name: str) -> bool:
    """Whether an input of a signature can have it: a function of TensorFlow's is called with it as a keyword."""
    return _LEGAL_NAME.fullmatch(name) is not None and not keyword.iskeyword(name) and name != "self"


class ModelInputs:
    """The inputs of a functional model, and the forms of requests that they are made from.

    Ids are named `ids` and their values `values` where all `RaFMLayer`s share them and no other input has such a name;
    otherwise they are named as the inputs of the model, as are all other inputs.

    Args:
        model: A functional model with a `RaFMLayer`.

    Raises:
        ValueError: There is none, an input is ragged or sparse and goes elsewhere than into a `RaFMLayer`, or the names of
            inputs are not such as a signature can have.
    """

    def __init__(self, model: keras.Model) -> None:
        self.calls = calls_of(model)
        self._groups = self._ids_of_layers(model)
        in_groups = {id(own) for group in self._groups for own in (group.tensor, *group.values.values())}
        names_of_values = {id(call.values) for call in self.calls if call.values is not None}
        shared = len(names_of_values) == 1 and not self._groups
        self._others: dict[str, Any] = {}
        for tensor in model.inputs:
            if id(tensor) in in_groups:
                continue
            for kind in ("sparse", "ragged"):
                if getattr(tensor, kind, False):
                    raise ValueError(
                        f"Input '{tensor.name}' is {kind} and not the input of a RaFMLayer: it can't be exported"
                    )
            self._others["values" if shared and id(tensor) in names_of_values else tensor.name] = tensor
        self._order = [id(tensor) for tensor in model.inputs]
        names = [own.spec.name for own in self.flat()]
        wrong = [name for name in names if not is_legal_name(name)]
        names = [own.spec.name for own in self.padded()]
        wrong += [name for name in dict.fromkeys(names) if not is_legal_name(name) or names.count(name) > 1]
        if wrong:
            raise ValueError(
                f"inputs of an exported model must have names of letters, digits and underscores, a letter first, other "
                f"than 'self' and Python's keywords, and no name twice. Received: {list(dict.fromkeys(wrong))}"
            )

    @property
    def why_not_flat(self) -> str | None:
        """Why ids can't be given as one flat list for all samples; `None` if they can."""
        if not self._groups:
            return "the ids of its RaFMLayers are computed in the graph"
        names = [name for group in self._groups for name in group.values]
        if len(set(names)) < len(names):
            return "inputs of ids share one of values"
        return None

    @property
    def why_not_in_examples(self) -> str | None:
        """Why the inputs can't be features of `tf.train.Example`s; `None` if they can."""
        if self.why_not_flat is not None:
            return self.why_not_flat
        for name, tensor in self._others.items():
            if any(size is None for size in tensor.shape[1:]):
                return f"the input '{name}' has no fixed shape"
        return None

    def padded(self) -> list[NamedSpec]:
        """Requests of dense tensors."""
        entries: dict[int, list[NamedSpec]] = {}
        for group in self._groups:
            shape = [None, group.width]
            entries[id(group.tensor)] = [
                NamedSpec(
                    tf.TensorSpec(shape, group.dtype, group.name),
                    "feature ids, a row per sample; −1 is padding, and ids that the model does not know count as padding",
                )
            ]
            for name, tensor in group.values.items():
                spec = NamedSpec(tf.TensorSpec(shape, group.values_dtype(name), name), f"value of each of `{group.name}`")
                if tensor is None:
                    entries[id(group.tensor)].append(spec)
                else:
                    entries[id(tensor)] = [spec]
        for name, tensor in self._others.items():
            entries[id(tensor)] = [_other(name, tensor)]
        return [spec for key in self._order for spec in entries[key]]

    def from_padded(self, request: Request) -> Fed:
        """The inputs of the model from `padded` ones."""
        # Values have to be as their ids are, which is checked where they meet.
        names = [*(group.name for group in self._groups), *self._others]
        request = _with_equal_rows(request, {name: tf.shape(request[name])[0] for name in names})
        fed = {id(tensor): request[name] for name, tensor in self._others.items()}
        for group in self._groups:
            fed.update(group.fed(request[group.name], {name: request[name] for name in group.values}))
        return fed

    def to_padded(self, fed: Fed) -> dict[str, tf.Tensor]:
        """The reverse of `from_padded`, of inputs in any form."""
        request = {name: fed[id(tensor)] for name, tensor in self._others.items()}
        for group in self._groups:
            ids = fed[id(group.tensor)]
            values = {name: None if own is None else fed[id(own)] for name, own in group.values.items()}
            if isinstance(ids, tf.SparseTensor):
                lists = tf.RaggedTensor.from_value_rowids(ids.indices[:, 1], ids.indices[:, 0], nrows=ids.dense_shape[0])
                ids, values = lists, dict.fromkeys(values, lists.with_flat_values(ids.values))
            if isinstance(ids, tf.RaggedTensor):
                ids, values = _padded(ids, values, group.width, group.name)
            request.update({group.name: ids, **values})
        return request

    def flat(self) -> list[NamedSpec]:
        """Requests that have the ids of all samples end to end, as a `tf.RaggedTensor` does."""
        specs = []
        for group in self._groups:
            specs.append(
                NamedSpec(
                    tf.TensorSpec([None], group.dtype, group.name),
                    "feature ids of all samples end to end; ids that the model does not know contribute nothing",
                )
            )
            specs += [
                NamedSpec(tf.TensorSpec([None], group.values_dtype(name), name), f"value of each of `{group.name}`")
                for name in group.values
            ]
            specs.append(
                NamedSpec(
                    tf.TensorSpec([None], tf.int64, group.row_splits),
                    f"where in `{group.name}` each sample begins, and at the end their number: ascending from 0",
                )
            )
        return [*specs, *(_other(name, tensor) for name, tensor in self._others.items())]

    def from_flat(self, request: Request) -> Fed:
        """The inputs of the model from `flat` ones."""
        rows: dict[str, tf.RaggedTensor] = {}
        numbers = {group.row_splits: tf.size(request[group.row_splits]) - 1 for group in self._groups}
        numbers.update({name: tf.shape(request[name])[0] for name in self._others})
        request = _with_equal_rows(request, numbers)
        for group in self._groups:
            names = [group.name, *group.values]
            splits = _checked_splits(request[group.row_splits], [request[name] for name in names], group.row_splits, names)
            rows.update({name: tf.RaggedTensor.from_row_splits(request[name], splits, validate=False) for name in names})
        return self._from_ragged(rows, request)

    def to_flat(self, padded: Request) -> dict[str, tf.Tensor]:
        """Requests that are `flat` of ones that are `padded`."""
        request = {name: padded[name] for name in self._others}
        for group in self._groups:
            is_there = padded[group.name] != PADDING_ID
            request.update({name: tf.boolean_mask(padded[name], is_there) for name in (group.name, *group.values)})
            lengths = tf.reduce_sum(tf.cast(is_there, tf.int64), axis=1)
            request[group.row_splits] = tf.concat([[tf.constant(0, tf.int64)], tf.cumsum(lengths)], axis=0)
        return request

    def example_features(self) -> dict[str, Any]:
        """The features of `tf.train.Example`s, as `tf.io.parse_example` takes them."""
        features: dict[str, Any] = {}
        for group in self._groups:
            features[group.name] = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
            features.update({name: tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64) for name in group.values})
        for name, tensor in self._others.items():
            dtype = tf.as_dtype(tensor.dtype)
            kind = "string" if dtype == tf.string else "int" if dtype.is_integer or dtype.is_bool else "float"
            features[name] = tf.io.FixedLenFeature(tensor.shape[1:], _EXAMPLE_DTYPES[kind])
        return features

    def parsed(self, texts: tf.Tensor) -> Fed:
        """The inputs of the model from serialised `tf.train.Example`s."""
        parsed = tf.io.parse_example(texts, self.example_features())
        rows = {}
        for group in self._groups:
            ids = rows[group.name] = parsed[group.name]
            for name in group.values:
                same = tf.equal(parsed[name].row_lengths(), ids.row_lengths())
                checked = require(
                    tf.reduce_all(same),
                    f"the features '{group.name}' and '{name}' must have equally many numbers. Received the example",
                    functools.partial(_first_where_not, same),
                )
                with tf.control_dependencies(checked):
                    values = tf.identity(parsed[name].flat_values)  # a cast that changes nothing would be no op that waits
                values = tf.cast(values, group.values_dtype(name))
                rows[name] = ids.with_flat_values(values)
            rows[group.name] = ids.with_flat_values(_narrowed(ids.flat_values, group.dtype))
        others = {name: tf.cast(parsed[name], tensor.dtype) for name, tensor in self._others.items()}
        return self._from_ragged(rows, others)

    def to_examples(self, padded: Request) -> list[bytes]:
        """Serialised `tf.train.Example`s of requests that are `padded`."""
        features = self.example_features()
        in_groups = {name: group.name for group in self._groups for name in (group.name, *group.values)}
        examples = []
        for row in range(int(next(iter(padded.values())).shape[0])):
            example = tf.train.Example()
            for name, feature in features.items():
                own = padded[name][row]
                if name in in_groups:
                    own = tf.boolean_mask(own, padded[in_groups[name]][row] != PADDING_ID)
                field = {tf.string: "bytes_list", tf.int64: "int64_list", tf.float32: "float_list"}[feature.dtype]
                numbers = tf.reshape(tf.cast(own, feature.dtype), [-1]).numpy().tolist()
                getattr(example.features.feature[name], field).value.extend(numbers)
            examples.append(example.SerializeToString(deterministic=True))
        return examples

    def _from_ragged(self, rows: Mapping[str, tf.RaggedTensor], others: Request) -> Fed:
        fed = {id(tensor): others[name] for name, tensor in self._others.items()}
        for group in self._groups:
            fed.update(group.fed(rows[group.name], {name: rows[name] for name in group.values}))
        return fed

    def _ids_of_layers(self, model: keras.Model) -> list[_Ids]:
        tensors = {id(call.ids): call.ids for call in self.calls if call.ids is not None}
        values = {id(call.values) for call in self.calls if call.values is not None}
        taken = {tensor.name for tensor in model.inputs if id(tensor) not in {*tensors, *values}}
        shared = len(tensors) == 1 and len(values) <= 1 and all(call.ids is not None for call in self.calls)
        shared = shared and not taken & {"ids", "values", "row_splits"}
        computed = {id(call.ids) for call in self.calls if call.has_values and call.values is None}
        others = [node for node in nodes_above(model.outputs) if not isinstance(node.operation, RaFMLayer)]
        elsewhere = {id(tensor) for node in others for tensor in node.input_tensors}
        elsewhere.update(id(output) for output in model.outputs)
        groups = []
        for key, tensor in tensors.items():
            name = "ids" if shared else tensor.name
            group = _Ids(tensor, name, "row_splits" if shared else f"{name}_row_splits")
            if group.is_sparse:
                group.values["values" if shared else f"{name}_values"] = None
            for call in self.calls:
                if call.values is not None and call.ids is tensor:
                    group.values["values" if shared else call.values.name] = call.values
            read = {key, *(id(own) for own in group.values.values() if own is not None)}
            # Values that are computed from a dense input are dense, and the ids must be like them.
            group.is_direct = not elsewhere & read and (group.is_sparse or key not in computed)
            groups.append(group)
        return groups


def calls_of(model: keras.Model) -> list[LayerCall]:
    """Where the graph of a functional model calls a `RaFMLayer`.

    Raises:
        ValueError: Nowhere.
    """
    inputs = {id(tensor) for tensor in model.inputs}
    calls = []
    for node in nodes_above(model.outputs):
        if isinstance(node.operation, RaFMLayer):
            ids, values, has_values = _given(node)
            own_ids, own_values = (tensor if id(tensor) in inputs else None for tensor in (ids, values))
            calls.append(LayerCall(node.operation, own_ids, own_values, has_values))
    if not calls:
        raise ValueError(f"{model.name} has no RaFMLayer among its layers")
    return calls


def takes_values(layer: RaFMLayer) -> bool:
    """Whether a layer is anywhere called with values. If it is part of no graph, it may be."""
    nodes = layer._inbound_nodes
    return not nodes or any(_given(node)[2] for node in nodes)


def _given(node: Any) -> tuple[Any, Any, bool]:
    """Ids, values and whether there are some, of a call of a `RaFMLayer`."""
    given = node.arguments.args[0] if node.arguments.args else node.arguments.kwargs["inputs"]
    ids, values = (given["ids"], given.get("values")) if isinstance(given, Mapping) else (given, None)
    return ids, values, values is not None or bool(getattr(ids, "sparse", False))


def _with_equal_rows(request: Request, numbers: Mapping[str, tf.Tensor]) -> Request:
    """The request, of whose parts each has as many samples: anything else might be broadcast."""
    if len(numbers) < 2:
        return request
    together = tf.stack(list(numbers.values()))
    checked = require(
        tf.reduce_all(tf.equal(together, together[0])),
        f"{', '.join(f'`{name}`' for name in numbers)} must be of equally many samples. Received",
        lambda: together,
    )
    with tf.control_dependencies(checked):
        return {name: tf.identity(tensor) for name, tensor in request.items()}


def _other(name: str, tensor: Any) -> NamedSpec:
    return NamedSpec(tf.TensorSpec(tensor.shape, tensor.dtype, name), f"the model's input '{tensor.name}'")


def _checked_splits(splits: tf.Tensor, of: list[tf.Tensor], name: str, names: list[str]) -> tf.Tensor:
    """Row splits that are those of all these tensors."""
    sizes = tf.stack([tf.size(tensor, tf.int64) for tensor in of])
    # With what they have to begin and to end with, of which nothing may be beyond the next.
    around = tf.concat([[tf.constant(0, tf.int64)], splits, [tf.reduce_min(sizes)]], axis=0)
    ends_match = tf.reduce_all(tf.equal(sizes, tf.reduce_max(splits))) & tf.equal(tf.reduce_min(splits), 0)
    checked = require(
        ends_match & tf.reduce_all(around[1:] >= around[:-1]),
        f"`{name}` must ascend from 0 to the size of `{'` and `'.join(names)}`. Received, after these sizes,",
        lambda: tf.concat([sizes, splits], axis=0),
    )
    with tf.control_dependencies(checked):
        return tf.identity(splits)


def _padded(
    ids: tf.RaggedTensor, values: Mapping[str, tf.RaggedTensor], width: int | None, name: str
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """As wide as the model takes them."""
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
    return padded, {key: own.to_tensor(shape=[None, width]) for key, own in values.items()}


def _as_sparse(ids: Any, values: Any, num_columns: int) -> tf.SparseTensor:
    if isinstance(ids, tf.RaggedTensor):
        ids, values = ids.to_tensor(tf.constant(PADDING_ID, ids.dtype)), values.to_tensor()
    kept = tf.where((ids >= 0) & (ids < num_columns))
    indices = tf.stack([kept[:, 0], tf.gather_nd(ids, kept)], axis=1)
    shape = tf.stack([tf.shape(ids, out_type=tf.int64)[0], tf.constant(num_columns, tf.int64)])
    return tf.SparseTensor(indices, tf.gather_nd(values, kept), shape)


def _narrowed(ids: tf.Tensor, dtype: str) -> tf.Tensor:
    """int64 ids as another dtype; those that it can't hold are as unknown as padding."""
    limits = tf.as_dtype(dtype)
    if limits == ids.dtype:
        return ids
    return tf.cast(tf.where((ids >= limits.min) & (ids <= limits.max), ids, PADDING_ID), limits)


def _first_where_not(condition: tf.Tensor) -> tf.Tensor:
    return tf.where(~condition)[0, 0]
