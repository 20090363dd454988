// A team of threads for one call. Workers wait spinning for a moment and then sleep; a team of one costs nothing.
#pragma once
#include <cstdint>

namespace recfx {

// Meets all members of a team; cheap, because it is crossed between the steps of one call.
class Barrier {
  public:
    explicit Barrier(int64_t members) : members_(members) {}
    void wait();

  private:
    const int64_t members_;
    int64_t arrived_ = 0;
    int64_t phase_ = 0;
};

// For work of many milliseconds: a thread whose core is taken away gets it back before long.
constexpr int64_t LONG_PATIENCE_NS = 100'000'000;

using Task = void (*)(void* state, int64_t member);

// Runs task(state, 0..members-1), member 0 on the calling thread, and returns when all are done. Returns false, having run nothing, when the
// workers are busy with another call or cannot be had: the caller then works alone. Members whose thread does not come, because the system
// has given its core to someone else, are run by the caller in the end; where members meet at a barrier, which takes all of them at once,
// `patience_ns` says how long to wait for them before working alone.
bool run_team(int64_t members, Task task, void* state, int64_t patience_ns = 0);

}  // namespace recfx
