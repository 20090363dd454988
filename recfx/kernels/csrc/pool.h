// A team of threads for one call: an OpenMP region of torch's own runtime.
//
// torch's idle threads spin for milliseconds after each of its parallel operators. Threads of recfx's own would need the cores on which
// they spin, and a call that alternates with torch's operators would wait for them; a region uses those very threads.
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

// Does one call's work: as task(state, 0..members-1) at once, member 0 on the calling thread, or on the calling thread when
// a team cannot be had or does not promise to be faster: as alone(state, 0), or where that is null as one share after the other. `patience_ns` says that members meet at barriers, which takes all of them at once, and
// how long to wait for them at the beginning before working alone; 0 that every member may come at any time, or find nothing left to do.
void run_team(int64_t members, Task task, Task alone, void* state, int64_t patience_ns);

}  // namespace recfx
