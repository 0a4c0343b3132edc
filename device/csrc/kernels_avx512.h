/* What the kernels for AVX-512 with VNNI and VBMI share: unsigned activations times signed weights, four products to a lane,
 * and how sums become activations. */
#ifndef DN_KERNELS_AVX512_H
#define DN_KERNELS_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels.h"

enum { LANES = 16, GROUP = 4 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

INLINE __m512i load(const void *p) { return _mm512_loadu_si512(p); }

/* sum + x·w, as an instruction: GCC 12 moves the sums of its intrinsic about and runs out of registers. */
INLINE __m512i dot(__m512i sum, __m512i x, __m512i w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "vm"(w));
    return sum;
}

/* ---- requantisation ---- */

/* The lanes' multipliers and roundings, apart for even and odd lanes: their products have 64 bits. */
typedef struct {
    __m512i multiplier, multiplier_odd, round, round_odd, away, right;
} scale;

INLINE scale scale_of(__m512i multiplier, __m512i shift, bool once) {
    __m512i right = _mm512_sub_epi32(_mm512_setzero_si512(), shift), half = _mm512_set1_epi64(1LL << 30);
    __m512i even = _mm512_and_si512(right, _mm512_set1_epi64(0xffffffff)), odd = _mm512_srli_epi64(right, 32);
    __m512i first = once ? _mm512_setzero_si512() : half;
    return (scale){multiplier, _mm512_srli_epi64(multiplier, 32), _mm512_add_epi64(first, _mm512_sllv_epi64(half, even)),
                   _mm512_add_epi64(first, _mm512_sllv_epi64(half, odd)),
                   once ? _mm512_setzero_si512() : _mm512_set1_epi64(1LL << 31),
                   _mm512_sub_epi32(right, _mm512_set1_epi32(1))};
}

INLINE scale scale_at(const dn_requant *r, size_t c) {
    return scale_of(load(r->multiplier + c), load(r->shift + c), r->once);
}

INLINE __m512i rounded(__m512i product, __m512i round, __m512i away) {
    __mmask8 negative = _mm512_movepi64_mask(product);
    __m512i sum = _mm512_add_epi64(product, round);
    return _mm512_mask_sub_epi64(sum, negative, sum, away);
}

/* See dn_requant; the shift by 32 is the choice of the high halves. */
INLINE __m512i requantise(__m512i sum, const scale *s) {
    __m512i even = rounded(_mm512_mul_epi32(sum, s->multiplier), s->round, s->away);
    __m512i odd = rounded(_mm512_mul_epi32(_mm512_srli_epi64(sum, 32), s->multiplier_odd), s->round_odd, s->away);
    return _mm512_srav_epi32(_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB), s->right);
}

/* See dn_quick. */
typedef struct {
    __m512 scale;
    __m512i nudge;
} quick;

INLINE quick quick_at(const dn_quick *q) { return (quick){_mm512_loadu_ps(q->scale), load(q->nudge)}; }

INLINE __m512i requantise_rectified(__m512i sum, const quick *q) {
    return _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), q->scale, _mm512_castsi512_ps(q->nudge)));
}

INLINE __m512i requantise_signed(__m512i sum, const quick *q) {
    __m512i nudge = _mm512_ternarylogic_epi32(sum, _mm512_set1_epi32(INT32_MIN), q->nudge, 0xea); /* (a & b) | c */
    return _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), q->scale, _mm512_castsi512_ps(nudge)));
}

typedef enum { EXACT, RECTIFIED, SIGNED } mode;

INLINE mode mode_at(const dn_requant *r, size_t c) {
    if (r->quick == NULL || !r->quick[c / LANES].usable) return EXACT;
    return r->rectified ? RECTIFIED : SIGNED;
}

/* Results come less the layer's centre. `plain`: no limits but those of a byte, and half of its range to add. */
typedef struct {
    __m512i zero, min, max, order;
    bool plain;
} finish;

INLINE finish finish_of(int32_t zero, int32_t min, int32_t max) {
    return (finish){_mm512_set1_epi16((short)zero), _mm512_set1_epi8((char)min), _mm512_set1_epi8((char)max),
                    _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                    zero == 128 && min == 0 && max == 255};
}

INLINE finish finish_at(const dn_requant *r) { return finish_of(r->zero_point + r->centre, r->min, r->max); }

/* 64 requantised values to 64 bytes: four of each vector in turn. */
INLINE __m512i narrow_lanes(__m512i a, __m512i b, __m512i c, __m512i d, const finish *f) {
    __m512i low = _mm512_packs_epi32(a, b), high = _mm512_packs_epi32(c, d);
    if (f->plain) return _mm512_xor_si512(_mm512_packs_epi16(low, high), _mm512_set1_epi8((char)0x80));
    __m512i bytes = _mm512_packus_epi16(_mm512_adds_epi16(low, f->zero), _mm512_adds_epi16(high, f->zero));
    return _mm512_min_epu8(_mm512_max_epu8(bytes, f->min), f->max);
}

/* The same, in order. */
INLINE __m512i narrow(__m512i a, __m512i b, __m512i c, __m512i d, const finish *f) {
    return _mm512_permutexvar_epi32(f->order, narrow_lanes(a, b, c, d, f));
}

INLINE void store_row(dn_act *out, int width, __m512i row) {
    if (width == 64) _mm512_storeu_si512(out, row);
    else _mm512_mask_storeu_epi8(out, width > 64 ? ~0ULL : (1ULL << width) - 1, row);
}

INLINE void store_two(dn_act *out, size_t ldo, int width, __m512i two) {
    __m256i first = _mm512_castsi512_si256(two), second = _mm512_extracti64x4_epi64(two, 1);
    if (width == 32) {
        _mm256_storeu_si256((__m256i *)(void *)out, first);
        _mm256_storeu_si256((__m256i *)(void *)(out + ldo), second);
        return;
    }
    __mmask32 mask = (1u << width) - 1;
    _mm256_mask_storeu_epi8(out, mask, first);
    _mm256_mask_storeu_epi8(out + ldo, mask, second);
}

INLINE void store_four(dn_act *out, size_t ldo, int width, __m512i four) {
    __m128i row[4] = {_mm512_castsi512_si128(four), _mm512_extracti32x4_epi32(four, 1),
                      _mm512_extracti32x4_epi32(four, 2), _mm512_extracti32x4_epi32(four, 3)};
    __mmask16 mask = width >= LANES ? 0xffff : (__mmask16)((1u << width) - 1);
    for (int i = 0; i < 4; i++) {
        if (width >= LANES) _mm_storeu_si128((__m128i *)(void *)(out + (size_t)i * ldo), row[i]);
        else _mm_mask_storeu_epi8(out + (size_t)i * ldo, mask, row[i]);
    }
}

/* depthwise_avx512vnni.c */
size_t dn_depthwise_bytes__avx512vnni(int32_t channels, int32_t k_h, int32_t k_w);
void dn_pack_depthwise__avx512vnni(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed);
void dn_u8_depthwise__avx512vnni(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out);
extern const dn_window_kernels dn_u8_window__avx512vnni;

/* elements_avx512vnni.c */
void dn_u8_add__avx512vnni(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out);
void dn_u8_mul__avx512vnni(const dn_mul *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out);
void dn_u8_mean__avx512vnni(const dn_mean *p, const dn_act *a, size_t count, dn_act *out);
void dn_u8_lut__avx512vnni(const uint8_t table[256], const dn_act *a, size_t count, dn_act *out);

#endif
