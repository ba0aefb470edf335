"""`keras_rafm.export`: answers of every kind of model without Keras and this package, version directories, errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported_models import Answers, Arrays, Requests, answer, answers_without_keras
from losses import sigmoid

import keras_rafm as kr

NUM_FEATURES = 9
PLAN = kr.RankPlan([2, 1, 2, 2, 1, 1, 1, 1, 2], ranks=(2, 4))
IDS = np.array([[0, 1, 2, 3], [8, 8, 4, -1], [5, 6, -1, -1], [-1, -1, -1, -1]], "int32")
VALUES = np.array([[1, 0.5, -2, 1], [1, 3, 0.2, 0], [-1, 2, 0, 0], [0, 0, 0, 0]], "float32")
LENGTHS = np.array([4, 3, 2, 0])
DENSE = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
#: `IDS` with unknown ids in place of padding.
UNKNOWN = np.where(IDS < 0, np.array([[9, 99, -2, 2**31 - 1]], "int32"), IDS)
LOGITS_LOSS = keras.losses.BinaryCrossentropy(from_logits=True)


class Case(NamedTuple):
    """A kind of model.

    Attributes:
        build: Makes the model.
        model_inputs: The inputs that the model itself is called with.
        request: The same inputs as a request.
        unknown: The same request with unknown ids in place of padding.
        signature: The dtypes of the request's inputs by name.
        outputs: The names of the outputs.
    """

    build: Callable[[], keras.Model]
    model_inputs: Any
    request: Arrays
    unknown: Arrays
    signature: dict[str, str]
    outputs: set[str]


def rafm(inputs: Any, name: str = "rafm", seed: int = 1) -> Any:
    normal = keras.initializers.RandomNormal(stddev=0.5)
    layer = kr.RaFMLayer(PLAN, factors_initializer=normal, linear_initializer=normal, seed=seed, name=name)
    return layer(inputs)


def ids_input(name: str = "ids", dtype: str = "int32", **options: Any) -> Any:
    return keras.Input((None if options else 4,), dtype=dtype, name=name, **options)


def compiled_model(inputs: Any, outputs: Any, loss: Any = LOGITS_LOSS) -> kr.RaFMModel:
    model = kr.RaFMModel(inputs, outputs)
    if loss is not None:
        model.compile("sgd", loss)
    return model


def ids_only(dtype: str = "int32", loss: Any = LOGITS_LOSS) -> kr.RaFMModel:
    ids = ids_input(dtype=dtype)
    return compiled_model(ids, rafm(ids), loss)


def ids_and_values() -> kr.RaFMModel:
    inputs = {"ids": ids_input(), "values": keras.Input((4,), name="values")}
    return compiled_model(inputs, rafm(inputs))


def ragged() -> kr.RaFMModel:
    ids = ids_input("features", "int64", ragged=True)
    return compiled_model(ids, rafm(ids))


def ragged_with_values() -> kr.RaFMModel:
    inputs = {"ids": ids_input(dtype="int64", ragged=True), "x": keras.Input((None,), name="x", ragged=True)}
    return compiled_model(inputs, rafm({"ids": inputs["ids"], "values": inputs["x"]}))


def sparse() -> kr.RaFMModel:
    row = keras.Input((NUM_FEATURES,), sparse=True, name="row")
    return compiled_model(row, rafm(row))


def wide_and_deep() -> kr.RaFMModel:
    ids, inputs = ids_input("feature_ids"), keras.Input((3,), name="age_and_income")
    tower = keras.layers.Dense(1, kernel_initializer=keras.initializers.RandomNormal(seed=1))(inputs)
    top = keras.layers.Activation("sigmoid")(keras.layers.Add()([rafm(ids), tower]))
    return compiled_model([ids, inputs], top, "binary_crossentropy")


def two_layers() -> kr.RaFMModel:
    user, item = ids_input("user"), ids_input("item", "int64")
    return compiled_model({"user": user, "item": item}, keras.layers.Add()([rafm(user, "a"), rafm(item, "b", 2)]), "mse")


def two_layers_on_the_same_ids() -> kr.RaFMModel:
    ids = ids_input("features")
    return compiled_model(ids, keras.layers.Add()([rafm(ids, "a"), rafm(ids, "b", 2)]), None)


def two_outputs() -> kr.RaFMModel:
    ids, inputs = ids_input(), keras.Input((3,), name="more")
    score = rafm(ids)
    click = keras.layers.Activation("sigmoid", name="click")(score)
    price = keras.layers.Dense(1, name="price")(keras.layers.Concatenate()([score, inputs]))
    return compiled_model([ids, inputs], [click, price], {"click": "binary_crossentropy", "price": "mse"})


def outputs_by_key() -> kr.RaFMModel:
    ids = ids_input()
    score = rafm(ids)
    outputs = {"p": keras.layers.Activation("sigmoid", name="top")(score), "raw": score}
    return compiled_model(ids, outputs, {"p": "binary_crossentropy", "raw": None})


def plain_keras_model() -> keras.Model:
    ids = ids_input()
    model = keras.Model(ids, rafm(ids))
    model.compile("sgd", LOGITS_LOSS)
    return model


def log_loss_of(name: str) -> set[str]:
    return {f"score{name}", f"probability{name}", f"class{name}"}


def as_sparse() -> tf.SparseTensor:
    cells = [(row, i, x) for row in range(4) for i, x in zip(IDS[row], VALUES[row], strict=True) if i >= 0]
    cells = sorted(cells, key=lambda cell: cell[:2])
    return tf.SparseTensor([cell[:2] for cell in cells], [cell[2] for cell in cells], (4, NUM_FEATURES))


WIDE = np.int64(2) ** 40
LONG, LONG_UNKNOWN = IDS.astype("int64"), np.where(IDS < 0, WIDE, IDS)
RAGGED = tf.RaggedTensor.from_tensor(LONG, lengths=LENGTHS)
RAGGED_VALUES = tf.RaggedTensor.from_tensor(VALUES, lengths=LENGTHS)
NOT_FINITE = np.where(IDS < 0, np.float32("nan"), VALUES)

CASES = {
    "ids": Case(ids_only, IDS, {"ids": IDS}, {"ids": UNKNOWN}, {"ids": "int32"}, log_loss_of("")),
    "int64": Case(lambda: ids_only("int64"), LONG, {"ids": LONG}, {"ids": LONG_UNKNOWN}, {"ids": "int64"}, log_loss_of("")),
    "values": Case(
        ids_and_values,
        {"ids": IDS, "values": VALUES},
        {"ids": IDS, "values": VALUES},
        {"ids": UNKNOWN, "values": NOT_FINITE},
        {"ids": "int32", "values": "float32"},
        log_loss_of(""),
    ),
    "ragged": Case(ragged, RAGGED, {"ids": LONG}, {"ids": LONG_UNKNOWN}, {"ids": "int64"}, log_loss_of("")),
    "ragged_values": Case(
        ragged_with_values,
        {"ids": RAGGED, "x": RAGGED_VALUES},
        {"ids": LONG, "values": VALUES},
        {"ids": LONG_UNKNOWN, "values": NOT_FINITE},
        {"ids": "int64", "values": "float32"},
        log_loss_of(""),
    ),
    "sparse": Case(
        sparse,
        as_sparse(),
        {"ids": LONG, "values": VALUES},
        {"ids": LONG_UNKNOWN, "values": NOT_FINITE},
        {"ids": "int64", "values": "float32"},
        log_loss_of(""),
    ),
    "wide_and_deep": Case(
        wide_and_deep,
        [IDS, DENSE],
        {"ids": IDS, "age_and_income": DENSE},
        {"ids": UNKNOWN, "age_and_income": DENSE},
        {"ids": "int32", "age_and_income": "float32"},
        log_loss_of(""),
    ),
    "two_layers_regression": Case(
        two_layers,
        {"user": IDS, "item": LONG[::-1]},
        {"user": IDS, "item": LONG[::-1]},
        {"user": UNKNOWN, "item": LONG_UNKNOWN[::-1]},
        {"user": "int32", "item": "int64"},
        {"score"},
    ),
    "shared_ids_uncompiled": Case(
        two_layers_on_the_same_ids, IDS, {"ids": IDS}, {"ids": UNKNOWN}, {"ids": "int32"}, {"score"}
    ),
    "two_outputs": Case(
        two_outputs,
        [IDS, DENSE],
        {"ids": IDS, "more": DENSE},
        {"ids": UNKNOWN, "more": DENSE},
        {"ids": "int32", "more": "float32"},
        log_loss_of("_click") | {"score_price"},
    ),
    "outputs_by_key": Case(
        outputs_by_key, IDS, {"ids": IDS}, {"ids": UNKNOWN}, {"ids": "int32"}, log_loss_of("_p") | {"score_raw"}
    ),
    "plain_keras_model": Case(plain_keras_model, IDS, {"ids": IDS}, {"ids": UNKNOWN}, {"ids": "int32"}, log_loss_of("")),
}


def first_rows(request: Arrays, number: int) -> Arrays:
    return {name: array[:number] for name, array in request.items()}


def requests_of(case: Case) -> list[Arrays]:
    """Return the request, the request with unknown ids, its first sample, and none of its samples."""
    return [case.request, case.unknown, first_rows(case.request, 1), first_rows(case.request, 0)]


class Served(NamedTuple):
    """The answers to every case.

    Attributes:
        expected: The outputs of the models.
        answers: The answers of the exported models.
        log: What the process that answered printed.
    """

    expected: dict[str, Any]
    answers: dict[str, Answers]
    log: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    expected, requests = {}, {}
    for kind, case in CASES.items():
        model = case.build()
        expected[kind] = keras.tree.map_structure(lambda output: output.numpy(), model(case.model_inputs))
        requests[kind] = Requests(str(kr.export(model, folder / kind)), "serving_default", requests_of(case))
    return Served(expected, *answers_without_keras(requests, folder))


def response_of(kind: str, output: Any) -> Arrays:
    """Return the answer that belongs to the outputs of a model."""

    def from_probability(p: np.ndarray, name: str) -> Arrays:
        return {f"score{name}": np.log(p / (1 - p)), f"probability{name}": p, f"class{name}": (p > 0.5).astype("int64")}

    if kind == "wide_and_deep":
        return from_probability(output, "")
    if kind == "two_outputs":
        return {**from_probability(output[0], "_click"), "score_price": output[1]}
    if kind == "outputs_by_key":
        return {**from_probability(output["p"], "_p"), "score_raw": output["raw"]}
    if CASES[kind].outputs == {"score"}:
        return {"score": output}
    return {"score": output, "probability": sigmoid(output), "class": (output > 0).astype("int64")}


def assert_response(response: Arrays, expected: Arrays) -> None:
    assert response.keys() == expected.keys()
    for name, value in expected.items():
        assert response[name].shape == value.shape, name
        # A logit that is computed from a float32 probability is less exact.
        np.testing.assert_allclose(response[name], value, rtol=0, atol=1e-6 if "score" not in name else 5e-6, err_msg=name)


@pytest.mark.parametrize("kind", CASES)
class TestServing:
    def test_signature(self, served: Served, kind: str) -> None:
        specs = served.answers[kind].specs
        assert {name: dtype for name, (dtype, _) in specs.items()} == CASES[kind].signature
        assert all(shape[0] is None for _, shape in specs.values())

    def test_predictions_are_those_of_the_model(self, served: Served, kind: str) -> None:
        response = served.answers[kind].outputs[0]
        assert set(response) == CASES[kind].outputs
        assert_response(response, response_of(kind, served.expected[kind]))
        assert np.std(response[sorted(response)[-1]]) > 0.01

    def test_unknown_ids_are_like_padding(self, served: Served, kind: str) -> None:
        assert np.any(next(iter(CASES[kind].unknown.values())) >= NUM_FEATURES)
        whole, unknown, *_ = served.answers[kind].outputs
        assert_response(unknown, whole)

    def test_one_sample_and_no_samples(self, served: Served, kind: str) -> None:
        whole, _, one, none = served.answers[kind].outputs
        assert_response(one, {name: value[:1] for name, value in whole.items()})
        assert {name: value.shape for name, value in none.items()} == dict.fromkeys(whole, (0, 1))


def test_loading_does_not_warn_of_custom_gradients(served: Served) -> None:
    assert "custom gradient" not in served.log.lower()


@pytest.mark.parametrize(
    ("top", "score"),
    [
        (keras.layers.Activation("sigmoid"), 40.0),
        (keras.ops.sigmoid, np.log(1 / 1.1920929e-07 - 1)),  # for the largest float32 below 1
        (keras.layers.Dense(1, kernel_initializer="ones", activation="sigmoid"), np.log(1 / 1.1920929e-07 - 1)),
    ],
    ids=["layer", "operation", "dense"],
)
def test_score_where_the_probability_is_one(tmp_path: Path, top: Any, score: float) -> None:
    """The score is the logit if a sigmoid layer makes the probability, else that of the largest float32 below 1."""
    ids = ids_input()
    model = compiled_model(ids, top(rafm(ids)), "binary_crossentropy")
    model.get_layer("rafm").assign_bias(40.0)
    response = answer(kr.export(model, tmp_path / "m"), ids=np.full([1, 4], -1))
    assert response["probability"] == 1.0
    assert response["score"] == pytest.approx(score, rel=1e-2)


class TestVersions:
    def test_number_is_one_more_than_the_highest(self, tmp_path: Path) -> None:
        model = ids_only()
        path = tmp_path / "new" / "models" / "frappe"
        assert [kr.export(model, path), kr.export(model, str(path))] == [path / "1", path / "2"]
        (path / "10").mkdir()
        (path / "9").mkdir()
        assert kr.export(model, path) == path / "11"
        assert {entry.name for entry in path.iterdir()} == {"1", "2", "9", "10", "11"}
        assert [entry.name for entry in path.parent.iterdir()] == ["frappe"]
        assert (path / "11" / "saved_model.pb").is_file()

    def test_each_version_holds_the_weights_at_its_export(self, tmp_path: Path) -> None:
        model = ids_only()
        before = model(IDS).numpy()
        first = kr.export(model, tmp_path / "m")
        model.fit(IDS, np.ones((4, 1)), epochs=2, verbose=0)
        second = kr.export(model, tmp_path / "m")
        scores = [answer(path, ids=IDS)["score"] for path in (first, second)]
        np.testing.assert_allclose(scores[0], before, rtol=0, atol=1e-6)
        np.testing.assert_allclose(scores[1], model(IDS).numpy(), rtol=0, atol=1e-6)
        assert np.max(np.abs(scores[1] - scores[0])) > 1e-3

    def test_model_still_refuses_unknown_ids(self, tmp_path: Path) -> None:
        model = ids_only()
        kr.export(model, tmp_path / "m")
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 9\).*2147483647"):
            model(UNKNOWN)


class TestErrors:
    def assert_refused(self, model: Any, path: Path, error: type[Exception], message: str) -> None:
        before = sorted(entry.name for entry in path.parent.iterdir())
        with pytest.raises(error, match=message):
            kr.export(model, path)
        assert sorted(entry.name for entry in path.parent.iterdir()) == before

    def test_directory_with_something_else(self, tmp_path: Path) -> None:
        for name in ("1", "variables", "notes.txt"):
            (tmp_path / "m" / name).mkdir(parents=True)
        self.assert_refused(
            ids_only(), tmp_path / "m", ValueError, r"nothing but integer versions.*\['notes.txt', 'variables'\]"
        )
        assert {entry.name for entry in (tmp_path / "m").iterdir()} == {"1", "variables", "notes.txt"}

    def test_file(self, tmp_path: Path) -> None:
        (tmp_path / "m").write_text("kept")
        self.assert_refused(ids_only(), tmp_path / "m", ValueError, "m, a file")
        assert (tmp_path / "m").read_text() == "kept"

    def test_no_functional_model(self, tmp_path: Path) -> None:
        class Subclassed(keras.Model):
            def call(self, inputs: Any) -> Any:
                return inputs

        unbuilt = keras.Sequential([kr.RaFMLayer(PLAN)])
        for model in (Subclassed(), unbuilt, kr.RaFMLayer(PLAN), None):
            self.assert_refused(model, tmp_path / "m", TypeError, "must be a functional keras.Model")

    def test_no_rafm_layer(self, tmp_path: Path) -> None:
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(1)(inputs), name="no_rafm")
        self.assert_refused(model, tmp_path / "m", ValueError, "no_rafm has no RaFMLayer")

    @pytest.mark.parametrize("kind", ["ragged", "sparse"])
    def test_input_that_cannot_be_exported(self, tmp_path: Path, kind: str) -> None:
        ids, other = ids_input(), keras.Input((3,), name="other", **{kind: True})
        size = keras.layers.Lambda(lambda x: tf.zeros([4, 1]), output_shape=(1,))(other)
        model = keras.Model([ids, other], keras.layers.Add()([rafm(ids), size]))
        self.assert_refused(model, tmp_path / "m", ValueError, f"'other' is {kind} and not the input of a RaFMLayer")

    def test_failure_while_writing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = ids_only()
        kr.export(model, tmp_path / "m")

        def save_on_full_disk(module: Any, path: str, *args: Any, **options: Any) -> None:
            Path(path).mkdir()
            (Path(path) / "saved_model.pb").write_text("half")
            raise OSError("No space left on device")

        monkeypatch.setattr(tf.saved_model, "save", save_on_full_disk)
        self.assert_refused(model, tmp_path / "m", OSError, "No space left")
        self.assert_refused(model, tmp_path / "other", OSError, "No space left")
        assert [entry.name for entry in (tmp_path / "m").iterdir()] == ["1"]


@pytest.mark.parametrize("kind", [kr.RaFMModel, keras.Model])
def test_export_of_keras(kind: type[keras.Model], tmp_path: Path) -> None:
    """Keras' own export works too, which saves gradients with the graph."""
    ids = keras.Input((2,), dtype="int32", name="ids")
    model = kind(ids, kr.RaFMLayer(kr.RankPlan([1, 2, 1, 2], ranks=(2, 3)))(ids))
    model.compile(kr.optimizers.LazyAdam(0.1), "mse")
    batch = np.array([[0, 1], [2, 3]], np.int32)
    model.fit(batch, np.ones((2, 1)), verbose=0)
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.serve(batch), model.predict(batch, verbose=0), rtol=1e-6)
