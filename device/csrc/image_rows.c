/* See image_rows.h: plain loops for the compiler to make vectors of. */
#include "image_rows.h"

#ifndef DN_ISA
#define DN_ISA base
#endif
#define DN_JOINED(a, b) a##b
#define DN_NAMED(a, b) DN_JOINED(a, b)

static void add(const uint8_t *restrict row, size_t count, uint16_t *restrict sum) {
    for (size_t i = 0; i < count; i++) sum[i] = (uint16_t)(sum[i] + row[i]);
}

static void add_scaled(const uint16_t *restrict sum, uint32_t weight, size_t count, uint32_t *restrict to) {
    for (size_t i = 0; i < count; i++) to[i] += weight * sum[i];
}

static void add_weighted(const uint8_t *restrict row, uint32_t weight, size_t count, uint32_t *restrict to) {
    for (size_t i = 0; i < count; i++) to[i] += weight * row[i];
}

const dn_image_rows DN_NAMED(dn_image_rows_, DN_ISA) = {add, add_scaled, add_weighted};
