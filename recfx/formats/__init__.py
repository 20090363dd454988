"""Number formats: how weights and tables are stored in fewer bits."""

from recfx.formats.rowwise import ROW_BITS, decode_rows, row_bytes

__all__ = ["ROW_BITS", "decode_rows", "row_bytes"]
