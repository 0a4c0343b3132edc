/* Which kernels this CPU runs, found out once. */
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "distillnet.h"
#include "kernels.h"

typedef struct {
    const dn_kernels *kernels;
    bool (*runs_here)(void);
} choice;

#if defined(__x86_64__)
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static bool has_avxvnni(void) {
    unsigned eax, ebx, ecx, edx;
    return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4) != 0;
}

static bool has_avx512vnni(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vbmi");
}
#elif defined(__aarch64__)
static bool has_dot_products(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
#endif

static bool anywhere(void) { return true; }

/* Best first. */
static const choice choices[] = {
#if defined(__x86_64__)
    {&dn_kernels_avx512vnni, has_avx512vnni},
    {&dn_kernels_avxvnni, has_avxvnni},
    {&dn_kernels_avx2, has_avx2},
#elif defined(__aarch64__)
    {&dn_kernels_neondot, has_dot_products},
    {&dn_kernels_neon, anywhere},
#endif
    {&dn_kernels_scalar, anywhere},
};
enum { CHOICES = sizeof choices / sizeof *choices };

const dn_kernels *dn_kernels_pick(const char *name) {
    bool any = name == NULL || *name == '\0';
    for (int i = 0; i < CHOICES; i++)
        if (choices[i].runs_here() && (any || strcmp(name, choices[i].kernels->name) == 0)) return choices[i].kernels;
    return NULL;
}

const char *const *dn_kernel_names(void) {
    static const char *names[CHOICES + 1]; /* always filled with the same values */
    int count = 0;
    for (int i = 0; i < CHOICES; i++)
        if (choices[i].runs_here()) names[count++] = choices[i].kernels->name;
    names[count] = NULL;
    return names;
}
