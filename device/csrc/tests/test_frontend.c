/* The front-end against its definitions: a naive DFT, cut streams, rates, bad samples, bad specifications. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../frontend.h"
#include "../frontend_parts.h"

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);  \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static uint32_t state = 1;
static float noise(void) { /* -1..1 */
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state / 2147483648.0f;
}

static dn_frontend_spec spec(uint32_t rate) {
    return (dn_frontend_spec){rate, 16000, 400, 160, 512, 40, 125.0f, 7500.0f, 0.001f, 0.0f, 1.0f};
}

static double mel(double hz) { return 1127.0 * log(1.0 + hz / 700.0); }

/* One row by the definition, in doubles. */
static void define_row(const dn_frontend_spec *s, const float *x, double *row) {
    double low = mel(s->low_hz), step = (mel(s->high_hz) - low) / (s->mel_bands + 1);
    for (uint32_t band = 0; band < s->mel_bands; band++)
        row[band] = s->log_offset;
    for (uint32_t k = 1; k <= s->fft_samples / 2; k++) {
        double re = 0.0, im = 0.0;
        for (uint32_t i = 0; i < s->window_samples; i++) {
            double y = x[i] * (0.5 - 0.5 * cos(2.0 * DN_PI * i / s->window_samples));
            double angle = 2.0 * DN_PI * ((uint64_t)k * i % s->fft_samples) / s->fft_samples;
            re += y * cos(angle);
            im -= y * sin(angle);
        }
        for (uint32_t band = 0; band < s->mel_bands; band++) {
            double at = (mel((double)k * s->sample_rate_hz / s->fft_samples) - low) / step - band;
            double weight = at < 1.0 ? at : 2.0 - at;
            row[band] += weight > 0.0 ? weight * sqrt(re * re + im * im) : 0.0;
        }
    }
    for (uint32_t band = 0; band < s->mel_bands; band++)
        row[band] = (log(row[band]) - s->mean) / s->scale;
}

static void rows_are_as_defined(void) {
    for (uint32_t fft = 16; fft <= 2048; fft *= 2) {
        dn_frontend_spec s = spec(16000);
        s.fft_samples = fft;
        s.window_samples = fft - fft / 5;
        s.hop_samples = fft / 3;
        s.mel_bands = fft < 128 ? 4 : 40;
        s.mean = -1.5f;
        s.scale = 2.0f;
        dn_error error;
        dn_frontend *ears = dn_frontend_create(&s, &error);
        CHECK(ears != NULL);
        size_t count = s.window_samples + 9 * s.hop_samples, capacity = dn_frontend_capacity(ears, count);
        float *x = malloc(count * sizeof(float)), *got = malloc(capacity * s.mel_bands * sizeof(float));
        double *expected = malloc(s.mel_bands * sizeof(double));
        for (size_t i = 0; i < count; i++)
            x[i] = noise();
        CHECK(dn_frontend_push(ears, x, count, got, capacity) == 10);
        for (uint32_t row = 0; row < 10; row++) {
            define_row(&s, x + row * s.hop_samples, expected);
            for (uint32_t band = 0; band < s.mel_bands; band++)
                CHECK(fabs(got[row * s.mel_bands + band] - expected[band]) <= 1e-4 * fmax(1.0, fabs(expected[band])));
        }
        free(x);
        free(got);
        free(expected);
        dn_frontend_free(ears);
    }
}

static void agrees_with_base(const dn_frontend_kernels *other) {
    const dn_frontend_kernels *base = &dn_frontend__base;
    float a[160], b[160];
    for (int i = 0; i < 160; i++) {
        a[i] = noise();
        b[i] = noise();
    }
    for (size_t count = DN_DOT; count <= 160; count += DN_DOT) {
        float one = base->dot(a, b, count), two = other->dot(a, b, count);
        CHECK(memcmp(&one, &two, sizeof one) == 0);
    }
    for (uint32_t fft = 16; fft <= 1024; fft *= 2) {
        dn_frontend_spec s = spec(16000);
        s.fft_samples = fft;
        s.window_samples = fft - fft / 8 - 1;
        dn_rows_plan plan;
        CHECK(dn_rows_plan_create(&plan, &s) == 0);
        float x[1024 + 2 * (DN_MOST_LANES - 1) * 160], one[DN_MOST_LANES * 40], two[DN_MOST_LANES * 40];
        for (size_t i = 0; i < sizeof x / sizeof *x; i++)
            x[i] = noise();
        for (uint32_t row = 0; row < other->lanes; row++)
            base->rows(&plan, x + row * 160, 1, one + row * 40);
        for (uint32_t rows = 1; rows <= other->lanes; rows++) {
            other->rows(&plan, x, rows, two);
            CHECK(memcmp(one, two, rows * 40 * sizeof(float)) == 0);
        }
        dn_rows_plan_free(&plan);
    }
    for (uint32_t down = 2; down <= 8; down++)
        for (size_t count = 1; count <= 150; count += 149) {
            uint32_t taps = 48;
            float x[149 * 8 + 48], one[150], two[150];
            size_t room = down * dn_decimate_stride(count, taps, down);
            float *scratch = calloc(room, sizeof(float));
            for (size_t i = 0; i < sizeof x / sizeof *x; i++)
                x[i] = noise();
            base->decimate(a, taps, down, x, count, one, scratch);
            other->decimate(a, taps, down, x, count, two, scratch);
            CHECK(memcmp(one, two, count * sizeof(float)) == 0);
            for (size_t k = 0; k < count; k++) {
                double sum = 0.0;
                for (uint32_t j = 0; j < taps; j++)
                    sum += (double)a[j] * x[k * down + j];
                CHECK(fabs(one[k] - sum) < 1e-5);
            }
            free(scratch);
        }
}

static void builds_agree_bit_for_bit(void) {
    agrees_with_base(&dn_frontend__base);
#ifdef DN_HAVE_AVX2
    if (__builtin_cpu_supports("avx2"))
        agrees_with_base(&dn_frontend__avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        agrees_with_base(&dn_frontend__avx512);
#endif
}

static void cuts_do_not_matter(void) {
    const uint32_t rates[] = {8000, 16000, 44100, 48000, 96000};
    for (int r = 0; r < 5; r++) {
        dn_frontend_spec s = spec(rates[r]);
        dn_error error;
        dn_frontend *ears = dn_frontend_create(&s, &error);
        CHECK(ears != NULL);
        size_t count = 30000, capacity = dn_frontend_capacity(ears, count);
        float *x = malloc(count * sizeof(float));
        float *whole = malloc(capacity * 40 * sizeof(float)), *parts = malloc((capacity + 8) * 40 * sizeof(float));
        for (size_t i = 0; i < count; i++)
            x[i] = noise();
        size_t rows = dn_frontend_push(ears, x, count, whole, capacity), got = 0;
        CHECK(rows > 0 && rows <= capacity);
        dn_frontend_reset(ears);
        for (size_t at = 0, size = 1; at < count; at += size, size = size * 3 % 4099) {
            size = size < count - at ? size : count - at;
            size_t room = dn_frontend_capacity(ears, size);
            float *some = malloc(room * 40 * sizeof(float));
            size_t more = dn_frontend_push(ears, x + at, size, some, room);
            CHECK(more <= room);
            memcpy(parts + got * 40, some, more * 40 * sizeof(float));
            got += more;
            free(some);
        }
        CHECK(got == rows && memcmp(whole, parts, rows * 40 * sizeof(float)) == 0);
        free(x);
        free(whole);
        free(parts);
        dn_frontend_free(ears);
    }
}

static void resampling_keeps_a_constant(void) {
    const uint32_t rates[][2] = {{44100, 16000}, {48000, 16000}, {8000, 16000}, {16000, 44100}};
    for (int r = 0; r < 4; r++) {
        dn_resampler resampler;
        CHECK(dn_resampler_create(&resampler, rates[r][0], rates[r][1], &dn_frontend__base) == 0);
        float ones[DN_RESAMPLE_CHUNK];
        for (int i = 0; i < DN_RESAMPLE_CHUNK; i++)
            ones[i] = 1.0f;
        size_t room = dn_resampler_capacity(&resampler, DN_RESAMPLE_CHUNK);
        float *out = malloc(room * sizeof(float));
        dn_resampler_push(&resampler, ones, DN_RESAMPLE_CHUNK, out);
        size_t got = dn_resampler_push(&resampler, ones, DN_RESAMPLE_CHUNK, out);
        CHECK(got > 0 && got <= room);
        for (size_t i = 0; i < got; i++)
            CHECK(fabsf(out[i] - 1.0f) < 1e-5f);
        free(out);
        dn_resampler_free(&resampler);
    }
}

static void bad_samples_count_as_silence(void) {
    dn_frontend_spec s = spec(16000);
    dn_error error;
    dn_frontend *ears = dn_frontend_create(&s, &error);
    float bad[800] = {0}, quiet[800] = {0}, one[16 * 40], two[16 * 40];
    bad[5] = NAN;
    bad[300] = INFINITY;
    bad[301] = -INFINITY;
    size_t rows = dn_frontend_push(ears, bad, 800, one, 16);
    dn_frontend_reset(ears);
    CHECK(rows == dn_frontend_push(ears, quiet, 800, two, 16) && rows == 3);
    CHECK(memcmp(one, two, rows * 40 * sizeof(float)) == 0);
    bad[0] = 3e38f;
    dn_frontend_push(ears, bad, 800, one, 16);
    for (int i = 0; i < 40; i++)
        CHECK(isfinite(one[i]));
    CHECK(dn_frontend_push(ears, bad, 800, one, 1) == SIZE_MAX);
    dn_frontend_free(ears);
}

static void quantising_rounds_to_even_and_clamps(void) {
    const float x[] = {0.0f, 0.5f, 1.5f, -0.5f, -1.5f, 2.4f, 1e30f, -1e30f};
    const int8_t expected[] = {3, 3, 5, 3, 1, 5, 127, -128};
    dn_frontend_spec s = spec(16000);
    dn_error error;
    dn_frontend *ears = dn_frontend_create(&s, &error);
    float many[83];
    int8_t q[83];
    for (int i = 0; i < 83; i++)
        many[i] = x[i % 8];
    dn_frontend_quantise(ears, many, 83, 1.0f, 3, q);
    for (int i = 0; i < 83; i++)
        CHECK(q[i] == expected[i % 8]);
    dn_frontend_free(ears);
}

static void bad_specifications_are_refused(void) {
    dn_error error;
    for (int which = 0; which < 9; which++) {
        dn_frontend_spec s = spec(16000);
        switch (which) {
        case 0: s.fft_samples = 500; break;
        case 1: s.window_samples = 513; break;
        case 2: s.high_hz = 9000.0f; break;
        case 3: s.high_hz = s.low_hz; break;
        case 4: s.log_offset = 0.0f; break;
        case 5: s.scale = NAN; break;
        case 6: s.mel_bands = 0; break;
        case 7: s.input_rate_hz = 767999; break; /* prime to 16000: the filter would be huge */
        default: s.hop_samples = 0; break;
        }
        CHECK(dn_frontend_create(&s, &error) == NULL && error.status != DN_OK && error.text[0] != 0);
    }
}

static void a_hop_may_be_longer_than_the_window(void) {
    dn_frontend_spec s = spec(16000);
    s.window_samples = 100;
    s.hop_samples = 1000;
    dn_error error;
    dn_frontend *ears = dn_frontend_create(&s, &error);
    float x[5000], rows[8 * 40];
    for (int i = 0; i < 5000; i++)
        x[i] = noise();
    CHECK(dn_frontend_push(ears, x, 5000, rows, 8) == 5);
    dn_frontend_free(ears);
}

int main(void) {
    rows_are_as_defined();
    builds_agree_bit_for_bit();
    cuts_do_not_matter();
    resampling_keeps_a_constant();
    bad_samples_count_as_silence();
    quantising_rounds_to_even_and_clamps();
    bad_specifications_are_refused();
    a_hop_may_be_longer_than_the_window();
    return 0;
}
