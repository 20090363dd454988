// Elementary functions in double precision, for float32 results that are correct to the last bit except for ties. Every float32, denormals
// included, is a normal double, and the error of a polynomial is far below the last bit of a float32.
#pragma once
#include "simd.inl"

namespace recfx {
namespace {

constexpr int HALF = W / 2;
typedef float vh __attribute__((vector_size(HALF * 4)));
typedef double vd __attribute__((vector_size(HALF * 8)));
typedef int64_t vl __attribute__((vector_size(HALF * 8)));
typedef uint64_t vul __attribute__((vector_size(HALF * 8)));

inline vd wide(double x) { return x - vd{}; }
inline vd wide_magnitude(vd x) { return (vd)((vul)x & 0x7fffffffffffffffull); }
inline vd with_sign(vd x, vd sign) { return (vd)(((vul)x & 0x7fffffffffffffffull) | ((vul)sign & 0x8000000000000000ull)); }

// Applies `f` to each half of a vector, widened to double precision.
template <class F>
inline vf in_doubles(vf x, F f) {
    vh half[2];
    __builtin_memcpy(half, &x, sizeof x);
    for (vh& h : half) h = __builtin_convertvector(f(__builtin_convertvector(h, vd)), vh);
    __builtin_memcpy(&x, half, sizeof x);
    return x;
}
template <class F>
inline vf in_doubles(vf x, vf y, F f) {
    vh left[2], right[2];
    __builtin_memcpy(left, &x, sizeof x);
    __builtin_memcpy(right, &y, sizeof y);
    for (int i = 0; i < 2; ++i) left[i] = __builtin_convertvector(f(__builtin_convertvector(left[i], vd), __builtin_convertvector(right[i], vd)), vh);
    __builtin_memcpy(&x, left, sizeof x);
    return x;
}

inline vd square_root(vd x) {
    for (int i = 0; i < HALF; ++i) x[i] = __builtin_sqrt(x[i]);
    return x;
}

constexpr double ROUNDER = 0x1.8p52;  // adding it leaves the nearest integer in the low bits

// e^v = scale (1 + q). NaN passes through q. For |v| > 700 the result is outside float32, so `v` is clamped.
inline void exponential_parts(vd v, vd& scale, vd& q, vl& whole) {
    v = v > 700.0 ? wide(700.0) : v;
    v = v < -700.0 ? wide(-700.0) : v;
    const vd shifted = v * 1.4426950408889634 + ROUNDER, n = shifted - ROUNDER;
    whole = (n == n) & (n != 0.0);
    scale = (vd)(((vul)shifted + 1023) << 52);
    const vd r = (v - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    vd p = wide(1.0 / 3628800);
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    q = r + r * r * p;
}

inline vd wide_exponential(vd v) {
    vd scale, q;
    vl whole;
    exponential_parts(v, scale, q, whole);
    return v == v ? scale + scale * q : v;
}

// e^v - 1, exact to the relative error of the polynomial where v is small.
inline vd wide_expm1(vd v) {
    vd scale, q;
    vl whole;
    exponential_parts(v, scale, q, whole);
    return v == v ? (whole ? scale * q + (scale - 1.0) : q) : v;
}

// log x of a positive, finite, normal x: x = 2^e m with m in [sqrt(1/2), sqrt(2)), log m = 2 artanh((m - 1) / (m + 1)).
inline vd logarithm_of_normal(vd x) {
    const vul bits = (vul)x, above = bits - 0x3fe6a09e667f3bcdull + (1023ull << 52);
    const vul exponent = above >> 52;  // e + 1023
    const vd m = (vd)(bits - ((exponent - 1023) << 52));
    const vd e = (vd)(exponent + 0x4338000000000000ull) - ROUNDER - 1023.0;
    const vd s = (m - 1.0) / (m + 1.0), z = s * s;
    vd p = wide(1.0 / 17);
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    return e * 6.93147180559945286227e-01 + (2.0 * s + 2.0 * s * z * p);
}

// log x of any widened float32: -inf for zero, NaN below zero, infinity for infinity.
inline vd wide_logarithm(vd x) {
    const vl normal = (x > 0.0) & (x < __builtin_inf());
    const vd found = logarithm_of_normal(normal ? x : wide(1.0));
    const vd special = x == 0.0 ? wide(-__builtin_inf()) : (x < 0.0 ? wide(__builtin_nan("")) : x);
    return normal ? found : special;
}

// log(1 + x). For small x, a series replaces the bits that 1 + x loses.
inline vd wide_log1p(vd x) {
    const vd near = x - x * x * (0.5 - x * (1.0 / 3));
    return wide_magnitude(x) < 0x1p-20 ? near : wide_logarithm(1.0 + x);
}

// sin and cos of |x| < 2^20, reduced by multiples of pi / 2 in two parts, of which the first has 33 bits.
inline void sine_and_cosine(vd x, vd& sine, vd& cosine) {
    const vd shifted = x * 0.63661977236758138 + ROUNDER, n = shifted - ROUNDER;
    const vul quadrant = (vul)shifted;
    const vd r = (x - n * 1.57079632673412561417) - n * 6.07710050650619224932e-11, z = r * r;
    vd s = wide(1.0 / 6227020800.0);
    s = s * z - 1.0 / 39916800;
    s = s * z + 1.0 / 362880;
    s = s * z - 1.0 / 5040;
    s = s * z + 1.0 / 120;
    s = s * z - 1.0 / 6;
    s = r + r * z * s;
    vd c = wide(-1.0 / 87178291200.0);
    c = c * z + 1.0 / 479001600;
    c = c * z - 1.0 / 3628800;
    c = c * z + 1.0 / 40320;
    c = c * z - 1.0 / 720;
    c = c * z + 1.0 / 24;
    c = 1.0 - z * (0.5 - z * c);
    const vl odd = (vl)(quadrant & 1) != 0;
    const vd first = odd ? c : s, second = odd ? s : c;
    sine = (vl)(quadrant & 2) != 0 ? -first : first;
    cosine = (vl)((quadrant + 1) & 2) != 0 ? -second : second;
}

// For x >= 0: reduced to |t| <= tan(pi / 8) by atan a = pi / 4 + atan((a - 1) / (a + 1)) = pi / 2 - atan(1 / a).
inline vd arc_tangent_of_positive(vd a) {
    const vl large = a > 2.4142135623730950, middle = a > 0.41421356237309503;
    const vd t = large ? -1.0 / a : (middle ? (a - 1.0) / (a + 1.0) : a);
    const vd base = large ? wide(1.5707963267948966) : (middle ? wide(0.78539816339744831) : wide(0.0));
    const vd z = t * t;
    vd p = wide(-1.0 / 31);
    for (int odd = 29; odd >= 3; odd -= 2) p = p * z + (odd % 4 == 1 ? 1.0 : -1.0) / odd;
    return base + (t + t * z * p);
}
inline vd wide_arc_tangent(vd x) { return with_sign(arc_tangent_of_positive(wide_magnitude(x)), x); }

// The angle of (x, y), by the signs of both: as C's atan2 for zeros and infinities.
inline vd wide_arc_tangent2(vd y, vd x) {
    const vd ax = wide_magnitude(x), ay = wide_magnitude(y);
    const vl diagonal = (ax == ay) & (ax == __builtin_inf()), zeros = (ay == 0.0) & (ax == 0.0);
    const vd ratio = diagonal ? wide(1.0) : (zeros ? wide(0.0) : ay / ax);
    const vd angle = arc_tangent_of_positive(ratio);
    const vl negative = (vl)((vul)x >> 63) != 0;
    const vd turned = negative ? 3.141592653589793 - angle : angle;
    return (x != x) | (y != y) ? x + y : with_sign(turned, y);
}

}  // namespace
}  // namespace recfx
