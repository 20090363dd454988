"""`KnownScores`: importances of channels that were measured once, for passes over programs that other passes made of the same one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recfx.analysis.channel_groups import Group
from recfx.passes.prune.importance import Scores


@dataclass(frozen=True)
class KnownScores:
    """Importances by the names of groups, which stay while other groups lose channels.

    Attributes:
        values: Name of a group -> the importances of its channels, in their order.
    """

    values: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, names: Mapping[Group, str], scores: Scores) -> KnownScores:
        """The importances of some groups.

        Args:
            names: Their names.
            scores: Channel -> importance; channels without an entry have none.
        """
        return cls({name: tuple(scores.get(c, 0.0) for c in group.channels) for group, name in names.items()})

    def scores(self, groups: Iterable[Group], names: Mapping[Group, str]) -> Scores | None:
        """Channel -> importance; None if a group is unknown or has lost channels since.

        Args:
            groups: The groups.
            names: The names of these groups, and perhaps of others.
        """
        found: Scores = {}
        for group in groups:
            own = self.values.get(names[group])
            if own is None or len(own) != len(group.channels):
                return None
            found.update(zip(group.channels, own, strict=True))
        return found
