/* The front-end's two parts that stand alone: the analysis of windows and the resampler. Not installed. */
#ifndef DN_FRONTEND_PARTS_H
#define DN_FRONTEND_PARTS_H

#include <stddef.h>
#include <stdint.h>

#include "frontend.h"

#define DN_PI 3.14159265358979323846
#ifndef DN_LANES
#define DN_LANES 8 /* windows analysed side by side: as many as a vector has floats */
#endif
#define DN_MOST_LANES 16
#define DN_DOT 16  /* partial sums of the resampler's dot products */
#define DN_BLOCK 64 /* outputs of a decimation made side by side */

/* ---- windows of samples to rows of features: frontend_rows.c ---- */

/* The tables of one front-end; all but `scratch` are only read. half = fft_samples / 2 complex points carry the real FFT. */
typedef struct {
    uint32_t window_samples, hop_samples, fft_samples, mel_bands;
    float log_offset, mean, scale;
    float *window;      /* (fft_samples): periodic Hann, zero from window_samples on */
    float *twiddles;    /* per radix-4 stage of m butterflies: (m, 6): re, im of w^p, w^2p, w^3p */
    uint32_t *place;    /* (half + 1): where the transform leaves point k mod half */
    float *split;       /* (half + 1, 2): 0.5 * sin, 0.5 * cos of the step from half complex points to the real ones */
    uint32_t *first;    /* (mel_bands): the first bin of each triangle */
    uint32_t *bins;     /* (mel_bands): how many it has */
    float *weights;     /* the triangles, one after the other */
    uint32_t first_bin, end_bin; /* bins any triangle touches */
    float *scratch;     /* (2 * half + half + 1 + mel_bands, DN_MOST_LANES), 64-byte aligned */
} dn_rows_plan;

/* 0, or -1 where there is no memory; `dn_rows_plan_free` in either case. frontend_plan.c */
int dn_rows_plan_create(dn_rows_plan *plan, const dn_frontend_spec *spec);
void dn_rows_plan_free(dn_rows_plan *plan);

/* What is compiled once per instruction set: frontend_rows.c. Without contraction to FMA all builds give the same bits. */
typedef struct {
    uint32_t lanes; /* windows analysed side by side */
    /* Samples made finite and within ±1024; out: (count). */
    void (*clean)(const float *samples, size_t count, float *out);
    /* Analyse `count` (1–lanes) windows, the r-th at samples + r * hop_samples. rows: (count, mel_bands). */
    void (*rows)(const dn_rows_plan *plan, const float *samples, uint32_t count, float *rows);
    /* The sum of a[i] * b[i]; count: a multiple of DN_DOT. */
    float (*dot)(const float *a, const float *b, size_t count);
    /* out[k] = the sum of filter[j] * samples[k * down + j], j < taps; k < count.
     * scratch: (down, dn_decimate_stride(count, taps, down)). */
    void (*decimate)(const float *filter, uint32_t taps, uint32_t down, const float *samples, size_t count, float *out,
                     float *scratch);
} dn_frontend_kernels;

extern const dn_frontend_kernels dn_frontend__base, dn_frontend__avx2, dn_frontend__avx512;

static inline size_t dn_decimate_stride(size_t count, uint32_t taps, uint32_t down) {
    return (count + DN_BLOCK - 1) / DN_BLOCK * DN_BLOCK + (taps + down - 1) / down;
}

/* ---- rational resampling: frontend_resample.c ---- */

typedef struct {
    uint32_t up, down;   /* output rate / input rate in lowest terms; equal: samples pass through */
    uint32_t taps;       /* per phase, a multiple of DN_DOT */
    float *filter;       /* (up, taps) */
    float *history;      /* (taps + DN_RESAMPLE_CHUNK) */
    float *scratch;      /* of `decimate`, where up is 1 and down is small; else NULL */
    size_t held;         /* samples in `history` */
    uint64_t phase;      /* of the next output, 0–up-1 */
    size_t next;         /* where in `history` the next output's filter begins */
    const dn_frontend_kernels *kernels;
} dn_resampler;

#define DN_RESAMPLE_CHUNK 2048 /* input samples taken at a time */

/* 0; -1: no memory; -2: the filter would be larger than 16 MiB. `dn_resampler_free` in every case. */
int dn_resampler_create(dn_resampler *resampler, uint32_t input_rate_hz, uint32_t output_rate_hz,
                        const dn_frontend_kernels *kernels);
void dn_resampler_free(dn_resampler *resampler);
void dn_resampler_reset(dn_resampler *resampler);

/* Upper bound of the samples that `count` more samples give. */
size_t dn_resampler_capacity(const dn_resampler *resampler, size_t count);

/* count <= DN_RESAMPLE_CHUNK. Returns the samples written to `out`. */
size_t dn_resampler_push(dn_resampler *resampler, const float *samples, size_t count, float *out);

#endif
