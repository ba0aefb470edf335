"""A model server for tests that speaks TF Serving's protocols: `python model_server.py --model NAME=DIRECTORY …`.

Messages and services are those of `tensorflow-serving-api`. The server prints its gRPC port and its REST port once it is
ready. It serves all versions in a directory; a request that names no version gets the highest. Versions get labels by
`ModelService.HandleReloadConfigRequest`. The server checks the method names of signatures, as TF Serving does with
`--enable_signature_method_name_check`.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # importing a module that is `None` in `sys.modules` fails
    sys.modules.update(dict.fromkeys(("keras", "keras_rafm")))

import grpc
import served_models
from rest_api import handler_of
from served_models import Models, RequestError
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

PREDICTION_SERVICE: Mapping[str, Callable[[Models, Any], Any]] = {
    "Predict": served_models.predict,
    "Classify": served_models.classify,
    "Regress": served_models.regress,
    "GetModelMetadata": served_models.metadata,
}
MODEL_SERVICE: Mapping[str, Callable[[Models, Any], Any]] = {
    "GetModelStatus": served_models.status,
    "HandleReloadConfigRequest": served_models.reload_config,
}


def servicer(base: type, methods: Mapping[str, Callable[[Models, Any], Any]], models: Models) -> Any:
    """Return an implementation of a service. Methods that are left out are unimplemented."""

    def implementation(method: Callable[[Models, Any], Any]) -> Callable[[Any, Any, Any], Any]:
        def call(self: Any, request: Any, context: Any) -> Any:
            try:
                return method(models, request)
            except RequestError as error:
                context.abort(error.status, str(error))

        return call

    return type(base.__name__, (base,), {name: implementation(method) for name, method in methods.items()})()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", required=True, metavar="NAME=DIRECTORY")
    parser.add_argument("--grpc-port", type=int, default=0, help="0: any free port")
    parser.add_argument("--rest-port", type=int, default=0, help="0: any free port")
    arguments = parser.parse_args()
    directories = (argument.partition("=") for argument in arguments.model)
    models = Models({name: Path(directory) for name, _, directory in directories})

    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    prediction = servicer(prediction_service_pb2_grpc.PredictionServiceServicer, PREDICTION_SERVICE, models)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    management = servicer(model_service_pb2_grpc.ModelServiceServicer, MODEL_SERVICE, models)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(management, server)
    grpc_port = server.add_insecure_port(f"localhost:{arguments.grpc_port}")
    server.start()

    rest = ThreadingHTTPServer(("localhost", arguments.rest_port), handler_of(models))
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    print(grpc_port, rest.server_port, flush=True)
    models.keep_polling()


if __name__ == "__main__":
    main()
