"""``python -m tests.hostile.runner``: the program on every file, with time and peak memory.

Each file lies in a folder of its own, and the program runs in it as a user would run it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

from tests.hostile import external_weights, graphs, sizes, tensors_and_names  # noqa: F401
from tests.hostile.corpus import CORPUS, SECRET, Hostile

__all__ = ["CORPUS"]

MAX_SECONDS = 10.0
MAX_BYTES = 2 * 10**9


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the program ended on a file.

    Attributes:
        code: its exit code.
        seconds: how long it took.
        peak_bytes: the most memory that one of its processes held.
        shown: what it printed on both streams.
        problems: what is wrong with that.
    """

    code: int
    seconds: float
    peak_bytes: int
    shown: str
    problems: tuple[str, ...]


def run_file(item: Hostile, place: pathlib.Path) -> Ended:
    """Make one file in a new folder and run the program on it."""
    folder = place / item.name
    folder.mkdir(parents=True)
    (place / "secret.bin").write_bytes(SECRET)
    path = item.make(folder) or folder / "model.onnx"
    words = ["optimize", path.name, "-o", "out.onnx", "--report", "r.json", *item.options]
    before = {entry.name for entry in place.iterdir()}
    made = {entry.name for entry in folder.iterdir()}
    log = place / f"{item.name}.log"
    started = time.monotonic()
    code, peak_bytes = _run(words, folder, log)
    seconds = time.monotonic() - started
    shown = log.read_text(errors="replace")
    log.unlink()
    problems = [*_misbehaviour(item, code, seconds, peak_bytes, shown)]
    if {entry.name for entry in place.iterdir()} != before:
        problems.append("wrote outside the folder")
    strays = {entry.name for entry in folder.iterdir()} - made - {"out.onnx", "r.json"}
    if strays or (code != 0 and (folder / "out.onnx").exists()):
        problems.append(f"left behind {sorted(strays) or 'an output'}")
    out = folder / "out.onnx"
    if out.exists() and SECRET[:16] in out.read_bytes():
        problems.append("the secret is in the output")
    return Ended(code, seconds, peak_bytes, shown, tuple(problems))


def _misbehaviour(item: Hostile, code: int, seconds: float, peak: int, shown: str) -> list[str]:
    problems = []
    if code not in item.expected:
        problems.append(f"ended in {code}, expected {' or '.join(map(str, item.expected))}")
    if "Traceback" in shown or "a defect of dechaff" in shown:
        problems.append("showed a defect")
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in shown):
        problems.append("let the file command the terminal")
    if len(shown) > 20_000:
        problems.append(f"printed {len(shown)} letters")
    if seconds > MAX_SECONDS:
        problems.append(f"took {seconds:.1f} s")
    if peak > MAX_BYTES:
        problems.append(f"took {peak / 1e9:.1f} GB")
    return problems


def _run(words: list[str], folder: pathlib.Path, log: pathlib.Path) -> tuple[int, int]:
    """Exit code and peak memory, in a fork of this process that has all modules loaded."""
    child = os.fork()
    if child == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        sys.argv = ["dechaff", *words]
        _program()
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(int(2 * MAX_SECONDS))
    _, status, usage = os.wait4(child, 0)
    signal.alarm(0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def _program() -> None:
    from dechaff.command_line import main

    code: object = 70
    try:
        main()
        code = 0
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def load_program() -> None:
    """Load what every run needs, before the runs are forked; start no threads."""
    import onnxruntime  # noqa: F401

    import dechaff.inspection
    import dechaff.optimization  # noqa: F401


def main() -> None:
    """Print a line for each file; end in 1 if the program misbehaved on any."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.hostile.runner")
    parser.add_argument("names", nargs="*", help="files of the corpus; all if none is named")
    parser.add_argument("--verbose", action="store_true", help="show what the program printed")
    parser.add_argument("--json", type=pathlib.Path, help="write the problems of each file here")
    given = parser.parse_args()
    load_program()
    problems: dict[str, tuple[str, ...]] = {}
    with tempfile.TemporaryDirectory() as name:
        for item in CORPUS:
            if given.names and item.name not in given.names:
                continue
            ended = run_file(item, pathlib.Path(name))
            problems[item.name] = ended.problems
            print(
                f"{item.name:40} {ended.code:4} {ended.seconds:6.2f} s "
                f"{ended.peak_bytes / 1e6:6.0f} MB  {'; '.join(ended.problems)}",
                flush=True,
            )
            if given.verbose:
                print(ended.shown)
    if given.json is not None:
        given.json.write_text(json.dumps(problems))
    wrong = sum(map(bool, problems.values()))
    print(f"{wrong} of {len(problems)} misbehave")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
