/* The tables of a front-end: window, twiddles, mel triangles. Computed once, in doubles. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend.h"
#include "frontend_parts.h"

static double mel(double hz) { return 1127.0 * log(1.0 + hz / 700.0); }

/* The HTK triangles of tf.signal.linear_to_mel_weight_matrix: linear in mel, bin 0 left out. Counts where `weights` is
 * NULL, else fills. Returns the weights' number. */
static size_t triangles(const dn_frontend_spec *spec, dn_rows_plan *plan, float *weights) {
    double low = mel(spec->low_hz), step = (mel(spec->high_hz) - low) / (spec->mel_bands + 1);
    uint32_t half = spec->fft_samples / 2;
    size_t used = 0;
    plan->first_bin = half;
    plan->end_bin = 0;
    for (uint32_t band = 0; band < spec->mel_bands; band++) {
        double left = low + band * step;
        uint32_t first = 0, end = 0;
        for (uint32_t bin = 1; bin <= half; bin++) {
            double at = (mel((double)bin * spec->sample_rate_hz / spec->fft_samples) - left) / step;
            double weight = at < 1.0 ? at : 2.0 - at;
            if (weight <= 0.0)
                continue;
            if (end == 0)
                first = bin;
            end = bin + 1;
            if (weights != NULL)
                weights[used + bin - first] = (float)weight;
        }
        plan->first[band] = first;
        plan->bins[band] = end - first;
        used += end - first;
        if (end > 0) {
            plan->first_bin = first < plan->first_bin ? first : plan->first_bin;
            plan->end_bin = end > plan->end_bin ? end : plan->end_bin;
        }
    }
    return used;
}

/* Where the transform leaves point k of n. */
static uint32_t place(uint32_t k, uint32_t n) {
    if (n >= 4)
        return k % 4 * (n / 4) + place(k / 4, n / 4);
    return n == 2 ? k % 2 : 0;
}

static void fill_transform(dn_rows_plan *plan) {
    uint32_t half = plan->fft_samples / 2;
    float *w = plan->twiddles;
    for (uint32_t n = half; n >= 4; n /= 4)
        for (uint32_t p = 0; p < n / 4; p++)
            for (int power = 1; power <= 3; power++) {
                double angle = -2.0 * DN_PI * power * p / n;
                *w++ = (float)cos(angle);
                *w++ = (float)sin(angle);
            }
    for (uint32_t k = 0; k <= half; k++) {
        double angle = 2.0 * DN_PI * k / plan->fft_samples;
        plan->split[2 * k] = (float)(0.5 * sin(angle));
        plan->split[2 * k + 1] = (float)(0.5 * cos(angle));
        plan->place[k] = place(k % half, half);
    }
    for (uint32_t i = 0; i < plan->window_samples; i++)
        plan->window[i] = (float)(0.5 - 0.5 * cos(2.0 * DN_PI * i / plan->window_samples));
}

int dn_rows_plan_create(dn_rows_plan *plan, const dn_frontend_spec *spec) {
    memset(plan, 0, sizeof *plan);
    size_t fft = spec->fft_samples, half = fft / 2, bands = spec->mel_bands;
    plan->window_samples = spec->window_samples;
    plan->hop_samples = spec->hop_samples;
    plan->fft_samples = spec->fft_samples;
    plan->mel_bands = spec->mel_bands;
    plan->log_offset = spec->log_offset;
    plan->mean = spec->mean;
    plan->scale = spec->scale;
    plan->window = calloc(fft, sizeof(float));
    plan->twiddles = calloc(fft, sizeof(float)); /* 6 * (half/4 + half/16 + ...) < 2 * half */
    plan->place = calloc(half + 1, sizeof(uint32_t));
    plan->split = calloc(2 * (half + 1), sizeof(float));
    plan->first = calloc(bands, sizeof(uint32_t));
    plan->bins = calloc(bands, sizeof(uint32_t));
    size_t scratch = (3 * half + 1 + bands) * DN_MOST_LANES * sizeof(float);
    plan->scratch = aligned_alloc(64, (scratch + 63) / 64 * 64);
    if (!plan->window || !plan->twiddles || !plan->place || !plan->split || !plan->first || !plan->bins || !plan->scratch)
        return -1;
    plan->weights = calloc(triangles(spec, plan, NULL) + 1, sizeof(float));
    if (plan->weights == NULL)
        return -1;
    triangles(spec, plan, plan->weights);
    fill_transform(plan);
    return 0;
}

void dn_rows_plan_free(dn_rows_plan *plan) {
    free(plan->window);
    free(plan->twiddles);
    free(plan->place);
    free(plan->split);
    free(plan->first);
    free(plan->bins);
    free(plan->weights);
    free(plan->scratch);
    memset(plan, 0, sizeof *plan);
}
