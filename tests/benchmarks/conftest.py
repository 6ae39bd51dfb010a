from __future__ import annotations

import pathlib

import pytest

from benchmarks import prepared


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of results with the files of a tiny model, made in this process."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "run_child", lambda module, task: prepared.make_part(task))
        prepared.prepare("tiny", 1, folder / "models")
    return folder
