/* Sound in, rows of log-mel features out: see frontend.h. */
#include "frontend.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend_parts.h"

struct dn_frontend {
    dn_frontend_spec spec;
    dn_resampler resampler;
    dn_rows_plan plan;
    const dn_frontend_kernels *kernels;
    const dn_frontend_kernels *few; /* for as many windows as these analyse side by side, or fewer */
    float *pending; /* (2 * tile + capacity of one chunk): samples of windows not yet analysed, and beyond them any finite ones */
    size_t held;    /* samples in `pending` */
    size_t skip;    /* samples to let go before the next window */
};

static dn_frontend *fail(dn_frontend *ears, dn_error *error, dn_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    error->status = status;
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    dn_frontend_free(ears);
    return NULL;
}

static const char *out_of_range(const dn_frontend_spec *s) {
    if (s->input_rate_hz < 1000 || s->input_rate_hz > 768000) return "input_rate_hz must be 1000–768000";
    if (s->sample_rate_hz < 1000 || s->sample_rate_hz > 192000) return "sample_rate_hz must be 1000–192000";
    if (s->fft_samples < 16 || s->fft_samples > 8192 || (s->fft_samples & (s->fft_samples - 1)) != 0)
        return "fft_samples must be a power of two, 16–8192";
    if (s->window_samples < 2 || s->window_samples > s->fft_samples) return "window_samples must be 2–fft_samples";
    if (s->hop_samples < 1 || s->hop_samples > 8192) return "hop_samples must be 1–8192";
    if (s->mel_bands < 1 || s->mel_bands > 256) return "mel_bands must be 1–256";
    if (!(s->low_hz >= 0.0f) || !(s->high_hz > s->low_hz) || !(s->high_hz <= s->sample_rate_hz * 0.5f))
        return "0 <= low_hz < high_hz <= sample_rate_hz / 2 must hold";
    if (!(s->log_offset >= 1e-30f) || !isfinite(s->log_offset)) return "log_offset must be at least 1e-30";
    if (!(s->scale > 0.0f) || !isfinite(s->scale) || !isfinite(s->mean)) return "mean must be finite, scale positive";
    return NULL;
}

dn_frontend *dn_frontend_create(const dn_frontend_spec *spec, dn_error *error) {
    const char *wrong = out_of_range(spec);
    if (wrong != NULL)
        return fail(NULL, error, DN_BAD_CALL, "front-end: %s", wrong);
    dn_frontend *ears = calloc(1, sizeof *ears);
    if (ears == NULL)
        return fail(NULL, error, DN_NO_MEMORY, "front-end: no memory");
    ears->spec = *spec;
    ears->kernels = ears->few = &dn_frontend__base;
#ifdef DN_HAVE_AVX2
    if (__builtin_cpu_supports("avx2"))
        ears->kernels = ears->few = &dn_frontend__avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        ears->kernels = &dn_frontend__avx512;
#endif
    int status = dn_resampler_create(&ears->resampler, spec->input_rate_hz, spec->sample_rate_hz, ears->kernels);
    if (status == -2)
        return fail(ears, error, DN_UNSUPPORTED, "front-end: %u Hz to %u Hz needs too large a filter; use a common rate",
                    spec->input_rate_hz, spec->sample_rate_hz);
    size_t chunk = dn_resampler_capacity(&ears->resampler, DN_RESAMPLE_CHUNK);
    size_t tile = (size_t)ears->kernels->lanes * spec->hop_samples + spec->fft_samples; /* as many windows as go side by side */
    ears->pending = calloc(2 * tile + chunk, sizeof(float));
    if (status != 0 || dn_rows_plan_create(&ears->plan, spec) != 0 || ears->pending == NULL)
        return fail(ears, error, DN_NO_MEMORY, "front-end: no memory");
    error->status = DN_OK;
    return ears;
}

void dn_frontend_free(dn_frontend *ears) {
    if (ears == NULL)
        return;
    dn_resampler_free(&ears->resampler);
    dn_rows_plan_free(&ears->plan);
    free(ears->pending);
    free(ears);
}

void dn_frontend_reset(dn_frontend *ears) {
    dn_resampler_reset(&ears->resampler);
    ears->held = 0;
    ears->skip = 0;
}

size_t dn_frontend_capacity(const dn_frontend *ears, size_t count) {
    size_t chunks = count / DN_RESAMPLE_CHUNK + 1;
    size_t samples = dn_resampler_capacity(&ears->resampler, count) + 2 * chunks;
    return (ears->held + samples) / ears->spec.hop_samples + 1;
}

/* Analyse the windows that are complete, side by side, the last few of them only where `all`; returns the rows written. */
static size_t complete(dn_frontend *ears, float *rows, bool all) {
    size_t window = ears->spec.window_samples, hop = ears->spec.hop_samples, lanes = ears->kernels->lanes;
    size_t at = 0, written = 0;
    for (;;) {
        size_t skipped = ears->skip < ears->held - at ? ears->skip : ears->held - at;
        at += skipped;
        ears->skip -= skipped;
        if (ears->skip > 0 || ears->held - at < window)
            break;
        size_t ready = (ears->held - at - window) / hop + 1;
        if (ready < lanes && !all)
            break;
        ready = ready < lanes ? ready : lanes;
        const dn_frontend_kernels *kernels = ready <= ears->few->lanes ? ears->few : ears->kernels;
        kernels->rows(&ears->plan, ears->pending + at, (uint32_t)ready, rows + written * ears->spec.mel_bands);
        written += ready;
        at += (ready - 1) * hop;
        ears->skip = hop;
    }
    if (at > 0)
        memmove(ears->pending, ears->pending + at, (ears->held - at) * sizeof(float));
    ears->held -= at;
    return written;
}

size_t dn_frontend_push(dn_frontend *ears, const float *samples, size_t count, float *rows, size_t capacity) {
    if (capacity < dn_frontend_capacity(ears, count))
        return SIZE_MAX;
    size_t written = 0;
    while (count > 0) {
        size_t taken = count < DN_RESAMPLE_CHUNK ? count : DN_RESAMPLE_CHUNK;
        ears->held += dn_resampler_push(&ears->resampler, samples, taken, ears->pending + ears->held);
        samples += taken;
        count -= taken;
        written += complete(ears, rows + written * ears->spec.mel_bands, count == 0);
    }
    return written;
}

void dn_frontend_quantise(const dn_frontend *ears, const float *x, size_t count, float scale, int32_t zero_point, int8_t *q) {
    ears->kernels->quantise(x, count, scale, zero_point, q);
}
