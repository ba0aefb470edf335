"""What importing the package does and does not do, each case in a fresh process."""

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from keras_rafm.lazy_imports import KERAS_CLASSES, MOVED_MODULES

SAVED_MODEL = Path(__file__).parent.parent / "saved_models" / "compat" / "0.1.0" / "tensorflow-2.17" / "model.keras"
BLOCK_TENSORFLOW_AND_KERAS = "import sys\nsys.modules['tensorflow'] = sys.modules['keras'] = None\n"
LOAD = f"model = keras.models.load_model({str(SAVED_MODEL)!r})\nprint(type(model), type(model.optimizer))\n"


def run(code: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    "module", ["keras_rafm", "keras_rafm.rank_plan", "keras_rafm.frequency_buckets", "keras_rafm.cli.main"]
)
def test_needs_neither_tensorflow_nor_keras(module):
    run(BLOCK_TENSORFLOW_AND_KERAS + f"import {module}\n")


@pytest.mark.parametrize(
    "imports",
    [
        "import keras_rafm\nimport keras\n",
        "import keras\nimport keras_rafm\n",
        "import tensorflow\nimport keras_rafm\nimport keras\n",
        "import keras_rafm\nimport tensorflow\nimport keras\n",
        "import keras_rafm.optimizers\nimport keras\n",
        "import keras_rafm\nimport importlib.util\nimportlib.util.find_spec('keras')\nimport keras\n",
    ],
)
def test_keras_reads_files_of_this_package(imports):
    assert run(imports + LOAD).split("'")[1::2] == [
        "keras_rafm.model.RaFMModel",
        "keras_rafm.optimizers.lazy_adam.LazyAdam",
    ]


def test_keras_knows_every_class_that_is_registered():
    registered = run("import keras_rafm, keras\nprint(*sorted(keras.saving.get_custom_objects()))")
    assert registered.split() == sorted(f"keras_rafm>{name}" for name in KERAS_CLASSES)
    everything = "import keras, pkgutil, importlib, keras_rafm\n" + textwrap.dedent("""
        for module in pkgutil.walk_packages(keras_rafm.__path__, "keras_rafm."):
            if not module.name.endswith((".beam_counts", ".__main__")):
                importlib.import_module(module.name)
        own = [name for name in keras.saving.get_custom_objects() if name.startswith("keras_rafm>")]
        print(*sorted(own))
        """)
    assert run(everything) == registered


def test_public_names():
    code = "import keras_rafm as kr\nfor name in kr.__all__: print(name, getattr(kr, name).__name__)\nprint(dir(kr))"
    assert "RaFMLayer RaFMLayer" in run(code)
    unknown = "RaFM"
    with pytest.raises(AttributeError, match="module 'keras_rafm' has no attribute 'RaFM'"):
        getattr(importlib.import_module("keras_rafm"), unknown)


@pytest.mark.parametrize("old_name", MOVED_MODULES)
def test_modules_that_have_moved_import_under_their_old_names(old_name):
    sys.modules.pop(old_name, None)
    with pytest.warns(DeprecationWarning, match=f"{old_name} has moved to {MOVED_MODULES[old_name]}"):
        module = importlib.import_module(old_name)
    assert module is importlib.import_module(MOVED_MODULES[old_name])
    assert module.__spec__.name == MOVED_MODULES[old_name]
