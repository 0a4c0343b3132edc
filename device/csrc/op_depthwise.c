/* DEPTHWISE_CONV_2D. One channel in is an ordinary convolution of one channel; a multiplier of one has kernels of its
 * own; anything else runs in plain C. */
#include <stdlib.h>

#include "prepare.h"

enum { MAX_TAPS = 128 };

typedef struct {
    const dn_kernels *kernels; /* NULL: the plain loop */
    dn_depthwise depthwise;
    int32_t batch, in_h, in_w, in_c, out_h, out_w, out_c, multiplier, k_h, k_w, stride_h, stride_w, dil_h, dil_w;
    int32_t pad_top, pad_left;
    int32_t inner_from, inner_to; /* output columns whose windows lie inside the picture */
    const dn_act *blank;          /* a line of the input's zero point, as long as an input line */
} depthwise;

/* taps[]: where each tap of output pixel (y, x) lies; outside the picture: the blank line. */
static void find_taps(const depthwise *p, const dn_act *picture, int32_t y, int32_t x, const dn_act **taps) {
    size_t c = (size_t)p->in_c;
    for (int32_t ky = 0; ky < p->k_h; ky++) {
        int32_t in_y = y * p->stride_h - p->pad_top + ky * p->dil_h;
        for (int32_t kx = 0; kx < p->k_w; kx++) {
            int32_t in_x = x * p->stride_w - p->pad_left + kx * p->dil_w;
            bool inside_x = in_x >= 0 && in_x < p->in_w;
            const dn_act *line = p->blank;
            if (in_y >= 0 && in_y < p->in_h && inside_x) line = picture + (size_t)in_y * (size_t)p->in_w * c;
            *taps++ = line + (inside_x ? (size_t)in_x * c : 0);
        }
    }
}

static void run_depthwise(dn_model *m, int op, int part, int parts) {
    const depthwise *p = m->op[op].params;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t c = (size_t)p->in_c, from, to;
    const dn_act *taps[MAX_TAPS];
    dn_share((size_t)p->batch * (size_t)p->out_h, 1, part, parts, &from, &to);
    for (size_t line = from; line < to; line++) {
        const dn_act *picture = in + line / (size_t)p->out_h * (size_t)p->in_h * (size_t)p->in_w * c;
        int32_t y = (int32_t)(line % (size_t)p->out_h);
        dn_act *to_line = out + line * (size_t)p->out_w * c;
        for (int32_t x = 0; x < p->out_w;) {
            bool inner = x >= p->inner_from && x < p->inner_to;
            int32_t pixels = inner ? p->inner_to - x : 1;
            find_taps(p, picture, y, x, taps);
            p->kernels->depthwise(&p->depthwise, taps, (size_t)p->stride_w * c, pixels, to_line + (size_t)x * c);
            x += pixels;
        }
    }
}

/* Any multiplier, any window. Weights [k_h][k_w][out_c] as in the file. */
static void run_any(dn_model *m, int op, int part, int parts) {
    const depthwise *p = m->op[op].params;
    const dn_requant *r = &p->depthwise.requant;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t from, to, c = (size_t)p->in_c, n = (size_t)p->out_c;
    dn_share((size_t)p->batch * (size_t)p->out_h, 1, part, parts, &from, &to);
    for (size_t line = from; line < to; line++) {
        const dn_act *picture = in + line / (size_t)p->out_h * (size_t)p->in_h * (size_t)p->in_w * c;
        int32_t y0 = (int32_t)(line % (size_t)p->out_h) * p->stride_h - p->pad_top;
        for (int32_t x = 0; x < p->out_w; x++) {
            int32_t x0 = x * p->stride_w - p->pad_left;
            dn_act *pixel = out + (line * (size_t)p->out_w + (size_t)x) * n;
            for (size_t o = 0; o < n; o++) {
                uint32_t sum = (uint32_t)r->bias[o];
                for (int32_t ky = 0; ky < p->k_h; ky++) {
                    for (int32_t kx = 0; kx < p->k_w; kx++) {
                        int32_t in_y = y0 + ky * p->dil_h, in_x = x0 + kx * p->dil_w;
                        int32_t v = *p->blank;
                        if (in_y >= 0 && in_y < p->in_h && in_x >= 0 && in_x < p->in_w)
                            v = picture[((size_t)in_y * (size_t)p->in_w + (size_t)in_x) * c + o / (size_t)p->multiplier];
                        size_t tap = (size_t)ky * (size_t)p->k_w + (size_t)kx;
                        sum += (uint32_t)(v * p->depthwise.packed[tap * n + o]);
                    }
                }
                int32_t q = dn_requantise((int32_t)sum, r->multiplier[o], r->shift[o]);
                pixel[o] = dn_finish(q, r->zero_point, r->min, r->max);
            }
        }
    }
}

/* Sums of weights per channel, and the requantisation. */
static bool prepare_sums(dn_model *m, int op, const dn_tensor *in, const dn_tensor *w, const dn_tensor *bias,
                         const dn_tensor *out, depthwise *p, bool *fits) {
    size_t n = (size_t)p->out_c;
    double *scale = NULL;
    int32_t *sum = calloc(n, sizeof *sum);
    int64_t *magnitude = calloc(n, sizeof *magnitude);
    bool fine = sum != NULL && magnitude != NULL;
    if (!fine) DN_REFUSE(m, op, DN_NO_MEMORY, "no memory for %zu sums", n);
    fine = fine && dn_channel_scales(m, op, in, w, 3, out, p->out_c, &scale);
    for (size_t i = 0; fine && i < w->count; i++) {
        int32_t v = (int8_t)w->data[i];
        sum[i % n] += v;
        magnitude[i % n] += abs(v);
    }
    fine = fine && dn_make_requant(m, op, p->out_c, in, bias, out, scale, sum, magnitude, &p->depthwise.requant, fits);
    free(scale);
    free(sum);
    free(magnitude);
    return fine;
}

static bool prepare_weights(dn_model *m, const dn_tensor *w, depthwise *p) {
    size_t n = (size_t)p->out_c, taps = w->count / n;
    size_t room = p->kernels == NULL ? n : (n + DN_CHANNEL_BLOCK - 1) / DN_CHANNEL_BLOCK * DN_CHANNEL_BLOCK;
    int8_t *packed = dn_pool(m, taps * room);
    if (packed == NULL) return false;
    for (size_t t = 0; t < taps; t++) memcpy(packed + t * room, w->data + t * n, n);
    p->depthwise.packed = packed;
    return true;
}

static void find_inner(depthwise *p) {
    int32_t span = (p->k_w - 1) * p->dil_w;
    p->inner_from = (p->pad_left + p->stride_w - 1) / p->stride_w;
    int32_t last = p->in_w - 1 - span + p->pad_left; /* of the window's first column, plus pad_left */
    p->inner_to = last < 0 ? 0 : last / p->stride_w + 1;
    if (p->inner_to > p->out_w) p->inner_to = p->out_w;
}

bool dn_prepare_depthwise(dn_model *m, int op) {
    if (!dn_need(m, op, 2, 1, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *w = dn_in(m, op, 1), *bias = dn_in(m, op, 2), *out = dn_out(m, op, 0);
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output")) return false;
    if (in->rank != 4 || w->rank != 4 || w->dim[0] != 1 || w->dim[3] % in->dim[3] != 0)
        return DN_REFUSE(m, op, DN_MALFORMED, "weights [%d×…×%d] for %d channels", w->rank ? w->dim[0] : 0,
                         w->rank == 4 ? w->dim[3] : 0, in->rank == 4 ? in->dim[3] : 0);
    const dn_fb *fb = &m->fb;
    dn_table o = m->op[op].options;
    depthwise *p = dn_pool(m, sizeof *p);
    dn_window win;
    if (p == NULL) return false;
    *p = (depthwise){.batch = in->dim[0], .in_h = in->dim[1], .in_w = in->dim[2], .in_c = in->dim[3],
                     .out_c = w->dim[3], .multiplier = w->dim[3] / in->dim[3], .k_h = w->dim[1], .k_w = w->dim[2],
                     .stride_h = (int32_t)dn_fb_int(fb, o, DEPTHWISE_STRIDE_H, 4, 0),
                     .stride_w = (int32_t)dn_fb_int(fb, o, DEPTHWISE_STRIDE_W, 4, 0),
                     .dil_h = (int32_t)dn_fb_int(fb, o, DEPTHWISE_DILATION_H, 4, 1),
                     .dil_w = (int32_t)dn_fb_int(fb, o, DEPTHWISE_DILATION_W, 4, 1)};
    if (!dn_slide(m, op, in, (int)dn_fb_int(fb, o, DEPTHWISE_PADDING, 1, 0), p->k_h, p->k_w, p->stride_h, p->stride_w,
                  p->dil_h, p->dil_w, &win) ||
        !dn_need_shape(m, op, out, "output", 4, (int32_t[]){in->dim[0], win.out_h, win.out_w, w->dim[3]}) ||
        !dn_activation_range(m, op, (int)dn_fb_int(fb, o, DEPTHWISE_ACTIVATION, 1, 0), out, &p->depthwise.requant.min,
                             &p->depthwise.requant.max))
        return false;
    p->out_h = win.out_h;
    p->out_w = win.out_w;
    p->pad_top = win.pad_top;
    p->pad_left = win.pad_left;
    p->depthwise.channels = p->out_c;
    p->depthwise.taps = p->k_h * p->k_w;
    p->depthwise.kernel_w = p->k_w;
    find_inner(p);
    bool fits = false;
    size_t line = (size_t)p->in_w * (size_t)p->in_c;
    dn_act *blank = dn_pool(m, line);
    if (blank == NULL || !prepare_sums(m, op, in, w, bias, out, p, &fits)) return false;
    memset(blank, (uint8_t)dn_arena_zero(in), line + DN_SLACK);
    p->blank = blank;
    if (p->multiplier == 1 && p->depthwise.taps <= MAX_TAPS) p->kernels = fits ? m->kernels : &dn_kernels_scalar;
    m->op[op].run = p->kernels == NULL ? run_any : run_depthwise;
    m->op[op].macs = (uint64_t)out->count * (uint64_t)p->depthwise.taps;
    m->op[op].params = p;
    return prepare_weights(m, w, p);
}
