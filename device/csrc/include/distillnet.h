/* Distill-Net's inference engine: a standard int8 `.tflite` in, int8 scores out, bit for bit what LiteRT's reference
 * kernels answer.
 *
 *     dn_error error;
 *     dn_options options = {.threads = 1, .max_arena_bytes = 64 << 20};
 *     dn_model *model = dn_model_load(bytes, size, &options, &error);
 *     if (model == NULL) { fprintf(stderr, "%s\n", error.text); return 1; }
 *     dn_info info;
 *     dn_model_info(model, &info);
 *     dn_model_run(model, input, info.input.bytes, output, info.output.bytes);
 *     dn_model_free(model);
 *
 * Ownership: `dn_model_load` copies what it needs; the file's bytes may go afterwards. Input and output belong to the
 * caller. Errors: a NULL or a status other than DN_OK, with the reason in `error`; nothing exits or prints. Any byte
 * string may be given to `dn_model_load`. Nothing is allocated after load. One thread at a time per model. */
#ifndef DISTILLNET_H
#define DISTILLNET_H

#include <stddef.h>
#include <stdint.h>

#define DN_VERSION "0.1.0"
#define DN_MAX_RANK 6

typedef enum {
    DN_OK = 0,
    DN_MALFORMED,   /* the bytes contradict the format, or themselves */
    DN_UNSUPPORTED, /* valid perhaps, but not for this engine: use LiteRT */
    DN_TOO_LARGE,   /* wants more memory than `max_arena_bytes` */
    DN_NO_MEMORY,   /* malloc failed */
    DN_BAD_CALL,    /* a wrong size was passed to `dn_model_run` */
} dn_status;

typedef struct {
    dn_status status;
    char text[256]; /* where, what, expected against got */
} dn_error;

typedef struct {
    int threads;            /* 1..64 */
    size_t max_arena_bytes; /* refuses models whose activations and packed weights want more, each */
    const char *kernels;    /* NULL or "": the best this CPU has; else one of `dn_kernel_names` */
} dn_options;

typedef enum { DN_FLOAT32 = 0, DN_INT32 = 2, DN_UINT8 = 3, DN_INT64 = 4, DN_INT8 = 9 } dn_type; /* as in the schema */

typedef struct {
    int rank;
    int32_t shape[DN_MAX_RANK];
    dn_type type;
    float scale; /* real = (q - zero_point) * scale; 0 for floats */
    int32_t zero_point;
    size_t bytes;
} dn_tensor_info;

typedef struct {
    dn_tensor_info input, output;
    const char *kernels; /* the instruction set in use, for example "avx512vnni" */
    int threads;
    int layers;
    size_t arena_bytes, weights_bytes;
} dn_info;

typedef struct {
    const char *op;  /* the schema's name, for example "CONV_2D" */
    int index;       /* in the file */
    double ms;       /* of the last run */
    uint64_t macs;
} dn_layer;

typedef struct dn_model dn_model;

dn_model *dn_model_load(const void *bytes, size_t size, const dn_options *options, dn_error *error);
void dn_model_free(dn_model *model);
void dn_model_info(const dn_model *model, dn_info *info);

/* Sizes must be exactly those of `dn_info`. */
dn_status dn_model_run(dn_model *model, const void *input, size_t input_bytes, void *output, size_t output_bytes);

/* Times per layer are taken in every run; this reads those of the last. `index` < `dn_info.layers`. */
void dn_model_layer(const dn_model *model, int index, dn_layer *layer);

/* NULL-terminated; what this binary holds and this CPU can run, best first. The last is always "scalar". */
const char *const *dn_kernel_names(void);

#endif
