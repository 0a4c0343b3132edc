/* Functions of one 8-bit value, tabulated at load by TFLite's own arithmetic: activations and requantisation; and the
 * float borders. */
#include <math.h>

#include "prepare.h"

typedef struct {
    uint8_t table[256]; /* arena value as uint8 → arena value */
} lut;

static void run_lut(dn_model *m, int op, int part, int parts) {
    const lut *p = m->op[op].params;
    size_t from, to;
    dn_share_values(m, op, part, parts, &from, &to);
    m->kernels->lut(p->table, dn_data(m, m->op[op].input[0]) + from, to - from, dn_data(m, m->op[op].output[0]) + from);
}

typedef struct {
    const dn_tensor *in, *out;
    int code;
    int32_t multiplier, shift, multiplier_negative, shift_negative; /* the last two for LEAKY_RELU */
    int16_t out_multiplier, reluish_multiplier;                     /* HARD_SWISH */
    int32_t out_exponent, reluish_exponent;
    int32_t min, max; /* as in the file */
} unary;

static int32_t limited(int64_t v, int32_t low, int32_t high) { return (int32_t)(v < low ? low : v > high ? high : v); }

static int16_t saturated16(int64_t v) { return (int16_t)limited(v, INT16_MIN, INT16_MAX); }

static int16_t rounding_high_mul16(int16_t a, int16_t b) {
    return a == INT16_MIN && b == INT16_MIN ? INT16_MAX : (int16_t)(((int32_t)a * b + (1 << 14)) >> 15);
}

static int16_t high_mul16(int16_t a, int16_t b) {
    return a == INT16_MIN && b == INT16_MIN ? INT16_MAX : (int16_t)((int32_t)a * b / (1 << 15));
}

/* TFLite's reference_ops::HardSwish, in its 16-bit steps. */
static int32_t hard_swish(const unary *u, int32_t v) {
    int16_t fine = (int16_t)((v - u->in->zero_point) * (1 << 7));
    int16_t scaled = rounding_high_mul16(fine, u->out_multiplier);
    int16_t relu = fine;
    if (u->reluish_exponent > 0) relu = saturated16((int64_t)relu * ((int64_t)1 << (u->reluish_exponent - 1)));
    relu = rounding_high_mul16(relu, u->reluish_multiplier);
    if (u->reluish_exponent > 0) relu = saturated16((int64_t)relu * 2);
    if (u->reluish_exponent < 0) relu = (int16_t)dn_divide_by_power(relu, -u->reluish_exponent);
    relu = (int16_t)((relu + (1 << 15)) >> 1);
    int16_t q = (int16_t)dn_divide_by_power(high_mul16(relu, scaled), -u->out_exponent);
    return q + u->out->zero_point;
}

static int32_t from_real(const unary *u, float real) {
    float q = roundf(real * (1.0f / u->out->scale)) + (float)u->out->zero_point;
    return q > 1e6f ? 1000000 : q > -1e6f ? (int32_t)q : -1000000; /* not a number, too: 0 over a scale next to 0 */
}

static int32_t apply(const unary *u, int32_t v) {
    int32_t centred = v - u->in->zero_point;
    float real = u->in->scale * (float)centred;
    switch (u->code) {
        case OP_LOGISTIC: return from_real(u, 1.0f / (1.0f + expf(-real)));
        case OP_TANH: return from_real(u, tanhf(real));
        case OP_HARD_SWISH: return hard_swish(u, v);
        case OP_LEAKY_RELU:
            if (centred < 0) return u->out->zero_point + dn_requantise(centred, u->multiplier_negative, u->shift_negative);
            break;
    }
    int64_t q = (int64_t)u->out->zero_point + dn_requantise(centred, u->multiplier, u->shift);
    return limited(q, INT32_MIN, INT32_MAX);
}

static bool tabulate(dn_model *m, int op, const unary *u) {
    lut *p = dn_pool(m, sizeof *p);
    if (p == NULL) return false;
    for (int32_t stored = 0; stored < 256; stored++) {
        int32_t v = DN_ACT_MIN == 0 ? stored : (int8_t)stored;
        int32_t q = limited(apply(u, v - dn_from_file(u->in)), u->min, u->max);
        p->table[stored] = (uint8_t)(q + dn_from_file(u->out));
    }
    m->op[op].params = p;
    m->op[op].run = run_lut;
    dn_split_values(m, op);
    return true;
}

/* TFLite's DownScaleInt32ToInt16Multiplier */
static int16_t downscaled(int32_t multiplier) {
    return multiplier >= INT32_MAX - (1 << 15) ? INT16_MAX : (int16_t)((multiplier + (1 << 15)) >> 16);
}

static bool prepare_hard_swish(dn_model *m, int op, unary *u) {
    float fine = (1.0f / 128.0f) * u->in->scale;
    int32_t out_multiplier, reluish_multiplier;
    if (!dn_quantise_multiplier((double)(fine / u->out->scale), &out_multiplier, &u->out_exponent) ||
        !dn_quantise_multiplier((double)(fine / (3.0f / 32768.0f)), &reluish_multiplier, &u->reluish_exponent) ||
        u->out_exponent > 0 || u->out_exponent < -15 || u->reluish_exponent < -15)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "scales %g into %g", (double)u->in->scale, (double)u->out->scale);
    u->out_multiplier = downscaled(out_multiplier);
    u->reluish_multiplier = downscaled(reluish_multiplier);
    return true;
}

static bool prepare_parameters(dn_model *m, int op, unary *u) {
    const dn_tensor *in = u->in, *out = u->out;
    float alpha = u->code == OP_LEAKY_RELU ? dn_fb_float(&m->fb, m->op[op].options, 0, 0.0f) : 0.0f;
    if (!(alpha >= 0.0f)) return DN_REFUSE(m, op, DN_UNSUPPORTED, "alpha is %g", (double)alpha);
    if (u->code == OP_HARD_SWISH) return prepare_hard_swish(m, op, u);
    if (u->code == OP_LOGISTIC && out->scale != 1.0f / 256.0f)
        return DN_REFUSE(m, op, DN_MALFORMED, "output scale is %g, expected 1/256", (double)out->scale);
    float product = in->scale * alpha;
    double scale = u->code == OP_QUANTIZE ? (double)in->scale / (double)out->scale : (double)(in->scale / out->scale);
    if (!dn_quantise_multiplier(scale, &u->multiplier, &u->shift) ||
        !dn_quantise_multiplier((double)(product / out->scale), &u->multiplier_negative, &u->shift_negative))
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "scales %g into %g", (double)in->scale, (double)out->scale);
    return true;
}

static bool prepare_range(dn_model *m, int op, unary *u) {
    int activation = u->code == OP_RELU ? ACTIVATION_RELU : u->code == OP_RELU6 ? ACTIVATION_RELU6
                     : u->code == OP_RELU_N1_TO_1 ? ACTIVATION_RELU_N1_TO_1 : ACTIVATION_NONE;
    if (!dn_activation_range(m, op, activation, u->out, &u->min, &u->max)) return false;
    u->min -= DN_FROM_INT8;
    u->max -= DN_FROM_INT8;
    return true;
}

bool dn_prepare_unary(dn_model *m, int op) {
    if (!dn_need(m, op, 1, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output") ||
        !dn_need_shape(m, op, out, "output", in->rank, in->dim))
        return false;
    unary u = {.in = in, .out = out, .code = m->op[op].code};
    return prepare_range(m, op, &u) && prepare_parameters(m, op, &u) && tabulate(m, op, &u);
}

static void run_from_float(dn_model *m, int op, int part, int parts) {
    const dn_tensor *out = &m->tensor[m->op[op].output[0]];
    const float *in = (const float *)(const void *)dn_data(m, m->op[op].input[0]);
    dn_act *q = dn_data(m, m->op[op].output[0]);
    int32_t low = out->type == DN_UINT8 ? 0 : -128;
    size_t from, to;
    dn_share(m, out->count, 64, part, parts, &from, &to);
    for (size_t i = from; i < to; i++) {
        float rounded = roundf(in[i] / out->scale);
        int64_t wide = rounded >= -2e9f && rounded <= 2e9f ? (int64_t)rounded : rounded > 0.0f ? INT32_MAX : INT32_MIN;
        q[i] = (dn_act)(limited(wide + out->zero_point, low, low + 255) + dn_from_file(out));
    }
}

static bool per_tensor(dn_model *m, int op, const dn_tensor *t, const char *what) {
    if ((t->type == DN_INT8 || t->type == DN_UINT8) && t->scales.count == 1 && t->scale > 0.0f && t->data == NULL)
        return true;
    return DN_REFUSE(m, op, DN_UNSUPPORTED, "%s has type %d and %u scales; int8 or uint8 with one is supported", what,
                     (int)t->type, t->scales.count);
}

bool dn_prepare_quantise(dn_model *m, int op) {
    if (!dn_need(m, op, 1, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    if (!per_tensor(m, op, out, "output") || !dn_need_shape(m, op, out, "output", in->rank, in->dim)) return false;
    if (in->type == DN_FLOAT32 && in->data == NULL) {
        m->op[op].run = run_from_float;
        return true;
    }
    if (!per_tensor(m, op, in, "input")) return false;
    if (in->scale == out->scale && dn_arena_zero(in) == dn_arena_zero(out)) {
        dn_alias(m, m->op[op].output[0], m->op[op].input[0]);
        return true;
    }
    int32_t low = out->type == DN_UINT8 ? 0 : -128;
    unary u = {.in = in, .out = out, .code = OP_QUANTIZE, .min = low, .max = low + 255};
    return prepare_parameters(m, op, &u) && tabulate(m, op, &u);
}

static void run_to_float(dn_model *m, int op, int part, int parts) {
    const dn_tensor *in = &m->tensor[m->op[op].input[0]];
    const dn_act *q = dn_data(m, m->op[op].input[0]);
    float *out = (float *)(void *)dn_data(m, m->op[op].output[0]);
    size_t from, to;
    dn_share(m, in->count, 64, part, parts, &from, &to);
    for (size_t i = from; i < to; i++) out[i] = (float)((double)in->scale * (q[i] - dn_arena_zero(in)));
}

bool dn_prepare_dequantise(dn_model *m, int op) {
    if (!dn_need(m, op, 1, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    if (out->type != DN_FLOAT32) return DN_REFUSE(m, op, DN_UNSUPPORTED, "output of type %d", (int)out->type);
    m->op[op].run = run_to_float;
    return per_tensor(m, op, in, "input") && dn_need_shape(m, op, out, "output", in->rank, in->dim);
}
