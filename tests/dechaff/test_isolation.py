"""Commands work in a child process: what happens to it is one line and an exit code here."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import onnx_ir as ir
import pytest

from dechaff.command_line import cli
from dechaff.isolation import memory_limit

from .examples import masked_encoder


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "in.onnx"
    ir.save(masked_encoder().model, path)
    return path


def program(model: pathlib.Path, happens: str, *options: str) -> list[str]:
    """The program, in which ``happens`` takes the place of the lowering."""
    out = str(model.with_name("out.onnx"))
    code = (
        "import ctypes, os, signal, sys, time\n"
        "from dechaff import command_line\n"
        "import dechaff.command_line_options as options\n"
        "isolate = options.isolate\n"
        "def lowered(*_): print('in the midst', flush=True); " + happens + "\n"
        "def patched(limits):\n"
        "    outcome = isolate(limits)\n"
        "    if outcome is None:\n"
        "        import dechaff.target_lowering as place\n"
        "        place.lower = lowered\n"
        "    return outcome\n"
        "options.isolate = patched\n"
        f"sys.argv = ['dechaff', 'optimize', {str(model)!r}, {out!r}, *{options!r}]\n"
        "command_line.main()\n"
    )
    return [sys.executable, "-c", code]


def ended(model: pathlib.Path, happens: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program(model, happens, *options), capture_output=True, text=True, check=False, timeout=60
    )


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("dechaff: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_in_native_code_is_one_line_and_ends_in_6(model: pathlib.Path, number: str) -> None:
    done = ended(model, f"os.kill(os.getpid(), signal.{number})")
    assert_one_line(done, 6, number)


def test_debug_shows_where_native_code_crashed(model: pathlib.Path) -> None:
    done = ended(model, "ctypes.string_at(0)", "--debug")
    assert done.returncode == 6
    assert "in lowered" in done.stderr


def test_too_much_memory_ends_in_6(model: pathlib.Path) -> None:
    done = ended(model, "bytearray(2**31)", "--max-memory", "0.5")
    assert_one_line(done, 6, "out of memory")


def test_too_much_time_ends_in_6(model: pathlib.Path) -> None:
    done = ended(model, "time.sleep(60)", "--max-seconds", "0.2")
    assert_one_line(done, 6, "stopped after 0.2 s")


def test_less_memory_than_the_libraries_take_is_a_usage_error(model: pathlib.Path) -> None:
    assert_one_line(ended(model, "pass", "--max-memory", "0.01"), 2, "libraries alone")


def test_an_error_is_told_while_native_code_runs_in_a_thread(model: pathlib.Path) -> None:
    begin = (
        "import threading, atexit; atexit.register(os.abort); "
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); 1 / 0"
    )
    assert_one_line(ended(model, begin), 1, "ZeroDivisionError")


def test_a_defect_is_told_from_a_crash(model: pathlib.Path) -> None:
    assert_one_line(ended(model, "1 / 0"), 1, "ZeroDivisionError")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_program_ends_the_child_in_order(
    model: pathlib.Path, number: signal.Signals, code: int
) -> None:
    cleaned = model.with_name("cleaned")
    block = (
        "try: print('to be interrupted', flush=True); time.sleep(60)\n"
        f"finally: time.sleep(0.2); open({str(cleaned)!r}, 'w')"
    )
    happens = f"exec({block!r})"
    with subprocess.Popen(program(model, happens), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=30) == code
    assert cleaned.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system must offer it")
def test_the_child_does_not_outlive_the_program(model: pathlib.Path) -> None:
    happens = "print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(program(model, happens), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        child = int(process.stdout.readline())
        process.kill()
    until = time.monotonic() + 20
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(process: int) -> bool:
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_every_command_that_reads_models_can_be_isolated() -> None:
    offers = {
        name: any(option.name == "isolate" for option in command.params)
        for name, command in cli.commands.items()
    }
    # passes and logs read no model; tune runs none: workers of TVM build and time its kernels.
    assert [name for name, offered in offers.items() if not offered] == ["passes", "tune", "logs"]


def test_without_isolation_the_program_itself_works(model: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dechaff", "inspect", str(model), "--no-isolate"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_memory_limit_goes_by_what_the_disk_holds(tmp_path: pathlib.Path) -> None:
    model = tmp_path / "model.onnx"
    model.touch()
    least = memory_limit([str(model)])
    (tmp_path / "full.bin").write_bytes(b"1" * 2**20)
    assert memory_limit([str(model)]) == least + 8 * 2**20
    with (tmp_path / "holes.bin").open("wb") as file:
        file.truncate(2**40)
    assert memory_limit([str(model)]) == least + 8 * 2**20
