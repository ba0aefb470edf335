"""Any request gets an answer or an InvalidArgument error, the process survives, and later answers are right.

The requests go through a session of TensorFlow's C++ runtime, as in TF Serving. So the checks of signatures in Python don't
run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import models
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

import keras_rafm as kr

tf1 = tf.compat.v1
LIMITS = np.iinfo(np.int64)


class Server:
    """An exported model in a session."""

    def __init__(self, path: Path) -> None:
        self.session = tf1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            self.signatures = tf1.saved_model.load(self.session, ["serve"], str(path)).signature_def
        self._callables: dict[str, Any] = {}

    def close(self) -> None:
        self._callables.clear()  # must come before the session is closed
        self.session.close()

    def __call__(self, name: str, **inputs: Any) -> dict[str, np.ndarray]:
        signature = self.signatures[name]
        feeds = {info.name: np.asarray(inputs[key], dtype_of(info.dtype)) for key, info in signature.inputs.items()}
        if name not in self._callables:
            # `Session.run` would compare shapes in Python first.
            fetches = [info.name for info in signature.outputs.values()]
            options = config_pb2.CallableOptions(feed=list(feeds), fetch=fetches)
            self._callables[name] = self.session._make_callable_from_options(options)
        return dict(zip(signature.outputs, self._callables[name](*feeds.values()), strict=True))


def dtype_of(number: int) -> Any:
    dtype = tf.as_dtype(number)
    return object if dtype == tf.string else dtype.as_numpy_dtype


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Servers by the precision of factors, of `deep_model`, and of a model without schema."""
    folder = tmp_path_factory.mktemp("served")
    schema = models.adapted_schema()
    model = models.raw_model(schema)
    paths = {
        precision: kr.export(model, folder / precision, schema, precision=precision)
        for precision in ("trained", "int8", "bfloat16")
    }
    paths["deep"] = kr.export(models.deep_model(), folder / "deep")
    paths["without schema"] = kr.export(model, folder / "without schema", signatures=["examples", "classify", "regress"])
    started = {name: Server(path) for name, path in paths.items()}
    yield started
    for server in started.values():
        server.close()


KINDS = ("trained", "int8", "bfloat16")
GOOD_IDS = {"ids": [[0, 1, 3], [2, -1, -1]], "values": [[1, 0.5, 2], [1, 0, 0]]}


def assert_alive(server: Server) -> None:
    """The server gives the right answer to a valid request."""
    ids, values = np.array(GOOD_IDS["ids"]), np.array(GOOD_IDS["values"])
    flat = server("ragged", ids=ids[ids >= 0], values=values[ids >= 0], row_splits=[0, 3, 4])
    np.testing.assert_allclose(server("serving_default", **GOOD_IDS)["score"], flat["score"], rtol=1e-5, atol=1e-6)
    assert np.std(flat["score"]) > 0.01


def answer_or_error(server: Server, name: str, **inputs: Any) -> dict[str, np.ndarray] | None:
    try:
        return server(name, **inputs)
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):  # a message with bytes of the request can't be decoded
        return None
    finally:
        assert_alive(server)


@pytest.mark.parametrize("kind", KINDS)
class TestIds:
    def test_huge_and_negative(self, servers: dict[str, Server], kind: str) -> None:
        server = servers[kind]
        limits = np.iinfo(np.int32)
        ids = [[0, limits.min, limits.max, -2, 10**6]]
        known = server("serving_default", ids=[[0]], values=[[1]])
        for name in ("serving_default", "low", "level_scores"):
            values = [[1, 2, np.nan, np.inf, -np.inf]]
            answer = server(name, ids=ids, values=values)
            for key, expected in server(name, ids=[[0]], values=[[1]]).items():
                np.testing.assert_allclose(answer[key], expected, rtol=1e-6, atol=1e-6)
        flat = server("ragged", ids=ids[0], values=[1, 2, np.nan, np.inf, -np.inf], row_splits=[0, 5])
        np.testing.assert_allclose(flat["score"], known["score"], rtol=1e-6, atol=1e-6)
        assert_alive(server)

    def test_no_rows_and_only_padding(self, servers: dict[str, Server], kind: str) -> None:
        server = servers[kind]
        bias = server("serving_default", ids=[[-1]], values=[[0]])["score"][0, 0]
        for rows in (0, 1, 3):
            for width in (0, 1, 4):
                shape = (rows, width)
                answer = server("serving_default", ids=np.full(shape, -1), values=np.full(shape, np.nan))
                np.testing.assert_array_equal(answer["score"], np.full((rows, 1), bias))
                assert server("level_scores", ids=np.full(shape, -1), values=np.ones(shape))["level_scores"].shape == (
                    rows,
                    3,
                )
        assert server("ragged", ids=[], values=[], row_splits=[0])["score"].shape == (0, 1)
        assert server("ragged", ids=[], values=[], row_splits=[0, 0, 0])["score"].shape == (2, 1)
        assert_alive(server)

    def test_a_million_in_one_row(self, servers: dict[str, Server], kind: str) -> None:
        server = servers[kind]
        ids = np.random.default_rng(0).integers(-5, 100, (1, 10**6))
        values = np.full(ids.shape, 1e-3)
        answer = server("serving_default", ids=ids, values=values)
        flat = server("ragged", ids=ids[0], values=values[0], row_splits=[0, ids.size])
        assert np.isfinite(answer["probability"]).all()
        np.testing.assert_allclose(flat["probability"], answer["probability"], atol=1e-4)
        assert_alive(server)

    def test_values_that_are_not_finite(self, servers: dict[str, Server], kind: str) -> None:
        server = servers[kind]
        values = np.array([[1, 0.5, 2], [np.nan, 0, 0], [1, np.inf, 1], [1e38, 1e38, 1], [1, 0, 0]])
        ids = [[0, 1, 3], [2, -1, -1], [0, 1, 3], [0, 1, 3], [2, -1, -1]]
        answer = server("serving_default", ids=ids, values=values)["score"]
        assert not np.isfinite(answer[1:4]).any()
        np.testing.assert_allclose(answer[[0, 4]], server("serving_default", **GOOD_IDS)["score"], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("ids", "values"),
        [
            ((2, 3), (2, 2)),
            ((2, 3), (1, 1)),
            ((2, 3), (3, 2)),
            ((2, 3), (6,)),
            ((6,), (6,)),
            ((), ()),
            ((2, 3, 1), (2, 3, 1)),
            ((0, 3), (2, 3)),
            ((2, 3), (0, 3)),
        ],
    )
    def test_shapes(self, servers: dict[str, Server], kind: str, ids: tuple[int, ...], values: tuple[int, ...]) -> None:
        for name in ("serving_default", "low", "level_scores"):
            assert answer_or_error(servers[kind], name, ids=np.zeros(ids), values=np.ones(values)) is None

    @pytest.mark.parametrize(
        "splits",
        [[], [0], [3], [0, 2], [0, 4], [1, 3], [0, 2, 1, 3], [-1, 3], [0, LIMITS.max, 3], [0, LIMITS.min, 3], [[0, 3]]],
    )
    def test_row_splits(self, servers: dict[str, Server], kind: str, splits: Any) -> None:
        answer = answer_or_error(servers[kind], "ragged", ids=[0, 1, 2], values=[1, 1, 1], row_splits=splits)
        assert answer is None

    def test_number_of_values_differs_from_ids(self, servers: dict[str, Server], kind: str) -> None:
        for number in (0, 2, 4):
            answer = answer_or_error(servers[kind], "ragged", ids=[0, 1, 2], values=np.ones(number), row_splits=[0, 3])
            assert answer is None


def example(ids: list[int], values: list[float]) -> bytes:
    message = tf.train.Example()
    message.features.feature["ids"].int64_list.value.extend(ids)
    message.features.feature["values"].float_list.value.extend(values)
    return message.SerializeToString()


def answer_of_deep(server: Server, texts: list[bytes]) -> np.ndarray:
    return server("examples", examples=np.array(texts, object))["probability"]


class TestExamples:
    """`examples`, `classify` and `regress` take the same examples."""

    GOOD = models.examples_of_rows()[:2]

    def send(self, server: Server, texts: list[bytes]) -> list[dict[str, np.ndarray] | None]:
        array = np.array(texts, object)
        return [
            answer_or_error(server, "examples", examples=array),
            answer_or_error(server, "classify", inputs=array),
            answer_or_error(server, "regress", inputs=array),
        ]

    @pytest.mark.parametrize(
        "broken",
        # The cases need explicit ids: protobuf may write the features of an example in another order in each process.
        [
            pytest.param(b"\xff\xff\xff", id="no tag"),
            pytest.param(b"not an example", id="text"),
            pytest.param(GOOD[0][:-3], id="cut off"),
            pytest.param(GOOD[0] + b"\x0a", id="a tag without content"),
            pytest.param(b"\x0a\xff", id="half a length"),
        ],
    )
    def test_broken_bytes(self, servers: dict[str, Server], broken: bytes) -> None:
        for texts in ([broken], [*self.GOOD, broken], [broken, *self.GOOD]):
            assert self.send(servers["trained"], texts) == [None, None, None]

    def test_wrong_kinds_of_features(self, servers: dict[str, Server]) -> None:
        example = tf.train.Example()
        example.features.feature["shop"].float_list.value.append(7.0)
        assert self.send(servers["trained"], [example.SerializeToString()]) == [None, None, None]

    def test_several_values_where_one_is_expected(self, servers: dict[str, Server]) -> None:
        example = tf.train.Example()
        example.features.feature["user"].bytes_list.value.extend([b"ann", b"bob"])
        assert self.send(servers["trained"], [example.SerializeToString()]) == [None, None, None]

    def test_no_examples_and_unusual_ones(self, servers: dict[str, Server]) -> None:
        assert [
            answer is not None and next(iter(answer.values())).shape[0] for answer in self.send(servers["trained"], [])
        ] == [0] * 3
        unusual_example = tf.train.Example()
        unusual_example.features.feature["nobody asked for it"].bytes_list.value.append(b"x" * 10**6)
        unusual_example.features.feature["user"].bytes_list.value.append(b"\xff\x00\xfe" * 10**5)
        empty, unusual = (self.send(servers["trained"], [text])[0] for text in (b"", unusual_example.SerializeToString()))
        assert empty is not None
        assert unusual is not None
        assert np.isfinite(empty["score"]).all()
        assert np.isfinite(unusual["score"]).all()

    def test_huge_and_negative_ids(self, servers: dict[str, Server]) -> None:
        """Unknown ids contribute nothing, even with values that are NaN or infinite."""
        known = {"ids": [0, 3], "values": [1.0, 2.0]}
        unknown = [LIMITS.min, LIMITS.max, 2**31, -(2**31) - 1, -1, 10**6, 2**40]
        hostile = {"ids": [*unknown, 0, 3], "values": [*[float("nan"), float("inf"), 1e38] * 2, 7.0, 1.0, 2.0]}
        for name, key in (("examples", "examples"), ("classify", "inputs"), ("regress", "inputs")):
            texts = np.array([example(**known), example(**hostile), example([], [])], object)
            answer = servers["without schema"](name, **{key: texts})
            for rows in answer.values():
                if rows.dtype != object:
                    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-6)
                    assert rows[2, 0] != rows[0, 0] or rows.dtype == np.int64

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_number_of_values_differs_from_ids(self, servers: dict[str, Server], number: int) -> None:
        texts = np.array([example([0, 3], [1.0, 2.0]), example([0, 3], [1.0] * number)], object)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"must have equally many numbers.*\[1\]"):
            servers["without schema"]("examples", examples=texts)

    def test_ids_and_numbers_that_do_not_fit_the_model(self, servers: dict[str, Server]) -> None:
        server = servers["deep"]
        good = models.example_of_ids([0, 1, 2], [0.5, 1.0])
        expected = answer_of_deep(server, [good])
        wrong = [models.example_of_ids([0, 1, 2, 3], [0.5, 1.0]), models.example_of_ids([0, 1, 2], [0.5])]
        for text in wrong:
            with pytest.raises(tf.errors.InvalidArgumentError):
                answer_of_deep(server, [good, text])
            np.testing.assert_array_equal(answer_of_deep(server, [good]), expected)


class TestColumns:
    GOOD: ClassVar = {name: values[:2] for name, values in models.RAW.items()}

    def test_columns_of_different_lengths(self, servers: dict[str, Server]) -> None:
        for name in self.GOOD:
            request = {**self.GOOD, name: models.RAW[name][:3]}
            assert answer_or_error(servers["trained"], "raw", **request) is None

    @pytest.mark.parametrize("name", ["user", "price", "tags"])
    def test_shapes(self, servers: dict[str, Server], name: str) -> None:
        wrong = np.array(self.GOOD[name], object if name != "price" else float)
        for array in (wrong.reshape((*wrong.shape, 1, 1)), wrong.ravel()[0]):
            assert answer_or_error(servers["trained"], "raw", **{**self.GOOD, name: array}) is None

    def test_strange_values(self, servers: dict[str, Server]) -> None:
        request = {
            "user": [b"\xff\x00", b"x" * 10**6],
            "shop": [LIMITS.min, LIMITS.max],
            "price": [np.inf, -np.inf],
            "tags": [[b"a"] * 10**5, [b"\x00"] * 10**5],
        }
        answer = answer_or_error(servers["trained"], "raw", **request)
        assert answer is None or answer["score"].shape == (2, 1)
        none = answer_or_error(servers["trained"], "raw", user=[], shop=[], price=[], tags=np.zeros((0, 0), object))
        assert none is not None
        assert none["score"].shape == (0, 1)
