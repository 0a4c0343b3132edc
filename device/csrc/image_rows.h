/* The loops over whole rows, compiled once per instruction set. */
#ifndef DN_IMAGE_ROWS_H
#define DN_IMAGE_ROWS_H

#include <stddef.h>
#include <stdint.h>

/* The source pixels of one output pixel, along one axis: `first` to `last`, all but those two weighing `inner`. */
typedef struct {
    int32_t first, last;
    uint32_t first_weight, last_weight; /* last_weight is 0 when there is one pixel */
} dn_image_span;

enum { DN_IMAGE_ROWS = 8 };

typedef struct {
    /* column[count] = the weighted sum of a span's rows; `row` is the first of them */
    void (*down)(const uint8_t *row, size_t stride, dn_image_span y, uint32_t inner, size_t count, uint32_t *column);
    /* means[count][4] = the weighted sums of each span's pixels over `denominator`, rounded, three values each, the fourth
     * without meaning; three values behind the last pixel of `column` are read; sums are below 2^31 */
    void (*across)(const uint32_t *column, const dn_image_span *x, uint32_t inner, size_t count, uint32_t denominator,
                   uint32_t *means);
    /* Of planes, eight output rows at a time: means[count][8] of columns[8][in]; `woven` [in][8] is room for them. */
    void (*along)(const uint32_t *columns, size_t in, const dn_image_span *x, uint32_t inner, size_t count,
                  uint32_t denominator, uint32_t *woven, uint32_t *means);
    /* Means of Y, U and V [count][8] become those of blue, green and red: BT.601's matrix in 1/2^20, limited range. */
    void (*colour)(uint32_t *y, uint32_t *u, uint32_t *v, size_t count);
} dn_image_rows;

extern const dn_image_rows dn_image_rows_base;
#ifdef DN_HAVE_AVX2
extern const dn_image_rows dn_image_rows_avx2;
#endif

#endif
