"""The tokens that a text uses, as its tokenizer numbers them."""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

from dechaff.ir import UsageError

_LINES_AT_A_TIME = 4096


class CorpusTokens:
    """Token ids of all lines of a text file, read when they are first asked for.

    Attributes:
        unknown: id of the tokenizer's unknown token; None if it has none.
        special: ids of the special tokens, and of others that were added to the vocabulary.
    """

    def __init__(self, tokenizer: Any, text: pathlib.Path | None) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self.unknown = _unknown(tokenizer)
        self.special = frozenset(tokenizer.get_added_tokens_decoder())

    @functools.cached_property
    def used(self) -> frozenset[int]:
        """Ids that the whole text uses, at its full length.

        Raises:
            UsageError: the text cannot be read.
        """
        if self._text is None:
            return frozenset()
        try:
            return frozenset(self._ids(self._text))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self._text}: cannot read the corpus: {error}") from error

    def _ids(self, path: pathlib.Path) -> Iterator[int]:
        with path.open(encoding="utf-8") as file:
            while lines := list(itertools.islice(file, _LINES_AT_A_TIME)):
                for encoding in self._tokenizer.encode_batch([line.strip() for line in lines]):
                    yield from encoding.ids


def _unknown(tokenizer: Any) -> int | None:
    token = getattr(tokenizer.model, "unk_token", None)
    if token is None:
        token = next(
            (name for name in ("<unk>", "[UNK]") if _id(tokenizer, name) is not None), None
        )
    return None if token is None else _id(tokenizer, token)


def _id(tokenizer: Any, token: str) -> int | None:
    found = tokenizer.token_to_id(token)
    return None if found is None else int(found)
