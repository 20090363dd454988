"""Number formats: how weights and tables are stored in fewer bits."""

from recfx.formats.code_rows import CODE_BITS, Codes, code_row_bytes, pack_codes, unpack_codes
from recfx.formats.halves import HALVES, round_to_half
from recfx.formats.per_channel import quantize_per_channel
from recfx.formats.rowwise import ROW_BITS, decode_rows, encode_rows, row_bytes

__all__ = [
    "CODE_BITS",
    "HALVES",
    "ROW_BITS",
    "Codes",
    "code_row_bytes",
    "decode_rows",
    "encode_rows",
    "pack_codes",
    "quantize_per_channel",
    "round_to_half",
    "row_bytes",
    "unpack_codes",
]
