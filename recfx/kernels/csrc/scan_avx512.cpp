#define RECFX_LANES 16
#define RECFX_TILE 4
#define RECFX_LEVEL_NAME "avx512"
#include "scan.inl"

const recfx::ScanLevel* recfx::scan_avx512() { return &level; }
