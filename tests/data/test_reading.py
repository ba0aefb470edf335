"""Files of every format through `Schema`: the same rows, counts, batches and predictions as for a mapping; training."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from table_files import (
    NUM_ROWS,
    SUFFIXES,
    TABLE,
    in_python,
    libfm_schema,
    listed,
    many_samples,
    rows_of,
    table_schema,
    write_text,
)

from keras_rafm import RaFMLayer, RaFMModel, RankPlan
from keras_rafm.data import CSVFormat, LibFMFormat, Schema, SkippedRows, read_libfm, write_libfm

pytestmark = pytest.mark.one_tensorflow


def assert_same_counts(counted, expected):
    assert counted.keys() == expected.keys()
    for name, counts in expected.items():
        assert counted[name].values.tolist() == counts.values.tolist(), name
        assert counted[name].values.dtype == counts.values.dtype
        assert counted[name].counts.tolist() == counts.counts.tolist(), name
        assert counted[name].num_missing == counts.num_missing, name


def files_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_batches_and_counts_as_a_mapping(files, suffix, tmp_path):
    schema, from_file = table_schema(), table_schema()
    schema.adapt(in_python(TABLE))
    assert_same_counts(from_file.count_values(files[suffix]), schema.count_values(in_python(TABLE)))
    from_file.adapt([files[suffix]])
    schema.save(tmp_path / "mapping")
    from_file.save(tmp_path / "file")
    assert files_below(tmp_path / "file") == files_below(tmp_path / "mapping")

    batches = list(from_file.dataset(files[suffix], 40))
    expected = [schema.training_batch(in_python(TABLE, start, start + 40)) for start in range(0, NUM_ROWS, 40)]
    assert [len(labels) for _, labels, _ in batches] == [40, 40, 40, 37]
    assert [inputs["ids"].dtype for inputs, *_ in batches] == [tf.int32] * 4
    assert listed(batches) == listed(expected)
    if suffix in ("csv", "tfrecord"):
        inputs = list(from_file.dataset(files[suffix], 40, training=False))
        assert [row for batch in inputs for row in rows_of(batch)] == [row for row, *_ in listed(expected)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_batches_without_lists_are_equal_arrays(files, suffix):
    schema = table_schema(lists=False)
    schema.adapt(files[suffix])
    batches = list(schema.dataset(files[suffix], 50, drop_remainder=True))
    assert len(batches) == 3
    for number, batch in enumerate(batches):
        expected = schema.training_batch(in_python(TABLE, 50 * number, 50 * number + 50))
        for read, wanted in zip(tf.nest.flatten(batch), tf.nest.flatten(expected), strict=True):
            np.testing.assert_array_equal(read, wanted)
            assert read.dtype == wanted.dtype


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_raw_rows_equal_what_was_written(files, suffix):
    schema = table_schema()
    blocks = list(schema.raw_dataset(files[suffix]))
    for column in schema.raw_columns(training=True):
        read = np.concatenate([block[column.name].numpy() for block in blocks]).tolist()
        expected = [v.encode() if isinstance(v, str) else v for v in in_python(TABLE)[column.name]]
        assert all(a == b or (a != a and b != b) for a, b in zip(read, expected, strict=True)), column.name
        assert blocks[0][column.name].dtype == column.dtype
    assert set(blocks[0]) == {column.name for column in schema.raw_columns(training=True)}
    assert "clicked" not in next(iter(schema.raw_dataset(files[suffix], training=False)))


def rafm_model(schema, seed=0):
    plan = RankPlan.from_counts(schema.counts, thresholds=(5,), ranks=(2, 3))
    normal = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    inputs = schema.inputs()
    layer = RaFMLayer(plan, factors_initializer=normal, linear_initializer=normal, seed=seed)
    return RaFMModel(inputs, layer(inputs))


def test_predictions_equal_those_for_a_mapping(files):
    schema = table_schema()
    schema.adapt(in_python(TABLE))
    model = rafm_model(schema)
    expected = model(schema(in_python(TABLE))).numpy()
    assert np.std(expected) > 0.1
    for suffix in ("csv", "parquet", "tfrecord"):
        predictions = model.predict(schema.dataset(files[suffix], 40, training=False, num_rows=NUM_ROWS), verbose=0)
        np.testing.assert_allclose(predictions, expected, rtol=0, atol=1e-5)


def test_text_with_another_delimiter(tmp_path):
    write_text(tmp_path / "a.txt", TABLE, ";")
    schema = table_schema()
    schema.adapt(tmp_path / "a.txt", file_format=CSVFormat(delimiter=";"))
    expected = table_schema()
    expected.adapt(in_python(TABLE))
    np.testing.assert_array_equal(schema.counts, expected.counts)


@pytest.mark.parametrize("suffix", ["libfm", "libfm.gz", "svm"])
@pytest.mark.parametrize("block_bytes", [60])
def test_libfm_text_equals_read_libfm(tmp_path, suffix, block_bytes):
    path = tmp_path / f"some.{suffix}"
    write_libfm(path, many_samples())
    schema = libfm_schema()
    file_format = LibFMFormat(block_bytes=block_bytes)
    schema.adapt(path, file_format=file_format)
    samples = read_libfm(path)
    id_of_value = {int(value): number for number, value in enumerate(schema.vocabulary("ids"))}
    occurrences = collections.Counter(samples.ids[samples.ids >= 0].tolist())
    assert {value: int(schema.counts[number]) for value, number in id_of_value.items()} == occurrences
    expected = [
        ([(id_of_value[i], x) for i, x in zip(ids, values, strict=True) if i >= 0], label)
        for ids, values, label in zip(samples.ids.tolist(), samples.values.tolist(), samples.labels.tolist(), strict=True)
    ]
    assert listed(schema.dataset(path, 64, file_format=file_format)) == expected
    assert listed(schema.dataset(path, 64)) == expected


def test_libfm_text_has_three_columns_only(tmp_path):
    write_libfm(tmp_path / "a.libfm", many_samples())
    for columns in ({"ids": "integer_categorical"}, {"user": "string_categorical"}):
        with pytest.raises(ValueError, match=r"a\.libfm: libFM text has the columns 'ids' .* Received: RawColumn\(name="):
            Schema(columns).adapt(tmp_path / "a.libfm")


def test_batches_without_any_feature(tmp_path):
    """Samples such as users without history: their score is the bias."""
    write_text(tmp_path / "a.csv", {"tags": ["", "", "a", ""], "y": [0, 1, 1, 0]})
    schema = Schema({"tags": Schema.string_categorical(separator="|", missing="ignore")}, label="y")
    schema.adapt(tmp_path / "a.csv")
    model = rafm_model(schema)
    dataset = schema.dataset(tmp_path / "a.csv", 2, training=False, num_rows=4)
    expected = model(schema({"tags": ["", "", "a", ""]})).numpy()
    np.testing.assert_allclose(model.predict(dataset, verbose=0), expected, rtol=0, atol=1e-6)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(schema.dataset(tmp_path / "a.csv", 2, num_rows=4), epochs=2, verbose=0, shuffle=False)


@pytest.mark.parametrize(("suffix", "kind"), [("csv", RaFMModel), ("parquet", keras.Model)])
def test_fit(files, suffix, kind):
    schema = table_schema()
    schema.adapt(files[suffix])
    keras.utils.set_random_seed(1)
    rafm = rafm_model(schema)
    model = rafm if kind is RaFMModel else keras.Model(rafm.input, rafm.output)
    model.compile(keras.optimizers.Adam(0.1), keras.losses.BinaryCrossentropy(from_logits=True), steps_per_execution=2)
    training = schema.dataset(files[suffix], 16, shuffle=True, seed=1, num_rows=NUM_ROWS)
    validation = schema.dataset(files[suffix], 50, num_rows=NUM_ROWS)
    history = model.fit(training, validation_data=validation, epochs=3, verbose=0, shuffle=False).history
    assert len(history["val_loss"]) == 3
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert model.evaluate(validation, verbose=0) == pytest.approx(history["val_loss"][-1], rel=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "libfm"])
def test_progress_of_counting(tmp_path, suffix):
    """DuckDB reports steps, this package's readers report rows; both end with the total."""
    file = tmp_path / f"rows.{suffix}"
    file.write_text("label,ids\n" + "1,7\n" * 50 if suffix == "csv" else "1 7:1\n" * 50)
    columns = {"ids": Schema.integer_categorical(multivalued=suffix == "libfm")}
    reports = []
    schema = Schema(columns, label="label")
    schema.adapt(file, progress=lambda *report: reports.append(report))
    steps = [(1, 2, "steps"), (2, 2, "steps")]  # parsing, and one column
    assert reports == (steps if suffix == "csv" else [(50, None, "rows")])
    reports.clear()
    schema.adapt(file, on_error=SkippedRows(), progress=lambda *report: reports.append(report))
    assert reports[-1] == (50, None, "rows")
