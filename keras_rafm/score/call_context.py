"""What a `RaFMLayer` is told about the call it is in.

Told per call and per thread (each replica of a distribution strategy traces in its own), never by a lasting flag.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

#: Name of the layer -> its `ŷ_1 … ŷ_m`, each `[B, 1]`, with the gradients of `interactions.imitating_scores`.
LevelScores = dict[str, list[tf.Tensor]]

#: Of a layer and its inputs: the score `[B]` that it has in an exported model, or `None` if that is computed as ever.
ServedScore = Callable[[Any, Any], tf.Tensor | None]

_recording: contextvars.ContextVar[LevelScores | None] = contextvars.ContextVar("level_scores", default=None)
_inference: contextvars.ContextVar[bool] = contextvars.ContextVar("inference", default=False)
_serving: contextvars.ContextVar[ServedScore | None] = contextvars.ContextVar("serving", default=None)
_batch_size: contextvars.ContextVar[int | None] = contextvars.ContextVar("batch_size", default=None)


@contextlib.contextmanager
def recording_level_scores() -> Iterator[LevelScores]:
    """Collect the level scores of every `RaFMLayer` that is called in training mode inside.

    A layer hands them over instead of adding a loss of its own, so that no lower loss is ever counted twice.
    """
    recorded: LevelScores = {}
    token = _recording.set(recorded)
    try:
        yield recorded
    finally:
        _recording.reset(token)


def active_recording() -> LevelScores | None:
    """The innermost open recording of this thread, or `None`."""
    return _recording.get()


def _as_ever(layer: Any, inputs: Any) -> None:
    del layer, inputs


@contextlib.contextmanager
def serving(score: ServedScore = _as_ever) -> Iterator[None]:
    """Inside, graphs are made for an exported model: unknown ids contribute nothing, and nothing has a gradient.

    Args:
        score: Computes the scores of layers.
    """
    token = _serving.set(score)
    try:
        yield
    finally:
        _serving.reset(token)


@contextlib.contextmanager
def inference() -> Iterator[None]:
    """Inside, graphs are made that may be put into a SavedModel, and yet have gradients."""
    token = _inference.set(True)
    try:
        yield
    finally:
        _inference.reset(token)


@contextlib.contextmanager
def batches_of(size: int | None) -> Iterator[None]:
    """Inside, a replica trains on batches of this size, the last one of an epoch perhaps smaller."""
    token = _batch_size.set(size)
    try:
        yield
    finally:
        _batch_size.reset(token)


def expected_batch_size() -> int | None:
    """What `batches_of` says."""
    return _batch_size.get()


def is_inference() -> bool:
    """Whether the graph being made may be put into a SavedModel."""
    return _inference.get()


def is_serving() -> bool:
    """Whether the graph being made is that of an exported model."""
    return _serving.get() is not None


def served_score(layer: Any, inputs: Any) -> tf.Tensor | None:
    """What `serving` says of a layer's score, `[B]`; `None` outside of it, or if the layer is to compute it."""
    score = _serving.get()
    return None if score is None else score(layer, inputs)
