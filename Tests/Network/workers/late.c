/*
 * A long path in the middle: passes connections on to 127.0.0.1, each byte late by so much each way. (In C, because hundreds of
 * clients that come back at once must not wait for the path.)
 *
 *     late PORT TARGET SECONDS
 *
 * Prints on how many connections the client has said something, a line whenever that changes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 16, UNDER_WAY = 64 << 20 };

typedef struct end end;

/* Bytes on their way. None: the end of them. */
typedef struct piece {
    struct piece *next;
    int64_t due;
    end    *to;
    size_t  count, sent;
    uint8_t bytes[];
} piece;

/* One side of a connection. Kept until the program ends: pieces and events may name it. */
struct end {
    int    fd;
    bool   is_client, has_spoken;
    bool   is_read_out, is_shut;    /* No more bytes come from it; none go to it. */
    size_t under_way;               /* Bytes that came from it and have not left. */
    piece *first, *last;            /* Due, and not taken by its socket. */
    end   *other;
};

static int epoll, begun;
static uint32_t target;
static int64_t delay;
static piece *first, *last;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void watch(end *it, int operation) {
    uint32_t events = (it->is_read_out || it->under_way >= UNDER_WAY ? 0 : EPOLLIN) | (it->first ? EPOLLOUT : 0);
    epoll_ctl(epoll, operation, it->fd, &(struct epoll_event){ .events = events, .data.ptr = it });
}

/* Both sides end by a reset. Pieces that are on their way find no socket. */
static void end_both(end *it) {
    for (end *each = it; each; each = each == it ? it->other : NULL) {
        if (each->fd < 0) continue;
        setsockopt(each->fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
        close(each->fd);
        each->fd = -1;
    }
}

/* What is due leaves as far as the socket takes it. */
static void write_out(end *it) {
    while (it->first) {
        piece *head = it->first;
        if (it->fd >= 0 && !head->count) {
            shutdown(it->fd, SHUT_WR);
            it->is_shut = true;
        } else if (it->fd >= 0) {
            ssize_t count = send(it->fd, head->bytes + head->sent, head->count - head->sent, MSG_NOSIGNAL);
            if (count < 0 && errno == EAGAIN) break;
            if (count < 0) {
                end_both(it);
            } else {
                head->sent += count;
                if (head->sent < head->count) continue;
            }
        }
        it->other->under_way -= head->count;
        it->first = head->next;
        free(head);
    }
    if (it->fd >= 0 && it->is_shut && it->other->is_shut) {
        close(it->fd);
        close(it->other->fd);
        it->fd = it->other->fd = -1;
    }
    if (it->fd >= 0) watch(it, EPOLL_CTL_MOD);
    if (it->other->fd >= 0) watch(it->other, EPOLL_CTL_MOD);
}

static void read_in(end *it) {
    piece *new = malloc(sizeof(piece) + PIECE);
    ssize_t count = recv(it->fd, new->bytes, PIECE, 0);
    if (count < 0) {
        free(new);
        if (errno != EAGAIN) end_both(it);
        return;
    }
    if (!count && it->is_read_out) {
        free(new);
        return;
    }
    new = realloc(new, sizeof(piece) + count);
    *new = (piece){ .due = now_ns() + delay, .to = it->other, .count = count };
    it->under_way += count;
    it->is_read_out = !count;
    if (last) last->next = new; else first = new;
    last = new;
    watch(it, EPOLL_CTL_MOD);
    if (count && it->is_client && !it->has_spoken) {
        it->has_spoken = true;
        printf("%d\n", ++begun);
    }
}

static void take(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return;
    int far = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(target), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    end *client = calloc(1, sizeof(end)), *server = calloc(1, sizeof(end));
    *client = (end){ .fd = fd, .is_client = true, .other = server };
    *server = (end){ .fd = far, .other = client };
    if (far < 0 || connect(far, (struct sockaddr *)&address, sizeof address)) {
        end_both(client);
        return;
    }
    for (end *each = client; each; each = each == client ? server : NULL) {
        setsockopt(each->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
        fcntl(each->fd, F_SETFL, O_NONBLOCK);
        watch(each, EPOLL_CTL_ADD);
    }
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    target = atoi(arguments[2]);
    delay = (int64_t)(atof(arguments[3]) * 1e9);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdout, NULL, _IOLBF, 0);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])) };
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("late");
        return 1;
    }
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &(struct epoll_event){ .events = EPOLLIN, .data.ptr = NULL });

    for (;;) {
        struct epoll_event events[256];
        int64_t wait = first ? first->due - now_ns() : 1000000000;
        struct timespec most = { .tv_sec = wait > 0 ? wait / 1000000000 : 0, .tv_nsec = wait > 0 ? wait % 1000000000 : 0 };
        int ready = epoll_pwait2(epoll, events, 256, &most, NULL);
        for (int i = 0; i < ready; i++) {
            end *it = events[i].data.ptr;
            if (!it) take(listener);
            if (!it || it->fd < 0) continue;
            if (events[i].events & EPOLLOUT) write_out(it);
            if (it->fd >= 0 && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_in(it);
        }
        while (first && first->due <= now_ns()) {
            piece *head = first;
            first = head->next;
            if (!first) last = NULL;
            head->next = NULL;
            bool is_empty = !head->to->first;
            if (is_empty) head->to->first = head; else head->to->last->next = head;
            head->to->last = head;
            if (is_empty) write_out(head->to);
        }
    }
}
