/* Preloaded into a benchmark, it hides instruction sets from everything that asks the CPU: LD_PRELOAD=./this.so.
 * CPUID is made to fault (arch_prctl, which the CPU and the kernel must allow), and answered without AVX-512, AVX-VNNI
 * and AMX; threads inherit it. What ran before, in the dynamic linker, has seen the CPU as it is.
 * With HIDE=avx512, AVX-VNNI may be seen. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SET_CPUID = 0x1012 }; /* ARCH_SET_CPUID */

#define BIT(n) (1u << (n))
static const uint32_t avx512_ebx = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
static const uint32_t avx512_ecx = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14);
static const uint32_t avx512_amx_edx = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);
static const uint32_t vnni_eax = BIT(4) | BIT(23), bf16_amx_eax = BIT(5) | BIT(21); /* leaf 7, subleaf 1 */
static const uint32_t vnni_edx = BIT(4) | BIT(5) | BIT(10);

static int keep_avx_vnni;

static void answer(int signal_number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)r[REG_RIP];
    (void)info;
    if (code[0] != 0x0f || code[1] != 0xa2) { /* a fault of another kind: die of it */
        signal(signal_number, SIG_DFL);
        return;
    }
    uint32_t leaf = (uint32_t)r[REG_RAX], subleaf = (uint32_t)r[REG_RCX], a, b, c, d;
    syscall(SYS_arch_prctl, SET_CPUID, 1);
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(subleaf));
    syscall(SYS_arch_prctl, SET_CPUID, 0);
    if (leaf == 7 && subleaf == 0) {
        b &= ~avx512_ebx;
        c &= ~avx512_ecx;
        d &= ~avx512_amx_edx;
    } else if (leaf == 7 && subleaf == 1) {
        a &= ~(bf16_amx_eax | (keep_avx_vnni ? 0 : vnni_eax));
        d &= ~(keep_avx_vnni ? 0 : vnni_edx);
    }
    r[REG_RAX] = a;
    r[REG_RBX] = b;
    r[REG_RCX] = c;
    r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
    const char *what = getenv("HIDE");
    keep_avx_vnni = what != NULL && strcmp(what, "avx512") == 0;
    action.sa_sigaction = answer;
    if (sigaction(SIGSEGV, &action, NULL) != 0 || syscall(SYS_arch_prctl, SET_CPUID, 0) != 0) {
        static const char sorry[] = "mask_cpuid: this CPU or kernel cannot make CPUID fault\n";
        (void)!write(2, sorry, sizeof sorry - 1);
        _exit(1);
    }
}
