/* Forced into every file of a wheel (-include): ask for the oldest version of the functions that got new ones in glibc 2.29 (libm) and
 * 2.34 (libpthread), so that a wheel built on Debian 12 loads on glibc 2.28 as well. Python is linked with libpthread and libm there, so
 * the symbols are in the process. `.symver` on a function that a file does not use has no effect. */
#if defined(__x86_64__)
#define DN_BASE "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define DN_BASE "GLIBC_2.17"
#endif
#ifdef DN_BASE
#define DN_OLDEST(name) __asm__(".symver " #name "," #name "@" DN_BASE)
DN_OLDEST(pthread_create);
DN_OLDEST(pthread_join);
DN_OLDEST(pthread_once);
DN_OLDEST(pthread_setaffinity_np);
DN_OLDEST(sem_init);
DN_OLDEST(sem_destroy);
DN_OLDEST(sem_post);
DN_OLDEST(sem_wait);
DN_OLDEST(exp);
DN_OLDEST(log);
DN_OLDEST(pow);
DN_OLDEST(exp2);
DN_OLDEST(log2);
#endif
