"""From an `nn.Module` to a `Program`: export, functionalisation, inputs, and the check against the user's model."""

from recfx.capture.capture import MAX_BATCH, capture

__all__ = ["MAX_BATCH", "capture"]
