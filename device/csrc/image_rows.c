/* See image_rows.h: loops of fixed length for the compiler to make vectors of, and vectors of one pixel each. */
#include "image_rows.h"

#include <string.h>

#ifndef DN_ISA
#define DN_ISA base
#endif
#define DN_JOINED(a, b) a##b
#define DN_NAMED(a, b) DN_JOINED(a, b)

enum { BLOCK = 64, ROWS_IN_16_BITS = 256 };

typedef uint32_t pixel __attribute__((vector_size(16)));

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

static void down(const uint8_t *row, size_t stride, dn_image_span y, uint32_t inner, size_t count, uint32_t *column) {
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK) sum_block(row + i, stride, y, inner, BLOCK, column + i);
    if (i < count) sum_block(row + i, stride, y, inner, count - i, column + i);
}

static inline pixel load(const uint32_t *values) {
    pixel p;
    memcpy(&p, values, sizeof p);
    return p;
}

static void across(const uint32_t *column, const dn_image_span *x, uint32_t inner, size_t count, uint32_t *sums) {
    for (size_t i = 0; i < count; i++, x++) {
        const uint32_t *p = column + 3 * (size_t)x->first;
        pixel sum = load(p) * x->first_weight, between = {0};
        p += 3;
        for (int32_t n = x->last - x->first - 1; n > 0; n--, p += 3) between += load(p);
        sum += between * inner;
        if (x->last_weight != 0) sum += load(p) * x->last_weight;
        memcpy(sums + 4 * i, &sum, sizeof sum);
    }
}

const dn_image_rows DN_NAMED(dn_image_rows_, DN_ISA) = {down, across};
