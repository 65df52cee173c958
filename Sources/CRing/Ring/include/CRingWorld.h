/*
 * The third driver, for simulations: a world answers instead of the kernel, on virtual time and from a seed. Only builds with SIMULATION
 * carry it.
 *
 * The driver tries an operation when ring_wait comes, and parks what would block, as the epoll driver does; the world says which
 * descriptors to try again. It never waits: the world runs a process when there is something to do for it.
 */
#ifndef CRING_WORLD_H
#define CRING_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Each returns what the system call of its name returns, or -errno: -EAGAIN when it would block. */
typedef struct {
    void *context;             /* Given back with each call. */
    /* An operation is queued: the process wants to run again, even if nothing is ready. Or -ENOMEM: the ring has no room. */
    int     (*queued)(void *context);
    int     (*accept)(void *context, int listener);
    /* 0, -EINPROGRESS or -errno, and later, when the descriptor is ready, the same of `connected`. */
    int     (*connect)(void *context, int fd, const struct sockaddr *address, socklen_t length);
    int     (*connected)(void *context, int fd);
    /* `memory` NULL: whether there is something to receive. */
    ssize_t (*receive)(void *context, int fd, void *memory, size_t count);
    ssize_t (*send)(void *context, int fd, const struct iovec *iovecs, size_t count);
    int     (*poll)(void *context, int fd, int events);
    /* Whether completions that are not hurried wait for the next turn, which comes within 20 ms. */
    bool    (*holds_back)(void *context);
    /* Takes the descriptors that may be ready since the last call; how many. */
    size_t  (*take_ready)(void *context, int *descriptors, size_t capacity);
    /* Whether an operation that is cancelled now ends with what it had done, if it can. */
    bool    (*cancel_comes_late)(void *context);
    /* Whether the process died in the call that it made last: nothing of it notes what the call came to. */
    bool    (*died_in_call)(void *context);
} ring_world;

/* Rings that the calling thread opens from now on live in this world; NULL: in the kernel's. The world outlives them. False: this build
 * has no such driver. */
bool ring_simulate(const ring_world *world);

#endif
