"""Archives that may be downloaded."""

from __future__ import annotations

from pathlib import Path

import keras

from keras_rafm.data.known.recipe import Download, Recipe


def downloaded(recipe: Recipe, source: Download, root: Path) -> Path:
    """The archive of a dataset, checked against its published checksum; downloaded if it is not there yet.

    Args:
        recipe: Of the dataset.
        source: Where it is.
        root: The folder to keep it in.

    Raises:
        ConnectionError: The download failed.
        ValueError: What was downloaded has another checksum; it is removed again.
    """
    archive = root / source.url.rpartition("/")[2]
    try:
        return Path(
            keras.utils.get_file(
                archive.name, source.url, file_hash=source.md5, hash_algorithm="md5", cache_subdir=str(root.resolve())
            )
        )
    except ValueError as error:
        archive.unlink(missing_ok=True)
        raise ValueError(
            f"what was downloaded from {source.url} to {archive} has not the published md5 {source.md5} ({error}); it was "
            f"removed, so a new call downloads it again"
        ) from error
    except Exception as error:  # `get_file` raises no narrower one
        raise ConnectionError(
            f"{recipe.name} could not be downloaded from {source.url} ({error}). {recipe.how_to_get}\n"
            f"The archive may also be put at {archive}, where a download would be."
        ) from error
