// Turns of calls from many threads: no more calls run at once than there are cores.
//
// With more running threads than cores, the system divides the cores in slices of milliseconds, and a call of 100 us that is interrupted takes 50
// times as long. When calls wait for their turn, first come, first served, the time of a call is proportional to the number of calls per
// core.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace recfx {

class Turns {
  public:
    explicit Turns(int32_t cores) : free_(cores), cores_(cores) {}

    void begin() {
        if (free_.fetch_sub(1, std::memory_order_acquire) <= 0) wait();
    }
    void end() {
        if (free_.fetch_add(1, std::memory_order_release) < 0) pass_on();
    }

    // How many calls run or wait, the caller's own included.
    int32_t calls() const { return cores_ - free_.load(std::memory_order_relaxed); }

  private:
    struct Waiter {
        std::condition_variable called;
        bool ready = false;
        Waiter* next = nullptr;
    };

    void wait();
    void pass_on();

    std::atomic<int32_t> free_;  // below 0: how many calls wait
    const int32_t cores_;
    std::mutex mutex_;
    Waiter *first_ = nullptr, *last_ = nullptr;
    int32_t early_ = 0;          // turns passed on before their waiter had joined the queue
};

// Called at the end of a call. Gives the core to another thread when more threads have made calls lately than there are cores. Otherwise a thread
// keeps its core for a whole slice of the system's, because it never sleeps between its calls, and the calls of the others take that much longer.
// A single caller keeps its core: the other thread might be a busy process or a waiting thread of OpenMP.
void give_way();

// The turns of this process. A forked child gets new ones: turns that calls of the parent held at the fork would never end in the child.
Turns& turns();

}  // namespace recfx
