/*
 * The epoll driver. An operation is tried when ring_wait comes; what would block is parked in its
 * descriptor's row, and an event tries it again. Descriptors are registered once, edge-triggered, when the
 * first operation parks: adding reports what is ready already, so no edge is lost between the try and the
 * registration.
 */
#include "ring_internal.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENT_BATCH = 512 };

#define WOULD_BLOCK INT32_MIN
#define LOG_IS_FULL (INT32_MIN + 1)

typedef struct {
    int                fd;
    operation_list     queued;         /* To be tried with the next turn, in the order of the verbs. */
    bool               milliseconds;   /* The kernel lacks epoll_pwait2 (5.11). */
    struct epoll_event events[EVENT_BATCH];
} epoll_driver;

static int epoll_open(ring *ring, const ring_options *options) {
    (void)options;
    epoll_driver *state = calloc(1, sizeof *state);
    if (!state) return -ENOMEM;
    state->queued = (operation_list){ RING_NONE, RING_NONE };
    state->fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN, .data.fd = ring->wake_fd };
    if (state->fd < 0 || epoll_ctl(state->fd, EPOLL_CTL_ADD, ring->wake_fd, &event) < 0) {
        int error = -errno;
        if (state->fd >= 0) close(state->fd);
        free(state);
        return error;
    }
    ring->state = state;
    return 0;
}

static void epoll_close(ring *ring) {
    epoll_driver *state = ring->state;
    close(state->fd);
    free(state);
}

/* Trying */

static int32_t try_accept(const operation *operation) {
    for (;;) {
        int fd = accept4(operation->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) return fd;
        if (errno == EAGAIN) return WOULD_BLOCK;
        if (errno != EINTR && errno != ECONNABORTED) return -errno;
    }
}

static int32_t begin_connect(const operation *operation) {
    const struct sockaddr *address = (const struct sockaddr *)&operation->message->address;
    if (connect(operation->fd, address, operation->bytes) == 0) return 0;
    return errno == EINPROGRESS || errno == EINTR ? WOULD_BLOCK : -errno;
}

static int32_t end_connect(const operation *operation) {
    struct pollfd state = { .fd = operation->fd, .events = POLLOUT };
    if (poll(&state, 1, 0) <= 0) return WOULD_BLOCK;
    return connect_outcome(operation->fd);
}

static int32_t moved(ssize_t count) {
    if (count >= 0) return (int32_t)count;
    return errno == EAGAIN ? WOULD_BLOCK : -errno;
}

static int32_t try_receive(int fd, void *memory, uint32_t bytes, int flags) {
    ssize_t count;
    do count = recv(fd, memory, bytes, flags | MSG_DONTWAIT); while (count < 0 && errno == EINTR);
    return moved(count);
}

static int32_t try_receive_pooled(ring *ring, operation *operation) {
    receive_pool *pool = &ring->pool;
    if (pool->free_count == 0) {
        char byte;
        int32_t result = try_receive(operation->fd, &byte, sizeof byte, MSG_PEEK);
        return result > 0 ? -ENOBUFS : result;
    }
    uint16_t buffer = pool->free_stack[pool->free_count - 1];
    int32_t result = try_receive(operation->fd, pool_at(pool, buffer), operation->bytes, 0);
    if (result > 0) {
        pool->free_count--;
        operation->buffer = buffer;
        operation->flags |= OPERATION_HAS_BUFFER;
    }
    return result;
}

static int32_t try_send(const operation *operation) {
    ssize_t count;
    do count = sendmsg(operation->fd, &operation->message->header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (count < 0 && errno == EINTR);
    int32_t result = moved(count);
    return result == WOULD_BLOCK && operation->flags & OPERATION_DONTWAIT ? -EAGAIN : result;
}

static int32_t try_poll(int fd, short wanted, short shown) {
    struct pollfd state = { .fd = fd, .events = wanted };
    if (poll(&state, 1, 0) < 0) return errno == EINTR ? WOULD_BLOCK : -errno;
    if (state.revents & POLLNVAL) return -EBADF;
    return state.revents & shown ? state.revents & shown : WOULD_BLOCK;
}

static int32_t try(ring *ring, operation *operation) {
    switch ((operation_kind)operation->kind) {
    case OPERATION_ACCEPT: return try_accept(operation);
    case OPERATION_CONNECT:
        return operation->flags & OPERATION_PARKED ? end_connect(operation) : begin_connect(operation);
    case OPERATION_RECEIVE: return try_receive(operation->fd, operation->memory, operation->bytes, 0);
    case OPERATION_RECEIVE_POOLED: return try_receive_pooled(ring, operation);
    case OPERATION_SEND: return try_send(operation);
    case OPERATION_READABLE: return try_poll(operation->fd, POLLIN, RING_READABLE_BITS);
    case OPERATION_WRITABLE: return try_poll(operation->fd, POLLOUT, RING_WRITABLE_BITS);
    default: return try_poll(operation->fd, 0, RING_HANGUP_BITS);
    }
}

/* In the log of a kept ring. */
static inline int32_t try_noted(ring *ring, uint32_t slot) {
    if (!ring->table.trace) return try(ring, table_at(&ring->table, slot));
    log_entry *entry = log_begin(ring, slot);
    if (!entry) return LOG_IS_FULL;
    int32_t result = try(ring, table_at(&ring->table, slot));
    log_end(ring, entry, result, result == WOULD_BLOCK);
    return result;
}

/* Parking */

static int register_descriptor(ring *ring, int fd) {
    epoll_driver *state = ring->state;
    descriptor *row = &ring->table.descriptors[fd];
    if (row->registered) return 0;
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd };
    if (epoll_ctl(state->fd, EPOLL_CTL_ADD, fd, &event) < 0) return -errno;
    row->registered = true;
    return 0;
}

/* Finished operations hold all buffers: the next turn tries again, in the same order, so that nobody is passed over. */
static bool put_off(ring *ring, uint32_t slot) {
    operation *operation = table_at(&ring->table, slot);
    if (operation->kind != OPERATION_RECEIVE_POOLED || operation->flags & OPERATION_CANCELLING) return false;
    if (ring->pool.free_count > 0 || ring->ready.head == RING_NONE) return false;
    epoll_driver *state = ring->state;
    operation->flags &= ~OPERATION_PARKED;
    list_append(&ring->table, &state->queued, slot);
    ring->is_hurried = true;
    return true;
}

static void first_try(ring *ring, uint32_t slot) {
    if (put_off(ring, slot)) return;
    operation *operation = table_at(&ring->table, slot);
    int32_t result = try_noted(ring, slot);
    if (result == LOG_IS_FULL) {
        epoll_driver *state = ring->state;
        ring->is_hurried = true;
        return list_append(&ring->table, &state->queued, slot);
    }
    if (operation->flags & OPERATION_CANCELLING && (result == WOULD_BLOCK || result == -ENOBUFS)) result = -ECANCELED;
    if (result == WOULD_BLOCK) {
        operation->flags |= OPERATION_PARKED;
        result = register_descriptor(ring, operation->fd);
        if (result == 0) return;
    }
    operation_finish(ring, slot, result);
}

static void try_parked(ring *ring, int fd, operation_direction direction) {
    uint32_t slot = ring->table.descriptors[fd].slots[direction];
    if (slot == RING_NONE || !(table_at(&ring->table, slot)->flags & OPERATION_PARKED)) return;
    if (put_off(ring, slot)) return;
    int32_t result = try_noted(ring, slot);
    if (result == LOG_IS_FULL) {
        epoll_driver *state = ring->state;
        ring->is_hurried = true;
        table_at(&ring->table, slot)->flags &= (uint8_t)~OPERATION_PARKED;
        return list_append(&ring->table, &state->queued, slot);
    }
    if (result != WOULD_BLOCK) operation_finish(ring, slot, result);
}

static void handle_event(ring *ring, const struct epoll_event *event) {
    static const uint32_t gone = EPOLLERR | EPOLLHUP;
    int fd = event->data.fd;
    if (fd == ring->wake_fd) {
        ring_take_wake(ring);
        return;
    }
    if (event->events & (EPOLLIN | EPOLLRDHUP | gone)) try_parked(ring, fd, DIRECTION_READING);
    if (event->events & (EPOLLOUT | gone)) try_parked(ring, fd, DIRECTION_WRITING);
    if (event->events & gone) try_parked(ring, fd, DIRECTION_WATCHING);
}

/* The calls of the front */

static int epoll_queue(ring *ring, uint32_t slot) {
    epoll_driver *state = ring->state;
    list_append(&ring->table, &state->queued, slot);
    return 0;
}

static int epoll_cancel(ring *ring, uint32_t slot) {
    operation *operation = table_at(&ring->table, slot);
    if (operation->flags & OPERATION_PARKED) operation_finish(ring, slot, -ECANCELED);
    else operation->flags |= OPERATION_CANCELLING;
    return 0;
}

static void epoll_forget(ring *ring, int fd) {
    epoll_driver *state = ring->state;
    descriptor *row = &ring->table.descriptors[fd];
    if (!row->registered) return;
    /* close(2) alone leaves the registration behind when the socket lives on in a forked child. */
    epoll_ctl(state->fd, EPOLL_CTL_DEL, fd, NULL);
    row->registered = false;
}

static int wait_for_events(epoll_driver *state, int64_t timeout) {
    if (!state->milliseconds) {
        struct timespec limit = { .tv_sec = timeout / 1000000000, .tv_nsec = timeout % 1000000000 };
        int count = epoll_pwait2(state->fd, state->events, EVENT_BATCH, timeout < 0 ? NULL : &limit, NULL);
        /* Old sandboxes answer a call that they do not know with EPERM. */
        if (count >= 0 || (errno != ENOSYS && errno != EPERM)) return count;
        state->milliseconds = true;
    }
    int64_t milliseconds = timeout < 0 ? -1 : timeout / 1000000 + (timeout % 1000000 != 0);
    int most = milliseconds < INT_MAX ? (int)milliseconds : INT_MAX;
    return epoll_wait(state->fd, state->events, EVENT_BATCH, most);
}

static int epoll_turn(ring *ring, int64_t timeout) {
    epoll_driver *state = ring->state;
    operation_list queued = state->queued;
    state->queued = (operation_list){ RING_NONE, RING_NONE };
    uint32_t slot;
    while ((slot = list_take(&ring->table, &queued)) != RING_NONE) first_try(ring, slot);
    if (ring->is_hurried) timeout = 0;
    else if (ring->ready.head != RING_NONE) timeout = unhurried_timeout(timeout);
    int count = wait_for_events(state, timeout);
    if (count < 0) return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < count; i++) handle_event(ring, &state->events[i]);
    return 0;
}

static bool epoll_has_queued(const ring *ring) { return ((const epoll_driver *)ring->state)->queued.head != RING_NONE; }

static void epoll_pool_return(ring *ring, uint16_t buffer) {
    ring->pool.free_stack[ring->pool.free_count++] = buffer;
}

const ring_driver_calls ring_epoll_calls = {
    .open = epoll_open, .close = epoll_close, .queue = epoll_queue, .cancel = epoll_cancel,
    .forget = epoll_forget, .turn = epoll_turn, .pool_return = epoll_pool_return, .has_queued = epoll_has_queued,
};
