/* The matrix product for AVX-512 with VNNI, and the table of its kernels. */
#include "kernels_avx512.h"

enum { ROW_BLOCK = 96 };

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

const dn_kernels dn_kernels_avx512vnni = {
    .name = "avx512vnni",
    .nr = LANES,
    .kr = GROUP,
    .weight_bytes = 1,
    .windows = INT32_MAX,
    .lowest_weight = -128,
    .find_quick = dn_quick_find,
    .gemm = dn_u8_gemm__avx512vnni,
    .depthwise_bytes = dn_depthwise_bytes__avx512vnni,
    .pack_depthwise = dn_pack_depthwise__avx512vnni,
    .depthwise = dn_u8_depthwise__avx512vnni,
    .window = &dn_u8_window__avx512vnni,
    .add = dn_u8_add__avx512vnni,
    .mul = dn_u8_mul__avx512vnni,
    .mean = dn_u8_mean__avx512vnni,
    .lut = dn_u8_lut__avx512vnni,
};
