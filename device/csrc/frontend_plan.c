/* The tables of a front-end: window, twiddles, mel triangles. Computed once, in doubles. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "frontend.h"
#include "frontend_parts.h"

static double mel(double hz) { return 1127.0 * log(1.0 + hz / 700.0); }

/* What bin k adds to by the HTK triangles of tf.signal.linear_to_mel_weight_matrix: linear in mel, bin 0 left out. The
 * weights are halved, as what they weigh is doubled. */
static dn_bin bin_of(const dn_frontend_spec *spec, uint32_t k) {
    double low = mel(spec->low_hz), step = (mel(spec->high_hz) - low) / (spec->mel_bands + 1);
    double at = (mel((double)k * spec->sample_rate_hz / spec->fft_samples) - low) / step, band = floor(at);
    if (!(at > 0.0 && at < spec->mel_bands + 1.0))
        return (dn_bin){0, 0.0f, 0.0f};
    return (dn_bin){(uint32_t)band, (float)(0.5 * (1.0 - (at - band))), (float)(0.5 * (at - band))};
}

/* Where the transform leaves point k of n. */
static uint32_t place(uint32_t k, uint32_t n) {
    if (n >= 4)
        return k % 4 * (n / 4) + place(k / 4, n / 4);
    return n == 2 ? k % 2 : 0;
}

static void fill_transform(dn_rows_plan *plan) {
    float *w = plan->twiddles;
    for (uint32_t n = plan->fft_samples / 2; n > plan->last_radix; n /= 4)
        for (uint32_t p = 0; p < n / 4; p++)
            for (int power = 1; power <= 3; power++) {
                double angle = -2.0 * DN_PI * power * p / n;
                *w++ = (float)cos(angle);
                *w++ = (float)sin(angle);
            }
    for (uint32_t i = 0; i < plan->window_samples; i++)
        plan->window[i] = (float)(0.5 - 0.5 * cos(2.0 * DN_PI * i / plan->window_samples));
}

/* Bins k and half - k; where they come twice, once only. */
static dn_pair pair_of(const dn_frontend_spec *spec, uint32_t k, bool twice) {
    uint32_t other = spec->fft_samples / 2 - k;
    double angle = 2.0 * DN_PI * k / spec->fft_samples;
    dn_bin none = {0, 0.0f, 0.0f};
    return (dn_pair){(float)sin(angle), (float)cos(angle),
                     {twice && k > other ? none : bin_of(spec, k), twice && k >= other ? none : bin_of(spec, other)}};
}

/* The last butterflies leave points c, c + apart, c + 2 * apart, …; those of c and of apart - c make pairs. */
static void fill_pairs(dn_rows_plan *plan, const dn_frontend_spec *spec) {
    uint32_t half = plan->fft_samples / 2, apart = half / plan->last_radix;
    dn_pair *pair = plan->pairs;
    for (uint32_t k = apart; k <= half / 2; k += apart)
        *pair++ = pair_of(spec, k, true);
    for (uint32_t c = 1; c <= apart / 2; c++) {
        plan->butterflies[2 * c - 2] = place(c, half);
        plan->butterflies[2 * c - 1] = place(apart - c, half);
        for (uint32_t k = c; k < half; k += apart)
            *pair++ = pair_of(spec, k, c == apart - c);
    }
}

int dn_rows_plan_create(dn_rows_plan *plan, const dn_frontend_spec *spec) {
    memset(plan, 0, sizeof *plan);
    size_t fft = spec->fft_samples, half = fft / 2;
    plan->window_samples = spec->window_samples;
    plan->hop_samples = spec->hop_samples;
    plan->fft_samples = spec->fft_samples;
    plan->mel_bands = spec->mel_bands;
    plan->log_offset = spec->log_offset;
    plan->mean = spec->mean;
    plan->scale = spec->scale;
    for (plan->last_radix = fft / 2; plan->last_radix > 4;)
        plan->last_radix /= 4;
    plan->window = calloc(fft, sizeof(float));
    plan->twiddles = calloc(fft, sizeof(float)); /* 6 * (half/4 + half/16 + …) < 2 * half */
    plan->butterflies = calloc(half / plan->last_radix, sizeof *plan->butterflies);
    plan->pairs = calloc(half / 2 + plan->last_radix, sizeof *plan->pairs);
    size_t scratch = (2 * half + spec->mel_bands + 2) * DN_MOST_LANES * sizeof(float);
    plan->scratch = aligned_alloc(64, (scratch + 63) / 64 * 64);
    if (!plan->window || !plan->twiddles || !plan->butterflies || !plan->pairs || !plan->scratch)
        return -1;
    fill_transform(plan);
    fill_pairs(plan, spec);
    return 0;
}

void dn_rows_plan_free(dn_rows_plan *plan) {
    free(plan->window);
    free(plan->twiddles);
    free(plan->butterflies);
    free(plan->pairs);
    free(plan->scratch);
    memset(plan, 0, sizeof *plan);
}
