/* Rational resampling: a polyphase low-pass, a sinc of 16 zero crossings to either side under Kaiser's window (beta 9,
 * about 90 dB), its cut-off at 0.94 of the lower Nyquist frequency. Output k lies exactly at k * down / up of the input:
 * no delay in time stamps, silence before the first sample. */
#include "frontend_parts.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ZERO_CROSSINGS 16
#define ROLL_OFF 0.94
#define BETA 9.0
#define MAX_FILTER (4u << 20) /* floats */
#define MAX_DECIMATION 8      /* beyond it few outputs come of a chunk */

static uint32_t gcd(uint32_t a, uint32_t b) {
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Modified Bessel function of the first kind, order 0, by its power series. */
static double bessel_i0(double x) {
    double sum = 1.0, term = 1.0;
    for (int k = 1; k < 64; k++) {
        term *= (x / (2.0 * k)) * (x / (2.0 * k));
        sum += term;
    }
    return sum;
}

/* The filter's value `t` input samples from its centre. */
static double low_pass(double t, double cut_off) {
    double reach = ZERO_CROSSINGS / cut_off, at = t / reach;
    if (fabs(at) >= 1.0)
        return 0.0;
    double x = DN_PI * cut_off * t;
    double sinc = fabs(x) < 1e-12 ? 1.0 : sin(x) / x;
    return sinc * bessel_i0(BETA * sqrt(1.0 - at * at)) / bessel_i0(BETA);
}

int dn_resampler_create(dn_resampler *r, uint32_t input_rate_hz, uint32_t output_rate_hz,
                        const dn_frontend_kernels *kernels) {
    memset(r, 0, sizeof *r);
    r->kernels = kernels;
    uint32_t common = gcd(input_rate_hz, output_rate_hz);
    r->up = output_rate_hz / common;
    r->down = input_rate_hz / common;
    if (r->up == r->down)
        return 0;
    double cut_off = ROLL_OFF * (output_rate_hz < input_rate_hz ? (double)output_rate_hz / input_rate_hz : 1.0);
    uint32_t reach = (uint32_t)ceil(ZERO_CROSSINGS / cut_off);
    r->taps = (2 * reach + DN_DOT - 1) / DN_DOT * DN_DOT;
    if ((uint64_t)r->up * r->taps > MAX_FILTER)
        return -2;
    r->filter = calloc((size_t)r->up * r->taps, sizeof(float));
    r->history = calloc((size_t)r->taps + DN_RESAMPLE_CHUNK, sizeof(float));
    bool decimates = r->up == 1 && r->down <= MAX_DECIMATION;
    if (decimates)
        r->scratch = calloc(r->down * dn_decimate_stride(DN_RESAMPLE_CHUNK, r->taps, r->down), sizeof(float));
    if (r->filter == NULL || r->history == NULL || (decimates && r->scratch == NULL))
        return -1;
    for (uint32_t phase = 0; phase < r->up; phase++) {
        float *row = r->filter + (size_t)phase * r->taps;
        double sum = 0.0;
        for (uint32_t j = 0; j < r->taps; j++) /* tap j weighs the sample j - (taps/2 - 1) from the output's place */
            sum += low_pass((double)j - (r->taps / 2 - 1) - (double)phase / r->up, cut_off);
        for (uint32_t j = 0; j < r->taps; j++)
            row[j] = (float)(low_pass((double)j - (r->taps / 2 - 1) - (double)phase / r->up, cut_off) / sum);
    }
    while (r->filter[r->lead] == 0.0f)
        r->lead++;
    for (r->heard = r->taps - r->lead; r->filter[r->lead + r->heard - 1] == 0.0f;)
        r->heard--;
    dn_resampler_reset(r);
    return 0;
}

void dn_resampler_free(dn_resampler *r) {
    free(r->filter);
    free(r->history);
    free(r->scratch);
    memset(r, 0, sizeof *r);
}

void dn_resampler_reset(dn_resampler *r) {
    r->phase = 0;
    r->next = 0;
    r->held = r->taps > 0 ? r->taps / 2 - 1 : 0; /* the silence before the first sample */
    if (r->history != NULL)
        memset(r->history, 0, r->held * sizeof(float));
}

size_t dn_resampler_capacity(const dn_resampler *r, size_t count) {
    if (r->up == r->down)
        return count;
    return (size_t)(((uint64_t)count * r->up) / r->down + 2);
}

size_t dn_resampler_push(dn_resampler *r, const float *samples, size_t count, float *out) {
    if (r->up == r->down) {
        r->kernels->clean(samples, count, out);
        return count;
    }
    r->kernels->clean(samples, count, r->history + r->held);
    r->held += count;
    size_t written = 0;
    if (r->scratch != NULL && r->next + r->taps <= r->held) {
        written = (r->held - r->taps - r->next) / r->down + 1;
        r->kernels->decimate(r->filter + r->lead, r->heard, r->down, r->history + r->next + r->lead, written, out, r->scratch);
        r->next += written * r->down;
    }
    uint32_t whole = r->down / r->up, rest = r->down % r->up;
    while (r->next + r->taps <= r->held) {
        out[written++] = r->kernels->dot(r->filter + r->phase * r->taps, r->history + r->next, r->taps);
        r->next += whole;
        r->phase += rest;
        if (r->phase >= r->up) {
            r->phase -= r->up;
            r->next++;
        }
    }
    size_t gone = r->next < r->held ? r->next : r->held;
    memmove(r->history, r->history + gone, (r->held - gone) * sizeof(float));
    r->held -= gone;
    r->next -= gone;
    return written;
}
