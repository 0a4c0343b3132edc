/* ADD, MUL, MEAN and tables for AVX-512. */
#include "kernels_avx512.h"

/* dn_requantise by one multiplier and any shift, for sums of less than 30 - shift bits: the high half of twice the
 * product, rounded, then a shift that rounds ties away from zero. */
typedef struct {
    __m512i multiplier, half, away;
    __m128i left, right;
} uniform;

INLINE uniform uniform_of(int32_t multiplier, int32_t shift) {
    int32_t right = shift > 0 ? 0 : -shift;
    return (uniform){_mm512_set1_epi32(multiplier), _mm512_set1_epi32(right > 0 ? (int32_t)(1u << (right - 1)) : 0),
                     _mm512_set1_epi32(right > 0 ? -1 : 0), _mm_cvtsi32_si128((shift > 0 ? shift : 0) + 1),
                     _mm_cvtsi32_si128(right)};
}

INLINE __m512i requantise_uniform(__m512i sum, const uniform *u) {
    const __m512i half = _mm512_set1_epi64(1LL << 31);
    __m512i twice = _mm512_sll_epi32(sum, u->left);
    __m512i even = _mm512_add_epi64(_mm512_mul_epi32(twice, u->multiplier), half);
    __m512i odd = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(twice, 32), u->multiplier), half);
    __m512i high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
    __m512i sign = _mm512_and_si512(_mm512_srai_epi32(high, 31), u->away);
    return _mm512_sra_epi32(_mm512_add_epi32(_mm512_add_epi32(high, u->half), sign), u->right);
}

INLINE __m512i centred(const dn_act *a, __mmask16 mask, __m512i zero) {
    return _mm512_sub_epi32(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, a)), zero);
}

INLINE void store16(dn_act *out, __mmask16 mask, __m512i q, const finish *f) {
    const __m512i none = _mm512_setzero_si512();
    _mm_mask_storeu_epi8(out, mask, _mm512_castsi512_si128(narrow(q, none, none, none, f)));
}

/* ADD in single precision, q = floor(a * by_a + b * by_b + constant) with FRACTION bits behind the point, and how near a
 * whole number that may be a step too far; see dn_sketch_add. */
INLINE __m512i sketched(const dn_act *a, const dn_act *b, const dn_sketch *s) {
    __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)a)));
    __m512 y = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)b)));
    __m512 part = _mm512_fmadd_ps(y, _mm512_set1_ps(s->by_b), _mm512_set1_ps(s->constant));
    return _mm512_cvtps_epi32(_mm512_fmadd_ps(x, _mm512_set1_ps(s->by_a), part));
}

/* 64 sums, or false where one is too near. */
INLINE bool add_quickly(const dn_act *a, const dn_act *b, const dn_sketch *s, const finish *f, dn_act *out) {
    const __m512i near = _mm512_set1_epi32(s->near);
    __m512i q[4];
    __mmask16 doubt = 0;
    UNROLL
    for (int i = 0; i < 4; i++) {
        q[i] = sketched(a + i * LANES, b + i * LANES, s);
        doubt |= _mm512_testn_epi32_mask(q[i], near);
        q[i] = _mm512_srai_epi32(q[i], DN_SKETCH_BITS);
    }
    if (doubt != 0) return false;
    _mm512_storeu_si512(out, narrow(q[0], q[1], q[2], q[3], f));
    return true;
}

void dn_u8_add__avx512vnni(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    uniform s_a = uniform_of(p->multiplier_a, p->shift_a), s_b = uniform_of(p->multiplier_b, p->shift_b);
    uniform s_out = uniform_of(p->multiplier_out, p->shift_out);
    __m512i zero_a = _mm512_set1_epi32(p->zero_a), zero_b = _mm512_set1_epi32(p->zero_b);
    finish f = finish_of(p->zero_out, p->min, p->max);
    dn_sketch sketch = dn_sketch_add(p);
    for (size_t i = 0; i < count;) {
        if (sketch.near != 0 && count - i >= 64 && add_quickly(a + i, b + i, &sketch, &f, out + i)) {
            i += 64;
            continue;
        }
        size_t end = count - i >= 64 ? i + 64 : count;
        for (; i < end; i += LANES) {
            __mmask16 mask = count - i >= LANES ? 0xffff : (__mmask16)((1u << (count - i)) - 1);
            __m512i x = requantise_uniform(_mm512_slli_epi32(centred(a + i, mask, zero_a), 20), &s_a);
            __m512i y = requantise_uniform(_mm512_slli_epi32(centred(b + i, mask, zero_b), 20), &s_b);
            __m512i sum = p->sign_b < 0 ? _mm512_sub_epi32(x, y) : _mm512_add_epi32(x, y);
            store16(out + i, mask, requantise_uniform(sum, &s_out), &f);
        }
    }
}

void dn_u8_mul__avx512vnni(const dn_mul *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    if (p->shift > 13) { /* a product of 17 bits would not survive */
        dn_kernels_scalar.mul(p, a, b, count, out);
        return;
    }
    uniform s = uniform_of(p->multiplier, p->shift);
    __m512i zero_a = _mm512_set1_epi32(p->zero_a), zero_b = _mm512_set1_epi32(p->zero_b);
    finish f = finish_of(p->zero_out, p->min, p->max);
    for (size_t i = 0; i < count; i += LANES) {
        __mmask16 mask = count - i >= LANES ? 0xffff : (__mmask16)((1u << (count - i)) - 1);
        __m512i product = _mm512_mullo_epi32(centred(a + i, mask, zero_a), centred(b + i, mask, zero_b));
        store16(out + i, mask, requantise_uniform(product, &s), &f);
    }
}

/* Sums of 64 channels, four of every 16 to a vector: vector v holds channels 4 v .. 4 v + 3 of each. */
INLINE void sum_channels(const dn_mean *p, const dn_act *a, __mmask64 mask, __m512i sum[4]) {
    const __m512i none = _mm512_setzero_si512();
    for (size_t left = p->pixels; left > 0;) {
        size_t pixels = left < DN_PIXELS_IN_16_BITS ? left : DN_PIXELS_IN_16_BITS;
        __m512i low = none, high = none;
        for (size_t i = 0; i < pixels; i++, a += p->stride) {
            __m512i x = _mm512_maskz_loadu_epi8(mask, a);
            low = _mm512_add_epi16(low, _mm512_unpacklo_epi8(x, none));
            high = _mm512_add_epi16(high, _mm512_unpackhi_epi8(x, none));
        }
        sum[0] = _mm512_add_epi32(sum[0], _mm512_unpacklo_epi16(low, none));
        sum[1] = _mm512_add_epi32(sum[1], _mm512_unpackhi_epi16(low, none));
        sum[2] = _mm512_add_epi32(sum[2], _mm512_unpacklo_epi16(high, none));
        sum[3] = _mm512_add_epi32(sum[3], _mm512_unpackhi_epi16(high, none));
        left -= pixels;
    }
}

void dn_u8_mean__avx512vnni(const dn_mean *p, const dn_act *a, size_t count, dn_act *out) {
    uniform s = uniform_of(p->multiplier, p->shift);
    finish f = finish_of(p->zero_out, DN_ACT_MIN, DN_ACT_MAX);
    for (size_t c = 0; c < count; c += 64) {
        __mmask64 mask = count - c >= 64 ? ~0ULL : (1ULL << (count - c)) - 1;
        __m512i base = _mm512_set1_epi32(p->base), sum[4] = {base, base, base, base};
        sum_channels(p, a + c, mask, sum);
        for (int v = 0; v < 4; v++) sum[v] = requantise_uniform(sum[v], &s);
        _mm512_mask_storeu_epi8(out + c, mask, narrow_lanes(sum[0], sum[1], sum[2], sum[3], &f));
    }
}

void dn_u8_lut__avx512vnni(const uint8_t table[256], const dn_act *a, size_t count, dn_act *out) {
    __m512i t0 = load(table), t1 = load(table + 64), t2 = load(table + 128), t3 = load(table + 192);
    for (size_t i = 0; i < count; i += 64) {
        __mmask64 mask = count - i >= 64 ? ~0ULL : (1ULL << (count - i)) - 1;
        __m512i x = _mm512_maskz_loadu_epi8(mask, a + i);
        __m512i low = _mm512_permutex2var_epi8(t0, x, t1), high = _mm512_permutex2var_epi8(t2, x, t3);
        _mm512_mask_storeu_epi8(out + i, mask, _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high));
    }
}
