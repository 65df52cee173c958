// The load: one process as origin (origin.c), one as user. It speaks plain TCP and knows nothing of what lies
// between. Every result is one line of JSON on stdout; every surprise (a byte missing, a connection refused)
// ends the process with a sentence and status 1, so that a wrong answer is never a fast one.
//
//   load origin                              prints its port, serves until killed
//   load stream PORT COUNT SECONDS up|down   bulk data on COUNT connections at once
//   load ping PORT SECONDS                   one byte there and back
//   load connect PORT COUNT SECONDS          connect, request, answer, close; COUNT at a time
//   load idle PORT COUNT                     opens COUNT, prints, holds them until stdin ends
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "load.h"

char block[BLOCK_BYTES];

void fail(const char *what) {
    fprintf(stderr, "load: error: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static _Noreturn void wrong(const char *what) {
    fprintf(stderr, "load: error: %s\n", what);
    exit(1);
}

int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
         + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void send_at_once(int socket) {
    int on = 1;
    if (setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) fail("TCP_NODELAY");
}

void watch(int poll, int socket, uint32_t events, void *owner) {
    struct epoll_event event = {.events = events, .data.ptr = owner};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event) < 0) fail("epoll_ctl add");
}

void rewatch(int poll, int socket, uint32_t events, void *owner) {
    struct epoll_event event = {.events = events, .data.ptr = owner};
    if (epoll_ctl(poll, EPOLL_CTL_MOD, socket, &event) < 0) fail("epoll_ctl mod");
}

static int new_poll_set(void) {
    int poll = epoll_create1(EPOLL_CLOEXEC);
    if (poll < 0) fail("epoll_create1");
    return poll;
}

static void *new_table(size_t count, size_t size) {
    void *table = calloc(count, size);
    if (!table) fail("out of memory");
    return table;
}

static void begin_connect(int socket, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(socket, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail("cannot connect");
}

static int new_socket(int flags) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0) fail("cannot open a socket");
    send_at_once(fd);
    return fd;
}

static void send_whole(int socket, const void *bytes, size_t count) {
    if (send(socket, bytes, count, MSG_NOSIGNAL) != (ssize_t)count) fail("cannot send");
}

// MARK: stream

struct flow {
    int socket;
    uint64_t count;     // payload bytes sent (up) or received, the final count included (down)
    char tail[8];       // the last bytes received: in the end, the other side's count
    uint64_t received;  // bytes received in all
    int finished;       // up: our FIN is on its way, only the count is awaited
};

// Reads once. False when the other side's FIN has arrived.
static int take(struct flow *flow) {
    ssize_t got = recv(flow->socket, block, sizeof block, 0);
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) return 1;
        fail("a stream was cut");
    }
    if (got == 0) return 0;
    size_t keep = got < 8 ? (size_t)got : 8;
    memmove(flow->tail, flow->tail + keep, 8 - keep);
    memcpy(flow->tail + 8 - keep, block + got - keep, keep);
    flow->received += (uint64_t)got;
    return 1;
}

static void push(struct flow *flow, int poll, int64_t deadline) {
    if (nanoseconds() < deadline) {
        ssize_t sent = send(flow->socket, block, sizeof block, MSG_NOSIGNAL);
        if (sent >= 0) flow->count += (uint64_t)sent;
        else if (errno != EAGAIN && errno != EINTR) fail("a stream was cut");
        return;
    }
    if (shutdown(flow->socket, SHUT_WR) < 0) fail("cannot send FIN");
    flow->finished = 1;
    rewatch(poll, flow->socket, EPOLLIN, flow);
}

// The time ends when the far end holds the last byte and has said so: what merely waits in somebody's
// buffer has not been carried yet.
static void stream(int port, int count, double seconds, int up) {
    int poll = new_poll_set();
    struct flow *flows = new_table((size_t)count, sizeof *flows);
    uint32_t milliseconds = (uint32_t)(seconds * 1000);
    for (int i = 0; i < count; i++) {
        char head[5] = {up ? SINK : SOURCE};
        memcpy(head + 1, &milliseconds, 4);
        flows[i].socket = new_socket(0);
        begin_connect(flows[i].socket, port);
        send_whole(flows[i].socket, head, up ? 1 : 5);
        if (fcntl(flows[i].socket, F_SETFL, O_NONBLOCK) < 0) fail("O_NONBLOCK");
        watch(poll, flows[i].socket, up ? EPOLLOUT : EPOLLIN, &flows[i]);
    }

    int64_t start = nanoseconds(), deadline = start + (int64_t)(seconds * 1e9);
    for (int open = count; open > 0;) {
        struct epoll_event events[64];
        int ready = epoll_wait(poll, events, 64, -1);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct flow *flow = events[i].data.ptr;
            if (up && !flow->finished) { push(flow, poll, deadline); continue; }
            if (take(flow)) continue;
            uint64_t told;
            memcpy(&told, flow->tail, sizeof told);
            if (!up && flow->received >= 8) flow->count = flow->received - 8;
            if ((up && flow->received != 8) || told != flow->count)
                wrong("bytes are missing at the end of a stream");
            close(flow->socket);
            open--;
        }
    }
    double elapsed = (double)(nanoseconds() - start) / 1e9;

    uint64_t total = 0, least = UINT64_MAX, most = 0;
    for (int i = 0; i < count; i++) {
        total += flows[i].count;
        if (flows[i].count < least) least = flows[i].count;
        if (flows[i].count > most) most = flows[i].count;
    }
    printf("{\"bytes\": %llu, \"seconds\": %.6f, \"least\": %llu, \"most\": %llu, \"cpu\": %.4f}\n",
           (unsigned long long)total, elapsed, (unsigned long long)least, (unsigned long long)most,
           cpu_seconds());
}

// MARK: ping

static int ascending(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static void ping(int port, double seconds) {
    enum { SAMPLES_MAXIMUM = 8 << 20 };
    uint32_t *samples = new_table(SAMPLES_MAXIMUM, sizeof *samples);
    size_t count = 0;
    int fd = new_socket(0);
    begin_connect(fd, port);
    char byte = ECHO;
    send_whole(fd, &byte, 1);
    int64_t start = nanoseconds(), deadline = start + (int64_t)(seconds * 1e9), now = start;
    while (now < deadline && count < SAMPLES_MAXIMUM) {
        int64_t sent = now;
        send_whole(fd, &byte, 1);
        if (recv(fd, &byte, 1, 0) != 1) fail("an echo is missing");
        now = nanoseconds();
        samples[count++] = (uint32_t)(now - sent);
    }
    qsort(samples, count, sizeof *samples, ascending);
    printf("{\"count\": %zu, \"seconds\": %.6f, \"p50\": %u, \"p99\": %u, \"p999\": %u, "
           "\"most\": %u, \"cpu\": %.4f}\n",
           count, (double)(now - start) / 1e9, samples[count / 2], samples[count * 99 / 100],
           samples[count * 999 / 1000], samples[count - 1], cpu_seconds());
}

// MARK: connect

struct errand {
    int socket;
    uint32_t received;
    int asked;
};

static void begin_errand(struct errand *errand, int poll, int port) {
    *errand = (struct errand){.socket = new_socket(SOCK_NONBLOCK)};
    begin_connect(errand->socket, port);
    watch(poll, errand->socket, EPOLLOUT, errand);
}

// True when the whole answer and its end have arrived.
static int advance(struct errand *errand, int poll) {
    if (!errand->asked) {
        char request[REQUEST_BYTES] = {ANSWER};
        send_whole(errand->socket, request, sizeof request);
        errand->asked = 1;
        rewatch(poll, errand->socket, EPOLLIN, errand);
        return 0;
    }
    ssize_t got = recv(errand->socket, block, sizeof block, 0);
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) return 0;
        fail("a short connection was cut");
    }
    errand->received += (uint32_t)got;
    if (got > 0) return 0;
    if (errand->received != ANSWER_BYTES) wrong("an answer is not whole");
    close(errand->socket);
    return 1;
}

static void connect_often(int port, int count, double seconds) {
    int poll = new_poll_set();
    struct errand *errands = new_table((size_t)count, sizeof *errands);
    int64_t start = nanoseconds(), deadline = start + (int64_t)(seconds * 1e9);
    for (int i = 0; i < count; i++) begin_errand(&errands[i], poll, port);
    unsigned long done = 0;
    for (int open = count; open > 0;) {
        struct epoll_event events[64];
        int ready = epoll_wait(poll, events, 64, -1);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct errand *errand = events[i].data.ptr;
            if (!advance(errand, poll)) continue;
            done++;
            if (nanoseconds() < deadline) begin_errand(errand, poll, port);
            else open--;
        }
    }
    printf("{\"count\": %lu, \"seconds\": %.6f, \"cpu\": %.4f}\n",
           done, (double)(nanoseconds() - start) / 1e9, cpu_seconds());
}

// MARK: idle

// One source address has some 28 000 ports towards one listener: take the next one in good time.
static void spread(int socket, int index) {
    enum { PER_ADDRESS = 20000 };
    int later = 1;
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(index / PER_ADDRESS))};
    if (setsockopt(socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &later, sizeof later) < 0
        || bind(socket, (struct sockaddr *)&from, sizeof from) < 0) fail("cannot bind a source address");
}

// Each connection carries one byte there and back before it falls silent: it is open from end to end, and
// whatever a relay allocates on first use has been allocated.
static void idle(int port, int count) {
    enum { AT_ONCE = 64 };
    int *sockets = new_table((size_t)count, sizeof *sockets);
    int64_t start = nanoseconds();
    for (int first = 0; first < count; first += AT_ONCE) {
        int end = first + AT_ONCE < count ? first + AT_ONCE : count;
        const char hello[2] = {ECHO, 'x'};
        for (int i = first; i < end; i++) {
            sockets[i] = new_socket(0);
            spread(sockets[i], i);
            begin_connect(sockets[i], port);
            send_whole(sockets[i], hello, sizeof hello);
        }
        char byte;
        for (int i = first; i < end; i++)
            if (recv(sockets[i], &byte, 1, 0) != 1 || byte != 'x') fail("an idle connection did not open");
    }
    printf("{\"count\": %d, \"seconds\": %.6f}\n", count, (double)(nanoseconds() - start) / 1e9);
    fflush(stdout);
    while (read(STDIN_FILENO, block, sizeof block) > 0) {}
    // Nobody may have been dropped while nothing happened.
    for (int i = 0; i < count; i++)
        if (recv(sockets[i], block, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN)
            wrong("an idle connection was lost");
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "origin") && count == 2) serve_origin();
    else if (!strcmp(what, "stream") && count == 6)
        stream(atoi(words[2]), atoi(words[3]), atof(words[4]), !strcmp(words[5], "up"));
    else if (!strcmp(what, "ping") && count == 4) ping(atoi(words[2]), atof(words[3]));
    else if (!strcmp(what, "connect") && count == 5)
        connect_often(atoi(words[2]), atoi(words[3]), atof(words[4]));
    else if (!strcmp(what, "idle") && count == 4) idle(atoi(words[2]), atoi(words[3]));
    else {
        fputs("usage: load origin | stream PORT COUNT SECONDS up|down | ping PORT SECONDS | "
              "connect PORT COUNT SECONDS | idle PORT COUNT\n", stderr);
        return 64;
    }
    return 0;
}
