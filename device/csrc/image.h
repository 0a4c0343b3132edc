/* From a camera frame to a student's input tensor in one pass: crop, resize, colour, quantise.
 *
 *     dn_image image = {.frame = pixels, .stride = 3 * width, …};
 *     dn_error error;
 *     if (dn_image_tensor(&image, tensor, &error) != DN_OK) …
 *
 * All in integers, so every machine gives the same bits; the definition is `distillnet.engine.preprocess`, in NumPy. A
 * resized pixel is the exact weighted mean of source pixels, rounded half up: weights of INTER_AREA are overlaps, those of
 * INTER_LINEAR distances, both whole numbers over a common denominator. Packed YUV becomes BGR first; of planes each is
 * resized by itself, and what comes of that becomes BGR: far fewer pixels. */
#ifndef DN_IMAGE_H
#define DN_IMAGE_H

#include "distillnet.h"

typedef enum { DN_BGR, DN_RGB, DN_GREY } dn_colour;

/* What cameras and decoders give. YUV is BT.601 with limited range, as OpenCV reads it; each 2 (NV12, planes: 2×2) pixels
 * share a colour. */
typedef enum {
    DN_BGR_FRAME,  /* (height, width, 3) */
    DN_YUYV_FRAME, /* (height, width, 2), of an even width */
    DN_NV12_FRAME, /* (height, width) of Y, then (height / 2, width / 2, 2) of U and V; both even */
    DN_PLANES_FRAME, /* (height, width) of Y; U and V of half the sides, each in its own place; both even */
} dn_layout;

typedef struct {
    const uint8_t *frame; /* of planes: Y */
    dn_layout layout;
    size_t stride; /* bytes from row to row */
    const uint8_t *colours[2]; /* of planes: U and V */
    size_t colour_strides[2];
    int32_t width, height;
    int32_t left, top, right, bottom; /* the crop, right and bottom exclusive */
    int32_t out_width, out_height;
    int area; /* weights: 1 overlaps, for shrinking; 0 distances */
    dn_colour colour;
    const int8_t *table; /* [256]: pixel value to tensor value */
} dn_image;

/* tensor: int8 (out_height, out_width, 3 | 1). DN_BAD_CALL: a crop outside the frame, or none, or an odd frame of YUV; DN_TOO_LARGE: a crop, or for
 * distances a tensor, of more than 2^23 (2^21) pixels; DN_NO_MEMORY. */
dn_status dn_image_tensor(const dn_image *image, int8_t *tensor, dn_error *error);

#endif
