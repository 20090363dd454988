"""Capture of an `nn.Module` as a `Program`: export, functionalisation, inputs, and the comparison with the user's model."""

from recfx.capture.capture import MAX_BATCH, capture

__all__ = ["MAX_BATCH", "capture"]
