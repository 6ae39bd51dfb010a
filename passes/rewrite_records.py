"""What a rewriter writes down: applications of rules, and near misses."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """One application of a rule.

    Attributes:
        rule: name of the rule.
        origins: imported nodes that the replaced nodes stood for.
        new_nodes: names of the nodes that took their place.
    """

    rule: str
    origins: tuple[str, ...]
    new_nodes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Miss:
    """A place where a rule nearly applied, and the condition that stopped it.

    Attributes:
        rule: name of the rule.
        node: the op in text form.
        reason: what would have to be different.
    """

    rule: str
    node: str
    reason: str


class RewriteLimitReachedError(Exception):
    """A pass asked for one rewrite more than it may apply; it ends here, its graph is whole."""
