/* The kernels of one instruction set, and the parameters they take. Every entry computes exactly what its scalar twin
 * in kernels_scalar.c computes.
 *
 * Activations in the arena are 8 bits in ONE form, `dn_act`, whatever the file calls them: unsigned on x86, because
 * VNNI multiplies unsigned by signed; signed elsewhere. An int8 tensor on x86 is held with 128 added, and so is its
 * zero point; a uint8 tensor elsewhere with 128 taken away. Nothing but the model's borders can tell. */
#ifndef DN_KERNELS_H
#define DN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
typedef uint8_t dn_act;
#define DN_ACT_MIN 0
#define DN_ACT_MAX 255
#else
typedef int8_t dn_act;
#define DN_ACT_MIN (-128)
#define DN_ACT_MAX 127
#endif
#define DN_FROM_INT8 (DN_ACT_MIN + 128)  /* arena value = int8 value + this */
#define DN_FROM_UINT8 (DN_ACT_MIN)       /* arena value = uint8 value + this */

/* How accumulators become activations: q = clamp(requantise(sum) + zero_point). Arrays have one entry per output
 * channel, rounded up to DN_CHANNEL_BLOCK with zeros.
 *
 * TFLite rounds twice (SaturatingRoundingDoublingHighMul, then RoundingDivideByPOT), except in FULLY_CONNECTED, which it
 * leaves to ruy, which rounds once. With right = -shift >= 1, which vector kernels may count on, both are one shift:
 *     twice: (sum * multiplier + 2^30 + 2^(30 + right) - (sum < 0 ? 2^31 : 0)) >> (31 + right)
 *     once:  (sum * multiplier + 2^(30 + right)) >> (31 + right)
 * as nested floors merge, and ties of negative sums go away from zero. 64 bits hold it for every sum. */
#define DN_CHANNEL_BLOCK 64

/* Requantisation of 16 channels in single precision, less the layer's `centre`, for sums less their `base`:
 *     q - centre = nearest(fma(sum - base, scale, nudge))            where no result is negative (dn_requant.rectified), else
 *     q = nearest(fma(sum, scale, copysign(nudge, sum))).
 * It is used only where it was found, at load, to equal the definition above for every sum that the channel's weights can
 * make. Near zero floats are finest, hence the centre. */
#define DN_QUICK_LANES 16
typedef struct {
    float scale[DN_QUICK_LANES], nudge[DN_QUICK_LANES];
    int32_t base[DN_QUICK_LANES];
    int32_t usable; /* for all the channels */
} dn_quick;

/* What is asked of 16 channels: sums in [low, high], results in [min, max], before the zero point. */
typedef struct {
    int32_t multiplier[DN_QUICK_LANES], shift[DN_QUICK_LANES];
    int64_t low[DN_QUICK_LANES], high[DN_QUICK_LANES];
    int32_t min, max, centre;
    int rectified; /* min >= 0 */
} dn_quick_want;

void dn_quick_find(dn_quick *q, const dn_quick_want *want); /* quick_avx2.c */

typedef struct {
    const int32_t *bias; /* bias - zero_point of the input * sum of weights; where a dn_quick is usable, less its base */
    const int32_t *multiplier;
    const int32_t *shift; /* -31..30 */
    int32_t zero_point, min, max; /* of the output, arena form */
    int32_t once;
    const dn_quick *quick; /* a block for every 16 channels, or NULL */
    int32_t centre;        /* of the quick results; 0 without any */
    int32_t rectified;
} dn_requant;

/* Row-major matrix times packed weights: out[m][n] = requant(sum over k of a[m][k] * w[n][k]).
 * Packed: [ceil(n / nr)][ceil(k / kr)][nr][kr], zeros where there is no weight.
 * Kernels that take `windows` find a row in several segments of k values, `next_segment` bytes apart: the rows of a
 * convolution's window. Packed is then [ceil(n / nr)][segments][ceil(k / kr)][nr][kr]. */
typedef struct {
    const int8_t *packed;
    int32_t n, k;
    dn_requant requant;
    int32_t segments; /* 0: one */
    size_t next_segment;
} dn_gemm;

#define DN_MAX_ROWS 16  /* of a depthwise window that kernels take */
#define DN_MAX_TAPS 256

/* A depthwise convolution with channel multiplier 1, one output row at a time. rows[ky] points at the input pixel under
 * tap (ky, 0) of the first output pixel; the tap kx of output pixel x lies (x * stride_w + kx * dil_w) pixels further on.
 * Padding has been written out by the caller. `packed` is what the same kernels' `pack_depthwise` made. */
typedef struct {
    const int8_t *packed;
    int32_t channels, k_h, k_w, stride_w, dil_w;
    dn_requant requant;
} dn_depthwise;

/* What a window slides over: a picture, and as much padding with `zero` as the windows want. */
typedef struct {
    int32_t height, width, pad_top, pad_left, stride_h, out_width;
    dn_act zero;
} dn_picture;

/* Depthwise kernels for some windows, which take the picture as it lies and pad on the way. */
typedef struct {
    int (*takes)(const dn_depthwise *d, int32_t stride_h, int32_t dil_h);
    size_t (*bytes)(const dn_depthwise *d);
    void (*pack)(const dn_depthwise *d, const int8_t *w, int8_t *packed); /* w: int8 [k_h][k_w][channels] */
    /* Output rows [from, to), channels [first, last), `first` a multiple of DN_CHANNEL_BLOCK, and `last` too or all;
     * out: where the first row goes. */
    void (*run)(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int from, int to, size_t first, size_t last,
                dn_act *out);
} dn_window_kernels;

/* q = requant(multiplier_out, requant(m1, (a - z1) << 20) ± requant(m2, (b - z2) << 20)), TFLite's ADD and SUB. */
typedef struct {
    int32_t zero_a, zero_b, multiplier_a, multiplier_b, shift_a, shift_b; /* shifts <= 0 */
    int32_t sign_b;                                                      /* 1 or -1 */
    int32_t multiplier_out, shift_out, zero_out, min, max;
} dn_add;

/* The same in single precision, good for all but the sums near the edge between two results:
 *     v = nearest(a * by_a + b * by_b + constant), q = v >> DN_SKETCH_BITS, unless (v & near) == 0.
 * TFLite's three roundings move a result by at most 2.5 / 2^right, the floats' by 2^-24 of what each step makes; `constant`
 * holds half a step and that much, so that doubtful sums are those with next to nothing behind the point. near = 0: the
 * scales are too wide for it. */
#define DN_SKETCH_BITS 15
typedef struct {
    float by_a, by_b, constant;
    int32_t near;
} dn_sketch;

dn_sketch dn_sketch_add(const dn_add *p); /* requant.c */

/* q = requant((a - zero_a) * (b - zero_b)), TFLite's MUL. */
typedef struct {
    int32_t zero_a, zero_b, multiplier, shift, zero_out, min, max;
} dn_mul;

#define DN_PIXELS_IN_16_BITS 256 /* that can be added up */

/* q = requant(base + sum of pixels values), TFLite's MEAN over pixels, `stride` bytes apart. For
 * vectors shift <= 0, and sums have less than 30 bits. */
typedef struct {
    size_t pixels, stride;
    int32_t base; /* - pixels * zero_in */
    int32_t multiplier, shift, zero_out;
} dn_mean;

typedef struct {
    const char *name;
    int nr, kr;
    int weight_bytes;  /* of packed weights of gemm: 1, or 2 for int16 */
    int32_t windows;   /* gemm takes segments of so many values in all, each filled up to kr; 0: none */
    int lowest_weight; /* smaller ones overflow somewhere: the scalar kernels take the layer */
    void (*find_quick)(dn_quick *q, const dn_quick_want *want); /* NULL: these kernels have no use for a dn_quick */
    /* a: rows pixels, lda bytes apart; out: ldo bytes apart. */
    void (*gemm)(const dn_gemm *g, const dn_act *a, size_t lda, int rows, dn_act *out, size_t ldo);
    /* w: int8 [k_h][k_w][channels], of which `depthwise_bytes` are made. */
    size_t (*depthwise_bytes)(int32_t channels, int32_t k_h, int32_t k_w);
    void (*pack_depthwise)(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed);
    void (*depthwise)(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out);
    const dn_window_kernels *window; /* NULL: none */
    void (*add)(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out);
    void (*mul)(const dn_mul *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out);
    void (*mean)(const dn_mean *p, const dn_act *a, size_t count, dn_act *out); /* a: `count` channels of the first pixel */
    void (*lut)(const uint8_t table[256], const dn_act *a, size_t count, dn_act *out);
} dn_kernels;

extern const dn_kernels dn_kernels_scalar;
#if defined(__x86_64__)
extern const dn_kernels dn_kernels_avx2, dn_kernels_avxvnni, dn_kernels_avx512vnni;
#elif defined(__aarch64__)
extern const dn_kernels dn_kernels_neon, dn_kernels_neondot;
#endif

const dn_kernels *dn_kernels_pick(const char *name); /* dispatch.c; NULL or "": the best; NULL when unknown */

struct dn_model;
typedef void (*dn_op_kernel)(struct dn_model *m, int op, int part, int parts);

/* The nearest to a * b / 2^31, halves up: gemmlowp's SaturatingRoundingDoublingHighMul but for INT32_MIN squared. */
static inline int32_t dn_multiply_high(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31); }

/* The nearest to x / 2^exponent, halves away from zero: gemmlowp's RoundingDivideByPOT; 0 <= exponent <= 31. */
static inline int32_t dn_divide_by_power(int32_t x, int exponent) {
    int32_t mask = (int32_t)((1u << exponent) - 1), threshold = (mask >> 1) + (x < 0);
    return (x >> exponent) + ((x & mask) > threshold);
}

/* TFLite's MultiplyByQuantizedMultiplier with double rounding; multiplier >= 0, -31 <= shift <= 30; wraps as x86 does. */
static inline int32_t dn_requantise(int32_t x, int32_t multiplier, int32_t shift) {
    int32_t shifted = shift > 0 ? (int32_t)((uint32_t)x << shift) : x;
    return dn_divide_by_power(dn_multiply_high(shifted, multiplier), shift > 0 ? 0 : -shift);
}

/* The same with one rounding, as ruy has it; the result wraps. */
static inline int32_t dn_requantise_once(int32_t x, int32_t multiplier, int32_t shift) {
    return (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << (30 - shift))) >> (31 - shift));
}

static inline int32_t dn_requantise_channel(const dn_requant *r, int32_t c, int32_t sum) {
    return (r->once ? dn_requantise_once : dn_requantise)(sum, r->multiplier[c], r->shift[c]);
}

/* clamp(q + zero); the sum wraps as x86 has it, and where TFLite's does: before int8 values become the arena's. */
static inline dn_act dn_finish(int32_t q, int32_t zero, int32_t min, int32_t max) {
    int32_t v = (int32_t)((uint32_t)q + (uint32_t)(zero - DN_FROM_INT8));
    int32_t low = min - DN_FROM_INT8, high = max - DN_FROM_INT8;
    return (dn_act)((v < low ? low : v > high ? high : v) + DN_FROM_INT8);
}

#endif
