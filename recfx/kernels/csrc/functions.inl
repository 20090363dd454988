// Element-wise functions of float32, to two units in the last place over all finite numbers, denormal arguments and results included. Results for
// infinities and NaN, and the signs of zeros, are those of torch. Every lane is computed by itself, so that a result does not depend on its neighbours.
//
// Most have no branch. Where only a far end of the range is special, `any` looks for lanes there, and the common path stays short.
#pragma once
#include "simd.inl"

namespace recfx {
namespace {

inline bool any(vi mask) {
#if RECFX_LANES == 16
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif RECFX_LANES == 8
    return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_ps((__m128)mask) != 0;
#elif defined(__aarch64__)
    return vmaxvq_u32((uint32x4_t)mask) != 0;
#else
    bool found = false;
    for (int i = 0; i < W; ++i) found |= mask[i] != 0;
    return found;
#endif
}

// `size`, which is at least 0, with the sign of `v`.
inline vf with_sign(vf size, vf v) { return as_float(as_int(size) | (as_int(v) & INT32_MIN)); }

inline vf square_root(vf v) {
#if RECFX_LANES == 16
    return (vf)_mm512_sqrt_ps((__m512)v);
#elif RECFX_LANES == 8
    return (vf)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
    return (vf)_mm_sqrt_ps((__m128)v);
#elif defined(__aarch64__)
    return (vf)vsqrtq_f32((float32x4_t)v);
#else
    for (int i = 0; i < W; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

// Whether a product and a sum are rounded once.
#if RECFX_LANES >= 8 || defined(__aarch64__)
constexpr bool FUSED = true;
#else
constexpr bool FUSED = false;
#endif

// a * b - product, exactly, where `product` is a * b rounded and neither overflows nor comes near the denormals.
inline vf product_error(vf a, vf b, vf product) {
#if RECFX_LANES == 16
    return (vf)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)product);
#elif RECFX_LANES == 8
    return (vf)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)product);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)-product, (float32x4_t)a, (float32x4_t)b);
#else
    // In halves of twelve bits, whose products are exact.
    const vf ah = as_float(as_int(a) & ~0xfff), bh = as_float(as_int(b) & ~0xfff), al = a - ah, bl = b - bh;
    return ((ah * bh - product) + ah * bl + al * bh) + al * bl;
#endif
}

// a - b * c for a product near `a`: the difference is exact.
inline vf left_of(vf a, vf b, vf c) {
    if constexpr (FUSED) return a - b * c;
    const vf product = b * c;
    return (a - product) - product_error(b, c, product);
}

// About 1 / v for v in [2^-126, 2^126]: 14 bits where the processor has an instruction, otherwise rounded.
inline vf reciprocal_estimate(vf v) {
#if RECFX_LANES == 16
    return (vf)_mm512_rcp14_ps((__m512)v);
#else
    return 1.0f / v;
#endif
}

// a / v for finite a and v in [2^-126, 2^126].
inline vf quotient(vf a, vf v) {
#if RECFX_LANES == 16
    // From an estimate of 14 bits, in a third of a division's time.
    const vf r = (vf)_mm512_rcp14_ps((__m512)v), q = a * r;
    return q + r * (a - v * q);
#else
    return a / v;
#endif
}

constexpr float LOG2_E = 1.44269504f, LN2 = 0.693359375f, LN2_EXCESS = 2.12194440e-4f;  // ln 2 = LN2 - LN2_EXCESS; n LN2 is exact

// The power of two nearest to 2^exponent, 2^n. A level that cannot scale by `n` adds it to the bits of a number's exponent.
struct PowerOfTwo {
#if RECFX_LANES == 16
    vf n;
    inline explicit PowerOfTwo(vf exponent) : n((vf)_mm512_roundscale_ps((__m512)exponent, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)) {}

    inline vf times(vf v) const { return (vf)_mm512_scalef_ps((__m512)v, (__m512)n); }
    inline vf times_any(vf v) const { return times(v); }
    inline vf times_low(vf v) const { return times(v); }
#else
    static constexpr float HOLD = 12582912.0f + 127.0f;  // the last bits of `held` are n + 127
    vf held, n;
    inline explicit PowerOfTwo(vf exponent) : held(exponent + HOLD), n(held - HOLD) {}

    // For -126 <= n <= 127.
    inline vf times(vf v) const { return v * (vf)((vu)held << 23); }
    // Rounded once for n from -216 to 129 as well: by two factors of about 2^(n / 2), the first of them exact.
    inline vf times_any(vf v) const {
        const vu biased = (vu)held + 127, first = (biased >> 1) << 23, second = (biased << 23) - first;
        return v * (vf)first * (vf)second;
    }
    // The same for -226 <= n <= 27.
    inline vf times_low(vf v) const { return v * (vf)(((vu)held + 100) << 23) * 0x1p-100f; }
#endif
    inline vf value() const { return times(splat(1.0f)); }
};

// (e^-r - 1 + r) / r^2 for |r| <= ln(2) / 2: minimax for the relative error of e^-r, 3e-9.
inline vf falling_curve(vf r) {
    vf q = splat(0.0013819490559399128f);
    q = q * r - 0.008368690498173237f;
    q = q * r + 0.041668280959129333f;
    q = q * r - 0.1666652113199234f;
    return q * r + 0.4999999403953552f;
}

// (e^-r - 1) / r.
inline vf falling_slope(vf r) { return falling_curve(r) * r - 1.0f; }

// e^-r - 1, to little more than half a unit in the last place.
inline vf falling_less_one(vf r) { return (r * r) * falling_curve(r) - r; }

// v - n ln(2), or v + low - n ln(2) where `low` is below the last bits of v.
inline vf remainder_of(vf v, vf n) { return (v - n * LN2) + n * LN2_EXCESS; }
inline vf remainder_of(vf v, vf low, vf n) { return (v - n * LN2) + (n * LN2_EXCESS + low); }

// Below -104 the result rounds to zero, above 89 to infinity.
inline vf exponential(vf v) {
    const vf held = min(splat(89.0f), max(splat(-104.0f), v));
    const PowerOfTwo power(held * LOG2_E);
    const vf r = (power.n * LN2 - held) - power.n * LN2_EXCESS;
    return power.times_any(r * falling_slope(r) + 1.0f);
}

// a e^(v + low) for -150 <= v < 0, rounded once where the result is denormal.
inline vf times_exponential_of_low(vf a, vf v, vf low = vf{}) {
    const PowerOfTwo power(v * LOG2_E);
    const vf r = remainder_of(v, low, power.n);
    return power.times_low(a / (r * falling_slope(r) + 1.0f));
}

// 1 + e^-v for -87 <= v <= 87, rounded once: the power of two of e^-v and 1 are added first, and the rounding error of the sum is added to the rest.
template <class... Low>
inline vf one_plus_falling(vf v, Low... low) {
    const PowerOfTwo power(v * -LOG2_E);
    const vf r = remainder_of(v, low..., -power.n), scale = power.value(), sum = 1.0f + scale;
    return sum + ((scale * r) * falling_slope(r) + (1.0f - (sum - scale)));
}

#if RECFX_LANES == 16
// a / (1 + e^-(v + low)) for -150 <= v <= 87, as a 2^n / (2^n + e^-r) with n and r of v. The scaling comes last and reaches denormals and zeros.
template <class... Low>
inline vf times_logistic(vf a, vf v, Low... low) {
    const PowerOfTwo power(v * LOG2_E);
    const vf r = remainder_of(v, low..., power.n), scale = power.value(), sum = 1.0f + scale;
    return power.times(quotient(a, sum + (r * falling_slope(r) + (scale - (sum - 1.0f)))));
}

// `result`, or where v is an infinity or zero the entry of `Table`.
template <int Table>
inline vf mended(vf result, vf v) {
    return (vf)_mm512_fixupimm_ps((__m512)result, (__m512)v, _mm512_set1_epi32(Table), 0);
}
constexpr int BOTH_ARE_NAN = 0x00330000, LOWER_IS_NAN = 0x00530100;
#endif

[[maybe_unused]] __attribute__((noinline)) vf sigmoid_of_low(vf v, vf elsewhere) { return v < -87.0f ? exponential(v) : elsewhere; }
inline vf sigmoid(vf v) {
#if RECFX_LANES == 16
    return times_logistic(splat(1.0f), max(splat(-150.0f), min(splat(30.0f), v)));
#else
    const vf usual = 1.0f / one_plus_falling(max(splat(-87.0f), min(splat(30.0f), v)));
    return __builtin_expect(any(v < -87.0f), 0) ? sigmoid_of_low(v, usual) : usual;
#endif
}

// Where e^v is denormal, v e^v may be normal: v is multiplied before the scaling. Minus infinity gives NaN.
[[maybe_unused]] __attribute__((noinline)) vf silu_of_low(vf v, vf elsewhere) {
    const vf end = splat(-150.0f), held = max(end, v);
    const vf low = v < end ? v * 0.0f : times_exponential_of_low(held, held);
    return v < -87.0f ? low : elsewhere;
}
inline vf silu(vf v) {
#if RECFX_LANES == 16
    const vf held = max(splat(-150.0f), v);
    return mended<LOWER_IS_NAN>(times_logistic(held, min(splat(30.0f), held)), v);
#else
    const vf usual = v / one_plus_falling(max(splat(-87.0f), min(splat(30.0f), v)));
    return __builtin_expect(any(v < -87.0f), 0) ? silu_of_low(v, usual) : usual;
#endif
}

// (1 - e^-2|v|) / (1 + e^-2|v|) with the sign of v. The power of two of e^-2|v| is added to 1 first, which is exact, and the rest of it is rounded once.
inline vf tanh_(vf v) {
    const vf held = min(splat(10.0f), magnitude(v)) * 2.0f;
    const PowerOfTwo power(held * -LOG2_E);
    const vf rest = falling_less_one(remainder_of(held, -power.n)), scale = power.value();
    return with_sign(quotient((1.0f - scale) - scale * rest, (1.0f + scale) + scale * rest), v);
}

// Near zero an odd polynomial, minimax on [-0.9, 0.9], elsewhere one minus a tail, which from 4 on is below the last bit: e^-v^2 times
// 2 B / (sqrt(pi) v B + A), within 3e-8 of the tail.
inline vf error_function(vf v) {
    const vf s = v * v;
    vf p = splat(8.509402687195688e-05f);
    p = p * s - 0.0008174657123163342f;
    p = p * s + 0.005203758832067251f;
    p = p * s - 0.02686045877635479f;
    p = p * s + 0.11283713579177856f;
    p = p * s - 0.37612634897232056f;
    p = p * s + 0.128379167f;
    const vf near = p * v + v, size = magnitude(v), held = min(splat(4.0f), size), square = held * held;
    vf b = splat(0.36020576871204407f);
    b = b * held + 1.3235821142098319f;
    b = b * held + 2.456330911336936f;
    b = b * held + 2.0f;
    vf a = splat(0.32021113824078423f);
    a = a * held + 1.1539348647823076f;
    a = a * held + 2.0027961488326653f;
    const PowerOfTwo power(square * -LOG2_E);
    const vf r = remainder_of(square, -power.n), e = r * falling_slope(r) + 1.0f;
    const vf far = with_sign(1.0f - power.times(quotient(b * e, (b * held) * 1.7724577f + a)), v);
    return size < 0.9f ? near : far;
}

}  // namespace
}  // namespace recfx
