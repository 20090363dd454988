#define RECFX_LANES 16
#define RECFX_TILE 8
#define RECFX_LEVEL_NAME "avx512_vpopcntdq"
#include "scan.inl"

const recfx::ScanLevel* recfx::scan_avx512_vpopcntdq() { return &level; }
