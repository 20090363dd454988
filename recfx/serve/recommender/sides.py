"""`Sides`: the items of a recommender, held twice, so that they change while requests read them.

Requests read the active side. A change is written to the other side, and the two change places in one step. The former active side gets
the change before the next one, when no request reads it any more.
"""

from __future__ import annotations

import threading

from recfx.errors import TargetError
from recfx.serve.recommender.catalogue import Catalogue
from recfx.serve.recommender.changes import Change

#: Seconds for the requests of a side to end.
_LONGEST = 60.0


class Side:
    """Items, and the number of requests that read them."""

    __slots__ = ("catalogue", "readers")

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.readers = 0


class Sides:
    """The items of a recommender, held twice.

    The methods `enter`, `leave` and `exchange` are called with `gate` held; one thread at a time calls the others.

    Args:
        items: The items.
        owned: Whether their memory may be written to; otherwise the first change copies them twice.

    Attributes:
        gate: Held while requests take a side, and while sides change places.
    """

    def __init__(self, items: Catalogue, *, owned: bool) -> None:
        self.gate = threading.Condition()
        self._active = Side(items)
        self._passive: Side | None = None
        self._kept = None if owned else items
        self._late: Change | None = None

    @property
    def active(self) -> Catalogue:
        """The present items."""
        return self._active.catalogue

    def enter(self) -> Side:
        """The present items, with one more reader."""
        self._active.readers += 1
        return self._active

    def leave(self, side: Side) -> None:
        """Ends a reader."""
        side.readers -= 1
        if not side.readers:
            self.gate.notify_all()

    def writable(self) -> Catalogue:
        """The items of the other side: equal to the present ones, and read by nobody.

        Raises:
            TargetError: Requests that began before the last change have not ended.
        """
        passive = self._passive
        if passive is None or passive.catalogue is self._kept:
            passive = self._passive = Side(self.active.copy())
        else:
            self._wait(passive)
            if self._late is not None:
                passive.catalogue.apply(self._late)
        self._late = None
        return passive.catalogue

    def _wait(self, side: Side) -> None:
        """Waits until nobody reads a side."""
        with self.gate:
            if not self.gate.wait_for(lambda: not side.readers, _LONGEST):
                raise TargetError(
                    f"a request that began before the last change has not ended after {_LONGEST:g} s",
                    where="items",
                    hint="find out why the request hangs, and send the change again",
                )

    def discard(self) -> None:
        """Forgets what was written to the other side."""
        self._passive, self._late = None, None

    def exchange(self, change: Change) -> None:
        """Makes a change visible that was written to the items of `writable`."""
        assert self._passive is not None
        self._active, self._passive, self._late = self._passive, self._active, change
