/* See image_rows.h: loops of fixed length for the compiler to make vectors of, and vectors of one pixel each. */
#include "image_rows.h"

#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifndef DN_ISA
#define DN_ISA base
#endif
#define DN_JOINED(a, b) a##b
#define DN_NAMED(a, b) DN_JOINED(a, b)

enum { BLOCK = 64, ROWS_IN_16_BITS = 256 };

typedef uint32_t pixel __attribute__((vector_size(16)));
typedef uint32_t pixels __attribute__((vector_size(32)));
typedef int32_t whole_pixel __attribute__((vector_size(16)));
typedef double real_pixel __attribute__((vector_size(32)));

/* Four of the eight values of two pixels. */
#ifdef __clang__
#define MIX(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define MIX(a, b, i, j, k, l) __builtin_shuffle(a, b, (pixel){i, j, k, l})
#endif

static inline void sum_block(const uint8_t *row, size_t stride, dn_image_span y, uint32_t inner, size_t count,
                             uint32_t *restrict column) {
    uint32_t sum[BLOCK];
    for (size_t i = 0; i < count; i++) sum[i] = y.first_weight * row[i];
    row += stride;
    for (int32_t left = y.last - y.first - 1; left > 0; left -= ROWS_IN_16_BITS) {
        uint16_t part[BLOCK] = {0};
        for (int32_t n = left < ROWS_IN_16_BITS ? left : ROWS_IN_16_BITS; n > 0; n--, row += stride)
            for (size_t i = 0; i < count; i++) part[i] = (uint16_t)(part[i] + row[i]);
        for (size_t i = 0; i < count; i++) sum[i] += inner * part[i];
    }
    if (y.last_weight != 0)
        for (size_t i = 0; i < count; i++) sum[i] += y.last_weight * row[i];
    memcpy(column, sum, count * sizeof *sum);
}

#ifdef __AVX2__
enum { WIDE = 32, ROWS_IN_15_BITS = 128 };

/* 32 bytes as 16 bits, eight in turn to `low` and to `high`. */
typedef struct {
    __m256i low, high;
} words;

static inline words words_at(const uint8_t *row) {
    __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)row), none = _mm256_setzero_si256();
    return (words){_mm256_unpacklo_epi8(bytes, none), _mm256_unpackhi_epi8(bytes, none)};
}

/* sum += a * x + b * y, four of every 16 values to a vector; the values have 15 bits, and weights are pairs of x and y. */
static inline void add_pairs(__m256i sum[4], words a, words b, __m256i weights) {
    sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a.low, b.low), weights));
    sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a.low, b.low), weights));
    sum[2] = _mm256_add_epi32(sum[2], _mm256_madd_epi16(_mm256_unpacklo_epi16(a.high, b.high), weights));
    sum[3] = _mm256_add_epi32(sum[3], _mm256_madd_epi16(_mm256_unpackhi_epi16(a.high, b.high), weights));
}

static inline void sum_wide(const uint8_t *row, size_t stride, dn_image_span y, uint32_t inner, uint32_t *column) {
    const __m256i none = _mm256_setzero_si256();
    __m256i sum[4] = {none, none, none, none};
    int32_t between = y.last - y.first - 1;
    const uint8_t *last = row + (size_t)(y.last - y.first) * stride;
    size_t ahead = (size_t)(last - row); /* to the next span's rows; behind the frame a prefetch does nothing */
    __builtin_prefetch(last + ahead);
    add_pairs(sum, words_at(row), words_at(last), _mm256_set1_epi32((int32_t)(y.last_weight << 16 | y.first_weight)));
    for (row += stride; between > 0; between -= ROWS_IN_15_BITS) {
        words part = {none, none};
        for (int32_t n = between < ROWS_IN_15_BITS ? between : ROWS_IN_15_BITS; n > 0; n--, row += stride) {
            words next = words_at(row);
            __builtin_prefetch(row + ahead);
            part.low = _mm256_add_epi16(part.low, next.low);
            part.high = _mm256_add_epi16(part.high, next.high);
        }
        add_pairs(sum, part, (words){none, none}, _mm256_set1_epi32((int32_t)inner));
    }
    __m256i *to = (__m256i *)(void *)column;
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(sum[0], sum[1], 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(sum[2], sum[3], 0x20));
    _mm256_storeu_si256(to + 2, _mm256_permute2x128_si256(sum[0], sum[1], 0x31));
    _mm256_storeu_si256(to + 3, _mm256_permute2x128_si256(sum[2], sum[3], 0x31));
}

/* As many values as go together; how many those are. */
static size_t sum_widely(const uint8_t *row, size_t stride, dn_image_span y, uint32_t inner, size_t count, uint32_t *column) {
    if (inner > INT16_MAX || y.first_weight > INT16_MAX || y.last_weight > INT16_MAX) return 0;
    size_t i = 0;
    for (; i + WIDE <= count; i += WIDE) sum_wide(row + i, stride, y, inner, column + i);
    return i;
}
#else
static size_t sum_widely(const uint8_t *row, size_t stride, dn_image_span y, uint32_t inner, size_t count, uint32_t *column) {
    (void)row, (void)stride, (void)y, (void)inner, (void)count, (void)column;
    return 0;
}
#endif

static void down(const uint8_t *row, size_t stride, dn_image_span y, uint32_t inner, size_t count, uint32_t *column) {
    size_t i = sum_widely(row, stride, y, inner, count, column);
    for (; i + BLOCK <= count; i += BLOCK) sum_block(row + i, stride, y, inner, BLOCK, column + i);
    if (i < count) sum_block(row + i, stride, y, inner, count - i, column + i);
}

static inline pixel load(const uint32_t *values) {
    pixel p;
    memcpy(&p, values, sizeof p);
    return p;
}

/* sum / denominator, halves up: (sum + denominator / 2 + 1/2) / denominator is no nearer than 2^-24 to a whole number,
 * and doubles of up to 256 err by less than 2^-42. */
static inline whole_pixel mean(pixel sum, double reciprocal, double half) {
    return __builtin_convertvector(__builtin_convertvector((whole_pixel)sum, real_pixel) * reciprocal + half, whole_pixel);
}

static void across(const uint32_t *column, const dn_image_span *x, uint32_t inner, size_t count, uint32_t denominator,
                   uint32_t *means) {
    double reciprocal = 1.0 / denominator, half = (denominator / 2 + 0.5) * reciprocal;
    for (size_t i = 0; i < count; i++, x++) {
        const uint32_t *p = column + 3 * (size_t)x->first;
        pixel sum = load(p) * x->first_weight, between = {0};
        p += 3;
        for (int32_t n = x->last - x->first - 1; n > 0; n--, p += 3) between += load(p);
        sum += between * inner;
        if (x->last_weight != 0) sum += load(p) * x->last_weight;
        whole_pixel rounded = mean(sum, reciprocal, half);
        memcpy(means + 4 * i, &rounded, sizeof rounded);
    }
}

/* Four of the eight rows: woven[in][8] of columns[8][in]. */
static void weave(const uint32_t *columns, size_t in, uint32_t *woven) {
    size_t x = 0;
    for (; x + 4 <= in; x += 4) {
        pixel a = load(columns + x), b = load(columns + in + x), c = load(columns + 2 * in + x), d = load(columns + 3 * in + x);
        pixel ab = MIX(a, b, 0, 4, 1, 5), cd = MIX(c, d, 0, 4, 1, 5), ab_high = MIX(a, b, 2, 6, 3, 7), cd_high = MIX(c, d, 2, 6, 3, 7);
        pixel rows[4] = {MIX(ab, cd, 0, 1, 4, 5), MIX(ab, cd, 2, 3, 6, 7), MIX(ab_high, cd_high, 0, 1, 4, 5),
                         MIX(ab_high, cd_high, 2, 3, 6, 7)};
        for (size_t i = 0; i < 4; i++) memcpy(woven + DN_IMAGE_ROWS * (x + i), &rows[i], sizeof rows[i]);
    }
    for (; x < in; x++)
        for (size_t row = 0; row < 4; row++) woven[DN_IMAGE_ROWS * x + row] = columns[row * in + x];
}

static void along(const uint32_t *columns, size_t in, const dn_image_span *x, uint32_t inner, size_t count,
                  uint32_t denominator, uint32_t *woven, uint32_t *means) {
    double reciprocal = 1.0 / denominator, half = (denominator / 2 + 0.5) * reciprocal;
    weave(columns, in, woven);
    weave(columns + 4 * in, in, woven + 4);
    for (size_t i = 0; i < count; i++, x++) {
        const uint32_t *p = woven + DN_IMAGE_ROWS * (size_t)x->first, *last = woven + DN_IMAGE_ROWS * (size_t)x->last;
        pixels sum, next, between = {0};
        memcpy(&sum, p, sizeof sum);
        memcpy(&next, last, sizeof next);
        sum = sum * x->first_weight + next * x->last_weight;
        for (p += DN_IMAGE_ROWS; p < last; p += DN_IMAGE_ROWS) {
            memcpy(&next, p, sizeof next);
            between += next;
        }
        sum += between * inner;
        pixel halves[2];
        memcpy(halves, &sum, sizeof sum);
        whole_pixel rounded[2] = {mean(halves[0], reciprocal, half), mean(halves[1], reciprocal, half)};
        memcpy(means + DN_IMAGE_ROWS * i, rounded, sizeof rounded);
    }
}

static inline whole_pixel shade(whole_pixel scaled) {
    whole_pixel v = scaled >> 20, none = {0}, most = none + 255;
    v = v & ~(v < none);
    return (v & (v <= most)) | (most & (v > most));
}

static void colour(uint32_t *y, uint32_t *u, uint32_t *v, size_t count) {
    for (size_t i = 0; i < 2 * count; i++) {
        pixel py = load(y + 4 * i), pu = load(u + 4 * i), pv = load(v + 4 * i);
        whole_pixel grey = (whole_pixel)py - 16, blue = (whole_pixel)pu - 128, red = (whole_pixel)pv - 128;
        grey = (grey & ~(grey < 0)) * 1220542 + (1 << 19);
        whole_pixel bgr[3] = {shade(grey + 2116026 * blue), shade(grey - 409993 * blue - 852492 * red), shade(grey + 1673527 * red)};
        memcpy(y + 4 * i, &bgr[0], sizeof bgr[0]);
        memcpy(u + 4 * i, &bgr[1], sizeof bgr[1]);
        memcpy(v + 4 * i, &bgr[2], sizeof bgr[2]);
    }
}

const dn_image_rows DN_NAMED(dn_image_rows_, DN_ISA) = {down, across, along, colour};
