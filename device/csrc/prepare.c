/* Checks the operators against each other and hands each to its prepare function. */
#include <stdio.h>
#include <stdlib.h>

#include "prepare.h"

struct dn_block {
    dn_block *next;
    void *memory;
};

void *dn_pool(dn_model *m, size_t bytes) {
    if (bytes > m->max_bytes || m->pool_bytes > m->max_bytes - bytes) {
        dn_fail(m->error, DN_TOO_LARGE, "the packed weights want more than %zu bytes (max_arena_bytes)", m->max_bytes);
        return NULL;
    }
    dn_block *block = malloc(sizeof *block);
    void *memory = block == NULL ? NULL : calloc(1, bytes + DN_ALIGN + DN_SLACK);
    if (memory == NULL) {
        free(block);
        dn_fail(m->error, DN_NO_MEMORY, "no memory for %zu bytes of packed weights", bytes);
        return NULL;
    }
    *block = (dn_block){m->pool, memory};
    m->pool = block;
    m->pool_bytes += bytes;
    return (void *)(((uintptr_t)memory + DN_ALIGN - 1) / DN_ALIGN * DN_ALIGN);
}

void dn_pool_free(dn_model *m) {
    while (m->pool != NULL) {
        dn_block *block = m->pool;
        m->pool = block->next;
        free(block->memory);
        free(block);
    }
}

dn_tensor *dn_in(dn_model *m, int op, int k) {
    int32_t index = k < m->op[op].inputs ? m->op[op].input[k] : -1;
    return index < 0 ? NULL : &m->tensor[index];
}

dn_tensor *dn_out(dn_model *m, int op, int k) { return &m->tensor[m->op[op].output[k]]; }

bool dn_need(dn_model *m, int op, int inputs, int optional, int outputs) {
    const dn_op *o = &m->op[op];
    if (o->inputs < inputs || o->inputs > inputs + optional || o->outputs != outputs)
        return DN_REFUSE(m, op, DN_MALFORMED, "%d inputs and %d outputs, expected %d to %d and %d", o->inputs,
                         o->outputs, inputs, inputs + optional, outputs);
    for (int k = 0; k < inputs; k++)
        if (o->input[k] < 0) return DN_REFUSE(m, op, DN_MALFORMED, "input %d is missing", k);
    return true;
}

static bool pack_constant(dn_model *m, dn_tensor *t) {
    if (t->data == NULL || t->packed != NULL) return true;
    dn_act *packed = dn_pool(m, t->count);
    if (packed == NULL) return false;
    for (size_t i = 0; i < t->count; i++) packed[i] = (dn_act)((int8_t)t->data[i] + DN_FROM_INT8);
    t->packed = packed;
    return true;
}

bool dn_need_int8(dn_model *m, int op, dn_tensor *t, const char *what) {
    if (t->type != DN_INT8)
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "%s has type %d; int8 is supported", what, (int)t->type);
    if (t->scales.count != 1 || !(t->scale > 0.0f))
        return DN_REFUSE(m, op, DN_UNSUPPORTED, "%s is int8 with %u scales (first %g), expected a positive one", what,
                         t->scales.count, (double)t->scale);
    return pack_constant(m, t);
}

bool dn_need_shape(dn_model *m, int op, const dn_tensor *t, const char *what, int rank, const int32_t *dim) {
    bool same = t->rank == rank;
    for (int i = 0; same && i < rank; i++) same = t->dim[i] == dim[i];
    if (same) return true;
    char got[96] = "", wanted[96] = "";
    int at = 0;
    for (int i = 0; i < t->rank; i++) at += snprintf(got + at, sizeof got - (size_t)at, "%s%d", i ? "×" : "", t->dim[i]);
    at = 0;
    for (int i = 0; i < rank; i++) at += snprintf(wanted + at, sizeof wanted - (size_t)at, "%s%d", i ? "×" : "", dim[i]);
    return DN_REFUSE(m, op, DN_MALFORMED, "%s has shape [%s], expected [%s]", what, got, wanted);
}

bool dn_need_same_quantisation(dn_model *m, int op, const dn_tensor *a, const dn_tensor *b) {
    if (a->scale == b->scale && a->zero_point == b->zero_point) return true;
    return DN_REFUSE(m, op, DN_UNSUPPORTED, "input and output are quantised differently (%g, %d against %g, %d)",
                     (double)a->scale, a->zero_point, (double)b->scale, b->zero_point);
}

int dn_need_ints(dn_model *m, int op, const dn_tensor *t, const char *what, int count, int32_t *value) {
    if (t == NULL || t->data == NULL || (t->type != DN_INT32 && t->type != DN_INT64)) {
        DN_REFUSE(m, op, DN_UNSUPPORTED, "%s is not a constant of integers", what);
        return -1;
    }
    if (t->count > (size_t)count) {
        DN_REFUSE(m, op, DN_MALFORMED, "%s has %zu values, expected at most %d", what, t->count, count);
        return -1;
    }
    for (size_t i = 0; i < t->count; i++) {
        if (t->type == DN_INT32) {
            memcpy(&value[i], t->data + 4 * i, 4);
            continue;
        }
        int64_t wide;
        memcpy(&wide, t->data + 8 * i, 8);
        value[i] = wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : (int32_t)wide;
    }
    return (int)t->count;
}

int32_t dn_arena_zero(const dn_tensor *t) { return t->zero_point + dn_from_file(t); }

void dn_alias(dn_model *m, int32_t tensor, int32_t with) {
    int root = m->tensor[with].root;
    m->tensor[tensor].root = root;
    m->tensor[tensor].packed = m->tensor[with].packed;
}

dn_act *dn_data(dn_model *m, int tensor) {
    const dn_tensor *t = &m->tensor[tensor];
    return t->packed != NULL ? (dn_act *)t->packed : m->arena + m->tensor[t->root].offset;
}

dn_act *dn_scratch(dn_model *m, int op) {
    size_t bytes = (m->op[op].scratch_bytes + DN_SLACK + DN_ALIGN - 1) / DN_ALIGN * DN_ALIGN;
    return m->arena + m->op[op].scratch_offset + bytes * (size_t)dn_team_member();
}

static const struct {
    int code;
    bool (*prepare)(dn_model *m, int op);
} prepares[] = {
    {OP_ADD, dn_prepare_add},
    {OP_SUB, dn_prepare_add},
    {OP_MUL, dn_prepare_mul},
    {OP_AVERAGE_POOL_2D, dn_prepare_average_pool},
    {OP_MAX_POOL_2D, dn_prepare_max_pool},
    {OP_MEAN, dn_prepare_mean},
    {OP_CONV_2D, dn_prepare_conv},
    {OP_FULLY_CONNECTED, dn_prepare_dense},
    {OP_DEPTHWISE_CONV_2D, dn_prepare_depthwise},
    {OP_LOGISTIC, dn_prepare_unary},
    {OP_TANH, dn_prepare_unary},
    {OP_RELU, dn_prepare_unary},
    {OP_RELU6, dn_prepare_unary},
    {OP_RELU_N1_TO_1, dn_prepare_unary},
    {OP_LEAKY_RELU, dn_prepare_unary},
    {OP_HARD_SWISH, dn_prepare_unary},
    {OP_QUANTIZE, dn_prepare_quantise},
    {OP_DEQUANTIZE, dn_prepare_dequantise},
    {OP_SOFTMAX, dn_prepare_softmax},
    {OP_RESHAPE, dn_prepare_reshape},
    {OP_SQUEEZE, dn_prepare_reshape},
    {OP_EXPAND_DIMS, dn_prepare_reshape},
    {OP_PAD, dn_prepare_pad},
    {OP_PADV2, dn_prepare_pad},
    {OP_TRANSPOSE, dn_prepare_transpose},
    {OP_STRIDED_SLICE, dn_prepare_strided_slice},
    {OP_CONCATENATION, dn_prepare_concatenation},
    {OP_SPLIT, dn_prepare_split},
    {OP_RESIZE_BILINEAR, dn_prepare_bilinear},
    {OP_RESIZE_NEAREST_NEIGHBOR, dn_prepare_nearest},
};

static bool prepare_op(dn_model *m, int op) {
    for (size_t i = 0; i < sizeof prepares / sizeof *prepares; i++)
        if (prepares[i].code == m->op[op].code) return prepares[i].prepare(m, op);
    return DN_REFUSE(m, op, DN_UNSUPPORTED, "not known to the native engine");
}

/* Every operand is made before it is used, and made once: no cycles. */
static bool check_order(dn_model *m, bool *made, int op) {
    const dn_op *o = &m->op[op];
    for (int k = 0; k < o->inputs; k++)
        if (o->input[k] >= 0 && !made[o->input[k]])
            return DN_REFUSE(m, op, DN_MALFORMED, "reads tensor %d before anything writes it", o->input[k]);
    for (int k = 0; k < o->outputs; k++) {
        if (o->output[k] < 0) return DN_REFUSE(m, op, DN_MALFORMED, "output %d is missing", k);
        if (made[o->output[k]])
            return DN_REFUSE(m, op, DN_MALFORMED, "writes tensor %d, which already holds something", o->output[k]);
        made[o->output[k]] = true;
        m->tensor[o->output[k]].producer = op;
    }
    return true;
}

static bool check_border(dn_model *m, int tensor, const char *what) {
    const dn_tensor *t = &m->tensor[tensor];
    if (t->data != NULL) return dn_fail(m->error, DN_UNSUPPORTED, "the model's %s is a constant", what);
    if (t->type == DN_FLOAT32) return true;
    if (t->type != DN_INT8 && t->type != DN_UINT8)
        return dn_fail(m->error, DN_UNSUPPORTED, "the model's %s has type %d; int8, uint8 and float32 are supported",
                       what, (int)t->type);
    if (t->scales.count != 1 || !(t->scale > 0.0f))
        return dn_fail(m->error, DN_UNSUPPORTED, "the model's %s is not quantised per tensor", what);
    return true;
}

bool dn_prepare(dn_model *m) {
    if (!check_border(m, m->input, "input") || !check_border(m, m->output, "output")) return false;
    bool *made = calloc((size_t)m->tensors + 1, sizeof *made);
    if (made == NULL) return dn_fail(m->error, DN_NO_MEMORY, "no memory for %d tensors", m->tensors);
    for (int i = 0; i < m->tensors; i++) made[i] = m->tensor[i].data != NULL;
    made[m->input] = true;
    m->tensor[m->output].consumers = 1;
    for (int i = 0; i < m->ops; i++)
        for (int k = 0; k < m->op[i].inputs; k++)
            if (m->op[i].input[k] >= 0) m->tensor[m->op[i].input[k]].consumers++;
    bool fine = true;
    for (int i = 0; fine && i < m->ops; i++) fine = check_order(m, made, i) && prepare_op(m, i);
    if (fine && !made[m->output]) fine = dn_fail(m->error, DN_MALFORMED, "nothing writes the model's output");
    free(made);
    return fine;
}
