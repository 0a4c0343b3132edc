/* A flatbuffer walk that trusts nothing: every offset is checked against the buffer before it is followed, by byte
 * loads, so alignment and byte order do not matter. Offsets are computed in size_t; buffers are below 2 GB. */
#include <stdarg.h>
#include <stdio.h>

#include "internal.h"

bool dn_fail(dn_error *error, dn_status status, const char *format, ...) {
    if (error->status != DN_OK) return false;
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    error->status = status;
    return false;
}

bool dn_fb_failed(const dn_fb *fb) { return fb->error->status != DN_OK; }

static bool inside(const dn_fb *fb, size_t at, size_t bytes, const char *what) {
    if (!dn_fb_failed(fb) && at <= fb->size && bytes <= fb->size - at) return true;
    return dn_fail(fb->error, DN_MALFORMED, "%s at byte %zu reaches past the end of the file (%zu bytes)", what, at,
                   fb->size);
}

static uint64_t load(const dn_fb *fb, size_t at, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)fb->data[at + (size_t)i] << (8 * i);
    return v;
}

/* Follows the 32-bit offset stored at `at`. */
static size_t follow(const dn_fb *fb, size_t at, const char *what) {
    if (!inside(fb, at, 4, what)) return 0;
    size_t offset = load(fb, at, 4);
    if (offset == 0 || offset > fb->size - at) {
        dn_fail(fb->error, DN_MALFORMED, "%s: offset %zu at byte %zu leads outside the file (%zu bytes)", what, offset,
                at, fb->size);
        return 0;
    }
    return at + offset;
}

static dn_table table_at(const dn_fb *fb, size_t at, const char *what) {
    const dn_table none = {0, 0, 0, 0};
    if (at == 0 || !inside(fb, at, 4, what)) return none;
    int64_t back = (int32_t)load(fb, at, 4);
    int64_t vtable = (int64_t)at - back;
    if (vtable < 0 || (uint64_t)vtable > fb->size || !inside(fb, (size_t)vtable, 4, what)) {
        dn_fail(fb->error, DN_MALFORMED, "%s: the table at byte %zu has its vtable outside the file", what, at);
        return none;
    }
    dn_table t = {at, (size_t)vtable, (uint32_t)load(fb, (size_t)vtable, 2), (uint32_t)load(fb, (size_t)vtable + 2, 2)};
    if (t.vtable_size < 4 || t.table_size < 4 || !inside(fb, t.vtable, t.vtable_size, what) ||
        !inside(fb, at, t.table_size, what)) {
        dn_fail(fb->error, DN_MALFORMED, "%s: the table at byte %zu has a vtable of %u and a body of %u bytes", what, at,
                t.vtable_size, t.table_size);
        return none;
    }
    return t;
}

/* Where a field's inline bytes lie; 0 when the field is absent. */
static size_t field_at(const dn_fb *fb, dn_table t, int field, size_t bytes) {
    size_t slot = 4 + 2 * (size_t)field;
    if (t.at == 0 || dn_fb_failed(fb) || slot + 2 > t.vtable_size) return 0;
    size_t offset = load(fb, t.vtable + slot, 2);
    if (offset == 0) return 0;
    if (offset < 4 || offset + bytes > t.table_size) {
        dn_fail(fb->error, DN_MALFORMED, "field %d of the table at byte %zu lies outside it (%zu of %u bytes)", field,
                t.at, offset, t.table_size);
        return 0;
    }
    return t.at + offset;
}

dn_table dn_fb_root(const dn_fb *fb) {
    const dn_table none = {0, 0, 0, 0};
    if (fb->size < 8 || memcmp(fb->data + 4, "TFL3", 4) != 0) {
        dn_fail(fb->error, DN_MALFORMED, "not a .tflite file: no TFL3 at byte 4 (%zu bytes in all)", fb->size);
        return none;
    }
    return table_at(fb, follow(fb, 0, "root"), "root");
}

dn_table dn_fb_table(const dn_fb *fb, dn_table from, int field, const char *what) {
    const dn_table none = {0, 0, 0, 0};
    size_t at = field_at(fb, from, field, 4);
    return at ? table_at(fb, follow(fb, at, what), what) : none;
}

dn_vector dn_fb_vector(const dn_fb *fb, dn_table from, int field, size_t element_bytes, const char *what) {
    const dn_vector none = {0, 0};
    size_t at = field_at(fb, from, field, 4);
    if (at == 0) return none;
    at = follow(fb, at, what);
    if (at == 0 || !inside(fb, at, 4, what)) return none;
    uint64_t count = load(fb, at, 4);
    if (count * element_bytes > fb->size - at - 4) {
        dn_fail(fb->error, DN_MALFORMED, "%s: %llu elements of %zu bytes at byte %zu, in a file of %zu bytes", what,
                (unsigned long long)count, element_bytes, at, fb->size);
        return none;
    }
    return (dn_vector){at + 4, (uint32_t)count};
}

dn_table dn_fb_table_in(const dn_fb *fb, dn_vector tables, uint32_t index, const char *what) {
    const dn_table none = {0, 0, 0, 0};
    if (dn_fb_failed(fb)) return none;
    if (index >= tables.count) {
        dn_fail(fb->error, DN_MALFORMED, "%s: number %u of %u", what, index, tables.count);
        return none;
    }
    return table_at(fb, follow(fb, tables.at + 4 * (size_t)index, what), what);
}

int64_t dn_fb_int(const dn_fb *fb, dn_table from, int field, int bytes, int64_t absent) {
    size_t at = field_at(fb, from, field, (size_t)bytes);
    if (at == 0) return absent;
    uint64_t v = load(fb, at, bytes);
    return bytes == 1 ? (int8_t)v : bytes == 2 ? (int16_t)v : bytes == 4 ? (int32_t)v : (int64_t)v;
}

static float as_float(uint64_t bits) {
    uint32_t v = (uint32_t)bits;
    float f;
    memcpy(&f, &v, sizeof f);
    return f;
}

float dn_fb_float(const dn_fb *fb, dn_table from, int field, float absent) {
    size_t at = field_at(fb, from, field, 4);
    return at ? as_float(load(fb, at, 4)) : absent;
}

/* The vector's extent was checked when it was made; the index is checked here. */
static uint64_t element(const dn_fb *fb, dn_vector v, uint32_t index, int bytes) {
    return index < v.count ? load(fb, v.at + (size_t)index * (size_t)bytes, bytes) : 0;
}

int32_t dn_fb_i32_in(const dn_fb *fb, dn_vector v, uint32_t index) { return (int32_t)element(fb, v, index, 4); }
int64_t dn_fb_i64_in(const dn_fb *fb, dn_vector v, uint32_t index) { return (int64_t)element(fb, v, index, 8); }
float dn_fb_f32_in(const dn_fb *fb, dn_vector v, uint32_t index) { return as_float(element(fb, v, index, 4)); }
