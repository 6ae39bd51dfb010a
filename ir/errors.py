"""What can go wrong, in one place: every error a user can cause, and the exit code it ends in."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line; the README publishes this table."""

    DONE = 0
    USAGE = 2
    MODEL_REJECTED = 3
    VERIFICATION_FAILED = 4
    REQUIRED_PASS_NOT_APPLIED = 5
    CRASHED = 6
    INTERRUPTED = 130


class DechaffError(Exception):
    """Base of all errors that dechaff raises on purpose.

    The message says what happened, where, what was expected and what to do about it. It is one
    line (a list of findings may follow, a line each), fit to be shown without a traceback.
    """

    exit_code: ExitCode = ExitCode.MODEL_REJECTED


class UsageError(DechaffError):
    """The caller asked for something that does not exist or does not fit together."""

    exit_code = ExitCode.USAGE


class ModelRejectedError(DechaffError):
    """The input model cannot be read, or breaks a rule of the IR."""


class InputRejectedError(DechaffError):
    """Inputs given to a model do not fit its signature (name, rank or dtype)."""

    exit_code = ExitCode.USAGE


class VerificationFailedError(DechaffError):
    """The optimized model's numbers differ from the original's by more than was declared."""

    exit_code = ExitCode.VERIFICATION_FAILED


class RequiredPassError(DechaffError):
    """A pass that the caller required changed nothing."""

    exit_code = ExitCode.REQUIRED_PASS_NOT_APPLIED


class CrashedError(DechaffError):
    """Native code crashed on the model, or the run exceeded its limits on time or memory."""

    exit_code = ExitCode.CRASHED


class MissingPackageError(DechaffError):
    """An optional package is not installed; the message names the extra to install."""

    exit_code = ExitCode.USAGE

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: "
            f"pip install 'dechaff[{extra}]'"
        )
