/* The front-end's two parts that stand alone: the analysis of windows and the resampler. Not installed. */
#ifndef DN_FRONTEND_PARTS_H
#define DN_FRONTEND_PARTS_H

#include <stddef.h>
#include <stdint.h>

#include "frontend.h"

#define DN_PI 3.14159265358979323846
#ifndef DN_LANES
#define DN_LANES 4 /* windows analysed side by side: as many as a vector has floats */
#endif
#define DN_MOST_LANES 16
#define DN_DOT 16  /* partial sums of the resampler's dot products */
#define DN_BLOCK 64 /* outputs of a decimation made side by side */

/* ---- windows of samples to rows of features: frontend_rows.c ---- */

/* What a bin's magnitude adds to: band - 1, whose triangle falls there, and band, whose triangle rises. */
typedef struct {
    uint32_t band;
    float falling, rising;
} dn_bin;

/* Bins k and half - k of the real transform, which the same two points of the complex one make. */
typedef struct {
    float sine, cosine; /* of pi * k / half */
    dn_bin bin[2];
} dn_pair;

/* The tables of one front-end; all but `scratch` are only read. half = fft_samples / 2 complex points carry the real FFT,
 * whose passes are of radix 4, but for the last where half is no power of 4. */
typedef struct {
    uint32_t window_samples, hop_samples, fft_samples, mel_bands;
    float log_offset, mean, scale;
    uint32_t last_radix;   /* 4 or 2 */
    float *window;         /* (fft_samples): periodic Hann, zero from window_samples on */
    float *twiddles;       /* per pass but the last, of m butterflies: (m, 3, 2): re, im of w^p, w^2p, w^3p */
    uint32_t *butterflies; /* (half / last_radix / 2, 2): of the last pass, where the two are whose points make pairs */
    dn_pair *pairs;        /* last_radix / 2 of the first butterfly's own, then last_radix for each two */
    float *scratch;        /* (2 * half + mel_bands + 2, DN_MOST_LANES), 64-byte aligned */
} dn_rows_plan;

/* 0, or -1 where there is no memory; `dn_rows_plan_free` in either case. frontend_plan.c */
int dn_rows_plan_create(dn_rows_plan *plan, const dn_frontend_spec *spec);
void dn_rows_plan_free(dn_rows_plan *plan);

/* What is compiled once per instruction set: frontend_rows.c. Without contraction to FMA all builds give the same bits. */
typedef struct {
    uint32_t lanes; /* windows analysed side by side */
    /* Samples made finite and within ±1024; out: (count). */
    void (*clean)(const float *samples, size_t count, float *out);
    /* Analyse `count` (1–lanes) windows, the r-th at samples + r * hop_samples. rows: (count, mel_bands).
     * samples: ((lanes - 1) * hop_samples + fft_samples), all finite, although what is beyond those windows does not count. */
    void (*rows)(const dn_rows_plan *plan, const float *samples, uint32_t count, float *rows);
    /* See dn_frontend_quantise. */
    void (*quantise)(const float *x, size_t count, float scale, int32_t zero_point, int8_t *restrict q);
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
    uint32_t lead, heard; /* of the first phase: taps before the first that is not zero, and from there to the last */
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

/* count <= DN_RESAMPLE_CHUNK. The samples are cleaned first. Returns the samples written to `out`. */
size_t dn_resampler_push(dn_resampler *resampler, const float *samples, size_t count, float *out);

#endif
