/* Adds the type `Frontend` to the extension. */
#ifndef DN_MODULE_FRONTEND_H
#define DN_MODULE_FRONTEND_H

#include <Python.h>

int dn_add_frontend_type(PyObject *module); /* 0, or -1 with an exception set */

#endif
