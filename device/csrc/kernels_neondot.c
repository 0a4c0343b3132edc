/* Armv8.2 with dot products: four products to a lane. */
#include "kernels_neon.h"

enum { NR = 8, KR = 4, TALL = 8 };

#define DOT(lane)                                                                  \
    {                                                                              \
        int8x16_t w0 = vld1q_s8(w + (lane) * NR * KR), w1 = vld1q_s8(w + (lane) * NR * KR + 16); \
        UNROLL                                                                     \
        for (int m = 0; m < M; m++) {                                              \
            low[m] = vdotq_laneq_s32(low[m], w0, x[m], lane);                      \
            high[m] = vdotq_laneq_s32(high[m], w1, x[m], lane);                    \
        }                                                                          \
    }

/* M rows of eight columns. */
INLINE void tile(const int M, const dn_gemm *g, size_t column, const dn_act *a, size_t lda, dn_act *out, size_t ldo,
                 finish f) {
    const dn_requant *r = &g->requant;
    size_t groups = ((size_t)g->k + KR - 1) / KR, k = 0;
    const int8_t *w = g->packed + column * groups * KR;
    int32x4_t low[TALL], high[TALL];
    UNROLL
    for (int m = 0; m < M; m++) {
        low[m] = vld1q_s32(r->bias + column);
        high[m] = vld1q_s32(r->bias + column + 4);
    }
    for (; k + 4 <= groups; k += 4, w += 4 * NR * KR) {
        int8x16_t x[TALL];
        UNROLL
        for (int m = 0; m < M; m++) x[m] = vld1q_s8(a + (size_t)m * lda + k * KR);
        DOT(0) DOT(1) DOT(2) DOT(3)
    }
    for (; k < groups; k++, w += NR * KR) {
        int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16);
        UNROLL
        for (int m = 0; m < M; m++) {
            int32_t four;
            memcpy(&four, a + (size_t)m * lda + k * KR, sizeof four);
            int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
            low[m] = vdotq_s32(low[m], w0, x);
            high[m] = vdotq_s32(high[m], w1, x);
        }
    }
    scale s0 = scale_at(r, column), s1 = scale_at(r, column + 4);
    size_t width = (size_t)g->n - column;
    UNROLL
    for (int m = 0; m < M; m++)
        store(out + (size_t)m * ldo + column,
              narrow(requantise(low[m], s0, r->once), requantise(high[m], s1, r->once), f), width);
}

static void dn_s8_gemm__neondot(const dn_gemm *g, const dn_act *a, size_t lda, int rows, dn_act *out, size_t ldo) {
    finish f = finish_of(g->requant.zero_point, g->requant.min, g->requant.max);
    for (int row = 0; row < rows;) {
        int step = rows - row >= TALL ? TALL : rows - row >= 4 ? 4 : 1;
        const dn_act *from = a + (size_t)row * lda;
        dn_act *to = out + (size_t)row * ldo;
        for (size_t c = 0; c < (size_t)g->n; c += NR) {
            if (step == TALL) tile(TALL, g, c, from, lda, to, ldo, f);
            else if (step == 4) tile(4, g, c, from, lda, to, ldo, f);
            else tile(1, g, c, from, lda, to, ldo, f);
        }
        row += step;
    }
}

const dn_kernels dn_kernels_neondot = {
    .name = "neondot",
    .nr = NR,
    .kr = KR,
    .weight_bytes = 1,
    .lowest_weight = -127, /* the depthwise kernels' */
    .gemm = dn_s8_gemm__neondot,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = depthwise,
    .add = add,
    .mul = mul,
    .mean = mean,
    .lut = lut,
};
