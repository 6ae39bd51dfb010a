from __future__ import annotations

from collections.abc import Iterator

import pytest

from dechaff.ir.cache_folder import FOLDER_VARIABLE


@pytest.fixture(autouse=True, scope="session")
def cache_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Times measured by tests stay among themselves, and out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield
