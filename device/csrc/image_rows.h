/* The loops over whole source rows, compiled once per instruction set. */
#ifndef DN_IMAGE_ROWS_H
#define DN_IMAGE_ROWS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    void (*add)(const uint8_t *row, size_t count, uint16_t *sum);                         /* sum += row */
    void (*add_scaled)(const uint16_t *sum, uint32_t weight, size_t count, uint32_t *to); /* to += weight * sum */
    void (*add_weighted)(const uint8_t *row, uint32_t weight, size_t count, uint32_t *to);
} dn_image_rows;

extern const dn_image_rows dn_image_rows_base;
#ifdef DN_HAVE_AVX2
extern const dn_image_rows dn_image_rows_avx2;
#endif

#endif
