// The origin: one thread, one epoll set, every kind of connection of load.h. It checks nothing but counts
// everything: the user's side compares.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "load.h"

struct peer {
    int socket;
    int mode;            // 0 until the first byte has arrived
    uint64_t count;      // payload bytes received (SINK, ANSWER) or sent (SOURCE)
    int64_t deadline;    // SOURCE: when to stop, in nanoseconds
    char head[5];        // SOURCE: mode and milliseconds, gathered here
    uint32_t head_count;
    uint32_t tail_count; // SOURCE: bytes of the final count already sent
};

static int poll_set;

static void drop(struct peer *peer) {
    close(peer->socket);
    free(peer);
}

// True when the call may be repeated later; otherwise the connection has failed and is gone.
static int must_wait(struct peer *peer) {
    if (errno == EAGAIN || errno == EINTR) return 1;
    drop(peer);
    return 0;
}

static void feed(struct peer *peer) {
    if (nanoseconds() < peer->deadline) {
        ssize_t sent = send(peer->socket, block, sizeof block, MSG_NOSIGNAL);
        if (sent < 0) { must_wait(peer); return; }
        peer->count += (uint64_t)sent;
        return;
    }
    ssize_t sent = send(peer->socket, (char *)&peer->count + peer->tail_count,
                        sizeof peer->count - peer->tail_count, MSG_NOSIGNAL);
    if (sent < 0) { must_wait(peer); return; }
    peer->tail_count += (uint32_t)sent;
    if (peer->tail_count == sizeof peer->count) drop(peer);
}

static void begin_feeding(struct peer *peer) {
    ssize_t got = recv(peer->socket, peer->head + peer->head_count, sizeof peer->head - peer->head_count, 0);
    if (got == 0) { drop(peer); return; }
    if (got < 0) { must_wait(peer); return; }
    peer->head_count += (uint32_t)got;
    if (peer->head_count < sizeof peer->head) return;
    uint32_t milliseconds;
    memcpy(&milliseconds, peer->head + 1, sizeof milliseconds);
    peer->deadline = nanoseconds() + milliseconds * 1000000LL;
    rewatch(poll_set, peer->socket, EPOLLOUT, peer);
}

static void sink(struct peer *peer) {
    ssize_t got = recv(peer->socket, block, sizeof block, 0);
    if (got < 0) { must_wait(peer); return; }
    peer->count += (uint64_t)got;
    if (got > 0) return;
    // Eight bytes always fit into an unused send buffer; a failure shows as a missing count at the user.
    uint64_t total = peer->count - 1; // the mode byte is no payload
    (void)!send(peer->socket, &total, sizeof total, MSG_NOSIGNAL);
    drop(peer);
}

static void echo(struct peer *peer) {
    ssize_t got = recv(peer->socket, block, 4096, 0);
    if (got == 0) { drop(peer); return; }
    if (got < 0) { must_wait(peer); return; }
    const char *from = block;
    if (peer->count == 0) { from++; got--; } // the mode byte
    peer->count = 1;
    if (got > 0 && send(peer->socket, from, (size_t)got, MSG_NOSIGNAL) != got) drop(peer);
}

static void answer(struct peer *peer) {
    ssize_t got = recv(peer->socket, block, REQUEST_BYTES, 0);
    if (got == 0) { drop(peer); return; }
    if (got < 0) { must_wait(peer); return; }
    peer->count += (uint64_t)got;
    if (peer->count < REQUEST_BYTES) return;
    (void)!send(peer->socket, block, ANSWER_BYTES, MSG_NOSIGNAL);
    drop(peer);
}

static void serve(struct peer *peer) {
    if (peer->mode == 0) {
        char mode;
        ssize_t got = recv(peer->socket, &mode, 1, MSG_PEEK);
        if (got == 0) { drop(peer); return; }
        if (got < 0) { must_wait(peer); return; }
        peer->mode = mode;
    }
    switch (peer->mode) {
    case SINK: sink(peer); return;
    case ECHO: echo(peer); return;
    case ANSWER: answer(peer); return;
    case SOURCE: peer->deadline ? feed(peer) : begin_feeding(peer); return;
    default: drop(peer); return;
    }
}

static void accept_all(int listener) {
    for (;;) {
        int socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket < 0) {
            if (errno == EAGAIN) return;
            if (errno == EINTR || errno == ECONNABORTED) continue;
            fail("the origin cannot accept");
        }
        send_at_once(socket);
        struct peer *peer = calloc(1, sizeof *peer);
        if (!peer) fail("the origin is out of memory");
        peer->socket = socket;
        watch(poll_set, socket, EPOLLIN, peer);
    }
}

void serve_origin(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0
        || listen(listener, 4096) < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        fail("the origin cannot listen");
    if ((poll_set = epoll_create1(EPOLL_CLOEXEC)) < 0) fail("epoll_create1");
    watch(poll_set, listener, EPOLLIN, NULL);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(poll_set, events, 64, -1);
        if (count < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr) serve(events[i].data.ptr);
            else accept_all(listener);
        }
    }
}
