// Element-wise functions of float32, to two units in the last place over all finite numbers, denormal arguments and results included. What they give
// for infinities and NaN, and the sign of a zero, are torch's. Every lane is computed by itself, so that a result does not depend on its neighbours.
//
// Most run without a branch. Where only a far end needs care, `any` looks for a lane there and the common path stays short.
#pragma once

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

inline vf negative_magnitude(vf v) { return as_float(as_int(v) | INT32_MIN); }
// `size`, which is not negative, with the sign of `v`.
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

// a - b * c, rounded once where the level has an instruction for it.
inline vf minus_product(vf a, vf b, vf c) {
#if RECFX_LANES == 16
    return (vf)_mm512_fnmadd_ps((__m512)b, (__m512)c, (__m512)a);
#elif RECFX_LANES == 8
    return (vf)_mm256_fnmadd_ps((__m256)b, (__m256)c, (__m256)a);
#elif defined(__aarch64__)
    return (vf)vfmsq_f32((float32x4_t)a, (float32x4_t)b, (float32x4_t)c);
#else
    const vf product = b * c, error = product_error(b, c, product);
    return (a - product) - (error == error ? error : vf{});  // an infinite product has no error
#endif
}

// An estimate of 1 / v for v in [1, 2^126]: of 14 bits where the processor has an instruction, otherwise rounded.
inline vf reciprocal_estimate(vf v) {
#if RECFX_LANES == 16
    return (vf)_mm512_rcp14_ps((__m512)v);
#else
    return 1.0f / v;
#endif
}

// A quotient and what is left of it.
struct Quotient {
    vf whole, rest;

    inline vf value() const { return whole + rest; }
    // Rounded once. What is left over of infinity is nothing.
    inline vf times(vf v) const { return minus_product(min(splat(__FLT_MAX__), v) * rest, -v, whole); }
};

// (a + more) / (v + lost) for finite a, v in [1, 2^126], and `more` and `lost` below their last bits.
inline Quotient quotient(vf a, vf v, vf more = vf{}, vf lost = vf{}) {
    const vf r = reciprocal_estimate(v), q = a * r;
    return {q, r * (minus_product(a, v, q) + (more - lost * q))};
}
// a / (1 + e) for 0 <= e <= 1 and finite a, with what the sum's rounding takes from it.
inline Quotient quotient_of_sum(vf a, vf e) {
    const vf sum = 1.0f + e;
    return quotient(a, sum, vf{}, e - (sum - 1.0f));
}

// e^v as `part` * 2^n.
struct Exponential {
    vf part, n;

    // Rounded once, whether the result is normal, denormal, zero or infinite; -216 <= n <= 129.
    inline vf times(vf factor) const {
#if RECFX_LANES == 16
        return (vf)_mm512_scalef_ps((__m512)(part * factor), (__m512)n);
#else
        // `n` is held with 12582912 + 254 added, in the last bits of the number. Two factors of about 2^(n/2), the first of them exact.
        const vu biased = (vu)n, first = (biased >> 1) << 23, second = (biased << 23) - first;
        return part * factor * (vf)first * (vf)second;
#endif
    }
    inline vf value() const { return times(splat(1.0f)); }

    // The same for -126 <= n <= 127.
    inline vf normal_value() const {
#if RECFX_LANES == 16
        return value();
#else
        return part * (vf)(((vu)n - 127) << 23);
#endif
    }
};

// e^(v + low) for v in [-150, 89] and a `low` below the last bits of v: range reduction to [-ln2/2, ln2/2], where the polynomial (minimax for the
// relative error, 3e-9) takes over.
template <bool Exact>
inline Exponential exponential_of(vf v, vf low = vf{}) {
#if RECFX_LANES == 16
    const vf n = (vf)_mm512_roundscale_ps((__m512)(v * 1.44269504f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), held = n;
#else
    const vf held = v * 1.44269504f + (12582912.0f + 254.0f), n = held - (12582912.0f + 254.0f);
#endif
    const vf high = v - n * 0.693359375f, rest = n * 2.12194440e-4f + low, r = high + rest;
    vf p = splat(0.0013814308913424611f);
    p = p * r + 0.008368856273591518f;
    p = p * r + 0.041668400168418884f;
    p = p * r + 0.1666651964187622f;
    p = p * r + 0.4999999403953552f;
    const vf last = p * (r * r) + rest;
    if constexpr (!Exact) return {(high + last) + 1.0f, held};
    const vf sum = 1.0f + high;
    return {sum + ((high - (sum - 1.0f)) + last), held};
}

// Below -104 the result rounds to zero, above 89 to infinity.
constexpr float LEAST_EXPONENT = -104.0f, MOST_EXPONENT = 89.0f;

inline vf exponential(vf v) { return exponential_of<false>(min(splat(MOST_EXPONENT), max(splat(LEAST_EXPONENT), v))).value(); }

// Through e^-|v|, which does not overflow, so that the lower end falls off to the denormals.
inline vf sigmoid(vf v) {
    const vf e = exponential_of<false>(max(splat(LEAST_EXPONENT), negative_magnitude(v))).value();
    const vf low = quotient_of_sum(e, e).value();
    return v < 0.0f ? low : 1.0f - low;
}

// Where e^v is denormal, v e^v is not yet: v comes in before the scaling. Minus infinity gives NaN.
__attribute__((noinline)) vf silu_of_low(vf v, vf elsewhere) {
    const vf end = splat(-150.0f), held = max(end, v);
    const vf low = v < end ? v * 0.0f : exponential_of<true>(held).times(held);
    return v < -87.0f ? low : elsewhere;
}
inline vf silu(vf v) {
    const vf e = exponential_of<false>(max(splat(LEAST_EXPONENT), negative_magnitude(v))).value();
    const vf usual = quotient_of_sum(v < 0.0f ? e : splat(1.0f), e).times(v);
    return __builtin_expect(any(v < -87.0f), 0) ? silu_of_low(v, usual) : usual;
}

// Near zero an odd polynomial, minimax on [-0.625, 0.625], elsewhere through e^2|v|.
inline vf tanh_(vf v) {
    const vf s = v * v;
    vf p = splat(-0.005704985000193119f);
    p = p * s + 0.02063908614218235f;
    p = p * s - 0.05373971536755562f;
    p = p * s + 0.13331441581249237f;
    p = p * s - 0.3333328068256378f;
    const vf near = v * (p * s + 1.0f), size = magnitude(v);
    const vf e = exponential_of<false>(min(splat(10.0f), size) * 2.0f).normal_value();
    const vf far = with_sign(1.0f - quotient(splat(2.0f), e + 1.0f).value(), v);
    return size < 0.625f ? near : far;
}

// e^(t^2 / 2) times the upper tail of the normal distribution, for 0 <= t <= 20, as `over` / `under` (relative error 7e-9).
struct TailRatio {
    vf over, under;
};
inline TailRatio tail_ratio(vf t) {
    vf p = splat(0.00415322021f);
    p = p * t + 0.040881067f;
    p = p * t + 0.183968963f;
    p = p * t + 0.439283202f;
    p = p * t + 0.5f;
    vf q = splat(0.0104104676f);
    q = q * t + 0.102479755f;
    q = q * t + 0.471408233f;
    q = q * t + 1.20554757f;
    q = q * t + 1.67645141f;
    return {p, q * t + 1.0f};
}

// Near zero an odd polynomial, minimax on [-0.9, 0.9], elsewhere one less a tail, which from 4 on is below the last bit.
inline vf error_function(vf v) {
    const vf s = v * v;
    vf p = splat(8.509402687195688e-05f);
    p = p * s - 0.0008174657123163342f;
    p = p * s + 0.005203758832067251f;
    p = p * s - 0.02686045877635479f;
    p = p * s + 0.11283713579177856f;
    p = p * s - 0.37612634897232056f;
    p = p * s + 0.128379167f;
    const vf near = p * v + v, size = magnitude(v), held = min(splat(4.0f), size);
    const TailRatio tail = tail_ratio(held * 1.41421356f);
    const vf e = exponential_of<false>(-(held * held)).normal_value();
    const vf far = with_sign(1.0f - quotient(e * tail.over * 2.0f, tail.under).value(), v);
    return size < 0.9f ? near : far;
}

// e^(-t^2 / 2) for 0 <= t <= 20. The square is exact: what it rounds off is of account where it is large.
inline Exponential bell(vf t) {
    const vf s = t * t;
    return exponential_of<true>(max(splat(-150.0f), s * -0.5f), product_error(t, t, s) * -0.5f);
}

__attribute__((noinline)) vf gelu_of_low(vf v, vf elsewhere) {
    const vf end = splat(-15.0f), held = max(end, v), t = -held;
    const TailRatio tail = tail_ratio(t);
    const vf low = v < end ? v * 0.0f : bell(t).times(held * quotient(tail.over, tail.under).value());
    return v < -13.0f ? low : elsewhere;
}
// v times the normal distribution's lower tail; of a positive v, v less v times its upper tail. Near zero v (1/2 + v P(v^2)), minimax on [-1, 1].
// Infinities give NaN.
inline vf gelu(vf v) {
    const vf s = v * v, size = magnitude(v), t = min(splat(20.0f), size), half = splat(0.5f);
    vf p = splat(-7.462881058017956e-06f);
    p = p * s + 0.00011295213334960863f;
    p = p * s - 0.00118578493129462f;
    p = p * s + 0.009973078034818172f;
    p = p * s - 0.06649031490087509f;
    const vf first = splat(0.3989422917366028f), others = p * s - 1.13351702e-8f;
    p = first + others;
    const vf whole = v * p + half;
    const vf near = Quotient{whole, minus_product(half - whole, -v, p) + v * (others - (p - first))}.times(v);
    const TailRatio tail = tail_ratio(t);
    const vf e = bell(t).value(), over = e * tail.over;
    const vf part = quotient(over, tail.under, product_error(e, tail.over, over)).times(v);
    const vf usual = size < 1.0f ? near : v < 0.0f ? part : v - part;
    return __builtin_expect(any(v < -13.0f), 0) ? gelu_of_low(v, usual) : usual;
}

// sqrt(8 / pi) (|v| + 0.044715 |v|^3), and what rounding took from it: gelu's tanh form is v times the sigmoid of this.
struct Bent {
    vf high, low;
};
inline Bent bend(vf t) {
    const vf s = t * t, s_low = product_error(t, t, s);
    const vf c = splat(0.0713548139f), cs = c * s, one = splat(1.59576917f);
    const vf w = one + cs, back = w - one;
    // Two-sum, and the constants' own rounding.
    const vf w_low = ((one - (w - back)) + (cs - back)) + (product_error(c, s, cs) + c * s_low + (s * 2.399e-9f - 4.534e-8f));
    const vf high = t * w;
    return {high, product_error(t, w, high) + t * w_low};
}

__attribute__((noinline)) vf gelu_tanh_of_low(vf v, vf elsewhere) {
    const vf end = splat(-12.0f), held = max(end, v);
    const Bent x = bend(-held);
    const vf low = v < end ? v * 0.0f : exponential_of<true>(-x.high, -x.low).times(held);
    return v < -9.9f ? low : elsewhere;
}
inline vf gelu_tanh(vf v) {
    const Bent x = bend(min(splat(12.0f), magnitude(v)));
    const vf e = exponential_of<false>(max(splat(LEAST_EXPONENT), -x.high), -x.low).value();
    const vf usual = quotient_of_sum(v < 0.0f ? e : splat(1.0f), e).times(v);
    return __builtin_expect(any(v < -9.9f), 0) ? gelu_tanh_of_low(v, usual) : usual;
}
