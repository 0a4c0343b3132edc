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

#define DONE(m, v) s##m##v = _mm512_sub_epi32(requantise(s##m##v, &q), centre);
#define DONE_0(m) DONE(m, 0)
#define DONE_1(m) DONE(m, 1)
#define DONE_2(m) DONE(m, 2)
#define DONE_3(m) DONE(m, 3)
#define RECTIFY(m, v) s##m##v = requantise_rectified(s##m##v, &q);
#define RECTIFY_0(m) RECTIFY(m, 0)
#define RECTIFY_1(m) RECTIFY(m, 1)
#define RECTIFY_2(m) RECTIFY(m, 2)
#define RECTIFY_3(m) RECTIFY(m, 3)
#define SIGN(m, v) s##m##v = requantise_signed(s##m##v, &q);
#define SIGN_0(m) SIGN(m, 0)
#define SIGN_1(m) SIGN(m, 1)
#define SIGN_2(m) SIGN(m, 2)
#define SIGN_3(m) SIGN(m, 3)
#define COLUMN(M, v)                                        \
    {                                                       \
        size_t c = column + v * LANES;                      \
        mode how = mode_at(r, c);                           \
        if (how == RECTIFIED) {                             \
            quick q = quick_at(&r->quick[c / LANES]);       \
            ROWS_##M(RECTIFY_##v)                           \
        } else if (how == SIGNED) {                         \
            quick q = quick_at(&r->quick[c / LANES]);       \
            ROWS_##M(SIGN_##v)                              \
        } else {                                            \
            scale q = scale_at(r, c);                       \
            __m512i centre = _mm512_set1_epi32(r->centre);  \
            ROWS_##M(DONE_##v)                              \
        }                                                   \
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
        size_t groups = ((size_t)g->k + GROUP - 1) / GROUP, segments = g->segments > 1 ? (size_t)g->segments : 1; \
        size_t block = segments * groups * LANES * GROUP;                                                        \
        const int8_t *w = g->packed + column / LANES * block;                                                    \
        EACH_##V(BIAS) ROWS_##M(SUMS_##V)                                                                        \
        for (;; a += g->next_segment) {                                                                          \
            for (size_t k = 0; k < groups; k++, w += LANES * GROUP) {                                            \
                EACH_##V(WEIGHTS) ROWS_##M(STEPS_##V)                                                            \
            }                                                                                                    \
            if (--segments == 0) break;                                                                          \
        }                                                                                                        \
        finish f = finish_at(r);                                                                                 \
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

/* Any window, one pixel at a time. */
static void dn_u8_depthwise__avx512vnni(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    const dn_requant *r = &d->requant;
    const __m512i interleave = interleave_order(), none = _mm512_setzero_si512(), centre = _mm512_set1_epi32(r->centre);
    finish f = finish_at(r);
    size_t channels = (size_t)d->channels;
    int groups = (d->k_h + 3) / 4;
    for (size_t c = 0; c < channels; c += LANES) {
        const int8_t *w = d->packed + c * (size_t)(d->k_w * groups * GROUP);
        __mmask16 mask = channels - c >= LANES ? 0xffff : (__mmask16)((1u << (channels - c)) - 1);
        scale s = scale_at(r, c);
        mode how = mode_at(r, c);
        quick q = how == EXACT ? (quick){0} : quick_at(&r->quick[c / LANES]);
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
                    sum = dot(sum, column(GROUP, four, at, interleave), load(w + (size_t)((kx * groups + group) * 64)));
                }
            }
            sum = how == RECTIFIED ? requantise_rectified(sum, &q)
                  : how == SIGNED  ? requantise_signed(sum, &q)
                                   : _mm512_sub_epi32(requantise(sum, &s), centre);
            _mm_mask_storeu_epi8(out + (size_t)x * channels + c, mask, _mm512_castsi512_si128(narrow(sum, none, none, none, &f)));
        }
    }
}

/* ---- depthwise, windows of 3×3 and 5×5 ---- */

/* A strip of columns is interleaved once into a scratch tile: 32 bits are one channel of four picture rows, and one vpdpbusd
 * applies a column of a window. With stride 1 a tile serves two output rows: the second has its weights a row lower.
 *
 * Wide blocks are 64 channels in four vectors, dealt out by the unpack instructions as the pack instructions collect them
 * again: vector v holds channels 4 v .. 4 v + 3 of every 16. Narrow blocks are 16 channels in order. Packed weights:
 * [block][line][kx][row group][vector][16][4]. */
enum { STRIP = 24, MAX_COLUMNS = 2 * STRIP + 3, WIDE = 64, WORTH_WIDE = 49 };

static int lines_of(const dn_depthwise *d) { return d->stride_w == 1 ? 2 : 1; }

static int groups_of(const dn_depthwise *d) { return (d->k_h + lines_of(d) - 1 + GROUP - 1) / GROUP; }

static int takes_window(const dn_depthwise *d, int32_t stride_h, int32_t dil_h) {
    return d->k_h == d->k_w && (d->k_h == 3 || d->k_h == 5) && d->dil_w == 1 && dil_h == 1 && stride_h == d->stride_w &&
           (stride_h == 1 || stride_h == 2);
}

/* Whether the 64 channels from c on go together. Blocks do not straddle a multiple of 64: threads may begin there. */
static bool wide_at(const dn_depthwise *d, size_t c) {
    size_t channels = (size_t)d->channels;
    if (c % WIDE != 0 || channels - c < WORTH_WIDE) return false;
    for (size_t i = c; i < c + WIDE && i < channels; i += LANES)
        if (mode_at(&d->requant, i) == EXACT) return false;
    return true;
}

static size_t window_bytes(const dn_depthwise *d) {
    size_t blocks = ((size_t)d->channels + WIDE - 1) / WIDE;
    return blocks * WIDE * (size_t)(lines_of(d) * d->k_w * groups_of(d) * GROUP);
}

/* `channels` of them, of a block; w: the first one's. */
static void pack_block(const dn_depthwise *d, const int8_t *w, size_t channels, bool wide, int8_t *packed) {
    size_t lines = (size_t)lines_of(d), groups = (size_t)groups_of(d), k = (size_t)d->k_h, vectors = wide ? 4 : 1;
    for (size_t line = 0; line < lines; line++)
        for (size_t ky = 0; ky < k; ky++)
            for (size_t kx = 0; kx < k; kx++) {
                const int8_t *from = w + (ky * k + kx) * (size_t)d->channels;
                size_t row = ky + line;
                int8_t *to = packed + ((line * k + kx) * groups + row / GROUP) * vectors * LANES * GROUP + row % GROUP;
                for (size_t c = 0; c < channels; c++)
                    to[(wide ? c % LANES / 4 * LANES + c / LANES * 4 + c % 4 : c) * GROUP] = from[c];
            }
}

static void pack_window(const dn_depthwise *d, const int8_t *w, int8_t *packed) {
    size_t channels = (size_t)d->channels, each = (size_t)(lines_of(d) * d->k_w * groups_of(d) * GROUP);
    memset(packed, 0, window_bytes(d));
    for (size_t c = 0; c < channels;) {
        bool wide = wide_at(d, c);
        size_t block = wide ? WIDE : LANES;
        pack_block(d, w + c, channels - c < block ? channels - c : block, wide, packed);
        packed += each * block;
        c += block;
    }
}

/* Four picture rows of a strip: where its first column lies, and how far the next; 0 in rows of padding. */
typedef struct {
    const dn_act *at[GROUP];
    size_t step[GROUP];
} four_rows;

INLINE void interleave_wide(const dn_act *const *at, dn_act *to) {
    __m512i a = load(at[0]), b = load(at[1]), c = load(at[2]), d = load(at[3]);
    __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
    __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    _mm512_store_si512(to, _mm512_unpacklo_epi16(ab_low, cd_low));
    _mm512_store_si512(to + 64, _mm512_unpackhi_epi16(ab_low, cd_low));
    _mm512_store_si512(to + 128, _mm512_unpacklo_epi16(ab_high, cd_high));
    _mm512_store_si512(to + 192, _mm512_unpackhi_epi16(ab_high, cd_high));
}

/* Columns [first, last) of the tile from the picture, the others of `columns` from padding. */
INLINE void fill_tile(const bool WIDELY, const four_rows *rows, const dn_act *padding, int first, int last, int columns,
                      size_t pitch, __m512i order, dn_act *tile) {
    four_rows r = *rows;
    for (int i = 0; i < columns; i++, tile += pitch) {
        bool inside = i >= first && i < last;
        const dn_act *at[GROUP];
        for (int k = 0; k < GROUP; k++) at[k] = inside ? r.at[k] : padding;
        if (WIDELY) interleave_wide(at, tile);
        else _mm512_store_si512(tile, column(GROUP, at, 0, order));
        for (int k = 0; k < GROUP && inside; k++) r.at[k] += r.step[k];
    }
}

typedef struct {
    const int8_t *w;
    __m512i bias[4];
    quick q[4];
    scale s;
    mode how;
    finish f;
    __m512i centre;
    int width; /* channels to store */
} block;

/* a..d become lane i of each: what the pack instructions expect. Its own inverse. */
INLINE void deal(__m512i v[4]) {
    __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
    __m512i c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    v[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[2] = _mm512_shuffle_i32x4(b, d, 0x88);
    v[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

static block block_at(const dn_depthwise *d, size_t c, bool wide, const int8_t *w) {
    const dn_requant *r = &d->requant;
    size_t left = (size_t)d->channels - c, width = wide ? WIDE : LANES;
    block b = {.w = w, .how = mode_at(r, c), .f = finish_at(r), .centre = _mm512_set1_epi32(r->centre),
               .width = (int)(left < width ? left : width)};
    if (!wide) {
        b.bias[0] = load(r->bias + c);
        b.s = scale_at(r, c);
        if (b.how != EXACT) b.q[0] = quick_at(&r->quick[c / LANES]);
        return b;
    }
    __m512i scales[4], nudges[4];
    for (size_t v = 0; v < 4; v++) {
        b.bias[v] = load(r->bias + c + v * LANES);
        quick q = quick_at(&r->quick[c / LANES + v]);
        scales[v] = _mm512_castps_si512(q.scale);
        nudges[v] = q.nudge;
    }
    deal(b.bias);
    deal(scales);
    deal(nudges);
    for (int v = 0; v < 4; v++) b.q[v] = (quick){_mm512_castsi512_ps(scales[v]), nudges[v]};
    return b;
}

/* P output pixels of a wide block, in LINES rows. */
INLINE void wide_pixels(const int K, const int STRIDE, const int LINES, const int P, const block *b, const dn_act *tile,
                        dn_act *out, size_t channels, size_t row) {
    const int GROUPS = (K + (STRIDE == 1) + 3) / 4;
    __m512i sum[2][4][4];
    UNROLL
    for (int l = 0; l < LINES; l++)
        UNROLL
        for (int p = 0; p < P; p++)
            UNROLL
            for (int v = 0; v < 4; v++) sum[l][p][v] = b->bias[v];
    UNROLL
    for (int kx = 0; kx < K; kx++)
        UNROLL
        for (int g = 0; g < GROUPS; g++)
            UNROLL
            for (int v = 0; v < 4; v++) {
                __m512i x[4];
                UNROLL
                for (int p = 0; p < P; p++) x[p] = load(tile + (size_t)(((p * STRIDE + kx) * GROUPS + g) * 4 + v) * 64);
                UNROLL
                for (int l = 0; l < LINES; l++) {
                    __m512i w = load(b->w + (size_t)(((l * K + kx) * GROUPS + g) * 4 + v) * 64);
                    UNROLL
                    for (int p = 0; p < P; p++) sum[l][p][v] = dot(sum[l][p][v], x[p], w);
                }
            }
    UNROLL
    for (int l = 0; l < LINES; l++)
        UNROLL
        for (int p = 0; p < P; p++) {
            __m512i *s = sum[l][p];
            if (b->how == RECTIFIED) {
                UNROLL
                for (int v = 0; v < 4; v++) s[v] = requantise_rectified(s[v], &b->q[v]);
            } else {
                UNROLL
                for (int v = 0; v < 4; v++) s[v] = requantise_signed(s[v], &b->q[v]);
            }
            store_row(out + (size_t)l * row + (size_t)p * channels, b->width, narrow_lanes(s[0], s[1], s[2], s[3], &b->f));
        }
}

/* Four output pixels of a narrow block, in LINES rows; or one, and nonsense for the rest, which is not stored. */
INLINE void narrow_pixels(const int K, const int STRIDE, const int LINES, const bool one, const block *b, const dn_act *tile,
                          dn_act *out, size_t channels, size_t row) {
    const int GROUPS = (K + (STRIDE == 1) + 3) / 4, P = one ? 1 : 4;
    UNROLL
    for (int l = 0; l < LINES; l++) {
        __m512i s[4] = {b->bias[0], b->bias[0], b->bias[0], b->bias[0]};
        UNROLL
        for (int kx = 0; kx < K; kx++)
            UNROLL
            for (int g = 0; g < GROUPS; g++) {
                __m512i w = load(b->w + (size_t)((l * K + kx) * GROUPS + g) * 64);
                UNROLL
                for (int p = 0; p < P; p++) s[p] = dot(s[p], load(tile + (size_t)((p * STRIDE + kx) * GROUPS + g) * 64), w);
            }
        if (b->how == RECTIFIED) {
            UNROLL
            for (int p = 0; p < P; p++) s[p] = requantise_rectified(s[p], &b->q[0]);
        } else if (b->how == SIGNED) {
            UNROLL
            for (int p = 0; p < P; p++) s[p] = requantise_signed(s[p], &b->q[0]);
        } else {
            UNROLL
            for (int p = 0; p < P; p++) s[p] = _mm512_sub_epi32(requantise(s[p], &b->s), b->centre);
        }
        __m512i four = narrow(s[0], s[1], s[2], s[3], &b->f);
        if (one) store_row(out + (size_t)l * row, b->width, four);
        else store_four(out + (size_t)l * row, channels, b->width, four);
    }
}

/* Up to STRIP pixels of LINES rows. A last group of pixels that is short starts earlier. */
INLINE void strip_pixels(const int K, const int STRIDE, const int LINES, const bool WIDELY, const block *b, const dn_act *tile,
                         int pixels, dn_act *out, size_t channels, size_t row) {
    const int GROUPS = (K + (STRIDE == 1) + 3) / 4, P = WIDELY ? 4 / LINES : 4;
    const size_t pitch = (size_t)(STRIDE * GROUPS * (WIDELY ? 4 : 1)) * 64;
    if (pixels < P) {
        for (int x = 0; x < pixels; x++) {
            if (WIDELY) wide_pixels(K, STRIDE, LINES, 1, b, tile + (size_t)x * pitch, out + (size_t)x * channels, channels, row);
            else narrow_pixels(K, STRIDE, LINES, true, b, tile + (size_t)x * pitch, out + (size_t)x * channels, channels, row);
        }
        return;
    }
    for (int x = 0; x < pixels; x += P) {
        if (x + P > pixels) x = pixels - P;
        if (WIDELY) wide_pixels(K, STRIDE, LINES, P, b, tile + (size_t)x * pitch, out + (size_t)x * channels, channels, row);
        else narrow_pixels(K, STRIDE, LINES, false, b, tile + (size_t)x * pitch, out + (size_t)x * channels, channels, row);
    }
}

INLINE four_rows rows_at(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int y, int x, size_t c,
                         const dn_act *padding) {
    four_rows r;
    for (int i = 0; i < GROUP; i++) {
        bool inside = y + i >= 0 && y + i < p->height;
        r.at[i] = inside ? picture + (size_t)((y + i) * p->width + x) * (size_t)d->channels + c : padding;
        r.step[i] = inside ? (size_t)d->channels : 0;
    }
    return r;
}

/* One block of channels, output rows [from, to). */
INLINE void window_block(const int K, const int STRIDE, const bool WIDELY, const dn_depthwise *d, const dn_picture *p,
                         const dn_act *picture, int from, int to, size_t c, const int8_t *w, dn_act *out) {
    const int GROUPS = (K + (STRIDE == 1) + 3) / 4;
    const size_t pitch = WIDELY ? 256 : 64;
    _Alignas(64) dn_act tile[MAX_COLUMNS * 2 * (WIDELY ? 256 : 64)];
    _Alignas(64) dn_act padding[64];
    memset(padding, p->zero, sizeof padding);
    const __m512i order = interleave_order();
    block b = block_at(d, c, WIDELY, w);
    size_t channels = (size_t)d->channels, row = (size_t)p->out_width * channels;
    for (int y = from; y < to;) {
        int lines = STRIDE == 1 && y + 2 <= to ? 2 : 1;
        for (int x = 0; x < p->out_width; x += STRIP) {
            int pixels = p->out_width - x < STRIP ? p->out_width - x : STRIP, columns = (pixels - 1) * STRIDE + K;
            int left = x * STRIDE - p->pad_left, first = left < 0 ? -left : 0;
            for (int g = 0; g < GROUPS; g++) {
                four_rows r = rows_at(d, p, picture, y * STRIDE - p->pad_top + g * GROUP, left + first, c, padding);
                fill_tile(WIDELY, &r, padding, first, p->width - left, columns, pitch * (size_t)GROUPS, order,
                          tile + (size_t)g * pitch);
            }
            dn_act *to_x = out + (size_t)(y - from) * row + (size_t)x * channels + c;
            if (lines == 2) strip_pixels(K, STRIDE, 2, WIDELY, &b, tile, pixels, to_x, channels, row);
            else strip_pixels(K, STRIDE, 1, WIDELY, &b, tile, pixels, to_x, channels, row);
        }
        y += lines;
    }
}

#define WINDOW(K, STRIDE)                                                                                                 \
    static void window_wide_##K##x##K##s##STRIDE(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int from, \
                                                 int to, size_t c, const int8_t *w, dn_act *out) {                        \
        window_block(K, STRIDE, true, d, p, picture, from, to, c, w, out);                                                \
    }                                                                                                                     \
    static void window_narrow_##K##x##K##s##STRIDE(const dn_depthwise *d, const dn_picture *p, const dn_act *picture,     \
                                                   int from, int to, size_t c, const int8_t *w, dn_act *out) {            \
        window_block(K, STRIDE, false, d, p, picture, from, to, c, w, out);                                               \
    }
WINDOW(3, 1) WINDOW(3, 2) WINDOW(5, 1) WINDOW(5, 2)
#undef WINDOW

static void dn_u8_window__avx512vnni(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int from, int to,
                                     size_t first, size_t last, dn_act *out) {
    typedef void (*kernel)(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int from, int to, size_t c,
                           const int8_t *w, dn_act *out);
    static const kernel kernels[2][2][2] = {{{window_narrow_3x3s1, window_wide_3x3s1}, {window_narrow_3x3s2, window_wide_3x3s2}},
                                            {{window_narrow_5x5s1, window_wide_5x5s1}, {window_narrow_5x5s2, window_wide_5x5s2}}};
    size_t each = (size_t)(lines_of(d) * d->k_w * groups_of(d) * GROUP);
    const int8_t *w = d->packed + first * each;
    for (size_t c = first; c < last;) {
        bool wide = wide_at(d, c);
        size_t channels = wide ? WIDE : LANES;
        kernels[d->k_h == 5][d->stride_w == 2][wide](d, p, picture, from, to, c, w, out);
        w += each * channels;
        c += channels;
    }
}

static const dn_window_kernels window = {takes_window, window_bytes, pack_window, dn_u8_window__avx512vnni};

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

static void dn_u8_add__avx512vnni(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
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
    .weight_bytes = 1,
    .windows = INT32_MAX,
    .lowest_weight = -128,
    .find_quick = dn_quick_find,
    .gemm = dn_u8_gemm__avx512vnni,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = dn_u8_depthwise__avx512vnni,
    .window = &window,
    .add = dn_u8_add__avx512vnni,
    .mul = dn_u8_mul__avx512vnni,
    .lut = dn_u8_lut__avx512vnni,
};
