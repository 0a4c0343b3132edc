/* What the kernels for AVX2 and AVX-VNNI share: how sums become activations. */
#ifndef DN_KERNELS_AVX2_H
#define DN_KERNELS_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels.h"

enum { LANES = 8 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }

/* ---- requantisation ---- */

typedef struct {
    __m256i multiplier, multiplier_odd, round, round_odd, away, right;
} scale;

INLINE scale scale_at(const dn_requant *r, size_t c) {
    __m256i multiplier = load(r->multiplier + c), right = _mm256_sub_epi32(_mm256_setzero_si256(), load(r->shift + c));
    __m256i half = _mm256_set1_epi64x(1LL << 30), first = r->once ? _mm256_setzero_si256() : half;
    __m256i even = _mm256_and_si256(right, _mm256_set1_epi64x(0xffffffff)), odd = _mm256_srli_epi64(right, 32);
    return (scale){multiplier, _mm256_srli_epi64(multiplier, 32), _mm256_add_epi64(first, _mm256_sllv_epi64(half, even)),
                   _mm256_add_epi64(first, _mm256_sllv_epi64(half, odd)), _mm256_set1_epi64x(r->once ? 0 : 1LL << 31),
                   _mm256_sub_epi32(right, _mm256_set1_epi32(1))};
}

INLINE __m256i rounded(__m256i product, __m256i round, __m256i away) {
    __m256i negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), product);
    return _mm256_sub_epi64(_mm256_add_epi64(product, round), _mm256_and_si256(negative, away));
}

INLINE __m256i high_halves(__m256i even, __m256i odd) {
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

/* See dn_requant; the shift by 32 is the choice of the high halves. */
INLINE __m256i requantise(__m256i sum, const scale *s) {
    __m256i even = rounded(_mm256_mul_epi32(sum, s->multiplier), s->round, s->away);
    __m256i odd = rounded(_mm256_mul_epi32(_mm256_srli_epi64(sum, 32), s->multiplier_odd), s->round_odd, s->away);
    return _mm256_srav_epi32(high_halves(even, odd), s->right);
}

/* See dn_quick. */
typedef struct {
    __m256 scale, nudge;
} quick;

typedef enum { EXACT, RECTIFIED, SIGNED } mode;

INLINE mode mode_at(const dn_requant *r, size_t c) {
    if (r->quick == NULL || !r->quick[c / DN_QUICK_LANES].usable) return EXACT;
    return r->rectified ? RECTIFIED : SIGNED;
}

INLINE quick quick_at(const dn_requant *r, size_t c) {
    const dn_quick *q = &r->quick[c / DN_QUICK_LANES];
    return (quick){_mm256_loadu_ps(q->scale + c % DN_QUICK_LANES), _mm256_loadu_ps(q->nudge + c % DN_QUICK_LANES)};
}

INLINE __m256i requantise_rectified(__m256i sum, const quick *q) {
    return _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), q->scale, q->nudge));
}

INLINE __m256i requantise_signed(__m256i sum, const quick *q) {
    __m256 sign = _mm256_and_ps(_mm256_castsi256_ps(sum), _mm256_set1_ps(-0.0f));
    return _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), q->scale, _mm256_or_ps(q->nudge, sign)));
}

/* All that eight channels want. */
typedef struct {
    mode how;
    scale exact;
    quick quick;
    __m256i centre;
} way;

INLINE way way_at(const dn_requant *r, size_t c) {
    way w = {.how = mode_at(r, c)};
    if (w.how == EXACT) {
        w.exact = scale_at(r, c);
        w.centre = _mm256_set1_epi32(r->centre);
    } else {
        w.quick = quick_at(r, c);
    }
    return w;
}

/* Less the layer's centre. */
INLINE void requantise_all(__m256i *sum, const int count, const int step, const way *w) {
    if (w->how == RECTIFIED) {
        UNROLL
        for (int i = 0; i < count; i++) sum[i * step] = requantise_rectified(sum[i * step], &w->quick);
    } else if (w->how == SIGNED) {
        UNROLL
        for (int i = 0; i < count; i++) sum[i * step] = requantise_signed(sum[i * step], &w->quick);
    } else {
        UNROLL
        for (int i = 0; i < count; i++) sum[i * step] = _mm256_sub_epi32(requantise(sum[i * step], &w->exact), w->centre);
    }
}

/* `plain`: no limits but those of a byte, and half of its range to add. */
typedef struct {
    __m256i zero, min, max;
    bool plain;
} finish;

INLINE finish finish_of(int32_t zero, int32_t min, int32_t max) {
    return (finish){_mm256_set1_epi16((short)zero), _mm256_set1_epi8((char)min), _mm256_set1_epi8((char)max),
                    zero == 128 && min == 0 && max == 255};
}

INLINE finish finish_at(const dn_requant *r) { return finish_of(r->zero_point + r->centre, r->min, r->max); }

/* 32 requantised values to 32 bytes: four of each vector in turn. */
INLINE __m256i narrow_lanes(__m256i a, __m256i b, __m256i c, __m256i d, const finish *f) {
    __m256i low = _mm256_packs_epi32(a, b), high = _mm256_packs_epi32(c, d);
    if (f->plain) return _mm256_xor_si256(_mm256_packs_epi16(low, high), _mm256_set1_epi8((char)0x80));
    __m256i bytes = _mm256_packus_epi16(_mm256_adds_epi16(low, f->zero), _mm256_adds_epi16(high, f->zero));
    return _mm256_min_epu8(_mm256_max_epu8(bytes, f->min), f->max);
}

/* The same, in order. */
INLINE __m256i narrow(__m256i a, __m256i b, __m256i c, __m256i d, const finish *f) {
    return _mm256_permutevar8x32_epi32(narrow_lanes(a, b, c, d, f), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* The first `count` bytes, up to 24. */
INLINE void store(dn_act *out, __m256i row, size_t count) {
    __m128i low = _mm256_castsi256_si128(row), high = _mm256_extracti128_si256(row, 1);
    if (count >= 24) {
        _mm_storeu_si128((__m128i *)(void *)out, low);
        _mm_storel_epi64((__m128i *)(void *)(out + 16), high);
    } else if (count == 16) {
        _mm_storeu_si128((__m128i *)(void *)out, low);
    } else if (count == 8) {
        _mm_storel_epi64((__m128i *)(void *)out, low);
    } else {
        uint8_t bytes[32];
        _mm256_storeu_si256((__m256i *)(void *)bytes, row);
        memcpy(out, bytes, count);
    }
}

#endif
