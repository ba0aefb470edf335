"""`RaFMModel` in training: its logs against hand-computed losses, its steps against those of plain Keras.

The part of the model below the score has tests of its own in test_downstream.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

PLAN = kr.RankPlan([3, 1, 2, 2, 1, 3, 1, 1, 2], ranks=(2, 3, 4))
GENERATOR = np.random.default_rng(0)
IDS = GENERATOR.integers(-1, PLAN.num_features, (24, 4)).astype("int32")
IDS[0] = [5, 5, 0, 5]
LABELS = GENERATOR.integers(0, 2, (24, 1)).astype("float32")
SAMPLE_WEIGHT = GENERATOR.uniform(0.2, 3.0, 24).astype("float32")
LOGITS_LOSS = keras.losses.BinaryCrossentropy(from_logits=True)


@pytest.fixture
def mixed_float16() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def make_layer(name: str = "rafm", plan: kr.RankPlan = PLAN, **options: Any) -> kr.RaFMLayer:
    options = {
        "factors_initializer": keras.initializers.RandomNormal(stddev=0.4),
        "linear_initializer": keras.initializers.RandomNormal(stddev=0.4, seed=3),
        "factors_l2": 0.0,
        "seed": 5,
        **options,
    }
    return kr.RaFMLayer(plan, name=name, **options)


def make_model(activation: str | None = None, **options: Any) -> kr.RaFMModel:
    ids = keras.Input((4,), dtype="int32", name="ids")
    score = make_layer(**options)(ids)
    return kr.RaFMModel(ids, score if activation is None else keras.layers.Activation(activation, name="top")(score))


def compiled(loss: Any = LOGITS_LOSS, optimizer: Any = None, run_eagerly: bool = True, **options: Any) -> kr.RaFMModel:
    """A compiled model. For a step or two, running eagerly is twenty times faster than tracing (see `TestExecution`)."""
    model = make_model(**options)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, run_eagerly=run_eagerly)
    return model


def layer_of(model: kr.RaFMModel, name: str = "rafm") -> kr.RaFMLayer:
    return model.get_layer(name)


def level_scores(model: kr.RaFMModel, ids: np.ndarray = IDS) -> list[np.ndarray]:
    """`ŷ_1 … ŷ_m` of every sample, float64."""
    return list(layer_of(model).level_scores(ids).numpy().astype("float64").T)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cross_entropy(target: np.ndarray, logit: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logit) - target * logit


def log_loss_imitation(next_score: np.ndarray, score: np.ndarray) -> np.ndarray:
    return cross_entropy(sigmoid(next_score), score)


def squared_imitation(next_score: np.ndarray, score: np.ndarray) -> np.ndarray:
    return (next_score - score) ** 2


def weights_by_name(model: kr.RaFMModel) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.weights}


def assert_same_weights(one: keras.Model, other: keras.Model, atol: float = 1e-6) -> None:
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=atol, err_msg=a.path)


def moved(before: dict[str, np.ndarray], model: kr.RaFMModel) -> set[str]:
    """Names of the weights that are not what they were."""
    after = weights_by_name(model)
    return {path.split("/", 1)[-1] for path in before if not np.array_equal(before[path], after[path])}


class TestLogs:
    def test_fit_lowers_the_loss(self) -> None:
        model = compiled(optimizer=keras.optimizers.Adam(0.05), dependent_loss_weight=0.5, run_eagerly=False)
        losses = model.fit(IDS, LABELS, batch_size=8, epochs=15, verbose=0).history["loss"]
        assert losses[-1] < 0.5 * losses[0]

    def test_names(self) -> None:
        model = make_model()
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0)
        model.compile("sgd", LOGITS_LOSS, metrics=[accuracy], run_eagerly=True)
        history = model.fit(IDS, LABELS, validation_data=(IDS, LABELS), verbose=0).history
        assert set(history) == {
            "loss",
            "dependent_loss_1",
            "dependent_loss_2",
            "accuracy",
            "val_loss",
            "val_accuracy",
        }
        assert set(model.evaluate(IDS, LABELS, verbose=0, return_dict=True)) == {"loss", "accuracy"}

    def test_names_stay_after_compiling_again(self) -> None:
        model = compiled()
        model.compile("sgd", LOGITS_LOSS, run_eagerly=True)
        assert set(model.fit(IDS, LABELS, verbose=0).history) == {"loss", "dependent_loss_1", "dependent_loss_2"}

    @pytest.mark.parametrize("scope", ["tables", "batch"])
    def test_loss_is_the_compiled_loss_plus_regularisation(self, scope: str) -> None:
        ids = np.array([[5, 2, 1, -1], [5, 5, 3, 0]], "int32")
        l2 = (0.1, 0.2, 0.3)
        model = compiled(factors_l2=l2, linear_l2=0.05, factors_l2_scope=scope, dependent_loss_weight=100.0)
        layer = layer_of(model)
        read = [0, 1, 2, 3, 5] if scope == "batch" else range(PLAN.num_features)
        expected = np.mean(cross_entropy(LABELS[:2, 0], level_scores(model, ids)[-1]))
        expected += 0.05 * np.sum(layer.linear()[list(read)] ** 2)
        for level, strength in enumerate(l2, start=1):
            features, factors = layer.factors(level)
            expected += strength * np.sum(factors[np.isin(features, read)] ** 2)
        evaluated = model.evaluate(ids, LABELS[:2], verbose=0)
        trained = model.train_on_batch(ids, LABELS[:2], return_dict=True)
        assert evaluated == pytest.approx(expected, rel=1e-5)
        assert trained["loss"] == pytest.approx(expected, rel=1e-5)

    def test_evaluate_gives_values_in_the_order_of_keras(self) -> None:
        model = make_model()
        model.compile("sgd", LOGITS_LOSS, metrics=[keras.metrics.MeanAbsoluteError(name="mae")], run_eagerly=True)
        score = level_scores(model)[-1]
        loss, mae = model.evaluate(IDS, LABELS, batch_size=10, verbose=0)
        assert loss == pytest.approx(np.mean(cross_entropy(LABELS[:, 0], score)), rel=1e-5)
        assert mae == pytest.approx(np.mean(np.abs(score - LABELS[:, 0])), rel=1e-5)

    def test_loss_of_an_epoch_is_a_mean_over_samples(self) -> None:
        model = compiled(optimizer=keras.optimizers.SGD(0.0))
        expected = np.mean(cross_entropy(LABELS[:, 0], level_scores(model)[-1]))
        history = model.fit(IDS, LABELS, batch_size=20, shuffle=False, verbose=0).history  # 20 and 4
        assert history["loss"] == pytest.approx([expected], rel=1e-5)

    def test_one_level_has_no_dependent_loss(self) -> None:
        model = compiled(plan=kr.RankPlan([1] * PLAN.num_features, ranks=(4,)))
        plain = keras.Model(model.input, model.output)
        before = model.get_weights()
        history = model.fit(IDS, LABELS, batch_size=8, shuffle=False, verbose=0).history
        trained = model.get_weights()
        model.set_weights(before)
        plain.compile(keras.optimizers.SGD(0.1), LOGITS_LOSS, run_eagerly=True)
        plain.fit(IDS, LABELS, batch_size=8, shuffle=False, verbose=0)
        assert set(history) == {"loss"}
        for one, other in zip(trained, plain.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


IMITATIONS: list[Any] = [
    pytest.param(keras.losses.BinaryCrossentropy(from_logits=True), None, log_loss_imitation, id="logits"),
    pytest.param(keras.losses.BinaryCrossentropy(), "sigmoid", log_loss_imitation, id="probabilities"),
    pytest.param("binary_crossentropy", "sigmoid", log_loss_imitation, id="name"),
    pytest.param(keras.losses.binary_crossentropy, "sigmoid", log_loss_imitation, id="function"),
    pytest.param(
        keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.3), None, log_loss_imitation, id="smoothing"
    ),
    pytest.param(keras.losses.MeanSquaredError(), None, squared_imitation, id="squared"),
    pytest.param("mse", None, squared_imitation, id="squared_name"),
    pytest.param(keras.losses.Huber(delta=0.1), None, squared_imitation, id="other"),
    pytest.param(lambda y, p: tf.reduce_mean(tf.abs(y - p), axis=-1), None, squared_imitation, id="own_function"),
]


class TestDependentLoss:
    @pytest.mark.parametrize(("loss", "activation", "imitation"), IMITATIONS)
    def test_is_the_imitation_of_the_next_level(
        self, loss: Any, activation: str | None, imitation: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> None:
        # Batches of 10, 10 and 4: the epoch's log is a mean over samples, not over batches.
        model = compiled(loss, keras.optimizers.SGD(0.0), activation=activation)
        history = model.fit(IDS, LABELS, batch_size=10, verbose=0).history
        one, two, three = level_scores(model)
        assert history["dependent_loss_1"] == pytest.approx([np.mean(imitation(two, one))], rel=1e-4)
        assert history["dependent_loss_2"] == pytest.approx([np.mean(imitation(three, two))], rel=1e-4)

    def test_weight_is_not_in_the_log(self) -> None:
        logs = [
            compiled(dependent_loss_weight=weight).train_on_batch(IDS, LABELS, return_dict=True) for weight in (0.5, 7.0)
        ]
        assert logs[0] == logs[1]

    @pytest.mark.parametrize(("loss", "weight"), [(LOGITS_LOSS, 4.0), (keras.losses.MeanSquaredError(), 1.0)])
    def test_auto_weight_depends_on_the_loss(self, loss: keras.losses.Loss, weight: float) -> None:
        by_default, explicit = compiled(loss), compiled(loss, dependent_loss_weight=weight)
        for model in (by_default, explicit):
            model.train_on_batch(IDS, LABELS)
        assert_same_weights(by_default, explicit)

    @pytest.mark.parametrize(
        ("loss", "activation"),
        [
            (keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.3), None),
            (keras.losses.BinaryCrossentropy(label_smoothing=0.3), "sigmoid"),
            (keras.losses.MeanSquaredError(), None),
        ],
    )
    def test_perfect_imitation_has_no_gradient(self, loss: keras.losses.Loss, activation: str | None) -> None:
        # Without two features above a level in a sample, ŷ_k = ŷ_{k+1}.
        perfect = np.array([[0, 1, 4, 6], [2, 1, 7, -1], [5, 4, -1, -1]], "int32")
        model = compiled(
            loss, activation=activation, dependent_gradient="lower", dependent_loss_weight=10.0, use_linear=False
        )
        scores = level_scores(model, perfect)
        np.testing.assert_allclose(scores[0], scores[2], atol=1e-6)
        before = weights_by_name(model)
        model.train_on_batch(perfect, LABELS[:3])
        for table in layer_of(model).dependent_tables:
            np.testing.assert_allclose(table.numpy(), before[table.path], rtol=0, atol=1e-6)
        assert moved(before, model) >= {"free_1", "bias"}

        model.train_on_batch(np.array([[0, 2, 4, 6]], "int32"), LABELS[:1])  # two features above level 1
        assert np.max(np.abs(layer_of(model).dependent_tables[0].numpy() - before["rafm/dependent_1"])) > 1e-3

    @pytest.mark.parametrize("level", [1, 2])
    @pytest.mark.parametrize("loss", [LOGITS_LOSS, keras.losses.MeanSquaredError()], ids=["log_loss", "squared"])
    def test_of_a_level_moves_the_dependent_factors_of_that_level_alone(self, level: int, loss: keras.losses.Loss) -> None:
        """Not those of the next level, which it imitates, and not those of the levels below."""
        without = compiled(loss, dependent_loss_weight=0.0)
        with_it = compiled(loss, dependent_loss_weight=(5.0, 0.0) if level == 1 else (0.0, 5.0))
        for model in (without, with_it):
            model.train_on_batch(IDS, LABELS)
        expected = weights_by_name(without)
        differing = {
            path
            for path, value in weights_by_name(with_it).items()
            if not np.allclose(value, expected[path], rtol=0, atol=1e-6)
        }
        assert differing == {"rafm/linear", "rafm/bias", f"rafm/dependent_{level}"}

    def test_in_mode_upper_is_logged_and_moves_nothing(self) -> None:
        model, ablated = compiled(dependent_gradient="upper"), compiled(dependent_loss_weight=0.0)
        one, two, _ = level_scores(model)
        logs = model.train_on_batch(IDS, LABELS, return_dict=True)
        ablated.train_on_batch(IDS, LABELS)
        assert logs["dependent_loss_1"] == pytest.approx(np.mean(log_loss_imitation(two, one)), rel=1e-5)
        assert_same_weights(model, ablated)


class TestWeightsAndReductions:
    @pytest.mark.parametrize(
        ("reduction", "divisor"),
        [
            ("sum", 1.0),
            ("sum_over_batch_size", 24.0),
            ("mean", 24.0),
            ("mean_with_sample_weight", float(np.sum(SAMPLE_WEIGHT))),
        ],
    )
    @pytest.mark.parametrize("squared", [False, True], ids=["log_loss", "squared"])
    def test_sample_weight_and_reduction_are_those_of_the_compiled_loss(
        self, reduction: str, divisor: float, squared: bool
    ) -> None:
        if squared:
            loss, upper, lower = keras.losses.MeanSquaredError(reduction=reduction), squared_imitation, squared_imitation
        else:
            loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction=reduction)
            upper, lower = cross_entropy, log_loss_imitation
        model = compiled(loss)
        one, two, three = level_scores(model)
        logs = model.train_on_batch(IDS, LABELS, sample_weight=SAMPLE_WEIGHT, return_dict=True)
        expected = [upper(LABELS[:, 0], three), lower(two, one), lower(three, two)]
        values = [logs[name] for name in ("loss", "dependent_loss_1", "dependent_loss_2")]
        assert values == pytest.approx([np.sum(SAMPLE_WEIGHT * each) / divisor for each in expected], rel=1e-4)

    @pytest.mark.parametrize("reduction", ["sum", None])
    def test_without_a_mean_a_step_is_that_of_the_mean_times_the_batch_size(self, reduction: str | None) -> None:
        mean = compiled(keras.losses.MeanSquaredError(), keras.optimizers.SGD(0.024))
        other = compiled(keras.losses.MeanSquaredError(reduction=reduction), keras.optimizers.SGD(0.001))
        for model in (mean, other):
            model.train_on_batch(IDS, LABELS)
        assert_same_weights(mean, other)

    def test_samples_of_weight_zero_are_as_if_absent(self) -> None:
        weight = np.repeat([1.0, 0.0], 12)
        loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum")
        weighted, alone = compiled(loss, keras.optimizers.SGD(0.01)), compiled(loss, keras.optimizers.SGD(0.01))
        weighted.train_on_batch(IDS, LABELS, sample_weight=weight)
        alone.train_on_batch(IDS[:12], LABELS[:12])
        assert_same_weights(weighted, alone)

    def test_class_weight_is_a_sample_weight(self) -> None:
        by_class, by_sample = compiled(), compiled()
        options = {"batch_size": 8, "shuffle": False, "verbose": 0}
        by_class_history = by_class.fit(IDS, LABELS, class_weight={0: 0.3, 1: 2.5}, **options).history
        weight = np.where(LABELS[:, 0] == 1, 2.5, 0.3)
        by_sample_history = by_sample.fit(IDS, LABELS, sample_weight=weight, **options).history
        assert by_class_history == by_sample_history
        assert_same_weights(by_class, by_sample, atol=0)
        plain = compiled()
        assert plain.fit(IDS, LABELS, **options).history["dependent_loss_1"] != by_class_history["dependent_loss_1"]

    def test_loss_weights_scale_both_problems(self) -> None:
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1), LOGITS_LOSS, loss_weights=[0.5], run_eagerly=True)
        halved = compiled(optimizer=keras.optimizers.SGD(0.05))
        logs, halved_logs = (each.train_on_batch(IDS, LABELS, return_dict=True) for each in (model, halved))
        assert_same_weights(model, halved)
        assert logs["loss"] == pytest.approx(0.5 * halved_logs["loss"], rel=1e-5)


class TestExecution:
    def test_how_steps_are_run_changes_neither_weights_nor_logs(self) -> None:
        ways: list[dict[str, Any]] = [{}, {"steps_per_execution": 4, "jit_compile": False}, {"run_eagerly": True}]
        models = [make_model() for _ in ways]
        histories = []
        for model, options in zip(models, ways, strict=True):
            model.compile(keras.optimizers.Adam(0.05), LOGITS_LOSS, **options)
            fitted = model.fit(IDS, LABELS, batch_size=5, epochs=2, shuffle=False, verbose=0)
            histories.append(fitted.history)
        for model, history in zip(models[1:], histories[1:], strict=True):
            assert_same_weights(model, models[0], atol=1e-5)
            assert set(history) == set(histories[0])
            for name, values in histories[0].items():
                assert history[name] == pytest.approx(values, rel=1e-4), name

    def test_jit_compile_is_ignored_with_a_warning(self) -> None:
        model = make_model()
        with pytest.warns(UserWarning, match="jit_compile"):
            model.compile("sgd", LOGITS_LOSS, jit_compile=True)
        assert not model.jit_compile

    def test_dataset_and_arrays_give_the_same(self) -> None:
        from_arrays, from_dataset = compiled(), compiled()
        from_arrays.fit(IDS, LABELS, sample_weight=SAMPLE_WEIGHT, batch_size=8, shuffle=False, verbose=0)
        from_dataset.fit(
            tf.data.Dataset.from_tensor_slices((IDS, LABELS, SAMPLE_WEIGHT)).batch(8), shuffle=False, verbose=0
        )
        assert_same_weights(from_arrays, from_dataset)

    def test_on_batch(self) -> None:
        model = compiled(optimizer=keras.optimizers.SGD(0.0))
        one, two, three = level_scores(model)
        loss = np.mean(cross_entropy(LABELS[:, 0], three))
        assert model.test_on_batch(IDS, LABELS, return_dict=True) == {"loss": pytest.approx(loss, rel=1e-5)}
        np.testing.assert_allclose(model.predict_on_batch(IDS)[:, 0], three, rtol=0, atol=1e-5)
        logs = model.train_on_batch(IDS, LABELS, return_dict=True)
        assert logs == {
            "loss": pytest.approx(loss, rel=1e-5),
            "dependent_loss_1": pytest.approx(np.mean(log_loss_imitation(two, one)), rel=1e-5),
            "dependent_loss_2": pytest.approx(np.mean(log_loss_imitation(three, two)), rel=1e-5),
        }

    @pytest.mark.usefixtures("mixed_float16")
    def test_mixed_float16(self) -> None:
        model = compiled(optimizer=keras.optimizers.Adam(0.05), dependent_loss_weight=0.5, run_eagerly=False)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert model(IDS).dtype == "float16"
        losses = model.fit(IDS, LABELS, batch_size=8, epochs=15, verbose=0).history
        assert losses["loss"][-1] < 0.5 * losses["loss"][0]
        assert np.all(np.isfinite(losses["dependent_loss_1"]))
        assert {weight.dtype for weight in model.trainable_weights} == {"float32"}

    def test_loss_scale_optimizer_gives_the_same_weights(self) -> None:
        plain = compiled(optimizer=keras.optimizers.Adam(0.05))
        scaled = compiled(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.05), initial_scale=1024.0))
        for model in (plain, scaled):
            model.fit(IDS, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)
        assert_same_weights(plain, scaled, atol=1e-5)


class TestCallbacks:
    def test_early_stopping_restores_the_best_weights(self) -> None:
        model = compiled(optimizer=keras.optimizers.SGD(0.5))
        stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True)
        wrong = 1 - LABELS  # training moves away from these
        history = model.fit(
            IDS, LABELS, validation_data=(IDS, wrong), epochs=8, shuffle=False, callbacks=[stopping], verbose=0
        ).history["val_loss"]
        assert len(history) == 2
        assert history[1] > history[0]
        assert model.evaluate(IDS, wrong, verbose=0) == pytest.approx(history[0], rel=1e-5)

    def test_monitoring_a_dependent_loss(self) -> None:
        model = compiled(optimizer=keras.optimizers.SGD(0.0))
        stopping = keras.callbacks.EarlyStopping(monitor="dependent_loss_1", mode="min", patience=0, min_delta=1e-3)
        assert len(model.fit(IDS, LABELS, epochs=5, callbacks=[stopping], verbose=0).epoch) == 2

    def test_model_checkpoint(self, tmp_path: Path) -> None:
        model = compiled()
        saving = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
        model.fit(IDS, LABELS, epochs=2, callbacks=[saving], verbose=0)
        last = keras.models.load_model(tmp_path / "2.keras")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1.keras", "2.keras"]
        np.testing.assert_allclose(last(IDS).numpy(), model(IDS).numpy(), rtol=0, atol=1e-6)

    def test_learning_rate_scheduler(self) -> None:
        model = compiled()
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0 if epoch else rate)
        weights = []
        keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: weights.append(weights_by_name(model)))
        model.fit(IDS, LABELS, epochs=2, callbacks=[scheduler, keep], verbose=0)
        assert weights[0].keys() == weights[1].keys()
        for path, value in weights[0].items():
            np.testing.assert_array_equal(value, weights[1][path], err_msg=path)


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "amsgrad": lambda: keras.optimizers.Adam(0.1, amsgrad=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.5, centered=True),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1, l1_regularization_strength=0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.1),
    "clipnorm": lambda: keras.optimizers.Adagrad(0.1, clipnorm=0.01),
    "global_clipnorm": lambda: keras.optimizers.Adagrad(0.1, global_clipnorm=0.01),
    "clipvalue": lambda: keras.optimizers.Adagrad(0.1, clipvalue=0.001),
    "average": lambda: keras.optimizers.Adam(0.1, use_ema=True),
}


class TestOptimizers:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_sparse_gradients_give_the_step_of_dense_ones(self, name: str) -> None:
        """Keras optimizers are wrong on repeated indices, so each row of a table may be there once."""
        sparse, dense = make_model(max_dense_rows=0), make_model(max_dense_rows=0)
        seen: list[tuple[Any, keras.Variable]] = []
        for model in (sparse, dense):
            model.compile(OPTIMIZERS[name](), LOGITS_LOSS, run_eagerly=True)
        sparse_apply, dense_apply = sparse.optimizer.apply, dense.optimizer.apply

        def recording(grads: Any, variables: Any = None) -> None:
            seen.extend(zip(grads, variables, strict=True))
            sparse_apply(grads, variables)

        sparse.optimizer.apply = recording
        dense.optimizer.apply = lambda grads, variables: dense_apply([tf.convert_to_tensor(g) for g in grads], variables)
        for model in (sparse, dense):
            for start in (0, 8, 16):
                model.train_on_batch(IDS[start : start + 8], LABELS[start : start + 8])

        assert_same_weights(sparse, dense, atol=2e-5)
        assert any(np.unique(row[row >= 0]).size < np.sum(row >= 0) for row in IDS[:8])
        tables = [(gradient, variable) for gradient, variable in seen if variable.name != "bias"]
        assert len(tables) == 3 * 6
        for gradient, variable in tables:
            assert isinstance(gradient, tf.IndexedSlices), variable.path
            indices = gradient.indices.numpy()
            assert np.unique(indices).size == indices.size, variable.path

    def test_gradient_accumulation(self) -> None:
        accumulating = compiled(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
        at_once = compiled()
        for start in (0, 12):
            accumulating.train_on_batch(IDS[start : start + 12], LABELS[start : start + 12])
        at_once.train_on_batch(IDS, LABELS)
        assert_same_weights(accumulating, at_once)

    def test_by_name(self) -> None:
        model = make_model()
        model.compile("adam", "mse", run_eagerly=True)
        before = weights_by_name(model)
        model.train_on_batch(IDS, LABELS)
        assert moved(before, model) == {"linear", "bias", "free_1", "free_2", "free_3", "dependent_1", "dependent_2"}


class TestFrozen:
    def test_layer(self) -> None:
        ids = keras.Input((4,), dtype="int32")
        model = kr.RaFMModel(ids, keras.layers.Dense(1, name="top")(make_layer()(ids)))
        layer_of(model).trainable = False
        model.compile("adam", "mse", run_eagerly=True)
        before = weights_by_name(model)
        logs = model.train_on_batch(IDS, LABELS, return_dict=True)
        assert moved(before, model) == {"kernel", "bias"}
        assert logs["dependent_loss_1"] > 0
        np.testing.assert_array_equal(layer_of(model).bias(), before["rafm/bias"])

        layer_of(model).trainable = True
        model.compile("adam", "mse", run_eagerly=True)
        model.train_on_batch(IDS, LABELS)
        assert moved(before, model) >= {"free_1", "dependent_1", "linear", "kernel"}

    def test_single_tables(self) -> None:
        model = make_model()
        layer = layer_of(model)
        layer.free_tables[1].trainable = False
        layer.linear_weights.trainable = False
        model.compile("adam", LOGITS_LOSS, run_eagerly=True)
        before = weights_by_name(model)
        model.fit(IDS, LABELS, verbose=0)
        assert moved(before, model) == {"bias", "free_1", "free_3", "dependent_1", "dependent_2"}

    def test_all_weights(self) -> None:
        model = make_model()
        model.trainable = False
        model.compile("adam", LOGITS_LOSS, run_eagerly=True)
        before = weights_by_name(model)
        with pytest.warns(UserWarning, match="no trainable weights"):
            logs = model.fit(IDS, LABELS, verbose=0).history
        assert moved(before, model) == set()
        assert logs["loss"] == pytest.approx([model.evaluate(IDS, LABELS, verbose=0)], rel=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class SquaredErrorTo(keras.layers.Layer):
    """Passes a score on and adds its squared error to a target as a loss."""

    def call(self, score: Any, target: Any) -> Any:
        self.add_loss(keras.ops.mean(keras.ops.square(score - target)))
        return score


def test_model_that_is_trained_through_add_loss_alone() -> None:
    ids, target = keras.Input((4,), dtype="int32", name="ids"), keras.Input((1,), name="target")
    model = kr.RaFMModel({"ids": ids, "target": target}, SquaredErrorTo()(make_layer()(ids), target))
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    reference = compiled("mse")
    one, two, three = level_scores(model)
    logs = model.train_on_batch({"ids": IDS, "target": LABELS}, return_dict=True)
    reference.train_on_batch(IDS, LABELS)
    assert logs == {
        "loss": pytest.approx(np.mean((three - LABELS[:, 0]) ** 2), rel=1e-5),
        "dependent_loss_1": pytest.approx(np.mean((two - one) ** 2), rel=1e-4),
        "dependent_loss_2": pytest.approx(np.mean((three - two) ** 2), rel=1e-4),
    }
    assert_same_weights(model, reference)


class TestSeveralOutputs:
    """The score in one output, a Dense of another input in the second."""

    other = GENERATOR.normal(size=(24, 3)).astype("float32")
    target = GENERATOR.normal(size=(24, 1)).astype("float32")

    def model(self, kind: str) -> kr.RaFMModel:
        ids, other = keras.Input((4,), dtype="int32", name="ids"), keras.Input((3,), name="other")
        click = keras.layers.Activation("sigmoid", name="click")(make_layer()(ids))
        price = keras.layers.Dense(1, name="price", kernel_initializer=keras.initializers.RandomNormal(seed=1))(other)
        outputs = {
            "list": [click, price],
            "dict": {"click": click, "price": price},
            "dict_of_other_names": {"p_click": click, "the_price": price},
        }
        return kr.RaFMModel([ids, other], outputs[kind])

    def assert_step(self, model: kr.RaFMModel, targets: Any, click: str, price: str, sample_weight: Any = None) -> None:
        one, two, three = level_scores(model)
        predicted = self.other @ model.get_layer("price").kernel.numpy()
        weight = np.ones(24) if sample_weight is None else SAMPLE_WEIGHT
        logs = model.train_on_batch([IDS, self.other], targets, sample_weight=sample_weight, return_dict=True)
        log_loss = np.mean(weight * cross_entropy(LABELS[:, 0], three))
        squared = np.mean((predicted - self.target) ** 2)
        assert logs == {
            f"{click}_loss": pytest.approx(log_loss, rel=1e-4),
            f"{price}_loss": pytest.approx(squared, rel=1e-4),
            "loss": pytest.approx(2.0 * log_loss + 0.25 * squared, rel=1e-4),
            "dependent_loss_1": pytest.approx(2.0 * np.mean(weight * log_loss_imitation(two, one)), rel=1e-4),
            "dependent_loss_2": pytest.approx(2.0 * np.mean(weight * log_loss_imitation(three, two)), rel=1e-4),
        }

    def test_list(self) -> None:
        model = self.model("list")
        model.compile("sgd", run_eagerly=True, loss=["binary_crossentropy", "mse"], loss_weights=[2.0, 0.25])
        self.assert_step(model, [LABELS, self.target], "click", "price")

    def test_list_with_losses_by_name(self) -> None:
        model = self.model("list")
        model.compile(
            "sgd",
            {"click": "binary_crossentropy", "price": "mse"},
            loss_weights={"click": 2.0, "price": 0.25},
            run_eagerly=True,
        )
        self.assert_step(model, [LABELS, self.target], "click", "price")

    @pytest.mark.parametrize(
        ("kind", "click", "price"), [("dict", "click", "price"), ("dict_of_other_names", "p_click", "the_price")]
    )
    @pytest.mark.parametrize("weighted", [False, True])
    def test_dict(self, kind: str, click: str, price: str, weighted: bool) -> None:
        model = self.model(kind)
        model.compile(
            "sgd",
            run_eagerly=True,
            loss={click: "binary_crossentropy", price: "mse"},
            loss_weights={click: 2.0, price: 0.25},
        )
        weights = {click: SAMPLE_WEIGHT, price: np.ones(24, "float32")} if weighted else None
        self.assert_step(model, {click: LABELS, price: self.target}, click, price, weights)

    def test_output_without_a_loss(self) -> None:
        ids = keras.Input((4,), dtype="int32", name="ids")
        score = make_layer()(ids)
        model = kr.RaFMModel(ids, {"score": score, "probability": keras.layers.Activation("sigmoid")(score)})
        model.compile(keras.optimizers.SGD(0.1), {"probability": "binary_crossentropy"}, run_eagerly=True)
        reference = compiled("binary_crossentropy", activation="sigmoid")
        logs = model.train_on_batch(IDS, {"probability": LABELS}, return_dict=True)
        reference_logs = reference.train_on_batch(IDS, LABELS, return_dict=True)
        assert_same_weights(model, reference)
        assert {name: logs[name] for name in reference_logs} == pytest.approx(reference_logs, rel=1e-6)

    def test_score_and_what_is_made_of_it_both_have_a_loss(self) -> None:
        ids = keras.Input((4,), dtype="int32", name="ids")
        score = make_layer()(ids)
        model = kr.RaFMModel(ids, [score, keras.layers.Activation("sigmoid", name="p")(score)])
        model.compile("sgd", run_eagerly=True, loss=["mse", "binary_crossentropy"])
        one, two, _ = level_scores(model)
        logs = model.train_on_batch(IDS, [LABELS, LABELS], return_dict=True)
        expected = np.mean(squared_imitation(two, one) + log_loss_imitation(two, one))
        assert logs["dependent_loss_1"] == pytest.approx(expected, rel=1e-4)

    def test_losses_that_do_not_fit_the_outputs(self) -> None:
        model = self.model("list")
        with pytest.raises(ValueError, match=r"`loss` must name outputs.*'click', 'price'.*'clicks'"):
            model.compile("sgd", {"clicks": "mse", "price": "mse"})
        with pytest.raises(ValueError, match=r"`loss` must have one entry per output \(2\). Received: 3"):
            model.compile("sgd", ["mse", "mse", "mse"])
        with pytest.raises(ValueError, match=r"`loss_weights` must have one entry per output"):
            model.compile("sgd", ["mse", "mse"], loss_weights=[1.0])


class TestSeveralLayers:
    def model(self, **options: Any) -> kr.RaFMModel:
        ids = keras.Input((4,), dtype="int32", name="ids")
        first, second = make_layer("first", **options)(ids), make_layer("second", seed=9, dependent_loss_weight=0.7)(ids)
        model = kr.RaFMModel(ids, keras.layers.Add(name="sum")([first, second]))
        model.compile(keras.optimizers.SGD(0.1), LOGITS_LOSS, run_eagerly=True)
        return model

    def test_each_imitates_with_the_other_held(self) -> None:
        model = self.model()
        first = layer_of(model, "first").level_scores(IDS).numpy().T
        second = layer_of(model, "second").level_scores(IDS).numpy().T
        logs = model.train_on_batch(IDS, LABELS, return_dict=True)
        expected = {"loss": np.mean(cross_entropy(LABELS[:, 0], first[2] + second[2]))}
        for k in (0, 1):
            expected[f"first_dependent_loss_{k + 1}"] = np.mean(
                log_loss_imitation(first[k + 1] + second[2], first[k] + second[2])
            )
            expected[f"second_dependent_loss_{k + 1}"] = np.mean(
                log_loss_imitation(first[2] + second[k + 1], first[2] + second[k])
            )
        assert logs == pytest.approx(expected, rel=1e-4)

    def test_the_lower_loss_of_one_moves_nothing_in_the_other(self) -> None:
        without, strong = self.model(dependent_loss_weight=0.0), self.model(dependent_loss_weight=9.0)
        for model in (without, strong):
            model.train_on_batch(IDS, LABELS)
        a, b = weights_by_name(without), weights_by_name(strong)
        differing = {path for path in a if not np.allclose(a[path], b[path], rtol=0, atol=1e-6)}
        assert differing == {"first/linear", "first/bias", "first/dependent_1", "first/dependent_2"}

    def test_one_of_them_has_one_level(self) -> None:
        ids = keras.Input((4,), dtype="int32", name="ids")
        flat = make_layer("flat", plan=kr.RankPlan([1] * PLAN.num_features, ranks=(2,)))(ids)
        model = kr.RaFMModel(ids, keras.layers.Add()([flat, make_layer("deep")(ids)]))
        model.compile("sgd", LOGITS_LOSS, run_eagerly=True)
        assert set(model.fit(IDS, LABELS, verbose=0).history) == {
            "loss",
            "deep_dependent_loss_1",
            "deep_dependent_loss_2",
        }


def test_a_plain_model_of_the_same_layers_adds_its_own_lower_loss() -> None:
    """Nothing of an RaFMModel step lasts: the layer knows for each call who trains it."""
    model = compiled("mse", dependent_loss_weight=3.0)
    model.train_on_batch(IDS, LABELS)
    plain = keras.Model(model.input, model.output)
    plain.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    one, two, three = level_scores(model)
    lower = np.mean((two - one) ** 2) + np.mean((three - two) ** 2)
    expected = np.mean((three - LABELS[:, 0]) ** 2)
    trained = plain.train_on_batch(IDS, LABELS)
    assert trained == pytest.approx(expected + 3.0 * lower, rel=1e-4)
    assert plain.test_on_batch(IDS, LABELS) == pytest.approx(expected, rel=1e-5)
    assert model.train_on_batch(IDS, LABELS, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)
