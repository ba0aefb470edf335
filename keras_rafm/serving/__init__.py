"""Serving: `keras_rafm.export` and the parts of it.

`export` is a list of steps, and each module here is one of them: `functional_graph` (in `training`), `version_directory`,
`served_model` with `model_inputs` and `served_layer`, `raw_inputs`, `evaluation`, `signatures`, `saved_model`, `warm_up`
and `model_card`.
"""

from keras_rafm.serving.model_card import load_model_card

__all__ = ["load_model_card"]
