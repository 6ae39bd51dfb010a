"""What a wheel holds: the folders under ``dechaff/``, each file once."""

from __future__ import annotations

import pathlib
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("frontend", "ir", "passes", "backends")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", folder, ROOT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("dechaff-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def expected_files() -> list[str]:
    """Where each source file, page part and schema belongs in the wheel."""
    own = [ROOT / "dechaff" / part for part in (".", "search", "viewer")]
    files = [path.relative_to(ROOT).as_posix() for folder in own for path in folder.glob("*.*")]
    for folder in FOLDERS:
        sources = [path for kind in ("*.py", "*.cu") for path in (ROOT / folder).rglob(kind)]
        files += [f"dechaff/{path.relative_to(ROOT).as_posix()}" for path in sources]
    return sorted(files)


def test_every_file_lies_in_its_place_once(wheel: zipfile.ZipFile) -> None:
    packaged = sorted(name for name in wheel.namelist() if name.startswith("dechaff/"))
    assert packaged == expected_files()


def test_nothing_is_there_twice(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert len(set(names)) == len(names)


def test_nothing_is_a_link(wheel: zipfile.ZipFile) -> None:
    modes = {entry.filename: entry.external_attr >> 16 for entry in wheel.infolist()}
    assert [name for name, mode in modes.items() if stat.S_ISLNK(mode)] == []


def test_type_checkers_are_told_of_the_types(wheel: zipfile.ZipFile) -> None:
    assert "dechaff/py.typed" in wheel.namelist()


def test_the_command_is_declared(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "dechaff = dechaff.__main__:main" in wheel.read(entry_points).decode()


def test_the_unpacked_wheel_imports(wheel: zipfile.ZipFile, tmp_path: pathlib.Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "import dechaff, dechaff.ir, dechaff.passes, dechaff.backends, dechaff.frontend\n"
        "print(dechaff.ir.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.strip()) == tmp_path / "dechaff" / "ir" / "__init__.py"
