/* The ears' front-end: sound of any rate in, rows of log-mel features out, hop by hop, quantised as a student wants them.
 *
 *     dn_error error;
 *     dn_frontend *ears = dn_frontend_create(&spec, &error);
 *     if (ears == NULL) { fprintf(stderr, "%s\n", error.text); return 1; }
 *     size_t capacity = dn_frontend_capacity(ears, count);
 *     size_t rows = dn_frontend_push(ears, samples, count, features, capacity);   // features: float (rows, mel_bands)
 *     dn_frontend_quantise(ears, features, rows * spec.mel_bands, scale, zero_point, quantised);
 *     dn_frontend_free(ears);
 *
 * The definition is `distillnet.engine.frontend.log_mel`, in NumPy: resample by a polyphase Kaiser-windowed sinc, periodic
 * Hann window, magnitude of the real FFT, HTK mel triangles, log(mel + offset), (x - mean) / scale. Row r covers the
 * resampled samples [r * hop, r * hop + window). However a stream is cut into pushes, its rows are the same bits; and the
 * same bits on every machine, because no sum's order depends on the instruction set.
 *
 * Ownership: samples and rows belong to the caller. Nothing is allocated after creation. One thread at a time. */
#ifndef DN_FRONTEND_H
#define DN_FRONTEND_H

#include <stddef.h>
#include <stdint.h>

#include "distillnet.h"

typedef struct {
    uint32_t input_rate_hz;  /* of the samples pushed, 1000–768000 */
    uint32_t sample_rate_hz; /* what the features are defined at, 1000–192000 */
    uint32_t window_samples; /* 2–fft_samples */
    uint32_t hop_samples;    /* 1–8192 */
    uint32_t fft_samples;    /* a power of two, 16–8192 */
    uint32_t mel_bands;      /* 1–256 */
    float low_hz, high_hz;   /* 0 <= low < high <= sample_rate_hz / 2 */
    float log_offset;        /* >= 1e-30 */
    float mean, scale;       /* scale > 0 */
} dn_frontend_spec;

typedef struct dn_frontend dn_frontend;

/* NULL with the reason in `error`: a field out of range, rates whose ratio needs too large a filter, no memory. */
dn_frontend *dn_frontend_create(const dn_frontend_spec *spec, dn_error *error);
void dn_frontend_free(dn_frontend *ears);

/* Forget the past: the next sample pushed is the first of a new stream. */
void dn_frontend_reset(dn_frontend *ears);

/* Upper bound of the rows that pushing `count` samples can complete. */
size_t dn_frontend_capacity(const dn_frontend *ears, size_t count);

/* Take `count` mono samples, full scale ±1; those that are not finite count as 0, those beyond ±1024 as ±1024. Returns the
 * rows completed, or SIZE_MAX, taking nothing, where `capacity` is less than `dn_frontend_capacity(ears, count)`.
 * rows: float (capacity, mel_bands). */
size_t dn_frontend_push(dn_frontend *ears, const float *samples, size_t count, float *rows, size_t capacity);

/* q = clamp(round_half_even(x / scale) + zero_point); -128 <= zero_point <= 127. q: (count), apart from x. */
void dn_frontend_quantise(const dn_frontend *ears, const float *x, size_t count, float scale, int32_t zero_point, int8_t *q);

#endif
