/* A TCG plugin of qemu-user that counts the guest instructions that are executed: -plugin ./this.so,out=FILE[,mark=NUMBER]
 *
 * FILE gets their number. With `mark`, every system call of that number ends a section: FILE gets, instead, a line "mark"
 * per section after the lines "BLOCK TIMES" of the blocks that were executed in it, and at last a line "code BLOCK BYTES"
 * for each block. Debian packages no header for plugins; what is used of version 1 of their interface is declared here. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct tb; /* a block of translated instructions */
struct insn;
enum { ADD_U64 = 0 };
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t index);
const void *qemu_plugin_insn_data(const struct insn *insn);
size_t qemu_plugin_insn_size(const struct insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct tb *tb, int operation, void *to, uint64_t value);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id id, void (*called)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                                       uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *), void *data);

int qemu_plugin_version = 1;

enum { MOST_BYTES = 4096 }; /* of a block: a page of the guest */
struct block {
    struct block *next;
    uint64_t times, before, instructions;
    unsigned number;
    size_t bytes;
    unsigned char code[];
};
static struct block *blocks;
static FILE *out;
static int64_t mark = -1;

static void translated(plugin_id id, struct tb *tb) {
    (void)id;
    struct block *block = calloc(1, sizeof *block + MOST_BYTES);
    if (block == NULL) abort();
    block->instructions = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < block->instructions; i++) {
        const struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
        size_t size = qemu_plugin_insn_size(insn);
        if (block->bytes + size > MOST_BYTES) abort();
        memcpy(block->code + block->bytes, qemu_plugin_insn_data(insn), size);
        block->bytes += size;
    }
    block->number = blocks == NULL ? 0 : blocks->number + 1;
    block->next = blocks;
    blocks = realloc(block, sizeof *block + block->bytes);
    qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &blocks->times, 1);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                   uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != mark) return;
    for (struct block *block = blocks; block != NULL; block = block->next) {
        if (block->times == block->before) continue;
        fprintf(out, "%u %" PRIu64 "\n", block->number, block->times - block->before);
        block->before = block->times;
    }
    fputs("mark\n", out);
}

static void ended(plugin_id id, void *data) {
    (void)id, (void)data;
    uint64_t executed = 0;
    for (struct block *block = blocks; block != NULL; block = block->next) {
        executed += block->times * block->instructions;
        if (mark < 0) continue;
        fprintf(out, "code %u ", block->number);
        for (size_t i = 0; i < block->bytes; i++) fprintf(out, "%02x", block->code[i]);
        fputc('\n', out);
    }
    if (mark < 0) fprintf(out, "%" PRIu64 "\n", executed);
    fclose(out);
}

int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments) {
    (void)info;
    for (int i = 0; i < count; i++) {
        if (strncmp(arguments[i], "out=", 4) == 0) out = fopen(arguments[i] + 4, "w");
        if (strncmp(arguments[i], "mark=", 5) == 0) mark = atoll(arguments[i] + 5);
    }
    if (out == NULL) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
