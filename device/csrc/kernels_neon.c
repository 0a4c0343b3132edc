/* Armv8.0: products of 8 bits, pairs of them summed in 16. */
#include "kernels_neon.h"

enum { NR = 4, KR = 16, TALL = 4 };

/* What four columns of a product need. Their results leave as 16 bytes, four to a row. */
typedef struct {
    const int8_t *w;
    size_t groups; /* of KR, the first not counted */
    bool half;     /* the last of them, or the only one, has KR / 2 values at most */
    int32x4_t bias;
    scale s;
    int once, column, width;
    finish f;
} columns;

INLINE int16x8_t products(int8x16_t x, int8x16_t w) {
    return vmlal_high_s8(vmull_s8(vget_low_s8(x), vget_low_s8(w)), x, w);
}

/* M rows of one group; it begins the sums or adds to them. */
INLINE void group(const int M, const bool begins, const bool half, const int8_t *w, const dn_act *const *a, size_t k,
                  int32x4_t sum[TALL][NR]) {
    int8x16x4_t weights = vld1q_s8_x4(w);
    UNROLL
    for (int m = 0; m < M; m++) {
        int8x16_t x = vld1q_s8(a[m] + k);
        UNROLL
        for (int n = 0; n < NR; n++) {
            int16x8_t two = half ? vmull_s8(vget_low_s8(x), vget_low_s8(weights.val[n])) : products(x, weights.val[n]);
            sum[m][n] = begins ? vpaddlq_s16(two) : vpadalq_s16(sum[m][n], two);
        }
    }
}

/* M rows of four columns. A sum is kept in four partial sums until the end. */
INLINE void tile(const int M, const columns *c, const dn_act *const *a, dn_act *const *out) {
    int32x4_t sum[TALL][NR];
    const int8_t *w = c->w;
    size_t k = 0;
    if (c->groups == 0 && c->half) group(M, true, true, w, a, k, sum);
    else group(M, true, false, w, a, k, sum);
    size_t whole = c->groups - (c->groups > 0 && c->half);
    for (size_t i = 0; i < whole; i++) {
        k += KR;
        w += NR * KR;
        group(M, false, false, w, a, k, sum);
    }
    if (whole < c->groups) group(M, false, true, w + NR * KR, a, k + KR, sum);
    int32x4_t q[TALL];
    UNROLL
    for (int m = 0; m < M; m++) {
        int32x4_t all = vpaddq_s32(vpaddq_s32(sum[m][0], sum[m][1]), vpaddq_s32(sum[m][2], sum[m][3]));
        q[m] = requantise(vaddq_s32(all, c->bias), c->s, c->once);
    }
    for (int m = M; m < TALL; m++) q[m] = q[0];
    int32x4_t fours = vreinterpretq_s32_s8(narrow_16(q[0], q[1], q[2], q[3], c->f));
    UNROLL
    for (int m = 0; m < M; m++) store_four(out[m] + c->column, vgetq_lane_s32(fours, m), c->width);
}

static void dn_s8_gemm__neon(const dn_gemm *g, const dn_act *a, size_t lda, int rows, dn_act *out, size_t ldo) {
    const dn_requant r = g->requant;
    size_t groups = ((size_t)g->k + KR - 1) / KR;
    int n = g->n;
    columns c = {.groups = groups - 1, .half = (g->k - 1) % KR < KR / 2, .once = r.once,
                 .f = finish_of(r.zero_point, r.min, r.max)};
    for (int row = 0; row < rows;) {
        /* A last tile that is short starts earlier and does some rows twice. */
        int step = rows - row == 1 || rows < TALL ? 1 : TALL, from = row + step > rows ? rows - step : row;
        const dn_act *in[TALL];
        dn_act *to[TALL];
        for (int m = 0; m < step; m++) {
            in[m] = a + (size_t)(from + m) * lda;
            to[m] = out + (size_t)(from + m) * ldo;
        }
        c.w = g->packed;
        for (c.column = 0; c.column < n; c.column += NR, c.w += groups * NR * KR) {
            c.bias = vld1q_s32(r.bias + c.column);
            c.s = scale_at(&r, (size_t)c.column);
            c.width = n - c.column;
            if (step == TALL) tile(TALL, &c, in, to);
            else tile(1, &c, in, to);
        }
        row = from + step;
    }
}

const dn_kernels dn_kernels_neon = {
    .name = "neon",
    .nr = NR,
    .kr = KR,
    .weight_bytes = 1,
    .lowest_weight = -127,
    .gemm = dn_s8_gemm__neon,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = depthwise,
    .add = add,
    .mul = mul,
    .mean = mean,
    .lut = lut,
};
