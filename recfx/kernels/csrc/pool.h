// A team of threads for one call: an OpenMP region of torch's own runtime.
//
// After each of torch's parallel operators its idle threads spin for milliseconds. Other threads would wait for the cores on which they spin
// whenever a call follows an operator of torch. A region uses the spinning threads themselves.
#pragma once
#include <cstdint>

namespace recfx {

// A barrier for all members of a team. It is cheap, because a call crosses it between any two steps.
class Barrier {
  public:
    explicit Barrier(int64_t members) : members_(members) {}
    void wait();

  private:
    const int64_t members_;
    int64_t arrived_ = 0;
    int64_t phase_ = 0;
};

// The patience for work of many milliseconds: a thread that loses its core gets it back within that time.
constexpr int64_t LONG_PATIENCE_NS = 100'000'000;

using Task = void (*)(void* state, int64_t member);

// Does the work of one call: task(state, 0..members-1) at the same time, member 0 on the calling thread. Where there is no team, or a team is not
// expected to be faster, the calling thread does it: as alone(state, 0), or if `alone` is null, as one share after the other. With `patience_ns` above
// 0, members meet at barriers: the call waits that long for all of them, and then works alone. With 0, members may start at any time, and
// may find that no work remains.
void run_team(int64_t members, Task task, Task alone, void* state, int64_t patience_ns);

}  // namespace recfx
