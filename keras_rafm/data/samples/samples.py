"""Samples in memory: ids, values and labels as NumPy arrays, and batches of them for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import integer
from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.samples.array_batches import (
    Orders,
    declare_batch_size,
    declare_endless,
    gathered_batches,
    on_cpu,
    read_ahead,
)

IdArray = npt.NDArray[np.signedinteger[Any]]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """`N` samples of up to `F` occurrences (feature id, value) each, with their labels.

    Args:
        ids: Feature ids, int32 or int64 `[N, F]`. Shorter samples are padded with -1 at the end of their rows.
        values: The value of each occurrence, float32 `[N, F]`; 0 where `ids` is padding.
        labels: float32 `[N]`; 0 or 1 for classification.

    Raises:
        TypeError: An argument is not a NumPy array of its dtype.
        ValueError: Shapes do not match, an id is below -1, padding is followed by an occurrence or has a value other than
            0, or a value or label is NaN or infinite.
    """

    ids: IdArray
    values: FloatArray
    labels: FloatArray

    def __post_init__(self) -> None:
        _check_dtype("ids", self.ids, np.int32, np.int64)
        _check_dtype("values", self.values, np.float32)
        _check_dtype("labels", self.labels, np.float32)
        _check_shapes(self.ids, self.values, self.labels)
        _check_padding(self.ids, self.values)
        _check_finite("values", self.values)
        _check_finite("labels", self.labels)

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, indices: slice | npt.ArrayLike) -> Samples:
        return self.take(indices)

    def __repr__(self) -> str:
        return f"Samples({len(self):,} samples, {self.num_fields} fields, {self.ids.dtype} ids)"

    @property
    def num_fields(self) -> int:
        """`F`: the number of occurrences in the longest sample, or more if the rows are padded further."""
        return self.ids.shape[1]

    @property
    def one_hot(self) -> bool:
        """Whether every occurrence has the value 1, so that a model needs no `values`."""
        return bool(np.all((self.values == 1) | (self.ids == PADDING_ID)))

    def take(self, indices: slice | npt.ArrayLike) -> Samples:
        """Return some of the samples; `samples[…]` is the same.

        Args:
            indices: A slice, an int array `[M]` or a bool mask `[N]`.

        Raises:
            IndexError: `indices` are not one-dimensional, not ints or bools, or out of range.
        """
        if not isinstance(indices, slice):
            indices = np.asarray(indices)
            if indices.ndim != 1:
                raise IndexError(
                    "`indices` must be a slice or a one-dimensional array (`samples[i : i + 1]` is one sample). "
                    f"Received: shape {indices.shape}"
                )
            if indices.size == 0:
                indices = indices.astype(np.intp)
        return Samples(self.ids[indices], self.values[indices], self.labels[indices])

    def padded(self, num_fields: int) -> Samples:
        """Return the samples with rows padded to `num_fields`, so that sets of different width can share a model.

        Raises:
            TypeError: `num_fields` is not an integer.
            ValueError: `num_fields` is less than `self.num_fields`.
        """
        missing = integer(num_fields, "num_fields", at_least=1) - self.num_fields
        if missing < 0:
            raise ValueError(f"`num_fields` must be at least {self.num_fields}. Received: num_fields={num_fields}")
        columns = ((0, 0), (0, missing))
        return Samples(np.pad(self.ids, columns, constant_values=PADDING_ID), np.pad(self.values, columns), self.labels)

    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        """Return `{"ids": ids, "values": values}`, the input of a layer or model. The arrays are not copied."""
        return {"ids": self.ids, "values": self.values}

    def dataset(
        self,
        batch_size: int,
        shuffle: bool = False,
        seed: int | None = None,
        drop_remainder: bool = False,
        with_values: bool = True,
    ) -> tf.data.Dataset:
        """Return batches of the samples for `fit`, `evaluate` or `predict`.

        Models accept the batches without a warning if their input is a dict:
        `RaFMModel({"ids": ids, "values": values}, …)`, or `RaFMModel({"ids": ids}, …)` without values. When Keras reads
        the dataset itself (with a `keras.Model`, `evaluate` or a distribution strategy), it warns that it can't shuffle it;
        `fit(…, shuffle=False)` avoids this.

        Args:
            batch_size: `B`, samples per batch.
            shuffle: Put the samples in a new order in every iteration over the dataset.
            seed: Makes the sequence of orders reproducible: the order of the first iteration over a dataset, of the second,
                and so on depends on nothing else (except possibly the version of TensorFlow). `RaFMModel.fit` uses one
                order per epoch of its argument `epochs`, even if it stops early. `None`: a different sequence each time.
            drop_remainder: Leave out a last batch of fewer than `batch_size` samples.
            with_values: `False` leaves out the values, for a model that takes ids alone.

        Returns:
            A `tf.data.Dataset` of `({"ids": [B, F], "values": float32 [B, F]}, labels float32 [B, 1])` with known
            cardinality. The `ids` have the dtype of the samples.

        Raises:
            TypeError: `batch_size` is not an integer.
            ValueError: `batch_size` is less than 1.
        """
        size = integer(batch_size, "batch_size", at_least=1)
        inputs = self.inputs() if with_values else {"ids": self.ids}
        arrays = on_cpu((inputs, self.labels[:, np.newaxis]))
        orders = Orders(seed) if shuffle else None

        def batches(epochs: int | None) -> tf.data.Dataset:
            return read_ahead(
                gathered_batches(
                    arrays, len(self), batch_size=size, drop_remainder=drop_remainder, orders=orders, epochs=epochs
                )
            )

        return declare_batch_size(declare_endless(batches(None), batches), size)


def _check_dtype(name: str, array: object, *dtypes: type[np.generic]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype not in dtypes:
        expected = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        received = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"`{name}` must be a NumPy array of {expected}. Received: {received}")


def _check_shapes(ids: IdArray, values: FloatArray, labels: FloatArray) -> None:
    if ids.ndim != 2:
        raise ValueError(f"`ids` must be of shape [N, F]. Received: shape {ids.shape}")
    if values.shape != ids.shape:
        raise ValueError(f"`values` must be of the shape of `ids`, {ids.shape}. Received: shape {values.shape}")
    if labels.shape != ids.shape[:1]:
        raise ValueError(
            f"`labels` must be of shape [{ids.shape[0]}], one per row of `ids`. Received: shape {labels.shape}"
        )


def _check_padding(ids: IdArray, values: FloatArray) -> None:
    if ids.size == 0 or ids.min() >= 0:
        return
    negative = np.argwhere(ids < PADDING_ID)
    if negative.size:
        row, column = negative[0]
        raise ValueError(f"`ids` must be at least 0, or -1 for padding. Received: ids[{row}, {column}]={ids[row, column]}")
    is_padding = ids == PADDING_ID
    gaps = np.argwhere(is_padding[:, :-1] & ~is_padding[:, 1:])
    if gaps.size:
        row, column = gaps[0]
        raise ValueError(
            f"`ids` must have padding (-1) at the end of a row only. Received: ids[{row}, {column}]=-1 "
            f"before ids[{row}, {column + 1}]={ids[row, column + 1]}"
        )
    padding_with_value = np.argwhere(is_padding & (values != 0))
    if padding_with_value.size:
        row, column = padding_with_value[0]
        raise ValueError(
            f"`values` must be 0 where `ids` is padding (-1). Received: values[{row}, {column}]={values[row, column]}"
        )


def _check_finite(name: str, array: FloatArray) -> None:
    positions = np.argwhere(~np.isfinite(array))
    if positions.size:
        indices = ", ".join(map(str, positions[0]))
        raise ValueError(f"`{name}` must be finite. Received: {name}[{indices}]={array[tuple(positions[0])]}")
