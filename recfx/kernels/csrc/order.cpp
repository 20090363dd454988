// The first elements of a list in order, one list at a time. Compiled without the flags of a level, since it uses the standard library.
#include <algorithm>

#include "kernels.h"

namespace recfx {
namespace {

template <class T>
struct Pair {
    T key;
    int64_t position;
};

// Whether one key comes before another. NaN counts as the largest.
template <class T>
struct Before {
    bool largest;
    bool operator()(const Pair<T>& a, const Pair<T>& b) const {
        const bool a_nan = a.key != a.key, b_nan = b.key != b.key;
        return largest ? (a_nan && !b_nan) || a.key > b.key : (!a_nan && b_nan) || a.key < b.key;
    }
};

// The same with the position as the second key.
template <class T>
struct StableBefore {
    Before<T> before;
    bool operator()(const Pair<T>& a, const Pair<T>& b) const {
        return before(a, b) || (!before(b, a) && a.position < b.position);
    }
};

// torch's top-k on the CPU chooses by these algorithms of the standard library, which decide between equal keys: a partial sort if few
// are chosen, otherwise a selection and a sort of all chosen elements but the last, which the selection has put into its place.
template <class T>
void order(const T* keys, int64_t n, int64_t k, bool largest, int64_t ties, void* scratch, int64_t* positions) {
    auto* pairs = static_cast<Pair<T>*>(scratch);
    for (int64_t i = 0; i < n; ++i) pairs[i] = {keys[i], i};
    const Before<T> before{largest};
    if (ties == TIES_STABLE) std::partial_sort(pairs, pairs + k, pairs + n, StableBefore<T>{before});
    else if (k * 64 <= n) std::partial_sort(pairs, pairs + k, pairs + n, before);
    else {
        std::nth_element(pairs, pairs + k - 1, pairs + n, before);
        if (ties == TIES_CHOSEN) std::sort(pairs, pairs + k - 1, before);
    }
    for (int64_t i = 0; i < k; ++i) positions[i] = pairs[i].position;
}

}  // namespace

static_assert(sizeof(Pair<float>) <= 16 && sizeof(Pair<int64_t>) <= 16, "the caller's scratch memory has 16 bytes for a pair");

void order_floats(const float* keys, int64_t n, int64_t k, bool largest, int64_t ties, void* scratch, int64_t* positions) {
    order(keys, n, k, largest, ties, scratch, positions);
}

void order_whole(const int64_t* keys, int64_t n, int64_t k, bool largest, int64_t ties, void* scratch, int64_t* positions) {
    order(keys, n, k, largest, ties, scratch, positions);
}

}  // namespace recfx
