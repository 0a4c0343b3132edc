/* The public interface: load, run, tell. */
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <time.h>

#include "prepare.h"

enum { MAX_THREADS = 64 };

static bool start(dn_model *m, const dn_options *options) {
    m->kernels = dn_kernels_pick(options->kernels);
    if (m->kernels == NULL)
        return dn_fail(m->error, DN_UNSUPPORTED, "no kernels called \"%s\" on this machine", options->kernels);
    if (options->threads < 1 || options->threads > MAX_THREADS)
        return dn_fail(m->error, DN_BAD_CALL, "%d threads; 1 to %d are possible", options->threads, MAX_THREADS);
    m->threads = options->threads;
    m->max_bytes = options->max_arena_bytes;
    return dn_read(m) && dn_prepare(m) && !dn_fb_failed(&m->fb) && dn_cut(m) && dn_plan(m);
}

dn_model *dn_model_load(const void *bytes, size_t size, const dn_options *options, dn_error *error) {
    error->status = DN_OK;
    error->text[0] = '\0';
    dn_model *m = calloc(1, sizeof *m);
    if (m == NULL) {
        dn_fail(error, DN_NO_MEMORY, "no memory for a model");
        return NULL;
    }
    m->error = error;
    m->fb = (dn_fb){bytes, size > INT32_MAX ? INT32_MAX : size, error};
    bool fine = start(m, options);
    if (fine && m->threads > 1 && (m->team = dn_team_new(m->threads)) == NULL)
        fine = dn_fail(error, DN_NO_MEMORY, "cannot start %d threads", m->threads);
    m->error = NULL;
    m->fb = (dn_fb){NULL, 0, NULL};
    if (fine) return m;
    dn_model_free(m);
    return NULL;
}

void dn_model_free(dn_model *m) {
    if (m == NULL) return;
    dn_team_free(m->team);
    dn_pool_free(m);
    free(m->arena_memory);
    free(m->section);
    free(m->op);
    free(m->tensor);
    free(m);
}

static dn_tensor_info describe(const dn_tensor *t) {
    dn_tensor_info info = {.rank = t->rank, .type = t->type, .scale = t->scale, .zero_point = t->zero_point,
                           .bytes = t->count * (t->type == DN_FLOAT32 ? sizeof(float) : 1)};
    memcpy(info.shape, t->dim, sizeof info.shape);
    return info;
}

void dn_model_info(const dn_model *m, dn_info *info) {
    *info = (dn_info){describe(&m->tensor[m->input]), describe(&m->tensor[m->output]), m->kernels->name, m->threads,
                      m->ops, m->arena_bytes, m->pool_bytes};
}

void dn_model_layer(const dn_model *m, int index, dn_layer *layer) {
    const dn_op *op = &m->op[index];
    *layer = (dn_layer){dn_op_name(op->code), index, op->ms, op->macs};
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* Between the caller's bytes and the arena's form; the same both ways. */
static void cross_border(const dn_tensor *t, const void *from, void *to) {
    if (t->type == DN_FLOAT32) {
        memcpy(to, from, t->count * sizeof(float));
        return;
    }
    uint8_t flip = (dn_from_file(t) & 0xff) ? 0x80 : 0;
    const uint8_t *in = from;
    uint8_t *out = to;
    for (size_t i = 0; i < t->count; i++) out[i] = in[i] ^ flip;
}

typedef struct {
    dn_model *m;
    const dn_section *section;
} work;

/* What has passed since the last mark goes to an operator's account. */
static void mark(dn_model *m, dn_op *op) {
    double now = now_ms();
    op->ms += now - m->marked_ms;
    m->marked_ms = now;
}

static void run_part(void *arg, int part, int parts) {
    const work *w = arg;
    for (int i = w->section->first; i <= w->section->last; i++) {
        dn_op *op = &w->m->op[i];
        if (op->run == NULL) continue;
        op->run(w->m, i, part, parts);
        if (dn_team_member() == 0) mark(w->m, op);
    }
}

dn_status dn_model_run(dn_model *m, const void *input, size_t input_bytes, void *output, size_t output_bytes) {
    const dn_tensor *in = &m->tensor[m->input], *out = &m->tensor[m->output];
    if (input_bytes != describe(in).bytes || output_bytes != describe(out).bytes) return DN_BAD_CALL;
    cross_border(in, input, dn_data(m, m->input));
    for (int i = 0; i < m->ops; i++) m->op[i].ms = 0;
    m->marked_ms = now_ms();
    for (int i = 0; i < m->sections; i++) {
        work w = {m, &m->section[i]};
        if (w.section->parts == 1) {
            run_part(&w, 0, 1);
        } else {
            dn_team_run(m->team, w.section->parts, run_part, &w);
            mark(m, &m->op[w.section->last]); /* the wait for the others */
        }
    }
    cross_border(out, dn_data(m, m->output), output);
    return DN_OK;
}
