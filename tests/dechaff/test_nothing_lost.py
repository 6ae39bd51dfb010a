"""Kills, full disks and rivals: the output is the old model or the new one, never a mixture."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

import dechaff
from benchmarks.kills import kill_at_random, value_of, write_filled
from dechaff import file_replacement
from dechaff.file_replacement import staging_folder
from dechaff.ir import UsageError
from dechaff.optimized_model import OptimizedModel


def filled(folder: pathlib.Path, value: float, size: int = 100) -> OptimizedModel:
    path = folder / f"filled-{value:g}.onnx"
    write_filled(path, value, size)
    return dechaff.load(path)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


def names(folder: pathlib.Path) -> list[str]:
    """Files, the digest in the name of weights left out."""
    return sorted(
        ".".join(part for part in item.name.split(".") if len(part) != 16)
        for item in folder.iterdir()
    )


def test_kills_at_random_moments_leave_a_whole_model(tmp_path: pathlib.Path) -> None:
    outcome = kill_at_random(tmp_path, kills=6, size=60, seed=3)
    assert outcome.corrupt == []
    assert outcome.killed > 0


def test_a_model_that_is_replaced_takes_its_weights_with_it(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    target = folder / "m.onnx"
    for value in (1, 2, 2):
        filled(tmp_path, value).save(target, external_data=True)
        assert value_of(target) == value
        assert names(folder) == ["m.onnx", "m.onnx.data"]
    filled(tmp_path, 3).save(target, external_data=False)
    assert value_of(target) == 3
    assert names(folder) == ["m.onnx"]


def test_weights_of_other_models_stay(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    filled(tmp_path, 1).save(folder / "a.onnx", external_data=True)
    filled(tmp_path, 2).save(folder / "a.onnx.onnx", external_data=True)
    filled(tmp_path, 3).save(folder / "a.onnx", external_data=True)
    assert value_of(folder / "a.onnx.onnx") == 2


def test_weights_that_the_model_itself_reads_stay(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    """A copy of the old model, optimized in place of the old one, reads the old one's weights."""
    target = folder / "m.onnx"
    filled(tmp_path, 1).save(target, external_data=True)
    copy = folder / "copy.onnx"
    copy.write_bytes(target.read_bytes())
    dechaff.load(copy).save(target, external_data=False)
    assert (value_of(copy), value_of(target)) == (1, 1)


@pytest.mark.parametrize("moment", [1, 2])
def test_an_interrupt_between_the_two_files_leaves_the_old_model(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    target = folder / "m.onnx"
    filled(tmp_path, 1).save(target, external_data=True)
    before = sorted(folder.iterdir())
    calls = iter(range(1, 10))

    def interrupted(staged: pathlib.Path, place: pathlib.Path) -> None:
        if next(calls) == moment:
            raise KeyboardInterrupt
        os.replace(staged, place)

    monkeypatch.setattr(file_replacement, "replace_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, 2).save(target, external_data=True)
    assert sorted(folder.iterdir()) == before
    assert value_of(target) == 1


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk_is_one_line_and_leaves_the_old_model(
    tmp_path: pathlib.Path, folder: pathlib.Path, external: bool
) -> None:
    filled(tmp_path, 1).save(folder / "m.onnx", external_data=external)
    before = sorted(folder.iterdir())
    filled(tmp_path, 2, size=800)
    code = (  # a limit on the size of files stands for the disk that has no more room
        "import resource, sys\n"
        "from dechaff.command_line import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        f"sys.argv = ['dechaff', 'optimize', 'filled-2.onnx', 'out/m.onnx', *{external!r} * "
        "['--save-as-external-data']]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write out/m.onnx: File too large" in done.stderr
    assert sorted(folder.iterdir()) == before
    assert value_of(folder / "m.onnx") == 1


def test_rivals_for_one_target_leave_the_model_of_one(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    models = [filled(tmp_path, value) for value in range(4)]
    target = folder / "m.onnx"

    def save_often(model: OptimizedModel) -> None:
        for _ in range(10):
            model.save(target, external_data=True)

    with concurrent.futures.ThreadPoolExecutor(len(models)) as pool:
        list(pool.map(save_often, models))
    assert value_of(target) in range(4)
    assert names(folder) == ["m.onnx", "m.onnx.data"]


@pytest.fixture
def abandoned(folder: pathlib.Path) -> pathlib.Path:
    """The staging folder of a process that was killed."""
    code = (
        "import os, pathlib, signal\n"
        "from dechaff.file_replacement import staging_folder\n"
        f"with staging_folder(pathlib.Path({str(folder / 'm.onnx')!r})) as place:\n"
        "    (place / 'half').write_text('of it')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = folder.iterdir()
    return left


def test_what_a_killed_run_left_behind_goes_with_the_next(
    tmp_path: pathlib.Path, folder: pathlib.Path, abandoned: pathlib.Path
) -> None:
    with staging_folder(folder / "m.onnx") as place:
        assert list(folder.iterdir()) == [place]
        filled(tmp_path, 1).save(folder / "m.onnx")  # a rival leaves it alone
        assert place.exists()
    assert names(folder) == ["m.onnx"]


def test_equal_models_give_equal_files(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for place in (folder, other):
        filled(tmp_path, 1).save(place / "m.onnx", external_data=True)
    assert [(item.name, item.read_bytes()) for item in sorted(folder.iterdir())] == [
        (item.name, item.read_bytes()) for item in sorted(other.iterdir())
    ]


def test_a_folder_that_takes_no_files_is_a_usage_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        filled(tmp_path, 1).save(tmp_path / "file" / "m.onnx")


def test_small_weights_stay_in_the_model(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    filled(tmp_path, 1, size=2).save(folder / "m.onnx", external_data=True)
    assert names(folder) == ["m.onnx"]
    tensor = ir.load(folder / "m.onnx").graph.initializers["weight"].const_value
    assert tensor is not None
    assert np.all(tensor.numpy() == 1)
