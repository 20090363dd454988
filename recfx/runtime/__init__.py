"""The code of a compiled call: the flat function, the checks of its inputs, and the nesting of its outputs."""

from recfx.runtime.entry import entry_function
from recfx.runtime.flat import flat_function

__all__ = ["entry_function", "flat_function"]
