"""Frappe: use of apps in context, with negative samples drawn by the authors of neural factorization machines."""

from __future__ import annotations

from collections.abc import Mapping

from keras_rafm.data.formats.libfm import LibFMFormat
from keras_rafm.data.known.recipe import Recipe
from keras_rafm.data.known.sources import Layout, Source
from keras_rafm.data.known.splits import SPLITS, SplitWriter, filled_lines
from keras_rafm.data.schema import Schema

_NUM_IDS = 5382


def _schema(_: int) -> Schema:
    return Schema({"ids": Schema.integer_identity(_NUM_IDS, multivalued=True)}, label="label")


def _write(writer: SplitWriter, sources: Mapping[str, Source], _: int) -> None:
    for split in SPLITS:
        writer.write(split, filled_lines(sources[f"frappe.{split}.libfm"]))


FRAPPE = Recipe(
    layout=Layout(
        "frappe",
        (
            ("frappe.train.libfm", "frappe.train.reconstructed.libfm"),
            ("frappe.validation.libfm",),
            ("frappe.test.libfm",),
        ),
        ("frappe",),
    ),
    description="288,609 uses of apps, two thirds of them drawn negative samples; user, app and 8 fields of context",
    citation=(
        "Linas Baltrunas, Karen Church, Alexandros Karatzoglou and Nuria Oliver. 2015. Frappe: Understanding the Usage and "
        "Perception of Mobile App Recommendations In-The-Wild. arXiv:1505.03014. As drawn and split by: Xiangnan He and "
        "Tat-Seng Chua. 2017. Neural Factorization Machines for Sparse Predictive Analytics. SIGIR. arXiv:1708.05027"
    ),
    licence=(
        "for research, with the citation; not to be redistributed without permission, not for commercial use, not to be "
        "deanonymised (the README beside the files has the full text)"
    ),
    page="https://github.com/hexiangnan/neural_factorization_machine (the folder data/frappe)",
    source="its licence forbids redistribution without permission",
    file_format=LibFMFormat(),
    suffix=".libfm",
    write=_write,
    schema=_schema,
    min_count=None,
    draws_split=False,
)
