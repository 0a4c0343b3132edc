/* AVX-512 with VNNI and VBMI: unsigned activations times signed weights, four products to a lane. */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels.h"

enum { LANES = 16, GROUP = 4, ROW_BLOCK = 96 };

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
    __m512i nudge, exception, delta;
} quick;

INLINE quick quick_at(const dn_quick *q) {
    return (quick){_mm512_loadu_ps(q->scale), load(q->nudge), load(q->exception), load(q->delta)};
}

INLINE __m512i requantise_quick(__m512i sum, const quick *q) {
    __m512i nudge = _mm512_ternarylogic_epi32(sum, _mm512_set1_epi32(INT32_MIN), q->nudge, 0xea); /* (a & b) | c */
    __m512 real = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), q->scale, _mm512_castsi512_ps(nudge));
    __m512i nearest = _mm512_cvtps_epi32(real);
    return _mm512_mask_add_epi32(nearest, _mm512_cmpeq_epi32_mask(sum, q->exception), nearest, q->delta);
}

typedef struct {
    __m512i zero, min, max, order;
} finish;

INLINE finish finish_of(int32_t zero, int32_t min, int32_t max) {
    return (finish){_mm512_set1_epi16((short)zero), _mm512_set1_epi8((char)min), _mm512_set1_epi8((char)max),
                    _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)};
}

/* 64 requantised values to 64 bytes, in order. */
INLINE __m512i narrow(__m512i a, __m512i b, __m512i c, __m512i d, const finish *f) {
    __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), f->zero);
    __m512i high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), f->zero);
    __m512i bytes = _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(low, high), f->min), f->max);
    return _mm512_permutexvar_epi32(f->order, bytes);
}

/* ---- matrix product ---- */

/* A tile of M rows and V vectors of 16 columns keeps its M * V sums in registers of their own, which compilers do for
 * named variables and not for arrays: so the rows are spelt out by macros. `width`: columns to store, at most 16 V. */
#define ROWS_1(X) X(0)
#define ROWS_4(X) X(0) X(1) X(2) X(3)
#define ROWS_6(X) ROWS_4(X) X(4) X(5)
#define ROWS_8(X) ROWS_6(X) X(6) X(7)
#define ROWS_12(X) ROWS_8(X) X(8) X(9) X(10) X(11)
#define PAIRS_4(X) X(0, 1) X(2, 3)
#define PAIRS_12(X) PAIRS_4(X) X(4, 5) X(6, 7) X(8, 9) X(10, 11)
#define FOURS_4(X) X(0, 1, 2, 3)
#define FOURS_12(X) FOURS_4(X) X(4, 5, 6, 7) X(8, 9, 10, 11)

#define SUMS_1(m) __m512i s##m##0 = bias0;
#define SUMS_2(m) SUMS_1(m) __m512i s##m##1 = bias1;
#define SUMS_3(m) SUMS_2(m) __m512i s##m##2 = bias2;
#define SUMS_4(m) SUMS_3(m) __m512i s##m##3 = bias3;

#define STEP(m, v) s##m##v = dot(s##m##v, x##m, w##v);
#define FOUR_OF(m) __m512i x##m = four_bytes(a + (size_t)m * lda + k * GROUP);
#define STEPS_1(m) FOUR_OF(m) STEP(m, 0)
#define STEPS_2(m) STEPS_1(m) STEP(m, 1)
#define STEPS_3(m) STEPS_2(m) STEP(m, 2)
#define STEPS_4(m) STEPS_3(m) STEP(m, 3)

#define BIAS(v) __m512i bias##v = load(r->bias + column + v * LANES);
#define WEIGHTS(v) __m512i w##v = load(w + (size_t)v * block);
#define EACH_1(X) X(0)
#define EACH_2(X) X(0) X(1)
#define EACH_3(X) EACH_2(X) X(2)
#define EACH_4(X) EACH_3(X) X(3)

#define DONE(m, v) s##m##v = requantise(s##m##v, &q);
#define DONE_0(m) DONE(m, 0)
#define DONE_1(m) DONE(m, 1)
#define DONE_2(m) DONE(m, 2)
#define DONE_3(m) DONE(m, 3)
#define QUICK(m, v) s##m##v = requantise_quick(s##m##v, &q);
#define QUICK_0(m) QUICK(m, 0)
#define QUICK_1(m) QUICK(m, 1)
#define QUICK_2(m) QUICK(m, 2)
#define QUICK_3(m) QUICK(m, 3)
#define COLUMN(M, v)                                             \
    if (r->quick != NULL && r->quick[column / LANES + v].usable) { \
        quick q = quick_at(&r->quick[column / LANES + v]);       \
        ROWS_##M(QUICK_##v)                                      \
    } else {                                                     \
        scale q = scale_at(r, column + v * LANES);               \
        ROWS_##M(DONE_##v)                                       \
    }
#define COLUMNS_1(M) COLUMN(M, 0)
#define COLUMNS_2(M) COLUMNS_1(M) COLUMN(M, 1)
#define COLUMNS_3(M) COLUMNS_2(M) COLUMN(M, 2)
#define COLUMNS_4(M) COLUMNS_3(M) COLUMN(M, 3)

#define STORE_1(m) store_row(out + (size_t)m * ldo, width, narrow(s##m##0, none, none, none, &f));
#define STORE_2(m) store_row(out + (size_t)m * ldo, width, narrow(s##m##0, s##m##1, none, none, &f));
#define STORE_3(m) store_row(out + (size_t)m * ldo, width, narrow(s##m##0, s##m##1, s##m##2, none, &f));
#define STORE_4(m) store_row(out + (size_t)m * ldo, width, narrow(s##m##0, s##m##1, s##m##2, s##m##3, &f));
#define STORE_PAIR(m, n) \
    store_two(out + (size_t)m * ldo, ldo, width, narrow(s##m##0, s##m##1, s##n##0, s##n##1, &f));
#define STORE_FOUR(m, n, o, p) \
    store_four(out + (size_t)m * ldo, ldo, width, narrow(s##m##0, s##n##0, s##o##0, s##p##0, &f));

INLINE __m512i four_bytes(const dn_act *a) {
    int32_t four;
    memcpy(&four, a, sizeof four);
    return _mm512_set1_epi32(four);
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

#define TILE(M, V, STORES)                                                                                       \
    static void dn_u8_gemm_##M##x##V##__avx512vnni(const dn_gemm *g, size_t column, const dn_act *a, size_t lda, \
                                                   dn_act *out, size_t ldo, int width) {                         \
        const dn_requant *r = &g->requant;                                                                       \
        const __m512i none = _mm512_setzero_si512();                                                             \
        size_t groups = ((size_t)g->k + GROUP - 1) / GROUP, block = groups * LANES * GROUP;                      \
        const int8_t *w = g->packed + column / LANES * block;                                                    \
        EACH_##V(BIAS) ROWS_##M(SUMS_##V)                                                                        \
        for (size_t k = 0; k < groups; k++, w += LANES * GROUP) {                                                \
            EACH_##V(WEIGHTS) ROWS_##M(STEPS_##V)                                                                \
        }                                                                                                        \
        finish f = finish_of(r->zero_point, r->min, r->max);                                                     \
        COLUMNS_##V(M) STORES (void)none;                                                                        \
    }
TILE(12, 1, FOURS_12(STORE_FOUR)) TILE(12, 2, PAIRS_12(STORE_PAIR)) TILE(8, 3, ROWS_8(STORE_3)) TILE(6, 4, ROWS_6(STORE_4))
TILE(4, 1, FOURS_4(STORE_FOUR)) TILE(4, 2, PAIRS_4(STORE_PAIR)) TILE(4, 3, ROWS_4(STORE_3)) TILE(4, 4, ROWS_4(STORE_4))
TILE(1, 1, ROWS_1(STORE_1)) TILE(1, 2, ROWS_1(STORE_2)) TILE(1, 3, ROWS_1(STORE_3)) TILE(1, 4, ROWS_1(STORE_4))
#undef TILE

typedef void (*tile_kernel)(const dn_gemm *g, size_t column, const dn_act *a, size_t lda, dn_act *out, size_t ldo,
                            int width);

/* By the number of vectors: the tall tile, one of four rows, one of one. */
static const struct {
    int rows;
    tile_kernel tall, four, one;
} tiles[] = {
    {0, NULL, NULL, NULL},
    {12, dn_u8_gemm_12x1__avx512vnni, dn_u8_gemm_4x1__avx512vnni, dn_u8_gemm_1x1__avx512vnni},
    {12, dn_u8_gemm_12x2__avx512vnni, dn_u8_gemm_4x2__avx512vnni, dn_u8_gemm_1x2__avx512vnni},
    {8, dn_u8_gemm_8x3__avx512vnni, dn_u8_gemm_4x3__avx512vnni, dn_u8_gemm_1x3__avx512vnni},
    {6, dn_u8_gemm_6x4__avx512vnni, dn_u8_gemm_4x4__avx512vnni, dn_u8_gemm_1x4__avx512vnni},
};

/* All rows of a few columns. A last tile that is short starts earlier and does some rows twice. */
static void strip(const dn_gemm *g, int vectors, size_t column, const dn_act *a, size_t lda, int rows, dn_act *out,
                  size_t ldo) {
    int width = g->n - (int)column < vectors * LANES ? g->n - (int)column : vectors * LANES;
    int tall = tiles[vectors].rows, row = 0;
    out += column;
    for (; row + tall <= rows; row += tall)
        tiles[vectors].tall(g, column, a + (size_t)row * lda, lda, out + (size_t)row * ldo, ldo, width);
    while (row < rows) {
        int left = rows - row, step = left >= 4 || (left > 1 && rows >= 4) ? 4 : 1;
        if (left > 4 && rows >= tall) step = tall;
        int from = row + step > rows ? rows - step : row;
        (step == tall ? tiles[vectors].tall : step == 4 ? tiles[vectors].four : tiles[vectors].one)(
            g, column, a + (size_t)from * lda, lda, out + (size_t)from * ldo, ldo, width);
        row = from + step;
    }
}

static void dn_u8_gemm__avx512vnni(const dn_gemm *g, const dn_act *a, size_t lda, int rows, dn_act *out, size_t ldo) {
    int vectors = (g->n + LANES - 1) / LANES, strips = (vectors + 3) / 4;
    for (int row = 0; row < rows;) {
        int block = rows - row < 2 * ROW_BLOCK ? rows - row : ROW_BLOCK;
        for (int s = 0, at = 0; s < strips; s++) {
            int width = (vectors - at + strips - s - 1) / (strips - s);
            strip(g, width, (size_t)at * LANES, a + (size_t)row * lda, lda, block, out + (size_t)row * ldo, ldo);
            at += width;
        }
        row += block;
    }
}

/* ---- depthwise ---- */

/* Packed: [channels / 16][kx][ceil(k_h / 4)][16 channels][4 rows]: a lane holds one channel of four window rows. */
static size_t depthwise_bytes(int32_t channels, int32_t k_h, int32_t k_w) {
    return ((size_t)channels + LANES - 1) / LANES * (size_t)k_w * (((size_t)k_h + 3) / 4) * LANES * GROUP;
}

static void pack_depthwise(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed) {
    size_t groups = ((size_t)k_h + 3) / 4;
    memset(packed, 0, depthwise_bytes(channels, k_h, k_w));
    for (size_t c = 0; c < (size_t)channels; c++)
        for (size_t y = 0; y < (size_t)k_h; y++)
            for (size_t x = 0; x < (size_t)k_w; x++)
                packed[(((c / LANES * (size_t)k_w + x) * groups + y / GROUP) * LANES + c % LANES) * GROUP + y % GROUP] =
                    w[(y * (size_t)k_w + x) * (size_t)channels + c];
}

/* 16 channels of up to four rows, interleaved; rows past k_h repeat the first: their weights are zero. */
INLINE __m512i column(const int K_H, const dn_act *const *rows, size_t at, __m512i interleave) {
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)(rows[0] + at)));
    if (K_H > 1) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(rows[1] + at)), 1);
    if (K_H > 2) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(rows[2] + at)), 2);
    if (K_H > 3) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(rows[3] + at)), 3);
    return _mm512_permutexvar_epi8(interleave, v);
}

INLINE __m512i interleave_order(void) {
    uint8_t order[64];
    for (int i = 0; i < 64; i++) order[i] = (uint8_t)(i % GROUP * LANES + i / GROUP);
    return load(order);
}

/* A 3×3 or 5×5 window, four output pixels at a time; every interleaved column serves all windows that hold it. */
INLINE void depthwise_window(const int K, const int STRIDE, const dn_depthwise *d, const dn_act *const *rows, int pixels,
                             dn_act *out) {
    const int GROUPS = (K + 3) / 4, COLUMNS = 3 * STRIDE + K;
    const dn_requant *r = &d->requant;
    const __m512i interleave = interleave_order();
    finish f = finish_of(r->zero_point, r->min, r->max);
    size_t channels = (size_t)d->channels;
    for (size_t c = 0; c < channels; c += LANES) {
        const int8_t *w = d->packed + c * (size_t)(K * GROUPS * GROUP);
        int width = channels - c >= LANES ? LANES : (int)(channels - c);
        __m512i bias = load(r->bias + c);
        bool quickly = r->quick != NULL && r->quick[c / LANES].usable;
        scale s = scale_at(r, c);
        quick q = quickly ? quick_at(&r->quick[c / LANES]) : (quick){0};
        for (int x = 0; x < pixels; x += 4) {
            if (x + 4 > pixels) x = pixels - 4;
            size_t at = (size_t)(x * STRIDE) * channels + c;
            __m512i sum[4] = {bias, bias, bias, bias};
            UNROLL
            for (int i = 0; i < COLUMNS; i++) {
                UNROLL
                for (int group = 0; group < GROUPS; group++) {
                    int left = K - group * GROUP;
                    __m512i v = column(left < 4 ? left : 4, rows + group * GROUP, at + (size_t)i * channels, interleave);
                    UNROLL
                    for (int p = 0; p < 4; p++) {
                        int kx = i - p * STRIDE;
                        if (kx >= 0 && kx < K)
                            sum[p] = dot(sum[p], v, load(w + (size_t)((kx * GROUPS + group) * 64)));
                    }
                }
            }
            UNROLL
            for (int p = 0; p < 4; p++) sum[p] = quickly ? requantise_quick(sum[p], &q) : requantise(sum[p], &s);
            store_four(out + (size_t)x * channels + c, channels, width, narrow(sum[0], sum[1], sum[2], sum[3], &f));
        }
    }
}

/* Any window, one pixel at a time. */
static void depthwise_any(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    const dn_requant *r = &d->requant;
    const __m512i interleave = interleave_order(), none = _mm512_setzero_si512();
    finish f = finish_of(r->zero_point, r->min, r->max);
    size_t channels = (size_t)d->channels;
    int groups = (d->k_h + 3) / 4;
    for (size_t c = 0; c < channels; c += LANES) {
        const int8_t *w = d->packed + c * (size_t)(d->k_w * groups * GROUP);
        __mmask16 mask = channels - c >= LANES ? 0xffff : (__mmask16)((1u << (channels - c)) - 1);
        scale s = scale_at(r, c);
        for (int x = 0; x < pixels; x++) {
            __m512i sum = load(r->bias + c);
            for (int kx = 0; kx < d->k_w; kx++) {
                size_t at = (size_t)(x * d->stride_w + kx * d->dil_w) * channels + c;
                for (int group = 0; group < groups; group++) {
                    const dn_act *four[GROUP];
                    for (int i = 0; i < GROUP; i++) {
                        int y = group * GROUP + i;
                        four[i] = rows[y < d->k_h ? y : 0];
                    }
                    sum = dot(sum, column(GROUP, four, at, interleave),
                                              load(w + (size_t)((kx * groups + group) * 64)));
                }
            }
            __m512i bytes = narrow(requantise(sum, &s), none, none, none, &f);
            _mm_mask_storeu_epi8(out + (size_t)x * channels + c, mask, _mm512_castsi512_si128(bytes));
        }
    }
}

static void dn_u8_depthwise__avx512vnni(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    bool square = d->k_h == d->k_w && d->dil_w == 1 && pixels >= 4;
    if (square && d->k_h == 3 && d->stride_w == 1) depthwise_window(3, 1, d, rows, pixels, out);
    else if (square && d->k_h == 3 && d->stride_w == 2) depthwise_window(3, 2, d, rows, pixels, out);
    else if (square && d->k_h == 5 && d->stride_w == 1) depthwise_window(5, 1, d, rows, pixels, out);
    else if (square && d->k_h == 5 && d->stride_w == 2) depthwise_window(5, 2, d, rows, pixels, out);
    else depthwise_any(d, rows, pixels, out);
}

/* ---- finding a dn_quick ---- */

enum { MAX_STEPS = 256, MAX_RIGHT = 20 };

/* The edges of the exact staircase: edge[i] is the smallest sum whose result is step[i] or more. */
typedef struct {
    int count;
    int32_t edge[MAX_STEPS + LANES], step[MAX_STEPS + LANES];
} staircase;

/* whole + rest / divisor, 0 <= rest < divisor: divided once, then only added to */
typedef struct {
    int64_t whole, rest;
} fraction;

static fraction fraction_of(int64_t a, int64_t divisor) {
    fraction f = {a / divisor, a % divisor};
    if (f.rest < 0) {
        f.rest += divisor;
        f.whole--;
    }
    return f;
}

/* Step `step` begins at the smallest sum with sum * multiplier + round - (sum < 0 ? 2^31 : 0) >= step * unit. */
static void find_edges(staircase *s, int32_t multiplier, int right, int64_t low, int64_t high, int32_t min, int32_t max) {
    int64_t unit = 1LL << (31 + right), round = (1LL << 30) + (1LL << (30 + right));
    fraction by = fraction_of(unit, multiplier), at = fraction_of(((int64_t)min + 1) * unit - round, multiplier);
    fraction away = fraction_of(1LL << 31, multiplier);
    s->count = 0;
    for (int32_t step = min + 1; step <= max; step++) {
        int64_t whole = at.whole + (step <= 0 ? away.whole : 0), rest = at.rest + (step <= 0 ? away.rest : 0);
        if (rest >= multiplier) {
            rest -= multiplier;
            whole++;
        }
        int64_t edge = whole + (rest > 0);
        if (step <= 0 && edge > 0) edge = 0;
        at.whole += by.whole;
        at.rest += by.rest;
        if (at.rest >= multiplier) {
            at.rest -= multiplier;
            at.whole++;
        }
        if (edge > high) break;
        if (edge <= low) continue;
        s->edge[s->count] = (int32_t)edge;
        s->step[s->count++] = step;
    }
    for (int i = s->count; i < s->count + LANES && s->count > 0; i++) { /* whole vectors */
        s->edge[i] = s->edge[s->count - 1];
        s->step[i] = s->step[s->count - 1];
    }
}

/* Where the quick staircase has the wrong result next to an edge: at most one sum, or more (then `found` is 2). */
typedef struct {
    int found;
    int32_t sum, delta;
} difference;

static difference compare(const staircase *s, const quick *q) {
    const __m512i one = _mm512_set1_epi32(1);
    difference d = {0, INT32_MIN, 0};
    for (int i = 0; i < s->count; i += LANES) {
        __m512i edge = load(s->edge + i), step = load(s->step + i);
        __mmask16 late = _mm512_cmplt_epi32_mask(requantise_quick(edge, q), step);
        __mmask16 early = _mm512_cmpge_epi32_mask(requantise_quick(_mm512_sub_epi32(edge, one), q), step);
        if (s->count - i < LANES) {
            late &= (__mmask16)((1u << (s->count - i)) - 1);
            early &= (__mmask16)((1u << (s->count - i)) - 1);
        }
        d.found += __builtin_popcount(late) + __builtin_popcount(early);
        if (d.found > 1) break;
        if (late) d.sum = s->edge[i + __builtin_ctz(late)], d.delta = 1;
        if (early) d.sum = s->edge[i + __builtin_ctz(early)] - 1, d.delta = -1;
    }
    return d;
}

static int32_t clamped_exact(int32_t sum, int32_t multiplier, int32_t shift, int32_t min, int32_t max) {
    int32_t q = dn_requantise(sum, multiplier, shift);
    return q < min ? min : q > max ? max : q;
}

/* Away from `sum` the quick staircase never falls, so right edges, and right neighbours of `sum`, make it right all over. */
static bool corrected(const staircase *s, quick *q, difference d, int32_t multiplier, int32_t shift, int32_t min, int32_t max) {
    q->exception = _mm512_set1_epi32(d.sum);
    q->delta = _mm512_set1_epi32(d.delta);
    if (compare(s, q).found != 0) return false;
    for (int32_t sum = d.sum - 1; sum <= d.sum + 1; sum++) {
        int32_t got = _mm_cvtsi128_si32(_mm512_castsi512_si128(requantise_quick(_mm512_set1_epi32(sum), q)));
        got = got < min ? min : got > max ? max : got;
        if (got != clamped_exact(sum, multiplier, shift, min, max)) return false;
    }
    return true;
}

static int make_quick(dn_quick *q, int lane, int32_t multiplier, int32_t shift, int64_t low, int64_t high, int32_t min,
                      int32_t max) {
    static const int tries[] = {0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5};
    if (shift > -1 || shift < -MAX_RIGHT || multiplier == 0 || low < -(1LL << 30) || high > 1LL << 30 || max - min > 255)
        return 0;
    staircase s;
    find_edges(&s, multiplier, -shift, low, high, min, max);
    int32_t exact = 0;
    float real = (float)((double)multiplier / (double)(1LL << (31 - shift))), nudge = 1.0f / (float)(1 << (1 - shift));
    memcpy(&exact, &real, sizeof exact);
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        int32_t bits = exact + tries[i];
        memcpy(&real, &bits, sizeof real);
        quick candidate = {_mm512_set1_ps(real), _mm512_castps_si512(_mm512_set1_ps(nudge)), _mm512_set1_epi32(INT32_MIN),
                           _mm512_setzero_si512()};
        difference d = compare(&s, &candidate);
        if (d.found > 1 || (d.found == 1 && !corrected(&s, &candidate, d, multiplier, shift, min, max))) continue;
        q->scale[lane] = real;
        q->nudge[lane] = nudge;
        q->exception[lane] = d.sum;
        q->delta[lane] = d.delta;
        return 1;
    }
    return 0;
}

/* ---- element by element ---- */

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

static void dn_u8_add__avx512vnni(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    uniform s_a = uniform_of(p->multiplier_a, p->shift_a), s_b = uniform_of(p->multiplier_b, p->shift_b);
    uniform s_out = uniform_of(p->multiplier_out, p->shift_out);
    __m512i zero_a = _mm512_set1_epi32(p->zero_a), zero_b = _mm512_set1_epi32(p->zero_b);
    finish f = finish_of(p->zero_out, p->min, p->max);
    for (size_t i = 0; i < count; i += LANES) {
        __mmask16 mask = count - i >= LANES ? 0xffff : (__mmask16)((1u << (count - i)) - 1);
        __m512i x = requantise_uniform(_mm512_slli_epi32(centred(a + i, mask, zero_a), 20), &s_a);
        __m512i y = requantise_uniform(_mm512_slli_epi32(centred(b + i, mask, zero_b), 20), &s_b);
        __m512i sum = p->sign_b < 0 ? _mm512_sub_epi32(x, y) : _mm512_add_epi32(x, y);
        store16(out + i, mask, requantise_uniform(sum, &s_out), &f);
    }
}

static void dn_u8_mul__avx512vnni(const dn_mul *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
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

static void dn_u8_lut__avx512vnni(const uint8_t table[256], const dn_act *a, size_t count, dn_act *out) {
    __m512i t0 = load(table), t1 = load(table + 64), t2 = load(table + 128), t3 = load(table + 192);
    for (size_t i = 0; i < count; i += 64) {
        __mmask64 mask = count - i >= 64 ? ~0ULL : (1ULL << (count - i)) - 1;
        __m512i x = _mm512_maskz_loadu_epi8(mask, a + i);
        __m512i low = _mm512_permutex2var_epi8(t0, x, t1), high = _mm512_permutex2var_epi8(t2, x, t3);
        _mm512_mask_storeu_epi8(out + i, mask, _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high));
    }
}

const dn_kernels dn_kernels_avx512vnni = {
    .name = "avx512vnni",
    .nr = LANES,
    .kr = GROUP,
    .lowest_weight = -128,
    .make_quick = make_quick,
    .gemm = dn_u8_gemm__avx512vnni,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = dn_u8_depthwise__avx512vnni,
    .add = dn_u8_add__avx512vnni,
    .mul = dn_u8_mul__avx512vnni,
    .lut = dn_u8_lut__avx512vnni,
};
