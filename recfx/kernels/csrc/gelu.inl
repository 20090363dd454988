// GELU and its approximation by tanh. As in functions.inl: to two units in the last place, or torch's own error, over all of float32.
#pragma once
#include "functions.inl"

namespace recfx {
namespace {

// t times the upper tail of the normal distribution from t on, for 0 <= t <= 15: e^(-t^2 / 2) t B / (c t B + A), within 2e-8. The rounding error of
// t B is in the dividend and the divisor, and cancels where t B is large. The rounding error of the square matters where it is large. `more` is
// zero, or NaN for a result that is NaN. Low: whether the result may be denormal.
template <bool Low>
inline vf tail_of(vf t, vf more) {
    vf b = splat(0.00971608832214615f);
    b = b * t + 0.09124008290355312f;
    b = b * t + 0.3959794279721586f;
    b = b * t + 0.9162591566322077f;
    vf a = splat(0.024270704567034104f);
    a = a * t + 0.2305952531541176f;
    a = a * t + 0.921654727359412f;
    // The square and its rounding error: where products and sums are not fused, by the square of the upper bits.
    const vf upper = FUSED ? t : as_float(as_int(t) & ~0xfff), s = upper * upper + more;
    const vf low = FUSED ? product_error(t, t, s) : (t - upper) * (t + upper);
    const PowerOfTwo power(s * (-0.5f * LOG2_E));
    // Of t^2 = -2 n ln(2) + r.
    const vf r = (s + power.n * (2.0f * LN2)) + (low - power.n * (2.0f * LN2_EXCESS));
    vf q = splat(2.1592953999061137e-05f);
    q = q * r - 0.00026152157806791365f;
    q = q * r + 0.0026042675599455833f;
    q = q * r - 0.020833151414990425f;
    q = q * r + 0.1249999850988388f;
    q = q * r - 0.5f;
    const vf tb = (b * t) * t + t;
    const vf most = tb * 2.506633758544922f, others = a * t, x = most + others, sum = x + 2.0f;
    vf lost = x - (sum - 2.0f);
    if constexpr (FUSED) lost = lost + ((others - (x - most)) + product_error(tb, splat(2.506633758544922f), most));
    // tb / (sum + lost) e^(-r / 2), as an estimate and its remainder.
    const vf inverse = reciprocal_estimate(sum), estimate = tb * inverse, rest = left_of(tb, sum, estimate) - lost * estimate;
    const vf less = r * q, part = estimate + ((inverse * less + inverse) * rest + estimate * less);
    return Low ? power.times_low(part) : power.times(part);
}

[[maybe_unused]] __attribute__((noinline)) vf gelu_of_low(vf v, vf elsewhere) {
    const vf end = splat(-15.0f);
    const vf low = v < end ? v * 0.0f : -tail_of<true>(-max(end, v), vf{});
    return v < -13.0f ? low : elsewhere;
}
// v times the normal distribution's lower tail; for a positive v, v minus v times its upper tail. Infinities give NaN.
inline vf gelu(vf v) {
#if RECFX_LANES == 16
    const vf tail = tail_of<true>(min(splat(15.0f), magnitude(v)), vf{});
    return mended<BOTH_ARE_NAN>(max(splat(-0.0f), v) - tail, v);
#else
    const vf usual = max(splat(-0.0f), v) - tail_of<false>(min(splat(13.0f), magnitude(v)), v - v);
    return __builtin_expect(any(v < -13.0f), 0) ? gelu_of_low(v, usual) : usual;
#endif
}

// sqrt(8 / pi) (v + 0.044715 v^3), and its rounding error: gelu's tanh form is v times the sigmoid of this.
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

[[maybe_unused]] __attribute__((noinline)) vf gelu_tanh_of_low(vf v, vf elsewhere) {
    const vf end = splat(-12.0f), held = max(end, v);
    const Bent x = bend(held);
    const vf low = v < end ? v * 0.0f : times_exponential_of_low(held, x.high, x.low);
    return v < -9.9f ? low : elsewhere;
}
inline vf gelu_tanh(vf v) {
#if RECFX_LANES == 16
    const vf held = max(splat(-12.0f), v);
    const Bent x = bend(min(splat(8.0f), held));
    return mended<LOWER_IS_NAN>(times_logistic(held, x.high, x.low), v);
#else
    const Bent x = bend(max(splat(-9.9f), min(splat(8.0f), v)));
    const vf usual = v / one_plus_falling(x.high, x.low);
    return __builtin_expect(any(v < -9.9f), 0) ? gelu_tanh_of_low(v, usual) : usual;
#endif
}

}  // namespace
}  // namespace recfx
