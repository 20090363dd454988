"""Number formats: how weights and tables are stored in fewer bits."""

from recfx.formats.per_channel import quantize_per_channel
from recfx.formats.rowwise import ROW_BITS, decode_rows, encode_rows, row_bytes

__all__ = ["ROW_BITS", "decode_rows", "encode_rows", "quantize_per_channel", "row_bytes"]
