/* See image.h. Rows are summed first, all values of the crop's width, then each output pixel's span of the sums. */
#include "image.h"

#include <stdlib.h>
#include <string.h>

#include "image_rows.h"
#include "internal.h"

enum { MAX_AREA = 1 << 23 };

/* Source pixel i covers [i, i + 1) * out, output pixel x covers [x, x + 1) * in: overlaps are whole numbers. */
static dn_image_span overlap(int64_t x, int64_t in, int64_t out) {
    int64_t from = x * in, to = from + in, first = from / out, last = (to - 1) / out;
    int64_t end = (first + 1) * out < to ? (first + 1) * out : to;
    uint32_t last_weight = last > first ? (uint32_t)(to - last * out) : 0;
    return (dn_image_span){(int32_t)first, (int32_t)last, (uint32_t)(end - from), last_weight};
}

/* The centre of x lies at (2 x + 1) in / (2 out) - 1/2, between two source pixels; their weights are over 2 out. */
static dn_image_span distance(int64_t x, int64_t in, int64_t out) {
    int64_t at = (2 * x + 1) * in - out, low = at >= 0 ? at / (2 * out) : -1, part = at - low * 2 * out;
    if (low < 0) return (dn_image_span){0, 0, (uint32_t)(2 * out), 0};
    if (low >= in - 1) return (dn_image_span){(int32_t)in - 1, (int32_t)in - 1, (uint32_t)(2 * out), 0};
    return (dn_image_span){(int32_t)low, (int32_t)low + 1, (uint32_t)(2 * out - part), (uint32_t)part};
}

typedef struct {
    const dn_image *image;
    const dn_image_rows *rows;
    size_t in_w, in_h, values; /* of the crop; values = 3 in_w */
    uint32_t denominator;
    dn_image_span *x;    /* [out_width] */
    uint32_t *column;    /* [values + 3] */
    uint32_t *means;     /* [out_width][4] */
    uint8_t *bgr;        /* of YUV: [rows of a span][values], the rows of the span converted last */
    dn_image_span held;  /* which that is; its first is -1 before */
} work;

static uint8_t clamped(int32_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

/* BT.601's matrix in 1/2^20, for Y of 16 to 235 and U, V of 16 to 240. */
static void to_bgr(int32_t y, int32_t u, int32_t v, uint8_t *bgr) {
    int32_t grey = (y < 16 ? 0 : y - 16) * 1220542 + (1 << 19);
    u -= 128;
    v -= 128;
    bgr[0] = clamped((grey + 2116026 * u) >> 20);
    bgr[1] = clamped((grey - 409993 * u - 852492 * v) >> 20);
    bgr[2] = clamped((grey + 1673527 * v) >> 20);
}

/* The crop's part of one row of YUV, to [in_w][3]. */
static void convert_row(const dn_image *i, int32_t y, uint8_t *bgr) {
    const uint8_t *row = i->frame + (size_t)y * i->stride;
    const uint8_t *colours = i->frame + (size_t)(i->height + y / 2) * i->stride; /* of NV12 */
    for (size_t x = (size_t)i->left; x < (size_t)i->right; x++, bgr += 3) {
        size_t pair = x / 2;
        if (i->layout == DN_YUYV_FRAME) to_bgr(row[2 * x], row[4 * pair + 1], row[4 * pair + 3], bgr);
        else to_bgr(row[x], colours[2 * pair], colours[2 * pair + 1], bgr);
    }
}

/* The first row of a span, and how far the next ones are; rows of YUV are converted, each once. */
static const uint8_t *rows_of(work *w, dn_image_span y, size_t *stride) {
    const dn_image *image = w->image;
    *stride = image->stride;
    if (image->layout == DN_BGR_FRAME)
        return image->frame + (size_t)(image->top + y.first) * image->stride + 3 * (size_t)image->left;
    *stride = w->values;
    for (int32_t row = y.first; row <= y.last; row++) {
        uint8_t *to = w->bgr + (size_t)(row - y.first) * w->values;
        if (row < w->held.first || row > w->held.last) convert_row(image, image->top + row, to);
        else memmove(to, w->bgr + (size_t)(row - w->held.first) * w->values, w->values);
    }
    w->held = y;
    return w->bgr;
}

static void write_row(work *w, dn_image_span y, int8_t *out) {
    const dn_image *image = w->image;
    size_t stride;
    const uint8_t *row = rows_of(w, y, &stride);
    w->rows->down(row, stride, y, (uint32_t)image->out_height, w->values, w->column);
    w->rows->across(w->column, w->x, (uint32_t)image->out_width, (size_t)image->out_width, w->denominator, w->means);
    for (const uint32_t *mean = w->means, *end = mean + 4 * (size_t)image->out_width; mean < end; mean += 4) {
        uint32_t blue = mean[0], green = mean[1], red = mean[2];
        if (image->colour == DN_GREY) {
            *out++ = image->table[(3735 * blue + 19235 * green + 9798 * red + 16384) >> 15];
            continue;
        }
        *out++ = image->table[image->colour == DN_RGB ? red : blue];
        *out++ = image->table[green];
        *out++ = image->table[image->colour == DN_RGB ? blue : red];
    }
}

static const dn_image_rows *pick_rows(void) {
#ifdef DN_HAVE_AVX2
    if (__builtin_cpu_supports("avx2")) return &dn_image_rows_avx2;
#endif
    return &dn_image_rows_base;
}

static bool fits(const dn_image *i, dn_error *error) {
    static const size_t pixel_bytes[] = {[DN_BGR_FRAME] = 3, [DN_YUYV_FRAME] = 2, [DN_NV12_FRAME] = 1};
    if ((i->layout != DN_BGR_FRAME && i->width % 2 != 0) || (i->layout == DN_NV12_FRAME && i->height % 2 != 0))
        return dn_fail(error, DN_BAD_CALL, "a YUV frame of %d×%d: pixels share colours, so sides are even", i->width,
                       i->height);
    if (i->left < 0 || i->top < 0 || i->right > i->width || i->bottom > i->height || i->left >= i->right ||
        i->top >= i->bottom || i->out_width < 1 || i->out_height < 1 || i->stride < pixel_bytes[i->layout] * (size_t)i->width)
        return dn_fail(error, DN_BAD_CALL, "crop %d..%d, %d..%d of a frame of %d×%d to %d×%d", i->left, i->right, i->top,
                       i->bottom, i->width, i->height, i->out_width, i->out_height);
    int64_t area = (int64_t)(i->right - i->left) * (i->bottom - i->top), out = (int64_t)i->out_width * i->out_height;
    if ((i->area ? area : 4 * out) > MAX_AREA)
        return dn_fail(error, DN_TOO_LARGE, "%lld pixels to %lld; up to %d to %d are possible", (long long)area,
                       (long long)out, MAX_AREA, MAX_AREA / 4);
    return true;
}

dn_status dn_image_tensor(const dn_image *image, int8_t *tensor, dn_error *error) {
    error->status = DN_OK;
    error->text[0] = '\0';
    if (!fits(image, error)) return error->status;
    work w = {.image = image, .rows = pick_rows(), .in_w = (size_t)(image->right - image->left),
              .in_h = (size_t)(image->bottom - image->top)};
    w.values = 3 * w.in_w;
    w.denominator = (uint32_t)(image->area ? w.in_w * w.in_h : 4 * (size_t)image->out_width * (size_t)image->out_height);
    size_t spans = (size_t)image->out_width * sizeof *w.x, means = 4 * (size_t)image->out_width * sizeof *w.means;
    size_t columns = (w.values + 3) * sizeof *w.column, span_rows = w.in_h / (size_t)image->out_height + 3;
    uint8_t *memory = malloc(spans + means + columns + (image->layout == DN_BGR_FRAME ? 0 : span_rows * w.values));
    if (memory == NULL) {
        dn_fail(error, DN_NO_MEMORY, "no memory for rows of %zu values", w.values);
        return error->status;
    }
    w.x = (dn_image_span *)(void *)memory;
    w.means = (uint32_t *)(void *)(memory + spans);
    w.column = (uint32_t *)(void *)(memory + spans + means);
    memset(w.column + w.values, 0, 3 * sizeof *w.column);
    w.bgr = memory + spans + means + columns;
    w.held = (dn_image_span){-1, -1, 0, 0};
    dn_image_span (*span_of)(int64_t, int64_t, int64_t) = image->area ? overlap : distance;
    for (int32_t i = 0; i < image->out_width; i++) w.x[i] = span_of(i, (int64_t)w.in_w, image->out_width);
    size_t row = (size_t)image->out_width * (image->colour == DN_GREY ? 1 : 3);
    for (int32_t y = 0; y < image->out_height; y++)
        write_row(&w, span_of(y, (int64_t)w.in_h, image->out_height), tensor + (size_t)y * row);
    free(memory);
    return DN_OK;
}
