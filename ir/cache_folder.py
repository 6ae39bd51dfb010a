"""Where what took long to make is kept between runs."""

from __future__ import annotations

import os
import pathlib

FOLDER_VARIABLE = "DECHAFF_CACHE"
"""Environment variable that names the cache's folder."""


def cache_folder() -> pathlib.Path:
    """``$DECHAFF_CACHE``, else ``dechaff`` in the user's folder for caches."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return pathlib.Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "dechaff"
