/*
 * Does io_uring do here what it promises? Some sandboxes let it be set up and then drop completions. Every
 * kind of operation goes once through a ring of its own, over local sockets that need no network.
 */
#include "ring_internal.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

enum { STEP_NANOSECONDS = 200 * 1000 * 1000 };

enum { TOKEN_ACCEPT = 1, TOKEN_CONNECT, TOKEN_RECEIVE, TOKEN_SEND, TOKEN_WATCH, TOKEN_READABLE };

typedef struct { ring *ring; int listener, client, server; const char *failed; } self_test;

/* Waits until `count` completions have come, and puts each at the place of its token. */
static bool collect(self_test *test, unsigned count, ring_completion by_token[8]) {
    while (count > 0) {
        ring_completion completions[4];
        int got = ring_wait(test->ring, STEP_NANOSECONDS, completions, count < 4 ? count : 4);
        if (got <= 0) return false;
        for (int i = 0; i < got; i++) by_token[completions[i].token & 7] = completions[i];
        count -= (unsigned)got;
    }
    return true;
}

static bool connects(self_test *test) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    socklen_t length = sizeof(sa_family_t);   /* The kernel picks an abstract name. */
    ring_completion done[8];
    test->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    test->client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (test->listener < 0 || test->client < 0) return false;
    if (bind(test->listener, (struct sockaddr *)&address, length) || listen(test->listener, 1)) return false;
    length = sizeof address;
    if (getsockname(test->listener, (struct sockaddr *)&address, &length)) return false;
    if (ring_accept(test->ring, test->listener, TOKEN_ACCEPT)) return false;
    if (ring_wait(test->ring, 0, done, 1) != 0) return false;   /* Nobody is there: it has to stay. */
    const struct sockaddr *target = (const struct sockaddr *)&address;
    if (ring_connect(test->ring, test->client, target, length, TOKEN_CONNECT)) return false;
    if (!collect(test, 2, done)) return false;
    test->server = done[TOKEN_ACCEPT].result;
    return test->server >= 0 && done[TOKEN_CONNECT].result == 0;
}

static bool moves_bytes(self_test *test) {
    ring_completion done[8];
    char word[] = "tele", memory[8];
    struct iovec iovecs[2] = { { word, 2 }, { word + 2, 2 } };
    if (ring_receive_pooled(test->ring, test->server, TOKEN_RECEIVE)) return false;
    if (ring_wait(test->ring, 0, done, 1) != 0) return false;
    if (ring_send(test->ring, test->client, iovecs, 2, 0, TOKEN_SEND)) return false;
    if (!collect(test, 2, done)) return false;
    ring_completion received = done[TOKEN_RECEIVE];
    if (done[TOKEN_SEND].result != 4) return false;
    if (received.result != 4 || received.flags != RING_COMPLETION_BUFFER) return false;
    bool equal = memcmp(ring_pool_bytes(test->ring, received.buffer), "tele", 4) == 0;
    ring_pool_return(test->ring, received.buffer);

    if (!equal || ring_readable(test->ring, test->server, TOKEN_READABLE)) return false;
    if (ring_send(test->ring, test->client, iovecs, 1, MSG_DONTWAIT, TOKEN_SEND)) return false;
    if (!collect(test, 2, done)) return false;
    if (done[TOKEN_SEND].result != 2 || !(done[TOKEN_READABLE].result & POLLIN)) return false;
    if (ring_receive(test->ring, test->server, memory, sizeof memory, TOKEN_RECEIVE)) return false;
    return collect(test, 1, done) && done[TOKEN_RECEIVE].result == 2 && memcmp(memory, "te", 2) == 0;
}

/* A send that finds too little room says how much it sent. */
static bool counts_bytes(self_test *test) {
    static char bytes[256 * 1024];
    int small = 4096;
    setsockopt(test->client, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    struct iovec iovec = { bytes, sizeof bytes };
    ring_completion done[8];
    if (ring_send(test->ring, test->client, &iovec, 1, RING_UNHURRIED, TOKEN_SEND) || !collect(test, 1, done)) return false;
    ssize_t count, arrived = 0;
    while ((count = recv(test->server, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) arrived += count;
    return done[TOKEN_SEND].result == arrived && arrived < (ssize_t)sizeof bytes;
}

static bool cancels(self_test *test) {
    ring_completion done[8];
    char memory[8];
    if (ring_receive(test->ring, test->server, memory, sizeof memory, TOKEN_RECEIVE)) return false;
    if (ring_watch_hangup(test->ring, test->server, TOKEN_WATCH)) return false;
    if (ring_wait(test->ring, 0, done, 1) != 0 || ring_cancel(test->ring, test->server)) return false;
    return collect(test, 2, done) && done[TOKEN_RECEIVE].result == -ECANCELED
        && done[TOKEN_WATCH].result == -ECANCELED;
}

static bool watches(self_test *test) {
    ring_completion done[8];
    if (ring_watch_hangup(test->ring, test->server, TOKEN_WATCH)) return false;
    if (ring_wait(test->ring, 0, done, 1) != 0) return false;
    close(test->client);
    test->client = -1;
    return collect(test, 1, done) && done[TOKEN_WATCH].result & POLLHUP;
}

static bool wakes(self_test *test) {
    ring_completion none;
    ring_wake(test->ring);
    ring_wait(test->ring, STEP_NANOSECONDS, &none, 1);
    /* Had the wake been lost, this one would still find it. */
    return ring_wait(test->ring, 0, &none, 1) == 0 && ring_in_flight(test->ring) == 0;
}

int ring_self_test(char *why, size_t why_bytes) {
    static const struct { bool (*step)(self_test *); const char *failure; } steps[] = {
        { connects, "accept and connect" }, { moves_bytes, "send and receive" }, { counts_bytes, "short send" },
        { cancels, "cancel" },
        { watches, "hang-up" }, { wakes, "wake" },
    };
    self_test test = { .listener = -1, .client = -1, .server = -1 };
    ring_options options = {
        .driver = RING_DRIVER_URING, .entries = 64, .pool_count = 16, .pool_bytes = 512 };
    int error = ring_open_untested(&test.ring, &options);
    if (error) return error;
    for (size_t i = 0; i < sizeof steps / sizeof *steps && !error; i++) {
        if (steps[i].step(&test)) continue;
        error = -EIO;
        snprintf(why, why_bytes, "io_uring failed its self-test (%s)", steps[i].failure);
    }
    ring_close(test.ring);
    if (test.listener >= 0) close(test.listener);
    if (test.client >= 0) close(test.client);
    if (test.server >= 0) close(test.server);
    return error;
}
