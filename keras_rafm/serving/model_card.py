"""The model card: a description of an exported model for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from keras_rafm.data.columns.schema_files import schema_digest
from keras_rafm.layer import RaFMLayer
from keras_rafm.serving.saved_model import EXTRA, SCHEMA, TracedSignature

_JSON, _MARKDOWN = "model_card.json", "model_card.md"
_FORMAT, _FORMAT_VERSION = "keras_rafm.model_card", 1
_PACKAGES = ("keras_rafm", "tensorflow", "keras", "numpy")


def load_model_card(version_directory: str | Path) -> dict[str, Any]:
    """Read the model card of an exported version.

    Args:
        version_directory: The path that `keras_rafm.export` returned, such as `saved_models/frappe/1`.

    Returns:
        The card: `signatures`, `layers` (ranks, level sizes, counts of factors), `metrics`, `precision`, `bytes`,
        `packages` (versions), `schema` (its digest) and `created` (UTC, ISO 8601).

    Raises:
        FileNotFoundError: The directory has no model card.
        ValueError: The card is damaged, or a newer version of this package wrote it.
    """
    path = Path(version_directory) / EXTRA / _JSON
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if card["format"] != _FORMAT:
            raise ValueError(f"it has the format {card['format']!r}")
        newer = int(card["format_version"]) > _FORMAT_VERSION
    except FileNotFoundError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable model card: {error!r}") from error
    if newer:
        raise ValueError(f"{path} has format {card['format_version']}; this version reads up to {_FORMAT_VERSION}")
    return dict(card)


def write_model_card(
    directory: Path,
    name: str,
    *,
    layers: Sequence[RaFMLayer],
    num_levels: int,
    signatures: Sequence[TracedSignature],
    precision: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    **additions: Any,
) -> None:
    """Write the card of a SavedModel into its extra assets, as JSON and as Markdown.

    Args:
        directory: The SavedModel, complete but for the card.
        name: The name of the model directory.
        layers: The trained layers.
        num_levels: The level that they are cut off at.
        signatures: The signatures.
        precision: How factors are stored, and the losses that were measured with them, if any.
        metrics: Numbers that the user supplied.
        **additions: Further entries of the card.
    """
    card = {
        **_card(
            directory,
            name,
            layers=[_layer_entry(layer, min(num_levels, layer.num_levels)) for layer in layers],
            signatures=signatures,
            precision=precision,
            metrics=metrics or {},
        ),
        **additions,
    }
    extra = directory / EXTRA
    (extra / _JSON).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (extra / _MARKDOWN).write_text(_as_markdown(card), encoding="utf-8")


def _card(
    directory: Path,
    name: str,
    *,
    layers: list[dict[str, Any]],
    signatures: Sequence[TracedSignature],
    precision: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    files = {path: path.stat().st_size for path in directory.rglob("*") if path.is_file()}
    variables = sum(size for path, size in files.items() if path.parent.name == "variables")
    schema = directory / EXTRA / SCHEMA
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "name": name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "packages": {**{package: version(package) for package in _PACKAGES}, "python": platform.python_version()},
        "layers": layers,
        "precision": dict(precision),
        "bytes": {"variables": variables, "total": sum(files.values())},
        # JSON has no NaN and no infinity.
        "metrics": {key: float(value) if math.isfinite(value) else None for key, value in metrics.items()},
        "schema": {"digest": schema_digest(schema)} if schema.is_dir() else None,
        "signatures": {
            signature.name: {
                "method": signature.method,
                "inputs": {named.spec.name: _tensor_entry(named.spec, named.meaning) for named in signature.inputs},
                "outputs": {
                    key: _tensor_entry(function.structured_outputs[key], meaning)
                    for key, meaning in signature.outputs.items()
                },
            }
            for signature, function in signatures
        },
    }


def _tensor_entry(spec: Any, meaning: str) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": spec.shape.as_list(), "meaning": meaning}


def _layer_entry(layer: RaFMLayer, level: int) -> dict[str, Any]:
    plan = layer.plan
    sizes = plan.level_sizes[:level]
    free = [size - above for size, above in zip(sizes, (*sizes[1:], 0), strict=True)]
    num_free = int(np.dot(free, plan.ranks[:level]))
    num_active = int(np.dot(sizes, plan.ranks[:level]))
    return {
        "name": layer.name,
        "ranks": list(plan.ranks[:level]),
        "level_sizes": list(sizes),
        "num_features": plan.num_features,
        "num_active_factors": num_active,
        "num_free_factors": num_free,
        "num_dependent_factors": num_active - num_free,
        "trained_ranks": list(plan.ranks),
        "plan_fingerprint": plan.fingerprint,
    }


def _as_markdown(card: Mapping[str, Any]) -> str:
    lines = [
        f"# {card['name']}",
        "",
        f"Exported on {card['created']} with "
        + ", ".join(f"{package} {number}" for package, number in card["packages"].items())
        + ".",
        "",
        "## Layers",
        "",
        "| layer | ranks D_1 … D_m | features of level k or above | active factors | free | dependent |",
        "|---|---|---|---|---|---|",
    ]
    for layer in card["layers"]:
        cells = [
            layer["name"],
            ", ".join(map(str, layer["ranks"])),
            ", ".join(f"{size:,}" for size in layer["level_sizes"]),
            *(f"{layer[key]:,}" for key in ("num_active_factors", "num_free_factors", "num_dependent_factors")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    sizes = card["bytes"]
    lines += [
        "",
        f"Factors are stored as {card['precision']['factors']}: {sizes['variables']:,} bytes of variables, "
        f"{sizes['total']:,} bytes in all.",
    ]
    loss = card["precision"].get("loss")
    if loss is not None:
        exported, trained = loss["exported"], loss["trained"]
        lines.append(f"Loss on {loss['samples']:,} samples: {exported:.6g} as exported, {trained:.6g} as trained.")
    if card["schema"] is not None:
        lines.append(f"The schema of the raw columns has the digest {card['schema']['digest']}.")
    if card["metrics"]:
        lines += ["", "## Metrics", "", "| metric | value |", "|---|---|"]
        shown = {name: "not finite" if value is None else f"{value:.6g}" for name, value in card["metrics"].items()}
        lines += [f"| {name} | {value} |" for name, value in shown.items()]
    lines += ["", "## Signatures"]
    for name, signature in card["signatures"].items():
        lines += [
            "",
            f"### {name} ({signature['method']})",
            "",
            "| tensor | dtype | shape | meaning |",
            "|---|---|---|---|",
        ]
        for kind in ("input", "output"):
            for key, tensor in signature[f"{kind}s"].items():
                shape = ", ".join("?" if size is None else str(size) for size in tensor["shape"])
                lines.append(f"| {kind} `{key}` | {tensor['dtype']} | [{shape}] | {tensor['meaning']} |")
    return "\n".join(lines) + "\n"
