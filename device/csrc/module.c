/* The Python extension `distillnet.engine._engine`: the only file of the engine that knows Python. */
#include <Python.h>

static PyObject *version(PyObject *self, PyObject *unused) {
    (void)self; (void)unused;
    return PyUnicode_FromString("0.1.0");
}

static PyMethodDef methods[] = {
    {"version", version, METH_NOARGS, "Version of the engine."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_engine", "The C engine.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__engine(void) { return PyModuleDef_Init(&module); }
