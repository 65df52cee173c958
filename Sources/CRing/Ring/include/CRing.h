/*
 * The completion ring: one vocabulary of socket operations over two drivers, io_uring and epoll.
 *
 * Operations are queued by the ring_… verbs, handed to the kernel by ring_wait, and come back from
 * ring_wait as completions, each exactly once, in any order. The ring knows descriptors, memory and
 * tokens; it knows nothing of what they mean. One thread owns a ring, from its first verb or wait to ring_close (which
 * thread opens it does not matter); only ring_wake may be called from another.
 *
 * Rules for the caller (the same for both drivers):
 *  - At most one operation of each direction is in flight per descriptor: one reading (accept, receive, pooled
 *    receive, readable), one writing (connect, send, writable), one hang-up watch.
 *  - Memory given to an operation stays valid until its completion. Iovec arrays and addresses are copied.
 *  - Descriptors are non-blocking. Before close(2), ring_cancel the descriptor and wait until every operation on it
 *    has completed; then ring_forget it.
 */
#ifndef CRING_H
#define CRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

typedef struct ring ring;

typedef enum { RING_DRIVER_AUTO = 0, RING_DRIVER_URING = 1, RING_DRIVER_EPOLL = 2 } ring_driver;

typedef struct {
    ring_driver driver;        /* AUTO: io_uring if it is allowed and passes its self-test, else epoll. */
    uint32_t    entries;       /* Length of the submission queue, a power of two, 64…4096. */
    uint32_t    pool_count;    /* Buffers of the shared receive pool, a power of two, 16…32768. */
    uint32_t    pool_bytes;    /* Size of each, 512…65536. */
} ring_options;

enum {
    RING_COMPLETION_BUFFER = 1 /* `buffer` names a pool buffer that the caller must return. */
};

typedef struct {
    uint64_t token;            /* As given at submission. */
    int32_t  result;           /* Bytes moved, the accepted descriptor, poll bits or 0; below zero: -errno. */
    uint16_t buffer;           /* Pool buffer, when flags say so. */
    uint16_t flags;
} ring_completion;

enum { RING_IOVECS_MAXIMUM = 256 };   /* Per send. */

/* Opens a ring. 0, or -errno. With AUTO never fails for lack of io_uring; `why` (may be NULL) then receives one
 * sentence that says why epoll was taken, else the empty string. */
int  ring_open(ring **ring_out, const ring_options *options, char *why, size_t why_bytes);
/* The same for a process that may die at any instruction (docs/internals/outliving.md): what ended since its last commit is
 * told to its successor. `keep` gives memory that the successor can read. */
typedef void *ring_keeper(void *context, size_t bytes);
int  ring_open_kept(ring **ring_out, const ring_options *options, ring_keeper *keep, void *context, char *why, size_t why_bytes);
/* Ends the ring and everything in flight; completions are not delivered. Descriptors stay open. */
void ring_close(ring *ring);
ring_driver ring_driver_in_use(const ring *ring);

/* Each returns 0, or -errno when the operation could not be queued (-ENOMEM, -EINVAL); then no completion comes. */
int ring_accept(ring *ring, int listener, uint64_t token);          /* result: non-blocking, close-on-exec descriptor */
int ring_connect(ring *ring, int fd, const struct sockaddr *address, socklen_t length, uint64_t token);
int ring_receive(ring *ring, int fd, void *memory, size_t bytes, uint64_t token);
/* Receives into a buffer picked from the pool only when data is there, so an idle socket holds no memory.
 * While completions that were not taken yet hold all buffers it waits its turn, first come, first served. -ENOBUFS:
 * the caller holds them all; try again when some have been returned. End of stream and errors carry no buffer. */
int ring_receive_pooled(ring *ring, int fd, uint64_t token);
/* Sends what fits, possibly short; never raises SIGPIPE. `flags`: 0, MSG_DONTWAIT (then -EAGAIN may be the result), or RING_UNHURRIED. */
/* Nobody waits to hear that all was sent: that completion may come with the next one, or 20 ms later. A short send and a failure are told at
 * once. */
enum { RING_UNHURRIED = 1 << 30 };
/* With RING_UNHURRIED, of a kept ring: its successor need not be told what was sent. */
enum { RING_FORGOTTEN = 1 << 29 };
int ring_send(ring *ring, int fd, const struct iovec *iovecs, unsigned count, int flags, uint64_t token);
/* Each completes once, with poll bits: for what the ring does not move itself (signals, netlink, pipes). */
int ring_readable(ring *ring, int fd, uint64_t token);
int ring_writable(ring *ring, int fd, uint64_t token);
/* Completes when the socket has an error or both its directions are shut (POLLERR, POLLHUP). */
int ring_watch_hangup(ring *ring, int fd, uint64_t token);
/* Asks every operation on the descriptor to end; each completes, with -ECANCELED or with what it had done. */
int ring_cancel(ring *ring, int fd);
/* The descriptor has nothing in flight and is about to be closed: drop what is remembered of it. */
void ring_forget(ring *ring, int fd);

const void *ring_pool_bytes(const ring *ring, uint16_t buffer);
void ring_pool_return(ring *ring, uint16_t buffer);

/* Submits what is queued, waits until something completed, ring_wake was called or the time-out passed, and returns the
 * number of completions written (0…capacity), or -errno. `timeout` in nanoseconds; below zero: none; 0: do not wait.
 * Completions that do not fit are kept for the next call. */
int ring_wait(ring *ring, int64_t timeout, ring_completion *completions, unsigned capacity);
/* Makes the current or next ring_wait return. Any thread, also in a signal handler. */
void ring_wake(ring *ring);

/* Operations that were handed over and have not completed. */
size_t ring_in_flight(const ring *ring);

/* Of a kept ring: where its trace lies; and the mark of all completions that ring_wait has handed out. The caller commits the
 * mark together with what it made of them, and then says so. Until then a successor is told of them, pool buffers are not
 * filled again, and no operation begins. */
uint64_t ring_trace_of(const ring *ring);
uint32_t ring_mark(const ring *ring);
void ring_committed(ring *ring);
/* Whether it waits for the next commit: an operation that is to begin, or room for what completes. Otherwise a commit may wait: what a successor
 * would not find in the last one, it is told by the completions since. */
bool ring_awaits_commit(const ring *ring);

/* An operation that ended, of which no commit says so. */
typedef struct {
    uint64_t token;
    uint64_t memory;           /* Where the bytes lie that a receive brought: an address in the process that died. */
    int32_t  fd;
    int32_t  result;           /* As in a completion; RING_UNKNOWN: begun, perhaps done, by a process that died in the call. */
    uint32_t kind;             /* A ring_ended_kind. */
} ring_ended;
enum { RING_UNKNOWN = INT32_MIN };
typedef enum { RING_ENDED_OTHER = 0, RING_ENDED_ACCEPT, RING_ENDED_RECEIVE, RING_ENDED_SEND } ring_ended_kind;
/* So many bytes at an address in the process that died, or NULL. */
typedef const void *ring_finder(void *context, uint64_t address, size_t bytes);
/* Calls `tell` for each, oldest first. `trace`, `mark`: of the dead process, whose descriptors are this one's. 0 or -errno: what
 * ended cannot be known. */
int ring_ended_since(uint64_t trace, uint32_t mark, ring_finder *find, void *context,
                     void (*tell)(void *context, const ring_ended *ended));

#endif
