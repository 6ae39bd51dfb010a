"""Work on files from strangers in a child process: if native code crashes, this process remains."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator

_BASE_BYTES = 3 << 29
"""Memory that a run may take whatever the model: libraries and small tensors."""
_BYTES_PER_CORE = 1 << 26
"""Stacks of threads and buffers of linear algebra, which are made for each core."""
_BYTES_PER_BYTE = 8
"""How often the weights may lie in memory, with what is computed from them."""
_BASE_SECONDS = 120.0
_SECONDS_PER_BYTE = 1e-6
"""Some hundred times what a run takes; the rest is for slow machines."""
_MOST_FILES = 1000
_DEPTH = 2
_GRACE_SECONDS = 5
"""Time that an interrupted child has to clean up."""
_REMINDER_SECONDS = 0.5
_SHOW_CURSOR = "\x1b[?25h"
_SET_PARENT_DEATH_SIGNAL = 1


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the child may take.

    Attributes:
        memory: bytes of private memory (files mapped for reading do not count); None is no limit.
        seconds: time until it is stopped; None is no limit.
        show_crash: whether a crash in native code prints the Python stack it happened in.
    """

    memory: int | None = None
    seconds: float | None = None
    show_crash: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the child ended.

    Attributes:
        exit_code: its exit code; None if it did not end by itself.
        problem: what ended it in that case, in words.
        interrupted: whether the user did.
    """

    exit_code: int | None
    problem: str = ""
    interrupted: bool = False


def isolate(limits: Limits) -> Outcome | None:
    """Go on in a child process.

    Returns:
        None in the child, which goes on with the work, and where the system has no processes of
        this kind (Windows). In the parent, once the child has ended, how it did.
    """
    if not hasattr(os, "fork"):
        return None
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child != 0:
        return _Guard(child, limits).wait()
    _end_in_order_when_told()
    _die_with(parent)
    if limits.show_crash:
        faulthandler.enable()
    if limits.memory is not None:
        _limit_memory(limits.memory)
    return None


def end_without_waiting(code: str | int | None) -> None:
    """End the process if native code still computes in a thread; else return.

    The interpreter's own end would take apart what that code stands on, and crash in the place of
    the error that was told.
    """
    if all(thread is threading.main_thread() for thread in threading.enumerate()):
        return
    with contextlib.suppress(OSError):  # who reads may have left
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def limited_memory() -> int | None:
    """Bytes of private memory that the system lets this process take; None is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if limit == resource.RLIM_INFINITY else limit


def memory_text(error: MemoryError) -> str:
    """What to tell of too little memory: the error, and the limit if there is one."""
    limit, told = limited_memory(), " ".join(str(error).split())
    text = f"out of memory: {told}" if told else "out of memory"
    return text if limit is None else f"{text}; --max-memory was {limit / 2**30:.3g} GiB"


def memory_limit(paths: Iterable[str]) -> int:
    """Bytes that work on these files may take: in proportion to what lies in their folders.

    Weights may lie in further files, which only the model names: everything beside it counts, by
    its room on the disk, so that a file with holes counts as what it holds.
    """
    base = _BASE_BYTES + _BYTES_PER_CORE * (os.cpu_count() or 1)
    return min(base + _BYTES_PER_BYTE * _bytes_beside(paths), _physical_memory())


def time_limit(paths: Iterable[str]) -> float:
    """Seconds that work on these files may take, in proportion to the same bytes."""
    return _BASE_SECONDS + _SECONDS_PER_BYTE * _bytes_beside(paths)


def _bytes_beside(paths: Iterable[str]) -> int:
    folders = {pathlib.Path(path).absolute().parent for path in paths}
    return sum(_bytes_on_disk(folder) for folder in folders)


def _bytes_on_disk(folder: pathlib.Path) -> int:
    total = 0
    for count, path in enumerate(_files_below(folder, _DEPTH)):
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
        if count >= _MOST_FILES:
            break
    return total


def _files_below(folder: pathlib.Path, depth: int) -> Iterator[pathlib.Path]:
    """Files of a folder, then those of the folders in it."""
    folders: list[pathlib.Path] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(pathlib.Path(entry.path))
            else:
                yield pathlib.Path(entry.path)
    for inner in folders if depth > 1 else ():
        yield from _files_below(inner, depth - 1)


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _end_in_order_when_told() -> None:
    """Clean up on the first signal, undisturbed by a second: a terminal and the parent send one."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, end)


def _limit_memory(limit: int) -> None:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _die_with(parent: int) -> None:
    """Let the system kill this process when its parent is gone (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it went before this was set
        os._exit(1)


class _Guard:
    """The parent's part: hands signals on, watches the clock, and says how the child ended."""

    def __init__(self, child: int, limits: Limits) -> None:
        self._child = child
        self._limits = limits
        self._told: int | None = None
        self._patience_ends = 0.0
        self._overdue = False

    def wait(self) -> Outcome:
        handlers: dict[signal.Signals, Callable[..., None]] = {
            signal.SIGINT: self._interrupt,
            signal.SIGTERM: self._tell,
            signal.SIGALRM: self._time_is_up,
        }
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        if self._limits.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, self._limits.seconds)
        try:
            _, status = os.waitpid(self._child, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._outcome(os.waitstatus_to_exitcode(status))

    def _interrupt(self, *_: object) -> None:
        """The child has a while to clean up; whoever is in more haste interrupts again."""
        if self._told == signal.SIGINT:
            self._kill(signal.SIGKILL)
            return
        self._tell(signal.SIGINT)

    def _tell(self, number: int, *_: object) -> None:
        """Hand a signal on, again and again until the child has ended.

        One that comes just as the child begins to wait for something is noticed only with the
        next; all after the first that it noticed are ignored.
        """
        self._told = number
        self._patience_ends = time.monotonic() + _GRACE_SECONDS
        self._kill(number)
        signal.setitimer(signal.ITIMER_REAL, _REMINDER_SECONDS, _REMINDER_SECONDS)

    def _time_is_up(self, *_: object) -> None:
        if self._told is not None and time.monotonic() < self._patience_ends:
            self._kill(self._told)
            return
        self._overdue = self._told is None
        self._kill(signal.SIGKILL)

    def _kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)

    def _outcome(self, code: int) -> Outcome:
        if code >= 0:
            return Outcome(code)
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)  # a progress bar may have hidden it
        if self._told == signal.SIGINT:
            return Outcome(None, interrupted=True)
        if self._told is not None:
            return Outcome(128 + self._told)
        if self._overdue:
            return Outcome(None, f"stopped after {self._limits.seconds:g} s (--max-seconds)")
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return Outcome(None, f"killed by {name}: the machine may have run out of memory")
        limit = "" if self._limits.memory is None else self._memory_text(self._limits.memory)
        return Outcome(None, f"native code crashed with {name}{limit}; --debug shows where")

    @staticmethod
    def _memory_text(limit: int) -> str:
        return f" (memory was limited to {limit / 2**30:.3g} GiB, --max-memory)"
