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

/* One row of the tensor; each mean is `apart` values behind the one before. */
static void write_pixels(const dn_image *image, const uint32_t *blue, const uint32_t *green, const uint32_t *red, size_t apart,
                         int8_t *out) {
    const int8_t *table = image->table;
    size_t end = apart * (size_t)image->out_width;
    if (image->colour == DN_GREY) {
        for (size_t x = 0; x < end; x += apart)
            *out++ = table[(3735 * blue[x] + 19235 * green[x] + 9798 * red[x] + 16384) >> 15];
        return;
    }
    const uint32_t *first = image->colour == DN_RGB ? red : blue, *third = image->colour == DN_RGB ? blue : red;
    for (size_t x = 0; x < end; x += apart, out += 3)
        out[0] = table[first[x]], out[1] = table[green[x]], out[2] = table[third[x]];
}

static void write_row(work *w, dn_image_span y, int8_t *out) {
    const dn_image *image = w->image;
    size_t stride;
    const uint8_t *row = rows_of(w, y, &stride);
    w->rows->down(row, stride, y, (uint32_t)image->out_height, w->values, w->column);
    w->rows->across(w->column, w->x, (uint32_t)image->out_width, (size_t)image->out_width, w->denominator, w->means);
    write_pixels(image, w->means, w->means + 1, w->means + 2, 4, out);
}

static const dn_image_rows *pick_rows(void) {
#ifdef DN_HAVE_AVX2
    if (__builtin_cpu_supports("avx2")) return &dn_image_rows_avx2;
#endif
    return &dn_image_rows_base;
}

static bool fits(const dn_image *i, dn_error *error) {
    static const size_t pixel_bytes[] = {
        [DN_BGR_FRAME] = 3, [DN_YUYV_FRAME] = 2, [DN_NV12_FRAME] = 1, [DN_PLANES_FRAME] = 1};
    int squares = i->layout == DN_NV12_FRAME || i->layout == DN_PLANES_FRAME;
    if ((i->layout != DN_BGR_FRAME && i->width % 2 != 0) || (squares && i->height % 2 != 0))
        return dn_fail(error, DN_BAD_CALL, "a YUV frame of %d×%d: pixels share colours, so sides are even", i->width,
                       i->height);
    if (i->left < 0 || i->top < 0 || i->right > i->width || i->bottom > i->height || i->left >= i->right ||
        i->top >= i->bottom || i->out_width < 1 || i->out_height < 1 || i->stride < pixel_bytes[i->layout] * (size_t)i->width)
        return dn_fail(error, DN_BAD_CALL, "crop %d..%d, %d..%d of a frame of %d×%d to %d×%d", i->left, i->right, i->top,
                       i->bottom, i->width, i->height, i->out_width, i->out_height);
    for (int c = 0; c < 2 && i->layout == DN_PLANES_FRAME; c++)
        if (i->colours[c] == NULL || i->colour_strides[c] < (size_t)i->width / 2)
            return dn_fail(error, DN_BAD_CALL, "planes of a frame of %d×%d without colours", i->width, i->height);
    int64_t area = (int64_t)(i->right - i->left) * (i->bottom - i->top), out = (int64_t)i->out_width * i->out_height;
    if ((i->area ? area : 4 * out) > MAX_AREA)
        return dn_fail(error, DN_TOO_LARGE, "%lld pixels to %lld; up to %d to %d are possible", (long long)area,
                       (long long)out, MAX_AREA, MAX_AREA / 4);
    return true;
}

static dn_image_span (*span_of(const dn_image *image))(int64_t, int64_t, int64_t) {
    return image->area ? overlap : distance;
}

/* What the sums of a crop of in_w × in_h are divided by. */
static uint32_t denominator_of(const dn_image *image, size_t in_w, size_t in_h) {
    return (uint32_t)(image->area ? in_w * in_h : 4 * (size_t)image->out_width * (size_t)image->out_height);
}

static dn_status no_memory(size_t values, dn_error *error) {
    dn_fail(error, DN_NO_MEMORY, "no memory for rows of %zu values", values);
    return error->status;
}

/* The crop's part of one plane, and how it is resized. */
typedef struct {
    const uint8_t *from;
    size_t stride, in_w, in_h;
    uint32_t denominator;
    dn_image_span *x; /* [out_width] */
    uint32_t *means;  /* [out_width][DN_IMAGE_ROWS] */
} plane;

/* `halves`: 0 of Y, 1 of U and V, of which a pixel at the crop's border belongs to it as a whole. */
static plane crop_of(const dn_image *i, const uint8_t *data, size_t stride, int halves) {
    size_t left = (size_t)i->left >> halves, top = (size_t)i->top >> halves;
    plane p = {.from = data + top * stride + left, .stride = stride};
    p.in_w = (((size_t)i->right + (size_t)halves) >> halves) - left;
    p.in_h = (((size_t)i->bottom + (size_t)halves) >> halves) - top;
    p.denominator = denominator_of(i, p.in_w, p.in_h);
    return p;
}

/* As many rows of the output as go together, from `row` on; behind its end the last one again. */
static void resize_rows(const plane *p, const dn_image *image, int32_t row, const dn_image_rows *rows, uint32_t *columns,
                        uint32_t *woven) {
    for (int32_t n = 0; n < DN_IMAGE_ROWS; n++) {
        int32_t at = row + n < image->out_height ? row + n : image->out_height - 1;
        dn_image_span y = span_of(image)(at, (int64_t)p->in_h, image->out_height);
        rows->down(p->from + (size_t)y.first * p->stride, p->stride, y, (uint32_t)image->out_height, p->in_w,
                   columns + (size_t)n * p->in_w);
    }
    rows->along(columns, p->in_w, p->x, (uint32_t)image->out_width, (size_t)image->out_width, p->denominator, woven, p->means);
}

/* Of planes: each is resized, then YUV becomes BGR. */
static dn_status planes_tensor(const dn_image *image, int8_t *tensor, dn_error *error) {
    enum { PLANES = 3 };
    plane planes[PLANES] = {crop_of(image, image->frame, image->stride, 0),
                            crop_of(image, image->colours[0], image->colour_strides[0], 1),
                            crop_of(image, image->colours[1], image->colour_strides[1], 1)};
    size_t width = (size_t)image->out_width, row_bytes = width * (image->colour == DN_GREY ? 1 : 3);
    size_t columns = DN_IMAGE_ROWS * planes[0].in_w, means = DN_IMAGE_ROWS * width;
    uint8_t *memory = malloc((2 * columns + PLANES * means) * sizeof(uint32_t) + PLANES * width * sizeof(dn_image_span));
    if (memory == NULL) return no_memory(planes[0].in_w, error);
    uint32_t *room = (uint32_t *)(void *)memory, *all_means = room + 2 * columns;
    dn_image_span *spans = (dn_image_span *)(void *)(all_means + PLANES * means);
    for (size_t p = 0; p < PLANES; p++) {
        planes[p].x = spans + p * width;
        planes[p].means = all_means + p * means;
        for (int32_t i = 0; i < image->out_width; i++)
            planes[p].x[i] = span_of(image)(i, (int64_t)planes[p].in_w, image->out_width);
    }
    const dn_image_rows *rows = pick_rows();
    for (int32_t row = 0; row < image->out_height; row += DN_IMAGE_ROWS) {
        for (size_t p = 0; p < PLANES; p++) resize_rows(&planes[p], image, row, rows, room, room + columns);
        rows->colour(planes[0].means, planes[1].means, planes[2].means, width);
        for (size_t n = 0; n < DN_IMAGE_ROWS && row + (int32_t)n < image->out_height; n++)
            write_pixels(image, planes[0].means + n, planes[1].means + n, planes[2].means + n, DN_IMAGE_ROWS,
                         tensor + ((size_t)row + n) * row_bytes);
    }
    free(memory);
    return DN_OK;
}

/* Of whole pixels: YUV becomes BGR, then all is resized. */
static dn_status pixels_tensor(const dn_image *image, int8_t *tensor, dn_error *error) {
    work w = {.image = image, .rows = pick_rows(), .in_w = (size_t)(image->right - image->left),
              .in_h = (size_t)(image->bottom - image->top)};
    w.values = 3 * w.in_w;
    w.denominator = denominator_of(image, w.in_w, w.in_h);
    size_t spans = (size_t)image->out_width * sizeof *w.x, means = 4 * (size_t)image->out_width * sizeof *w.means;
    size_t columns = (w.values + 3) * sizeof *w.column, span_rows = w.in_h / (size_t)image->out_height + 3;
    uint8_t *memory = malloc(spans + means + columns + (image->layout == DN_BGR_FRAME ? 0 : span_rows * w.values));
    if (memory == NULL) return no_memory(w.values, error);
    w.x = (dn_image_span *)(void *)memory;
    w.means = (uint32_t *)(void *)(memory + spans);
    w.column = (uint32_t *)(void *)(memory + spans + means);
    memset(w.column + w.values, 0, 3 * sizeof *w.column);
    w.bgr = memory + spans + means + columns;
    w.held = (dn_image_span){-1, -1, 0, 0};
    for (int32_t i = 0; i < image->out_width; i++) w.x[i] = span_of(image)(i, (int64_t)w.in_w, image->out_width);
    size_t row = (size_t)image->out_width * (image->colour == DN_GREY ? 1 : 3);
    for (int32_t y = 0; y < image->out_height; y++)
        write_row(&w, span_of(image)(y, (int64_t)w.in_h, image->out_height), tensor + (size_t)y * row);
    free(memory);
    return DN_OK;
}

dn_status dn_image_tensor(const dn_image *image, int8_t *tensor, dn_error *error) {
    error->status = DN_OK;
    error->text[0] = '\0';
    if (!fits(image, error)) return error->status;
    return (image->layout == DN_PLANES_FRAME ? planes_tensor : pixels_tensor)(image, tensor, error);
}
