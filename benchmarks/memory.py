"""Memory of this process."""

from __future__ import annotations

from pathlib import Path


def memory(name: str) -> int:
    """A line of the system's table of this process, in bytes; 0 where there is no such table.

    Args:
        name: Such as "VmRSS" (present) or "VmHWM" (peak).
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def reset_peak() -> int:
    """The present memory, to which the peak is set; 0 where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return memory("VmRSS")
