/* A team of threads that run one piece of work in parts and meet at its end. Whoever is free claims another part, the
 * caller from the front and the others from the back, so that each finds in its cache what it wrote before: a member that
 * sleeps, or that has lost its processor, holds nobody up. Members spin a little before they sleep: layers are short. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "internal.h"

#define SPINS 20000
#define PATIENCE 1000000 /* yielding too early hands the processor to strangers */
#define PART_BITS 8 /* of a ticket, for each of three numbers */
#define PART_MASK ((1 << PART_BITS) - 1)

struct dn_team {
    int threads;
    pthread_t *thread;
    pthread_mutex_t lock;
    pthread_cond_t work_there;
    /* In one word, as whoever claims must see them together: which piece of work, how many parts it has, how many of them are
     * claimed from the back, and how many from the front. */
    atomic_uint_fast64_t ticket;
    atomic_int done; /* parts that members have finished */
    atomic_int asleep;
    atomic_bool stop;
    dn_team_work work;
    void *arg;
    atomic_int numbered; /* members */
    int started;
};

static inline void pause_a_little(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static _Thread_local int member; /* of its team; 0: a caller */

int dn_team_member(void) { return member; }

static uint64_t piece_of(uint64_t ticket) { return ticket >> 3 * PART_BITS; }

static int parts_of(uint64_t ticket) { return (int)(ticket >> 2 * PART_BITS & PART_MASK); }

/* A part of this piece of work that nobody has, now the caller's, and of how many; -1: none. */
static int claim(dn_team *team, uint64_t piece, int *parts) {
    uint_fast64_t ticket = atomic_load_explicit(&team->ticket, memory_order_acquire);
    while (piece_of(ticket) == piece) {
        int front = (int)(ticket & PART_MASK), back = (int)(ticket >> PART_BITS & PART_MASK);
        *parts = parts_of(ticket);
        if (front + back >= *parts) return -1;
        uint_fast64_t next = ticket + (member == 0 ? 1 : 1 << PART_BITS);
        if (atomic_compare_exchange_weak_explicit(&team->ticket, &ticket, next, memory_order_acquire, memory_order_acquire))
            return member == 0 ? front : *parts - 1 - back;
    }
    return -1;
}

static uint64_t next_piece(dn_team *team, uint64_t seen) {
    uint64_t piece = seen;
    for (int i = 0; i < SPINS && piece == seen; i++) {
        pause_a_little();
        piece = piece_of(atomic_load_explicit(&team->ticket, memory_order_acquire));
    }
    if (piece != seen) return piece;
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->asleep, 1);
    while ((piece = piece_of(atomic_load(&team->ticket))) == seen) pthread_cond_wait(&team->work_there, &team->lock);
    atomic_fetch_sub(&team->asleep, 1);
    pthread_mutex_unlock(&team->lock);
    return piece;
}

static void *serve(void *arg) {
    dn_team *team = arg;
    member = atomic_fetch_add(&team->numbered, 1) + 1;
    for (uint64_t piece = 0;;) {
        piece = next_piece(team, piece);
        if (atomic_load(&team->stop)) return NULL;
        for (int part, parts; (part = claim(team, piece, &parts)) >= 0;) {
            team->work(team->arg, part, parts);
            atomic_fetch_add_explicit(&team->done, 1, memory_order_release);
        }
    }
}

dn_team *dn_team_new(int threads) {
    dn_team *team = calloc(1, sizeof *team);
    if (team == NULL) return NULL;
    team->threads = threads;
    team->thread = calloc((size_t)threads, sizeof *team->thread);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->work_there, NULL);
    while (team->thread != NULL && team->started < threads - 1 &&
           pthread_create(&team->thread[team->started], NULL, serve, team) == 0)
        team->started++;
    if (team->started == threads - 1) return team;
    dn_team_free(team);
    return NULL;
}

/* The next piece of work, of so many parts, the first of them the caller's; returns its number. */
static uint64_t announce(dn_team *team, int parts) {
    uint64_t piece = piece_of(atomic_load_explicit(&team->ticket, memory_order_relaxed)) + 1;
    atomic_store(&team->ticket, piece << 3 * PART_BITS | (uint64_t)parts << 2 * PART_BITS | 1);
    if (atomic_load(&team->asleep) == 0) return piece; /* whoever falls asleep from now on sees the ticket first */
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->work_there);
    pthread_mutex_unlock(&team->lock);
    return piece;
}

void dn_team_free(dn_team *team) {
    if (team == NULL) return;
    atomic_store(&team->stop, true);
    announce(team, 1);
    for (int i = 0; i < team->started; i++) pthread_join(team->thread[i], NULL);
    pthread_cond_destroy(&team->work_there);
    pthread_mutex_destroy(&team->lock);
    free(team->thread);
    free(team);
}

void dn_team_run(dn_team *team, int parts, dn_team_work work, void *arg) {
    team->work = work;
    team->arg = arg;
    atomic_store_explicit(&team->done, 0, memory_order_relaxed);
    uint64_t piece = announce(team, parts);
    int others = parts;
    for (int part = 0; part >= 0; part = claim(team, piece, &parts), others--) work(arg, part, parts);
    for (int i = 0; atomic_load_explicit(&team->done, memory_order_acquire) != others; i++) {
        if (i < PATIENCE) pause_a_little();
        else sched_yield(); /* a member waits for a processor: perhaps for this one */
    }
}
