"""The README says what is so."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

from dechaff.command_line import cli
from dechaff.ir import ExitCode
from dechaff.passes import PASSES, PIPELINES

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
CODE = "\n".join(text for language, text in BLOCKS if not language)
"""The blocks of commands and folders, without Python."""
QUICKSTART = ROOT / "examples" / "quickstart.py"


def table_rows(first_heading: str) -> list[list[str]]:
    """Cells of the table whose first heading is this one."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(f"| {first_heading} |"):
            break
    next(lines)
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        rows.append([cell.strip() for cell in cells])
    return rows


def test_the_example_is_the_file() -> None:
    _, _, rest = README.partition("```python\n")
    example, _, _ = rest.partition("```")
    assert example == QUICKSTART.read_text(encoding="utf-8")


def test_the_example_runs_and_removes_padding() -> None:
    done = subprocess.run(
        [sys.executable, QUICKSTART],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "token-layout x1" in done.stdout
    assert done.stdout.endswith("torch.Size([4, 32, 64])\n")


def test_passes_are_listed_in_order_with_their_numerics() -> None:
    listed = [(row[0].strip("`"), row[1]) for row in table_rows("pass")]
    assert listed == [(step.name, step.numerics.value) for step in PASSES]


def test_the_listed_order_is_that_of_the_default_pipeline() -> None:
    default = {step.name for step in PIPELINES["default"]}
    listed = [row[0].strip("`") for row in table_rows("pass")]
    assert [step for step in listed if step in default] == [s.name for s in PIPELINES["default"]]


def test_exit_codes_are_those_of_the_program() -> None:
    assert [int(row[0]) for row in table_rows("exit code")] == [code.value for code in ExitCode]


def test_options_are_those_of_the_command() -> None:
    command = cli.commands["optimize"]
    known = {text for option in command.params for text in (*option.opts, *option.secondary_opts)}
    described = re.findall(
        r"--[a-z-]+", " ".join(row[0] for row in table_rows("option of `optimize`"))
    )
    assert described
    assert set(described) <= known


def test_commands_exist() -> None:
    shown = set(re.findall(r"^dechaff ([a-z]+)", CODE, flags=re.MULTILINE))
    assert shown == set(cli.commands)


def test_folders_of_the_layout_exist() -> None:
    folders = re.findall(r"^([a-z]+)/ ", CODE, flags=re.MULTILINE)
    assert folders
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([a-z]+)", CODE, flags=re.MULTILINE))
    assert targets
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
