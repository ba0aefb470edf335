"""Small schemas with one column, and the messages of errors."""

import pytest

from keras_rafm.data import Schema


def adapted(column, data, **options):
    """Return a schema whose one column, `a`, has learnt from `data`."""
    schema = Schema({"a": column}, **options)
    schema.adapt({"a": data})
    return schema


def ids_of(schema, data):
    """Return the ids of the column `a`, which holds one value per row."""
    return schema({"a": data})["ids"].numpy()[:, 0]


def message_of(kind, function, *args, **options):
    """Return the message of the error that a call raises."""
    with pytest.raises(kind) as error:
        function(*args, **options)
    return str(error.value)
