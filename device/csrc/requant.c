/* The arithmetic of TFLite's quantisation: real scales into fixed-point multipliers, and the parameters of kernels. */
#include <math.h>
#include <stdlib.h>

#include "prepare.h"

enum { WORTH_A_SEARCH = 32 };

bool dn_quantise_multiplier(double real, int32_t *multiplier, int32_t *shift) {
    *multiplier = 0;
    *shift = 0;
    if (real == 0.0) return true;
    if (!isfinite(real)) return false;
    int exponent;
    double fraction = frexp(real, &exponent);
    int64_t fixed = (int64_t)round(fraction * (double)(1LL << 31));
    if (fixed == 1LL << 31) {
        fixed /= 2;
        exponent++;
    }
    if (exponent < -31) return true;
    if (exponent > 30) return false;
    *multiplier = (int32_t)fixed;
    *shift = exponent;
    return true;
}

dn_sketch dn_sketch_add(const dn_add *p) {
    const double unit = 1 << DN_SKETCH_BITS;
    double out = ldexp(p->multiplier_out, p->shift_out - 31 + 20);
    double a = ldexp(p->multiplier_a, p->shift_a - 31) * out, b = ldexp(p->multiplier_b, p->shift_b - 31) * out * p->sign_b;
    double most = 255 * (a + fabs(b)); /* |a * by_a|, |b * by_b|, their zero points and their sums are no more */
    double doubt = 0.5 + unit * (2.5 * ldexp(1, p->shift_out) + 0x1p-24 * (3 * most + 258));
    int32_t span = 1;
    while (span < doubt) span *= 2;
    if (span > 64) return (dn_sketch){0, 0, 0, 0};
    return (dn_sketch){(float)(a * unit), (float)(b * unit),
                       (float)((0.5 - p->zero_a * a - p->zero_b * b) * unit + span), ((1 << DN_SKETCH_BITS) - 1) & ~(2 * span - 1)};
}

static bool quantised(const dn_tensor *t, float real, int32_t *q) {
    float rounded = roundf(real / t->scale);
    if (!(rounded >= -2147483648.0f && rounded <= 2147483000.0f)) return false;
    int64_t wide = (int64_t)rounded + t->zero_point;
    *q = wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : (int32_t)wide;
    return true;
}

static int32_t clamped(int32_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : v; }

bool dn_activation_range(dn_model *m, int op, int activation, const dn_tensor *out, int32_t *min, int32_t *max) {
    int32_t low = -128, high = 127, q = 0;
    bool fine = true;
    switch (activation) {
        case ACTIVATION_NONE:
            break;
        case ACTIVATION_RELU:
            fine = quantised(out, 0.0f, &q);
            low = clamped(q, -128, INT32_MAX);
            break;
        case ACTIVATION_RELU6:
            fine = quantised(out, 0.0f, &q);
            low = clamped(q, -128, INT32_MAX);
            fine = fine && quantised(out, 6.0f, &q);
            high = clamped(q, INT32_MIN, 127);
            break;
        case ACTIVATION_RELU_N1_TO_1:
            fine = quantised(out, -1.0f, &q);
            low = clamped(q, -128, INT32_MAX);
            fine = fine && quantised(out, 1.0f, &q);
            high = clamped(q, INT32_MIN, 127);
            break;
        default:
            return DN_REFUSE(m, op, DN_UNSUPPORTED, "fused activation %d", activation);
    }
    if (!fine || low > high)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "its activation leaves no value with scale %g and zero point %d",
                         (double)out->scale, out->zero_point);
    *min = low + DN_FROM_INT8;
    *max = high + DN_FROM_INT8;
    return true;
}

bool dn_channel_scales(dn_model *m, int op, const dn_tensor *in, const dn_tensor *weights, int axis,
                       const dn_tensor *out, int32_t channels, double **scale) {
    uint32_t count = weights->scales.count;
    if (weights->type != DN_INT8 || weights->data == NULL)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "weights of type %d%s; constant int8 is supported", (int)weights->type,
                         weights->data == NULL ? ", computed" : "");
    if (count != 1 && (count != (uint32_t)channels || weights->axis != axis))
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "weights have %u scales along dimension %d, expected 1, or %d along %d",
                         count, weights->axis, channels, axis);
    for (uint32_t i = 0; i < weights->zero_points.count; i++)
        if (dn_fb_i64_in(&m->fb, weights->zero_points, i) != 0)
            return DN_REFUSE(m, op, DN_UNSUPPORTED, "weights with zero points other than 0");
    *scale = malloc((size_t)channels * sizeof **scale);
    if (*scale == NULL) return DN_REFUSE(m, op, DN_NO_MEMORY, "no memory for %d scales", channels);
    for (int32_t c = 0; c < channels; c++) {
        double w = (double)dn_fb_f32_in(&m->fb, weights->scales, count == 1 ? 0 : (uint32_t)c);
        (*scale)[c] = (double)in->scale * w / (double)out->scale;
    }
    return true;
}

static bool read_bias(dn_model *m, int op, const dn_tensor *bias, int32_t channels, int32_t *value) {
    if (bias == NULL) return true;
    if (bias->type != DN_INT32 || bias->data == NULL || bias->count != (size_t)channels)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "bias of type %d with %zu values, expected %d int32 constants",
                         (int)bias->type, bias->count, channels);
    memcpy(value, bias->data, (size_t)channels * sizeof *value);
    return true;
}

/* The smallest and largest sum that a channel can make, its bias included. */
typedef struct {
    int64_t low, high;
} reach;

enum { SUMMED = 1 << 20 }; /* weights that 32 bits hold the sum of */

static void sum_weights(const dn_tensor *weights, int32_t channels, bool channels_last, int64_t *sum, int64_t *magnitude) {
    const int8_t *w = (const int8_t *)weights->data;
    size_t n = (size_t)channels, per_channel = weights->count / n;
    if (channels_last) {
        for (size_t i = 0; i < per_channel; i++, w += n)
            for (size_t c = 0; c < n; c++) {
                sum[c] += w[c];
                magnitude[c] += w[c] < 0 ? -w[c] : w[c];
            }
        return;
    }
    for (size_t c = 0; c < n; c++)
        for (size_t left = per_channel, count; left > 0; left -= count, w += count) {
            int32_t plain = 0, absolute = 0;
            count = left < SUMMED ? left : SUMMED;
            for (size_t i = 0; i < count; i++) {
                plain += w[i];
                absolute += w[i] < 0 ? -w[i] : w[i];
            }
            sum[c] += plain;
            magnitude[c] += absolute;
        }
}

static void find_quick(const dn_kernels *kernels, dn_requant *r, int32_t channels, const reach *reaches, int32_t *biases,
                       dn_quick *q) {
    int32_t min = r->min - r->zero_point, max = r->max - r->zero_point;
    r->quick = q;
    r->rectified = min >= 0;
    r->centre = r->rectified ? (min + max + 1) / 2 : 0;
    for (int32_t c = 0; c < channels; c += DN_QUICK_LANES, q++) {
        dn_quick_want want = {.min = min, .max = max, .centre = r->centre, .rectified = r->rectified};
        int32_t lanes = channels - c < DN_QUICK_LANES ? channels - c : DN_QUICK_LANES;
        for (int32_t i = 0; i < lanes; i++) {
            want.multiplier[i] = r->multiplier[c + i];
            want.shift[i] = r->shift[c + i];
            want.low[i] = reaches[c + i].low;
            want.high[i] = reaches[c + i].high;
        }
        kernels->find_quick(q, &want);
        for (int32_t i = 0; q->usable && i < lanes; i++) biases[c + i] -= q->base[i];
    }
}

static bool fill_requant(dn_model *m, int op, int32_t channels, const dn_tensor *in, const dn_tensor *bias,
                         const double *scale, const int64_t *sum, const int64_t *magnitude, dn_requant *r, reach *reaches,
                         int32_t **bias_at, const dn_kernels **kernels) {
    size_t room = ((size_t)channels + DN_CHANNEL_BLOCK - 1) / DN_CHANNEL_BLOCK * DN_CHANNEL_BLOCK;
    int32_t *v = dn_pool(m, 3 * room * sizeof *v);
    if (v == NULL) return false;
    int32_t *biases = v, *multiplier = v + room, *shift = v + 2 * room;
    if (!read_bias(m, op, bias, channels, biases)) return false;
    for (int32_t c = 0; c < channels; c++) {
        if (!dn_quantise_multiplier(scale[c], &multiplier[c], &shift[c]))
            return DN_REFUSE(m, op, DN_UNSUPPORTED, "channel %d is scaled by %g", c, scale[c]);
        if (shift[c] >= 0 && multiplier[c] != 0) *kernels = &dn_kernels_scalar;
        int64_t base = biases[c] - dn_arena_zero(in) * sum[c];
        int64_t positive = (magnitude[c] + sum[c]) / 2, negative = (sum[c] - magnitude[c]) / 2;
        reaches[c] = (reach){base + positive * DN_ACT_MIN + negative * DN_ACT_MAX,
                             base + positive * DN_ACT_MAX + negative * DN_ACT_MIN};
        biases[c] = (int32_t)(uint32_t)(uint64_t)base;
    }
    r->bias = *bias_at = biases;
    r->multiplier = multiplier;
    r->shift = shift;
    return true;
}

bool dn_make_requant(dn_model *m, int op, int32_t channels, const dn_tensor *in, const dn_tensor *weights,
                     bool channels_last, const dn_tensor *bias, const dn_tensor *out, const double *scale, size_t uses,
                     dn_requant *r, const dn_kernels **kernels) {
    int32_t *biases = NULL;
    int64_t *sum = calloc(2 * (size_t)channels, sizeof *sum);
    reach *reaches = calloc((size_t)channels, sizeof *reaches);
    bool fine = sum != NULL && reaches != NULL;
    if (!fine) DN_REFUSE(m, op, DN_NO_MEMORY, "no memory for %d sums", channels);
    *kernels = m->kernels;
    r->zero_point = dn_arena_zero(out);
    if (fine) sum_weights(weights, channels, channels_last, sum, sum + channels);
    fine = fine && fill_requant(m, op, channels, in, bias, scale, sum, sum + channels, r, reaches, &biases, kernels);
    for (size_t i = 0; fine && i < weights->count && (*kernels)->lowest_weight > -128; i++)
        if ((int8_t)weights->data[i] < (*kernels)->lowest_weight) *kernels = &dn_kernels_scalar;
    if (fine && (*kernels)->find_quick != NULL && !r->once && uses >= WORTH_A_SEARCH) {
        dn_quick *quick = dn_pool(m, ((size_t)channels + DN_CHANNEL_BLOCK - 1) / 16 * sizeof *quick);
        fine = quick != NULL;
        if (fine) find_quick(*kernels, r, channels, reaches, biases, quick);
    }
    free(sum);
    free(reaches);
    return fine;
}

bool dn_slide(dn_model *m, int op, const dn_tensor *in, int padding, int32_t k_h, int32_t k_w, int32_t stride_h,
              int32_t stride_w, int32_t dil_h, int32_t dil_w, dn_window *w) {
    if (stride_h <= 0 || stride_w <= 0 || dil_h <= 0 || dil_w <= 0 || k_h <= 0 || k_w <= 0 || stride_h > 65535 ||
        stride_w > 65535 || dil_h > 65535 || dil_w > 65535 || k_h > 65535 || k_w > 65535)
        return DN_REFUSE(m, op, DN_MALFORMED, "window %d×%d, strides %d, %d, dilations %d, %d", k_h, k_w, stride_h,
                         stride_w, dil_h, dil_w);
    int64_t span[2] = {(int64_t)(k_h - 1) * dil_h + 1, (int64_t)(k_w - 1) * dil_w + 1};
    if (span[0] > 1 << 24 || span[1] > 1 << 24)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "a window that spans %lld×%lld pixels", (long long)span[0],
                         (long long)span[1]);
    int64_t size[2] = {in->dim[1], in->dim[2]}, stride[2] = {stride_h, stride_w}, out[2], pad[2];
    if (padding != PADDING_SAME && padding != PADDING_VALID)
        return DN_REFUSE(m, op, DN_MALFORMED, "padding %d", padding);
    for (int i = 0; i < 2; i++) {
        out[i] = padding == PADDING_SAME ? (size[i] + stride[i] - 1) / stride[i]
                                         : (size[i] - span[i] + stride[i]) / stride[i];
        if (out[i] <= 0 || (padding == PADDING_VALID && size[i] < span[i]))
            return DN_REFUSE(m, op, DN_MALFORMED, "a window of %lld does not fit %lld pixels", (long long)span[i],
                             (long long)size[i]);
        int64_t total = (out[i] - 1) * stride[i] + span[i] - size[i];
        pad[i] = total > 0 ? total / 2 : 0;
    }
    *w = (dn_window){(int32_t)out[0], (int32_t)out[1], (int32_t)pad[0], (int32_t)pad[1]};
    return true;
}

/* `to` takes one column of the packed weights, the first of its groups; they are nr * kr values apart. */
static void pack_column(const int8_t *from, size_t k, size_t nr, size_t kr, int8_t *to) {
    size_t i = 0;
    if (kr == 4) /* a fixed size is copied without a call */
        for (; i + 4 <= k; i += 4, to += nr * 4) memcpy(to, from + i, 4);
    for (; i < k; i += kr, to += nr * kr) memcpy(to, from + i, k - i < kr ? k - i : kr);
}

static void pack_wide_column(const int8_t *from, size_t k, size_t nr, size_t kr, int8_t *to) {
    for (size_t i = 0; i < k; i++) {
        int16_t wide = from[i];
        memcpy(to + (i / kr * nr * kr + i % kr) * sizeof wide, &wide, sizeof wide);
    }
}

int8_t *dn_pack(dn_model *m, const dn_kernels *kernels, const int8_t *w, int32_t n, int32_t k) {
    size_t nr = (size_t)kernels->nr, kr = (size_t)kernels->kr, bytes = (size_t)kernels->weight_bytes;
    size_t blocks = ((size_t)n + nr - 1) / nr, groups = ((size_t)k + kr - 1) / kr;
    int8_t *packed = dn_pool(m, blocks * groups * nr * kr * bytes);
    if (packed == NULL) return NULL;
    for (size_t column = 0; column < (size_t)n; column++) {
        int8_t *to = packed + (column / nr * groups * nr * kr + column % nr * kr) * bytes;
        (bytes == 1 ? pack_column : pack_wide_column)(w + column * (size_t)k, (size_t)k, nr, kr, to);
    }
    return packed;
}
