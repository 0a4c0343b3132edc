/* Operators that only move values: all are strided copies, or no copy at all. */
#include "prepare.h"

typedef struct {
    int32_t operand; /* number of the input or output that `from` or `to` refers to */
    int rank;
    size_t dim[DN_MAX_RANK];
    int64_t from_stride[DN_MAX_RANK], to_stride[DN_MAX_RANK]; /* in elements */
    int64_t from, to;                                         /* offsets of the first element */
} copy;

typedef struct {
    bool fills; /* the output gets `fill` first */
    dn_act fill;
    int copies;
    copy part[DN_MAX_OPERANDS];
    bool splits; /* `operand` numbers outputs, not inputs */
} move;

static void copy_block(const copy *c, int level, const dn_act *from, dn_act *to) {
    if (level == c->rank - 1) {
        if (c->from_stride[level] == 1 && c->to_stride[level] == 1) {
            memcpy(to, from, c->dim[level]);
            return;
        }
        for (size_t i = 0; i < c->dim[level]; i++)
            to[(int64_t)i * c->to_stride[level]] = from[(int64_t)i * c->from_stride[level]];
        return;
    }
    for (size_t i = 0; i < c->dim[level]; i++)
        copy_block(c, level + 1, from + (int64_t)i * c->from_stride[level], to + (int64_t)i * c->to_stride[level]);
}

static void run_move(dn_model *m, int op, int part, int parts) {
    (void)parts;
    if (part != 0) return;
    const move *p = m->op[op].params;
    const dn_op *o = &m->op[op];
    if (p->fills) memset(dn_data(m, o->output[0]), (uint8_t)p->fill, m->tensor[o->output[0]].count);
    for (int i = 0; i < p->copies; i++) {
        const copy *c = &p->part[i];
        const dn_act *from = dn_data(m, o->input[p->splits ? o->inputs - 1 : c->operand]);
        dn_act *to = dn_data(m, o->output[p->splits ? c->operand : 0]);
        copy_block(c, 0, from + c->from, to + c->to);
    }
}

static void strides_of(const dn_tensor *t, int64_t *stride) {
    int64_t s = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        stride[i] = s;
        s *= t->dim[i];
    }
}

static move *new_move(dn_model *m, int op, dn_tensor *in, dn_tensor *out) {
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output") ||
        !dn_need_same_quantisation(m, op, in, out))
        return NULL;
    if (in->rank < 1) {
        DN_REFUSE(m, op, DN_UNSUPPORTED, "a scalar");
        return NULL;
    }
    move *p = dn_pool(m, sizeof *p);
    m->op[op].params = p;
    m->op[op].run = run_move;
    return p;
}

bool dn_prepare_reshape(dn_model *m, int op) {
    if (!dn_need(m, op, 1, 1, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    if (!dn_need_int8(m, op, in, "input") || !dn_need_int8(m, op, out, "output") ||
        !dn_need_same_quantisation(m, op, in, out))
        return false;
    if (in->count != out->count)
        return DN_REFUSE(m, op, DN_MALFORMED, "%zu values in, %zu out", in->count, out->count);
    dn_alias(m, m->op[op].output[0], m->op[op].input[0]);
    return true;
}

bool dn_prepare_pad(dn_model *m, int op) {
    bool with_value = m->op[op].code == OP_PADV2;
    if (!dn_need(m, op, with_value ? 3 : 2, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    move *p = new_move(m, op, in, out);
    int32_t pad[2 * DN_MAX_RANK];
    if (p == NULL) return false;
    int count = dn_need_ints(m, op, dn_in(m, op, 1), "paddings", 2 * DN_MAX_RANK, pad);
    if (count < 0) return false;
    if (count != 2 * in->rank || out->rank != in->rank)
        return DN_REFUSE(m, op, DN_MALFORMED, "%d paddings for %d dimensions", count, in->rank);
    copy *c = &p->part[0];
    *c = (copy){.rank = in->rank};
    strides_of(in, c->from_stride);
    strides_of(out, c->to_stride);
    for (int i = 0; i < in->rank; i++) {
        if (pad[2 * i] < 0 || pad[2 * i + 1] < 0 ||
            (int64_t)in->dim[i] + pad[2 * i] + pad[2 * i + 1] != (int64_t)out->dim[i])
            return DN_REFUSE(m, op, DN_MALFORMED, "dimension %d: %d padded by %d and %d is not %d", i, in->dim[i],
                             pad[2 * i], pad[2 * i + 1], out->dim[i]);
        c->dim[i] = (size_t)in->dim[i];
        c->to += pad[2 * i] * c->to_stride[i];
    }
    p->fills = true;
    p->fill = (dn_act)dn_arena_zero(out);
    p->copies = 1;
    if (!with_value) return true;
    dn_tensor *value = dn_in(m, op, 2);
    if (!dn_need_int8(m, op, value, "value") || !dn_need_same_quantisation(m, op, value, out)) return false;
    if (value->packed == NULL || value->count != 1) return DN_REFUSE(m, op, DN_UNSUPPORTED, "a computed value");
    p->fill = value->packed[0];
    return true;
}

dn_tensor *dn_absorb_pad(dn_model *m, int op, int32_t *top, int32_t *left) {
    dn_tensor *padded = dn_in(m, op, 0);
    *top = *left = 0;
    if (padded->producer < 0 || padded->consumers != 1) return padded;
    dn_op *pad = &m->op[padded->producer];
    const move *p = pad->params;
    if ((pad->code != OP_PAD && pad->code != OP_PADV2) || pad->outputs != 1) return padded;
    const copy *c = &p->part[0];
    const dn_tensor *in = &m->tensor[pad->input[0]];
    if (p->fill != (dn_act)dn_arena_zero(padded) || padded->rank != 4 || in->dim[0] != padded->dim[0] ||
        in->dim[3] != padded->dim[3])
        return padded;
    *top = (int32_t)(c->to / c->to_stride[1]);
    *left = (int32_t)(c->to % c->to_stride[1] / c->to_stride[2]);
    m->op[op].input[0] = pad->input[0];
    pad->inputs = pad->outputs = 0;
    pad->run = NULL;
    return padded;
}

bool dn_absorb_channels_first(dn_model *m, int op) {
    const dn_tensor *turned = dn_in(m, op, 0);
    if (turned->producer < 0 || turned->consumers != 1) return false;
    dn_op *turn = &m->op[turned->producer];
    if (turn->code != OP_TRANSPOSE || turn->run == NULL) return false;
    const move *p = turn->params;
    int64_t stride[DN_MAX_RANK];
    strides_of(&m->tensor[turn->input[0]], stride);
    const int64_t *got = p->part[0].from_stride;
    if (turned->rank != 4 || got[0] != stride[0] || got[1] != stride[3] || got[2] != stride[1] || got[3] != stride[2])
        return false;
    m->op[op].input[0] = turn->input[0];
    turn->inputs = turn->outputs = 0;
    turn->run = NULL;
    return true;
}

/* Whether dimensions longer than one keep their order: then the values do not move. */
static bool moves_nothing(const dn_tensor *in, const int32_t *axis) {
    int32_t last = -1;
    for (int i = 0; i < in->rank; i++) {
        int32_t a = axis[i] < 0 ? axis[i] + in->rank : axis[i];
        if (in->dim[a] == 1) continue;
        if (a < last) return false;
        last = a;
    }
    return true;
}

bool dn_prepare_transpose(dn_model *m, int op) {
    if (!dn_need(m, op, 2, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    move *p = new_move(m, op, in, out);
    int32_t axis[DN_MAX_RANK], dim[DN_MAX_RANK];
    if (p == NULL) return false;
    int count = dn_need_ints(m, op, dn_in(m, op, 1), "permutation", DN_MAX_RANK, axis);
    if (count < 0) return false;
    if (count != in->rank) return DN_REFUSE(m, op, DN_MALFORMED, "%d axes for %d dimensions", count, in->rank);
    int64_t stride[DN_MAX_RANK];
    bool seen[DN_MAX_RANK] = {false};
    copy *c = &p->part[0];
    *c = (copy){.rank = in->rank};
    strides_of(in, stride);
    for (int i = 0; i < count; i++) {
        int32_t a = axis[i] < 0 ? axis[i] + in->rank : axis[i];
        if (a < 0 || a >= in->rank || seen[a]) return DN_REFUSE(m, op, DN_MALFORMED, "axis %d twice, or outside", axis[i]);
        seen[a] = true;
        dim[i] = in->dim[a];
        c->dim[i] = (size_t)dim[i];
        c->from_stride[i] = stride[a];
    }
    p->copies = 1;
    if (!dn_need_shape(m, op, out, "output", in->rank, dim)) return false;
    strides_of(out, c->to_stride);
    if (!moves_nothing(in, axis)) return true;
    m->op[op].run = NULL;
    dn_alias(m, m->op[op].output[0], m->op[op].input[0]);
    return true;
}

static int64_t bounded(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }

bool dn_prepare_strided_slice(dn_model *m, int op) {
    if (!dn_need(m, op, 4, 0, 1)) return false;
    dn_tensor *in = dn_in(m, op, 0), *out = dn_out(m, op, 0);
    move *p = new_move(m, op, in, out);
    int32_t begin[DN_MAX_RANK], end[DN_MAX_RANK], step[DN_MAX_RANK];
    if (p == NULL) return false;
    int begins = dn_need_ints(m, op, dn_in(m, op, 1), "begin", in->rank, begin);
    int ends = begins < 0 ? -1 : dn_need_ints(m, op, dn_in(m, op, 2), "end", in->rank, end);
    int steps = ends < 0 ? -1 : dn_need_ints(m, op, dn_in(m, op, 3), "strides", in->rank, step);
    if (steps < 0) return false;
    dn_table o = m->op[op].options;
    uint32_t mask[6];
    for (int i = 0; i < 5; i++) mask[i] = (uint32_t)dn_fb_int(&m->fb, o, i, 4, 0);
    if (mask[SLICE_ELLIPSIS_MASK] != 0 || mask[SLICE_NEW_AXIS_MASK] != 0 || dn_fb_int(&m->fb, o, SLICE_OFFSET, 1, 0) != 0)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "ellipsis, new axes or offsets");
    if (begins != in->rank || ends != in->rank || steps != in->rank)
        return DN_REFUSE(m, op, DN_MALFORMED, "%d, %d and %d values for %d dimensions", begins, ends, steps, in->rank);
    copy *c = &p->part[0];
    *c = (copy){.rank = in->rank};
    strides_of(in, c->from_stride);
    int kept = 0;
    int32_t dim[DN_MAX_RANK];
    for (int i = 0; i < in->rank; i++) {
        int64_t size = in->dim[i], s = step[i], low = s > 0 ? 0 : -1, high = s > 0 ? size : size - 1;
        if (s == 0) return DN_REFUSE(m, op, DN_MALFORMED, "stride 0");
        bool shrinks = (mask[SLICE_SHRINK_MASK] >> i & 1) != 0;
        int64_t from = mask[SLICE_BEGIN_MASK] >> i & 1 ? (s > 0 ? 0 : size - 1)
                                                       : bounded(begin[i] + (begin[i] < 0 ? size : 0), low, high);
        int64_t to = mask[SLICE_END_MASK] >> i & 1 ? (s > 0 ? size : -1)
                                                   : bounded(end[i] + (end[i] < 0 ? size : 0), low, high);
        if (shrinks) {
            s = 1;
            to = from + 1;
        }
        int64_t length = s > 0 ? (to - from + s - 1) / s : (from - to - s - 1) / -s;
        if (length <= 0 || from < 0 || from >= size)
            return DN_REFUSE(m, op, DN_MALFORMED, "dimension %d: nothing from %d to %d", i, begin[i], end[i]);
        c->from += from * c->from_stride[i];
        c->from_stride[i] *= s;
        c->dim[i] = (size_t)length;
        if (!shrinks) dim[kept++] = (int32_t)length;
    }
    if (!dn_need_shape(m, op, out, "output", kept, dim)) return false;
    int64_t s = 1;
    for (int i = in->rank - 1; i >= 0; i--) {
        c->to_stride[i] = s;
        s *= (int64_t)c->dim[i];
    }
    p->copies = 1;
    return true;
}

/* `whole` is laid out as the parts one after the other along `axis`; part i starts at `*at` and is `part` long. */
static bool add_part(dn_model *m, int op, move *p, int operand, const dn_tensor *whole, const dn_tensor *part, int axis,
                     int32_t *at, bool joins) {
    if (part->rank != whole->rank)
        return DN_REFUSE(m, op, DN_MALFORMED, "part %d has %d dimensions, expected %d", operand, part->rank, whole->rank);
    copy *c = &p->part[p->copies++];
    *c = (copy){.operand = operand, .rank = whole->rank};
    int64_t stride[DN_MAX_RANK];
    strides_of(part, joins ? c->from_stride : c->to_stride);
    strides_of(whole, stride);
    memcpy(joins ? c->to_stride : c->from_stride, stride, sizeof stride);
    for (int i = 0; i < whole->rank; i++) {
        c->dim[i] = (size_t)part->dim[i];
        if (i != axis && part->dim[i] != whole->dim[i])
            return DN_REFUSE(m, op, DN_MALFORMED, "part %d: dimension %d is %d, expected %d", operand, i, part->dim[i],
                             whole->dim[i]);
    }
    *(joins ? &c->to : &c->from) = *at * stride[axis];
    if (part->dim[axis] > whole->dim[axis] - *at)
        return DN_REFUSE(m, op, DN_MALFORMED, "parts are longer than the whole (%d)", whole->dim[axis]);
    *at += part->dim[axis];
    return true;
}

bool dn_prepare_concatenation(dn_model *m, int op) {
    int inputs = m->op[op].inputs;
    if (inputs < 1 || !dn_need(m, op, inputs, 0, 1))
        return DN_REFUSE(m, op, DN_MALFORMED, "%d inputs", inputs);
    dn_tensor *out = dn_out(m, op, 0);
    if (dn_fb_int(&m->fb, m->op[op].options, CONCAT_ACTIVATION, 1, 0) != 0)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "a fused activation");
    move *p = new_move(m, op, dn_in(m, op, 0), out);
    if (p == NULL) return false;
    int axis = (int)dn_fb_int(&m->fb, m->op[op].options, CONCAT_AXIS, 4, 0);
    if (axis < 0) axis += out->rank;
    if (axis < 0 || axis >= out->rank) return DN_REFUSE(m, op, DN_MALFORMED, "axis %d of %d", axis, out->rank);
    int32_t at = 0;
    for (int i = 0; i < inputs; i++) {
        dn_tensor *in = dn_in(m, op, i);
        if (!dn_need_int8(m, op, in, "input") || !dn_need_same_quantisation(m, op, in, out) ||
            !add_part(m, op, p, i, out, in, axis, &at, true))
            return false;
    }
    if (at != out->dim[axis]) return DN_REFUSE(m, op, DN_MALFORMED, "%d along the axis, expected %d", at, out->dim[axis]);
    return true;
}

bool dn_prepare_split(dn_model *m, int op) {
    int outputs = m->op[op].outputs;
    if (outputs < 1 || !dn_need(m, op, 2, 0, outputs)) return DN_REFUSE(m, op, DN_MALFORMED, "%d outputs", outputs);
    dn_tensor *in = dn_in(m, op, 1);
    int32_t axis, at = 0;
    int count = dn_need_ints(m, op, dn_in(m, op, 0), "axis", 1, &axis);
    if (count < 0) return false;
    if (count != 1) return DN_REFUSE(m, op, DN_MALFORMED, "no axis");
    move *p = new_move(m, op, in, dn_out(m, op, 0));
    if (p == NULL) return false;
    if (axis < 0) axis += in->rank;
    if (axis < 0 || axis >= in->rank) return DN_REFUSE(m, op, DN_MALFORMED, "axis %d of %d", axis, in->rank);
    p->splits = true;
    for (int i = 0; i < outputs; i++) {
        dn_tensor *out = dn_out(m, op, i);
        if (!dn_need_int8(m, op, out, "output") || !dn_need_same_quantisation(m, op, in, out) ||
            !add_part(m, op, p, i, in, out, axis, &at, false))
            return false;
    }
    if (at != in->dim[axis]) return DN_REFUSE(m, op, DN_MALFORMED, "parts make %d, expected %d", at, in->dim[axis]);
    return true;
}
