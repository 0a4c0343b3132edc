/* The kernels in plain C: the definition that every vector kernel must equal bit for bit. Sums wrap, as LiteRT's do. */
#include <string.h>

#include "kernels.h"

enum { NR = 4, KR = 1, CHANNELS = 64 };

static void gemm_4x1__scalar(const dn_gemm *g, const dn_act *a, size_t lda, int rows, dn_act *out, size_t ldo) {
    const dn_requant *r = &g->requant;
    for (int32_t n0 = 0; n0 < g->n; n0 += NR) {
        const int8_t *block = g->packed + (size_t)n0 * (size_t)g->k;
        int32_t width = g->n - n0 < NR ? g->n - n0 : NR;
        for (int row = 0; row < rows; row++) {
            const dn_act *x = a + (size_t)row * lda;
            uint32_t sum[NR] = {0};
            for (int32_t k = 0; k < g->k; k++)
                for (int32_t n = 0; n < NR; n++) sum[n] += (uint32_t)((int32_t)x[k] * block[(size_t)k * NR + (size_t)n]);
            for (int32_t n = 0; n < width; n++) {
                int32_t c = n0 + n;
                int32_t q = dn_requantise_channel(r, c, (int32_t)(sum[n] + (uint32_t)r->bias[c]));
                out[(size_t)row * ldo + (size_t)c] = dn_finish(q, r->zero_point, r->min, r->max);
            }
        }
    }
}

static size_t depthwise_bytes__scalar(int32_t channels, int32_t k_h, int32_t k_w) {
    return (size_t)channels * (size_t)k_h * (size_t)k_w;
}

static void pack_depthwise__scalar(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed) {
    memcpy(packed, w, depthwise_bytes__scalar(channels, k_h, k_w));
}

static void depthwise__scalar(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    const dn_requant *r = &d->requant;
    for (int32_t x = 0; x < pixels; x++) {
        for (int32_t c = 0; c < d->channels; c++) {
            uint32_t sum = (uint32_t)r->bias[c];
            for (int32_t t = 0; t < d->k_h * d->k_w; t++) {
                size_t pixel = (size_t)(x * d->stride_w + t % d->k_w * d->dil_w);
                int32_t v = rows[t / d->k_w][pixel * (size_t)d->channels + (size_t)c];
                sum += (uint32_t)(v * d->packed[(size_t)t * (size_t)d->channels + (size_t)c]);
            }
            int32_t q = dn_requantise_channel(r, c, (int32_t)sum);
            out[(size_t)x * (size_t)d->channels + (size_t)c] = dn_finish(q, r->zero_point, r->min, r->max);
        }
    }
}

static void add__scalar(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    for (size_t i = 0; i < count; i++) {
        int32_t x = dn_requantise((int32_t)((uint32_t)(a[i] - p->zero_a) << 20), p->multiplier_a, p->shift_a);
        int32_t y = dn_requantise((int32_t)((uint32_t)(b[i] - p->zero_b) << 20), p->multiplier_b, p->shift_b);
        int32_t q = dn_requantise(x + p->sign_b * y, p->multiplier_out, p->shift_out);
        out[i] = dn_finish(q, p->zero_out, p->min, p->max);
    }
}

static void mul__scalar(const dn_mul *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    for (size_t i = 0; i < count; i++) {
        int32_t q = dn_requantise((a[i] - p->zero_a) * (b[i] - p->zero_b), p->multiplier, p->shift);
        out[i] = dn_finish(q, p->zero_out, p->min, p->max);
    }
}

static void mean__scalar(const dn_mean *p, const dn_act *a, size_t count, dn_act *out) {
    uint32_t sum[CHANNELS];
    for (size_t c = 0; c < count; c += CHANNELS) {
        size_t width = count - c < CHANNELS ? count - c : CHANNELS;
        for (size_t i = 0; i < width; i++) sum[i] = (uint32_t)p->base;
        for (size_t pixel = 0; pixel < p->pixels; pixel++)
            for (size_t i = 0; i < width; i++) sum[i] += (uint32_t)a[pixel * p->stride + c + i];
        for (size_t i = 0; i < width; i++)
            out[c + i] = dn_finish(dn_requantise((int32_t)sum[i], p->multiplier, p->shift), p->zero_out, DN_ACT_MIN, DN_ACT_MAX);
    }
}

static void lut__scalar(const uint8_t table[256], const dn_act *a, size_t count, dn_act *out) {
    for (size_t i = 0; i < count; i++) out[i] = (dn_act)table[(uint8_t)a[i]];
}

const dn_kernels dn_kernels_scalar = {
    .name = "scalar",
    .nr = NR,
    .kr = KR,
    .weight_bytes = 1,
    .lowest_weight = -128,
    .gemm = gemm_4x1__scalar,
    .depthwise_bytes = depthwise_bytes__scalar,
    .pack_depthwise = pack_depthwise__scalar,
    .depthwise = depthwise__scalar,
    .add = add__scalar,
    .mul = mul__scalar,
    .mean = mean__scalar,
    .lut = lut__scalar,
};
