/* AVERAGE_POOL_2D, MAX_POOL_2D and MEAN. Means round away from zero on the file's int8 values, so they are taken on
 * those, not on the arena's form. */
#include "prepare.h"

typedef struct {
    int32_t in_h, in_w, in_c, out_h, out_w, k_h, k_w, stride_h, stride_w, pad_top, pad_left, min, max;
    size_t lines;
} pool;

typedef struct {
    int32_t y0, y1, x0, x1;
} window;

static window window_at(const pool *p, size_t line, int32_t x) {
    int32_t y0 = (int32_t)(line % (size_t)p->out_h) * p->stride_h - p->pad_top, x0 = x * p->stride_w - p->pad_left;
    window w = {y0, y0 + p->k_h, x0, x0 + p->k_w};
    if (w.y0 < 0) w.y0 = 0;
    if (w.x0 < 0) w.x0 = 0;
    if (w.y1 > p->in_h) w.y1 = p->in_h;
    if (w.x1 > p->in_w) w.x1 = p->in_w;
    return w;
}

enum { CHUNK = 64, IN_30_BITS = 1 << 22 };

static void average(const pool *p, const dn_act *picture, window w, dn_act *out) {
    int32_t count = (w.y1 - w.y0) * (w.x1 - w.x0), sum[CHUNK];
    for (int32_t c0 = 0; c0 < p->in_c; c0 += CHUNK) {
        int32_t width = p->in_c - c0 < CHUNK ? p->in_c - c0 : CHUNK;
        for (int32_t c = 0; c < CHUNK; c++) sum[c] = -DN_FROM_INT8 * count;
        for (int32_t y = w.y0; y < w.y1; y++) {
            const dn_act *pixel = picture + ((size_t)y * (size_t)p->in_w + (size_t)w.x0) * (size_t)p->in_c + (size_t)c0;
            for (int32_t x = w.x0; x < w.x1; x++, pixel += p->in_c)
                for (int32_t c = 0; c < width; c++) sum[c] += pixel[c];
        }
        for (int32_t c = 0; c < width; c++) {
            int32_t q = sum[c] > 0 ? (sum[c] + count / 2) / count : (sum[c] - count / 2) / count;
            out[c0 + c] = dn_finish(q, DN_FROM_INT8, p->min, p->max);
        }
    }
}

static void largest(const pool *p, const dn_act *picture, window w, dn_act *out) {
    memset(out, (uint8_t)(dn_act)DN_ACT_MIN, (size_t)p->in_c);
    for (int32_t y = w.y0; y < w.y1; y++) {
        for (int32_t x = w.x0; x < w.x1; x++) {
            const dn_act *pixel = picture + ((size_t)y * (size_t)p->in_w + (size_t)x) * (size_t)p->in_c;
            for (int32_t c = 0; c < p->in_c; c++) out[c] = pixel[c] > out[c] ? pixel[c] : out[c];
        }
    }
    for (int32_t c = 0; c < p->in_c; c++) out[c] = dn_finish(out[c], 0, p->min, p->max);
}

static void run_pool(dn_model *m, int op, int part, int parts) {
    const pool *p = m->op[op].params;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t c = (size_t)p->in_c, from, to;
    dn_share(m, p->lines, 1, part, parts, &from, &to);
    for (size_t line = from; line < to; line++) {
        const dn_act *picture = in + line / (size_t)p->out_h * (size_t)p->in_h * (size_t)p->in_w * c;
        for (int32_t x = 0; x < p->out_w; x++) {
            dn_act *pixel = out + (line * (size_t)p->out_w + (size_t)x) * c;
            window w = window_at(p, line, x);
            if (m->op[op].code == OP_MAX_POOL_2D) largest(p, picture, w, pixel);
            else average(p, picture, w, pixel);
        }
    }
}

static bool prepare_pool(dn_model *m, int op) {
    if (!dn_need(m, op, 1, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output") ||
        !dn_need_same_quantisation(m, op, in, out))
        return false;
    if (in->rank != 4) return DN_REFUSE(m, op, DN_MALFORMED, "input of %d dimensions, expected 4", in->rank);
    const dn_fb *fb = &m->fb;
    dn_table o = m->op[op].options;
    pool *p = dn_pool(m, sizeof *p);
    dn_window win;
    if (p == NULL) return false;
    *p = (pool){.in_h = in->dim[1], .in_w = in->dim[2], .in_c = in->dim[3],
                .k_h = (int32_t)dn_fb_int(fb, o, POOL_FILTER_H, 4, 0), .k_w = (int32_t)dn_fb_int(fb, o, POOL_FILTER_W, 4, 0),
                .stride_h = (int32_t)dn_fb_int(fb, o, POOL_STRIDE_H, 4, 0),
                .stride_w = (int32_t)dn_fb_int(fb, o, POOL_STRIDE_W, 4, 0)};
    if (!dn_slide(m, op, in, (int)dn_fb_int(fb, o, POOL_PADDING, 1, 0), p->k_h, p->k_w, p->stride_h, p->stride_w, 1, 1,
                  &win) ||
        !dn_need_shape(m, op, out, "output", 4, (int32_t[]){in->dim[0], win.out_h, win.out_w, in->dim[3]}) ||
        !dn_activation_range(m, op, (int)dn_fb_int(fb, o, POOL_ACTIVATION, 1, 0), out, &p->min, &p->max))
        return false;
    p->out_h = win.out_h;
    p->out_w = win.out_w;
    p->pad_top = win.pad_top;
    p->pad_left = win.pad_left;
    p->lines = (size_t)in->dim[0] * (size_t)win.out_h;
    m->op[op].params = p;
    m->op[op].run = run_pool;
    return true;
}

bool dn_prepare_average_pool(dn_model *m, int op) { return prepare_pool(m, op); }
bool dn_prepare_max_pool(dn_model *m, int op) { return prepare_pool(m, op); }

/* [outer][reduced][inner] → [outer][inner] */
typedef struct {
    const dn_kernels *kernels;
    dn_mean mean;
    size_t outer, reduced, inner;
} mean;

static void run_mean(dn_model *m, int op, int part, int parts) {
    const mean *p = m->op[op].params;
    const dn_act *in = dn_data(m, m->op[op].input[0]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t from, to;
    dn_share_op(m, op, part, parts, &from, &to);
    for (size_t o = 0; o < p->outer; o++)
        p->kernels->mean(&p->mean, in + o * p->reduced * p->inner + from, to - from, out + o * p->inner + from);
}

/* The reduced axes must follow each other: [*first, *last]. */
static bool find_axes(dn_model *m, int op, const dn_tensor *in, int *first, int *last) {
    int32_t axis[DN_MAX_RANK];
    int count = dn_need_ints(m, op, dn_in(m, op, 1), "axes", DN_MAX_RANK, axis);
    if (count < 0) return false;
    bool reduced[DN_MAX_RANK] = {false};
    for (int i = 0; i < count; i++) {
        int32_t a = axis[i] < 0 ? axis[i] + in->rank : axis[i];
        if (a < 0 || a >= in->rank) return DN_REFUSE(m, op, DN_MALFORMED, "axis %d of %d", axis[i], in->rank);
        reduced[a] = true;
    }
    *first = in->rank;
    *last = -1;
    for (int i = 0; i < in->rank; i++) {
        if (!reduced[i]) continue;
        if (*last >= 0 && *last != i - 1) return DN_REFUSE(m, op, DN_UNSUPPORTED, "axes that do not follow each other");
        if (*last < 0) *first = i;
        *last = i;
    }
    return true;
}

/* Folds 1 / count into the multiplier, as TFLite does. */
static void divide(dn_mean *p, int64_t count) {
    int shift = 63 - __builtin_clzll((unsigned long long)count);
    if (shift > 32) shift = 32;
    if (shift > 31 + p->shift) shift = 31 + p->shift;
    p->multiplier = (int32_t)(((int64_t)p->multiplier << shift) / count);
    p->shift -= shift;
}

bool dn_prepare_mean(dn_model *m, int op) {
    if (!dn_need(m, op, 2, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    int first = 0, last = -1;
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output") || !find_axes(m, op, in, &first, &last))
        return false;
    if (in->rank == 4 && first == 2 && last == 3 && dn_absorb_channels_first(m, op)) {
        in = dn_in(m, op, 0);
        first = 1;
        last = 2;
    }
    mean *p = dn_pool(m, sizeof *p);
    if (p == NULL) return false;
    *p = (mean){.outer = 1, .reduced = 1, .inner = 1};
    for (int i = 0; i < in->rank; i++) *(i < first ? &p->outer : i <= last ? &p->reduced : &p->inner) *= (size_t)in->dim[i];
    if (out->count != p->outer * p->inner)
        return DN_REFUSE(m, op, DN_MALFORMED, "output of %zu values, expected %zu", out->count, p->outer * p->inner);
    if (!dn_quantise_multiplier((double)in->scale / (double)out->scale, &p->mean.multiplier, &p->mean.shift))
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "scaled by %g", (double)in->scale / (double)out->scale);
    divide(&p->mean, (int64_t)p->reduced);
    p->mean.pixels = p->reduced;
    p->mean.stride = p->inner;
    p->mean.base = (int32_t)(0u - (uint32_t)dn_arena_zero(in) * (uint32_t)p->reduced);
    p->mean.zero_out = dn_arena_zero(out);
    p->kernels = p->mean.shift <= 0 && p->reduced < IN_30_BITS ? m->kernels : &dn_kernels_scalar;
    m->op[op].split = (dn_split){DN_BY_CHANNELS, p->inner, DN_CHANNEL_BLOCK};
    m->op[op].local = p->outer == 1;
    m->op[op].params = p;
    m->op[op].run = run_mean;
    return true;
}
