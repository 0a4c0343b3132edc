/* SOFTMAX in the fixed-point arithmetic of TFLite's reference kernel, which is gemmlowp's: Qm.n is an int32 of n bits behind
 * the point. */
#include "prepare.h"

enum { SCALED_BITS = 5, SUM_BITS = 12 }; /* before the point: of what exp takes, and of the sum */

typedef struct {
    int32_t table[256]; /* Q0.31: exp(-beta * scale * (255 - i)), 0 where the reference takes it for nothing */
    size_t rows, depth;
} softmax;

/* 1 / (1 + x), Q0.31, for x of [0, 1): three steps of Newton's from 48/17 - 32/17 * (1 + x) / 2, Q2.29. */
static int32_t reciprocal_of_one_and(int32_t x) {
    const int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
    int32_t y = 1515870810 + dn_multiply_high(half, -1010580540);
    for (int i = 0; i < 3; i++) y += 4 * dn_multiply_high(y, (1 << 29) - dn_multiply_high(half, y));
    return y > INT32_MAX / 2 ? INT32_MAX : 2 * y;
}

/* exp(a), Q0.31, for a <= 0, Q5.26: a polynomial around -1/8 for what is left of a quarter, times exp of each power of two. */
static int32_t exp_of_negative(int32_t a) {
    static const int32_t exp_of_minus[] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242}; /* 1/4 … 16 */
    const int32_t quarter = 1 << (31 - SCALED_BITS - 2), exp_of_minus_eighth = 1895147668, third = 715827883;
    if (a == 0) return INT32_MAX;
    int32_t rest = (a & (quarter - 1)) - quarter, whole = rest - a;
    int32_t x = rest * (1 << SCALED_BITS) + (1 << 28), x2 = dn_multiply_high(x, x), x3 = dn_multiply_high(x2, x);
    int32_t x4 = dn_multiply_high(x2, x2);
    int32_t behind = dn_divide_by_power(dn_multiply_high(dn_divide_by_power(x4, 2) + x3, third) + x2, 1);
    int32_t y = exp_of_minus_eighth + dn_multiply_high(exp_of_minus_eighth, x + behind);
    for (int i = 0; i < 7; i++)
        if (whole & quarter << i) y = dn_multiply_high(y, exp_of_minus[i]);
    return y;
}

static void run_row(const softmax *p, const dn_act *in, dn_act *out) {
    int32_t max = in[0];
    for (size_t i = 1; i < p->depth; i++) max = in[i] > max ? in[i] : max;
    const int32_t *table = p->table, top = 255 - max;
    int64_t wide = 0;
    for (size_t i = 0; i < p->depth; i++) wide += dn_divide_by_power(table[top + in[i]], SUM_BITS);
    uint32_t sum = wide > INT32_MAX ? INT32_MAX : (uint32_t)wide; /* then every result is 0 */
    int headroom = __builtin_clz(sum), exponent = SUM_BITS - headroom + 31 - 8;
    int32_t scale = reciprocal_of_one_and((int32_t)((sum << headroom) - (1u << 31)));
    for (size_t i = 0; i < p->depth; i++) {
        int64_t q = (dn_multiply_high(scale, table[top + in[i]]) + ((int64_t)1 << (exponent - 1))) >> exponent;
        out[i] = (dn_act)((q > 255 ? 255 : q) + DN_ACT_MIN);
    }
}

static void run_softmax(dn_model *m, int op, int part, int parts) {
    const softmax *p = m->op[op].params;
    size_t from, to;
    dn_share(m, p->rows, 1, part, parts, &from, &to);
    for (size_t at = from * p->depth; at < to * p->depth; at += p->depth)
        run_row(p, dn_data(m, m->op[op].input[0]) + at, dn_data(m, m->op[op].output[0]) + at);
}

bool dn_prepare_softmax(dn_model *m, int op) {
    if (!dn_need(m, op, 1, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output") ||
        !dn_need_shape(m, op, out, "output", in->rank, in->dim))
        return false;
    float beta = dn_fb_float(&m->fb, m->op[op].options, 0, 0.0f);
    double scale = (double)beta * (double)in->scale * (1 << (31 - SCALED_BITS));
    if (in->rank < 1 || !(scale > 1.0)) return DN_REFUSE(m, op, DN_UNSUPPORTED, "beta is %g", (double)beta);
    if (!(out->scale >= 0.999f / 256 && out->scale <= 1.001f / 256) || dn_arena_zero(out) != DN_ACT_MIN)
        return DN_REFUSE(m, op, DN_MALFORMED, "output has scale %g and zero point %d, expected 1/256 and -128",
                         (double)out->scale, out->zero_point);
    softmax *p = dn_pool(m, sizeof *p);
    if (p == NULL) return false;
    int32_t multiplier, shift, least = 0; /* difference from the maximum that is nothing */
    if (dn_quantise_multiplier(scale, &multiplier, &shift)) least = (int32_t)((31LL << (31 - SCALED_BITS)) >> shift);
    for (int32_t i = 0; i < 256 && i <= least; i++)
        p->table[255 - i] = exp_of_negative(dn_multiply_high(-i * (1 << shift), multiplier));
    p->depth = (size_t)in->dim[in->rank - 1];
    p->rows = in->count / p->depth;
    m->op[op].params = p;
    m->op[op].run = run_softmax;
    return true;
}
