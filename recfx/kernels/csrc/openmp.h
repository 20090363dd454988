// The threads of torch: parallel regions of the OpenMP runtime that torch loaded.
#pragma once
#include <cstdint>

namespace recfx {

// Whether regions can run here: the runtime is known, and this process is not a fork, which has lost the threads of its parent.
bool has_openmp();

// Threads that a region of the calling thread has by default. Regions of another size make the runtime end or start threads.
int64_t openmp_threads();

// Runs enter(data, thread, threads) on up to `threads` threads and returns when all are done. The argument `threads` of the call is their number.
void openmp_region(void (*enter)(void* data, int64_t thread, int64_t threads), void* data, int64_t threads);

}  // namespace recfx
