/* ADD, SUB and MUL, with broadcasting. */
#include <math.h>

#include "prepare.h"

enum { CHUNK = 256 };

typedef struct {
    const dn_kernels *kernels;
    bool multiplies;
    dn_add add;
    dn_mul mul;
    /* Leading dimensions are looped over; the last is a row. Strides in elements, 0 where an input is repeated. */
    int rank;
    size_t dim[DN_MAX_RANK], stride_a[DN_MAX_RANK], stride_b[DN_MAX_RANK];
    size_t rows, row;
} binary;

static void run_row(const binary *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    if (p->multiplies) p->kernels->mul(&p->mul, a, b, count, out);
    else p->kernels->add(&p->add, a, b, count, out);
}

/* A row with one value repeated on one side. */
static void run_repeated(const binary *p, const dn_act *a, bool repeat_a, const dn_act *b, bool repeat_b, dn_act *out) {
    dn_act same[CHUNK];
    memset(same, (uint8_t)(repeat_a ? *a : *b), sizeof same);
    for (size_t i = 0; i < p->row; i += CHUNK) {
        size_t count = p->row - i < CHUNK ? p->row - i : CHUNK;
        run_row(p, repeat_a ? same : a + i, repeat_b ? same : b + i, count, out + i);
    }
}

static void run_binary(dn_model *m, int op, int part, int parts) {
    const binary *p = m->op[op].params;
    const dn_act *a = dn_data(m, m->op[op].input[0]), *b = dn_data(m, m->op[op].input[1]);
    dn_act *out = dn_data(m, m->op[op].output[0]);
    size_t from, to;
    if (p->rows == 1) {
        dn_share_values(m, op, part, parts, &from, &to);
        if (p->stride_a[p->rank - 1] == 1 && p->stride_b[p->rank - 1] == 1)
            run_row(p, a + from, b + from, to - from, out + from);
        else if (part == 0)
            run_repeated(p, a, p->stride_a[p->rank - 1] == 0, b, p->stride_b[p->rank - 1] == 0, out);
        return;
    }
    dn_share(m, p->rows, 1, part, parts, &from, &to);
    for (size_t row = from; row < to; row++) {
        size_t rest = row, at_a = 0, at_b = 0;
        for (int i = p->rank - 2; i >= 0; i--) {
            at_a += rest % p->dim[i] * p->stride_a[i];
            at_b += rest % p->dim[i] * p->stride_b[i];
            rest /= p->dim[i];
        }
        bool repeat_a = p->stride_a[p->rank - 1] == 0, repeat_b = p->stride_b[p->rank - 1] == 0;
        if (repeat_a || repeat_b) run_repeated(p, a + at_a, repeat_a, b + at_b, repeat_b, out + row * p->row);
        else run_row(p, a + at_a, b + at_b, p->row, out + row * p->row);
    }
}

static size_t dim_of(const dn_tensor *t, int rank, int i) {
    int own = i - (rank - t->rank);
    return own < 0 ? 1 : (size_t)t->dim[own];
}

static bool find_strides(dn_model *m, int op, const dn_tensor *a, const dn_tensor *b, const dn_tensor *out, binary *p) {
    int rank = a->rank > b->rank ? a->rank : b->rank;
    if (out->rank != rank) return DN_REFUSE(m, op, DN_MALFORMED, "output of %d dimensions, expected %d", out->rank, rank);
    bool same = a->count == out->count && b->count == out->count;
    size_t stride_a = 1, stride_b = 1;
    p->rank = rank > 0 ? rank : 1;
    p->dim[0] = 1;
    for (int i = rank - 1; i >= 0; i--) {
        size_t da = dim_of(a, rank, i), db = dim_of(b, rank, i), d = da > db ? da : db;
        if ((da != d && da != 1) || (db != d && db != 1) || (size_t)out->dim[i] != d)
            return DN_REFUSE(m, op, DN_MALFORMED, "dimension %d is %zu and %zu in, %d out", i, da, db, out->dim[i]);
        p->dim[i] = d;
        p->stride_a[i] = da == 1 && d != 1 ? 0 : stride_a;
        p->stride_b[i] = db == 1 && d != 1 ? 0 : stride_b;
        stride_a *= da;
        stride_b *= db;
    }
    if (same) { /* one long row */
        p->rank = 1;
        p->dim[0] = out->count;
        p->stride_a[0] = p->stride_b[0] = 1;
    }
    p->row = p->dim[p->rank - 1];
    p->rows = out->count / p->row;
    if (rank == 0) p->stride_a[0] = p->stride_b[0] = 1;
    return true;
}

static bool prepare_binary(dn_model *m, int op, binary **result) {
    if (!dn_need(m, op, 2, 0, 1)) return false;
    dn_tensor *a = dn_in(m, op, 0), *b = dn_in(m, op, 1), *out = dn_out(m, op, 0);
    if (!dn_need_int8(m, op, a, "first input") || !dn_need_int8(m, op, b, "second input") ||
        !dn_need_int8(m, op, out, "output"))
        return false;
    binary *p = dn_pool(m, sizeof *p);
    if (p == NULL || !find_strides(m, op, a, b, out, p)) return false;
    p->kernels = m->kernels;
    m->op[op].params = *result = p;
    m->op[op].run = run_binary;
    if (p->rows == 1) dn_split_values(m, op);
    return true;
}

bool dn_prepare_add(dn_model *m, int op) {
    binary *p;
    if (!prepare_binary(m, op, &p)) return false;
    const dn_tensor *a = dn_in(m, op, 0), *b = dn_in(m, op, 1), *out = dn_out(m, op, 0);
    double twice = (double)(2.0f * fmaxf(a->scale, b->scale));
    double real = twice / (double)((float)(1 << 20) * out->scale);
    dn_add *s = &p->add;
    if (!dn_quantise_multiplier((double)a->scale / twice, &s->multiplier_a, &s->shift_a) ||
        !dn_quantise_multiplier((double)b->scale / twice, &s->multiplier_b, &s->shift_b) ||
        !dn_quantise_multiplier(real, &s->multiplier_out, &s->shift_out) || s->shift_a > 0 || s->shift_b > 0 ||
        s->shift_out > 0)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "scales %g, %g into %g", (double)a->scale, (double)b->scale,
                         (double)out->scale);
    s->zero_a = dn_arena_zero(a);
    s->zero_b = dn_arena_zero(b);
    s->zero_out = dn_arena_zero(out);
    s->sign_b = m->op[op].code == OP_SUB ? -1 : 1;
    return dn_activation_range(m, op, (int)dn_fb_int(&m->fb, m->op[op].options, 0, 1, 0), out, &s->min, &s->max);
}

bool dn_prepare_mul(dn_model *m, int op) {
    binary *p;
    if (!prepare_binary(m, op, &p)) return false;
    const dn_tensor *a = dn_in(m, op, 0), *b = dn_in(m, op, 1), *out = dn_out(m, op, 0);
    float product = a->scale * b->scale;
    double real = (double)(product / out->scale);
    p->multiplies = true;
    p->mul.zero_a = dn_arena_zero(a);
    p->mul.zero_b = dn_arena_zero(b);
    p->mul.zero_out = dn_arena_zero(out);
    if (!dn_quantise_multiplier(real, &p->mul.multiplier, &p->mul.shift))
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "scaled by %g", real);
    return dn_activation_range(m, op, (int)dn_fb_int(&m->fb, m->op[op].options, 0, 1, 0), out, &p->mul.min, &p->mul.max);
}
