/* One arena for all activations. A tensor lives from the operator that makes it to the last that reads it; greedy by
 * size, largest first, each at the lowest offset free for its whole life (as TFLite's own planner does). Time is counted in
 * sections: within one, threads are at different operators.
 *
 * For several threads the arena is cut into rooms, and a tensor lies in the middle of one: then its halves lie where the same
 * halves of others were, and a thread writes where it wrote before. Lines that another has written come from its cache. */
#include <stdlib.h>

#include "internal.h"

typedef struct {
    size_t bytes, offset;
    int first, last;
    size_t *result;
    size_t room;  /* the span that it was made for */
    size_t taken; /* rooms: the last span that found somebody there */
} span;

static int larger_first(const void *a, const void *b) {
    const span *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->first != y->first ? (x->first < y->first ? -1 : 1) : x->result < y->result ? -1 : 1;
}

static void touch(dn_model *m, int tensor, int at) { /* a section */
    if (tensor < 0 || m->tensor[tensor].data != NULL) return;
    dn_tensor *root = &m->tensor[m->tensor[tensor].root];
    if (root->first < 0) root->first = at;
    root->last = at;
}

static size_t padded(size_t bytes) { return (bytes + DN_SLACK + DN_ALIGN - 1) / DN_ALIGN * DN_ALIGN; }

/* `placed` is kept in order of offset, so one sweep finds the lowest gap. */
static size_t lowest(const span *placed, const size_t *order, size_t count, const span *s) {
    size_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        const span *p = &placed[order[i]];
        if (p->last < s->first || p->first > s->last) continue;
        if (p->offset >= offset + s->bytes) break;
        if (p->offset + p->bytes > offset) offset = p->offset + p->bytes;
    }
    return offset;
}

static size_t place(span *spans, size_t *order, size_t count) {
    size_t end = 0;
    for (size_t i = 0; i < count; i++) {
        span *s = &spans[i];
        s->offset = lowest(spans, order, i, s);
        *s->result = s->offset;
        if (s->offset + s->bytes > end) end = s->offset + s->bytes;
        size_t at = i;
        while (at > 0 && spans[order[at - 1]].offset > s->offset) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    return end;
}

/* The same in rooms, made where none is free for a span's whole life. Else the smallest is taken: `rooms` falls in size. */
static size_t place_in_rooms(span *spans, size_t *rooms, size_t count) {
    size_t made = 0, end = 0;
    for (size_t i = 0; i < count; i++) {
        span *s = &spans[i];
        for (size_t j = 0; j < i; j++)
            if (spans[j].first <= s->last && spans[j].last >= s->first) spans[spans[j].room].taken = i;
        size_t at = made;
        while (at > 0 && spans[rooms[at - 1]].taken == i) at--;
        s->room = at > 0 ? rooms[at - 1] : i;
        if (at == 0) {
            rooms[made++] = i;
            s->offset = end;
            end += s->bytes;
        } else {
            const span *whole = &spans[s->room];
            s->offset = whole->offset + (whole->bytes - s->bytes) / 2 / DN_ALIGN * DN_ALIGN;
        }
        *s->result = s->offset;
    }
    return end;
}

bool dn_plan(dn_model *m) {
    touch(m, m->input, 0);
    for (int s = 0; s < m->sections; s++)
        for (int i = m->section[s].first; i <= m->section[s].last; i++) {
            for (int k = 0; k < m->op[i].inputs; k++) touch(m, m->op[i].input[k], s);
            for (int k = 0; k < m->op[i].outputs; k++) touch(m, m->op[i].output[k], s);
        }
    touch(m, m->output, m->sections);
    size_t room = (size_t)m->tensors + (size_t)m->ops + 1, count = 0;
    span *spans = calloc(room, sizeof *spans);
    size_t *order = calloc(room, sizeof *order);
    if (spans == NULL || order == NULL) {
        free(spans);
        free(order);
        return dn_fail(m->error, DN_NO_MEMORY, "no memory to plan %zu tensors", room);
    }
    for (int i = 0; i < m->tensors; i++) {
        dn_tensor *t = &m->tensor[i];
        if (t->root != i || t->first < 0) continue;
        size_t element = t->type == DN_FLOAT32 ? sizeof(float) : sizeof(dn_act);
        spans[count++] = (span){.bytes = padded(t->count * element), .first = t->first, .last = t->last, .result = &t->offset};
    }
    for (int s = 0; s < m->sections; s++)
        for (int i = m->section[s].first; i <= m->section[s].last; i++) {
            if (m->op[i].scratch_bytes == 0) continue;
            size_t bytes = padded(m->op[i].scratch_bytes) * (size_t)m->threads;
            spans[count++] = (span){.bytes = bytes, .first = s, .last = s, .result = &m->op[i].scratch_offset};
        }
    qsort(spans, count, sizeof *spans, larger_first);
    m->arena_bytes = (m->threads > 1 ? place_in_rooms : place)(spans, order, count);
    free(spans);
    free(order);
    if (m->arena_bytes > m->max_bytes)
        return dn_fail(m->error, DN_TOO_LARGE, "the activations want %zu bytes; max_arena_bytes is %zu", m->arena_bytes,
                       m->max_bytes);
    m->arena_memory = malloc(m->arena_bytes + DN_ALIGN + DN_SLACK);
    if (m->arena_memory == NULL)
        return dn_fail(m->error, DN_NO_MEMORY, "no memory for an arena of %zu bytes", m->arena_bytes);
    memset(m->arena_memory, 0, m->arena_bytes + DN_ALIGN + DN_SLACK);
    m->arena = (dn_act *)(((uintptr_t)m->arena_memory + DN_ALIGN - 1) / DN_ALIGN * DN_ALIGN);
    return true;
}
