/* CONV_2D and FULLY_CONNECTED: one packed matrix product. Pointwise convolutions read the input where it lies; others
 * slide their windows over a padded copy of a few rows, or gather a few windows into a scratch tile first. */
#include <stdlib.h>

#include "prepare.h"

enum { TILE_BYTES = 24 * 1024, WORTH_SLIDING = 5 };

typedef struct {
    const dn_kernels *kernels;
    dn_gemm gemm;
    bool direct; /* a window is one pixel, and pixels follow each other */
    bool slides; /* over `stripe` */
    dn_stripe stripe;
    int32_t batch;
    int32_t in_h, in_w, in_c, out_h, out_w, k_h, k_w, stride_h, stride_w, dil_h, dil_w, pad_top, pad_left;
    size_t rows;  /* output pixels, all of the batch */
    size_t lines; /* of them */
    size_t tile; /* of them, at a time */
    dn_act zero;
} conv;

/* One row of a window, up to 16 bytes, or more: a fixed size copies much faster than a variable one. What is written
 * beyond is overwritten by the next, or lies in the scratch tile's slack. */
static inline void copy_row(dn_act *to, const dn_act *from, size_t bytes) {
    if (bytes <= 16) memcpy(to, from, 16);
    else memcpy(to, from, bytes);
}

/* The window whose first pixel is (y0, x0): k_h * k_w * in_c values, the zero point outside the picture. */
static void gather(const conv *p, const dn_act *picture, int32_t y0, int32_t x0, dn_act *to) {
    size_t c = (size_t)p->in_c, row = (size_t)p->k_w * c;
    bool whole = p->dil_w == 1 && x0 >= 0 && x0 + p->k_w <= p->in_w;
    for (int32_t ky = 0; ky < p->k_h; ky++, to += row) {
        int32_t y = y0 + ky * p->dil_h;
        if (y < 0 || y >= p->in_h) {
            memset(to, (uint8_t)p->zero, row);
            continue;
        }
        const dn_act *line = picture + (size_t)y * (size_t)p->in_w * c;
        if (whole) {
            copy_row(to, line + (size_t)x0 * c, row);
            continue;
        }
        for (int32_t kx = 0; kx < p->k_w; kx++) {
            int32_t x = x0 + kx * p->dil_w;
            if (x < 0 || x >= p->in_w) memset(to + (size_t)kx * c, (uint8_t)p->zero, c);
            else memcpy(to + (size_t)kx * c, line + (size_t)x * c, c);
        }
    }
}

/* The windows of output pixels [row, row + rows), counted through the batch. */
static void gather_rows(const conv *p, const dn_act *in, size_t row, size_t rows, dn_act *to) {
    size_t pixels = (size_t)p->out_h * (size_t)p->out_w, picture_bytes = (size_t)p->in_h * (size_t)p->in_w * (size_t)p->in_c;
    const dn_act *picture = in + row / pixels * picture_bytes;
    int32_t y = (int32_t)(row % pixels / (size_t)p->out_w), x = (int32_t)(row % (size_t)p->out_w);
    for (size_t i = 0; i < rows; i++, to += p->gemm.k) {
        gather(p, picture, y * p->stride_h - p->pad_top, x * p->stride_w - p->pad_left, to);
        if (++x < p->out_w) continue;
        x = 0;
        if (++y < p->out_h) continue;
        y = 0;
        picture += picture_bytes;
    }
}

/* Output channels [from, to) of a product, `from` a multiple of DN_QUICK_LANES, and so of the kernels' nr. */
static dn_gemm columns(const dn_gemm *g, const dn_kernels *kernels, size_t from, size_t to) {
    dn_gemm part = *g;
    size_t kr = (size_t)kernels->kr, k = ((size_t)g->k + kr - 1) / kr * kr;
    part.packed += from * k * (size_t)kernels->weight_bytes;
    part.n = (int32_t)(to - from);
    part.requant.bias += from;
    part.requant.multiplier += from;
    part.requant.shift += from;
    if (part.requant.quick != NULL) part.requant.quick += from / DN_QUICK_LANES;
    return part;
}

static void run_sliding(dn_model *m, int op, int part, int parts) {
    const conv *p = m->op[op].params;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]), *padded = dn_scratch(m, op);
    size_t c = (size_t)p->in_c, row = (size_t)p->stripe.wide * c, n = (size_t)p->gemm.n, from, to;
    dn_share_op(m, op, part, parts, &from, &to);
    while (from < to) {
        const dn_act *picture = in + from / (size_t)p->out_h * (size_t)p->in_h * (size_t)p->in_w * c;
        int32_t y = (int32_t)(from % (size_t)p->out_h), count = p->stripe.rows;
        if (count > p->out_h - y) count = p->out_h - y;
        if ((size_t)count > to - from) count = (int32_t)(to - from);
        dn_fill_stripe(&p->stripe, picture, y, count, padded);
        for (int32_t i = 0; i < count; i++, from++)
            p->kernels->gemm(&p->gemm, padded + (size_t)(i * p->stride_h) * row, (size_t)p->stride_w * c, p->out_w,
                             out + from * (size_t)p->out_w * n, n);
    }
}

static void run_conv(dn_model *m, int op, int part, int parts) {
    const conv *p = m->op[op].params;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t n = (size_t)p->gemm.n, k = (size_t)p->gemm.k, line = p->rows / p->lines, from, to;
    dn_share_op(m, op, part, parts, &from, &to);
    if (from == to) return;
    if (m->op[op].split.by == DN_BY_CHANNELS) {
        dn_gemm mine = columns(&p->gemm, p->kernels, from, to);
        p->kernels->gemm(&mine, in, k, (int)p->rows, out + from, n);
        return;
    }
    from *= line;
    to *= line;
    dn_act *tile = dn_scratch(m, op);
    for (size_t row = from; row < to; row += p->tile) {
        size_t rows = to - row < p->tile ? to - row : p->tile;
        const dn_act *a = in + row * k;
        if (!p->direct) {
            gather_rows(p, in, row, rows, tile);
            a = tile;
        }
        p->kernels->gemm(&p->gemm, a, k, (int)rows, out + row * n, n);
    }
}

/* int8 [n][k_h][k_w * in_c], every row of a window filled up with zeros to whole groups, so that what lies behind it in the
 * picture does not count. */
static int8_t *pack_segments(dn_model *m, int op, const conv *p, const int8_t *w, size_t row, size_t segments) {
    size_t kr = (size_t)p->kernels->kr, wide = (row + kr - 1) / kr * kr, n = (size_t)p->gemm.n;
    int8_t *filled = calloc(n * segments, wide);
    if (filled == NULL) {
        DN_REFUSE(m, op, DN_NO_MEMORY, "no memory for %zu weights", n * segments * wide);
        return NULL;
    }
    for (size_t i = 0; i < n * segments; i++) memcpy(filled + i * wide, w + i * row, row);
    int8_t *packed = dn_pack(m, p->kernels, filled, p->gemm.n, (int32_t)(segments * wide));
    free(filled);
    return packed;
}

/* Packs the weights, int8 [n][k], and their requantisation. */
static bool prepare_gemm(dn_model *m, int op, const dn_tensor *weights, int32_t n, int32_t k, const dn_tensor *in,
                         const dn_tensor *bias, const dn_tensor *out, const double *scale, conv *p) {
    const int8_t *w = (const int8_t *)weights->data;
    if (!dn_make_requant(m, op, n, in, weights, false, bias, out, scale, p->rows, &p->gemm.requant, &p->kernels)) return false;
    p->gemm.n = n;
    p->gemm.k = k;
    int64_t kr = p->kernels->kr, filled = ((int64_t)p->k_w * p->in_c + kr - 1) / kr * kr * p->k_h;
    p->slides = !p->direct && filled <= p->kernels->windows && p->dil_w == 1 && p->out_w >= WORTH_SLIDING;
    if (!p->slides) {
        p->gemm.packed = dn_pack(m, p->kernels, w, n, k);
        return p->gemm.packed != NULL;
    }
    p->gemm.segments = p->k_h;
    p->gemm.k = p->k_w * p->in_c;
    p->gemm.next_segment = (size_t)p->dil_h * (size_t)p->stripe.wide * (size_t)p->in_c;
    p->gemm.packed = pack_segments(m, op, p, w, (size_t)p->gemm.k, (size_t)p->k_h);
    return p->gemm.packed != NULL;
}

static bool prepare_tiles(dn_model *m, int op, conv *p) {
    size_t k = (size_t)p->gemm.k;
    m->op[op].params = p;
    m->op[op].split = p->direct ? dn_split_of(m, p->lines, (size_t)p->gemm.n) : (dn_split){DN_BY_LINES, p->lines, 1};
    m->op[op].local = p->direct && m->op[op].split.by == DN_BY_LINES;
    if (p->slides) {
        m->op[op].macs = (uint64_t)p->rows * (uint64_t)p->gemm.n * k * (uint64_t)p->k_h;
        m->op[op].run = run_sliding;
        return dn_prepare_stripe(m, op, &p->stripe, p->out_h);
    }
    p->tile = p->rows;
    if (!p->direct) {
        p->tile = TILE_BYTES / k / 8 * 8;
        if (p->tile < 8) p->tile = 8;
        if (p->tile > p->rows) p->tile = p->rows;
        if (p->tile * k > m->max_bytes) return DN_REFUSE(m, op, DN_TOO_LARGE, "a window of %zu values", k);
        m->op[op].scratch_bytes = p->tile * k;
    }
    m->op[op].macs = (uint64_t)p->rows * (uint64_t)p->gemm.n * k;
    m->op[op].run = run_conv;
    return true;
}

/* What the two kinds of convolution say differently. */
typedef struct {
    int padding, activation, axis;
    int32_t n, k_h, k_w, stride_h, stride_w, dil_h, dil_w;
} shape;

static int32_t option(dn_model *m, int op, int field, int32_t absent) {
    return (int32_t)dn_fb_int(&m->fb, m->op[op].options, field, 4, absent);
}

static bool prepare_any(dn_model *m, int op, dn_tensor *w, const shape *s) {
    dn_tensor *bias = dn_in(m, op, 2), *out = dn_out(m, op, 0);
    int32_t top, left;
    const dn_tensor *padded = dn_absorb_pad(m, op, &top, &left), *in = dn_in(m, op, 0);
    dn_window win;
    if (!dn_slide(m, op, padded, s->padding, s->k_h, s->k_w, s->stride_h, s->stride_w, s->dil_h, s->dil_w, &win)) return false;
    if (!dn_need_shape(m, op, out, "output", 4, (int32_t[]){in->dim[0], win.out_h, win.out_w, s->n})) return false;
    conv *p = dn_pool(m, sizeof *p);
    double *scale = NULL;
    if (p == NULL ||
        !dn_activation_range(m, op, s->activation, out, &p->gemm.requant.min, &p->gemm.requant.max) ||
        !dn_channel_scales(m, op, in, w, s->axis, out, s->n, &scale))
        return false;
    *p = (conv){.gemm = p->gemm, .in_h = in->dim[1], .in_w = in->dim[2], .in_c = in->dim[3], .out_h = win.out_h,
                .out_w = win.out_w, .k_h = s->k_h, .k_w = s->k_w, .stride_h = s->stride_h, .stride_w = s->stride_w,
                .dil_h = s->dil_h, .dil_w = s->dil_w, .pad_top = win.pad_top + top, .pad_left = win.pad_left + left,
                .rows = out->count / (size_t)s->n, .lines = (size_t)in->dim[0] * (size_t)win.out_h, .zero = (dn_act)dn_arena_zero(in), .batch = in->dim[0]};
    int64_t wide = (int64_t)(p->out_w - 1) * p->stride_w + (int64_t)(p->k_w - 1) * p->dil_w + 1;
    if (wide * p->in_c > INT32_MAX) return DN_REFUSE(m, op, DN_TOO_LARGE, "windows over %lld pixels", (long long)wide);
    p->stripe = (dn_stripe){.height = p->in_h, .width = p->in_w, .channels = p->in_c, .pad_top = p->pad_top,
                            .pad_left = p->pad_left, .stride_h = p->stride_h, .wide = (int32_t)wide,
                            .span = (p->k_h - 1) * p->dil_h + 1, .zero = p->zero};
    p->direct = p->k_h == 1 && p->k_w == 1 && p->stride_h == 1 && p->stride_w == 1 && padded == in;
    int32_t k = (int32_t)(w->count / (size_t)s->n);
    bool fine = prepare_gemm(m, op, w, s->n, k, in, bias, out, scale, p);
    free(scale);
    return fine && prepare_tiles(m, op, p);
}

bool dn_prepare_conv(dn_model *m, int op) {
    if (!dn_need(m, op, 2, 1, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *w = dn_in(m, op, 1);
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, dn_out(m, op, 0), "output")) return false;
    if (in->rank != 4 || w->rank != 4)
        return DN_REFUSE(m, op, DN_MALFORMED, "input of %d and weights of %d dimensions, expected 4", in->rank, w->rank);
    if (w->dim[3] != in->dim[3])
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "grouped: %d channels in, weights for %d", in->dim[3], w->dim[3]);
    shape s = {.padding = (int)dn_fb_int(&m->fb, m->op[op].options, CONV_PADDING, 1, 0),
               .activation = (int)dn_fb_int(&m->fb, m->op[op].options, CONV_ACTIVATION, 1, 0), .axis = 0, .n = w->dim[0],
               .k_h = w->dim[1], .k_w = w->dim[2], .stride_h = option(m, op, CONV_STRIDE_H, 0),
               .stride_w = option(m, op, CONV_STRIDE_W, 0), .dil_h = option(m, op, CONV_DILATION_H, 1),
               .dil_w = option(m, op, CONV_DILATION_W, 1)};
    return prepare_any(m, op, w, &s);
}

bool dn_prepare_single_channel(dn_model *m, int op) {
    dn_tensor *file = dn_in(m, op, 1), w = *file;
    size_t n = (size_t)w.dim[3], taps = w.count / n;
    if (w.data == NULL || w.type != DN_INT8)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "weights of type %d; constant int8 is supported", (int)w.type);
    uint8_t *turned = malloc(w.count);
    if (turned == NULL) return DN_REFUSE(m, op, DN_NO_MEMORY, "no memory for %zu weights", w.count);
    for (size_t t = 0; t < taps; t++)
        for (size_t c = 0; c < n; c++) turned[c * taps + t] = w.data[t * n + c];
    w.data = turned;
    shape s = {.padding = (int)dn_fb_int(&m->fb, m->op[op].options, DEPTHWISE_PADDING, 1, 0),
               .activation = (int)dn_fb_int(&m->fb, m->op[op].options, DEPTHWISE_ACTIVATION, 1, 0), .axis = 3,
               .n = w.dim[3], .k_h = w.dim[1], .k_w = w.dim[2], .stride_h = option(m, op, DEPTHWISE_STRIDE_H, 0),
               .stride_w = option(m, op, DEPTHWISE_STRIDE_W, 0), .dil_h = option(m, op, DEPTHWISE_DILATION_H, 1),
               .dil_w = option(m, op, DEPTHWISE_DILATION_W, 1)};
    bool fine = prepare_any(m, op, &w, &s);
    free(turned);
    return fine;
}

bool dn_prepare_dense(dn_model *m, int op) {
    if (!dn_need(m, op, 2, 1, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *w = dn_in(m, op, 1), *bias = dn_in(m, op, 2), *out = dn_out(m, op, 0);
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output")) return false;
    if (w->rank != 2) return DN_REFUSE(m, op, DN_MALFORMED, "weights of %d dimensions, expected 2", w->rank);
    int32_t n = w->dim[0], k = w->dim[1];
    if (in->count % (size_t)k != 0 || out->count != in->count / (size_t)k * (size_t)n)
        return DN_REFUSE(m, op, DN_MALFORMED, "%zu values in and %zu out, with weights [%d×%d]", in->count, out->count, n,
                         k);
    if (dn_fb_int(&m->fb, m->op[op].options, DENSE_FORMAT, 1, 0) != 0)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "shuffled weights");
    conv *p = dn_pool(m, sizeof *p);
    double *scale = NULL;
    if (p == NULL ||
        !dn_activation_range(m, op, (int)dn_fb_int(&m->fb, m->op[op].options, DENSE_ACTIVATION, 1, 0), out,
                             &p->gemm.requant.min, &p->gemm.requant.max) ||
        !dn_channel_scales(m, op, in, w, 0, out, n, &scale))
        return false;
    p->gemm.requant.once = 1;
    p->rows = p->lines = in->count / (size_t)k;
    p->direct = true;
    bool fine = prepare_gemm(m, op, w, n, k, in, bias, out, scale, p);
    free(scale);
    return fine && prepare_tiles(m, op, p);
}
