/* See module_view.h. Whatever does not change from frame to frame is checked and kept once. Stable ABI 3.11. */
#include "module_view.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "image.h"
#include "internal.h"

typedef struct {
    int32_t left, top, right, bottom, area;
} zone_box;

typedef struct {
    PyObject_HEAD
    dn_image image; /* but for the frame and the crop */
    size_t frame_bytes, tensor_bytes, zones;
    zone_box *boxes; /* [zones] */
    int8_t *tensor;  /* [tensor_bytes] */
    int8_t table[256];
    double weights[256];
} View;

/* The bytes of a frame, of planes those of Y; 0 for sides or a layout there are not. */
static size_t bytes_of(const dn_image *image) {
    static const size_t pixel_halves[] = {
        [DN_BGR_FRAME] = 6, [DN_YUYV_FRAME] = 4, [DN_NV12_FRAME] = 3, [DN_PLANES_FRAME] = 2};
    if (image->height < 1 || image->width < 1) return 0;
    return (size_t)image->height * (size_t)image->width * pixel_halves[image->layout] / 2;
}

static int set_up(View *self, int layout, int colour, const Py_buffer *boxes, const Py_buffer *table, const Py_buffer *weights) {
    dn_image *image = &self->image;
    self->zones = (size_t)boxes->len / sizeof *self->boxes;
    if (layout < DN_BGR_FRAME || layout > DN_PLANES_FRAME || colour < DN_BGR || colour > DN_GREY || image->out_height < 1 ||
        image->out_width < 1 || table->len != sizeof self->table || weights->len != sizeof self->weights || self->zones < 1 ||
        (size_t)boxes->len != self->zones * sizeof *self->boxes) {
        PyErr_SetString(PyExc_ValueError, "layout, colour, or sizes of tensor, boxes, table or weights are not possible");
        return 0;
    }
    image->layout = (dn_layout)layout;
    image->colour = (dn_colour)colour;
    image->table = self->table;
    image->stride = (size_t)image->width * (layout == DN_BGR_FRAME ? 3 : layout == DN_YUYV_FRAME ? 2 : 1);
    self->frame_bytes = bytes_of(image);
    self->tensor_bytes = (size_t)image->out_height * (size_t)image->out_width * (colour == DN_GREY ? 1 : 3);
    self->boxes = malloc((size_t)boxes->len);
    self->tensor = malloc(self->tensor_bytes);
    if (self->boxes == NULL || self->tensor == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    memcpy(self->boxes, boxes->buf, (size_t)boxes->len);
    memcpy(self->table, table->buf, sizeof self->table);
    memcpy(self->weights, weights->buf, sizeof self->weights);
    return 1;
}

static PyObject *view_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"layout", "frame_size", "boxes", "tensor_size", "colour", "table", "weights", NULL};
    Py_buffer boxes, table, weights;
    int layout, colour;
    dn_image image = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i(ii)y*(ii)iy*y*:View", names, &layout, &image.height, &image.width,
                                     &boxes, &image.out_height, &image.out_width, &colour, &table, &weights))
        return NULL;
    View *self = (View *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self != NULL) {
        self->image = image;
        if (!set_up(self, layout, colour, &boxes, &table, &weights)) Py_CLEAR(self);
    }
    PyBuffer_Release(&boxes);
    PyBuffer_Release(&table);
    PyBuffer_Release(&weights);
    return (PyObject *)self;
}

static void view_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    free(((View *)object)->boxes);
    free(((View *)object)->tensor);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

void dn_view_give_back(dn_view_frame *frame) {
    while (frame->count > 0) PyBuffer_Release(&frame->planes[--frame->count]);
}

int dn_view_take(PyObject *view, PyObject *object, dn_view_frame *frame) {
    enum { PLANES = 3 };
    const View *self = (const View *)view;
    const dn_image *image = &self->image;
    int split = image->layout == DN_PLANES_FRAME, fits = split == PyTuple_Check(object);
    if (split && fits) fits = PyTuple_Size(object) >= PLANES;
    frame->count = 0;
    for (int p = 0; fits && p < (split ? PLANES : 1); p++) {
        Py_buffer *plane = &frame->planes[p];
        if (PyObject_GetBuffer(split ? PyTuple_GetItem(object, p) : object, plane, PyBUF_SIMPLE) != 0) {
            dn_view_give_back(frame);
            return 0;
        }
        frame->count++;
        size_t rows = (size_t)image->height >> (p > 0), least = rows * ((size_t)image->width >> (p > 0));
        fits = split ? (size_t)plane->len >= least && (size_t)plane->len % rows == 0 : (size_t)plane->len == self->frame_bytes;
    }
    if (fits) return 1;
    dn_view_give_back(frame);
    PyErr_SetString(PyExc_ValueError, "the frame is not of this view's layout and size");
    return 0;
}

/* One zone of a frame, to a tensor of the right size. */
static dn_status prepare(const View *self, const dn_view_frame *frame, size_t zone, int8_t *tensor, dn_error *error) {
    dn_image image = self->image;
    const zone_box *box = self->boxes + zone;
    image.frame = frame->planes[0].buf;
    if (image.layout == DN_PLANES_FRAME) {
        image.stride = (size_t)frame->planes[0].len / (size_t)image.height;
        for (int c = 0; c < 2; c++) {
            image.colours[c] = frame->planes[1 + c].buf;
            image.colour_strides[c] = (size_t)frame->planes[1 + c].len / (size_t)(image.height / 2);
        }
    }
    image.left = box->left, image.top = box->top, image.right = box->right, image.bottom = box->bottom;
    image.area = box->area;
    return dn_image_tensor(&image, tensor, error);
}

static PyObject *view_fill(PyObject *object, PyObject *args) {
    View *self = (View *)object;
    PyObject *from;
    dn_view_frame frame;
    Py_buffer tensor;
    Py_ssize_t zone;
    if (!PyArg_ParseTuple(args, "Onw*:fill", &from, &zone, &tensor)) return NULL;
    dn_error error = {.status = DN_OK};
    int fits = dn_view_take(object, from, &frame);
    if (fits) {
        fits = (size_t)tensor.len == self->tensor_bytes && zone >= 0 && (size_t)zone < self->zones;
        if (fits) {
            Py_BEGIN_ALLOW_THREADS
            prepare(self, &frame, (size_t)zone, tensor.buf, &error);
            Py_END_ALLOW_THREADS
        } else PyErr_SetString(PyExc_ValueError, "the tensor is not of this view's size, or there is no such zone");
        dn_view_give_back(&frame);
    }
    PyBuffer_Release(&tensor);
    if (!fits) return NULL;
    if (error.status == DN_OK) Py_RETURN_NONE;
    if (error.status == DN_NO_MEMORY) return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, error.text);
    return NULL;
}

void dn_share_out(const int8_t *logit, size_t n, const double *weight, float *share) {
    int top = logit[0];
    for (size_t i = 1; i < n; i++) top = logit[i] > top ? logit[i] : top;
    double total = 0;
    for (size_t i = 0; i < n; i++) total += weight[top - logit[i]];
    for (size_t i = 0; i < n; i++) share[i] = (float)(weight[top - logit[i]] / total);
}

static double ms_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

size_t dn_view_zones(PyObject *view) { return ((const View *)view)->zones; }

dn_status dn_view_run(PyObject *view, dn_model *model, const dn_view_frame *frame, float *scores, size_t n,
                      dn_view_times *times, dn_error *error) {
    const View *self = (const View *)view;
    int8_t logits[DN_MOST_OUTPUTS];
    *times = (dn_view_times){0, 0};
    double then, now = ms_now();
    for (size_t zone = 0; zone < self->zones; zone++) {
        if (prepare(self, frame, zone, self->tensor, error) != DN_OK) return error->status;
        then = now, now = ms_now(), times->prepare_ms += now - then;
        if (dn_model_run(model, self->tensor, self->tensor_bytes, logits, n) != DN_OK) {
            dn_fail(error, DN_BAD_CALL, "the model takes no %zu bytes, or gives no %zu", self->tensor_bytes, n);
            return error->status;
        }
        dn_share_out(logits, n, self->weights, scores + zone * n);
        then = now, now = ms_now(), times->run_ms += now - then;
    }
    return DN_OK;
}

static PyMethodDef methods[] = {
    {"fill", view_fill, METH_VARARGS, "Crop, resize, colour and quantise one zone of a frame into a tensor."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "View(layout, frame_size, boxes, tensor_size, colour, table, weights)"},
    {Py_tp_new, view_new},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec type_spec = {
    .name = "distillnet.engine._engine.View",
    .basicsize = sizeof(View),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int dn_add_view_type(PyObject *module, PyObject **type) {
    *type = PyType_FromSpec(&type_spec);
    return *type == NULL ? -1 : PyModule_AddObjectRef(module, "View", *type);
}
