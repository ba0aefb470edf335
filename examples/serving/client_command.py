"""Shared parts of `grpc_client.py` and `rest_client.py`: the command line, requests from rows of JSON, and errors."""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

#: The value that stands for a missing one. For int32, the dtype of ids, it is the id of padding.
MISSING: dict[str, Any] = {
    "DT_STRING": "",
    "DT_INT32": -1,
    "DT_INT64": -(2**63),
    "DT_FLOAT": math.nan,
    "DT_DOUBLE": math.nan,
}
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class ServingError(Exception):
    """The server refused a request or did not answer.

    Attributes:
        code: The name of the gRPC status, or `HTTP` and the number of the status.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class TensorInfo(NamedTuple):
    """An input or output of a signature.

    Attributes:
        dtype: The name of its dtype, such as `DT_FLOAT`.
        shape: Its shape; −1 stands for any size.
    """

    dtype: str
    shape: list[int]


class Signature(NamedTuple):
    """A signature of a served model.

    Attributes:
        method: The method that calls it, such as `tensorflow/serving/predict`.
        inputs: Its inputs by name.
        outputs: Its outputs by name.
    """

    method: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


class Client(Protocol):
    """The methods of a client that the command line calls."""

    def predict(self, inputs: Mapping[str, Any], signature: str = ...) -> dict[str, Any]:
        """Return the outputs of a signature."""

    def classify(self, examples: Sequence[Mapping[str, Any]], signature: str = ...) -> list[list[tuple[str, float]]]:
        """Return the classes of each example, with their probabilities."""

    def regress(self, examples: Sequence[Mapping[str, Any]], signature: str = ...) -> list[float]:
        """Return a number for each example."""

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures of the model by name."""

    def status(self) -> dict[int, str]:
        """Return the state of each version."""

    def close(self) -> None:
        """Close the connection."""


def columns_of(rows: Sequence[Mapping[str, Any]], inputs: Mapping[str, TensorInfo], may_lack: bool) -> dict[str, list[Any]]:
    """Return rows as the inputs of a signature, with lists padded to equal lengths.

    Args:
        rows: Values by the names of inputs.
        inputs: The inputs of the signature.
        may_lack: Whether a row may lack inputs, which are then missing values.

    Raises:
        ValueError: A row has a name that the signature does not take, or lacks an input.
    """
    for row in rows:
        unknown = sorted(row.keys() - inputs.keys())
        lacking = [] if may_lack else sorted(inputs.keys() - row.keys())
        if unknown or lacking:
            problem = f"with {unknown}" if unknown else f"without {lacking}"
            raise ValueError(f"rows must have the inputs of the signature, {sorted(inputs)}. Received: a row {problem}")
    return {name: _column(name, [row.get(name) for row in rows], info) for name, info in inputs.items()}


def _column(name: str, values: list[Any], info: TensorInfo) -> list[Any]:
    missing = MISSING.get(info.dtype)
    if len(info.shape) < 2:
        if any(isinstance(value, list) for value in values):
            raise ValueError(f"'{name}' must have one value per row. Received: a list")
        return [missing if value is None else value for value in values]
    lists = [[] if value is None else value if isinstance(value, list) else [value] for value in values]
    width = max(info.shape[1], *map(len, lists))
    return [[missing if x is None else x for x in [*values, *[None] * (width - len(values))]] for values in lists]


def answers_to(
    client: Client, rows: Sequence[Mapping[str, Any]], name: str, signature: Signature
) -> Iterator[dict[str, Any]]:
    """Send rows to the signature of a name, by its method. Yields the answer to each row."""
    if signature.method in (_CLASSIFY, _REGRESS):
        examples = [{name: value for name, value in row.items() if value is not None} for row in rows]
        if signature.method == _CLASSIFY:
            yield from map(dict, client.classify(examples, name))
        else:
            yield from ({"output": output} for output in client.regress(examples, name))
        return
    columns = columns_of(rows, signature.inputs, may_lack=name in ("raw", "retrieve_raw"))
    outputs = {key: _as_list(output) for key, output in client.predict(columns, name).items()}
    for row in zip(*outputs.values(), strict=True):
        yield dict(zip(outputs, row, strict=True))


def main(make_client: Callable[..., Client], description: str, server: str) -> int:
    """Run the command line of a client.

    Args:
        make_client: The class of the client.
        description: The description for `--help`.
        server: The default of `--server`.

    Returns:
        The exit status: 0; 1 if the server refuses a request or does not answer; 2 if the arguments or rows are wrong.
    """
    parser = _parser(description, server)
    args = parser.parse_args()
    try:
        client = make_client(args.server, args.model, args.version, args.label, timeout=args.timeout)
        with contextlib.closing(client):
            for line in _answers(client, args):
                print(json.dumps(line, ensure_ascii=False, default=bytes.decode), flush=True)
    except ServingError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


def _answers(client: Client, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if arguments.status:
        yield from ({"version": version, "state": state} for version, state in client.status().items())
        return
    signatures = client.signatures()
    if arguments.signatures:
        for name, signature in signatures.items():
            inputs = {key: info._asdict() for key, info in signature.inputs.items()}
            outputs = {key: info._asdict() for key, info in signature.outputs.items()}
            yield {"signature": name, "method": signature.method, "inputs": inputs, "outputs": outputs}
        return
    name = arguments.signature
    if name not in signatures:
        raise ValueError(f"--signature must be one of {sorted(signatures)}. Received: '{name}'")
    rows: Iterator[dict[str, Any]]
    if arguments.ids:
        rows = (_row_of_ids(text, "values" in signatures[name].inputs) for text in arguments.ids)
    else:
        rows = _rows_of(arguments.file)
    while batch := list(itertools.islice(rows, arguments.batch)):
        yield from answers_to(client, batch, name, signatures[name])


def _rows_of(path: str) -> Iterator[dict[str, Any]]:
    """Yield the rows in a file with one JSON object per line."""
    file: Iterable[str]
    with sys.stdin if path == "-" else open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line, object_hook=_bytes_of)
            except ValueError as error:
                raise ValueError(f"line {number} is not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} must be a JSON object. Received: {line.strip()[:40]}")
            yield row


def _bytes_of(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["b64"]) if value.keys() == {"b64"} else value


def _row_of_ids(text: str, takes_values: bool) -> dict[str, Any]:
    """Parse a row of ids and values, such as `1 2:0.5`. A value that is left out is 1."""
    try:
        pairs = [word.partition(":") for word in text.split()]
        row: dict[str, Any] = {"ids": [int(word) for word, _, _ in pairs]}
        if takes_values or ":" in text:
            row["values"] = [float(value) if colon else 1.0 for _, colon, value in pairs]
    except ValueError as error:
        raise ValueError(f"--ids must be ids or id:value pairs with blanks between them. Received: '{text}'") from error
    return row


def _as_list(output: Any) -> list[Any]:
    if isinstance(output, list):
        return output
    values: list[Any] = output.tolist()  # from a NumPy array
    return values


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _parser(description: str, server: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Exit status: 0; 1 if the server refuses a request or does not answer; 2 for wrong arguments or rows.",
    )
    parser.add_argument("--server", default=server, help="the address of the server (default: %(default)s)")
    parser.add_argument("--model", required=True, help="the name of the model")
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--version", type=int, help="the version (default: the highest that is served)")
    version.add_argument("--label", help="the label of a version, such as stable or canary")
    parser.add_argument("--signature", default="serving_default", help="the signature to call (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=5.0, help="the deadline of each request in seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=_positive, default=256, help="the number of rows per request (default: %(default)s)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--ids", action="append", help="a row of ids or id:value pairs with blanks between them; may be repeated"
    )
    what.add_argument("--status", action="store_true", help="print the versions and their states")
    what.add_argument("--signatures", action="store_true", help="print the inputs and outputs of each signature")
    parser.add_argument(
        "file",
        nargs="?",
        default="-",
        help="a file with one JSON object per row and line (default: stdin); for classify and regress, numbers of float "
        "columns need a decimal point",
    )
    return parser
