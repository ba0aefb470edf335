"""The results as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.speed.results import CaseResult, Verdict
from benchmarks.speed.specs import Settings


def case_text(result: CaseResult) -> str:
    """Return the section of a case: its table, targets and notes."""
    parts = [f"## {result.name}: {result.title}"]
    if result.rows:
        parts.append(_table(result.header, result.rows, first_column_left=True))
    if result.verdicts:
        header = ["what", "target", "measured", ""]
        parts.append(_table(header, [_verdict_row(verdict) for verdict in result.verdicts], first_column_left=True))
    parts += result.notes
    return "\n\n".join(parts) + "\n"


def markdown(results: Sequence[CaseResult], settings: Settings) -> str:
    """Return the whole report."""
    about = machine()
    head = (
        "# Speed\n\n"
        f"{about['processor']}, {about['cores']} cores, {about['memory_gigabytes']:.0f} GB; {_versions(results)}. "
        f"Medians of {settings.runs} alternating repetitions of about {settings.seconds:g} s, with lowest and highest. "
        "Ratios compare repetitions of the same round. Bold: this package.\n"
    )
    return "\n".join([head, *map(case_text, results)])


def write(results: Sequence[CaseResult], settings: Settings, folder: Path) -> None:
    """Write `speed.md` and `speed.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.md").write_text(markdown(results, settings), encoding="utf-8")
    (folder / "speed.json").write_text(json.dumps(as_json(results, settings), indent=1) + "\n", encoding="utf-8")


def as_json(results: Sequence[CaseResult], settings: Settings) -> dict[str, Any]:
    """Return every single measurement."""
    reported = ("runs", "seconds", "steps_per_execution", "threads")
    return {
        "machine": machine(),
        "settings": {name: getattr(settings, name) for name in reported},
        "cases": [
            {
                "name": result.name,
                "title": result.title,
                "verdicts": [{**asdict(verdict), "reached": verdict.reached} for verdict in result.verdicts],
                "notes": result.notes,
                **result.raw,
            }
            for result in results
        ],
    }


def _versions(results: Sequence[CaseResult]) -> str:
    versions = {bar.about["tensorflow"]: bar.about["keras"] for result in results for bar in result.bars if bar.has_steps}
    return ", ".join(f"TensorFlow {tensorflow} with Keras {keras}" for tensorflow, keras in versions.items())


def _verdict_row(verdict: Verdict) -> list[str]:
    target = f"at {'most' if verdict.at_most else 'least'} {verdict.limit:g}"
    measured = verdict.measured
    text = f"{measured.median:.3g}" if measured.low == measured.high else measured.text()
    return [verdict.what, target, text, "reached" if verdict.reached else "**not reached**"]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], first_column_left: bool) -> str:
    alignment = ["---" if first_column_left and index == 0 else "---:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, alignment, *rows])
