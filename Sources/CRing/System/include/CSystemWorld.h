/*
 * A world that answers system calls instead of the kernel: how the simulator runs whole processes on virtual time.
 *
 * Only builds with SIMULATION carry the question whether there is one: debug builds, and the simulator's own. A release calls the
 * kernel, and nothing else. Each call means what its namesake in CSystem.h means.
 */
#ifndef CSYSTEM_WORLD_H
#define CSYSTEM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "CSystem.h"

typedef enum { SYSTEM_WATCH_SIGNALS, SYSTEM_WATCH_WAKING, SYSTEM_WATCH_FILES } system_watch_kind;
typedef enum { SYSTEM_QUEUED_UNACKNOWLEDGED, SYSTEM_QUEUED_UNSENT, SYSTEM_QUEUED_UNREAD } system_queued_kind;

typedef struct {
    void *context;             /* Given back with each call. */
    uint64_t (*now)(void *context);
    uint64_t (*slept)(void *context);
    void     (*sleep)(void *context, uint64_t nanoseconds);
    void     (*random)(void *context, void *memory, size_t count);
    size_t   (*descriptor_limit)(void *context);
    size_t   (*descriptor_count)(void *context);
    int      (*socket)(void *context, int family, int kind, int protocol);
    int      (*bind)(void *context, int fd, const struct sockaddr *address, socklen_t length);
    int      (*listen)(void *context, int fd, int backlog);
    int      (*connect)(void *context, int fd, const struct sockaddr *address, socklen_t length);
    int      (*accept)(void *context, int listener);
    int      (*shutdown)(void *context, int fd, int how);
    int      (*set_option)(void *context, int fd, int level, int option, const void *value, socklen_t length);
    int      (*get_option)(void *context, int fd, int level, int option, void *value, socklen_t *length);
    int      (*local_name)(void *context, int fd, struct sockaddr *address, socklen_t *length);
    int      (*peer_name)(void *context, int fd, struct sockaddr *address, socklen_t *length);
    size_t   (*interfaces)(void *context, int family, system_interface *interfaces, size_t capacity);
    void     (*close)(void *context, int fd);
    /* How many addresses (IPv4, network order) the host has, or an EAI code, which is below zero. */
    int      (*look_up)(void *context, const char *host, uint32_t *addresses, size_t capacity);
    int      (*queued)(void *context, int fd, system_queued_kind kind);
    bool     (*has_failed)(void *context, int fd);
    int      (*watch)(void *context, system_watch_kind kind);
    uint32_t (*take_signal)(void *context, int fd);
    void     (*quiet)(void *context, int fd);   /* What a watch had to tell was taken. */
    int      (*pipe)(void *context, int ends[2], int bytes);
    int      (*sink)(void *context);
    ssize_t  (*splice)(void *context, int from, int to, size_t count, int more);
    ssize_t  (*tee)(void *context, int from, int to, size_t count);
    ssize_t  (*read)(void *context, int fd, void *memory, size_t count);
    ssize_t  (*write)(void *context, int fd, const void *bytes, size_t count);
    ssize_t  (*send)(void *context, int fd, const struct iovec *iovecs, size_t count);
} system_world;

/* The calling thread lives in this world from now on; NULL: in the kernel's. The world outlives its thread's calls. False: this build
 * has no such question. */
bool system_simulate(const system_world *world);

#endif
