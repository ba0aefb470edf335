"""What `keras_rafm.callbacks.TensorBoard` writes, read back and compared with NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from oracle import Oracle
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.projector import ProjectorConfig

import keras_rafm as kr
from keras_rafm import callbacks

pytestmark = pytest.mark.one_tensorflow

RNG = np.random.default_rng(0)
NUM_FEATURES = 30
COUNTS = np.array([0, 2, 3, 5, 9, 14, 17, 40, 63, 64, *range(65, 85)])
PLAN = kr.RankPlan.from_counts(COUNTS, ranks=(2, 3, 5), thresholds=(10, 70))
IDS = RNG.integers(0, NUM_FEATURES, (60, 4)).astype(np.int32)
IDS[:9, 2:] = -1
IDS[0] = -1
LABELS = RNG.integers(0, 2, 60).astype(np.float32)
# Rarest count 0, 1 to 3, 4 to 15, 16 to 63, 64 to 255.
BUCKETS = {"0": (0, 1), "1-3": (1, 4), "4-15": (4, 16), "16-63": (16, 64), "64-255": (64, 256)}
RUNS = ("level_1_rank_2", "level_2_rank_3", "level_3_rank_5")


def make_layer(plan: kr.RankPlan = PLAN, **options: Any) -> kr.RaFMLayer:
    options = {"linear_initializer": keras.initializers.RandomNormal(stddev=0.5), **options}
    return kr.RaFMLayer(plan, factors_initializer=keras.initializers.RandomNormal(stddev=0.5), **options)


def make_model(optimizer: Any = None, loss: Any = None, **options: Any) -> kr.RaFMModel:
    ids = keras.Input((4,), dtype="int32", name="ids")
    model = kr.RaFMModel(ids, make_layer()(ids))
    model.compile(
        optimizer or kr.optimizers.LazyAdam(0.02), loss or keras.losses.BinaryCrossentropy(from_logits=True), **options
    )
    return model


def fit(model: keras.Model, directory: Path, x: Any = IDS, y: Any = LABELS, epochs: int = 1, **options: Any) -> Any:
    board = callbacks.TensorBoard(directory, **options)
    return model.fit(x, y, batch_size=20, epochs=epochs, verbose=0, callbacks=[board])


def analyse(model: keras.Model, directory: Path, **options: Any) -> None:
    """What `fit` does with a board in an epoch without steps: graphs of steps take most of the time of a short fit."""
    events = keras.callbacks.CallbackList([callbacks.TensorBoard(directory, **options)], model=model, epochs=1)
    events.on_train_begin()
    events.on_epoch_begin(0)
    events.on_epoch_end(0, {})
    events.on_train_end()


@pytest.fixture(scope="module")
def models() -> dict[int, kr.RaFMModel]:
    """By `steps_per_execution`: for what `fit` makes a board do, whatever the weights. Their graphs are made once."""
    keras.utils.set_random_seed(0)
    return {steps: make_model(steps_per_execution=steps) for steps in (1, 2)}


class Run:
    """The summaries of one run."""

    def __init__(self, directory: Path) -> None:
        self.events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
        self.events.Reload()
        self.tags = self.events.Tags()["tensors"]

    def all(self, tag: str) -> dict[int, Any]:
        return {event.step: tf.make_ndarray(event.tensor_proto) for event in self.events.Tensors(tag)}

    def last(self, tag: str) -> Any:
        return list(self.all(tag).values())[-1]

    def description(self, tag: str) -> str:
        return self.events.SummaryMetadata(tag).summary_description


def occurrences(ids: np.ndarray) -> list[list[tuple[int, float]]]:
    return [[(int(i), 1.0) for i in row if i >= 0] for row in ids]


def level_scores(layer: kr.RaFMLayer, plan: kr.RankPlan = PLAN, ids: np.ndarray = IDS) -> np.ndarray:
    return Oracle(layer, plan).level_scores(occurrences(ids))


def log_loss(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-logits))
    return -(labels * np.log(p) + (1 - labels) * np.log(1 - p))


def rarest(ids: np.ndarray, counts: np.ndarray = COUNTS) -> np.ndarray:
    return np.array([min((counts[i] for i in row if i >= 0), default=-1) for row in ids])


def check_by_frequency(run: Run, tag: str, values: np.ndarray, root: bool = False, ids: np.ndarray = IDS) -> None:
    found = rarest(ids)
    for name, (low, high) in BUCKETS.items():
        expected = values[(found >= low) & (found < high)].mean()
        assert run.last(f"{tag}/{name}") == pytest.approx(np.sqrt(expected) if root else expected, rel=2e-4)


class Trained(NamedTuple):
    """A trained model, which tests must leave alone, and where its board wrote to."""

    model: kr.RaFMModel
    directory: Path
    history: dict[str, list[float]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    keras.utils.set_random_seed(0)
    directory = tmp_path_factory.mktemp("trained")
    model = make_model()
    history = fit(model, directory, epochs=3, analysis_data=(IDS, LABELS), analysis_freq=2, counts=PLAN).history
    return Trained(model, directory, history)


def test_scores_of_the_levels(trained: Trained) -> None:
    scores = level_scores(trained.model.layers[-1])
    for level, name in enumerate(RUNS):
        run = Run(trained.directory / name)
        losses = log_loss(LABELS, scores[:, level])
        assert run.last("levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        check_by_frequency(run, "log_loss_by_frequency", losses)
        assert run.last("log_loss_by_frequency/no_features") == pytest.approx(losses[0], rel=1e-4)
        tags = {tag for tag in run.tags if tag.startswith("log_loss_by_frequency/")}
        assert tags == {f"log_loss_by_frequency/{bucket}" for bucket in (*BUCKETS, "no_features")}
        assert "rows of the analysis data whose rarest feature occurs 4-15 times" in run.description(
            "log_loss_by_frequency/4-15"
        )
        if level == 2:
            assert not [tag for tag in run.tags if "next_level" in tag or "dependent" in tag]
            continue
        one, other = scores[:, level], scores[:, level + 1]
        assert run.last("levels/correlation_with_next_level") == pytest.approx(np.corrcoef(one, other)[0, 1], rel=1e-4)
        assert run.last("levels/mean_absolute_difference_to_next_level") == pytest.approx(
            np.abs(one - other).mean(), rel=1e-4
        )
    assert run.last("levels/loss") == pytest.approx(trained.model.evaluate(IDS, LABELS, verbose=0), rel=1e-5)


def test_dependent_losses_stand_beside_the_losses_of_the_levels(trained: Trained) -> None:
    train = Run(trained.directory / "train")
    for level in (1, 2):
        logged = Run(trained.directory / RUNS[level - 1]).all("levels/dependent_loss")
        assert list(logged) == [0, 1, 2]
        np.testing.assert_allclose(list(logged.values()), trained.history[f"dependent_loss_{level}"], rtol=1e-6)
        assert train.all(f"epoch_dependent_loss_{level}") == logged
    layout = layout_pb2.Layout.FromString(train.last("custom_scalars__config__").item())
    (category,) = layout.category
    assert [list(chart.multiline.tag) for chart in category.chart] == [
        [r"^epoch_loss$", r"^(.*/)?levels/dependent_loss$"],
        [r"^(.*/)?levels/loss$"],
    ]


def test_the_plan_as_a_table(tmp_path: Path) -> None:
    model = make_model()
    for _ in range(2):
        analyse(model, tmp_path, counts=PLAN)
    (text,) = Run(tmp_path / "train").last("plan").reshape(-1)
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.decode().splitlines() if line.startswith("|")
    ]
    printed: list[str] = []
    PLAN.summary(printed.append)
    assert lines[0] == ["level", "rank", "features", "occurrences", "free factors", "dependent factors", "MB"]
    for row in lines[2:5]:
        assert " ".join(row).split() in [line.split() for line in printed[0].splitlines()]
    assert lines[5][0] == "**RaFM**"
    assert "RaFM " + " ".join(lines[5][1:]).strip() in [" ".join(line.split()) for line in printed[0].splitlines()]
    assert [row[0] for row in lines[6:]] == ["plain FM of rank 5", "plain FM of rank 2"]


def test_the_plan_without_counts(tmp_path: Path) -> None:
    analyse(make_model(), tmp_path, analysis_data=(IDS, LABELS))
    train = Run(tmp_path / "train")
    assert "| 1 | 2 | 5 | ? | 10 | 50 | 0.00 |" in train.last("plan").item().decode()
    assert "samples_by_frequency" not in train.tags
    assert not [tag for tag in Run(tmp_path / RUNS[0]).tags if "by_frequency" in tag]


def test_how_many_samples_each_bucket_has(trained: Trained) -> None:
    text = Run(trained.directory / "train").last("samples_by_frequency").item().decode()
    found = rarest(IDS)
    for name, (low, high) in BUCKETS.items():
        number = ((found >= low) & (found < high)).sum()
        assert f"| {name} | {number} | {number / 60:.1%} |" in text
    assert "| no_features | 1 | 1.7% |" in text


def test_histograms_of_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A plain model does not bring idle rows up to date by itself; half of the features are never read here.
    ids = keras.Input((4,), dtype="int32")
    layer = make_layer(linear_initializer="random_normal", max_dense_rows=0)
    model = keras.Model(ids, layer(ids))
    model.compile(kr.optimizers.LazyAdam(0.02, idle_decay=5.0), "mse")
    fit(model, tmp_path / "whole", x=IDS % 15, epochs=2)
    monkeypatch.setattr(callbacks.summaries, "_BYTES_AT_ONCE", 40)
    analyse(model, tmp_path / "blocks")
    tables = {("train", "linear_weights"): layer.linear()}
    for level, name in enumerate(RUNS, start=1):
        features, matrix = layer.factors(level)
        norms = np.linalg.norm(matrix, axis=1)
        tables[name, "norms/free_factors"] = norms[PLAN.levels[features] == level]
        tables[name, "norms/dependent_factors"] = norms[PLAN.levels[features] > level]
    del tables[RUNS[2], "norms/dependent_factors"]
    for directory in (tmp_path / "whole", tmp_path / "blocks"):
        for (run, tag), numbers in tables.items():
            histogram = Run(directory / run).last(tag)
            counts, edges = np.histogram(numbers, 30)
            np.testing.assert_allclose(histogram[:, 0], edges[:-1], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(histogram[:, 1], edges[1:], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(histogram[:, 2], counts)
        assert "norms/dependent_factors" not in Run(directory / RUNS[2]).tags


def test_histograms_of_equal_and_of_lost_numbers(tmp_path: Path) -> None:
    model = make_model()
    layer = model.layers[-1]
    layer.assign_linear(np.arange(NUM_FEATURES), np.ones(NUM_FEATURES))
    layer.free_tables[0].assign(np.full((5, 2), np.nan))
    layer.dependent_tables[1].assign(np.full((14, 3), [3.0, 4.0, 0.0]))
    layer.free_tables[1].assign(np.where(np.arange(11)[:, None] < 4, np.nan, layer.free_tables[1].numpy()))
    analyse(model, tmp_path)
    ones = Run(tmp_path / "train").last("linear_weights")
    np.testing.assert_array_equal(ones, [[1, 1, 0]] * 29 + [[1, 1, NUM_FEATURES]])
    np.testing.assert_array_equal(Run(tmp_path / RUNS[1]).last("norms/dependent_factors")[-1], [5, 5, 14])
    assert Run(tmp_path / RUNS[1]).last("norms/free_factors")[:, 2].sum() == 7
    assert "norms/free_factors" not in Run(tmp_path / RUNS[0]).tags


def read_projector(directory: Path) -> dict[str, tuple[np.ndarray, list[list[str]]]]:
    config = text_format.Parse((directory / "projector_config.pbtxt").read_text(), ProjectorConfig())
    found = {}
    for embedding in config.embeddings:
        tensor = np.loadtxt(directory / embedding.tensor_path, delimiter="\t", ndmin=2)
        assert list(tensor.shape) == list(embedding.tensor_shape)
        lines = (directory / embedding.metadata_path).read_text(encoding="utf-8").split("\n")
        assert lines.pop() == ""
        found[embedding.tensor_name] = tensor, [line.split("\t") for line in lines]
    return found


NAMES = [f"n{i}" for i in range(NUM_FEATURES - 3)] + ["a\tb", "two\nlines\r\n", "Käse\u2028 = 'x'"]


@pytest.mark.parametrize(("num_embedded", "names"), [(1000, None), (20, NAMES), (7, NAMES.__getitem__)])
def test_projector(tmp_path: Path, num_embedded: int, names: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.projector, "_FEATURES_AT_ONCE", 4)
    model = make_model()
    analyse(model, tmp_path, counts=COUNTS, feature_names=names, num_embedded=num_embedded)
    projector = read_projector(tmp_path / "train")
    assert list(projector) == list(RUNS)
    for level, name in enumerate(RUNS, start=1):
        tensor, (header, *metadata) = projector[name]
        assert header == ["name", "count", "level", "factors"]
        features, matrix = model.layers[-1].factors(level)
        rows = dict(zip(features.tolist(), matrix, strict=True))
        higher = [i for i in np.argsort(-COUNTS, kind="stable") if PLAN.levels[i] > level]
        own = [i for i in np.argsort(-COUNTS, kind="stable") if PLAN.levels[i] == level]
        num_free = min(len(own), max(num_embedded - len(higher), (num_embedded + 1) // 2))
        assert len(tensor) == min(num_embedded, len(higher) + len(own))
        expected = [*higher[: num_embedded - num_free], *own[:num_free]]
        np.testing.assert_allclose(tensor, [rows[i] for i in expected], rtol=1e-5)
        for feature, line in zip(expected, metadata, strict=True):
            written = str(feature) if names is None else " ".join(NAMES[feature].split())
            kind = "free" if PLAN.levels[feature] == level else "dependent"
            assert line == [written, str(COUNTS[feature]), str(PLAN.levels[feature]), kind]


def test_projector_takes_counts_before_the_order_of_the_tables(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(kr.RankPlan(PLAN.levels, PLAN.ranks))(ids))
    model.compile("sgd", "mse")
    analyse(model, tmp_path, counts=COUNTS, num_embedded=4)
    names = [line[0] for line in read_projector(tmp_path / "train")[RUNS[2]][1][1:]]
    assert names == ["29", "28", "27", "26"]


def test_no_projector(tmp_path: Path) -> None:
    analyse(make_model(), tmp_path, num_embedded=0)
    assert not list(tmp_path.rglob("*projector*"))


def wide_and_deep(kind: type[keras.Model]) -> tuple[keras.Model, list[kr.RaFMLayer]]:
    """A probability of a score, a linear term, normalised, and dropout; and a second output that the score isn't in."""
    ids = keras.Input((4,), dtype="int32", name="ids")
    wide = keras.Input((2,), name="wide")
    layer = make_layer()
    hidden = keras.layers.Dense(1, kernel_initializer="ones")(wide)
    total = keras.layers.Add()([layer(ids), hidden])
    total = keras.layers.BatchNormalization(momentum=0.0)(keras.layers.Dropout(0.5)(total))
    click = keras.layers.Activation("sigmoid", name="click")(total)
    price = keras.layers.Dense(1, name="price")(wide)
    return kind({"ids": ids, "wide": wide}, {"click": click, "price": price}), [layer]


@pytest.mark.parametrize("kind", [kr.RaFMModel, keras.Model])
def test_wide_models(tmp_path: Path, kind: type[keras.Model]) -> None:
    model, (layer,) = wide_and_deep(kind)
    model.compile(
        keras.optimizers.SGD(0.01),
        {"click": "binary_crossentropy", "price": "mse"},
        loss_weights={"click": 1.0, "price": 2.0},
        run_eagerly=True,
    )
    wide = RNG.normal(size=(60, 2)).astype(np.float32)
    x, y = {"ids": IDS, "wide": wide}, {"click": LABELS, "price": wide[:, 0]}
    logs = fit(model, tmp_path, x, y, analysis_data=(x, y), counts=COUNTS).history
    for name, value in model.get_metrics_result().items():  # the analysis leaves the means of the epoch alone
        assert float(value) == pytest.approx(logs[name][0])
    dense, price = (part for part in model.layers if isinstance(part, keras.layers.Dense))
    (norm,) = (part for part in model.layers if isinstance(part, keras.layers.BatchNormalization))
    squares = np.square((wide @ price.kernel.numpy() + price.bias.numpy())[:, 0] - wide[:, 0])
    for level, name in enumerate(RUNS):
        total = level_scores(layer)[:, level] + (wide @ dense.kernel.numpy() + dense.bias.numpy())[:, 0]
        gamma, beta, mean, variance = (weights.numpy()[0] for weights in norm.weights)
        losses = log_loss(LABELS, gamma * (total - mean) / np.sqrt(variance + norm.epsilon) + beta)
        run = Run(tmp_path / name)
        assert run.last("levels/loss") == pytest.approx(losses.mean() + 2 * squares.mean(), rel=1e-4)
        check_by_frequency(run, "log_loss_by_frequency", losses)
    assert run.last("levels/loss") == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True)["loss"], rel=1e-4)


@pytest.mark.parametrize("kind", [kr.RaFMModel, keras.Model])
def test_models_are_saved_and_trained_as_without_it(tmp_path: Path, kind: type[keras.Model]) -> None:
    wide = np.ones((60, 2), np.float32)
    x, y = {"ids": IDS, "wide": wide}, {"click": LABELS, "price": LABELS}
    results = []
    for options in ({}, {"analysis_data": (x, y), "counts": COUNTS}):
        keras.utils.set_random_seed(0)
        keras.backend.clear_session(free_memory=False)
        model, _ = wide_and_deep(kind)
        model.compile(
            # Adam would make steps of full size of what only rounding tells from 0.
            kr.optimizers.SparseAdagrad(0.05, idle_decay=0.1),
            {"click": "binary_crossentropy", "price": "mse"},
            run_eagerly=kind is keras.Model,
        )
        board = [callbacks.TensorBoard(tmp_path / "logs", **options)] if options else []
        model.fit(x, y, batch_size=20, epochs=2, verbose=0, shuffle=False, callbacks=board)
        model.save(tmp_path / "model.keras")
        results.append(keras.saving.load_model(tmp_path / "model.keras")(x))
        np.testing.assert_allclose(results[-1]["click"], model(x)["click"], rtol=1e-5)
    np.testing.assert_allclose(results[0]["click"], results[1]["click"], rtol=1e-4)


def test_rmse_of_models_without_a_cross_entropy(tmp_path: Path) -> None:
    model = make_model(loss="mse")
    analyse(model, tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    scores = level_scores(model.layers[-1])
    for level, name in enumerate(RUNS):
        run = Run(tmp_path / name)
        squares = np.square(scores[:, level] - LABELS)
        assert run.last("levels/loss") == pytest.approx(squares.mean(), rel=1e-4)
        check_by_frequency(run, "rmse_by_frequency", squares, root=True)


def test_several_layers(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    small = kr.RankPlan.from_counts(COUNTS, ranks=(2, 4), thresholds=(70,))
    one, other = make_layer(name="one"), make_layer(small, name="other")
    model = kr.RaFMModel(ids, keras.layers.Add()([one(ids), other(ids)]))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True), run_eagerly=True)
    names = {"other": [f"f{i}" for i in range(NUM_FEATURES)]}
    logs = fit(
        model, tmp_path, analysis_data=(IDS, LABELS), counts={"one": PLAN, "other": None}, feature_names=names
    ).history
    first, second = level_scores(one), level_scores(other, small)
    for level, name in enumerate(RUNS):
        run = Run(tmp_path / name)
        losses = log_loss(LABELS, first[:, level] + second[:, 1])
        assert run.last("one/levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        check_by_frequency(run, "one/log_loss_by_frequency", losses)
        assert "one/norms/free_factors" in run.tags
    for level, name in enumerate(("level_1_rank_2", "level_2_rank_4")):
        run = Run(tmp_path / name)
        losses = log_loss(LABELS, first[:, 2] + second[:, level])
        assert run.last("other/levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        assert not [tag for tag in run.tags if tag.startswith("other/log_loss")]
    dependent = Run(tmp_path / "level_1_rank_2").last("other/levels/dependent_loss")
    assert dependent == pytest.approx(logs["other_dependent_loss_1"][0])
    assert {"one/plan", "other/plan", "one/linear_weights"} <= set(Run(tmp_path / "train").tags)
    projector = read_projector(tmp_path / "train")
    assert list(projector) == [f"one/{name}" for name in RUNS] + ["other/level_1_rank_2", "other/level_2_rank_4"]
    assert projector["other/level_2_rank_4"][1][:2] == [["name", "level", "factors"], ["f29", "2", "free"]]


def ragged(ids: np.ndarray) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_tensor(ids, padding=-1)


def sparse(ids: np.ndarray) -> tf.SparseTensor:
    dense = np.zeros((len(ids), NUM_FEATURES), np.float32)
    for row, features in enumerate(ids):
        dense[row, features[features >= 0]] = 1
    return tf.sparse.from_dense(dense)


DISTINCT_IDS = np.stack([RNG.permutation(NUM_FEATURES)[:4] for _ in range(60)]).astype(np.int32)
VALUES = np.ones(DISTINCT_IDS.shape, np.float32)


KINDS = (
    "samples for ids",
    "samples for a dict of ids",
    "samples for ids and values",
    "arrays",
    "tensors",
    "dict of arrays",
    "dataset",
    "endless dataset",
    "dataset of samples",
    "ragged",
    "dataset of sparse",
    "sparse",
)


def models_and_data() -> dict[str, Any]:
    def dense_input() -> Any:
        return keras.Input((4,), dtype="int32", name="ids")

    def dict_input() -> Any:
        return {"ids": dense_input(), "values": keras.Input((4,), name="values")}

    samples = kr.data.Samples(DISTINCT_IDS, VALUES, LABELS)
    x = {"ids": DISTINCT_IDS, "values": VALUES}
    dataset = tf.data.Dataset.from_tensor_slices((DISTINCT_IDS, LABELS)).batch(7)
    sparse_ids = sparse(DISTINCT_IDS)
    return {
        "samples for ids": (dense_input, samples),
        "samples for a dict of ids": (lambda: {"ids": dense_input()}, samples),
        "samples for ids and values": (dict_input, samples),
        "arrays": (dense_input, (DISTINCT_IDS, LABELS[:, None])),
        "tensors": (dense_input, (tf.constant(DISTINCT_IDS), tf.constant(LABELS))),
        "dict of arrays": (dict_input, (x, LABELS)),
        "dataset": (dense_input, dataset),
        "endless dataset": (dense_input, dataset.repeat()),
        "dataset of samples": (dict_input, samples.dataset(16)),
        "ragged": (lambda: keras.Input((None,), dtype="int32", ragged=True), (ragged(DISTINCT_IDS), LABELS)),
        "dataset of sparse": (
            lambda: keras.Input((NUM_FEATURES,), sparse=True),
            tf.data.Dataset.from_tensor_slices((sparse_ids, LABELS)).batch(7),
        ),
        "sparse": (lambda: keras.Input((NUM_FEATURES,), sparse=True), (sparse_ids, LABELS)),
    }


@pytest.mark.parametrize(("kind", "at_most"), [("arrays", 60), ("dataset", 60), *((kind, 23) for kind in KINDS)])
def test_kinds_of_data(tmp_path: Path, kind: str, at_most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.analysis_data, "_ROWS_AT_ONCE", 10)
    make_input, data = models_and_data()[kind]
    inputs = make_input()
    layer = make_layer()
    model = kr.RaFMModel(inputs, layer(inputs))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    analyse(model, tmp_path, analysis_data=data, analysis_samples=at_most, counts=COUNTS)
    of_arrays = kind not in ("dataset", "endless dataset", "dataset of samples", "dataset of sparse", "sparse")
    rows = np.linspace(0, 59, at_most).astype(int) if of_arrays else np.arange(at_most)
    ids, labels = DISTINCT_IDS[rows], LABELS[rows]
    scores = level_scores(layer, ids=ids)
    found = rarest(ids)
    for level, name in enumerate(RUNS):
        run = Run(tmp_path / name)
        losses = log_loss(labels, scores[:, level])
        assert run.last("levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        expected = losses[(found >= 4) & (found < 16)].mean()
        assert run.last("log_loss_by_frequency/4-15") == pytest.approx(expected, rel=1e-4)


def test_a_sequential_model(tmp_path: Path) -> None:
    layer = make_layer()
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layer, keras.layers.Activation("sigmoid")])
    model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    analyse(model, tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    for level, name in enumerate(RUNS):
        losses = log_loss(LABELS, level_scores(layer)[:, level])
        run = Run(tmp_path / name)
        assert run.last("levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        check_by_frequency(run, "log_loss_by_frequency", losses)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.score = make_layer()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.score(inputs, training=training)


def test_a_subclassed_model_without_analysis_data(tmp_path: Path) -> None:
    model = Subclassed()
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    fit(model, tmp_path, counts=COUNTS)
    assert "norms/free_factors" in Run(tmp_path / RUNS[0]).tags


def test_one_level(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(kr.RankPlan(np.ones(NUM_FEATURES, int), (3,)), use_linear=False)(ids))
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, tmp_path, analysis_data=(IDS, LABELS))
    run = Run(tmp_path / "level_1_rank_3")
    assert set(run.tags) == {"levels/loss", "norms/free_factors"}


def test_a_level_without_features(tmp_path: Path) -> None:
    plan = kr.RankPlan(np.full(NUM_FEATURES, 2), (2, 3, 5))
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(plan)(ids))
    model.compile("sgd", "mse")
    analyse(model, tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    assert list(read_projector(tmp_path / "train")) == ["level_1_rank_2", "level_2_rank_3"]
    assert not [tag for tag in Run(tmp_path / RUNS[2]).tags if tag.startswith("norms")]
    assert "norms/free_factors" not in Run(tmp_path / RUNS[0]).tags


@pytest.mark.parametrize(
    ("epochs", "analysis_freq", "steps_per_execution", "expected"),
    [(3, 1, 2, [0, 1, 2]), (6, 2, 1, [0, 2, 4, 5]), (5, 2, 1, [0, 2, 4]), (4, 9, 2, [0, 3])],
)
def test_when_the_analysis_is_done(
    models: dict[int, kr.RaFMModel],
    tmp_path: Path,
    epochs: int,
    analysis_freq: int,
    steps_per_execution: int,
    expected: list[int],
) -> None:
    model = models[steps_per_execution]
    fit(model, tmp_path, epochs=epochs, analysis_data=(IDS, LABELS), analysis_freq=analysis_freq)
    run = Run(tmp_path / RUNS[0])
    assert list(run.all("levels/loss")) == list(run.all("norms/free_factors")) == expected


class StopAfterSecondEpoch(keras.callbacks.Callback):
    """Puts other weights back when training ends, as `EarlyStopping` may."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = epoch == 1
        self.bias = self.model.layers[-1].bias()

    def on_train_end(self, logs: Any = None) -> None:
        self.model.layers[-1].assign_bias(100.0)


@pytest.mark.parametrize("first", [True, False])
def test_stopped_training(models: dict[int, kr.RaFMModel], tmp_path: Path, first: bool) -> None:
    model = models[1]
    stop = StopAfterSecondEpoch()
    board = callbacks.TensorBoard(tmp_path, analysis_data=(IDS, LABELS), analysis_freq=5)
    model.fit(IDS, LABELS, batch_size=20, epochs=9, verbose=0, callbacks=[stop, board] if first else [board, stop])
    model.layers[-1].assign_bias(stop.bias)
    losses = Run(tmp_path / RUNS[2]).all("levels/loss")
    assert list(losses) == [0, 1]
    assert losses[1] == pytest.approx(log_loss(LABELS, level_scores(model.layers[-1])[:, 2]).mean(), rel=1e-4)


@pytest.mark.parametrize("update_freq", ["batch", 2])  # an epoch has three batches
def test_what_keras_writes(models: dict[int, kr.RaFMModel], tmp_path: Path, update_freq: Any) -> None:
    model = models[1]
    board = callbacks.TensorBoard(
        tmp_path, update_freq=update_freq, histogram_freq=1, write_steps_per_second=True, analysis_data=(IDS, LABELS)
    )
    history = model.fit(IDS, LABELS, 20, 2, 0, [board], validation_data=(IDS, LABELS)).history
    train, validation = Run(tmp_path / "train"), Run(tmp_path / "validation")
    assert list(train.all("epoch_loss").values()) == pytest.approx(history["loss"])
    assert list(validation.all("epoch_loss").values()) == pytest.approx(history["val_loss"])
    assert list(Run(tmp_path / RUNS[2]).all("levels/loss").values()) == pytest.approx(history["val_loss"], rel=1e-5)
    assert {"batch_loss", "batch_steps_per_second", "epoch_steps_per_second", "epoch_learning_rate"} <= set(train.tags)
    assert [tag for tag in train.tags if tag.endswith("free_1/histogram")]


def test_under_a_distribution_strategy(tmp_path: Path) -> None:
    # Without collectives: TensorFlow remembers their shapes by numbers that every strategy of a process counts from 100.
    one_device = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=one_device)
    with strategy.scope():
        model = make_model(keras.optimizers.SGD(0.02))
    board = callbacks.TensorBoard(tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    batches = tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(20)
    model.fit(batches, epochs=2, verbose=0, shuffle=False, callbacks=[board])
    for level, name in enumerate(RUNS):
        losses = log_loss(LABELS, level_scores(model.layers[-1])[:, level])
        assert Run(tmp_path / name).last("levels/loss") == pytest.approx(losses.mean(), rel=1e-4)


def test_half_precision(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(dtype="mixed_float16")(ids))
    model.compile(keras.optimizers.SGD(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    analyse(model, tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    losses = log_loss(LABELS, level_scores(model.layers[-1])[:, 0])
    assert Run(tmp_path / RUNS[0]).last("levels/loss") == pytest.approx(losses.mean(), rel=1e-2)


def test_a_model_without_a_compiled_loss(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(factors_l2=0.1)(ids))
    model.compile("sgd")
    analyse(model, tmp_path, analysis_data=(IDS, LABELS))
    run = Run(tmp_path / RUNS[0])
    assert "levels/loss" not in run.tags
    assert "levels/correlation_with_next_level" in run.tags


def test_scores_that_are_all_equal_have_no_correlation(tmp_path: Path) -> None:
    model = make_model()
    analyse(model, tmp_path, analysis_data=(np.zeros_like(IDS), LABELS))
    run = Run(tmp_path / RUNS[0])
    assert "levels/correlation_with_next_level" not in run.tags
    assert run.last("levels/mean_absolute_difference_to_next_level") == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"analysis_data": IDS}, TypeError, "`analysis_data` must be .*Received: ndarray"),
        ({"analysis_data": (IDS, LABELS, LABELS)}, TypeError, "`analysis_data` must be .*Received: tuple of 3"),
        ({"analysis_samples": 0}, ValueError, "`analysis_samples` must be at least 1"),
        ({"analysis_freq": 1.5}, TypeError, "`analysis_freq` must be an integer"),
        ({"num_embedded": -1}, ValueError, "`num_embedded` must be at least 0"),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        callbacks.TensorBoard(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"counts": COUNTS[1:]},
            ValueError,
            r"layer: `counts` must be of shape \[num_features=30\] with at least one feature. Received: shape \(29,\)",
        ),
        ({"counts": -COUNTS}, ValueError, r"`counts` must be non-negative and finite. Received: counts\[1\]=-2"),
        ({"counts": ["a"] * 30}, TypeError, "`counts` must be numbers"),
        (
            {"counts": kr.RankPlan(PLAN.levels, PLAN.ranks)},
            ValueError,
            "`counts` must be counts or a RankPlan made from counts",
        ),
        ({"counts": {"other": COUNTS}}, ValueError, r"`counts` must name RaFMLayers of the model .*Received: \['other'\]"),
        ({"feature_names": ["a"]}, ValueError, r"`feature_names` must have one name per feature \(30\). Received: 1"),
        ({"feature_names": "a" * 30}, TypeError, "`feature_names` must be a sequence or a function. Received: str"),
        ({"analysis_data": (IDS, LABELS[1:])}, ValueError, r"as many in every array. Received: \[59, 60\] rows"),
        ({"analysis_data": (IDS[:0], LABELS[:0])}, ValueError, "one row or more"),
        ({"analysis_data": (IDS.astype(float), LABELS)}, ValueError, "does not fit .*must be integers"),
        ({"analysis_data": (IDS[:, :3], LABELS)}, ValueError, "`analysis_data` does not fit .*shape"),
        (
            {"analysis_data": (IDS + 100, LABELS)},
            ValueError,
            r"(?s)`analysis_data` does not fit .*ids must be in \[0, 30\)",
        ),
        ({"analysis_data": tf.data.Dataset.range(3)}, TypeError, r"dataset of \(inputs, labels\)"),
        (
            {"analysis_data": tf.data.Dataset.from_tensors((IDS, LABELS)).take(0)},
            ValueError,
            "must have rows. Received none",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_training(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = make_model()
    with pytest.raises(error, match=message):
        fit(model, tmp_path, **options)
    assert model.optimizer.iterations.numpy() == 0


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32", name="ids")
    none = keras.Model(ids, keras.layers.Dense(1)(keras.ops.cast(ids, "float32")))
    none.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs a model with a RaFMLayer"):
        fit(none, tmp_path)
    subclassed = Subclassed()
    subclassed.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"needs a functional or sequential model.*Subclassed"):
        fit(subclassed, tmp_path, analysis_data=(IDS, LABELS))
    layer = make_layer()
    twice = keras.Model(ids, layer(ids) + layer(ids))
    twice.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"`analysis_data` can't be used with .*called 2 times"):
        fit(twice, tmp_path, analysis_data=(IDS, LABELS))
    wide, _ = wide_and_deep(kr.RaFMModel)
    wide.compile("sgd", "mse")
    samples = kr.data.Samples(DISTINCT_IDS, VALUES, LABELS)
    x = {"ids": IDS, "wide": np.ones((60, 2), np.float32)}
    with pytest.raises(ValueError, match=r"also takes \['wide'\]"):
        fit(wide, tmp_path, x, {"click": LABELS, "price": LABELS}, analysis_data=samples)
