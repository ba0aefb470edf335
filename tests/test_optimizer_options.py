"""Options of the optimizers: saved and restored configurations, and values that are refused."""

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_steps import BATCHES, FTRL, eager_and_graph, normal, slices, stepper, table

import keras_rafm as kr

SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)


#: Optimizer classes with options that all differ from the defaults.
MADE: dict[str, tuple[Any, dict[str, Any]]] = {
    "lazy_adam": (
        kr.optimizers.LazyAdam,
        {"learning_rate": 0.25, "idle_decay": 1.5, "beta_1": 0.75, "beta_2": 0.5, "epsilon": 0.01, "name": "one"},
    ),
    "sparse_adagrad": (
        kr.optimizers.SparseAdagrad,
        {"learning_rate": 0.25, "initial_accumulator_value": 0.5, "epsilon": 0.2, "idle_decay": 1.5, "clipvalue": 0.5},
    ),
    "sparse_ftrl": (
        kr.optimizers.SparseFtrl,
        {"learning_rate": 0.25, "global_clipnorm": 2.0, "name": "two", **FTRL["everything"]},
    ),
    "clipnorm": (kr.optimizers.LazyAdam, {"learning_rate": 0.25, "clipnorm": 0.5, "loss_scale_factor": 2.0}),
}


REMAKES: dict[str, Callable[[Any], Any]] = {
    "from_config": lambda optimizer: type(optimizer).from_config(optimizer.get_config()),
    "serialize": lambda optimizer: keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
    "json": lambda optimizer: keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(optimizer)))),
    "get": lambda optimizer: keras.optimizers.get(keras.optimizers.serialize(optimizer)),
}


class TestConfig:
    @pytest.mark.parametrize(("kind", "options"), MADE.values(), ids=MADE)
    @pytest.mark.parametrize("remake", REMAKES.values(), ids=REMAKES)
    def test_round_trip(self, kind: Any, options: dict[str, Any], remake: Callable[[Any], Any]) -> None:
        optimizer = kind(**options)
        remade = remake(optimizer)
        assert type(remade) is kind
        assert remade.get_config() == optimizer.get_config()
        assert optimizer.get_config() == optimizer.get_config() | options

    @pytest.mark.parametrize("kind", ["lazy_adam", "sparse_adagrad", "sparse_ftrl"])
    def test_remade_optimizers_train_as_the_first(self, kind: str) -> None:
        make, options = MADE[kind]
        optimizer = make(**options)
        optimizers = [optimizer, *(remake(optimizer) for remake in REMAKES.values())]
        weights = []
        for each in optimizers:
            variable = table(normal(1, 7, 3))
            for seed, rows in enumerate(BATCHES):
                each.apply([slices(rows, (7, 3), seed)], [variable])
            each.flush()
            weights.append(variable.numpy())
        for other in weights[1:]:
            assert np.array_equal(weights[0], other)

    @pytest.mark.parametrize("kind", ["lazy_adam", "sparse_adagrad", "sparse_ftrl"])
    @pytest.mark.parametrize("remake", [REMAKES["from_config"], REMAKES["json"]], ids=["from_config", "json"])
    def test_schedule(self, kind: str, remake: Callable[[Any], Any]) -> None:
        make, options = MADE[kind]
        optimizer = make(**{**options, "learning_rate": SCHEDULE})
        remade = remake(optimizer)
        assert remade.get_config() == optimizer.get_config()
        variable = table(normal(1, 7, 3))
        for seed, rows in enumerate(BATCHES):
            assert float(remade.learning_rate) == pytest.approx(0.1 * 0.5 ** (seed / 2))
            remade.apply([slices(rows, (7, 3), seed)], [variable])

    @pytest.mark.parametrize("kind", ["lazy_adam", "sparse_adagrad", "sparse_ftrl"])
    def test_refused_options_are_not_in_the_config(self, kind: str) -> None:
        make, options = MADE[kind]
        refused = {"weight_decay", "use_ema", "ema_momentum", "gradient_accumulation_steps", "amsgrad"}
        assert not refused & make(**options).get_config().keys()


class TestRefused:
    KINDS = pytest.mark.parametrize(
        "make",
        [kr.optimizers.LazyAdam, kr.optimizers.SparseAdagrad, kr.optimizers.SparseFtrl],
        ids=["lazy_adam", "sparse_adagrad", "sparse_ftrl"],
    )
    DECAYING = pytest.mark.parametrize(
        "make", [kr.optimizers.LazyAdam, kr.optimizers.SparseAdagrad], ids=["lazy_adam", "sparse_adagrad"]
    )

    @KINDS
    @pytest.mark.parametrize(
        "option",
        [{"weight_decay": 0.1}, {"use_ema": True}, {"gradient_accumulation_steps": 2}],
        ids=lambda option: next(iter(option)),
    )
    def test_options_that_touch_whole_tables(self, make: Callable[..., Any], option: dict[str, Any]) -> None:
        (name,) = option
        with pytest.raises(ValueError, match=f"{make.__name__} has no `{name}`"):
            make(0.1, **option)

    def test_amsgrad(self) -> None:
        with pytest.raises(ValueError, match="LazyAdam has no `amsgrad`"):
            kr.optimizers.LazyAdam(0.1, amsgrad=True)

    @pytest.mark.parametrize(("start", "epsilon"), [(0.0, 0.0), (-0.1, 0.05), (float("nan"), 0.1)])
    def test_adagrad_that_divides_zero_by_zero(self, start: float, epsilon: float) -> None:
        with pytest.raises(
            ValueError, match=r"`initial_accumulator_value` plus `epsilon` must be greater than 0\. Received: "
        ):
            kr.optimizers.SparseAdagrad(0.1, initial_accumulator_value=start, epsilon=epsilon)

    @KINDS
    def test_unknown_options(self, make: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="bta_1"):
            make(0.1, bta_1=0.5)

    @DECAYING
    @pytest.mark.parametrize(
        "value", [-0.1, float("nan"), float("inf"), float("-inf"), True, False, "0.1", None, [0.1]], ids=str
    )
    def test_idle_decay_that_is_not_a_finite_number_of_at_least_0(self, make: Callable[..., Any], value: Any) -> None:
        with pytest.raises(ValueError, match="`idle_decay` must be a finite number of at least 0"):
            make(0.1, idle_decay=value)

    @DECAYING
    @pytest.mark.parametrize("idle_decay", [4.0, 5.0])
    def test_idle_decay_that_would_change_signs(self, make: Callable[..., Any], idle_decay: float) -> None:
        for construct in (
            lambda: make(0.25, idle_decay=idle_decay),
            lambda: make(learning_rate=0.25, idle_decay=idle_decay),
        ):
            with pytest.raises(ValueError, match="`idle_decay` times `learning_rate` must be less than 1"):
                construct()
        make(0.25, idle_decay=3.9)

    @eager_and_graph
    @DECAYING
    @pytest.mark.parametrize("rate", [0.5, 3.0])
    def test_schedule_that_would_change_signs(self, how: str, make: Callable[..., Any], rate: float) -> None:
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, rate])
        variable = table(normal(1, 7, 3))
        optimizer = make(schedule, idle_decay=2.0)
        step = stepper(optimizer, [variable], how)
        for seed in range(2):
            step([slices([1, 2], (7, 3), seed)])
        before = variable.numpy()
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="`idle_decay` times the learning rate must be less than 1"
        ):
            step([slices([1, 2], (7, 3), 2)])
        optimizer.flush()
        assert np.all(np.isfinite(variable.numpy()))
        assert np.array_equal(variable.numpy()[[1, 2]], before[[1, 2]])

    @eager_and_graph
    def test_learning_rate_that_would_change_signs(self, how: str) -> None:
        optimizer = kr.optimizers.LazyAdam(0.1, idle_decay=2.0)
        step = stepper(optimizer, [table(normal(1, 7, 3))], how)
        step([slices([1], (7, 3), 0)])
        optimizer.learning_rate = 0.6
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="`idle_decay` times the learning rate must be less than 1"
        ):
            step([slices([1], (7, 3), 0)])

    @DECAYING
    def test_decay_of_a_table_with_a_constraint(self, make: Callable[..., Any]) -> None:
        layer = keras.layers.Embedding(5, 2, embeddings_constraint="non_neg", name="positive")
        layer.build()
        gradient = slices([1, 3], (5, 2), 0)
        with pytest.raises(ValueError, match=r"can't decay positive/embeddings, which has a constraint"):
            make(0.1, idle_decay=0.3).apply([gradient], layer.trainable_variables)
        make(0.1, idle_decay=0.0).apply([gradient], layer.trainable_variables)
        excluding = make(0.1, idle_decay=0.3)
        excluding.exclude_from_weight_decay(var_names=["embeddings"])
        excluding.apply([gradient], layer.trainable_variables)
        assert np.all(layer.get_weights()[0] >= 0)

    @DECAYING
    def test_kernel_with_a_constraint_is_accepted(self, make: Callable[..., Any]) -> None:
        """A kernel never decays, because its gradient is dense."""
        layer = keras.layers.Dense(2, kernel_constraint="non_neg")
        layer.build((None, 5))
        make(0.1, idle_decay=0.3).apply([tf.ones([5, 2]), tf.ones([2])], layer.trainable_variables)
        assert np.all(layer.get_weights()[0] >= 0)

    def test_decay_with_ftrl(self) -> None:
        with pytest.raises(ValueError, match="SparseFtrl has no `idle_decay`"):
            kr.optimizers.SparseFtrl(0.1, idle_decay=0.1)
