"""Number formats: how weights and tables are stored in fewer bits."""

from recfx.formats.halves import HALVES, round_to_half
from recfx.formats.per_channel import quantize_per_channel
from recfx.formats.rowwise import ROW_BITS, decode_rows, encode_rows, row_bytes

__all__ = [
    "HALVES",
    "ROW_BITS",
    "decode_rows",
    "encode_rows",
    "quantize_per_channel",
    "round_to_half",
    "row_bytes",
]
