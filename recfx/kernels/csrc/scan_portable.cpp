#define RECFX_LANES 4
#define RECFX_TILE 2
#define RECFX_LEVEL_NAME "portable"
#include "scan.inl"

const recfx::ScanLevel* recfx::scan_portable() { return &level; }
