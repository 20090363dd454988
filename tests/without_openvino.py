"""A pytest plugin that hides the package openvino: its libraries are loaded with RTLD_DEEPBIND, at which a process with
AddressSanitizer ends."""

from __future__ import annotations

import sys

sys.modules["openvino"] = None  # type: ignore[assignment]
