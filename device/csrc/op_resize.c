/* RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR, in TFLite's 10-bit fixed point and float arithmetic. */
#include <math.h>

#include "prepare.h"

typedef struct {
    int32_t low, high; /* source lines */
    int32_t share;     /* of `high`, in 1/1024 */
} sample;

typedef struct {
    int32_t in_h, in_w, channels, out_h, out_w;
    size_t lines;
    bool nearest;
    sample *y, *x; /* [out_h], [out_w] */
} resize;

static void run_resize(dn_model *m, int op, int part, int parts) {
    const resize *p = m->op[op].params;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t c = (size_t)p->channels, from, to;
    dn_share(m, p->lines, 1, part, parts, &from, &to);
    for (size_t line = from; line < to; line++) {
        const dn_act *picture = in + line / (size_t)p->out_h * (size_t)p->in_h * (size_t)p->in_w * c;
        sample y = p->y[line % (size_t)p->out_h];
        const dn_act *low = picture + (size_t)y.low * (size_t)p->in_w * c;
        const dn_act *high = picture + (size_t)y.high * (size_t)p->in_w * c;
        for (int32_t i = 0; i < p->out_w; i++) {
            sample x = p->x[i];
            dn_act *pixel = out + (line * (size_t)p->out_w + (size_t)i) * c;
            if (p->nearest) {
                memcpy(pixel, low + (size_t)x.low * c, c);
                continue;
            }
            for (size_t k = 0; k < c; k++) {
                int64_t ll = low[(size_t)x.low * c + k] - DN_FROM_INT8, lh = low[(size_t)x.high * c + k] - DN_FROM_INT8;
                int64_t hl = high[(size_t)x.low * c + k] - DN_FROM_INT8, hh = high[(size_t)x.high * c + k] - DN_FROM_INT8;
                int64_t sum = ll * (1024 - y.share) * (1024 - x.share) + hl * y.share * (1024 - x.share) +
                              lh * (1024 - y.share) * x.share + hh * y.share * x.share;
                pixel[k] = (dn_act)((sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20) + DN_FROM_INT8);
            }
        }
    }
}

static void bilinear(sample *s, int32_t in, int32_t out, bool align, bool half_pixel) {
    int64_t scale = align && out > 1 ? (1024LL * (in - 1) + (out - 1) / 2) / (out - 1) : (1024LL * in + out / 2) / out;
    for (int32_t i = 0; i < out; i++) {
        int64_t at = half_pixel ? i * scale + scale / 2 - 512 : i * scale;
        int64_t low = at / 1024, high = (at + 1023) / 1024;
        if (low < 0) low = 0;
        if (high > in - 1) high = in - 1;
        if (low > in - 1) low = in - 1;
        if (high < 0) high = 0;
        s[i] = (sample){(int32_t)low, (int32_t)high, (int32_t)(at - 1024 * low)};
    }
}

static void nearest(sample *s, int32_t in, int32_t out, bool align, bool half_pixel) {
    float scale = align && out > 1 ? (float)(in - 1) / (float)(out - 1) : (float)in / (float)out;
    float offset = half_pixel ? 0.5f : 0.0f;
    for (int32_t i = 0; i < out; i++) {
        float at = ((float)i + offset) * scale;
        int32_t k = (int32_t)(align ? roundf(at) : floorf(at));
        s[i].low = k > in - 1 ? in - 1 : k < 0 ? 0 : k;
    }
}

static bool prepare_resize(dn_model *m, int op, int align_field, int half_field, bool is_nearest) {
    if (!dn_need(m, op, 2, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    int32_t size[2];
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output") ||
        !dn_need_same_quantisation(m, op, in, out))
        return false;
    int count = dn_need_ints(m, op, dn_in(m, op, 1), "size", 2, size);
    if (count < 0) return false;
    if (count != 2 || in->rank != 4) return DN_REFUSE(m, op, DN_MALFORMED, "size of %d values", count);
    if (!dn_need_shape(m, op, out, "output", 4, (int32_t[]){in->dim[0], size[0], size[1], in->dim[3]})) return false;
    bool align = dn_fb_int(&m->fb, m->op[op].options, align_field, 1, 0) != 0;
    bool half_pixel = dn_fb_int(&m->fb, m->op[op].options, half_field, 1, 0) != 0;
    if (align && half_pixel) return DN_REFUSE(m, op, DN_MALFORMED, "both align_corners and half_pixel_centers");
    resize *p = dn_pool(m, sizeof *p);
    sample *samples = dn_pool(m, ((size_t)size[0] + (size_t)size[1]) * sizeof *samples);
    if (p == NULL || samples == NULL) return false;
    *p = (resize){in->dim[1], in->dim[2], in->dim[3], size[0], size[1], (size_t)in->dim[0] * (size_t)size[0], is_nearest,
                  samples, samples + size[0]};
    (is_nearest ? nearest : bilinear)(p->y, p->in_h, p->out_h, align, half_pixel);
    (is_nearest ? nearest : bilinear)(p->x, p->in_w, p->out_w, align, half_pixel);
    m->op[op].params = p;
    m->op[op].run = run_resize;
    return true;
}

bool dn_prepare_bilinear(dn_model *m, int op) {
    return prepare_resize(m, op, BILINEAR_ALIGN_CORNERS, BILINEAR_HALF_PIXEL, false);
}

bool dn_prepare_nearest(dn_model *m, int op) {
    return prepare_resize(m, op, NEAREST_ALIGN_CORNERS, NEAREST_HALF_PIXEL, true);
}
