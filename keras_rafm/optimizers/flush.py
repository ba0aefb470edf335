"""`FlushIdleDecay`: settled tables for callbacks, validation and prediction in any Keras model."""

from __future__ import annotations

from typing import Any

import keras

from keras_rafm.rows.idle_decay import settle


class FlushIdleDecay(keras.callbacks.Callback):
    """Apply pending decay to all rows before validation, before prediction and at the end of every epoch.

    Use it with an optimizer of this package in models other than `RaFMModel`, which does this itself. Put it before
    callbacks that read weights.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Settle all tables before validation."""
        self._settle_tables()

    def on_predict_begin(self, logs: Any = None) -> None:
        """Settle all tables before prediction."""
        self._settle_tables()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Settle all tables before other callbacks read weights."""
        self._settle_tables()

    def _settle_tables(self) -> None:
        settle(self.model.trainable_variables)
