/* Armv8.0: products of 8 bits, pairs of them summed in 16. */
#include "kernels_neon.h"

enum { NR = 4, KR = 16 };

/* M rows of four columns. A sum is kept in four partial sums until the end. */
INLINE void tile(const int M, const dn_gemm *g, size_t column, const dn_act *a, size_t lda, dn_act *out, size_t ldo,
                 finish f) {
    const dn_requant *r = &g->requant;
    size_t groups = ((size_t)g->k + KR - 1) / KR;
    const int8_t *w = g->packed + column * groups * KR;
    int32x4_t sum[4][NR];
    UNROLL
    for (int m = 0; m < M; m++)
        UNROLL
        for (int n = 0; n < NR; n++) sum[m][n] = vdupq_n_s32(0);
    for (size_t k = 0; k < groups; k++, w += NR * KR) {
        int8x16_t x[4];
        UNROLL
        for (int m = 0; m < M; m++) x[m] = vld1q_s8(a + (size_t)m * lda + k * KR);
        UNROLL
        for (int n = 0; n < NR; n++) {
            int8x16_t weights = vld1q_s8(w + n * KR);
            UNROLL
            for (int m = 0; m < M; m++) {
                int16x8_t two = vmull_s8(vget_low_s8(x[m]), vget_low_s8(weights));
                sum[m][n] = vpadalq_s16(sum[m][n], vmlal_high_s8(two, x[m], weights));
            }
        }
    }
    scale s = scale_at(r, column);
    int32x4_t bias = vld1q_s32(r->bias + column);
    size_t width = (size_t)g->n - column < NR ? (size_t)g->n - column : NR;
    UNROLL
    for (int m = 0; m < M; m++) {
        int32x4_t all = vpaddq_s32(vpaddq_s32(sum[m][0], sum[m][1]), vpaddq_s32(sum[m][2], sum[m][3]));
        int32x4_t q = requantise(vaddq_s32(all, bias), s, r->once);
        store(out + (size_t)m * ldo + column, narrow(q, q, f), width);
    }
}

static void dn_s8_gemm__neon(const dn_gemm *g, const dn_act *a, size_t lda, int rows, dn_act *out, size_t ldo) {
    finish f = finish_of(g->requant.zero_point, g->requant.min, g->requant.max);
    int row = 0;
    for (; row + 4 <= rows; row += 4)
        for (size_t c = 0; c < (size_t)g->n; c += NR)
            tile(4, g, c, a + (size_t)row * lda, lda, out + (size_t)row * ldo, ldo, f);
    for (; row < rows; row++)
        for (size_t c = 0; c < (size_t)g->n; c += NR)
            tile(1, g, c, a + (size_t)row * lda, lda, out + (size_t)row * ldo, ldo, f);
}

const dn_kernels dn_kernels_neon = {
    .name = "neon",
    .nr = NR,
    .kr = KR,
    .lowest_weight = -127,
    .gemm = dn_s8_gemm__neon,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = depthwise,
    .add = add,
    .mul = mul,
    .lut = lut,
};
