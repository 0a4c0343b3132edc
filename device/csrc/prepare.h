/* What the operators' prepare functions share: checks that name the operator, and the requantisation's parameters. */
#ifndef DN_PREPARE_H
#define DN_PREPARE_H

#include "internal.h"
#include "schema.h"

/* `return DN_REFUSE(m, op, DN_MALFORMED, "…", …)` from a prepare function. */
#define DN_REFUSE(m, op, status, format, ...) \
    dn_fail((m)->error, status, "operator %d (%s): " format, op, dn_op_name((m)->op[op].code), ##__VA_ARGS__)

dn_tensor *dn_in(dn_model *m, int op, int k); /* NULL when absent */
dn_tensor *dn_out(dn_model *m, int op, int k);

/* Number of operands, none of the first `inputs` absent. */
bool dn_need(dn_model *m, int op, int inputs, int optional, int outputs);
/* int8, one positive scale; constants get their arena form. */
bool dn_need_int8(dn_model *m, int op, dn_tensor *t, const char *what);
bool dn_need_shape(dn_model *m, int op, const dn_tensor *t, const char *what, int rank, const int32_t *dim);
bool dn_need_same_quantisation(dn_model *m, int op, const dn_tensor *a, const dn_tensor *b);
/* A constant int32 vector of exactly or up to `count` values into `value`; returns how many, -1 after an error. */
int dn_need_ints(dn_model *m, int op, const dn_tensor *t, const char *what, int count, int32_t *value);

int32_t dn_arena_zero(const dn_tensor *t); /* the zero point in the arena's form */
static inline int32_t dn_from_file(const dn_tensor *t) { return t->type == DN_UINT8 ? DN_FROM_UINT8 : DN_FROM_INT8; }

/* TFLite's QuantizeMultiplier; false when the scale is too large for any sum to survive it. */
bool dn_quantise_multiplier(double real, int32_t *multiplier, int32_t *shift);
/* TFLite's CalculateActivationRangeQuantized, in the arena's form. */
bool dn_activation_range(dn_model *m, int op, int activation, const dn_tensor *out, int32_t *min, int32_t *max);

/* Fills all of `r` but its range and `once`: scale[c] are real multipliers; weights lie channel after channel, or with the
 * channels last; `uses` says how many sums a channel makes in a run, and so whether a dn_quick is worth the search. `*kernels` are the model's, or the scalar ones where a scale is too large, or a weight too small, for the
 * vectors' arithmetic. */
bool dn_make_requant(dn_model *m, int op, int32_t channels, const dn_tensor *in, const dn_tensor *weights,
                     bool channels_last, const dn_tensor *bias, const dn_tensor *out, const double *scale, size_t uses,
                     dn_requant *r, const dn_kernels **kernels);

/* Real multiplier per output channel of a convolution; `*scale` is malloc'ed for the caller. */
bool dn_channel_scales(dn_model *m, int op, const dn_tensor *in, const dn_tensor *weights, int axis,
                       const dn_tensor *out, int32_t channels, double **scale);

typedef struct {
    int32_t out_h, out_w, pad_top, pad_left;
} dn_window;
/* Output size and padding of a sliding window, as TFLite computes them. */
bool dn_slide(dn_model *m, int op, const dn_tensor *in, int padding, int32_t k_h, int32_t k_w, int32_t stride_h,
              int32_t stride_w, int32_t dil_h, int32_t dil_w, dn_window *w);

/* w: int8 [n][k] → packed for `kernels`, in the pool; NULL after an error. */
int8_t *dn_pack(dn_model *m, const dn_kernels *kernels, const int8_t *w, int32_t n, int32_t k);

/* Rows of a picture copied with their padding, as many as the windows of `rows` output rows want. */
typedef struct {
    int32_t height, width, channels, pad_top, pad_left, stride_h;
    int32_t wide; /* pixels of a padded row */
    int32_t span; /* picture rows that a window spans */
    int32_t rows;
    dn_act zero;
} dn_stripe;
/* Chooses `rows` and the operator's scratch. */
bool dn_prepare_stripe(dn_model *m, int op, dn_stripe *s, int32_t out_h);
/* For output rows [y, y + count), to [picture rows][wide][channels]. */
void dn_fill_stripe(const dn_stripe *s, const dn_act *picture, int32_t y, int32_t count, dn_act *to);

/* How threads share out an output of so many lines and channels: by channels where each thread would have few lines. Then
 * there are more weights than activations, and each thread reads a part of those. sections.c */
dn_split dn_split_of(const dn_model *m, size_t lines, size_t channels);
/* Of an operator that makes its output value after value, and what of that is a part's: values [*from, *to). */
void dn_split_values(dn_model *m, int op);
void dn_share_values(const dn_model *m, int op, int part, int parts, size_t *from, size_t *to);

/* When an operator's first input is a PAD with the zero point that nothing else reads, the operator takes the PAD's input
 * and pads for itself: *top and *left pixels, to a picture of the shape that is returned. */
dn_tensor *dn_absorb_pad(dn_model *m, int op, int32_t *top, int32_t *left);

/* When an operator's first input is a TRANSPOSE from [n, h, w, c] to [n, c, h, w] that nothing else reads, the operator takes
 * what is transposed. */
bool dn_absorb_channels_first(dn_model *m, int op);

/* At run time. */
dn_act *dn_data(dn_model *m, int tensor);
dn_act *dn_scratch(dn_model *m, int op); /* the calling thread's */
/* The part's share of `count` in multiples of `grain`: [*from, *to). sections.c */
void dn_share(const dn_model *m, size_t count, size_t grain, int part, int parts, size_t *from, size_t *to);
static inline void dn_share_op(const dn_model *m, int op, int part, int parts, size_t *from, size_t *to) {
    dn_share(m, m->op[op].split.count, m->op[op].split.grain, part, parts, from, to);
}

/* Shares memory instead of copying; both have as many elements. */
void dn_alias(dn_model *m, int32_t tensor, int32_t with);

bool dn_prepare_conv(dn_model *m, int op);
/* DEPTHWISE_CONV_2D of one channel: an ordinary convolution, its weights turned. */
bool dn_prepare_single_channel(dn_model *m, int op);
bool dn_prepare_dense(dn_model *m, int op);
bool dn_prepare_depthwise(dn_model *m, int op);
bool dn_prepare_average_pool(dn_model *m, int op);
bool dn_prepare_max_pool(dn_model *m, int op);
bool dn_prepare_mean(dn_model *m, int op);
bool dn_prepare_add(dn_model *m, int op);
bool dn_prepare_mul(dn_model *m, int op);
bool dn_prepare_unary(dn_model *m, int op);
bool dn_prepare_quantise(dn_model *m, int op);
bool dn_prepare_dequantise(dn_model *m, int op);
bool dn_prepare_softmax(dn_model *m, int op);
bool dn_prepare_reshape(dn_model *m, int op);
bool dn_prepare_pad(dn_model *m, int op);
bool dn_prepare_transpose(dn_model *m, int op);
bool dn_prepare_strided_slice(dn_model *m, int op);
bool dn_prepare_concatenation(dn_model *m, int op);
bool dn_prepare_split(dn_model *m, int op);
bool dn_prepare_bilinear(dn_model *m, int op);
bool dn_prepare_nearest(dn_model *m, int op);

#endif
