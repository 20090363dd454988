// The threads that torch has: parallel regions of the OpenMP runtime that torch loaded.
#pragma once
#include <cstdint>

namespace recfx {

// Whether regions can be run here: the runtime is known, and this process is not a fork of one whose threads it has lost.
bool has_openmp();

// Threads that a region of the calling thread has by default. Regions of another size make the runtime end or start threads.
int64_t openmp_threads();

// Runs enter(data, thread, threads) on up to `threads` threads and returns when all are done. `threads` in the call is how many there are.
void openmp_region(void (*enter)(void* data, int64_t thread, int64_t threads), void* data, int64_t threads);

}  // namespace recfx
