"""Download the archives that the authors of known datasets published."""

from __future__ import annotations

from pathlib import Path

import keras

from keras_rafm.data.known.recipe import Download, Recipe


def downloaded(recipe: Recipe, source: Download, root: Path) -> Path:
    """Return the archive of a dataset, after downloading it if necessary and checking it against its checksum.

    Args:
        recipe: The recipe of the dataset.
        source: The address and checksum of the archive.
        root: The folder in which to keep the archive.

    Raises:
        ConnectionError: The download failed.
        ValueError: The downloaded file has another checksum; it is removed.
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
            f"the file downloaded from {source.url} to {archive} does not have the published md5 {source.md5} ({error}); "
            "it was removed, so that the next call downloads it again"
        ) from error
    except Exception as error:  # `get_file` raises no narrower type of error
        raise ConnectionError(
            f"{recipe.name} could not be downloaded from {source.url} ({error}). {recipe.how_to_get}\n"
            f"You may also save the archive as {archive}, where a download would be saved."
        ) from error
