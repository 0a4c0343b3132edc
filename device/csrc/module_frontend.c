/* `distillnet.engine._engine.Frontend`: the streaming log-mel front-end as a Python type. Stable ABI 3.11. */
#include <Python.h>

#include "frontend.h"
#include "module_frontend.h"

typedef struct {
    PyObject_HEAD
    dn_frontend *ears;
    unsigned mel_bands;
    int busy; /* a push is under way without the GIL */
} Frontend;

static PyObject *frontend_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"input_rate_hz", "sample_rate_hz", "window_samples", "hop_samples", "fft_samples", "mel_bands",
                            "low_hz", "high_hz", "log_offset", "mean", "scale", NULL};
    dn_frontend_spec spec;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$IIIIIIfffff:Frontend", names, &spec.input_rate_hz, &spec.sample_rate_hz,
                                     &spec.window_samples, &spec.hop_samples, &spec.fft_samples, &spec.mel_bands,
                                     &spec.low_hz, &spec.high_hz, &spec.log_offset, &spec.mean, &spec.scale))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Frontend *self = (Frontend *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    dn_error error;
    self->ears = dn_frontend_create(&spec, &error);
    if (self->ears == NULL) {
        PyErr_SetString(error.status == DN_NO_MEMORY ? PyExc_MemoryError : PyExc_ValueError, error.text);
        Py_DECREF(self);
        return NULL;
    }
    self->mel_bands = spec.mel_bands;
    return (PyObject *)self;
}

static void frontend_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    dn_frontend_free(((Frontend *)object)->ears);
    release(object);
    Py_DECREF(type);
}

/* Push without the GIL; returns malloc'ed rows and their number, or NULL with an exception. */
static float *push(Frontend *self, PyObject *samples, size_t *rows) {
    Py_buffer view;
    float *features = NULL;
    if (PyObject_GetBuffer(samples, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0)
        return NULL;
    if (view.ndim != 1 || view.format == NULL || view.format[0] != 'f' || view.format[1] != 0) {
        PyErr_SetString(PyExc_TypeError, "samples must be a contiguous float32 array of one dimension");
        goto finally;
    }
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this front-end is in use by another thread; make one per thread");
        goto finally;
    }
    size_t count = (size_t)view.len / sizeof(float);
    size_t capacity = dn_frontend_capacity(self->ears, count);
    features = PyMem_Malloc(capacity * self->mel_bands * sizeof(float));
    if (features == NULL) {
        PyErr_NoMemory();
        goto finally;
    }
    self->busy = 1;
    Py_BEGIN_ALLOW_THREADS
    *rows = dn_frontend_push(self->ears, view.buf, count, features, capacity);
    Py_END_ALLOW_THREADS
    self->busy = 0;
finally:
    PyBuffer_Release(&view);
    return features;
}

static PyObject *frontend_features(PyObject *object, PyObject *samples) {
    Frontend *self = (Frontend *)object;
    size_t rows = 0;
    float *features = push(self, samples, &rows);
    if (features == NULL)
        return NULL;
    PyObject *result = PyBytes_FromStringAndSize((const char *)features, (Py_ssize_t)(rows * self->mel_bands * sizeof(float)));
    PyMem_Free(features);
    return result;
}

static PyObject *frontend_quantised(PyObject *object, PyObject *args) {
    Frontend *self = (Frontend *)object;
    PyObject *samples;
    float scale;
    int zero_point;
    if (!PyArg_ParseTuple(args, "Ofi:quantised", &samples, &scale, &zero_point))
        return NULL;
    if (!(scale > 0.0f) || zero_point < -128 || zero_point > 127) {
        PyErr_SetString(PyExc_ValueError, "scale must be positive and zero_point -128–127");
        return NULL;
    }
    size_t rows = 0;
    float *features = push(self, samples, &rows);
    if (features == NULL)
        return NULL;
    size_t count = rows * self->mel_bands;
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    if (result != NULL)
        dn_frontend_quantise(self->ears, features, count, scale, zero_point, (int8_t *)PyBytes_AsString(result));
    PyMem_Free(features);
    return result;
}

static PyObject *frontend_reset(PyObject *object, PyObject *unused) {
    (void)unused;
    dn_frontend_reset(((Frontend *)object)->ears);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"features", frontend_features, METH_O, "Push samples; the rows completed, float32 (rows, mel_bands) as bytes."},
    {"quantised", frontend_quantised, METH_VARARGS, "Push samples; the rows completed, int8 (rows, mel_bands) as bytes."},
    {"reset", frontend_reset, METH_NOARGS, "Forget the past."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Streaming log-mel features; see frontend.h."},
    {Py_tp_new, frontend_new},
    {Py_tp_dealloc, frontend_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec type_spec = {
    .name = "distillnet.engine._engine.Frontend",
    .basicsize = sizeof(Frontend),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

int dn_add_frontend_type(PyObject *module) {
    PyObject *type = PyType_FromSpec(&type_spec);
    if (type == NULL)
        return -1;
    int status = PyModule_AddObjectRef(module, "Frontend", type);
    Py_DECREF(type);
    return status;
}
