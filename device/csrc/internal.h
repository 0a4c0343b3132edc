/* What the engine's files share: the graph as read, the operators as prepared. Not installed. */
#ifndef DN_INTERNAL_H
#define DN_INTERNAL_H

#include <stdbool.h>
#include <string.h>

#include "distillnet.h"
#include "kernels.h"

#define DN_MAX_OPERANDS 16
#define DN_MAX_TENSORS 16384
#define DN_MAX_OPS 8192
#define DN_MAX_ELEMENTS (1u << 30)
#define DN_ALIGN 64
#define DN_SLACK 64 /* kernels may read, never use, this many bytes past a tensor */

/* ---- reading: flatbuf.c ---- */

typedef struct {
    const uint8_t *data;
    size_t size;
    dn_error *error; /* the first error sticks; readers then return zeros */
} dn_fb;

typedef struct {
    size_t at; /* of the table; 0: absent */
    size_t vtable;
    uint32_t vtable_size, table_size;
} dn_table;

typedef struct {
    size_t at; /* of the first element; 0: absent */
    uint32_t count;
} dn_vector;

bool dn_fb_failed(const dn_fb *fb);
dn_table dn_fb_root(const dn_fb *fb);
dn_table dn_fb_table(const dn_fb *fb, dn_table from, int field, const char *what);
dn_vector dn_fb_vector(const dn_fb *fb, dn_table from, int field, size_t element_bytes, const char *what);
dn_table dn_fb_table_in(const dn_fb *fb, dn_vector tables, uint32_t index, const char *what);
int64_t dn_fb_int(const dn_fb *fb, dn_table from, int field, int bytes, int64_t absent);
float dn_fb_float(const dn_fb *fb, dn_table from, int field, float absent);
int32_t dn_fb_i32_in(const dn_fb *fb, dn_vector v, uint32_t index);
int64_t dn_fb_i64_in(const dn_fb *fb, dn_vector v, uint32_t index);
float dn_fb_f32_in(const dn_fb *fb, dn_vector v, uint32_t index);

/* ---- the graph ---- */

typedef struct {
    int rank;
    int32_t dim[DN_MAX_RANK];
    size_t count; /* elements */
    dn_type type;
    float scale;
    int32_t zero_point;
    const uint8_t *data;         /* constants: in the file's bytes, little-endian, perhaps unaligned; else NULL */
    dn_vector scales, zero_points; /* all of them, for per-channel weights */
    int32_t axis;                /* of the per-channel scales */
    int producer, consumers;     /* operator that writes it, -1: none; how many operands read it, the caller included */
    int root;                    /* the tensor whose memory this one shares; itself when none */
    int first, last;             /* roots: first and last operator that touches it; first = -1: never */
    size_t offset;               /* roots: in the arena */
    const dn_act *packed;        /* constants used as activations: in the weights pool, in the arena's form */
} dn_tensor;

/* What of an operator's output its threads share out, and in what portions: a part's share is that of dn_share. */
typedef struct {
    enum { DN_ITS_OWN_WAY, DN_BY_LINES, DN_BY_CHANNELS } by; /* lines: rows of pictures, all of the batch */
    size_t count, grain;
} dn_split;

typedef struct {
    int code;
    int inputs, outputs;
    int32_t input[DN_MAX_OPERANDS], output[DN_MAX_OPERANDS]; /* -1: absent */
    dn_table options;
    dn_op_kernel run;
    void *params; /* in the weights pool */
    size_t scratch_bytes; /* per thread */
    size_t scratch_offset;
    uint64_t macs;
    dn_split split;
    bool local; /* a part reads nothing of what other parts of operators with the same split write */
    double ms;
} dn_op;

/* Operators that follow each other and that a thread runs, its part of each, without meeting the others in between. */
typedef struct {
    int first, last;
    int parts; /* 1: the caller does it alone */
} dn_section;

typedef struct dn_block dn_block;

struct dn_model {
    dn_fb fb; /* only while loading */
    dn_error *error;
    dn_tensor *tensor;
    int tensors;
    dn_op *op;
    int ops;
    dn_section *section;
    int sections;
    int input, output;
    const dn_kernels *kernels;
    dn_block *pool; /* packed weights and parameters */
    size_t pool_bytes;
    size_t max_bytes;
    dn_act *arena;
    size_t arena_bytes;
    void *arena_memory;
    int threads;
    struct dn_team *team;
    double marked_ms; /* when the operator before this one ended */
};

/* Records the first error; returns false, so that a check may end `return dn_fail(…)`. */
bool dn_fail(dn_error *error, dn_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

const char *dn_op_name(int code);

bool dn_read(dn_model *m);    /* reader.c: tensors and operators */
bool dn_prepare(dn_model *m); /* prepare.c: checks, parameters, packed weights, kernels */
bool dn_cut(dn_model *m);     /* sections.c: where threads meet */
bool dn_plan(dn_model *m);    /* plan.c: the arena */

/* Zeroed, DN_ALIGN-aligned, DN_SLACK bytes of room behind it; NULL and an error when there is none. */
void *dn_pool(dn_model *m, size_t bytes);
void dn_pool_free(dn_model *m);

/* ---- threads: team.c ---- */

typedef struct dn_team dn_team;
typedef void (*dn_team_work)(void *arg, int part, int parts);
dn_team *dn_team_new(int threads);
void dn_team_free(dn_team *team);
int dn_team_member(void); /* which of its team's threads calls; 0: none of them, as the caller of dn_team_run */
void dn_team_run(dn_team *team, int parts, dn_team_work work, void *arg); /* returns when all parts are done */

#endif
