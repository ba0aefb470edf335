"""The context that a `RaFMLayer` is called in.

Keras gives a layer its inputs and the `training` flag. What else the layer needs to know depends on who calls the model: a
training step of `RaFMModel` collects the level scores, and an exporter computes the score from other tables. The caller
passes that in a `CallContext`. A context variable holds it, because Keras's `call` has no argument for it. A lasting
attribute of the layer would be wrong: a call may fail, and the replicas of a distribution strategy trace the same layer in
several threads.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

#: Layer name -> its level scores `ŷ_1 … ŷ_m`, each `[B, 1]`, with the gradients of `interactions.imitating_scores`.
LevelScores = dict[str, list[tf.Tensor]]

#: A layer and its inputs -> the score `[B]` in an exported model, or `None` if the layer is to compute it itself.
ServedScore = Callable[[Any, Any], tf.Tensor | None]


@dataclasses.dataclass(frozen=True)
class CallContext:
    """What the caller of a model tells the `RaFMLayer`s inside.

    Attributes:
        level_scores: Where layers that are called in training mode put their level scores. A layer then adds no lower loss
            of its own, so that no lower loss counts twice. `None`: nobody collects them. Set by `RaFMModel.train_step`.
        batch_size: The number of samples that a replica's batches have in training; the last batch of an epoch may be
            smaller. `None`: unknown. Set by `RaFMModel.train_step`.
        may_be_saved: Whether the graph being made may become part of a SavedModel although it has gradients. Set by a layer
            that is called outside training.
        is_serving: Whether the graph being made is that of an exported model: unknown ids contribute nothing, and nothing
            has a gradient. Set by `RaFMModel.export` and `keras_rafm.export`.
        served_score: Computes the scores of layers in an exported model. Set by `keras_rafm.export`.
    """

    level_scores: LevelScores | None = None
    batch_size: int | None = None
    may_be_saved: bool = False
    is_serving: bool = False
    served_score: ServedScore | None = None


_DEFAULT = CallContext()
_current: contextvars.ContextVar[CallContext] = contextvars.ContextVar("call_context", default=_DEFAULT)


def current_context() -> CallContext:
    """Return the context of this thread."""
    return _current.get()


@contextlib.contextmanager
def call_context(**changes: Any) -> Iterator[CallContext]:
    """Change fields of this thread's `CallContext` within a `with` block.

    Args:
        **changes: The fields to change, by name.
    """
    token = _current.set(dataclasses.replace(_current.get(), **changes))
    try:
        yield _current.get()
    finally:
        _current.reset(token)
