/* DEPTHWISE_CONV_2D. One channel in is an ordinary convolution of one channel; a multiplier of one has kernels of its
 * own, the commonest windows some that need no padded copy; anything else runs in plain C. */
#include <stdlib.h>

#include "prepare.h"

typedef struct {
    const dn_kernels *kernels;
    bool plain; /* the plain loop */
    dn_depthwise depthwise;
    int32_t batch, in_h, in_w, in_c, out_h, out_w, out_c, multiplier, k_h, k_w, stride_h, stride_w, dil_h, dil_w;
    int32_t pad_top, pad_left;
    dn_stripe stripe;
    dn_act zero;
} depthwise;

static void run_depthwise(dn_model *m, int op, int part, int parts) {
    const depthwise *p = m->op[op].params;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]), *padded = dn_scratch(m, op);
    size_t c = (size_t)p->in_c, wide = (size_t)p->stripe.wide * c, from, to;
    const dn_act *rows[DN_MAX_ROWS];
    dn_share_op(m, op, part, parts, &from, &to);
    while (from < to) {
        const dn_act *picture = in + from / (size_t)p->out_h * (size_t)p->in_h * (size_t)p->in_w * c;
        int32_t y = (int32_t)(from % (size_t)p->out_h), count = p->stripe.rows;
        if (count > p->out_h - y) count = p->out_h - y;
        if ((size_t)count > to - from) count = (int32_t)(to - from);
        dn_fill_stripe(&p->stripe, picture, y, count, padded);
        for (int32_t i = 0; i < count; i++, from++) {
            for (int32_t ky = 0; ky < p->k_h; ky++)
                rows[ky] = padded + (size_t)(i * p->stride_h + ky * p->dil_h) * wide;
            p->kernels->depthwise(&p->depthwise, rows, p->out_w, out + from * (size_t)p->out_w * c);
        }
    }
}

static void run_window(dn_model *m, int op, int part, int parts) {
    const depthwise *p = m->op[op].params;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t c = (size_t)p->in_c, height = (size_t)p->out_h, from = 0, to = (size_t)p->batch * height, first_c = 0, last_c = c;
    dn_picture picture = {p->in_h, p->in_w, p->pad_top, p->pad_left, p->stride_h, p->out_w, p->zero};
    if (m->op[op].split.by == DN_BY_CHANNELS) dn_share_op(m, op, part, parts, &first_c, &last_c);
    else dn_share_op(m, op, part, parts, &from, &to);
    while (from < to && first_c < last_c) {
        size_t first = from % height, last = to - from < height - first ? first + to - from : height;
        p->kernels->window->run(&p->depthwise, &picture, in + from / height * (size_t)p->in_h * (size_t)p->in_w * c, (int)first,
                                (int)last, first_c, last_c, out + from * (size_t)p->out_w * c);
        from += last - first;
    }
}

/* Any multiplier, any window. Weights [k_h][k_w][out_c] as in the file. */
static void run_any(dn_model *m, int op, int part, int parts) {
    const depthwise *p = m->op[op].params;
    const dn_requant *r = &p->depthwise.requant;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t from, to, c = (size_t)p->in_c, n = (size_t)p->out_c;
    dn_share_op(m, op, part, parts, &from, &to);
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
                        int32_t v = p->zero;
                        if (in_y >= 0 && in_y < p->in_h && in_x >= 0 && in_x < p->in_w)
                            v = picture[((size_t)in_y * (size_t)p->in_w + (size_t)in_x) * c + o / (size_t)p->multiplier];
                        size_t tap = (size_t)ky * (size_t)p->k_w + (size_t)kx;
                        sum += (uint32_t)(v * p->depthwise.packed[tap * n + o]);
                    }
                }
                int32_t q = dn_requantise_channel(r, (int32_t)o, (int32_t)sum);
                pixel[o] = dn_finish(q, r->zero_point, r->min, r->max);
            }
        }
    }
}

static bool prepare_requant(dn_model *m, int op, const dn_tensor *in, const dn_tensor *w, const dn_tensor *bias,
                            const dn_tensor *out, depthwise *p) {
    double *scale = NULL;
    size_t uses = p->plain ? 0 : out->count / (size_t)p->out_c; /* the plain loop knows no dn_quick */
    bool fine = dn_channel_scales(m, op, in, w, 3, out, p->out_c, &scale) &&
                dn_make_requant(m, op, p->out_c, in, w, true, bias, out, scale, uses, &p->depthwise.requant, &p->kernels);
    free(scale);
    return fine;
}

static bool takes_window(const depthwise *p) {
    const dn_window_kernels *window = p->kernels->window;
    return !p->plain && window != NULL && window->takes(&p->depthwise, p->stride_h, p->dil_h);
}

static bool prepare_weights(dn_model *m, const dn_tensor *w, depthwise *p) {
    const int8_t *from = (const int8_t *)w->data;
    const dn_kernels *k = p->kernels;
    bool window = takes_window(p);
    int8_t *packed = dn_pool(m, p->plain ? w->count : window ? k->window->bytes(&p->depthwise)
                                                             : k->depthwise_bytes(p->out_c, p->k_h, p->k_w));
    if (packed == NULL) return false;
    if (p->plain) memcpy(packed, from, w->count);
    else if (window) k->window->pack(&p->depthwise, from, packed);
    else k->pack_depthwise(from, p->out_c, p->k_h, p->k_w, packed);
    p->depthwise.packed = packed;
    return true;
}

static bool prepare_stripe(dn_model *m, int op, depthwise *p) {
    int64_t wide = (int64_t)(p->out_w - 1) * p->stride_w + (int64_t)(p->k_w - 1) * p->dil_w + 1;
    if (wide > INT32_MAX) return DN_REFUSE(m, op, DN_TOO_LARGE, "windows over %lld pixels", (long long)wide);
    p->stripe = (dn_stripe){.height = p->in_h, .width = p->in_w, .channels = p->in_c, .pad_top = p->pad_top,
                            .pad_left = p->pad_left, .stride_h = p->stride_h, .wide = (int32_t)wide,
                            .span = (p->k_h - 1) * p->dil_h + 1, .zero = p->zero};
    return dn_prepare_stripe(m, op, &p->stripe, p->out_h);
}

bool dn_prepare_depthwise(dn_model *m, int op) {
    if (!dn_need(m, op, 2, 1, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *w = dn_in(m, op, 1), *bias = dn_in(m, op, 2), *out = dn_out(m, op, 0);
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output")) return false;
    if (in->rank != 4 || w->rank != 4 || w->dim[0] != 1 || w->dim[3] % in->dim[3] != 0)
        return DN_REFUSE(m, op, DN_MALFORMED, "weights [%d×…×%d] for %d channels", w->rank ? w->dim[0] : 0,
                         w->rank == 4 ? w->dim[3] : 0, in->rank == 4 ? in->dim[3] : 0);
    if (in->dim[3] == 1) return dn_prepare_single_channel(m, op);
    const dn_fb *fb = &m->fb;
    dn_table o = m->op[op].options;
    depthwise *p = dn_pool(m, sizeof *p);
    int32_t top, left;
    const dn_tensor *padded = dn_absorb_pad(m, op, &top, &left);
    in = dn_in(m, op, 0);
    dn_window win;
    if (p == NULL) return false;
    *p = (depthwise){.batch = in->dim[0], .in_h = in->dim[1], .in_w = in->dim[2], .in_c = in->dim[3],
                     .out_c = w->dim[3], .multiplier = w->dim[3] / in->dim[3], .k_h = w->dim[1], .k_w = w->dim[2],
                     .stride_h = (int32_t)dn_fb_int(fb, o, DEPTHWISE_STRIDE_H, 4, 0),
                     .stride_w = (int32_t)dn_fb_int(fb, o, DEPTHWISE_STRIDE_W, 4, 0),
                     .dil_h = (int32_t)dn_fb_int(fb, o, DEPTHWISE_DILATION_H, 4, 1),
                     .dil_w = (int32_t)dn_fb_int(fb, o, DEPTHWISE_DILATION_W, 4, 1)};
    if (!dn_slide(m, op, padded, (int)dn_fb_int(fb, o, DEPTHWISE_PADDING, 1, 0), p->k_h, p->k_w, p->stride_h, p->stride_w,
                  p->dil_h, p->dil_w, &win) ||
        !dn_need_shape(m, op, out, "output", 4, (int32_t[]){in->dim[0], win.out_h, win.out_w, w->dim[3]}) ||
        !dn_activation_range(m, op, (int)dn_fb_int(fb, o, DEPTHWISE_ACTIVATION, 1, 0), out, &p->depthwise.requant.min,
                             &p->depthwise.requant.max))
        return false;
    p->out_h = win.out_h;
    p->out_w = win.out_w;
    p->pad_top = win.pad_top + top;
    p->pad_left = win.pad_left + left;
    p->zero = (dn_act)dn_arena_zero(in);
    p->depthwise.channels = p->out_c;
    p->depthwise.k_h = p->k_h;
    p->depthwise.k_w = p->k_w;
    p->depthwise.stride_w = p->stride_w;
    p->depthwise.dil_w = p->dil_w;
    p->plain = p->multiplier != 1 || p->k_h > DN_MAX_ROWS || p->k_h * p->k_w > DN_MAX_TAPS;
    if (!prepare_requant(m, op, in, w, bias, out, p)) return false;
    bool window = takes_window(p);
    if (!p->plain && !window && !prepare_stripe(m, op, p)) return false;
    size_t lines = (size_t)p->batch * (size_t)p->out_h;
    dn_split by_channels = {DN_BY_CHANNELS, (size_t)p->out_c, DN_CHANNEL_BLOCK}, by_lines = {DN_BY_LINES, lines, 1};
    m->op[op].local = window && dn_split_of(m, lines, (size_t)p->out_c).by == DN_BY_CHANNELS;
    m->op[op].split = m->op[op].local ? by_channels : by_lines;
    m->op[op].run = p->plain ? run_any : window ? run_window : run_depthwise;
    m->op[op].macs = (uint64_t)out->count * (uint64_t)(p->k_h * p->k_w);
    m->op[op].params = p;
    return prepare_weights(m, w, p);
}
