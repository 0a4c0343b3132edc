/* See image.h. Rows are summed first, all values of the crop's width, then each output pixel's span of the sums. */
#include "image.h"

#include <stdlib.h>
#include <string.h>

#include "image_rows.h"
#include "internal.h"

enum { MAX_AREA = 1 << 23, ROWS_IN_16_BITS = 256 };

/* The source pixels of one output pixel, along one axis: `first` to `last`, all but those two weighing `inner`. */
typedef struct {
    int32_t first, last;
    uint32_t first_weight, last_weight; /* last_weight is 0 when there is one pixel */
} span;

/* Source pixel i covers [i, i + 1) * out, output pixel x covers [x, x + 1) * in: overlaps are whole numbers. */
static span overlap(int64_t x, int64_t in, int64_t out) {
    int64_t from = x * in, to = from + in, first = from / out, last = (to - 1) / out;
    int64_t end = (first + 1) * out < to ? (first + 1) * out : to;
    return (span){(int32_t)first, (int32_t)last, (uint32_t)(end - from), last > first ? (uint32_t)(to - last * out) : 0};
}

/* The centre of x lies at (2 x + 1) in / (2 out) - 1/2, between two source pixels; their weights are over 2 out. */
static span distance(int64_t x, int64_t in, int64_t out) {
    int64_t at = (2 * x + 1) * in - out, low = at >= 0 ? at / (2 * out) : -1, part = at - low * 2 * out;
    if (low < 0) return (span){0, 0, (uint32_t)(2 * out), 0};
    if (low >= in - 1) return (span){(int32_t)in - 1, (int32_t)in - 1, (uint32_t)(2 * out), 0};
    return (span){(int32_t)low, (int32_t)low + 1, (uint32_t)(2 * out - part), (uint32_t)part};
}

typedef struct {
    const dn_image *image;
    const dn_image_rows *rows;
    size_t in_w, in_h, values; /* of the crop; values = 3 in_w */
    uint32_t denominator;
    uint64_t reciprocal; /* ceil(2^55 / denominator): exact for quotients of up to 255 and denominators of up to 2^23 */
    span *x;             /* [out_width] */
    uint16_t *sum;       /* [values] */
    uint32_t *column;    /* [values] */
    uint8_t *bgr[2];     /* [values] each: the last even and the last odd row of YUV */
    int32_t held[2];     /* which these are */
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

static const uint8_t *row_of(work *w, int32_t y) {
    const dn_image *image = w->image;
    if (image->layout == DN_BGR_FRAME)
        return image->frame + (size_t)(image->top + y) * image->stride + 3 * (size_t)image->left;
    if (w->held[y & 1] != y) convert_row(image, image->top + y, w->bgr[y & 1]);
    w->held[y & 1] = y;
    return w->bgr[y & 1];
}

/* column = the weighted sum of one output row's source rows */
static void sum_rows(work *w, span y) {
    memset(w->column, 0, w->values * sizeof *w->column);
    w->rows->add_weighted(row_of(w, y.first), y.first_weight, w->values, w->column);
    for (int32_t from = y.first + 1; from < y.last; from += ROWS_IN_16_BITS) {
        int32_t to = y.last - from < ROWS_IN_16_BITS ? y.last : from + ROWS_IN_16_BITS;
        memset(w->sum, 0, w->values * sizeof *w->sum);
        for (int32_t i = from; i < to; i++) w->rows->add(row_of(w, i), w->values, w->sum);
        w->rows->add_scaled(w->sum, (uint32_t)w->image->out_height, w->values, w->column);
    }
    if (y.last > y.first) w->rows->add_weighted(row_of(w, y.last), y.last_weight, w->values, w->column);
}

static uint8_t mean(const work *w, uint32_t sum) {
    return (uint8_t)((uint64_t)(sum + w->denominator / 2) * w->reciprocal >> 55);
}

static void write_row(const work *w, int8_t *out) {
    const dn_image *image = w->image;
    for (int32_t i = 0; i < image->out_width; i++) {
        span x = w->x[i];
        const uint32_t *c = w->column + 3 * (size_t)x.first, *last = w->column + 3 * (size_t)x.last;
        uint32_t inner[3] = {0, 0, 0}, sum[3];
        for (const uint32_t *p = c + 3; p < last; p += 3) {
            inner[0] += p[0];
            inner[1] += p[1];
            inner[2] += p[2];
        }
        for (int k = 0; k < 3; k++)
            sum[k] = x.first_weight * c[k] + (uint32_t)image->out_width * inner[k] + x.last_weight * last[k];
        uint8_t blue = mean(w, sum[0]), green = mean(w, sum[1]), red = mean(w, sum[2]);
        if (image->colour == DN_GREY) {
            *out++ = image->table[(3735u * blue + 19235u * green + 9798u * red + 16384u) >> 15];
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
    w.reciprocal = ((1ULL << 55) + w.denominator - 1) / w.denominator;
    size_t spans = (size_t)image->out_width * sizeof *w.x, columns = w.values * sizeof *w.column;
    size_t sums = w.values * sizeof *w.sum, converted = image->layout == DN_BGR_FRAME ? 0 : w.values;
    uint8_t *memory = malloc(spans + columns + sums + 2 * converted);
    if (memory == NULL) {
        dn_fail(error, DN_NO_MEMORY, "no memory for rows of %zu values", w.values);
        return error->status;
    }
    w.x = (span *)(void *)memory;
    w.column = (uint32_t *)(void *)(memory + spans);
    w.sum = (uint16_t *)(void *)(memory + spans + columns);
    for (size_t i = 0; i < 2; i++) {
        w.bgr[i] = memory + spans + columns + sums + i * converted;
        w.held[i] = -1;
    }
    span (*span_of)(int64_t, int64_t, int64_t) = image->area ? overlap : distance;
    for (int32_t i = 0; i < image->out_width; i++) w.x[i] = span_of(i, (int64_t)w.in_w, image->out_width);
    size_t row = (size_t)image->out_width * (image->colour == DN_GREY ? 1 : 3);
    for (int32_t y = 0; y < image->out_height; y++) {
        sum_rows(&w, span_of(y, (int64_t)w.in_h, image->out_height));
        write_row(&w, tensor + (size_t)y * row);
    }
    free(memory);
    return DN_OK;
}
