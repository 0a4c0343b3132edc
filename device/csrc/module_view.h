/* Adds the type `View` to the extension: how frames of one size become a model's input, zone by zone, and its output
 * scores. */
#ifndef DN_MODULE_VIEW_H
#define DN_MODULE_VIEW_H

#include <Python.h>

#include "distillnet.h"

int dn_add_view_type(PyObject *module, PyObject **type); /* 0 and a new reference to it, or -1 with an exception set */

typedef struct {
    double prepare_ms, run_ms;
} dn_view_times;

/* Prepare and run all zones of a frame; `scores` float32 (zones, n). Without the GIL, one thread at a time per view.
 * DN_BAD_CALL: the sizes of frame, model and scores do not fit those of the view. */
dn_status dn_view_run(PyObject *view, dn_model *model, const Py_buffer *frame, const Py_buffer *scores, dn_view_times *times,
                      dn_error *error);

/* share[n] = the shares of logits in the sum of their weights, in double precision: weight[256] at [largest - logit]. */
void dn_share_out(const int8_t *logit, size_t n, const double *weight, float *share);

#endif
