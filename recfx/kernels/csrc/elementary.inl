// Element-wise functions beyond arithmetic and activations, within an ulp of the exact value. From OP_LOG1P on, operations of an element-wise program.
#pragma once
#include "abi.h"
#include "elementary_doubles.inl"
#include "functions.inl"

namespace recfx {
namespace {

inline vf truth(vi mask) { return mask ? splat(1.0f) : splat(0.0f); }
inline vf signed_as(vf x, vf sign) { return as_float((as_int(x) & 0x7fffffff) | (as_int(sign) & INT32_MIN)); }

// Odd functions keep the sign of zero, which their polynomials lose.
inline vf zero_kept(vf x, vf result) { return x == 0.0f ? x : result; }

template <class F>
inline vf by_lane(vf a, vf b, F f) {
    vf r = {};
    for (int i = 0; i < W; ++i) r[i] = f(a[i], b[i]);
    return r;
}

inline vf toward_zero(vf x) {
    const vf inside = magnitude(x) < 8388608.0f ? x : splat(0.0f);
    const vf whole = signed_as(to_float(to_int(inside)), x);
    return magnitude(x) < 8388608.0f ? whole : x;
}
inline vf floored(vf x) {
    const vf t = toward_zero(x);
    return t > x ? t - 1.0f : t;
}
inline vf raised(vf x) {
    const vf t = toward_zero(x);
    return signed_as(t < x ? t + 1.0f : t, x);
}
inline vf rounded(vf x) {
    const vf near = signed_as((magnitude(x) + 8388608.0f) - 8388608.0f, x);
    return magnitude(x) < 8388608.0f ? near : x;
}

// OP_SINE, OP_COSINE or OP_TANGENT. Beyond 2^20, where two parts of pi do not suffice, the function of the C library, lane by lane.
template <int64_t Op>
inline vf trigonometric(vf x) {
    const vi inside = magnitude(x) < 1048576.0f;
    vf result = in_doubles(inside ? x : splat(0.0f), [](vd v) {
        vd s, c;
        sine_and_cosine(v, s, c);
        return Op == OP_SINE ? s : Op == OP_COSINE ? c : s / c;
    });
    if (Op != OP_COSINE) result = zero_kept(x, result);
    for (int i = 0; i < W; ++i)
        if (!inside[i]) result[i] = Op == OP_SINE ? __builtin_sinf(x[i]) : Op == OP_COSINE ? __builtin_cosf(x[i]) : __builtin_tanf(x[i]);
    return result;
}

inline vd hyperbolic(vd x, bool sine) {
    const vd up = wide_expm1(x), down = wide_expm1(-x);
    return sine ? (up - down) * 0.5 : (up + down) * 0.5 + 1.0;
}

// As torch defines them: the remainder has the sign of the divisor.
inline float float_remainder(float a, float b) {
    const float r = __builtin_fmodf(a, b);
    return r != 0.0f && (b < 0.0f) != (r < 0.0f) ? r + b : r;
}
inline float floor_division(float a, float b) {
    if (b == 0.0f) return a / b;
    const float r = __builtin_fmodf(a, b);
    float quotient = (a - r) / b;
    if (r != 0.0f && (b < 0.0f) != (r < 0.0f)) quotient -= 1.0f;
    if (quotient == 0.0f) return __builtin_copysignf(0.0f, a / b);
    const float below = __builtin_floorf(quotient);
    return quotient - below > 0.5f ? below + 1.0f : below;
}

inline vd log_add_exp(vd a, vd b) {
    const vd high = a > b ? a : b;
    const vd sum = high + wide_log1p(wide_exponential(-wide_magnitude(a - b)));
    const vd same = (a == b) & (wide_magnitude(a) == __builtin_inf()) ? a : sum;
    return (a != a) | (b != b) ? a + b : same;
}

// Not inlined: programs of all register widths share one copy.
__attribute__((noinline)) vf function_of_one(int64_t op, vf x, float c) {
    switch (op) {
        case OP_LOG1P: return zero_kept(x, in_doubles(x, wide_log1p));
        case OP_EXPM1: return zero_kept(x, in_doubles(x, wide_expm1));
        case OP_SIGN: return x > 0.0f ? splat(1.0f) : (x < 0.0f ? splat(-1.0f) : splat(0.0f));
        case OP_IS_FINITE: return truth(magnitude(x) < __builtin_inff());
        case OP_IS_NAN: return truth(x != x);
        case OP_IS_INFINITE: return truth(magnitude(x) == __builtin_inff());
        case OP_SINE: return trigonometric<OP_SINE>(x);
        case OP_COSINE: return trigonometric<OP_COSINE>(x);
        case OP_TANGENT: return trigonometric<OP_TANGENT>(x);
        case OP_ARC_TANGENT: return in_doubles(x, wide_arc_tangent);
        case OP_ARC_SINE: return in_doubles(x, [](vd v) { return wide_arc_tangent2(v, square_root((1.0 - v) * (1.0 + v))); });
        case OP_ARC_COSINE: return in_doubles(x, [](vd v) { return wide_arc_tangent2(square_root((1.0 - v) * (1.0 + v)), v); });
        case OP_HYPERBOLIC_SINE: return zero_kept(x, in_doubles(x, [](vd v) { return hyperbolic(v, true); }));
        case OP_HYPERBOLIC_COSINE: return in_doubles(x, [](vd v) { return hyperbolic(v, false); });
        case OP_AREA_SINE:
            return in_doubles(x, [](vd v) {
                const vd a = wide_magnitude(v), s = a * a;
                return with_sign(a < __builtin_inf() ? wide_log1p(a + s / (1.0 + square_root(s + 1.0))) : a, v);
            });
        case OP_AREA_COSINE:
            return in_doubles(x, [](vd v) {
                const vd above = v - 1.0;
                const vd area = v < __builtin_inf() ? wide_log1p(above + square_root(above * (v + 1.0))) : v;
                return v < 1.0 ? wide(__builtin_nan("")) : area;
            });
        case OP_AREA_TANGENT: return zero_kept(x, in_doubles(x, [](vd v) { return 0.5 * wide_log1p(2.0 * v / (1.0 - v)); }));
        case OP_LOG2: return in_doubles(x, [](vd v) { return wide_logarithm(v) * 1.4426950408889634; });
        case OP_LOG10: return in_doubles(x, [](vd v) { return wide_logarithm(v) * 0.43429448190325182; });
        case OP_EXP2: return in_doubles(x, [](vd v) { return wide_exponential(v * 0.69314718055994531); });
        case OP_FLOOR: return floored(x);
        case OP_CEILING: return raised(x);
        case OP_ROUND: return rounded(x);
        case OP_TRUNCATE: return toward_zero(x);
        case OP_FRACTION: return x - toward_zero(x);
        case OP_SIGN_BIT: return truth(as_int(x) < 0);
        case OP_SOFTPLUS: return in_doubles(x, [](vd v) { return wide_log1p(wide_exponential(v)); });
        case OP_MISH:
            return in_doubles(x, [](vd v) {
                const vd e = wide_exponential(v > 40.0 ? wide(40.0) : v), s = e * (e + 2.0);
                return v * ((v < -700.0 ? wide(0.0) : s) / (s + 2.0));
            });
        case OP_LOG_SIGMOID:  // a result that underflows is +0
            return in_doubles(x, [](vd v) { return (v > 0.0 ? wide(0.0) : v) - wide_log1p(wide_exponential(-wide_magnitude(v))); }) + 0.0f;
        case OP_HARD_SHRINK: return (x >= -c) & (x <= c) ? splat(0.0f) : x;
        case OP_SOFT_SHRINK: return x > c ? x - c : (x < -c ? x + c : (x != x ? x : splat(0.0f)));
        case OP_LOGIT: return in_doubles(x, [](vd v) { return wide_logarithm(v / (1.0 - v)); });
        case OP_BASE_POWER: return by_lane(x, x, [c](float v, float) { return __builtin_powf(c, v); });
        case OP_REMAINDER_BY: return by_lane(x, x, [c](float v, float) { return float_remainder(v, c); });
        case OP_FLOOR_DIVIDED_BY: return by_lane(x, x, [c](float v, float) { return floor_division(v, c); });
        default: return x;
    }
}

__attribute__((noinline)) vf function_of_two(int64_t op, vf a, vf b) {
    switch (op) {
        case OP_ARC_TANGENT2: return in_doubles(a, b, wide_arc_tangent2);
        case OP_POWER: return by_lane(a, b, [](float x, float y) { return __builtin_powf(x, y); });
        case OP_FLOAT_MODULO: return by_lane(a, b, [](float x, float y) { return __builtin_fmodf(x, y); });
        case OP_FLOAT_REMAINDER: return by_lane(a, b, float_remainder);
        case OP_FLOOR_DIVISION: return by_lane(a, b, floor_division);
        case OP_HYPOTENUSE: return by_lane(a, b, [](float x, float y) { return __builtin_hypotf(x, y); });
        case OP_LARGER_NUMBER: return (a > b) | (b != b) ? a : b;
        case OP_SMALLER_NUMBER: return (a < b) | (b != b) ? a : b;
        case OP_COPY_SIGN: return signed_as(a, b);
        case OP_X_LOG_Y: return (a == 0.0f) & (b == b) ? splat(0.0f) : in_doubles(a, b, [](vd x, vd y) { return x * wide_logarithm(y); });
        case OP_LOG_ADD_EXP: return in_doubles(a, b, log_add_exp);
        case OP_TRUNCATED_QUOTIENT: return toward_zero(a / b);
        default: return a;
    }
}

inline vf function_of(int64_t op, vf a, vf b, float c) {
    return op < OP_ARC_TANGENT2 || (op >= OP_BASE_POWER && op < OP_TRUNCATED_QUOTIENT) ? function_of_one(op, a, c) : function_of_two(op, a, b);
}

}  // namespace
}  // namespace recfx
