#define RECFX_LANES 8
#define RECFX_TILE 2
#define RECFX_LEVEL_NAME "avx2"
#include "scan.inl"

const recfx::ScanLevel* recfx::scan_avx2() { return &level; }
