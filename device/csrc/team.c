/* A team of threads that run one piece of work in parts and meet at its end. Members spin a little before they sleep:
 * layers are short. The caller is part 0. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "internal.h"

#define SPINS 20000
#define PATIENCE 1000000 /* yielding too early hands the processor to strangers */

struct dn_team {
    int threads;
    pthread_t *thread;
    pthread_mutex_t lock;
    pthread_cond_t work_there;
    atomic_uint round; /* counts pieces of work */
    atomic_int busy;   /* members that have not finished this one */
    atomic_bool stop;
    dn_team_work work;
    void *arg;
    int started;
};

typedef struct {
    dn_team *team;
    int part;
} member;

static inline void pause_a_little(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void *serve(void *arg) {
    member self = *(member *)arg;
    free(arg);
    dn_team *team = self.team;
    unsigned seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&team->round, memory_order_acquire) == seen; i++)
            pause_a_little();
        if (atomic_load_explicit(&team->round, memory_order_acquire) == seen) {
            pthread_mutex_lock(&team->lock);
            while (atomic_load(&team->round) == seen) pthread_cond_wait(&team->work_there, &team->lock);
            pthread_mutex_unlock(&team->lock);
        }
        seen = atomic_load_explicit(&team->round, memory_order_acquire);
        if (atomic_load(&team->stop)) return NULL;
        team->work(team->arg, self.part, team->threads);
        atomic_fetch_sub_explicit(&team->busy, 1, memory_order_release);
    }
}

dn_team *dn_team_new(int threads) {
    dn_team *team = calloc(1, sizeof *team);
    if (team == NULL) return NULL;
    team->threads = threads;
    team->thread = calloc((size_t)threads, sizeof *team->thread);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->work_there, NULL);
    for (int part = 1; team->thread != NULL && part < threads; part++) {
        member *self = malloc(sizeof *self);
        if (self == NULL) break;
        *self = (member){team, part};
        if (pthread_create(&team->thread[part], NULL, serve, self) != 0) {
            free(self);
            break;
        }
        team->started++;
    }
    if (team->started == threads - 1) return team;
    dn_team_free(team);
    return NULL;
}

static void announce(dn_team *team) {
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add_explicit(&team->round, 1, memory_order_release);
    pthread_cond_broadcast(&team->work_there);
    pthread_mutex_unlock(&team->lock);
}

void dn_team_free(dn_team *team) {
    if (team == NULL) return;
    atomic_store(&team->stop, true);
    announce(team);
    for (int part = 1; part <= team->started; part++) pthread_join(team->thread[part], NULL);
    pthread_cond_destroy(&team->work_there);
    pthread_mutex_destroy(&team->lock);
    free(team->thread);
    free(team);
}

void dn_team_run(dn_team *team, dn_team_work work, void *arg) {
    team->work = work;
    team->arg = arg;
    atomic_store_explicit(&team->busy, team->threads - 1, memory_order_relaxed);
    announce(team);
    work(arg, 0, team->threads);
    for (int i = 0; atomic_load_explicit(&team->busy, memory_order_acquire) != 0; i++) {
        if (i < PATIENCE) pause_a_little();
        else sched_yield(); /* a member waits for a processor: perhaps for this one */
    }
}
