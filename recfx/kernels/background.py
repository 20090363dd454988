"""The lock that stops background work during measurements."""

from __future__ import annotations

import threading

#: A measurement holds it all the time. Background work takes it for one short piece of work at a time.
BACKGROUND = threading.RLock()
