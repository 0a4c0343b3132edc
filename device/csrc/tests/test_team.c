/* Teams: pieces of work of ever other numbers of parts, one right after the other; every part is done once, and by nobody once
 * dn_team_run has returned. A member that comes late from one piece must not take its place for one in the next. */
#include <stdatomic.h>

#include "../internal.h"
#include "check.h"

enum { PIECES = 100000, MOST_PARTS = 128 };

typedef struct {
    atomic_int done[MOST_PARTS];
    int parts;
    atomic_bool over;
} piece;

static void work(void *arg, int part, int parts) {
    piece *p = arg;
    CHECK(!atomic_load(&p->over) && parts == p->parts && part >= 0 && part < parts);
    atomic_fetch_add(&p->done[part], 1);
}

static void test_team(int threads) {
    static piece two[2];
    dn_team *team = dn_team_new(threads);
    CHECK(team != NULL);
    noise n = {1};
    for (int i = 0; i < PIECES; i++) {
        piece *p = &two[i % 2];
        p->parts = i % 1000 == 0 ? MOST_PARTS : noise_between(&n, 1, 4 * threads);
        for (int part = 0; part < p->parts; part++) atomic_store(&p->done[part], 0);
        atomic_store(&p->over, false);
        dn_team_run(team, p->parts, work, p);
        atomic_store(&p->over, true);
        for (int part = 0; part < p->parts; part++) CHECK(atomic_load(&p->done[part]) == 1);
    }
    dn_team_free(team);
}

int main(void) {
    for (int threads = 2; threads <= 4; threads++) test_team(threads);
    printf("%d pieces of work each by 2 to 4 threads\n", PIECES);
    return 0;
}
