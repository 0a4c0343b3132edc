/* Windows of samples to rows of log-mel features, DN_LANES windows side by side: every step works on vectors of as many
 * floats, one per window, so that nothing needs shuffling but the way in and the way out. And the sums of the resampler.
 *
 * This file is compiled once per instruction set, with DN_ISA in the names. No sum's order depends on the vector width, and
 * contraction to FMA is off, so that every build gives the same bits. */
#include <math.h>
#include <string.h>

#include "frontend_parts.h"
#if DN_LANES > 4
#include <immintrin.h>
#endif

#ifndef DN_ISA
#define DN_ISA base
#endif
#define NAME_(name, isa) name##__##isa
#define NAME(name, isa) NAME_(name, isa)

typedef float vec __attribute__((vector_size(4 * DN_LANES)));
typedef struct {
    vec re, im;
} point; /* one of as many complex numbers as there are windows */

typedef float vec_anywhere __attribute__((vector_size(4 * DN_LANES), aligned(4)));
#define LOAD(from) (*(const vec_anywhere *)(from))

/* WITHIN4(x, y, a, b, c, d): of every four lanes of x (0–3) and the same four of y (4–7), those named. */
#define LANE_(v, four) ((v) < 4 ? 4 * (four) + (v) : DN_LANES + 4 * (four) + (v)-4)
#define FOUR_(four, a, b, c, d) LANE_(a, four), LANE_(b, four), LANE_(c, four), LANE_(d, four)
#if DN_LANES == 16
#define FOURS_(...) FOUR_(0, __VA_ARGS__), FOUR_(1, __VA_ARGS__), FOUR_(2, __VA_ARGS__), FOUR_(3, __VA_ARGS__)
#elif DN_LANES == 8
#define FOURS_(...) FOUR_(0, __VA_ARGS__), FOUR_(1, __VA_ARGS__)
#else
#define FOURS_(...) FOUR_(0, __VA_ARGS__)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define WITHIN4(x, y, ...) __builtin_shufflevector(x, y, FOURS_(__VA_ARGS__))
#else
typedef int ints __attribute__((vector_size(4 * DN_LANES)));
#define WITHIN4(x, y, ...) __builtin_shuffle(x, y, (ints){FOURS_(__VA_ARGS__)})
#endif

/* Four floats from each of DN_LANES / 4 places. */
static inline vec beside(const float *from, size_t apart) {
#if DN_LANES == 16
    __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(from));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(from + apart), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(from + 2 * apart), 2);
    return (vec)_mm512_insertf32x4(x, _mm_loadu_ps(from + 3 * apart), 3);
#elif DN_LANES == 8
    return (vec)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from + apart), 1);
#else
    (void)apart;
    return LOAD(from);
#endif
}

/* Of every four lanes, the four by four numbers of x change places: rows become columns. */
static inline void turn(vec *x) {
    vec ab = WITHIN4(x[0], x[1], 0, 4, 1, 5), cd = WITHIN4(x[2], x[3], 0, 4, 1, 5);
    vec ab2 = WITHIN4(x[0], x[1], 2, 6, 3, 7), cd2 = WITHIN4(x[2], x[3], 2, 6, 3, 7);
    x[0] = WITHIN4(ab, cd, 0, 1, 4, 5);
    x[1] = WITHIN4(ab, cd, 2, 3, 6, 7);
    x[2] = WITHIN4(ab2, cd2, 0, 1, 4, 5);
    x[3] = WITHIN4(ab2, cd2, 2, 3, 6, 7);
}

static inline point plus(point a, point b) { return (point){a.re + b.re, a.im + b.im}; }
static inline point minus(point a, point b) { return (point){a.re - b.re, a.im - b.im}; }
static inline point turned_back(point a) { return (point){a.im, -a.re}; } /* times -j */
static inline point times(point a, const float *w) {
    return (point){w[0] * a.re - w[1] * a.im, w[0] * a.im + w[1] * a.re};
}

/* Discrete Fourier transforms of 2 and 4 points in place. */
static inline void dft2(point *x) {
    point a = x[0], b = x[1];
    x[0] = plus(a, b);
    x[1] = minus(a, b);
}

static inline void dft4(point *x) {
    point s = plus(x[0], x[2]), d = minus(x[0], x[2]), t = plus(x[1], x[3]), u = turned_back(minus(x[1], x[3]));
    x[0] = plus(s, t);
    x[1] = plus(d, u);
    x[2] = minus(s, t);
    x[3] = minus(d, u);
}

static inline void dft(point *x, uint32_t radix) { radix == 4 ? dft4(x) : dft2(x); }

/* Samples to points, and the first pass of their transform, of radix 4: z (half), the real parts the even samples of the
 * windows, the imaginary ones the odd samples, each times the window. */
static void first_pass(const dn_rows_plan *plan, const float *samples, point *z) {
    const float *window = plan->window, *w = plan->twiddles;
    size_t apart = plan->fft_samples / 8, hop = plan->hop_samples;
    for (size_t p = 0; p < apart; p += 2, w += 12) {
        point a[4], b[4];
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++) {
            size_t i = 2 * (p + k * apart);
            const float *from = samples + i;
            vec x[4] = {beside(from, 4 * hop), beside(from + hop, 4 * hop), beside(from + 2 * hop, 4 * hop),
                        beside(from + 3 * hop, 4 * hop)};
            turn(x);
            a[k] = (point){x[0] * window[i], x[1] * window[i + 1]};
            b[k] = (point){x[2] * window[i + 2], x[3] * window[i + 3]};
        }
        dft4(a);
        dft4(b);
        z[p] = a[0];
        z[p + 1] = b[0];
        for (uint32_t k = 1; k < 4; k++) {
            z[p + k * apart] = times(a[k], w + 2 * (k - 1));
            z[p + 1 + k * apart] = times(b[k], w + 6 + 2 * (k - 1));
        }
    }
}

/* A pass of radix 4, decimation in frequency, over blocks of 4m of `half` points; w: (m, 3), see plan->twiddles. */
static void middle_pass(point *z, uint32_t half, uint32_t m, const float *w) {
    for (uint32_t p = 0; p < m; p++, w += 6)
        for (point *at = z + p, *end = z + half; at < end; at += 4 * m) {
            point x[4] = {at[0], at[m], at[2 * m], at[3 * m]};
            dft4(x);
            at[0] = x[0];
            for (uint32_t k = 1; k < 4; k++)
                at[k * m] = p == 0 ? x[k] : times(x[k], w + 2 * (k - 1));
        }
}

static inline vec root_of(vec x) {
    float each[DN_LANES];
    memcpy(each, &x, sizeof x);
    for (int l = 0; l < DN_LANES; l++)
        each[l] = sqrtf(each[l]);
    return LOAD(each);
}

/* Twice the magnitudes of bins k and h-k of the real transform of 2h samples, from points a = Z[k] and b = Z[h-k] of the
 * complex one of h: 2 X[k] = (a + conj b) - j * e^(-pi j k / h) * (a - conj b); X[h-k] is the conjugate of the difference
 * where X[k] is the sum. Each is shared out among the two triangles it lies in. */
static inline __attribute__((always_inline)) void take_pair(const dn_pair *pair, point a, point b, vec *mel) {
    vec dr = a.re - b.re, di = a.im + b.im, er = a.re + b.re, ei = a.im - b.im;
    vec tr = pair->cosine * di - pair->sine * dr, ti = pair->sine * di + pair->cosine * dr;
    vec xr = er + tr, xi = ei - ti, yr = er - tr, yi = ei + ti;
    vec x = root_of(xr * xr + xi * xi), y = root_of(yr * yr + yi * yi);
    const dn_bin *low = &pair->bin[0], *high = &pair->bin[1];
    mel[low->band] += low->falling * x;
    mel[low->band + 1] += low->rising * x;
    mel[high->band] += high->falling * y;
    mel[high->band + 1] += high->rising * y;
}

/* The last pass of the transform and, while its points are at hand, what comes of them: magnitudes, shared out among the
 * triangles. mel: (mel_bands + 2), a band of no consequence at either end. */
static inline __attribute__((always_inline)) void last_pass(const dn_rows_plan *plan, uint32_t radix, const point *z,
                                                            vec *mel) {
    uint32_t count = plan->fft_samples / 2 / radix;
    const dn_pair *pair = plan->pairs;
    point x[4], y[4];
    memcpy(x, z, radix * sizeof(point));
    dft(x, radix);
    for (uint32_t k = 1; k <= radix / 2; k++)
        take_pair(pair++, x[k], x[radix - k], mel);
    for (const uint32_t *at = plan->butterflies, *end = at + count; at < end; at += 2) {
        memcpy(x, z + at[0], radix * sizeof(point));
        memcpy(y, z + at[1], radix * sizeof(point));
        dft(x, radix);
        dft(y, radix);
        for (uint32_t k = 0; k < radix; k++)
            take_pair(pair++, x[k], y[radix - 1 - k], mel);
    }
}

/* mel: (mel_bands) to rows: (count, mel_bands). */
static void to_rows(const vec *mel, uint32_t bands, uint32_t count, float *rows) {
    uint32_t band = 0;
    for (; band + 4 <= bands; band += 4) {
        vec x[4] = {mel[band], mel[band + 1], mel[band + 2], mel[band + 3]};
        turn(x);
        for (uint32_t l = 0; l < count; l++)
            memcpy(rows + (size_t)l * bands + band, (float *)&x[l % 4] + l / 4 * 4, 4 * sizeof(float));
    }
    for (; band < bands; band++)
        for (uint32_t l = 0; l < count; l++)
            rows[(size_t)l * bands + band] = ((const float *)(mel + band))[l];
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
    uint32_t half = plan->fft_samples / 2, points = half / 4, bands = plan->mel_bands;
    const float *w = plan->twiddles + 6 * points;
    point *z = (point *)plan->scratch;
    vec *mel = (vec *)(z + half);
    first_pass(plan, samples, z);
    for (; points > plan->last_radix; points /= 4) {
        middle_pass(z, half, points / 4, w);
        w += 6 * (points / 4);
    }
    for (uint32_t band = 0; band < bands + 2; band++)
        mel[band] = (vec){0} + plan->log_offset;
    plan->last_radix == 4 ? last_pass(plan, 4, z, mel) : last_pass(plan, 2, z, mel);
    mel++;
    logarithms((float *)mel, (size_t)bands * DN_LANES);
    float by = 1.0f / plan->scale;
    for (uint32_t band = 0; band < bands; band++)
        mel[band] = (mel[band] - plan->mean) * by;
    to_rows(mel, bands, count, rows);
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

static void quantise(const float *x, size_t count, float scale, int32_t zero_point, int8_t *restrict q) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to even, on every machine alike */
    float by = 1.0f / scale, low = (float)(-128 - zero_point), high = (float)(127 - zero_point);
    for (size_t i = 0; i < count; i++) {
        float y = x[i] * by;
        y = y > low ? y : low;
        y = y < high ? y : high;
        q[i] = (int8_t)((int32_t)((y + magic) - magic) + zero_point);
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

const dn_frontend_kernels NAME(dn_frontend, DN_ISA) = {DN_LANES, clean, rows_of, quantise, dot, decimate};
