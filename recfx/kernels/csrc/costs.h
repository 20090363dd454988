// Rough costs of steps, which decide whether a call is worth a team of threads.
#pragma once
#include "abi.h"

namespace recfx {

// Nanoseconds on one thread: of reading the weights once, and of the work of a batch row.
struct Cost {
    double weights_ns, row_ns;
};
Cost cost_of(const RecfxStep& step);

// Rows, or keys, of the product that a step computes for a batch row; 1 for other steps.
int64_t product_rows(const RecfxStep& step);

}  // namespace recfx
