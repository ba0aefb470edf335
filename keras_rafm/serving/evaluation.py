"""The compiled loss of a model and of its exported form, on the same data."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_rafm.serving.served_model import ServedModel

_ROWS_AT_ONCE = 4096


def compare_losses(model: keras.Model, graph: keras.Model, served: ServedModel, inputs: Any, labels: Any) -> dict[str, Any]:
    """Return the compiled loss, without regularisation, of a model and of its form for serving.

    Args:
        model: The model.
        graph: Its functional graph.
        served: Its form for serving.
        inputs: Inputs as `model.evaluate` takes them.
        labels: Labels as `model.evaluate` takes them.

    Returns:
        The number of `samples`, and the losses `trained` and `exported`.

    Raises:
        RuntimeError: The model was not compiled with a loss.
        ValueError: The inputs are not those of the model.
    """
    if not model.compiled or model.loss is None:
        raise RuntimeError("the model must be compiled with a loss for an evaluation. Received: a model without a loss")
    input_values = served.inputs.from_model_inputs(inputs)
    # `tf.data` would stack a list into one tensor.
    labels_are_list = isinstance(labels, list) and len(graph.outputs) > 1
    slices = (tuple(input_values[id(tensor)] for tensor in graph.inputs), tuple(labels) if labels_are_list else labels)
    losses = {"trained": keras.metrics.Mean(), "exported": keras.metrics.Mean()}
    num_samples = 0
    for values, batch_labels in tf.data.Dataset.from_tensor_slices(slices).batch(_ROWS_AT_ONCE):
        y = list(batch_labels) if labels_are_list else batch_labels
        batch_size = int(tf.shape(tf.nest.flatten(y)[0])[0])
        batch_values = {id(tensor): value for tensor, value in zip(graph.inputs, values, strict=True)}
        exported = keras.tree.pack_sequence_as(graph.output, served.raw_outputs(batch_values))
        trained = graph(keras.tree.pack_sequence_as(graph.input, list(values)), training=False)
        for name, predicted in (("trained", trained), ("exported", exported)):
            regularisation = sum(model.losses, start=tf.constant(0.0))
            loss = model.compute_loss(y=y, y_pred=predicted, training=False) - regularisation
            losses[name].update_state(loss, sample_weight=batch_size)
        num_samples += batch_size
    return {"samples": num_samples, **{name: float(mean.result()) for name, mean in losses.items()}}
