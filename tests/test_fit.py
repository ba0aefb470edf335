"""`RaFMModel.fit`, which reads all epochs from one iterator, compared with Keras, which uses two per epoch."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

NUM_FEATURES = 12
PLAN = kr.RankPlan([1] * NUM_FEATURES, ranks=(2,))
GENERATOR = np.random.default_rng(3)
IDS = GENERATOR.integers(0, NUM_FEATURES, (23, 3)).astype("int32")
LABELS = GENERATOR.integers(0, 2, 23).astype("float32")
WEIGHTS = GENERATOR.uniform(0.5, 2.0, 23)  # float64, which Keras casts
BATCH_SIZE = 8  # three batches, the last of seven samples


def make_model(steps_per_execution: int = 1, run_eagerly: bool = True, inputs: str = "ids") -> kr.RaFMModel:
    ids = keras.Input((3,), dtype="int32", name="ids")
    layer = kr.RaFMLayer(
        PLAN, factors_initializer=keras.initializers.RandomNormal(stddev=0.4, seed=1), factors_l2=0.0, seed=5
    )
    model = kr.RaFMModel({"ids": ids, "list": [ids], "dict": {"ids": ids}}[inputs], layer(ids))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=run_eagerly, steps_per_execution=steps_per_execution)
    return model


def fit_as_keras(model: kr.RaFMModel, *args: Any, **kwargs: Any) -> keras.callbacks.History:
    return keras.Model.fit(model, *args, **kwargs)


def batches(size: int = BATCH_SIZE) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(size)


def ragged_batches() -> tf.data.Dataset:
    ragged = tf.RaggedTensor.from_tensor(IDS, lengths=[2 + i % 2 for i in range(23)])
    return tf.data.Dataset.from_tensor_slices((ragged, LABELS)).batch(BATCH_SIZE)


def batches_of_unknown_length() -> tf.data.Dataset:
    return batches().filter(lambda ids, labels: True)


def generator() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        yield from ((IDS[i : i + 4], LABELS[i : i + 4]) for i in (0, 4))


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return IDS[4 * index : 4 * index + 4], LABELS[4 * index : 4 * index + 4]


ARRAYS: dict[str, Any] = {"x": IDS, "y": LABELS, "batch_size": BATCH_SIZE}
WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "arrays": lambda: ARRAYS,
    "default batch size": lambda: {"x": IDS, "y": LABELS},
    "tensors": lambda: {**ARRAYS, "x": tf.constant(IDS), "y": tf.constant(LABELS)},
    "float64 weights": lambda: {**ARRAYS, "sample_weight": WEIGHTS},
    "class weights": lambda: {**ARRAYS, "class_weight": {0: 0.5, 1: 3.0}},
    "no class weights": lambda: {**ARRAYS, "class_weight": {}},
    "validation split": lambda: {**ARRAYS, "sample_weight": WEIGHTS, "validation_split": 0.3},
    "validation data": lambda: {**ARRAYS, "validation_data": (IDS[:7], LABELS[:7]), "validation_split": 0.3},
    "steps per epoch": lambda: {**ARRAYS, "steps_per_epoch": 3},
    "initial epoch": lambda: {**ARRAYS, "initial_epoch": 1},
    "dataset": lambda: {"x": batches()},
    "dataset of ragged ids": lambda: {"x": ragged_batches()},
    "dataset, class weights": lambda: {"x": batches(), "class_weight": {0: 0.5, 1: 3.0}},
    "dataset of unknown length": lambda: {"x": batches_of_unknown_length()},
    "endless dataset": lambda: {"x": batches().repeat(), "steps_per_epoch": 3},
    "PyDataset": lambda: {"x": Batches(workers=1, use_multiprocessing=False)},
    "generator": lambda: {"x": generator(), "steps_per_epoch": 2},
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, at the end of a dataset of unknown length
@pytest.mark.parametrize(
    ("way", "steps_per_execution"),
    [
        *((way, 2) for way in WAYS),
        ("arrays", 1),
        ("dataset of unknown length", 1),
        ("generator", 1),
    ],  # an epoch has three steps, which two does not divide
)
def test_reads_what_keras_reads(way: str, steps_per_execution: int) -> None:
    ours, theirs = make_model(steps_per_execution), make_model(steps_per_execution)
    how = {"epochs": 2, "shuffle": False, "verbose": 0}
    logs = ours.fit(**WAYS[way](), **how).history
    expected = fit_as_keras(theirs, **WAYS[way](), **how).history
    assert logs.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-5, err_msg=name)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert ours.optimizer.iterations.numpy() == theirs.optimizer.iterations.numpy()


@pytest.mark.parametrize("steps_per_execution", [1, 2, 3, 5])
def test_an_epoch_has_the_right_number_of_steps(steps_per_execution: int) -> None:
    model = make_model(steps_per_execution, run_eagerly=False)
    model.fit(IDS, LABELS, batch_size=BATCH_SIZE, epochs=3, verbose=0)
    assert model.optimizer.iterations.numpy() == 9


@pytest.mark.parametrize(("kind", "x"), [("dict", {"ids": IDS}), ("list", [IDS])])
def test_structures_of_arrays(kind: str, x: Any) -> None:
    ours, theirs = make_model(inputs=kind), make_model(inputs=kind)
    how = {"batch_size": BATCH_SIZE, "epochs": 2, "shuffle": False, "verbose": 0}
    ours.fit(x, LABELS, **how)
    fit_as_keras(theirs, x, LABELS, **how)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class Recorder(kr.RaFMModel):
    """Records the labels of every step. In these tests a label is the number of its sample."""

    def train_step(self, data: Any) -> dict[str, Any]:
        self.seen.append(data[1].numpy())
        return super().train_step(data)


def recorder() -> Recorder:
    ids = keras.Input((3,), dtype="int32")
    model = Recorder(ids, kr.RaFMLayer(PLAN)(ids))
    model.seen = []
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return model


def epochs_seen(seed: int, shuffle: bool = True) -> np.ndarray:
    keras.utils.set_random_seed(seed)
    model = recorder()
    model.fit(IDS, np.arange(23.0), batch_size=BATCH_SIZE, epochs=4, verbose=0, shuffle=shuffle)
    assert [len(labels) for labels in model.seen] == 4 * [8, 8, 7]
    return np.concatenate(model.seen).reshape(4, 23)


def test_every_epoch_has_every_sample_once_in_a_new_order() -> None:
    epochs = epochs_seen(0)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(23), (4, 1)))
    assert len(np.unique(epochs, axis=0)) == 4


def test_set_random_seed_makes_the_orders_reproducible() -> None:
    np.testing.assert_array_equal(epochs_seen(7), epochs_seen(7))
    assert (epochs_seen(7) != epochs_seen(8)).any()


def test_samples_keep_their_order_without_shuffle() -> None:
    np.testing.assert_array_equal(epochs_seen(0, shuffle=False), np.tile(np.arange(23), (4, 1)))


@pytest.mark.parametrize("class_weight", [None, {0: 0.5, 1: 3.0}])
@pytest.mark.parametrize("steps_per_execution", [1, 2])  # an epoch has three steps
def test_a_dataset_is_read_once_per_epoch_and_not_ahead_of_it(steps_per_execution: int, class_weight: Any) -> None:
    starts = []

    def record_start(number: np.ndarray) -> np.ndarray:
        if number == 0:
            starts.append(number)
        return number

    def counted(number: tf.Tensor, batch: Any) -> Any:
        with tf.control_dependencies([tf.numpy_function(record_start, [number], tf.int64)]):
            return tf.nest.map_structure(tf.identity, batch)

    dataset = batches().enumerate().map(counted)
    started_at_end = []
    at_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: started_at_end.append(len(starts)))
    make_model(steps_per_execution).fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[at_end])
    assert started_at_end == [1, 2, 3]
    assert len(starts) == 3


@pytest.mark.parametrize("steps_per_execution", [1, 2])  # an epoch has three steps
def test_samples_are_in_the_same_orders_as_without_fit(steps_per_execution: int) -> None:
    ids = keras.Input((3,), dtype="int32", name="ids")
    model = Recorder({"ids": ids}, kr.RaFMLayer(PLAN)(ids))
    model.seen = []
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True, steps_per_execution=steps_per_execution)
    samples = kr.data.Samples(IDS, np.ones(IDS.shape, np.float32), np.arange(23, dtype=np.float32))

    def shuffled() -> tf.data.Dataset:
        return samples.dataset(BATCH_SIZE, shuffle=True, seed=4, with_values=False)

    def labels(dataset: tf.data.Dataset) -> list[float]:
        return np.concatenate([labels for _, labels in dataset.as_numpy_iterator()]).ravel().tolist()

    fitted, read = shuffled(), shuffled()
    for epochs in (2, 3):  # reading ahead must not use up the order of a later epoch
        model.fit(fitted, epochs=epochs, verbose=0)  # Keras must not warn of `shuffle`
    assert [len(labels) for labels in model.seen] == 5 * [8, 8, 7]
    expected = [labels(read) for _ in range(6)]
    np.testing.assert_array_equal(np.concatenate(model.seen).reshape(5, 23), expected[:5])
    assert labels(fitted) == expected[5]


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_other_ways_to_train_after_fit(run_eagerly: bool) -> None:
    ours, theirs = make_model(2, run_eagerly), make_model(2, run_eagerly)
    for model, fit in ((ours, ours.fit), (theirs, lambda *args, **kwargs: fit_as_keras(theirs, *args, **kwargs))):
        for _ in range(2):
            fit(batches(), epochs=1, verbose=0, shuffle=False)
            fit(generator(), steps_per_epoch=2, epochs=1, verbose=0, shuffle=False)
            model.train_on_batch(IDS[:5], LABELS[:5])
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert ours.optimizer.iterations.numpy() == theirs.optimizer.iterations.numpy() == 12


def test_make_train_function_of_a_subclass_is_used() -> None:
    calls = []

    class CountsCalls(kr.RaFMModel):
        def make_train_function(self, force: bool = False) -> None:
            super().make_train_function(force)
            train_function = self.train_function

            def counting(iterator: tf.data.Iterator) -> Any:
                calls.append(iterator)
                return train_function(iterator)

            self.train_function = counting

    ids = keras.Input((3,), dtype="int32")
    model = CountsCalls(ids, kr.RaFMLayer(PLAN)(ids))
    model.compile(keras.optimizers.SGD(0.0), "mse", steps_per_execution=2)
    model.fit(IDS, LABELS, batch_size=BATCH_SIZE, epochs=2, verbose=0)
    assert len(calls) == 4
    assert model.optimizer.iterations.numpy() == 6


def test_a_step_is_traced_once() -> None:
    traced = []

    class Traced(kr.RaFMModel):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            traced.append(kwargs)
            return super().compute_loss(*args, **kwargs)

    ids = keras.Input((3,), dtype="int32")
    model = Traced(ids, kr.RaFMLayer(PLAN)(ids))
    model.compile(kr.optimizers.LazyAdam(), "mse", steps_per_execution=2)
    for _ in range(2):
        model.fit(IDS, LABELS, batch_size=BATCH_SIZE, epochs=2, verbose=0)
    assert len(traced) == 1


STOPPED_NEAR_THE_END_OF_AN_EPOCH = """
import keras, numpy as np, keras_rafm as kr

class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 8

ids = keras.Input((1,), dtype="int32", name="ids")
model = kr.RaFMModel({"ids": ids}, kr.RaFMLayer(kr.RankPlan([1, 1], ranks=(2,)))(ids))
model.compile("sgd", "mse")
model.fit({"ids": np.zeros((4_000_000, 1), "int32")}, np.zeros(4_000_000, "float32"), 400_000, 3, 0, [Stop()])
"""


def test_a_stopped_fit_uses_up_the_orders_of_all_epochs() -> None:
    ids = keras.Input((3,), dtype="int32", name="ids")
    model = Recorder({"ids": ids}, kr.RaFMLayer(PLAN)(ids))
    model.seen = []
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    samples = kr.data.Samples(IDS, np.ones(IDS.shape, np.float32), np.arange(23, dtype=np.float32))

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 1

    fitted, read = (samples.dataset(BATCH_SIZE, shuffle=True, seed=4, with_values=False) for _ in range(2))
    model.fit(fitted, epochs=5, verbose=0, shuffle=False, callbacks=[Stop()])
    orders = [np.concatenate([labels.ravel() for _, labels in read.as_numpy_iterator()]) for _ in range(6)]
    np.testing.assert_array_equal(np.concatenate(model.seen).reshape(2, 23), orders[:2])
    after = np.concatenate([labels.ravel() for _, labels in fitted.as_numpy_iterator()])
    np.testing.assert_array_equal(after, orders[5])


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_training_continues_from_a_backup(steps_per_execution: int, tmp_path: Path) -> None:
    """Keras continues at the epoch of the backup and ignores `initial_epoch`."""

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise InterruptedError

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    how: dict[str, Any] = {"batch_size": BATCH_SIZE, "verbose": 0}
    with pytest.raises(InterruptedError):
        make_model(steps_per_execution).fit(IDS, LABELS, epochs=6, callbacks=[backup, Interrupt()], **how)
    model = make_model(steps_per_execution)
    history = model.fit(IDS, LABELS, epochs=6, initial_epoch=4, callbacks=[backup], **how)
    assert history.epoch == [2, 3, 4, 5]
    assert model.optimizer.iterations.numpy() == 18


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_callbacks_that_train_on_other_data(run_eagerly: bool) -> None:
    iterations = []
    for fit in (kr.RaFMModel.fit, keras.Model.fit):
        model = make_model(2, run_eagerly)

        class Train(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                self.model.train_on_batch(IDS[:4], LABELS[:4])

        fit(model, IDS, LABELS, batch_size=BATCH_SIZE, epochs=2, shuffle=False, verbose=0, callbacks=[Train()])
        iterations.append(int(model.optimizer.iterations.numpy()))
    assert iterations[0] == iterations[1] == 10


def test_a_train_function_that_is_set_is_used() -> None:
    model = make_model(2, run_eagerly=False)
    model.make_train_function()
    train_function, calls = model.train_function, []

    def counting(iterator: Any) -> Any:
        calls.append(iterator)
        return train_function(iterator)

    model.train_function = counting
    model.fit(IDS, LABELS, batch_size=BATCH_SIZE, epochs=2, verbose=0)
    assert len(calls) == 4
    assert model.optimizer.iterations.numpy() == 6


def test_make_train_function_with_force_freezes_layers() -> None:
    model = make_model(2, run_eagerly=False)
    how: dict[str, Any] = {"batch_size": BATCH_SIZE, "verbose": 0}
    model.fit(IDS, LABELS, **how)
    model.layers[-1].trainable = False
    model.make_train_function(force=True)
    before = model.get_weights()
    with pytest.warns(UserWarning, match="has no trainable weights"):
        model.fit(IDS, LABELS, **how)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_process_can_end_while_the_next_order_is_drawn() -> None:
    subprocess.run([sys.executable, "-c", STOPPED_NEAR_THE_END_OF_AN_EPOCH], check=True, timeout=120, capture_output=True)


def test_after_a_stopped_epoch_fit_starts_at_the_first_sample() -> None:
    model = recorder()

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    dataset = tf.data.Dataset.from_tensor_slices((IDS, np.arange(23.0))).batch(BATCH_SIZE)
    for _ in range(2):
        model.fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[Stop()])
    np.testing.assert_array_equal(np.concatenate(model.seen), np.tile(np.arange(16), 2))


def test_steps_limited_for_debugging() -> None:
    model = recorder()
    keras.config.set_max_steps_per_epoch(2)
    try:
        with pytest.warns(UserWarning, match="Limiting steps_per_epoch to 2"):
            model.fit(IDS, np.arange(23.0), batch_size=BATCH_SIZE, epochs=1, verbose=0, shuffle=False)
    finally:
        keras.config.set_max_steps_per_epoch(None)
    assert len(model.seen) == 2


def test_progress_bar_knows_the_number_of_batches(capsys: pytest.CaptureFixture[str]) -> None:
    make_model().fit(IDS, LABELS, batch_size=BATCH_SIZE, epochs=1, verbose=1)
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": IDS, "y": LABELS[:-1]}, "same"),
        ({"x": batches(), "y": LABELS}, "should not be passed"),
        ({"x": IDS, "y": LABELS, "validation_split": 0.99}, "not sufficient to split"),
        ({"x": IDS, "y": LABELS, "sample_weight": WEIGHTS, "class_weight": {0: 1.0}}, "at the same time"),
    ],
)
def test_keras_refuses_inconsistent_data(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model().fit(**data, verbose=0)


@pytest.mark.parametrize(("batch_size", "error"), [(-4, ValueError), (4.5, TypeError)])
def test_wrong_batch_sizes(batch_size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"`batch_size` must be .*Received: "):
        make_model().fit(IDS, LABELS, batch_size=batch_size, verbose=0)
