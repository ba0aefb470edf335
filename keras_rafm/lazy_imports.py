"""What `import keras_rafm` arranges without importing TensorFlow or Keras.

Modules that need NumPy alone must import without TensorFlow, and the command line checks its arguments before it
imports TensorFlow. So `keras_rafm/__init__.py` loads the public names lazily (PEP 562). But `keras.models.load_model`
must read this package's files after `import keras_rafm` alone, and Keras knows only the classes in its registry: it
imports no third-party module. So a stand-in for each class enters the registry as soon as Keras is imported, whoever
imports it. The stand-in imports the class when a file needs it. Importing the classes right after Keras would be
circular, since the modules that define them are the ones that usually import Keras.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

#: Classes that are saved in Keras files -> the modules that define them.
KERAS_CLASSES: Final = {
    "RaFMLayer": "keras_rafm.layer",
    "RaFMModel": "keras_rafm.model",
    "LazyAdam": "keras_rafm.optimizers.lazy_adam",
    "SparseAdagrad": "keras_rafm.optimizers.sparse_adagrad",
    "SparseFtrl": "keras_rafm.optimizers.sparse_ftrl",
}

#: Modules that version 0.1.0 had elsewhere and its README named.
MOVED_MODULES: Final = {
    "keras_rafm.arguments": "keras_rafm.checks.arguments",
    "keras_rafm.data._delimited": "keras_rafm.data.formats.csv_parser",
    "keras_rafm.data._duckdb_counts": "keras_rafm.data.counting.duckdb",
    "keras_rafm.data._parquet_blocks": "keras_rafm.data.formats.parquet",
    "keras_rafm.data._streaming": "keras_rafm.data.reading.streaming",
    "keras_rafm.data.avro": "keras_rafm.data.formats.avro",
    "keras_rafm.data.categorical": "keras_rafm.data.columns.categorical",
    "keras_rafm.data.encoder": "keras_rafm.data.columns.encoder",
    "keras_rafm.data.numeric": "keras_rafm.data.columns.numeric",
    "keras_rafm.data.value_counts": "keras_rafm.data.columns.value_counts",
    "keras_rafm.distinct_rows": "keras_rafm.rows.sparse_gradients",
    "keras_rafm.downstream": "keras_rafm.training.downstream",
    "keras_rafm.epochs": "keras_rafm.training.epochs",
    "keras_rafm.extras": "keras_rafm.checks.optional_packages",
    "keras_rafm.idle_decay": "keras_rafm.rows.idle_decay",
    "keras_rafm.imitation": "keras_rafm.training.imitation",
    "keras_rafm.input_checks": "keras_rafm.checks.model_inputs",
    "keras_rafm.interactions": "keras_rafm.score.interactions",
    "keras_rafm.lookup": "keras_rafm.score.lookup",
    "keras_rafm.occurrences": "keras_rafm.score.occurrences",
    "keras_rafm.replicas": "keras_rafm.rows.replicas",
    "keras_rafm.row_access": "keras_rafm.rows.access",
    "keras_rafm.row_sums": "keras_rafm.score.row_sums",
    "keras_rafm.scopes": "keras_rafm.score.call_context",
    "keras_rafm.versions": "keras_rafm.rows.tensorflow_versions",
}


def arrange() -> None:
    """Make Keras know this package's classes, now or once it is imported, and old module names find their modules."""
    sys.meta_path.insert(0, _MovedModules())
    if sys.modules.get("keras") is not None:
        _register_stand_ins()
    else:
        sys.meta_path.insert(0, _KerasImportHook())


class _KerasImportHook(importlib.abc.MetaPathFinder):
    """Registers the stand-ins at the end of the import of Keras."""

    def __init__(self) -> None:
        self._is_searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of Keras that the other finders give, with a loader that also registers the stand-ins."""
        del path, target
        if fullname != "keras" or self._is_searching:
            return None
        self._is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, self)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    """Executes Keras with the loader that belongs to it, then registers the stand-ins and removes the hook.

    Args:
        loader: The loader of Keras.
        hook: The hook to remove from `sys.meta_path`.
    """

    def __init__(self, loader: importlib.abc.Loader, hook: _KerasImportHook) -> None:
        self._loader, self._hook = loader, hook

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Return what the loader of Keras returns."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute Keras, which sees its own loader as without the hook."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._hook in sys.meta_path:
            sys.meta_path.remove(self._hook)
        _register_stand_ins()


class _MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module under its old name, with a warning."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for the old names alone."""
        del path, target
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED_MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module from its new place."""
        new_name = MOVED_MODULES[spec.name]
        warnings.warn(f"{spec.name} has moved to {new_name}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new_name)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back, which the import system has replaced. It was executed in its new place."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def _register_stand_ins() -> None:
    import keras

    registered = keras.saving.get_custom_objects()
    for name, module in KERAS_CLASSES.items():
        registered.setdefault(f"keras_rafm>{name}", _stand_in(name, module))


def _stand_in(name: str, module: str) -> type:
    class StandIn:
        """Makes objects of a class that is imported when the first one is made."""

        @classmethod
        def from_config(cls, config: dict[str, Any], **options: Any) -> Any:
            return getattr(importlib.import_module(module), name).from_config(config, **options)

    return StandIn
