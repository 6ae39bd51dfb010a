from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dechaff.backends import Session, SessionSettings
from dechaff.backends.onnxruntime.threads import usable_cores
from dechaff.ir import UsageError, parse

ADD = '<ir_version: 10, opset_import: ["" : 23]> g (float[N] x) => (float[N] y) {y = Add(x, x)}'


def machine(folder: pathlib.Path, siblings: dict[int, str]) -> pathlib.Path:
    for processor, cores in siblings.items():
        topology = folder / f"devices/system/cpu/cpu{processor}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(cores + "\n")
    (folder / "fs/cgroup/cpu").mkdir(parents=True)
    return folder


def hyper_threaded(cores: int) -> dict[int, str]:
    return {n: f"{n % cores},{n % cores + cores}" for n in range(2 * cores)}


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Any:
    def affinity(processors: range) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(processors), raising=False)

    return affinity


@pytest.mark.parametrize("cores", [1, 2, 16, 64])
def test_two_processors_of_one_core_count_once(
    cores: int, tmp_path: pathlib.Path, allow: Any
) -> None:
    allow(range(2 * cores))
    assert usable_cores(machine(tmp_path, hyper_threaded(cores))) == cores


def test_processors_outside_the_affinity_mask_do_not_count(
    tmp_path: pathlib.Path, allow: Any
) -> None:
    allow(range(3, 5))
    assert usable_cores(machine(tmp_path, hyper_threaded(8))) == 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "9900000 100000\n"}, 8),
    ],
)
def test_a_container_gets_the_whole_cores_of_its_quota(
    files: dict[str, str], expected: int, tmp_path: pathlib.Path, allow: Any
) -> None:
    allow(range(16))
    system = machine(tmp_path, hyper_threaded(8))
    for name, text in files.items():
        (system / "fs/cgroup" / name).write_text(text)
    assert usable_cores(system) == expected


def test_a_machine_that_tells_nothing_has_a_core_per_processor(
    tmp_path: pathlib.Path, allow: Any
) -> None:
    allow(range(6))
    assert usable_cores(tmp_path) == 6


def test_settings_reach_the_runtime() -> None:
    options = onnxruntime.SessionOptions()
    SessionSettings(threads=3, affinity=(0, 4, 5), memory_arena=False).apply_to(options)
    assert options.intra_op_num_threads == 3
    assert not options.enable_cpu_mem_arena
    assert options.get_session_config_entry("session.intra_op_thread_affinities") == "5;6"


def test_the_defaults_are_the_usable_cores_and_an_arena() -> None:
    options = onnxruntime.SessionOptions()
    SessionSettings().apply_to(options)
    assert options.intra_op_num_threads == usable_cores()
    assert options.enable_cpu_mem_arena


@pytest.mark.parametrize(
    "settings",
    [
        SessionSettings(threads=1),
        SessionSettings(threads=2, affinity=(0, 0)),
        SessionSettings(threads=1, affinity=(0,)),
        SessionSettings(memory_arena=False),
    ],
)
def test_a_session_runs_with_any_settings(settings: SessionSettings) -> None:
    x = np.array([1, 2], np.float32)
    found = Session(parse(ADD), settings=settings).run({"x": x})["y"]
    np.testing.assert_array_equal(found, 2 * x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "at least 1 thread, got 0"),
        ({"threads": 2, "affinity": (0,)}, "each of 2 threads, got 1"),
        ({"threads": 1, "affinity": (-1,)}, "processors from 0 on"),
    ],
)
def test_what_cannot_be_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SessionSettings(**arguments)


def test_settings_read_as_a_line() -> None:
    assert str(SessionSettings(threads=2, affinity=(0, 3), memory_arena=False)) == (
        "2 threads (as asked), held to processors 0, 3, memory arena off"
    )
    assert "all usable cores" in str(SessionSettings())
