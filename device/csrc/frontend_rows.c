/* Windows of samples to rows of log-mel features, eight windows side by side: every step works on vectors of eight floats,
 * one per window, so that nothing needs shuffling but the way in and the way out.
 *
 * This file is compiled once per instruction set, with DN_ISA in the names. No sum's order depends on the vector width, and
 * contraction to FMA is off, so that every build gives the same bits. */
#include <math.h>
#include <string.h>

#include "frontend_parts.h"

#ifndef DN_ISA
#define DN_ISA base
#endif
#define NAME_(name, isa) name##__##isa
#define NAME(name, isa) NAME_(name, isa)

typedef float v8 __attribute__((vector_size(32)));

/* Samples to vectors: re, im (half) = even and odd samples of the windows, times the window. */
static void gather(const dn_rows_plan *plan, const float *samples, uint32_t count, v8 *re, v8 *im) {
    uint32_t half = plan->fft_samples / 2, pairs = plan->window_samples / 2;
    const float *at[DN_LANES];
    for (uint32_t l = 0; l < DN_LANES; l++) /* lanes beyond `count` repeat the first; their rows are not given */
        at[l] = samples + (l < count ? (size_t)l * plan->hop_samples : 0);
    const float *window = plan->window;
    for (uint32_t i = 0; i < pairs; i++) {
        v8 even = {at[0][2 * i], at[1][2 * i], at[2][2 * i], at[3][2 * i],
                   at[4][2 * i], at[5][2 * i], at[6][2 * i], at[7][2 * i]};
        v8 odd = {at[0][2 * i + 1], at[1][2 * i + 1], at[2][2 * i + 1], at[3][2 * i + 1],
                  at[4][2 * i + 1], at[5][2 * i + 1], at[6][2 * i + 1], at[7][2 * i + 1]};
        re[i] = even * window[2 * i];
        im[i] = odd * window[2 * i + 1];
    }
    memset(re + pairs, 0, (half - pairs) * sizeof(v8));
    memset(im + pairs, 0, (half - pairs) * sizeof(v8));
    if (plan->window_samples % 2 != 0)
        for (uint32_t l = 0; l < DN_LANES; l++)
            re[pairs][l] = at[l][2 * pairs] * window[2 * pairs];
}

/* Complex FFT of `half` points in place, decimation in frequency, radix 4 with one radix-2 stage where log2 asks for it.
 * Point k is left at plan->place[k]. */
static void transform(const dn_rows_plan *plan, v8 *re, v8 *im) {
    uint32_t half = plan->fft_samples / 2, n = half;
    const float *w = plan->twiddles;
    for (; n >= 4; n /= 4) {
        uint32_t m = n / 4;
        for (uint32_t p = 0; p < m; p++, w += 6) {
            for (uint32_t i = p; i < half; i += n) {
                v8 ar = re[i], ai = im[i], br = re[i + m], bi = im[i + m];
                v8 cr = re[i + 2 * m], ci = im[i + 2 * m], dr = re[i + 3 * m], di = im[i + 3 * m];
                v8 sum_r = ar + cr, sum_i = ai + ci, dif_r = ar - cr, dif_i = ai - ci;
                v8 odd_r = br + dr, odd_i = bi + di, jod_r = di - bi, jod_i = br - dr; /* j * (b - d) */
                re[i] = sum_r + odd_r;
                im[i] = sum_i + odd_i;
                v8 t1r = dif_r - jod_r, t1i = dif_i - jod_i;
                v8 t2r = sum_r - odd_r, t2i = sum_i - odd_i;
                v8 t3r = dif_r + jod_r, t3i = dif_i + jod_i;
                if (p == 0) { /* w^0 = 1 */
                    re[i + m] = t1r, im[i + m] = t1i;
                    re[i + 2 * m] = t2r, im[i + 2 * m] = t2i;
                    re[i + 3 * m] = t3r, im[i + 3 * m] = t3i;
                } else {
                    re[i + m] = w[0] * t1r - w[1] * t1i;
                    im[i + m] = w[0] * t1i + w[1] * t1r;
                    re[i + 2 * m] = w[2] * t2r - w[3] * t2i;
                    im[i + 2 * m] = w[2] * t2i + w[3] * t2r;
                    re[i + 3 * m] = w[4] * t3r - w[5] * t3i;
                    im[i + 3 * m] = w[4] * t3i + w[5] * t3r;
                }
            }
        }
    }
    if (n == 2)
        for (uint32_t i = 0; i < half; i += 2) {
            v8 ar = re[i], ai = im[i], br = re[i + 1], bi = im[i + 1];
            re[i] = ar + br;
            im[i] = ai + bi;
            re[i + 1] = ar - br;
            im[i + 1] = ai - bi;
        }
}

/* X[k] = (Z[k] + conj Z[h-k]) / 2 - j/2 * e^(-2 pi j k / n) * (Z[k] - conj Z[h-k]), h = n/2, Z[h] = Z[0];
 * magnitudes: (half + 1) |X[k]| for the bins any triangle touches. */
static void magnitudes_of(const dn_rows_plan *plan, const v8 *re, const v8 *im, v8 *magnitudes) {
    uint32_t half = plan->fft_samples / 2;
    for (uint32_t k = plan->first_bin; k < plan->end_bin; k++) {
        uint32_t i = plan->place[k], j = plan->place[half - k];
        float sine = plan->split[2 * k], cosine = plan->split[2 * k + 1];
        v8 dr = re[i] - re[j], di = im[i] + im[j];
        v8 xr = 0.5f * (re[i] + re[j]) - sine * dr + cosine * di;
        v8 xi = 0.5f * (im[i] - im[j]) - sine * di - cosine * dr;
        magnitudes[k] = xr * xr + xi * xi;
    }
    float *squares = (float *)(magnitudes + plan->first_bin);
    for (size_t i = 0; i < (size_t)(plan->end_bin - plan->first_bin) * DN_LANES; i++)
        squares[i] = sqrtf(squares[i]);
}

/* Natural logarithm of positive normal floats, to about 1 ulp: Cephes' logf without its branches, so that it vectorises
 * and gives the same bits with every C library. */
static void logarithms(float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        int32_t exponent = (int32_t)((bits - 0x3f3504f3u) & 0xff800000u) >> 23; /* mantissa in [sqrt 1/2, sqrt 2) */
        bits -= (uint32_t)exponent << 23;
        float f, e = (float)exponent;
        memcpy(&f, &bits, sizeof f);
        f -= 1.0f;
        float z = f * f;
        float y = 7.0376836292e-2f;
        y = y * f - 1.1514610310e-1f;
        y = y * f + 1.1676998740e-1f;
        y = y * f - 1.2420140846e-1f;
        y = y * f + 1.4249322787e-1f;
        y = y * f - 1.6668057665e-1f;
        y = y * f + 2.0000714765e-1f;
        y = y * f - 2.4999993993e-1f;
        y = y * f + 3.3333331174e-1f;
        y = y * f * z + e * -2.12194440e-4f - 0.5f * z;
        x[i] = f + y + e * 0.693359375f;
    }
}

void NAME(dn_rows, DN_ISA)(const dn_rows_plan *plan, const float *samples, uint32_t count, float *rows) {
    uint32_t half = plan->fft_samples / 2;
    v8 *re = (v8 *)plan->scratch, *im = re + half, *magnitudes = im + half, *mel = magnitudes + half + 1;
    gather(plan, samples, count, re, im);
    transform(plan, re, im);
    magnitudes_of(plan, re, im, magnitudes);
    const float *weight = plan->weights;
    for (uint32_t band = 0; band < plan->mel_bands; band++) {
        const v8 *bin = magnitudes + plan->first[band];
        v8 sum = {0};
        for (uint32_t i = 0; i < plan->bins[band]; i++)
            sum += bin[i] * *weight++;
        mel[band] = sum + plan->log_offset;
    }
    float *logs = (float *)mel, by = 1.0f / plan->scale;
    logarithms(logs, (size_t)plan->mel_bands * DN_LANES);
    for (uint32_t l = 0; l < count; l++)
        for (uint32_t band = 0; band < plan->mel_bands; band++)
            rows[(size_t)l * plan->mel_bands + band] = (logs[band * DN_LANES + l] - plan->mean) * by;
}

float NAME(dn_dot, DN_ISA)(const float *a, const float *b, size_t count) {
    v8 even = {0}, odd = {0};
    for (size_t i = 0; i < count; i += DN_DOT) {
        v8 x, y, z, w;
        memcpy(&x, a + i, sizeof x);
        memcpy(&y, b + i, sizeof y);
        memcpy(&z, a + i + DN_LANES, sizeof z);
        memcpy(&w, b + i + DN_LANES, sizeof w);
        even += x * y;
        odd += z * w;
    }
    v8 sum = even + odd;
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}
