"""What `grpc_client.py` and `rest_client.py` share: the command line, rows of JSON as a request, and their error."""

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

#: What stands for no value; of ids, for no id.
MISSING: dict[str, Any] = {
    "DT_STRING": "",
    "DT_INT32": -1,
    "DT_INT64": -(2**63),
    "DT_FLOAT": math.nan,
    "DT_DOUBLE": math.nan,
}
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class ServingError(Exception):
    """The server refused a request, or there was no answer.

    Attributes:
        code: The name of the gRPC status, or `HTTP` and the number of the status.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class TensorInfo(NamedTuple):
    """An input or output.

    Attributes:
        dtype: Such as `DT_FLOAT`.
        shape: −1 where any size will do.
    """

    dtype: str
    shape: list[int]


class Signature(NamedTuple):
    """A signature of a served model.

    Attributes:
        method: Such as `tensorflow/serving/predict`.
        inputs: By name.
        outputs: By name.
    """

    method: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


class Client(Protocol):
    """What the command line needs."""

    def predict(self, inputs: Mapping[str, Any], signature: str = ...) -> dict[str, Any]:
        """Call a signature."""

    def classify(self, examples: Sequence[Mapping[str, Any]], signature: str = ...) -> list[list[tuple[str, float]]]:
        """The classes of examples."""

    def regress(self, examples: Sequence[Mapping[str, Any]], signature: str = ...) -> list[float]:
        """A number for each example."""

    def signatures(self) -> dict[str, Signature]:
        """What the signatures take and give."""

    def status(self) -> dict[int, str]:
        """The state of each version."""

    def close(self) -> None:
        """Close the connection."""


def columns_of(rows: Sequence[Mapping[str, Any]], inputs: Mapping[str, TensorInfo], may_lack: bool) -> dict[str, list[Any]]:
    """Rows as the inputs of a signature, lists padded to be equally long.

    Args:
        rows: Values by the names of inputs.
        inputs: Those of the signature.
        may_lack: Whether what a row lacks is a missing value.

    Raises:
        ValueError: A row has something that the signature does not take, or lacks something.
    """
    for row in rows:
        unknown = sorted(row.keys() - inputs.keys())
        lacking = [] if may_lack else sorted(inputs.keys() - row.keys())
        if unknown or lacking:
            problem = f"with {unknown}" if unknown else f"without {lacking}"
            raise ValueError(f"the signature takes {sorted(inputs)}. Received a row {problem}")
    return {name: _column(name, [row.get(name) for row in rows], info) for name, info in inputs.items()}


def _column(name: str, values: list[Any], info: TensorInfo) -> list[Any]:
    missing = MISSING.get(info.dtype)
    if len(info.shape) < 2:
        if any(isinstance(value, list) for value in values):
            raise ValueError(f"'{name}' takes one value per row. Received a list")
        return [missing if value is None else value for value in values]
    lists = [[] if value is None else value if isinstance(value, list) else [value] for value in values]
    width = max(info.shape[1], *map(len, lists))
    return [[missing if value is None else value for value in [*own, *[None] * (width - len(own))]] for own in lists]


def answers_to(
    client: Client, rows: Sequence[Mapping[str, Any]], signature: str, own: Signature
) -> Iterator[dict[str, Any]]:
    """Send rows to a signature by the method it has. Yields what is said of each."""
    if own.method in (_CLASSIFY, _REGRESS):
        examples = [{name: value for name, value in row.items() if value is not None} for row in rows]
        if own.method == _CLASSIFY:
            yield from map(dict, client.classify(examples, signature))
        else:
            yield from ({"output": output} for output in client.regress(examples, signature))
        return
    columns = columns_of(rows, own.inputs, may_lack=signature in ("raw", "retrieve_raw"))
    outputs = {name: _as_list(output) for name, output in client.predict(columns, signature).items()}
    for row in zip(*outputs.values(), strict=True):
        yield dict(zip(outputs, row, strict=True))


def main(make_client: Callable[..., Client], description: str, server: str) -> int:
    """The command line of a client.

    Args:
        make_client: A client's class.
        description: For `--help`.
        server: The default.

    Returns:
        The exit status: 0, 1 if the server refuses a request or gives no answer, 2 if the arguments or rows are wrong.
    """
    parser = _parser(description, server)
    own = parser.parse_args()
    try:
        with contextlib.closing(make_client(own.server, own.model, own.version, own.label, timeout=own.timeout)) as client:
            for line in _answers(client, own):
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
        for name, own in signatures.items():
            inputs, outputs = ({key: info._asdict() for key, info in side.items()} for side in (own.inputs, own.outputs))
            yield {"signature": name, "method": own.method, "inputs": inputs, "outputs": outputs}
        return
    name = arguments.signature
    if name not in signatures:
        raise ValueError(f"the model has the signatures {sorted(signatures)}. Received: '{name}'")
    rows: Iterator[dict[str, Any]]
    if arguments.ids:
        rows = (_row_of_ids(text, "values" in signatures[name].inputs) for text in arguments.ids)
    else:
        rows = _rows_of(arguments.file)
    while batch := list(itertools.islice(rows, arguments.batch)):
        yield from answers_to(client, batch, name, signatures[name])


def _rows_of(path: str) -> Iterator[dict[str, Any]]:
    """Of a file of JSON lines."""
    file: Iterable[str]
    with sys.stdin if path == "-" else open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line, object_hook=_bytes_of)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} must be a JSON object. Received: {line.strip()[:40]}")
            yield row


def _bytes_of(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["b64"]) if value.keys() == {"b64"} else value


def _row_of_ids(text: str, takes_values: bool) -> dict[str, Any]:
    """A row of ids and their values, which are 1 if not given: `1 2:0.5`."""
    try:
        pairs = [word.partition(":") for word in text.split()]
        row: dict[str, Any] = {"ids": [int(own) for own, _, _ in pairs]}
        if takes_values or ":" in text:
            row["values"] = [float(value) if colon else 1.0 for _, colon, value in pairs]
    except ValueError as error:
        raise ValueError(f"--ids takes ids, or id:value, with blanks between them. Received: '{text}'") from error
    return row


def _as_list(output: Any) -> list[Any]:
    if isinstance(output, list):
        return output
    values: list[Any] = output.tolist()  # of NumPy
    return values


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _parser(description: str, server: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Exit status: 0; 1 if the server refuses a request or gives no answer; 2 for wrong arguments or rows.",
    )
    parser.add_argument("--server", default=server, help="default: %(default)s")
    parser.add_argument("--model", required=True, help="its name")
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--version", type=int, help="default: the highest that is served")
    version.add_argument("--label", help="of a version, such as stable or canary")
    parser.add_argument("--signature", default="serving_default", help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds of each request (default: %(default)s)")
    parser.add_argument("--batch", type=_positive, default=256, help="rows of a request (default: %(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--ids", action="append", help="a row of ids, or id:value, with blanks between; may be repeated")
    what.add_argument("--status", action="store_true", help="print the versions and their states")
    what.add_argument("--signatures", action="store_true", help="print what the signatures take and give")
    parser.add_argument(
        "file",
        nargs="?",
        default="-",
        help="rows, a JSON object a line (default: stdin); classify and regress need a point in numbers of float columns",
    )
    return parser
