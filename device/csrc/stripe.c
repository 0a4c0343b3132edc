/* See dn_stripe in prepare.h. */
#include "prepare.h"

enum { STRIPE_BYTES = 64 * 1024 };

bool dn_prepare_stripe(dn_model *m, int op, dn_stripe *s, int32_t out_h) {
    int64_t row = (int64_t)s->wide * s->channels;
    if (row > (int64_t)(m->max_bytes / (size_t)(s->span > 0 ? s->span : 1)))
        return DN_REFUSE(m, op, DN_TOO_LARGE, "windows of %lld bytes a row", (long long)row);
    int64_t rows = (STRIPE_BYTES / row - s->span) / s->stride_h + 1;
    if (rows > out_h) rows = out_h;
    if (rows < 1) rows = 1;
    s->rows = (int32_t)rows;
    m->op[op].scratch_bytes = (size_t)((rows - 1) * s->stride_h + s->span) * (size_t)row;
    return true;
}

void dn_fill_stripe(const dn_stripe *s, const dn_act *picture, int32_t y, int32_t count, dn_act *to) {
    size_t c = (size_t)s->channels, wide = (size_t)s->wide * c, left = (size_t)s->pad_left * c, line = (size_t)s->width * c;
    size_t copied = left + line < wide ? line : wide - left;
    int32_t first = y * s->stride_h - s->pad_top, rows = (count - 1) * s->stride_h + s->span;
    for (int32_t i = first; i < first + rows; i++, to += wide) {
        if (i < 0 || i >= s->height) {
            memset(to, (uint8_t)s->zero, wide);
            continue;
        }
        memset(to, (uint8_t)s->zero, left);
        memcpy(to + left, picture + (size_t)i * line, copied);
        memset(to + left + copied, (uint8_t)s->zero, wide - left - copied);
    }
}
