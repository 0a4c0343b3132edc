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
typedef int32_t whole_pixel __attribute__((vector_size(16)));
typedef double real_pixel __attribute__((vector_size(32)));

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

const dn_image_rows DN_NAMED(dn_image_rows_, DN_ISA) = {down, across};
