"""A client of TF Serving's REST API on Python's standard library alone.

    python rest_client.py --model clicks --ids "1 20 300" --ids "4 50"
    python rest_client.py --server localhost:8501 --model clicks --signature raw < rows.jsonl

A line of the input is a row, a line of the output what the model says of it.
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
    """Calls one model on one server over a connection that is kept. Threads must not share it.

    Every method raises `ServingError`; its `code` is `HTTP` with the number of the status, or `UNAVAILABLE` or
    `DEADLINE_EXCEEDED` if there is no answer. Numbers may be NaN or infinite both ways.

    Args:
        server: `host:port`, or `https://host/prefix` and the like.
        model: The name of the model.
        version: Its version. Default: the highest that is served.
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
        """Call a signature, with columns.

        Args:
            inputs: Lists, nested as the tensors are, or NumPy arrays. Strings are `str`, or `bytes` if they aren't text.
            signature: Its name.

        Returns:
            Its outputs as nested lists.
        """
        answer = self._post("predict", {"signature_name": signature, "inputs": inputs})["outputs"]
        if isinstance(answer, dict):
            return answer
        # Where there is one output, the server leaves its name out.
        (name,) = self.signatures()[signature].outputs
        return {name: answer}

    def predict_rows(self, rows: Sequence[Mapping[str, Any]], signature: str = "serving_default") -> list[Any]:
        """Call a signature, with rows.

        Args:
            rows: All inputs by name for each row; lists of one name must be equally long.
            signature: Its name.

        Returns:
            The outputs by name for each row, or the output itself where there is one.
        """
        answer: list[Any] = self._post("predict", {"signature_name": signature, "instances": rows})["predictions"]
        return answer

    def classify(self, examples: Sequence[Mapping[str, Any]], signature: str = "classify") -> list[list[tuple[str, float]]]:
        """The classes of examples, each with its probability.

        Args:
            examples: The features of each by name: strings, floats or ints, or lists of them. What is absent is missing.
            signature: Its name.
        """
        answer = self._post("classify", {"signature_name": signature, "examples": examples})["results"]
        return [[(label, score) for label, score in row] for row in answer]

    def regress(self, examples: Sequence[Mapping[str, Any]], signature: str = "regress") -> list[float]:
        """A number for each example, as `classify` takes them."""
        answer: list[float] = self._post("regress", {"signature_name": signature, "examples": examples})["results"]
        return answer

    def signatures(self) -> dict[str, Signature]:
        """What the signatures of the model take and give."""
        found = self._call("GET", f"{self._path}/metadata")["metadata"]["signature_def"]["signature_def"]
        return {
            name: Signature(own["method_name"], _infos(own["inputs"]), _infos(own["outputs"]))
            for name, own in found.items()
            if own.get("method_name")  # not the initialisation
        }

    def status(self) -> dict[int, str]:
        """The state of each version that the server knows, such as `AVAILABLE`."""
        found = self._call("GET", self._path)["model_version_status"]
        return {int(own["version"]): own["state"] for own in found}

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
        except ConnectionError:  # the server may have closed a connection that was idle for long
            self._connection.close()
            return self._send(*request)

    def _send(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.read()


def _json_of(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return value.tolist()  # of NumPy


def _error_in(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"])
    except (KeyError, TypeError, ValueError):  # from something between here and the server
        return text[:200].decode(errors="replace")


def _infos(tensors: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(own["dtype"], [int(dim["size"]) for dim in own["tensor_shape"].get("dim", [])])
        for name, own in tensors.items()
    }


if __name__ == "__main__":
    sys.exit(main(RestClient, __doc__.split("\n")[0], "localhost:8501"))
