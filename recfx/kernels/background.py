"""The lock that keeps work of the background out of measurements."""

from __future__ import annotations

import threading

#: Held while something is timed. Work of the background holds it for each of its short pieces.
BACKGROUND = threading.RLock()
