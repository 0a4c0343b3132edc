/* The file into tensors and operators. Checks what a tensor or an operator is by itself; prepare.c checks what they
 * are to each other. */
#include <math.h>
#include <stdlib.h>

#include "internal.h"
#include "schema.h"

typedef struct {
    dn_table root;
    dn_vector codes, buffers;
} file;

static size_t type_bytes(dn_type type) {
    switch (type) {
        case DN_INT8: case DN_UINT8: return 1;
        case DN_FLOAT32: case DN_INT32: return 4;
        case DN_INT64: return 8;
    }
    return 0;
}

static bool read_shape(dn_model *m, dn_table table, int index, dn_tensor *t) {
    dn_vector shape = dn_fb_vector(&m->fb, table, TENSOR_SHAPE, 4, "tensor shape");
    if (shape.count > DN_MAX_RANK)
        return dn_fail(m->error, DN_UNSUPPORTED, "tensor %d has %u dimensions; up to %d are supported", index,
                       shape.count, DN_MAX_RANK);
    t->rank = (int)shape.count;
    t->count = 1;
    for (int i = 0; i < t->rank; i++) {
        int32_t dim = dn_fb_i32_in(&m->fb, shape, (uint32_t)i);
        if (dim <= 0)
            return dn_fail(m->error, dim == 0 ? DN_UNSUPPORTED : DN_MALFORMED, "tensor %d: dimension %d is %d", index, i,
                           dim);
        if (t->count > DN_MAX_ELEMENTS / (size_t)dim)
            return dn_fail(m->error, DN_TOO_LARGE, "tensor %d has more than 2^30 elements", index);
        t->dim[i] = dim;
        t->count *= (size_t)dim;
    }
    return true;
}

static bool read_quantisation(dn_model *m, dn_table table, int index, dn_tensor *t) {
    dn_table q = dn_fb_table(&m->fb, table, TENSOR_QUANTIZATION, "tensor quantisation");
    if (q.at == 0) return !dn_fb_failed(&m->fb);
    t->scales = dn_fb_vector(&m->fb, q, QUANT_SCALE, 4, "scales");
    t->zero_points = dn_fb_vector(&m->fb, q, QUANT_ZERO_POINT, 8, "zero points");
    t->axis = (int32_t)dn_fb_int(&m->fb, q, QUANT_DIMENSION, 4, 0);
    if (dn_fb_int(&m->fb, q, QUANT_DETAILS_TYPE, 1, 0) != 0)
        return dn_fail(m->error, DN_UNSUPPORTED, "tensor %d: custom quantisation", index);
    if (t->scales.count == 0) return !dn_fb_failed(&m->fb);
    if (t->zero_points.count != 0 && t->zero_points.count != t->scales.count)
        return dn_fail(m->error, DN_MALFORMED, "tensor %d: %u scales but %u zero points", index, t->scales.count,
                       t->zero_points.count);
    for (uint32_t i = 0; i < t->scales.count; i++) {
        float scale = dn_fb_f32_in(&m->fb, t->scales, i);
        if (!(scale >= 0.0f) || !isfinite(scale))
            return dn_fail(m->error, DN_MALFORMED, "tensor %d: scale %u is %g", index, i, (double)scale);
    }
    t->scale = dn_fb_f32_in(&m->fb, t->scales, 0);
    int64_t zero = dn_fb_i64_in(&m->fb, t->zero_points, 0);
    int64_t low = t->type == DN_INT8 ? -128 : t->type == DN_UINT8 ? 0 : INT32_MIN;
    int64_t high = t->type == DN_INT8 ? 127 : t->type == DN_UINT8 ? 255 : INT32_MAX;
    if (zero < low || zero > high)
        return dn_fail(m->error, DN_MALFORMED, "tensor %d: zero point %lld is outside its type", index, (long long)zero);
    t->zero_point = (int32_t)zero;
    return true;
}

static bool read_data(dn_model *m, const file *f, dn_table table, int index, dn_tensor *t) {
    uint32_t buffer = (uint32_t)dn_fb_int(&m->fb, table, TENSOR_BUFFER, 4, 0);
    if (buffer >= f->buffers.count)
        return dn_fail(m->error, DN_MALFORMED, "tensor %d is in buffer %u of %u", index, buffer, f->buffers.count);
    dn_table b = dn_fb_table_in(&m->fb, f->buffers, buffer, "buffer");
    dn_vector data = dn_fb_vector(&m->fb, b, BUFFER_DATA, 1, "buffer data");
    uint64_t offset = (uint64_t)dn_fb_int(&m->fb, b, BUFFER_OFFSET, 8, 0);
    uint64_t size = (uint64_t)dn_fb_int(&m->fb, b, BUFFER_SIZE, 8, 0);
    if (dn_fb_failed(&m->fb)) return false;
    if (offset > 1) { /* the data lies behind the flatbuffer, counted from the file's start */
        if (offset > m->fb.size || size > m->fb.size - offset)
            return dn_fail(m->error, DN_MALFORMED, "tensor %d: %llu bytes at %llu, in a file of %zu", index,
                           (unsigned long long)size, (unsigned long long)offset, m->fb.size);
        data = (dn_vector){(size_t)offset, (uint32_t)size};
    }
    if (data.count == 0) return true;
    size_t bytes = type_bytes(t->type);
    if (bytes != 0 && data.count != t->count * bytes)
        return dn_fail(m->error, DN_MALFORMED, "tensor %d: %zu elements of %zu bytes, but %u bytes of data", index,
                       t->count, bytes, data.count);
    t->data = m->fb.data + data.at;
    return true;
}

static bool read_tensor(dn_model *m, const file *f, dn_table table, int index) {
    dn_tensor *t = &m->tensor[index];
    t->type = (dn_type)dn_fb_int(&m->fb, table, TENSOR_TYPE, 1, 0);
    t->root = index;
    t->first = -1;
    t->producer = -1;
    if (dn_fb_int(&m->fb, table, TENSOR_VARIABLE, 1, 0) != 0)
        return dn_fail(m->error, DN_UNSUPPORTED, "tensor %d is a variable: the network has state", index);
    if (dn_fb_table(&m->fb, table, TENSOR_SPARSITY, "tensor sparsity").at != 0)
        return dn_fail(m->error, DN_UNSUPPORTED, "tensor %d is sparse", index);
    return read_shape(m, table, index, t) && read_quantisation(m, table, index, t) && read_data(m, f, table, index, t);
}

static const struct {
    int code, options;
    const char *name;
} operators[] = {
#define DN_ROW(code, name, options) {code, options, #name},
    DN_OPERATORS(DN_ROW)
#undef DN_ROW
};

const char *dn_op_name(int code) {
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (operators[i].code == code) return operators[i].name;
    return "unknown";
}

static int options_type(int code) {
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (operators[i].code == code) return operators[i].options;
    return -1;
}

static bool read_operands(dn_model *m, dn_table table, int field, int op, int *count, int32_t *operand) {
    dn_vector v = dn_fb_vector(&m->fb, table, field, 4, "operands");
    if (v.count > DN_MAX_OPERANDS)
        return dn_fail(m->error, DN_UNSUPPORTED, "operator %d has %u operands; up to %d are supported", op, v.count,
                       DN_MAX_OPERANDS);
    *count = (int)v.count;
    for (int i = 0; i < *count; i++) {
        operand[i] = dn_fb_i32_in(&m->fb, v, (uint32_t)i);
        if (operand[i] < -1 || operand[i] >= m->tensors)
            return dn_fail(m->error, DN_MALFORMED, "operator %d names tensor %d of %d", op, operand[i], m->tensors);
    }
    return !dn_fb_failed(&m->fb);
}

static bool read_op(dn_model *m, const file *f, dn_table table, int index) {
    dn_op *op = &m->op[index];
    uint32_t opcode = (uint32_t)dn_fb_int(&m->fb, table, OPERATOR_OPCODE, 4, 0);
    dn_table code = dn_fb_table_in(&m->fb, f->codes, opcode, "operator code");
    int64_t deprecated = dn_fb_int(&m->fb, code, OPCODE_DEPRECATED, 1, 0);
    int64_t builtin = dn_fb_int(&m->fb, code, OPCODE_CODE, 4, 0);
    op->code = (int)(builtin > deprecated ? builtin : deprecated);
    if (dn_fb_failed(&m->fb)) return false;
    int wanted = options_type(op->code);
    if (wanted < 0)
        return dn_fail(m->error, DN_UNSUPPORTED, "operator %d (builtin code %d) is not known to the native engine", index,
                       op->code);
    if (!read_operands(m, table, OPERATOR_INPUTS, index, &op->inputs, op->input) ||
        !read_operands(m, table, OPERATOR_OUTPUTS, index, &op->outputs, op->output))
        return false;
    int64_t type = (uint8_t)dn_fb_int(&m->fb, table, OPERATOR_OPTIONS_TYPE, 1, 0);
    if (wanted != 0 && type != 0) {
        if (type != wanted)
            return dn_fail(m->error, DN_MALFORMED, "operator %d (%s) has options of type %d, expected %d", index,
                           dn_op_name(op->code), (int)type, wanted);
        op->options = dn_fb_table(&m->fb, table, OPERATOR_OPTIONS, "operator options");
    }
    return !dn_fb_failed(&m->fb);
}

/* The engine runs networks with one input and one output. */
static bool read_border(dn_model *m, dn_table graph, int field, const char *what, int *tensor) {
    dn_vector v = dn_fb_vector(&m->fb, graph, field, 4, what);
    if (dn_fb_failed(&m->fb)) return false;
    if (v.count != 1) return dn_fail(m->error, DN_UNSUPPORTED, "the model has %u %ss; one is supported", v.count, what);
    *tensor = dn_fb_i32_in(&m->fb, v, 0);
    if (*tensor < 0 || *tensor >= m->tensors)
        return dn_fail(m->error, DN_MALFORMED, "the model's %s is tensor %d of %d", what, *tensor, m->tensors);
    return true;
}

bool dn_read(dn_model *m) {
    file f = {.root = dn_fb_root(&m->fb)};
    int64_t version = dn_fb_int(&m->fb, f.root, MODEL_VERSION, 4, 0);
    if (!dn_fb_failed(&m->fb) && version != 3)
        return dn_fail(m->error, DN_UNSUPPORTED, "schema version %lld; 3 is supported", (long long)version);
    f.codes = dn_fb_vector(&m->fb, f.root, MODEL_OPERATOR_CODES, 4, "operator codes");
    f.buffers = dn_fb_vector(&m->fb, f.root, MODEL_BUFFERS, 4, "buffers");
    dn_vector graphs = dn_fb_vector(&m->fb, f.root, MODEL_SUBGRAPHS, 4, "subgraphs");
    if (!dn_fb_failed(&m->fb) && graphs.count != 1)
        return dn_fail(m->error, DN_UNSUPPORTED, "%u subgraphs; one is supported", graphs.count);
    dn_table graph = dn_fb_table_in(&m->fb, graphs, 0, "subgraph");
    dn_vector tensors = dn_fb_vector(&m->fb, graph, SUBGRAPH_TENSORS, 4, "tensors");
    dn_vector ops = dn_fb_vector(&m->fb, graph, SUBGRAPH_OPERATORS, 4, "operators");
    if (dn_fb_failed(&m->fb)) return false;
    if (tensors.count > DN_MAX_TENSORS || ops.count > DN_MAX_OPS)
        return dn_fail(m->error, DN_TOO_LARGE, "%u tensors and %u operators", tensors.count, ops.count);
    m->tensor = calloc(tensors.count + 1, sizeof *m->tensor);
    m->op = calloc(ops.count + 1, sizeof *m->op);
    if (m->tensor == NULL || m->op == NULL)
        return dn_fail(m->error, DN_NO_MEMORY, "no memory for %u tensors and %u operators", tensors.count, ops.count);
    m->tensors = (int)tensors.count;
    for (int i = 0; i < m->tensors; i++)
        if (!read_tensor(m, &f, dn_fb_table_in(&m->fb, tensors, (uint32_t)i, "tensor"), i)) return false;
    m->ops = (int)ops.count;
    for (int i = 0; i < m->ops; i++)
        if (!read_op(m, &f, dn_fb_table_in(&m->fb, ops, (uint32_t)i, "operator"), i)) return false;
    return read_border(m, graph, SUBGRAPH_INPUTS, "input", &m->input) &&
           read_border(m, graph, SUBGRAPH_OUTPUTS, "output", &m->output);
}
