"""Files that are replaced as a whole: a reader finds the old ones or the new ones, no mixture."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

from dechaff.ir import UsageError

_STAGING = ".dechaff-"
_DIGEST_BYTES = 8


@contextlib.contextmanager
def staging_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A hidden folder beside the target, hence on the same disk; gone afterwards in any case.

    One that a killed process left behind goes as well.

    Raises:
        UsageError: there is no such place, or nothing can be written there.
    """
    prefix = f".{target.name}{_STAGING}"
    try:
        with _locked(target.parent):  # a folder is not yet locked in the moment it is made
            _remove_abandoned(target.parent, prefix)
            folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
            lock = _lock(folder, wait=False)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
    try:
        yield folder
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def replace_file(staged: pathlib.Path, target: pathlib.Path) -> None:
    """Put a finished file in the place of another, or of none."""
    _flush(staged)
    os.replace(staged, target)


def data_file_name(data: pathlib.Path, target: pathlib.Path) -> str:
    """The name under which a model's weights lie beside it: it holds their digest.

    The old model keeps its weights until the new model is in place, as the two never share a file;
    and equal weights have equal names.
    """
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES))
    return f"{target.name}.{digest.hexdigest()}.data"


def replace_with_data(
    staged: pathlib.Path,
    target: pathlib.Path,
    data: pathlib.Path | None,
    data_name: str,
    keep: frozenset[str],
) -> None:
    """Put a model in its place, its weights first, then remove the weights of the model before.

    The model changes in one step, in which both its files change: it names its weights' file.
    Whoever else writes the same target waits.

    Args:
        staged: the finished model.
        target: its place.
        data: the finished file of its weights; None if it has none.
        data_name: the name that the model has for them; see :func:`data_file_name`.
        keep: real paths that are not removed, since somebody reads them.
    """
    with _locked(target.parent):
        place = target.parent / data_name
        is_new = data is not None and not place.exists()
        try:
            if data is not None:
                replace_file(data, place)
            replace_file(staged, target)
        except BaseException:
            if is_new:
                place.unlink(missing_ok=True)
            raise
        stays = keep | ({os.path.realpath(place)} if data is not None else set())
        _remove_data(target, stays)


def _remove_data(target: pathlib.Path, stays: frozenset[str] | set[str]) -> None:
    pattern = re.compile(rf"{re.escape(target.name)}\.[0-9a-f]{{{2 * _DIGEST_BYTES}}}\.data")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) and os.path.realpath(path) not in stays:
            path.unlink(missing_ok=True)


def _flush(path: pathlib.Path) -> None:
    """Bring a file to the disk: a name must not outlive a power cut that its content did not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove_abandoned(parent: pathlib.Path, prefix: str) -> None:
    """Remove the folders of processes that are gone: nobody holds their lock."""
    for path in parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        try:
            lock = _lock(path, wait=False)
        except FileNotFoundError:  # its process has just removed it
            continue
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    lock = _lock(folder, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: pathlib.Path, *, wait: bool) -> int | None:
    """Lock a folder without a file in it, until the result is closed or the process is gone.

    Returns:
        None where another holds it and we do not wait, or where there are no such locks (Windows,
        some network disks).
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
