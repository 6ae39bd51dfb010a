"""``python -m dechaff``, and the program ``dechaff``: the command line."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; an interrupt while it loads is told like any other."""
    try:
        from .command_line import main as run
    except KeyboardInterrupt:
        sys.stderr.write("dechaff: interrupted\n")
        sys.exit(_INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
