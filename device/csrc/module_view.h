/* Adds the type `View` to the extension: how frames of one size become a model's input, zone by zone, and its output
 * scores. */
#ifndef DN_MODULE_VIEW_H
#define DN_MODULE_VIEW_H

#include <Python.h>

#include "distillnet.h"

int dn_add_view_type(PyObject *module, PyObject **type); /* 0 and a new reference to it, or -1 with an exception set */

enum { DN_MOST_OUTPUTS = 4096 };

typedef struct {
    double prepare_ms, run_ms;
} dn_view_times;

/* A frame as Python gives it: bytes in one piece, or a tuple that begins with the planes Y, U and V, whole rows each. */
typedef struct {
    Py_buffer planes[3];
    int count; /* of those that are held */
} dn_view_frame;

int dn_view_take(PyObject *view, PyObject *object, dn_view_frame *frame); /* 1; or 0 with an exception set and nothing held */
void dn_view_give_back(dn_view_frame *frame);

size_t dn_view_zones(PyObject *view);

/* Prepare and run all zones of a frame; `scores` (zones, n). Without the GIL, one thread at a time per view.
 * DN_BAD_CALL: the model takes no such tensors, or gives no n values. */
dn_status dn_view_run(PyObject *view, dn_model *model, const dn_view_frame *frame, float *scores, size_t n,
                      dn_view_times *times, dn_error *error);

/* share[n] = the shares of logits in the sum of their weights, in double precision: weight[256] at [largest - logit]. */
void dn_share_out(const int8_t *logit, size_t n, const double *weight, float *share);

#endif
