/*
 * The hang-up watches of the io_uring driver: a small epoll set that the ring polls. POLL_ADD itself would
 * not do: it always reports POLLRDHUP, too (io_uring/poll.c, IO_POLL_UNMASK), so after a half-close it would
 * complete at once, for ever. An epoll set reports errors and hang-ups unasked, and the half-close only on
 * request.
 */
#include "ring_internal.h"

#include <poll.h>
#include <sys/epoll.h>

enum { WATCH_BATCH = 64 };

int hangup_watch(ring *ring, int *set, uint32_t slot) {
    if (*set < 0) *set = epoll_create1(EPOLL_CLOEXEC);
    if (*set < 0) return -errno;
    struct epoll_event event = { .events = EPOLLONESHOT, .data.u64 = operation_name(ring, slot) };
    if (epoll_ctl(*set, EPOLL_CTL_ADD, table_at(&ring->table, slot)->fd, &event) < 0) {
        operation_finish(ring, slot, -errno);
    }
    return 0;
}

void hangup_unwatch(int set, int fd) {
    epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL);
}

void hangup_take(ring *ring, int set) {
    struct epoll_event events[WATCH_BATCH];
    int count;
    do {
        count = epoll_wait(set, events, WATCH_BATCH, 0);
        for (int i = 0; i < count; i++) {
            if (!operation_is_current(ring, events[i].data.u64)) continue;
            uint32_t slot = (uint32_t)events[i].data.u64;
            hangup_unwatch(set, table_at(&ring->table, slot)->fd);
            operation_finish(ring, slot, (int32_t)(events[i].events & RING_HANGUP_BITS));
        }
    } while (count == WATCH_BATCH);
}
