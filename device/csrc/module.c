/* The Python extension `distillnet.engine._engine`, in the stable ABI of 3.11: a thin skin over distillnet.h. Every
 * `Model` has a lock of its own, taken after the interpreter's is given up, so threads queue instead of colliding. */
#include <Python.h>
#include <pythread.h>

#include <stdlib.h>

#include "distillnet.h"
#include "module_frontend.h"
#include "module_view.h"

typedef struct {
    PyObject_HEAD
    dn_model *model;
    PyThread_type_lock lock;
} Model;

typedef struct {
    PyObject *model_error, *unsupported_error, *view_type;
} state;

static const char *type_name(dn_type type) {
    return type == DN_INT8 ? "int8" : type == DN_UINT8 ? "uint8" : type == DN_FLOAT32 ? "float32" : "unknown";
}

static void raise_load_error(PyTypeObject *type, const dn_error *error) {
    const state *s = PyType_GetModuleState(type);
    PyObject *exception = s->model_error;
    if (error->status == DN_NO_MEMORY) exception = PyExc_MemoryError;
    if (error->status == DN_UNSUPPORTED) exception = s->unsupported_error;
    PyErr_SetString(exception, error->text);
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"data", "threads", "max_arena_bytes", "kernels", NULL};
    Py_buffer data;
    Py_ssize_t max_arena_bytes;
    dn_options options = {1, 0, NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*inz", names, &data, &options.threads, &max_arena_bytes,
                                     &options.kernels))
        return NULL;
    options.max_arena_bytes = max_arena_bytes < 0 ? 0 : (size_t)max_arena_bytes;
    Model *self = NULL;
    dn_error error;
    dn_model *model;
    Py_BEGIN_ALLOW_THREADS
    model = dn_model_load(data.buf, (size_t)data.len, &options, &error);
    Py_END_ALLOW_THREADS
    if (model == NULL) {
        raise_load_error(type, &error);
        goto finally;
    }
    self = (Model *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL) {
        dn_model_free(model);
        goto finally;
    }
    self->model = model;
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL) {
        Py_DECREF(self);
        self = NULL;
        PyErr_NoMemory();
    }
finally:
    PyBuffer_Release(&data);
    return (PyObject *)self;
}

static void model_dealloc(Model *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    dn_model_free(self->model);
    if (self->lock != NULL) PyThread_free_lock(self->lock);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *model_run(Model *self, PyObject *args) {
    Py_buffer input, output;
    if (!PyArg_ParseTuple(args, "y*w*", &input, &output)) return NULL;
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    status = dn_model_run(self->model, input.buf, (size_t)input.len, output.buf, (size_t)output.len);
    PyThread_release_lock(self->lock);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&input);
    PyBuffer_Release(&output);
    if (status == DN_OK) Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "input and output buffers must have exactly the model's sizes");
    return NULL;
}

/* rows × n values as a list of lists. */
static PyObject *lists_of(const float *values, size_t rows, size_t n) {
    PyObject *lists = PyList_New((Py_ssize_t)rows);
    for (size_t row = 0; lists != NULL && row < rows; row++) {
        PyObject *list = PyList_New((Py_ssize_t)n);
        for (size_t i = 0; list != NULL && i < n; i++) {
            PyObject *value = PyFloat_FromDouble((double)values[row * n + i]);
            if (value == NULL || PyList_SetItem(list, (Py_ssize_t)i, value) != 0) Py_CLEAR(list);
        }
        if (list == NULL || PyList_SetItem(lists, (Py_ssize_t)row, list) != 0) Py_CLEAR(lists);
    }
    return lists;
}

/* One frame, all its zones; n scores of each, and what preparing and running took. See module_view.h. */
static PyObject *model_look(Model *self, PyObject *args) {
    dn_view_frame frame;
    PyObject *from, *view, *result = NULL;
    Py_ssize_t n;
    const state *s = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    if (!PyArg_ParseTuple(args, "OO!n:look", &from, (PyTypeObject *)s->view_type, &view, &n)) return NULL;
    if (n < 1 || n > DN_MOST_OUTPUTS) return PyErr_Format(PyExc_ValueError, "%zd scores of a zone", n);
    if (!dn_view_take(view, from, &frame)) return NULL;
    dn_error error = {.status = DN_OK};
    dn_view_times times;
    dn_status status = DN_NO_MEMORY;
    size_t zones = dn_view_zones(view);
    float *scores = malloc(zones * (size_t)n * sizeof *scores);
    if (scores != NULL) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(self->lock, WAIT_LOCK);
        status = dn_view_run(view, self->model, &frame, scores, (size_t)n, &times, &error);
        PyThread_release_lock(self->lock);
        Py_END_ALLOW_THREADS
    }
    dn_view_give_back(&frame);
    if (status == DN_OK) {
        PyObject *lists = lists_of(scores, zones, (size_t)n);
        if (lists != NULL) result = Py_BuildValue("Ndd", lists, times.prepare_ms, times.run_ms);
    } else if (status == DN_NO_MEMORY) PyErr_NoMemory();
    else PyErr_SetString(PyExc_ValueError, error.text);
    free(scores);
    return result;
}

static PyObject *describe(const dn_tensor_info *t) {
    PyObject *shape = PyTuple_New(t->rank);
    if (shape == NULL) return NULL;
    for (int i = 0; i < t->rank; i++) {
        PyObject *dim = PyLong_FromLong(t->shape[i]);
        if (dim == NULL || PyTuple_SetItem(shape, i, dim) != 0) {
            Py_DECREF(shape);
            return NULL;
        }
    }
    return Py_BuildValue("{s:N,s:s,s:d,s:i}", "shape", shape, "dtype", type_name(t->type), "scale", (double)t->scale,
                         "zero_point", t->zero_point);
}

static PyObject *model_info(Model *self, PyObject *unused) {
    (void)unused;
    dn_info info;
    dn_model_info(self->model, &info);
    PyObject *input = describe(&info.input), *output = describe(&info.output);
    if (input == NULL || output == NULL) {
        Py_XDECREF(input);
        Py_XDECREF(output);
        return NULL;
    }
    return Py_BuildValue("{s:s,s:s,s:i,s:n,s:n,s:N,s:N,s:s}", "engine", "native", "kernels", info.kernels, "threads",
                         info.threads, "arena_bytes", (Py_ssize_t)info.arena_bytes, "weights_bytes",
                         (Py_ssize_t)info.weights_bytes, "input", input, "output", output, "reason", "");
}

static PyObject *model_profile(Model *self, PyObject *unused) {
    (void)unused;
    dn_info info;
    dn_model_info(self->model, &info);
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < info.layers; i++) {
        dn_layer layer;
        dn_model_layer(self->model, i, &layer);
        PyObject *row = Py_BuildValue("{s:i,s:s,s:d,s:K}", "index", layer.index, "op", layer.op, "ms", layer.ms, "macs",
                                      (unsigned long long)layer.macs);
        if (row == NULL || PyList_Append(list, row) != 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyMethodDef model_methods[] = {
    {"run", (PyCFunction)model_run, METH_VARARGS, "Run from one buffer into another."},
    {"look", (PyCFunction)model_look, METH_VARARGS, "Run on the zones of a frame; returns their scores, and what preparing and running took."},
    {"info", (PyCFunction)model_info, METH_NOARGS, "What was loaded."},
    {"profile", (PyCFunction)model_profile, METH_NOARGS, "Per-layer figures of the last run."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, "Model(data, threads, max_arena_bytes, kernels)"},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_methods, model_methods},
    {0, NULL},
};

static PyType_Spec model_spec = {
    "distillnet.engine._engine.Model", sizeof(Model), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, model_slots,
};

static PyObject *version(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyUnicode_FromString(DN_VERSION);
}

static PyObject *kernel_names(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (const char *const *name = dn_kernel_names(); list != NULL && *name != NULL; name++) {
        PyObject *text = PyUnicode_FromString(*name);
        if (text == NULL || PyList_Append(list, text) != 0) Py_CLEAR(list);
        Py_XDECREF(text);
    }
    return list;
}

/* See the .pyi. */
static PyObject *shares(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer logits, weights, out;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "y*ny*w*", &logits, &n, &weights, &out)) return NULL;
    int fits = n > 0 && logits.len > 0 && logits.len % n == 0 && weights.len == 256 * (Py_ssize_t)sizeof(double) &&
               out.len == logits.len * (Py_ssize_t)sizeof(float);
    for (Py_ssize_t at = 0; fits && at < logits.len; at += n)
        dn_share_out((const int8_t *)logits.buf + at, (size_t)n, weights.buf, (float *)out.buf + at);
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "logits must be int8 (rows, n), weights float64 (256,), shares float32 (rows, n)");
    PyBuffer_Release(&logits);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&out);
    return fits ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {
    {"shares", shares, METH_VARARGS, "What logits have of the sum of their weights."},
    {"version", version, METH_NOARGS, "Version of the engine."},
    {"kernel_names", kernel_names, METH_NOARGS, "Instruction sets this build and this CPU have, best first."},
    {NULL, NULL, 0, NULL},
};

static int add_error(PyObject *module, const char *name, const char *full, PyObject **slot) {
    *slot = PyErr_NewException(full, NULL, NULL);
    return *slot == NULL ? -1 : PyModule_AddObjectRef(module, name, *slot);
}

static int fill(PyObject *module) {
    state *s = PyModule_GetState(module);
    if (add_error(module, "LoadError", "distillnet.engine._engine.LoadError", &s->model_error) != 0 ||
        add_error(module, "UnsupportedError", "distillnet.engine._engine.UnsupportedError", &s->unsupported_error) != 0)
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &model_spec, NULL);
    if (type == NULL) return -1;
    int failed = PyModule_AddObjectRef(module, "Model", type);
    Py_DECREF(type);
    return failed != 0 || dn_add_view_type(module, &s->view_type) != 0 ? -1 : dn_add_frontend_type(module);
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    state *s = PyModule_GetState(module);
    Py_VISIT(s->model_error);
    Py_VISIT(s->unsupported_error);
    Py_VISIT(s->view_type);
    return 0;
}

static int clear(PyObject *module) {
    state *s = PyModule_GetState(module);
    Py_CLEAR(s->model_error);
    Py_CLEAR(s->unsupported_error);
    Py_CLEAR(s->view_type);
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_engine", "The C engine.", sizeof(state), methods, slots, traverse, clear, NULL,
};

PyMODINIT_FUNC PyInit__engine(void) { return PyModuleDef_Init(&module); }
