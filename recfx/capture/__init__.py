"""Capture of an `nn.Module` as a `Program`: export, functionalisation, inputs, and the comparison with the user's model."""

from recfx.capture.capture import capture
from recfx.capture.size_range import MAX_BATCH

__all__ = ["MAX_BATCH", "capture"]
