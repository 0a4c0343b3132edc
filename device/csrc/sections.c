/* Where threads meet. A meeting costs a microsecond or so, and data that change hands come from the other processor's cache:
 * so operators follow each other without a meeting as long as each part needs only what the same part has made, as a
 * projection of the rows that a depthwise convolution has made. Tensors of a section live at the same time.
 *
 * Processors are not equally fast all the time, and whoever has finished waits for the others. So where there is much work
 * each thread has a large part, and the small ones, between the caller's large one and the others', go to whoever comes
 * first. */
#include <stdlib.h>

#include "prepare.h"

enum { WORTH_SHARING = 500000, WORTH_BALANCING = 5000000, LEAST_LINES = 5, LEAST_CHANNELS = 3 * DN_CHANNEL_BLOCK };
enum { LARGE = 6 }; /* parts, in small ones */

dn_split dn_split_of(const dn_model *m, size_t lines, size_t channels) {
    size_t parts = (size_t)m->threads;
    if (lines >= LEAST_LINES * parts) return (dn_split){DN_BY_LINES, lines, 1};
    return (dn_split){DN_BY_CHANNELS, channels, channels >= LEAST_CHANNELS * parts ? DN_CHANNEL_BLOCK : DN_QUICK_LANES};
}

void dn_split_values(dn_model *m, int op) {
    const dn_tensor *out = dn_out(m, op, 0);
    size_t lines = out->rank == 4 ? (size_t)out->dim[0] * (size_t)out->dim[1] : 0;
    dn_split split = dn_split_of(m, lines, out->count);
    m->op[op].local = split.by == DN_BY_LINES;
    m->op[op].split = m->op[op].local ? split : (dn_split){DN_ITS_OWN_WAY, out->count, DN_CHANNEL_BLOCK};
}

void dn_share_values(const dn_model *m, int op, int part, int parts, size_t *from, size_t *to) {
    const dn_split *split = &m->op[op].split;
    size_t each = m->tensor[m->op[op].output[0]].count / split->count;
    dn_share_op(m, op, part, parts, from, to);
    *from *= each;
    *to *= each;
}

/* Of so many grains those before a part, when there are as many parts as threads, or as many small ones besides, or one. */
static size_t before(const dn_model *m, size_t grains, size_t part, size_t parts) {
    size_t threads = (size_t)m->threads;
    if (parts <= threads) return grains * part / parts;
    size_t small = part == 0 ? 0 : part - 1 < threads ? part - 1 : threads;
    return grains * ((part - small) * LARGE + small) / (threads * (LARGE + 1));
}

void dn_share(const dn_model *m, size_t count, size_t grain, int part, int parts, size_t *from, size_t *to) {
    size_t grains = (count + grain - 1) / grain;
    *from = before(m, grains, (size_t)part, (size_t)parts) * grain;
    *to = before(m, grains, (size_t)part + 1, (size_t)parts) * grain;
    if (*from > count) *from = count;
    if (*to > count) *to = count;
}

static bool same_split(const dn_split *a, const dn_split *b) {
    return a->by == b->by && a->by != DN_ITS_OWN_WAY && a->count == b->count && a->grain == b->grain;
}

/* Who writes a tensor's memory; -1: nobody but the caller. */
static int writer_of(const dn_model *m, int tensor) {
    int op = m->tensor[tensor].producer;
    while (op >= 0 && m->op[op].run == NULL) op = m->tensor[m->op[op].input[m->op[op].inputs - 1]].producer;
    return op;
}

/* Whether an operator needs no meeting after those from `first` on. */
static bool follows(const dn_model *m, int first, int op) {
    const dn_op *o = &m->op[op];
    for (int k = 0; k < o->inputs; k++) {
        if (o->input[k] < 0 || m->tensor[o->input[k]].data != NULL) continue;
        int writer = writer_of(m, o->input[k]);
        if (writer >= first && !(o->local && same_split(&m->op[writer].split, &o->split))) return false;
    }
    return true;
}

static uint64_t work_of(const dn_model *m, const dn_op *op) {
    if (op->run == NULL || op->outputs < 1) return 0;
    uint64_t values = m->tensor[op->output[0]].count, dense = op->code == OP_DEPTHWISE_CONV_2D ? 4 : 1;
    return op->macs * dense + 16 * values;
}

bool dn_cut(dn_model *m) {
    m->section = calloc((size_t)m->ops + 1, sizeof *m->section);
    if (m->section == NULL) return dn_fail(m->error, DN_NO_MEMORY, "no memory for %d sections", m->ops);
    uint64_t work = 0;
    for (int i = 0; i < m->ops; i++) {
        dn_section *last = &m->section[m->sections - (m->sections > 0)];
        if (m->sections == 0 || m->threads == 1 || !follows(m, last->first, i)) {
            last = &m->section[m->sections++];
            last->first = i;
            work = 0;
        }
        work += work_of(m, &m->op[i]);
        last->last = i;
        last->parts = m->threads == 1 || work < WORTH_SHARING ? 1 : m->threads * (work < WORTH_BALANCING ? 1 : 2);
    }
    return true;
}
