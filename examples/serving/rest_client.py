"""A client of TF Serving's REST API. It needs only Python's standard library.

    python rest_client.py --model clicks --ids "1 20 300" --ids "4 50"
    python rest_client.py --server localhost:8501 --model clicks --signature raw < rows.jsonl

Each line of the input is a row, and each line of the output is the answer to one row.
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from client_command import ServingError, Signature, TensorInfo, main


class RestClient:
    """A client for one model on one server. It reuses its connection; threads must not share it.

    Every method raises `ServingError` if the call fails. Its `code` is `HTTP` with the number of the status, or
    `UNAVAILABLE` or `DEADLINE_EXCEEDED` if there is no answer. Numbers in requests and answers may be NaN or infinite.

    Args:
        server: `host:port`, or a URL such as `https://host/prefix`.
        model: The name of the model.
        version: The version of the model. Default: the highest that is served.
        label: The label of a version, in place of its number.
        timeout: How long to wait for the server, in seconds.
    """

    def __init__(
        self, server: str, model: str, version: int | None = None, label: str | None = None, *, timeout: float = 5.0
    ) -> None:
        url = urlsplit(server if "://" in server else f"http://{server}")
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(url.netloc, timeout=timeout)
        self._path = f"{url.path.rstrip('/')}/v1/models/{quote(model, safe='')}"
        if version is not None:
            self._path += f"/versions/{version}"
        elif label is not None:
            self._path += f"/labels/{quote(label, safe='')}"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def predict(self, inputs: Mapping[str, Any], signature: str = "serving_default") -> dict[str, Any]:
        """Return the outputs of a signature for a request of columns.

        Args:
            inputs: Nested lists or NumPy arrays by the names of inputs. Strings are `str`, or `bytes` if they aren't text.
            signature: The name of the signature.

        Returns:
            The outputs by name, as nested lists.
        """
        answer = self._post("predict", {"signature_name": signature, "inputs": inputs})["outputs"]
        if isinstance(answer, dict):
            return answer
        # The server leaves out the name of a single output.
        (name,) = self.signatures()[signature].outputs
        return {name: answer}

    def predict_rows(self, rows: Sequence[Mapping[str, Any]], signature: str = "serving_default") -> list[Any]:
        """Return the outputs of a signature for a request of rows.

        Args:
            rows: The inputs of each row by name. Lists of one name must be equally long in all rows.
            signature: The name of the signature.

        Returns:
            The outputs of each row by name, or the output itself if there is only one.
        """
        answer: list[Any] = self._post("predict", {"signature_name": signature, "instances": rows})["predictions"]
        return answer

    def classify(self, examples: Sequence[Mapping[str, Any]], signature: str = "classify") -> list[list[tuple[str, float]]]:
        """Return the classes of each example, with their probabilities.

        Args:
            examples: The features of each example by name: strings, floats or ints, or lists of these. Features that are
                left out are missing values.
            signature: The name of the signature.
        """
        answer = self._post("classify", {"signature_name": signature, "examples": examples})["results"]
        return [[(label, score) for label, score in row] for row in answer]

    def regress(self, examples: Sequence[Mapping[str, Any]], signature: str = "regress") -> list[float]:
        """Return a number for each example. See `classify` for the arguments."""
        answer: list[float] = self._post("regress", {"signature_name": signature, "examples": examples})["results"]
        return answer

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures of the model by name."""
        metadata = self._call("GET", f"{self._path}/metadata")["metadata"]
        return {
            name: Signature(definition["method_name"], _infos(definition["inputs"]), _infos(definition["outputs"]))
            for name, definition in metadata["signature_def"]["signature_def"].items()
            if definition.get("method_name")  # the signature for initialisation has none
        }

    def status(self) -> dict[int, str]:
        """Return the state of each version that the server knows, such as `AVAILABLE`."""
        entries = self._call("GET", self._path)["model_version_status"]
        return {int(entry["version"]): entry["state"] for entry in entries}

    def _post(self, method: str, body: Mapping[str, Any]) -> Any:
        return self._call("POST", f"{self._path}:{method}", json.dumps(body, default=_json_of))

    def _call(self, method: str, path: str, body: str | None = None) -> Any:
        try:
            status, text = self._exchange(method, path, body)
        except TimeoutError as error:
            self._connection.close()
            raise ServingError("DEADLINE_EXCEEDED", f"no answer in {self._connection.timeout} s") from error
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServingError("UNAVAILABLE", f"{self._connection.host}:{self._connection.port}: {error}") from error
        if status != http.client.OK:
            raise ServingError(f"HTTP {status}", _error_in(text))
        return json.loads(text)

    def _exchange(self, *request: Any) -> tuple[int, bytes]:
        try:
            return self._send(*request)
        except ConnectionError:  # the server may have closed an idle connection
            self._connection.close()
            return self._send(*request)

    def _send(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.read()


def _json_of(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return value.tolist()  # from a NumPy array


def _error_in(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"])
    except (KeyError, TypeError, ValueError):  # not from TF Serving but from a proxy
        return text[:200].decode(errors="replace")


def _infos(tensors: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(tensor["dtype"], [int(dim["size"]) for dim in tensor["tensor_shape"].get("dim", [])])
        for name, tensor in tensors.items()
    }


if __name__ == "__main__":
    sys.exit(main(RestClient, __doc__.split("\n")[0], "localhost:8501"))
