from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from dechaff.cache import cached
from dechaff.ir.cache_folder import FOLDER_VARIABLE, cache_folder


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Measurement:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


def test_the_second_call_computes_nothing(folder: pathlib.Path) -> None:
    measure = Measurement()
    assert [cached({"of": "x"}, measure), cached({"of": "x"}, measure)] == [1, 1]
    assert cached({"of": "y"}, measure) == 2
    assert len(list(folder.iterdir())) == 2


def test_without_the_cache_nothing_is_read_or_kept(folder: pathlib.Path) -> None:
    measure = Measurement()
    cached({"of": "x"}, measure)
    assert cached({"of": "x"}, measure, use=False) == 2
    assert cached({"of": "x"}, measure) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": {"of": "other"}, "result": 7}', "{}"])
def test_a_damaged_entry_is_none(folder: pathlib.Path, damage: str) -> None:
    measure = Measurement()
    cached({"of": "x"}, measure)
    (entry,) = folder.iterdir()
    entry.write_text(damage)
    assert cached({"of": "x"}, measure) == 2
    assert cached({"of": "x"}, measure) == 2


def test_a_folder_that_cannot_be_made_is_no_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file" / "cache"))
    assert cached({"of": "x"}, lambda: 3) == 3


def test_the_folder_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == pathlib.Path("/somewhere/dechaff")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == pathlib.Path.home() / ".cache" / "dechaff"


def test_processes_that_write_at_once_leave_whole_entries(folder: pathlib.Path) -> None:
    code = (
        "from dechaff.cache import cached\n"
        "for n in range(200): cached({'of': n % 5}, lambda: list(range(500)))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    measure = Measurement()
    assert all(cached({"of": n}, measure) == list(range(500)) for n in range(5))
    assert measure.calls == 0
    assert len(list(folder.iterdir())) == 5
