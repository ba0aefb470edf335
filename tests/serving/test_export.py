"""`keras_rafm.export`: version directories, signatures, and that serving needs neither Keras nor this package."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

NUM_FEATURES = 9
PLAN = kr.RankPlan([2, 1, 2, 2, 1, 1, 1, 1, 2], ranks=(2, 4))
IDS = np.array([[0, 1, 2, 3], [8, 8, 4, -1], [5, 6, -1, -1], [-1, -1, -1, -1]], "int32")
VALUES = np.array([[1, 0.5, -2, 1], [1, 3, 0.2, 0], [-1, 2, 0, 0], [0, 0, 0, 0]], "float32")
LENGTHS = np.array([4, 3, 2, 0])
DENSE = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
#: `IDS` with features that training never saw in place of padding.
UNKNOWN = np.where(IDS < 0, np.array([[9, 99, -2, 2**31 - 1]], "int32"), IDS)
LOGITS_LOSS = keras.losses.BinaryCrossentropy(from_logits=True)

Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """A kind of model.

    Attributes:
        build: Makes it.
        fed: What the model itself is called with.
        request: The same as a request.
        unknown: The request again, with unknown ids in place of padding.
        signature: Names and dtypes of the inputs.
        outputs: Names of the outputs.
    """

    build: Callable[[], keras.Model]
    fed: Any
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


def model(inputs: Any, outputs: Any, loss: Any = LOGITS_LOSS) -> kr.RaFMModel:
    made = kr.RaFMModel(inputs, outputs)
    if loss is not None:
        made.compile("sgd", loss)
    return made


def ids_only(dtype: str = "int32", loss: Any = LOGITS_LOSS) -> kr.RaFMModel:
    ids = ids_input(dtype=dtype)
    return model(ids, rafm(ids), loss)


def ids_and_values() -> kr.RaFMModel:
    inputs = {"ids": ids_input(), "values": keras.Input((4,), name="values")}
    return model(inputs, rafm(inputs))


def ragged() -> kr.RaFMModel:
    ids = ids_input("features", "int64", ragged=True)
    return model(ids, rafm(ids))


def ragged_with_values() -> kr.RaFMModel:
    inputs = {"ids": ids_input(dtype="int64", ragged=True), "x": keras.Input((None,), name="x", ragged=True)}
    return model(inputs, rafm({"ids": inputs["ids"], "values": inputs["x"]}))


def sparse() -> kr.RaFMModel:
    row = keras.Input((NUM_FEATURES,), sparse=True, name="row")
    return model(row, rafm(row))


def wide_and_deep() -> kr.RaFMModel:
    ids, inputs = ids_input("feature_ids"), keras.Input((3,), name="age_and_income")
    tower = keras.layers.Dense(1, kernel_initializer=keras.initializers.RandomNormal(seed=1))(inputs)
    top = keras.layers.Activation("sigmoid")(keras.layers.Add()([rafm(ids), tower]))
    return model([ids, inputs], top, "binary_crossentropy")


def two_layers() -> kr.RaFMModel:
    user, item = ids_input("user"), ids_input("item", "int64")
    return model({"user": user, "item": item}, keras.layers.Add()([rafm(user, "a"), rafm(item, "b", 2)]), "mse")


def two_layers_on_the_same_ids() -> kr.RaFMModel:
    ids = ids_input("features")
    return model(ids, keras.layers.Add()([rafm(ids, "a"), rafm(ids, "b", 2)]), None)


def two_outputs() -> kr.RaFMModel:
    ids, inputs = ids_input(), keras.Input((3,), name="more")
    score = rafm(ids)
    click = keras.layers.Activation("sigmoid", name="click")(score)
    price = keras.layers.Dense(1, name="price")(keras.layers.Concatenate()([score, inputs]))
    return model([ids, inputs], [click, price], {"click": "binary_crossentropy", "price": "mse"})


def outputs_by_key() -> kr.RaFMModel:
    ids = ids_input()
    score = rafm(ids)
    outputs = {"p": keras.layers.Activation("sigmoid", name="top")(score), "raw": score}
    return model(ids, outputs, {"p": "binary_crossentropy", "raw": None})


def plain_keras_model() -> keras.Model:
    ids = ids_input()
    made = keras.Model(ids, rafm(ids))
    made.compile("sgd", LOGITS_LOSS)
    return made


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

#: Serves without Keras and without this package. An import of a module that is `None` in `sys.modules` fails.
SERVER = """
import pickle, sys
sys.modules["keras"] = sys.modules["keras_rafm"] = None
import tensorflow as tf
with open(sys.argv[1], "rb") as file:
    exported = pickle.load(file)
answers = {}
for kind, (path, requests) in exported.items():
    serve = tf.saved_model.load(path).signatures["serving_default"]
    signature = serve.structured_input_signature[1]
    answers[kind] = {
        "signature": {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in signature.items()},
        "responses": [
            {
                name: value.numpy()
                for name, value in serve(**{name: tf.constant(x) for name, x in request.items()}).items()
            }
            for request in requests
        ],
    }
assert sys.modules["keras"] is None and sys.modules["keras_rafm"] is None
with open(sys.argv[1], "wb") as file:
    pickle.dump(answers, file)
"""


def first_rows(request: Arrays, number: int) -> Arrays:
    return {name: array[:number] for name, array in request.items()}


def requests_of(case: Case) -> list[Arrays]:
    """A whole batch, unknown ids in it, one sample, none."""
    return [case.request, case.unknown, first_rows(case.request, 1), first_rows(case.request, 0)]


class Served(NamedTuple):
    """What the server process said of every case, its own predictions beside it."""

    expected: dict[str, Any]
    answers: dict[str, Any]
    log: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    expected, exported = {}, {}
    for kind, case in CASES.items():
        made = case.build()
        expected[kind] = keras.tree.map_structure(lambda output: output.numpy(), made(case.fed))
        exported[kind] = (str(kr.export(made, folder / kind)), requests_of(case))
    exchange = folder / "exchange.pickle"
    exchange.write_bytes(pickle.dumps(exported))
    environment = {name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", SERVER, str(exchange)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Served(expected, pickle.loads(exchange.read_bytes()), done.stdout + done.stderr)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def response_of(kind: str, output: Any) -> Arrays:
    """What the server should say for the outputs of a model."""

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
        # A logit is made from a probability in float32.
        np.testing.assert_allclose(response[name], value, rtol=0, atol=1e-6 if "score" not in name else 5e-6, err_msg=name)


@pytest.mark.parametrize("kind", CASES)
class TestServing:
    def test_signature(self, served: Served, kind: str) -> None:
        signature = served.answers[kind]["signature"]
        assert {name: dtype for name, (dtype, _) in signature.items()} == CASES[kind].signature
        assert all(shape[0] is None for _, shape in signature.values())

    def test_predictions_are_those_of_the_model(self, served: Served, kind: str) -> None:
        response = served.answers[kind]["responses"][0]
        assert set(response) == CASES[kind].outputs
        assert_response(response, response_of(kind, served.expected[kind]))
        assert np.std(response[sorted(response)[-1]]) > 0.01

    def test_unknown_ids_are_like_padding(self, served: Served, kind: str) -> None:
        assert np.any(next(iter(CASES[kind].unknown.values())) >= NUM_FEATURES)
        whole, unknown, *_ = served.answers[kind]["responses"]
        assert_response(unknown, whole)

    def test_batch_of_one_and_of_none(self, served: Served, kind: str) -> None:
        whole, _, one, none = served.answers[kind]["responses"]
        assert_response(one, {name: value[:1] for name, value in whole.items()})
        assert {name: value.shape for name, value in none.items()} == dict.fromkeys(whole, (0, 1))


def test_server_says_nothing_of_custom_gradients(served: Served) -> None:
    assert "custom gradient" not in served.log.lower()


@pytest.mark.parametrize(
    ("top", "score"),
    [
        (keras.layers.Activation("sigmoid"), 40.0),
        (keras.ops.sigmoid, np.log(1 / 1.1920929e-07 - 1)),  # float32 next below 1
        (keras.layers.Dense(1, kernel_initializer="ones", activation="sigmoid"), np.log(1 / 1.1920929e-07 - 1)),
    ],
    ids=["layer", "operation", "dense"],
)
def test_score_where_the_probability_is_one(tmp_path: Path, top: Any, score: float) -> None:
    """The logit itself where the model shows it, else the largest that a float32 probability below 1 has."""
    ids = ids_input()
    made = model(ids, top(rafm(ids)), "binary_crossentropy")
    made.get_layer("rafm").assign_bias(40.0)
    serve = tf.saved_model.load(str(kr.export(made, tmp_path / "m"))).signatures["serving_default"]
    response = serve(ids=tf.fill([1, 4], -1))
    assert response["probability"].numpy() == 1.0
    assert response["score"].numpy() == pytest.approx(score, rel=1e-2)


class TestVersions:
    def test_next_after_the_highest(self, tmp_path: Path) -> None:
        made = ids_only()
        path = tmp_path / "new" / "models" / "frappe"
        assert [kr.export(made, path), kr.export(made, str(path))] == [path / "1", path / "2"]
        (path / "10").mkdir()
        (path / "9").mkdir()
        assert kr.export(made, path) == path / "11"
        assert {entry.name for entry in path.iterdir()} == {"1", "2", "9", "10", "11"}
        assert [entry.name for entry in path.parent.iterdir()] == ["frappe"]
        assert (path / "11" / "saved_model.pb").is_file()

    def test_versions_hold_the_weights_of_their_time(self, tmp_path: Path) -> None:
        made = ids_only()
        before = made(IDS).numpy()
        first = kr.export(made, tmp_path / "m")
        made.fit(IDS, np.ones((4, 1)), epochs=2, verbose=0)
        second = kr.export(made, tmp_path / "m")
        scores = [
            tf.saved_model.load(str(path)).signatures["serving_default"](ids=tf.constant(IDS))["score"].numpy()
            for path in (first, second)
        ]
        np.testing.assert_allclose(scores[0], before, rtol=0, atol=1e-6)
        np.testing.assert_allclose(scores[1], made(IDS).numpy(), rtol=0, atol=1e-6)
        assert np.max(np.abs(scores[1] - scores[0])) > 1e-3

    def test_model_still_refuses_unknown_ids(self, tmp_path: Path) -> None:
        made = ids_only()
        kr.export(made, tmp_path / "m")
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 9\).*2147483647"):
            made(UNKNOWN)


class TestErrors:
    def assert_refused(self, made: Any, path: Path, error: type[Exception], message: str) -> None:
        before = sorted(entry.name for entry in path.parent.iterdir())
        with pytest.raises(error, match=message):
            kr.export(made, path)
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
        self.assert_refused(ids_only(), tmp_path / "m", ValueError, "m is a file")
        assert (tmp_path / "m").read_text() == "kept"

    def test_no_functional_model(self, tmp_path: Path) -> None:
        class Subclassed(keras.Model):
            def call(self, inputs: Any) -> Any:
                return inputs

        unbuilt = keras.Sequential([kr.RaFMLayer(PLAN)])
        for made in (Subclassed(), unbuilt, kr.RaFMLayer(PLAN), None):
            self.assert_refused(made, tmp_path / "m", TypeError, "must be a functional keras.Model")

    def test_no_rafm_layer(self, tmp_path: Path) -> None:
        inputs = keras.Input((3,))
        made = keras.Model(inputs, keras.layers.Dense(1)(inputs), name="no_rafm")
        self.assert_refused(made, tmp_path / "m", ValueError, "no_rafm has no RaFMLayer")

    @pytest.mark.parametrize("kind", ["ragged", "sparse"])
    def test_input_that_cannot_be_exported(self, tmp_path: Path, kind: str) -> None:
        ids, other = ids_input(), keras.Input((3,), name="other", **{kind: True})
        size = keras.layers.Lambda(lambda x: tf.zeros([4, 1]), output_shape=(1,))(other)
        made = keras.Model([ids, other], keras.layers.Add()([rafm(ids), size]))
        self.assert_refused(made, tmp_path / "m", ValueError, f"'other' is {kind} and not the input of a RaFMLayer")

    def test_failure_while_writing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = ids_only()
        kr.export(made, tmp_path / "m")

        def full(module: Any, path: str, *args: Any, **options: Any) -> None:
            Path(path).mkdir()
            (Path(path) / "saved_model.pb").write_text("half")
            raise OSError("No space left on device")

        monkeypatch.setattr(tf.saved_model, "save", full)
        self.assert_refused(made, tmp_path / "m", OSError, "No space left")
        self.assert_refused(made, tmp_path / "other", OSError, "No space left")
        assert [entry.name for entry in (tmp_path / "m").iterdir()] == ["1"]


@pytest.mark.parametrize("kind", [kr.RaFMModel, keras.Model])
def test_export_of_keras(kind: type[keras.Model], tmp_path: Path) -> None:
    """Also with the gradients that a SavedModel takes along."""
    ids = keras.Input((2,), dtype="int32", name="ids")
    model = kind(ids, kr.RaFMLayer(kr.RankPlan([1, 2, 1, 2], ranks=(2, 3)))(ids))
    model.compile(kr.optimizers.LazyAdam(0.1), "mse")
    batch = np.array([[0, 1], [2, 3]], np.int32)
    model.fit(batch, np.ones((2, 1)), verbose=0)
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.serve(batch), model.predict(batch, verbose=0), rtol=1e-6)
