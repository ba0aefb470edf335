"""The commands of `benchmarks` other than the speed against peers. No test depends on how fast anything is."""

import ast
import dataclasses
import graphlib
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import reference_readers
from real_data import ML_100K, needs

import keras_rafm as kr
from benchmarks import compare, datasets, validation
from benchmarks.speed.processes import Worker, WorkerError
from benchmarks.speed.spreads import Spread

pytestmark = pytest.mark.one_tensorflow

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


def rows_of_table(module, *words):
    """Run a command on tiny data, and return the rows of its table as mappings from columns to cells."""
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if line[:1] == "|"
    )
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_reading_of_files():
    kinds = ["csv", "avro"]
    rows = rows_of_table("reading", "--rows", "300", "--kinds", *kinds)
    assert [row["file"] for row in rows] == [f"rows.{kind}" for kind in kinds for _ in range(3)]
    assert [row["job"] for row in rows] == ["raw columns", "mapped", "fit"] * len(kinds)
    assert all(int(row["rows/s"].replace(",", "")) > 0 for row in rows)
    assert {row["peer"] for row in rows} >= {"make_csv_dataset", "make_csv_dataset + StringLookup", "fastavro alone"}
    assert all(int(row["rows/s of the peer"].replace(",", "")) > 0 for row in rows if row["peer"])


def test_counting_of_files():
    rows = rows_of_table("counting", "--rows", "500", "--columns", "2", "--runs", "1", "--kinds", "parquet")
    ours = [row for row in rows if row["counted by"] == "duckdb"]
    files = ["int64.parquet", "string.parquet"]
    assert [row["file"] for row in ours] == files
    assert {row["counted by"] for row in rows} == {"duckdb", "polars", "pyarrow"}
    assert all(int(row["rows/s"].replace(",", "")) > 0 for row in rows)


def test_reading_from_kafka():
    words = ("--messages", "3000", "--runs", "1", "--formats", "json")
    if find_spec("tensorflow_io") is None:
        with pytest.raises(AssertionError, match=r"tensorflow_io is needed here: pip install 'keras_rafm\[io\]'"):
            rows_of_table("kafka", *words)
        return
    (row,) = rows_of_table("kafka", *words)
    assert row["messages"] == "json"
    assert all(int(row[name].replace(",", "")) > 0 for name in ("fit, messages/s", "messages alone"))


def test_comparison_of_a_checkout_with_itself():
    options = ("--cases", "tiny,reading,serving", "--turns", "1", "--max-turns", "1", "--rows", "500")
    rows = rows_of_table("compare", str(ROOT), str(ROOT), "--repetitions", "1", "--seconds", "0.01", *options)
    times = {"tiny": ["step, ms"], "reading": [f"{kind}, µs per row" for kind in ("csv", "parquet", "tfrecord", "libfm")]}
    times["serving"] = ["export, ms", "latency at batch 1, µs", "latency at batch 512, µs"]
    assert [(row["case"], row["time"]) for row in rows] == [(case, time) for case in times for time in times[case]]
    for row in rows:
        old, new, ratio = float(row["old"]), float(row["new"]), float(row["new / old (95 %)"].split()[0])
        assert min(old, new) > 0
        assert ratio == pytest.approx(new / old, rel=0.01)
        assert row["turns"] == "1"


def test_turns_alternate_until_the_ratio_is_precise():
    measured = []
    seconds = {"old": iter([1.0, 2.0, 4.0, 1.0, 1.0]), "new": iter([1.5, 2.0, 4.0, 1.0, 1.0])}

    def measure(checkout):
        measured.append(checkout.name)
        return {"step": next(seconds[checkout.name])}

    result = compare.compare(measure, Path("old"), Path("new"), turns=2, max_turns=4)
    assert measured == ["old", "new"] * 4
    assert result["step"].old == [1.0, 2.0, 4.0, 1.0]
    assert result["step"].ratio.median == 1.0
    assert not result["step"].is_precise  # a quarter of the ratios is 1.5
    precise = compare.compare(lambda _: {"step": 3.0}, Path("old"), Path("new"), turns=3, max_turns=10)
    assert len(precise["step"].new) == 3
    assert precise["step"].is_precise


def test_interval_of_a_median():
    values = np.random.default_rng(1).normal(1.0, 0.1, 100).tolist()
    interval = Spread.of_median(values)
    assert interval.median == np.median(values)
    standard_error = 1.2533 * 0.1 / np.sqrt(100)  # of the median of normally distributed values
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.3)
    assert interval == Spread.of_median(values)


def test_a_checkout_must_have_the_package(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path), str(ROOT)])
    with pytest.raises(SystemExit):
        compare.main()
    assert f"not a checkout of this project: '{tmp_path}' has no keras_rafm/__init__.py" in capsys.readouterr().err


def test_a_worker_takes_the_package_from_the_checkout(tmp_path):
    package = tmp_path / "keras_rafm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('package of the checkout')\n")
    with (
        Worker(sys.executable, {"name": "repetitions", "threads": "default"}, tmp_path) as worker,
        pytest.raises(WorkerError, match="package of the checkout"),
    ):
        worker.receive()


@needs(ML_100K)
def test_rating_data_have_the_split_of_the_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    split = datasets.ml_100k(ML_100K.parent)
    reference = reference_readers.ml_100k(ML_100K)
    ids_of_reference = {}  # id of the reference reader -> id of the benchmarks
    for name, samples in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        np.testing.assert_array_equal(samples.labels, reference[name].labels)
        for padded, expected in zip(samples.ids.tolist(), reference[name].ids, strict=True):
            ids = [id_ for id_ in padded if id_ != -1]
            if name == "train":
                for id_, of_reference in zip(ids, expected, strict=True):
                    assert ids_of_reference.setdefault(of_reference, id_) == id_
            else:  # values unseen in training have no feature
                assert ids == [ids_of_reference[id_] for id_ in expected if id_ in ids_of_reference]
    assert len(set(ids_of_reference.values())) == len(ids_of_reference) == split.counts().size


def rows_of_readme(heading):
    """Count the rows of the first table below a heading of `benchmarks/README.md` by data set or model."""
    section = (BENCHMARKS / "README.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = next(part for part in section.split("\n\n") if part.startswith("|"))
    return Counter(line.strip("|").split("|")[0].split(",")[0].strip() for line in table.splitlines()[2:])


def test_validation_has_a_run_for_each_row_of_the_tables():
    for table, heading in (
        ("dependent-loss-weight", "`dependent_loss_weight`"),
        ("idle-decay", "`LazyAdam(idle_decay=…)`"),
    ):
        runs = {name: len(list(validation.TABLES[table](case))) for name, case in validation.CASES.items()}
        assert runs == rows_of_readme(heading)
    ranks = Counter(run.plain_rank for run in validation.learning_rate(validation.CASES["frappe"]))
    rows = rows_of_readme("Learning rate on Frappe")
    assert ranks == {None: rows["RaFM 64+256"], **{rank: rows[f"FM {rank}"] for rank in (64, 256, 512)}}


def test_validation_prints_the_loss_of_each_run(monkeypatch, capsys):
    samples = kr.data.synthetic(600, num_fields=3, features_per_field=20, seed=0).samples
    split = datasets.Split(samples[:400], samples[400:500], samples[500:])
    reference = dataclasses.replace(validation.CASES["frappe"].reference, max_epochs=1)
    case = validation.Case(lambda folder: split, (2, 4), (20,), reference, weights=(2,))
    monkeypatch.setattr(validation, "CASES", {"tiny": case})
    monkeypatch.setattr(sys, "argv", ["validation", "dependent-loss-weight", "--data", ".", "--seeds", "1"])
    validation.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["tiny", "FM 2"], ["tiny", "FM 4"], ["tiny", "RaFM, weight 2"]]
    for _, label, full, lowest in rows:
        assert 0 < float(full.split()[0]) < 1
        assert (full == lowest) == label.startswith("FM")  # a plain FM has one level


def imported_modules(path):
    """Return the modules of `benchmarks` and `examples` that a file imports anywhere, in functions too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in modules if module.split(".")[0] in ("benchmarks", "examples", "comparison")}


def test_imports_run_in_one_direction_and_not_into_the_examples():
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in BENCHMARKS.rglob("*.py")
        if path.name != "__init__.py"
    }
    imports = {module: imported_modules(path) for module, path in files.items()}
    assert not {module for modules in imports.values() for module in modules if not module.startswith("benchmarks")}
    graph = {module: modules & set(files) for module, modules in imports.items()}
    assert graph["benchmarks.speed.worker"] >= {"benchmarks.speed.repetitions", "benchmarks.speed.training"}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(files)


def test_no_private_names_of_the_package_are_imported():
    for path in BENCHMARKS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_rafm"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert not [name for name in names if name.startswith("_")], path
