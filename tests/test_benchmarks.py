"""`python -m benchmarks`: its contenders, parsers, figures and report. No test depends on how fast anything is."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import keras_rafm as kr
from benchmarks import __main__ as command
from benchmarks import memory
from benchmarks.speed import cases, plot, report, roofline, time_to_loss, workloads
from benchmarks.speed.cpp_tools import Epoch, LibFM, ToolError, XLearn, parse_libfm, parse_xlearn
from benchmarks.speed.processes import Worker, WorkerError
from benchmarks.speed.results import CaseResult, Measured, Verdict, verdict
from benchmarks.speed.rounds import start_faster, table
from benchmarks.speed.specs import Settings, Target, TensorFlowContender, ToolContender, Workload
from benchmarks.speed.spreads import Spread, pairwise_ratios

pytestmark = pytest.mark.one_tensorflow

ROOT = Path(__file__).resolve().parents[1]

# The output of xLearn 0.40 into a pipe.
XLEARN_HEAD = (
    "\x1b[39m\x1b[0m\x1b[32m[------------] \x1b[0mxLearn uses 2 threads for training task.\n"
    "\x1b[32m\x1b[1m[ ACTION     ] Start to train ...\x1b[0m\n"
)
XLEARN_TRAIN = (
    XLEARN_HEAD + "\x1b[32m[------------]\x1b[0m Epoch      Train log_loss     Time cost (sec)\n"
    "\x1b[32m[ \x1b[0m  50%\x1b[32m      ]\x1b[0m     1            0.712588                0.02\n"
    "\x1b[32m[ \x1b[0m 100%\x1b[32m      ]\x1b[0m     2                -nan                1.35\n"
    "\x1b[32m\x1b[1m[ ACTION     ] Finish training\x1b[0m\n"
)
XLEARN_VALIDATED = (
    XLEARN_HEAD + "\x1b[32m[------------]\x1b[0m Epoch      Train log_loss       Test log_loss     Time cost (sec)\n"
    "\x1b[32m[ \x1b[0m   1%\x1b[32m      ]\x1b[0m     1            0.707090            0.592946                0.02\n"
    "\x1b[32m[ \x1b[0m   3%\x1b[32m      ]\x1b[0m     2            0.173828                 inf                0.03\n"
)
XLEARN_ERROR = (
    "\x1b[39m\x1b[0m\x1b[31m\x1b[1m[ ERROR      ] Training data file: nofile does not exist.\x1b[0m\n"
    "\x1b[31m\x1b[1m[ ERROR      ] Arguments error\x1b[0m\n"
)
LIBFM_LOG = (
    "accuracy\ttime_pred\ttime_learn\ttime_learn2\ttime_learn4\trmse_train\n"
    "0.697\t0.002564\t0.042933\tnan\tnan\t0.9993\n"
    "0.717\t0.002577\t0.042727\tnan\tnan\t1\n"
)

FAKE_XLEARN = """#!{python}
import os, sys
arguments = sys.argv[1:]
option = lambda name: arguments[arguments.index(name) + 1]
assert os.environ["USER"] and "--dis-es" in arguments and option("-s") == "1", arguments
lines = sum(1 for _ in open(arguments[0]))
for epoch in range(1, int(option("-e")) + 1):
    losses = "0.500000 " + (f"{{0.6 / epoch:.6f}}" if "-v" in arguments else "")
    print(f"\\x1b[32m[ \\x1b[0m {{epoch}}%\\x1b[32m      ]\\x1b[0m {{epoch}}   {{losses}}   {{lines / 10000:.2f}}")
"""
FAKE_LIBFM = """#!{python}
import sys
arguments = sys.argv[1:]
option = lambda name: arguments[arguments.index(name) + 1]
assert open(option("-test")).read() and open(option("-train")).read()
with open(option("-rlog"), "w") as log:
    log.write("accuracy\\ttime_learn\\n" + "0.5\\t0.25\\n" * int(option("-iter")))
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return programs that print what xLearn and libFM would print."""
    folder = tmp_path_factory.mktemp("tools")
    for name, text in (("xlearn", FAKE_XLEARN), ("libfm", FAKE_LIBFM)):
        (folder / name).write_text(text.format(python=sys.executable))
        (folder / name).chmod(0o755)
    return {name: str(folder / name) for name in ("xlearn", "libfm")}


@pytest.fixture
def frappe(tmp_path: Path) -> Workload:
    """Return a workload of small files in the layout of Frappe."""
    (tmp_path / "frappe").mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        with gzip.open(workloads.frappe_file(tmp_path, part), "wt") as file:
            for label, ids in zip(rng.choice([-1, 1], 100), rng.integers(0, 300, (100, 10)), strict=True):
                file.write(f"{label} {' '.join(f'{i}:1' for i in ids)}\n")
    return workloads.frappe(tmp_path)


def settings(**options: object) -> Settings:
    quick = Settings(runs=1, seconds=0.01, steps_per_execution=1, threads="default", python=sys.executable)
    return replace(quick, **options)


def test_the_profile_of_a_step() -> None:
    arguments = ["--case", "tiny", "--contender", "RaFM"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_profile", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    cells = [line.strip("| ").split(" | ") for line in result.stdout.splitlines() if line.startswith("| ")]
    milliseconds, times = ({row[0]: float(row[column]) for row in cells[1:]} for column in (1, 2))
    assert milliseconds["Unique"] > 0
    assert times["Unique"] == 1  # newer versions record only some short operations


def test_a_case_from_the_command_line(tools: dict[str, str], tmp_path: Path) -> None:
    arguments = ["--cases", "tiny,frappe-fm64", "--runs", "2", "--seconds", "0.02", "--threads", "default", "--no-plot"]
    arguments += ["--steps-per-execution", "2", "--output", str(tmp_path)]
    arguments += ["--xlearn", tools["xlearn"], "--libfm", tools["libfm"]]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "frappe-fm64 is left out: it needs the Frappe data (--data)" in result.stdout
    written = json.loads((tmp_path / "speed.json").read_text())
    (case,) = written["cases"]
    contenders = {contender["name"]: contender for contender in case["contenders"]}
    assert list(contenders) == ["Keras", "RaFM", "xLearn", "libFM"]
    for contender in contenders.values():
        assert len(contender["repetitions"]) == 2
        assert all(repetition["samples_per_second"] > 0 for repetition in contender["repetitions"])
    assert contenders["Keras"]["parameters"] == contenders["xLearn"]["parameters"] == 500 * 4 + 500 + 1
    assert contenders["RaFM"]["parameters"] == 500 * 2 + 20 * 4 + 500 + 1
    assert contenders["RaFM"]["steps_per_repetition"] % 2 == 0
    assert contenders["libFM"]["repetitions"][0]["samples_per_second"] == 640 / 0.25
    assert [verdict["reached"] for verdict in case["verdicts"]] == [True, False]
    assert case["rooflines"]["RaFM"]["memory"] > 0
    assert "Roofline of RaFM" in result.stdout
    report_text = (tmp_path / "speed.md").read_text()
    assert "| **RaFM** | LazyAdam | 64 | default | 2 |" in report_text
    assert "**not reached**" in report_text


def test_time_to_loss(tools: dict[str, str], frappe: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_to_loss, "_SEEDS", 1)
    monkeypatch.setattr(time_to_loss, "_LOG_LOSS", 0.8)
    result = time_to_loss.run(frappe, settings(xlearn=tools["xlearn"]), print)
    (training,) = result.raw["ours"]["trainings"]
    assert training["reached"]
    assert training["log_loss"] <= 0.8
    assert training["seconds"] == pytest.approx(sum(training["epoch_seconds"][: training["epochs"]]))
    for peer in result.raw["peers"]:
        assert peer["epochs"] == 1  # the loss of epoch n is 0.6 / n
    assert len(result.rows) == 4
    assert len(result.verdicts) == 4


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = memory._measure
    answers: list[dict[str, object]] = []

    def measured_once(python: str, contender: TensorFlowContender) -> dict[str, object]:
        if not answers:
            answers.append(measure(python, contender))
        return answers[0]

    monkeypatch.setattr(memory, "_measure", measured_once)
    result = memory.run(sys.executable, print, [(1000, "SparseAdagrad")])
    assert answers[0]["parameters"] == 1000 * 9 + 1
    phases = [answers[0]["phases"][phase]["peak"] for phase in ("import", "plan", "tables", "optimizer", "training")]
    assert phases == sorted(phases)
    assert result.verdicts[0].measured.median == 0  # its peak equals that of the process with a tiny model


def test_bytes_that_training_must_hold() -> None:
    assert memory.model_bytes(10, 8, "SparseAdagrad") == 91 * 4 * 2 + 10 * 4
    assert memory.model_bytes(10, 8, "LazyAdam") == 91 * 4 * 3 + 10 * 4 + 10 * 8


def test_xlearn_output_with_colours_and_without_a_number() -> None:
    first, second = parse_xlearn(XLEARN_TRAIN)
    assert first == Epoch(1, 0.712588, None, 0.02)
    assert (second.number, second.seconds) == (2, 1.35)
    assert np.isnan(second.train_log_loss)


def test_xlearn_output_with_validation() -> None:
    assert parse_xlearn(XLEARN_VALIDATED) == [Epoch(1, 0.70709, 0.592946, 0.02), Epoch(2, 0.173828, float("inf"), 0.03)]


def test_xlearn_errors_are_found_though_it_exits_with_0() -> None:
    with pytest.raises(ToolError, match=r"nofile does not exist.*Arguments error"):
        parse_xlearn(XLEARN_ERROR)
    with pytest.raises(ToolError, match="no epochs"):
        parse_xlearn(XLEARN_HEAD)


def test_libfm_log() -> None:
    assert parse_libfm(LIBFM_LOG) == [0.042933, 0.042727]
    with pytest.raises(ToolError, match="time_learn"):
        parse_libfm("accuracy\trmse_train\n0.7\t1\n")
    with pytest.raises(ToolError, match="time_learn"):
        parse_libfm("")


def test_xlearn_gets_more_rows_if_its_clock_is_too_coarse(tools: dict[str, str], tmp_path: Path) -> None:
    workload = Workload("log-uniform", 50, 3, 1000)  # the fake program reports 0.1 s per epoch
    xlearn = XLearn(tools["xlearn"], ToolContender("xLearn", workload, 4, "xlearn"), tmp_path)
    xlearn.get_ready(seconds=5)
    assert len((tmp_path / "train-10.libsvm").read_text().splitlines()) == 10_000
    assert xlearn.repeat() == {"samples_per_second": pytest.approx(10_000), "epoch_seconds": [pytest.approx(0.1)] * 6}


def test_a_tool_that_fails_is_named(tmp_path: Path) -> None:
    contender = ToolContender("libFM", Workload("log-uniform", 50, 3, 20), 4, "libfm")
    with pytest.raises(ToolError, match="no-such-program"):
        LibFM("/no-such-program", contender, tmp_path).get_ready(1)
    with pytest.raises(ToolError, match="false ended with exit code 1"):
        LibFM("false", contender, tmp_path).get_ready(1)


def test_a_worker_that_fails_says_why() -> None:
    with (
        Worker(sys.executable, {"name": "repetitions", "threads": "three"}) as worker,
        pytest.raises(WorkerError, match="threads='three'"),
    ):
        worker.receive()


def test_drawn_samples() -> None:
    workload = Workload("log-uniform", num_features=1000, num_fields=4, num_samples=20_000)
    ids, labels = workloads.draw(workload)
    assert ids.shape == (20_000, 4)
    assert ids.min() == 0
    assert ids.max() < 1000
    assert np.mean(ids < 31) == pytest.approx(0.5, abs=0.01)  # log(32) is half of log(1000)
    assert set(labels) == {0, 1}
    again, _ = workloads.draw(workload)
    np.testing.assert_array_equal(ids, again)
    spread, _ = workloads.draw(Workload("log-uniform", 50_000, 4, 20_000, spread=50))
    np.testing.assert_array_equal(spread, ids * 50)


def test_files_for_the_tools(frappe: Workload, tmp_path: Path) -> None:
    path = tmp_path / "libsvm"
    for workload in (frappe, Workload("log-uniform", 50, 3, 100)):
        workloads.write_libsvm(workload, path, copies=2)
        lines = path.read_text().splitlines()
        assert lines[:100] == lines[100:]
        assert {line.split()[0] for line in lines} == {"0", "1"}
        read = kr.data.read_libfm(path)
        expected = kr.data.read_libfm(workloads.frappe_file(Path(frappe.folder), "train")) if workload is frappe else None
        np.testing.assert_array_equal(read.ids[:100], expected.ids if expected else workloads.draw(workload)[0])
        np.testing.assert_array_equal(read.labels[:100], expected.labels if expected else workloads.draw(workload)[1])


def test_ratios_compare_measurements_of_the_same_round() -> None:
    assert pairwise_ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == [2.0, 3.0, 1.0]
    assert Spread.of([2.0, 3.0, 1.0]) == Spread(2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="1 and 2"):
        pairwise_ratios([1.0], [1.0, 2.0])


def test_verdicts() -> None:
    ours = Measured("ours", {"parameters": 10}, [30.0, 40.0, 20.0])
    other = Measured("other", {"parameters": 100}, [10.0, 10.0, 10.0])
    measured = {"ours": ours, "other": other}
    limits = [("speed", 3), ("speed", 3.1), ("time", 0.33), ("time", 0.34), ("parameters", 0.1)]
    verdicts = [verdict(Target("ours", "other", kind, limit), measured) for kind, limit in limits]
    assert [each.reached for each in verdicts] == [True, False, False, True, True]
    assert verdicts[0].measured == Spread(3.0, 2.0, 4.0)
    assert verdicts[2].measured.median == pytest.approx(1 / 3)
    assert verdicts[4].measured.median == 0.1


def test_table_without_the_reference() -> None:
    about = {"parameters": 10, "optimizer": "SGD", "threads": "1"}
    header, rows = table([Measured("first", about, [10.0]), Measured("second", about, [20.0])], "left out")
    assert header[-1] == "samples per second over first"
    assert [row[-1] for row in rows] == ["1", "2.00 (2.00 – 2.00)"]


def test_the_faster_threads_are_chosen() -> None:
    closed = []
    times = {"default": iter([3.0, 1.0, 3.0]), "one-per-op": iter([2.0, 2.0, 2.0])}

    def start(threads: str) -> SimpleNamespace:
        return SimpleNamespace(threads=threads)

    best = start_faster(
        start, lambda r: closed.append(r.threads), lambda r: next(times[r.threads]), settings(threads="best"), print
    )
    assert best.threads == "default"
    assert closed == ["one-per-op"]
    assert start_faster(start, closed.append, lambda r: 0.0, settings(threads="one-per-op"), print).threads == "one-per-op"


def test_bytes_of_a_step_by_hand() -> None:
    # Features 0 and 1 have ranks 2 and 8, features 2 to 4 have rank 2. The batch reads 0 three times, and 1, 2 and 4 once.
    plan = kr.RankPlan([2, 2, 1, 1, 1], (2, 8))
    ids = np.array([[0, 1], [0, 2], [0, 4]])
    passes = 2 + 2 + 2  # read, gradient; table read and written; its slot read and written
    rows = 4 * (4 + 2 * 2 + 2 * 2 + 2 * 8)  # 4 linear weights, and 2 rows of free_1, dependent_1 and free_2 each
    csr = 6 * 8 * 3  # each occurrence is in one matrix
    occurrences = 6 * 1 + 2 * 2 + 4 * 2 + 4 * 8  # times width: linear, free_1, dependent_1, free_2
    with_adagrad = roofline.step_bytes(ids, plan, slots=1, marks=False)
    assert with_adagrad == roofline.StepBytes(memory=6 * 4 + rows * passes + csr, cache=occurrences * 4 * 2)
    with_adam = roofline.step_bytes(ids, plan, slots=2, marks=True)
    assert with_adam.memory == 6 * 4 + rows * (passes + 2) + csr + (2 + 2 + 2) * 16
    assert with_adam.cache == with_adagrad.cache


def test_bandwidth_is_positive() -> None:
    assert roofline.bandwidth(2**16, threads=1) > 0


def test_epoch_that_reaches_a_loss() -> None:
    epochs = [Epoch(1, 0.5, 0.3, 0.1), Epoch(2, 0.4, 0.2, 0.1), Epoch(3, 0.3, 0.1, 0.1)]
    assert time_to_loss.epoch_that_reaches(epochs, 0.2).number == 2
    assert time_to_loss.epoch_that_reaches(epochs, 0.05).number == 3


def test_contenders_survive_json(frappe: Workload) -> None:
    every = [make(frappe) for make in cases.ON_FRAPPE.values()] + [make() for make in cases.DRAWN.values()]
    for case in every:
        names = [contender.name for contender in case.contenders]
        assert len(set(names)) == len(names)
        assert case.reference in names
        for target in case.targets:
            assert {target.contender, target.against} <= set(names)
        for contender in case.contenders:
            if isinstance(contender, TensorFlowContender):
                assert TensorFlowContender.from_json(json.loads(json.dumps(contender.to_json()))) == contender
    assert set(command.CASES) == {*cases.ON_FRAPPE, *cases.DRAWN, time_to_loss.NAME, memory.NAME}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "frappe-fm65"], "unknown name 'frappe-fm65': expected one of frappe-fm64, "),
        (["--runs", "0"], "at least 1, not '0'"),
        (["--seconds", "nan"], "positive number, not 'nan'"),
        (["--xlearn", "/no-such-program"], "not an executable program: '/no-such-program'"),
    ],
)
def test_bad_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="`benchmark`"):
        command.main(["--cases", "tiny"])


def test_plot(tmp_path: Path) -> None:
    bars = [Measured("ours", {}, [10.0, 12.0], is_ours=True), Measured("other", {}, [5.0, 6.0])]
    results = [CaseResult("one", "One", [], [], bars=bars), CaseResult("none", "None", [], [])]
    plot.write_plot(results, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_verdict_in_the_report() -> None:
    result = CaseResult("one", "One", [], [], [Verdict("time of a over that of b", 1.3, True, Spread(1.5, 1.4, 1.6))])
    assert "| time of a over that of b | at most 1.3 | 1.5 (1.4 – 1.6) | **not reached** |" in report.case_text(result)
