"""Locks on files. For locks that end with a killed process, see `tests/serving/test_version_directory.py`."""

import sys

import pytest

from keras_rafm.files.locks import LockState, lock

pytestmark = pytest.mark.one_tensorflow


@pytest.mark.parametrize("temporary", [True, False])
def test_only_one_holds_a_lock(tmp_path, temporary):
    path = tmp_path / "lock"
    path.touch()
    for _ in range(2):
        with lock(path, temporary=temporary) as first, lock(path, temporary=temporary) as second:
            assert (first, second) == (LockState.HELD, LockState.HELD_ELSEWHERE)
            assert path.exists()
        assert path.exists() != temporary
        path.touch()


def test_a_temporary_lock_needs_no_file(tmp_path):
    with lock(tmp_path / "lock", temporary=True) as state:
        assert state is LockState.HELD
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError), lock(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("temporary", [True, False])
def test_a_file_system_without_locks(tmp_path, monkeypatch, temporary):
    def flock(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    path = tmp_path / "lock"
    path.touch()
    with lock(path, temporary=temporary) as state:
        assert state is LockState.UNAVAILABLE
    assert path.exists() != temporary


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with lock(tmp_path / "lock", temporary=True) as state:
        assert state is LockState.UNAVAILABLE
        assert list(tmp_path.iterdir()) == []
