/* AVX2: products of 16 bits, pairs of them summed in 32, exactly. */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels.h"

enum { LANES = 8, PAIR = 2, TALL = 4, WIDE = 3, MAX_K = 4096 };

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

typedef struct {
    __m256i zero, min, max;
} finish;

INLINE finish finish_of(int32_t zero, int32_t min, int32_t max) {
    return (finish){_mm256_set1_epi16((short)zero), _mm256_set1_epi8((char)min), _mm256_set1_epi8((char)max)};
}

/* 32 requantised values to 32 bytes, in order. */
INLINE __m256i narrow(__m256i a, __m256i b, __m256i c, __m256i d, const finish *f) {
    __m256i low = _mm256_adds_epi16(_mm256_packs_epi32(a, b), f->zero);
    __m256i high = _mm256_adds_epi16(_mm256_packs_epi32(c, d), f->zero);
    __m256i bytes = _mm256_min_epu8(_mm256_max_epu8(_mm256_packus_epi16(low, high), f->min), f->max);
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
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

/* ---- matrix product ---- */

/* a: uint8 [rows][lda] → uint16 [rows][MAX_K + PAIR], an odd k rounded up with zero. */
static void widen(const dn_act *a, size_t lda, int rows, size_t k, uint16_t to[][MAX_K + PAIR]) {
    for (int m = 0; m < rows; m++) {
        for (size_t i = 0; i < k; i++) to[m][i] = a[(size_t)m * lda + i];
        to[m][k] = 0;
    }
}

INLINE __m256i two_values(const uint16_t *a) {
    int32_t two;
    memcpy(&two, a, sizeof two);
    return _mm256_set1_epi32(two);
}

/* M rows, V vectors of 8 columns; adds the products of `pairs` pairs, whose weights begin at w, to sum. */
INLINE void multiply(const int M, const int V, const uint16_t a[][MAX_K + PAIR], const int8_t *w, size_t block, size_t pairs,
                     __m256i sum[TALL][WIDE]) {
    __m256i s[TALL][WIDE];
    UNROLL
    for (int m = 0; m < M; m++)
        UNROLL
        for (int v = 0; v < V; v++) s[m][v] = sum[m][v];
    for (size_t k = 0; k < pairs; k++, w += LANES * PAIR) {
        __m256i weights[WIDE];
        UNROLL
        for (int v = 0; v < V; v++)
            weights[v] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(w + (size_t)v * block)));
        UNROLL
        for (int m = 0; m < M; m++) {
            __m256i x = two_values(&a[m][PAIR * k]);
            UNROLL
            for (int v = 0; v < V; v++) s[m][v] = _mm256_add_epi32(s[m][v], _mm256_madd_epi16(x, weights[v]));
        }
    }
    UNROLL
    for (int m = 0; m < M; m++)
        UNROLL
        for (int v = 0; v < V; v++) sum[m][v] = s[m][v];
}

/* `wide` holds the rows already when k is at most MAX_K. */
INLINE void tile(const int M, const int V, const dn_gemm *g, size_t column, const dn_act *a, size_t lda,
                 uint16_t wide[][MAX_K + PAIR], dn_act *out, size_t ldo, const finish *f) {
    const dn_requant *r = &g->requant;
    size_t k = (size_t)g->k, pairs = (k + PAIR - 1) / PAIR, block = pairs * LANES * PAIR;
    const int8_t *w = g->packed + column / LANES * block;
    __m256i sum[TALL][WIDE];
    UNROLL
    for (int m = 0; m < M; m++)
        UNROLL
        for (int v = 0; v < V; v++) sum[m][v] = load(r->bias + column + (size_t)v * LANES);
    for (size_t from = 0; from < k; from += MAX_K) {
        size_t part = k - from < MAX_K ? k - from : MAX_K;
        if (k > MAX_K) widen(a + from, lda, M, part, wide);
        multiply(M, V, (const uint16_t(*)[MAX_K + PAIR])wide, w + from * LANES, block, (part + 1) / PAIR, sum);
    }
    UNROLL
    for (int v = 0; v < V; v++) {
        scale s = scale_at(r, column + (size_t)v * LANES);
        UNROLL
        for (int m = 0; m < M; m++) sum[m][v] = requantise(sum[m][v], &s);
    }
    const __m256i none = _mm256_setzero_si256();
    size_t left = (size_t)g->n - column, width = left < (size_t)(V * LANES) ? left : (size_t)(V * LANES);
    UNROLL
    for (int m = 0; m < M; m++)
        store(out + (size_t)m * ldo + column,
              narrow(sum[m][0], V > 1 ? sum[m][1] : none, V > 2 ? sum[m][2] : none, none, f), width);
}

INLINE void row_tile(const int M, const dn_gemm *g, const dn_act *a, size_t lda, uint16_t wide[][MAX_K + PAIR], dn_act *out,
                     size_t ldo, const finish *f) {
    if (g->k <= MAX_K) widen(a, lda, M, (size_t)g->k, wide);
    int vectors = (g->n + LANES - 1) / LANES, at = 0;
    for (; at + WIDE <= vectors; at += WIDE) tile(M, 3, g, (size_t)at * LANES, a, lda, wide, out, ldo, f);
    if (vectors - at == 2) tile(M, 2, g, (size_t)at * LANES, a, lda, wide, out, ldo, f);
    if (vectors - at == 1) tile(M, 1, g, (size_t)at * LANES, a, lda, wide, out, ldo, f);
}

static void dn_u8_gemm__avx2(const dn_gemm *g, const dn_act *a, size_t lda, int rows, dn_act *out, size_t ldo) {
    uint16_t wide[TALL][MAX_K + PAIR];
    finish f = finish_of(g->requant.zero_point, g->requant.min, g->requant.max);
    int row = 0;
    for (; row + TALL <= rows; row += TALL)
        row_tile(TALL, g, a + (size_t)row * lda, lda, wide, out + (size_t)row * ldo, ldo, &f);
    for (; row < rows; row++) row_tile(1, g, a + (size_t)row * lda, lda, wide, out + (size_t)row * ldo, ldo, &f);
}

/* ---- depthwise: packed int16 [channels / 16][ceil(taps / 2)][16][2] ---- */

enum { BLOCK = 16 };

static size_t depthwise_bytes(int32_t channels, int32_t k_h, int32_t k_w) {
    return ((size_t)channels + BLOCK - 1) / BLOCK * (((size_t)k_h * (size_t)k_w + 1) / 2) * BLOCK * 2 * sizeof(int16_t);
}

static void pack_depthwise(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed) {
    size_t taps = (size_t)k_h * (size_t)k_w, pairs = (taps + 1) / 2;
    memset(packed, 0, depthwise_bytes(channels, k_h, k_w));
    for (size_t t = 0; t < taps; t++) {
        for (size_t c = 0; c < (size_t)channels; c++) {
            int16_t wide = w[t * (size_t)channels + c];
            memcpy(packed + sizeof wide * (((c / BLOCK * pairs + t / 2) * BLOCK + c % BLOCK) * 2 + t % 2), &wide, sizeof wide);
        }
    }
}

INLINE __m128i bytes16(const dn_act *a) { return _mm_loadu_si128((const __m128i *)(const void *)a); }

/* 16 channels of P pixels. taps: where each tap of pixel 0 lies; a last odd tap is there twice. */
INLINE void depthwise_pixels(const int P, const dn_depthwise *d, const dn_act *const *taps, size_t at, size_t c, dn_act *out,
                             const scale *low_scale, const scale *high_scale, const finish *f) {
    size_t channels = (size_t)d->channels, pixel = (size_t)d->stride_w * channels;
    int pairs = (d->k_h * d->k_w + 1) / 2;
    const int8_t *w = d->packed + c / BLOCK * (size_t)pairs * BLOCK * 4;
    __m256i low[2], high[2];
    UNROLL
    for (int p = 0; p < P; p++) {
        low[p] = load(d->requant.bias + c);
        high[p] = load(d->requant.bias + c + LANES);
    }
    for (int t = 0; t < pairs; t++, w += BLOCK * 4) {
        __m256i w_low = load(w), w_high = load(w + 32);
        UNROLL
        for (int p = 0; p < P; p++) {
            __m128i x = bytes16(taps[2 * t] + at + (size_t)p * pixel), y = bytes16(taps[2 * t + 1] + at + (size_t)p * pixel);
            __m256i first = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x, y)), second = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(x, y));
            low[p] = _mm256_add_epi32(low[p], _mm256_madd_epi16(first, w_low));
            high[p] = _mm256_add_epi32(high[p], _mm256_madd_epi16(second, w_high));
        }
    }
    const __m256i none = _mm256_setzero_si256();
    UNROLL
    for (int p = 0; p < P; p++) {
        __m256i row = narrow(requantise(low[p], low_scale), requantise(high[p], high_scale), none, none, f);
        store(out + (size_t)p * channels, row, channels - c < BLOCK ? channels - c : BLOCK);
    }
}

static void dn_u8_depthwise__avx2(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    const dn_act *taps[DN_MAX_TAPS + 1];
    int count = d->k_h * d->k_w;
    size_t channels = (size_t)d->channels, tap = (size_t)d->dil_w * channels;
    for (int t = 0; t < count; t++) taps[t] = rows[t / d->k_w] + (size_t)(t % d->k_w) * tap;
    taps[count] = taps[count - 1];
    finish f = finish_of(d->requant.zero_point, d->requant.min, d->requant.max);
    for (size_t c = 0; c < channels; c += BLOCK) {
        scale low = scale_at(&d->requant, c), high = scale_at(&d->requant, c + LANES);
        int x = 0;
        for (; x + 2 <= pixels; x += 2)
            depthwise_pixels(2, d, taps, (size_t)(x * d->stride_w) * channels + c, c, out + (size_t)x * channels + c, &low,
                             &high, &f);
        if (x < pixels)
            depthwise_pixels(1, d, taps, (size_t)(x * d->stride_w) * channels + c, c, out + (size_t)x * channels + c, &low,
                             &high, &f);
    }
}

/* ---- element by element; whole vectors, then the rest through the scalar twin ---- */

/* dn_requantise by one multiplier and a shift of at most 0, for sums of less than 30 bits. */
typedef struct {
    __m256i multiplier, half, away;
    __m128i right;
} uniform;

INLINE uniform uniform_of(int32_t multiplier, int32_t shift) {
    return (uniform){_mm256_set1_epi32(multiplier), _mm256_set1_epi32(shift < 0 ? (int32_t)(1u << (-shift - 1)) : 0),
                     _mm256_set1_epi32(shift < 0 ? -1 : 0), _mm_cvtsi32_si128(-shift)};
}

INLINE __m256i requantise_uniform(__m256i sum, const uniform *u) {
    const __m256i half = _mm256_set1_epi64x(1LL << 31);
    __m256i twice = _mm256_slli_epi32(sum, 1);
    __m256i even = _mm256_add_epi64(_mm256_mul_epi32(twice, u->multiplier), half);
    __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(twice, 32), u->multiplier), half);
    __m256i high = high_halves(even, odd), sign = _mm256_and_si256(_mm256_srai_epi32(high, 31), u->away);
    return _mm256_sra_epi32(_mm256_add_epi32(_mm256_add_epi32(high, u->half), sign), u->right);
}

INLINE __m256i centred(const dn_act *a, __m256i zero) {
    return _mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)a)), zero);
}

static void dn_u8_add__avx2(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    uniform u_a = uniform_of(p->multiplier_a, p->shift_a), u_b = uniform_of(p->multiplier_b, p->shift_b);
    uniform u_out = uniform_of(p->multiplier_out, p->shift_out);
    __m256i zero_a = _mm256_set1_epi32(p->zero_a), zero_b = _mm256_set1_epi32(p->zero_b), none = _mm256_setzero_si256();
    finish f = finish_of(p->zero_out, p->min, p->max);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        __m256i x = requantise_uniform(_mm256_slli_epi32(centred(a + i, zero_a), 20), &u_a);
        __m256i y = requantise_uniform(_mm256_slli_epi32(centred(b + i, zero_b), 20), &u_b);
        __m256i sum = p->sign_b < 0 ? _mm256_sub_epi32(x, y) : _mm256_add_epi32(x, y);
        store(out + i, narrow(requantise_uniform(sum, &u_out), none, none, none, &f), LANES);
    }
    dn_kernels_scalar.add(p, a + i, b + i, count - i, out + i);
}

static void dn_u8_mul__avx2(const dn_mul *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    size_t i = 0;
    if (p->shift <= 0) {
        uniform u = uniform_of(p->multiplier, p->shift);
        __m256i zero_a = _mm256_set1_epi32(p->zero_a), zero_b = _mm256_set1_epi32(p->zero_b), none = _mm256_setzero_si256();
        finish f = finish_of(p->zero_out, p->min, p->max);
        for (; i + LANES <= count; i += LANES) {
            __m256i product = _mm256_mullo_epi32(centred(a + i, zero_a), centred(b + i, zero_b));
            store(out + i, narrow(requantise_uniform(product, &u), none, none, none, &f), LANES);
        }
    }
    dn_kernels_scalar.mul(p, a + i, b + i, count - i, out + i);
}

/* Sixteen tables of sixteen: each looks up what lies in its range, and zeros the rest. */
static void dn_u8_lut__avx2(const uint8_t table[256], const dn_act *a, size_t count, dn_act *out) {
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i x = load(a + i), q = _mm256_setzero_si256();
        for (int k = 0; k < 16; k++) {
            __m256i t = _mm256_broadcastsi128_si256(bytes16(table + 16 * k));
            __m256i inside = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)),
                                               _mm256_set1_epi8((char)k));
            __m256i found = _mm256_shuffle_epi8(t, _mm256_and_si256(x, _mm256_set1_epi8(15)));
            q = _mm256_or_si256(q, _mm256_and_si256(found, inside));
        }
        _mm256_storeu_si256((__m256i *)(void *)(out + i), q);
    }
    dn_kernels_scalar.lut(table, a + i, count - i, out + i);
}

const dn_kernels dn_kernels_avx2 = {
    .name = "avx2",
    .nr = LANES,
    .kr = PAIR,
    .lowest_weight = -128,
    .gemm = dn_u8_gemm__avx2,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = dn_u8_depthwise__avx2,
    .add = dn_u8_add__avx2,
    .mul = dn_u8_mul__avx2,
    .lut = dn_u8_lut__avx2,
};
