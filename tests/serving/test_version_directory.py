"""Model directories hold only complete versions, even if exports are killed or run at the same time."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr
from keras_rafm.serving.version_directory import VersionDirectory

pytestmark = pytest.mark.one_tensorflow

#: Starts a process for each line of its input, which exports one version after the other. The process is forked after
#: TensorFlow is imported, since the import takes longer than the exports, and before TensorFlow has run any operation.
EXPORTERS = """
import os, sys
sys.path[:0] = sys.argv[2:]
import models
import keras_rafm as kr
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        model = models.small_model()
        print(os.getpid(), flush=True)
        while True:
            kr.export(model, sys.argv[1], signatures=[], keep=3)
    os.waitpid(pid, 0)
"""

FILES = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def publish(path: Path, content: str = "whole", **options: int) -> Path:
    directory = VersionDirectory(path, **options)
    with directory.unfinished() as unfinished:
        return directory.publish(written(unfinished, content))


def written(unfinished: Path, content: str) -> Path:
    (unfinished / "model").mkdir()
    (unfinished / "model" / "saved_model.pb").write_text(content)
    return unfinished / "model"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


class TestVersions:
    def test_next_version_explicit_version_and_gaps(self, tmp_path: Path) -> None:
        path = tmp_path / "models" / "m"
        assert VersionDirectory(path).versions() == []
        assert publish(path) == path / "1"
        assert publish(path, version=7).name == "7"
        assert publish(path).name == "8"
        assert publish(path, version=3).name == "3"
        assert publish(path, version=0).name == "0"
        assert VersionDirectory(path).versions() == [0, 1, 3, 7, 8]
        assert names(tmp_path / "models") == ["m"]

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        directory = VersionDirectory(tmp_path / "m", version=2)
        with directory.unfinished() as unfinished:
            publish(tmp_path / "m", "first", version=2)
            with pytest.raises(FileExistsError, match="2 exists: a version is never overwritten"):
                directory.publish(written(unfinished, "second"))
        with pytest.raises(FileExistsError, match="2 exists"):
            VersionDirectory(tmp_path / "m", version=2)
        assert (tmp_path / "m" / "2" / "saved_model.pb").read_text() == "first"
        assert names(tmp_path) == ["m"]

    def test_export_of_an_existing_version_writes_nothing(self, tmp_path: Path) -> None:
        model = models.deep_model()
        path = kr.export(model, tmp_path / "m", version=5, signatures=[])
        before = (path / "saved_model.pb").stat().st_mtime_ns
        with pytest.raises(FileExistsError, match="5 exists"):
            kr.export(model, tmp_path / "m", version=5)
        assert (path / "saved_model.pb").stat().st_mtime_ns == before
        wrong: list[Any] = [-1, 1.5, "2"]
        for version in wrong:
            with pytest.raises((TypeError, ValueError), match="`version`"):
                kr.export(model, tmp_path / "m", version=version)

    def test_keep(self, tmp_path: Path) -> None:
        for _ in range(11):
            publish(tmp_path / "m")
        publish(tmp_path / "m", keep=20)
        assert len(VersionDirectory(tmp_path / "m").versions()) == 12
        publish(tmp_path / "m", keep=3)
        assert VersionDirectory(tmp_path / "m").versions() == [11, 12, 13]
        assert names(tmp_path) == ["m"]

    def test_keep_of_export(self, tmp_path: Path) -> None:
        model = models.deep_model()
        for _ in range(3):
            kr.export(model, tmp_path / "m", signatures=[], keep=2)
        assert names(tmp_path / "m") == ["2", "3"]
        with pytest.raises(ValueError, match="`keep`"):
            kr.export(model, tmp_path / "m", keep=0)

    def test_version_that_keep_would_remove_is_refused(self, tmp_path: Path) -> None:
        for version in (5, 6):
            publish(tmp_path / "m", version=version)
        with pytest.raises(ValueError, match=r"would be removed at once. Received: version=1, keep=2; \[5, 6\] are higher"):
            VersionDirectory(tmp_path / "m", version=1, keep=2)
        publish(tmp_path / "m", version=1, keep=3)
        assert VersionDirectory(tmp_path / "m").versions() == [1, 5, 6]

    def test_symbolic_link(self, tmp_path: Path) -> None:
        """Versions are written beside the target of the link: the link itself may be on another file system."""
        real = tmp_path / "real"
        (real / "m").mkdir(parents=True)
        (tmp_path / "link").symlink_to(real / "m")
        directory = VersionDirectory(tmp_path / "link")
        with directory.unfinished() as unfinished:
            assert unfinished.parent == real
            assert directory.publish(written(unfinished, "whole")) == tmp_path / "link" / "1"
        assert names(real) == ["m"]
        assert names(real / "m") == ["1"]

    def test_mounted_file_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "volume")
        (tmp_path / "volume").mkdir()
        with pytest.raises(ValueError, match="volume, where a file system is mounted"):
            VersionDirectory(tmp_path / "volume")
        assert publish(tmp_path / "volume" / "m").name == "1"

    def test_export_that_finishes_before_another(self, tmp_path: Path) -> None:
        directory = VersionDirectory(tmp_path / "m")
        with directory.unfinished() as unfinished:
            slow = written(unfinished, "slow")
            assert publish(tmp_path / "m", "fast").name == "1"
            assert directory.publish(slow).name == "2"
        assert [(tmp_path / "m" / name / "saved_model.pb").read_text() for name in ("1", "2")] == ["fast", "slow"]

    def test_concurrent_exports(self, tmp_path: Path) -> None:
        published: list[str] = []

        def work(number: int) -> None:
            published.extend(publish(tmp_path / "m", f"{number} {k}").name for k in range(10))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(published, key=int) == [str(number) for number in range(1, 61)]
        contents = {(tmp_path / "m" / name / "saved_model.pb").read_text() for name in published}
        assert len(contents) == 60
        assert names(tmp_path) == ["m"]

    def test_files_are_readable_by_other_users(self, tmp_path: Path) -> None:
        """The server may run as another user, so files get the default mode of the process."""
        path = kr.export(models.deep_model(), tmp_path / "m", signatures=[])
        mask = os.umask(0)
        os.umask(mask)
        for entry in [tmp_path / "m", path, *path.rglob("*")]:
            wanted = (0o777 if entry.is_dir() else 0o666) & ~mask & 0o444
            assert entry.stat().st_mode & 0o444 & wanted == wanted, entry


class TestLeftovers:
    def test_of_dead_processes_are_removed_and_of_living_ones_are_kept(self, tmp_path: Path) -> None:
        dead = tmp_path / ".m.dead"
        (dead / "model").mkdir(parents=True)
        (dead / "lock").touch()
        others = [tmp_path / ".m.noones", tmp_path / ".mine.x", tmp_path / ".m"]
        for other in others:
            other.mkdir()
        (others[1] / "lock").touch()
        with VersionDirectory(tmp_path / "m").unfinished() as living:
            assert not dead.exists()
            publish(tmp_path / "m")
            assert living.is_dir()
        assert not living.exists()
        assert all(other.is_dir() for other in others)

    def test_of_another_user_are_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        other = tmp_path / ".m.other"
        other.mkdir()
        (other / "lock").touch()
        opened = os.open

        def refused(path: Any, *arguments: Any, **options: Any) -> int:
            if Path(path).parent == other:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments, **options)

        monkeypatch.setattr(os, "open", refused)
        assert publish(tmp_path / "m").name == "1"
        assert other.is_dir()

    def test_of_a_process_killed_while_removing_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The lock is removed last, so that the next export recognises the rest as a leftover."""

        def killed(path: Any) -> None:
            if Path(path).name == "model":
                (Path(path) / "saved_model.pb").unlink()
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt), VersionDirectory(tmp_path / "m").unfinished() as unfinished:
            written(unfinished, "half")
            monkeypatch.setattr(shutil, "rmtree", killed)
        monkeypatch.undo()
        assert names(unfinished) == ["lock", "model"]
        publish(tmp_path / "m")
        assert names(tmp_path) == ["m"]

    def test_names_with_special_letters(self, tmp_path: Path) -> None:
        dead = tmp_path / ".m[1]*?.dead"
        dead.mkdir()
        (dead / "lock").touch()
        publish(tmp_path / "m[1]*?")
        assert names(tmp_path) == ["m[1]*?"]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """After each of 100 SIGKILLs at random moments, every version in the directory is complete and loads."""
    path = tmp_path / "models" / "m"
    numbers = random.Random(0)
    expected = replies(kr.export(models.small_model(), path, signatures=[]))
    began = time.monotonic()
    kr.export(models.small_model(), path, signatures=[])
    # Long enough for one or two exports, on slow machines too.
    longest = max(0.5, 3 * (time.monotonic() - began))
    left_behind, seen = 0, {1, 2}
    command = [sys.executable, "-c", EXPORTERS, str(path), str(Path(models.__file__).parent)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as exporters:
        assert exporters.stdin is not None
        assert exporters.stdout is not None
        for _ in range(100):
            exporters.stdin.write("\n")
            exporters.stdin.flush()
            pid = int(exporters.stdout.readline())
            time.sleep(numbers.uniform(0, longest))
            os.kill(pid, signal.SIGKILL)
            versions = names(path)
            assert all(name.isdecimal() for name in versions)
            assert all(set(names(path / name)) >= FILES for name in versions)
            # Load each new version.
            for name in set(map(int, versions)) - seen:
                np.testing.assert_array_equal(replies(path / str(name)), expected)
                seen.add(name)
            left_behind += len(names(path.parent)) > 1
        exporters.stdin.close()
    # Most processes were killed during an export, and each export removed the leftovers of the one before.
    assert left_behind > 50
    assert len(seen) > 10
    kr.export(models.small_model(), path, signatures=[], keep=1)
    # Only an empty folder may be left, of a process that was killed before it could lock the folder.
    leftovers = [entry for entry in path.parent.iterdir() if entry != path]
    assert all(set(names(folder)) <= {"new_lock"} for folder in leftovers)
    assert names(path) == [str(max(map(int, names(path))))]


def replies(path: Path) -> np.ndarray:
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return serve(ids=tf.constant(models.IDS))["score"].numpy()
