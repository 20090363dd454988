// Queries rounded as searches read them: to signs or to eight bits, checked on the way, in one pass over each.
#include <cmath>
#include <cstring>

#include "retrieval.h"

namespace recfx {
namespace {

constexpr float LARGEST = 127;      // -128 is left out, so that both signs reach equally far
constexpr float MOST = 1e15f;       // products of larger numbers, summed over dimensions, might leave float32

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

// Words of bits, set where the value is above zero. Gives how many are; the magnitudes are added up in float64, whose sum comes out the same in
// float32 whatever the order.
int64_t signs(const float* row, int64_t dim, int64_t words, uint32_t* to, double& magnitude) {
    std::memset(to, 0, size_t(words) * 4);
    int64_t above = 0;
    magnitude = 0;
    for (int64_t i = 0; i < dim; ++i) {
        const uint32_t set = row[i] > 0;
        to[i / 32] |= set << (i % 32);
        above += set;
        magnitude += double(std::fabs(row[i]));
    }
    return above;
}

// Nearest whole number, ties to even, of magnitudes below 2^22.
float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

// x / unit, rounded. Gives the sum.
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

}  // namespace
}  // namespace recfx

extern "C" int64_t recfx_round_queries(const RecfxQueries* work) {
    using namespace recfx;
    if (work->struct_bytes != int64_t(sizeof *work)) return -2;
    for (int64_t q = 0; q < work->queries; ++q) {
        const float* row = work->values + q * work->dim;
        const float high = reach(row, work->dim);
        if (high < 0) return q;
        float unit = high / LARGEST;
        if (unit == 0) unit = 1.0f;  // of rows of zeros, or so small that the quotient is
        int64_t sum;
        if (work->signs) {
            double magnitude;
            sum = 2 * signs(row, work->dim, work->width, static_cast<uint32_t*>(work->rows) + q * work->width, magnitude) - work->dim;
            unit = float(magnitude / double(work->dim));
        } else {
            sum = numbers(row, work->dim, work->width, unit, static_cast<int8_t*>(work->rows) + q * work->width);
        }
        work->sums[q] = float(sum);
        work->gain[q] = unit * work->step;
        work->offset[q] = unit * work->lower * float(sum);
    }
    return -1;
}
