/* Windows of samples to rows of log-mel features, DN_LANES windows side by side: every step works on vectors of as many
 * floats, one per window, so that nothing needs shuffling but the way in and the way out. And the sums of the resampler.
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

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int i4 __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (i4){__VA_ARGS__})
#endif

typedef float v4 __attribute__((vector_size(16)));
typedef float vec __attribute__((vector_size(4 * DN_LANES)));

typedef float v4_anywhere __attribute__((vector_size(16), aligned(4)));
typedef float vec_anywhere __attribute__((vector_size(4 * DN_LANES), aligned(4)));
#define LOAD4(from) (*(const v4_anywhere *)(from))
#define LOAD(from) (*(const vec_anywhere *)(from))

/* Samples to vectors: re, im (half) = even and odd samples of the windows, times the window. Four samples of four windows
 * at a time change places. */
static void gather(const dn_rows_plan *plan, const float *samples, uint32_t count, vec *re, vec *im) {
    uint32_t half = plan->fft_samples / 2, i = 0;
    const float *window = plan->window;
    const float *at[DN_LANES];
    for (uint32_t l = 0; l < DN_LANES; l++) /* lanes beyond `count` repeat the first; their rows are not given */
        at[l] = samples + (l < count ? (size_t)l * plan->hop_samples : 0);
    for (; i + 4 <= plan->window_samples; i += 4) {
        v4 w = LOAD4(window + i);
        for (uint32_t l = 0; l < DN_LANES; l += 4) {
            v4 a = LOAD4(at[l] + i) * w, b = LOAD4(at[l + 1] + i) * w;
            v4 c = LOAD4(at[l + 2] + i) * w, d = LOAD4(at[l + 3] + i) * w;
            v4 ab = SHUFFLE(a, b, 0, 4, 1, 5), cd = SHUFFLE(c, d, 0, 4, 1, 5);
            v4 ab2 = SHUFFLE(a, b, 2, 6, 3, 7), cd2 = SHUFFLE(c, d, 2, 6, 3, 7);
            *(v4 *)((float *)(re + i / 2) + l) = SHUFFLE(ab, cd, 0, 1, 4, 5);
            *(v4 *)((float *)(im + i / 2) + l) = SHUFFLE(ab, cd, 2, 3, 6, 7);
            *(v4 *)((float *)(re + i / 2 + 1) + l) = SHUFFLE(ab2, cd2, 0, 1, 4, 5);
            *(v4 *)((float *)(im + i / 2 + 1) + l) = SHUFFLE(ab2, cd2, 2, 3, 6, 7);
        }
    }
    memset(re + i / 2, 0, (half - i / 2) * sizeof(vec));
    memset(im + i / 2, 0, (half - i / 2) * sizeof(vec));
    for (; i < plan->window_samples; i++)
        for (uint32_t l = 0; l < DN_LANES; l++)
            ((float *)((i % 2 == 0 ? re : im) + i / 2))[l] = at[l][i] * window[i];
}

/* Complex FFT of `half` points in place, decimation in frequency, radix 4 with one radix-2 stage where log2 asks for it.
 * Point k is left at plan->place[k]. */
static void transform(const dn_rows_plan *plan, vec *re, vec *im) {
    uint32_t half = plan->fft_samples / 2, n = half;
    const float *w = plan->twiddles;
    for (; n >= 4; n /= 4) {
        uint32_t m = n / 4;
        for (uint32_t p = 0; p < m; p++, w += 6) {
            for (uint32_t i = p; i < half; i += n) {
                vec ar = re[i], ai = im[i], br = re[i + m], bi = im[i + m];
                vec cr = re[i + 2 * m], ci = im[i + 2 * m], dr = re[i + 3 * m], di = im[i + 3 * m];
                vec sum_r = ar + cr, sum_i = ai + ci, dif_r = ar - cr, dif_i = ai - ci;
                vec odd_r = br + dr, odd_i = bi + di, jod_r = di - bi, jod_i = br - dr; /* j * (b - d) */
                re[i] = sum_r + odd_r;
                im[i] = sum_i + odd_i;
                vec t1r = dif_r - jod_r, t1i = dif_i - jod_i;
                vec t2r = sum_r - odd_r, t2i = sum_i - odd_i;
                vec t3r = dif_r + jod_r, t3i = dif_i + jod_i;
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
            vec ar = re[i], ai = im[i], br = re[i + 1], bi = im[i + 1];
            re[i] = ar + br;
            im[i] = ai + bi;
            re[i + 1] = ar - br;
            im[i + 1] = ai - bi;
        }
}

/* X[k] = (Z[k] + conj Z[h-k]) / 2 - j/2 * e^(-2 pi j k / n) * (Z[k] - conj Z[h-k]), h = n/2, Z[h] = Z[0];
 * X[h-k] is the conjugate of the difference where X[k] is the sum. magnitudes: (half + 1), |X[k]|. */
static void magnitudes_of(const dn_rows_plan *plan, const vec *re, const vec *im, vec *magnitudes) {
    uint32_t half = plan->fft_samples / 2;
    for (uint32_t k = 0; k <= half / 2; k++) {
        uint32_t i = plan->place[k], j = plan->place[half - k];
        float sine = plan->split[2 * k], cosine = plan->split[2 * k + 1];
        vec dr = re[i] - re[j], di = im[i] + im[j];
        vec er = 0.5f * (re[i] + re[j]), ei = 0.5f * (im[i] - im[j]);
        vec tr = cosine * di - sine * dr, ti = sine * di + cosine * dr;
        vec xr = er + tr, xi = ei - ti, yr = er - tr, yi = ei + ti;
        magnitudes[k] = xr * xr + xi * xi;
        magnitudes[half - k] = yr * yr + yi * yi;
    }
    float *squares = (float *)(magnitudes + plan->first_bin);
    for (size_t i = 0; plan->end_bin > plan->first_bin && i < (size_t)(plan->end_bin - plan->first_bin) * DN_LANES; i++)
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

static void rows_of(const dn_rows_plan *plan, const float *samples, uint32_t count, float *rows) {
    uint32_t half = plan->fft_samples / 2;
    vec *re = (vec *)plan->scratch, *im = re + half, *magnitudes = im + half, *mel = magnitudes + half + 1;
    gather(plan, samples, count, re, im);
    transform(plan, re, im);
    magnitudes_of(plan, re, im, magnitudes);
    const float *weight = plan->weights;
    for (uint32_t band = 0; band < plan->mel_bands; band++) {
        const vec *bin = magnitudes + plan->first[band];
        vec sum = {0};
        for (uint32_t i = 0; i < plan->bins[band]; i++)
            sum += bin[i] * *weight++;
        mel[band] = sum + plan->log_offset;
    }
    float *logs = (float *)mel, by = 1.0f / plan->scale;
    logarithms(logs, (size_t)plan->mel_bands * DN_LANES);
    for (uint32_t band = 0; band < plan->mel_bands; band++)
        mel[band] = (mel[band] - plan->mean) * by;
    for (uint32_t l = 0; l < count; l++)
        for (uint32_t band = 0; band < plan->mel_bands; band++)
            rows[(size_t)l * plan->mel_bands + band] = logs[band * DN_LANES + l];
}

/* Not finite: 0; louder than 1024: that. On the bits, because compilers vectorise comparisons of integers alone. */
static void clean(const float *samples, size_t count, float *out) {
    const int32_t infinite = 0x7f800000, loudest = 0x44800000; /* 1024.0f */
    for (size_t i = 0; i < count; i++) {
        int32_t bits, magnitude;
        memcpy(&bits, samples + i, sizeof bits);
        magnitude = bits & INT32_MAX;
        int32_t bounded = magnitude < loudest ? magnitude : loudest;
        bounded = magnitude < infinite ? bounded : 0;
        bounded |= bits & INT32_MIN;
        memcpy(out + i, &bounded, sizeof bounded);
    }
}

static float dot(const float *a, const float *b, size_t count) {
    float sums[DN_DOT];
    vec part[DN_DOT / DN_LANES] = {{0}};
    for (size_t i = 0; i < count; i += DN_DOT)
        for (size_t v = 0; v < DN_DOT / DN_LANES; v++)
            part[v] += LOAD(a + i + v * DN_LANES) * LOAD(b + i + v * DN_LANES);
    memcpy(sums, part, sizeof sums);
    for (int width = DN_DOT / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            sums[i] += sums[i + width];
    return sums[0];
}

/* streams: (down, stride), streams[p][k] = samples[k * down + p]. Called with a literal `down` where it is a usual one. */
static inline void take_apart(const float *samples, size_t count, uint32_t down, float *streams, size_t stride) {
    for (uint32_t p = 0; p < down; p++)
        for (size_t k = 0; k < count; k++)
            streams[p * stride + k] = samples[k * down + p];
}

static void decimate(const float *filter, uint32_t taps, uint32_t down, const float *samples, size_t count, float *out,
                     float *streams) {
    size_t stride = dn_decimate_stride(count, taps, down), each = (count - 1) + taps / down; /* whole rounds of `down` */
    switch (down) {
    case 2: take_apart(samples, each, 2, streams, stride); break;
    case 3: take_apart(samples, each, 3, streams, stride); break;
    case 6: take_apart(samples, each, 6, streams, stride); break;
    default: take_apart(samples, each, down, streams, stride);
    }
    for (uint32_t p = 0; p < taps % down; p++)
        streams[p * stride + each] = samples[each * down + p];
    enum { VECTORS = DN_BLOCK / DN_LANES };
    for (size_t k = 0; k < count; k += DN_BLOCK) { /* outputs beyond `count` are made of what lies there, and not given */
        vec sums[VECTORS] = {{0}};
        for (uint32_t p = 0; p < down; p++) {
            const float *from = streams + p * stride + k;
            for (uint32_t j = p; j < taps; j += down, from++)
                for (int v = 0; v < VECTORS; v++)
                    sums[v] += LOAD(from + v * DN_LANES) * filter[j];
        }
        size_t left = count - k < DN_BLOCK ? count - k : DN_BLOCK;
        memcpy(out + k, sums, left * sizeof(float));
    }
}

const dn_frontend_kernels NAME(dn_frontend, DN_ISA) = {DN_LANES, clean, rows_of, dot, decimate};
