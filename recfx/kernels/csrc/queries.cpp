// Queries rounded as searches read them: to signs or to eight bits, checked on the way, in one pass over each.
#include <cmath>
#include <cstring>

#include "retrieval.h"

namespace recfx {
namespace {

constexpr float LARGEST = 127;      // -128 is not used, so that the range is symmetric
constexpr float MOST = 1e15f;       // sums of products of larger numbers could overflow float32

// The greatest magnitude; negative for a row that holds NaN or numbers beyond MOST.
float reach(const float* row, int64_t dim) {
    float high = 0;
    bool fits = true;
    for (int64_t i = 0; i < dim; ++i) {
        const float size = std::fabs(row[i]);
        fits &= size <= MOST;
        high = size > high ? size : high;
    }
    return fits ? high : -1;
}

double mean_magnitude(const float* row, int64_t dim) {
    double sum = 0;  // rounds to the same float32 in any order
    for (int64_t i = 0; i < dim; ++i) sum += double(std::fabs(row[i]));
    return sum / double(dim);
}

// Words of bits, set where the value is above zero. Returns the number of set bits, or -1 if a code is above 1.
template <class T>
int64_t signs(const T* row, int64_t dim, int64_t words, uint32_t* to) {
    std::memset(to, 0, size_t(words) * 4);
    int64_t above = 0;
    bool fits = true;
    for (int64_t i = 0; i < dim; ++i) {
        const uint32_t set = row[i] > 0;
        if (sizeof(T) == 1) fits &= row[i] <= 1;
        to[i / 32] |= set << (i % 32);
        above += set;
    }
    return fits ? above : -1;
}

// Nearest whole number, ties to even, of magnitudes below 2^22.
float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

// x / unit, rounded. Returns the sum.
int64_t numbers(const float* row, int64_t dim, int64_t width, float unit, int8_t* to) {
    int64_t sum = 0;
    for (int64_t i = 0; i < dim; ++i) {
        const float number = nearest(row[i] / unit);
        to[i] = int8_t(number > LARGEST ? LARGEST : number < -LARGEST ? -LARGEST : number);
        sum += to[i];
    }
    std::memset(to + dim, 0, size_t(width - dim));
    return sum;
}

// Rounds one query; false if it holds NaN or numbers beyond MOST.
bool round_one(const RecfxQueries& work, int64_t q, float& unit, int64_t& sum) {
    const int64_t at = q * work.dim;
    uint32_t* words = static_cast<uint32_t*>(work.rows) + q * work.width;
    unit = 1.0f;
    if (work.kind == TO_CODES) {
        const int64_t above = signs(static_cast<const uint8_t*>(work.values) + at, work.dim, work.width, words);
        sum = 2 * above - work.dim;
        return above >= 0;
    }
    const float* row = static_cast<const float*>(work.values) + at;
    const float high = reach(row, work.dim);
    if (high < 0) return false;
    if (work.kind == TO_NUMBERS) {
        if (high / LARGEST > 0) unit = high / LARGEST;  // the quotient is 0 for rows of zeros and of very small numbers
        sum = numbers(row, work.dim, work.width, unit, static_cast<int8_t*>(work.rows) + q * work.width);
        return true;
    }
    sum = 2 * signs(row, work.dim, work.width, words) - work.dim;
    if (work.kind == TO_SIGNS) unit = float(mean_magnitude(row, work.dim));
    return true;
}

}  // namespace
}  // namespace recfx

extern "C" int64_t recfx_round_queries(const RecfxQueries* work) {
    if (work->struct_bytes != int64_t(sizeof *work)) return ROUNDING_OTHER_SOURCES;
    for (int64_t q = 0; q < work->queries; ++q) {
        float unit;
        int64_t sum;
        if (!recfx::round_one(*work, q, unit, sum)) return q;
        work->sums[q] = float(sum);
        work->gain[q] = unit * work->step;
        work->offset[q] = work->constant + unit * work->lower * float(sum);
    }
    return ROUNDING_DONE;
}
