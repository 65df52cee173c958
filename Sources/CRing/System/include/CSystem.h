/* Kernel calls and constants that the Swift overlay of the C library lacks. */
#ifndef CSYSTEM_H
#define CSYSTEM_H

#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* A non-blocking, close-on-exec descriptor that delivers the signals of `set`, or -1 with errno. */
static inline int system_signalfd(const sigset_t *set) { return signalfd(-1, set, SFD_NONBLOCK | SFD_CLOEXEC); }

/* The next signal number, or 0 when none waits. */
static inline uint32_t system_take_signal(int fd) {
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == (ssize_t)sizeof info ? info.ssi_signo : 0;
}

/* A new non-blocking, close-on-exec socket, or -1 with errno. */
static inline int system_socket(int family, int kind, int protocol) {
    return socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
}

/* A non-blocking, close-on-exec descriptor that becomes readable when the wall clock jumps, as it does when the machine wakes, or -1
 * with errno; and again, after it did. */
int system_wake_watch(void);
void system_rearm_wake_watch(int fd);

/* A non-blocking, close-on-exec inotify descriptor, or -1 with errno. */
int system_file_events(void);
/* What is written, made, moved or removed in the folder is told from now on. A folder that is not there is not watched. */
void system_watch_folder(int fd, const char *path);

/* The words that this process was started with, its own name first; they live as long as it does. NULL beyond them. */
int system_argument_count(void);
const char *system_argument(int index);

/* A non-blocking, close-on-exec pipe that holds `bytes` in whole pages: 0, or -errno; -EPERM: this user has too much of
 * them. */
int system_pipe(int ends[2], int bytes);
/* Moves bytes between a pipe and a socket, or another end, by reference where the kernel can. `more`: they are not the
 * last. How many; 0: the end; below zero: -errno. */
ssize_t system_splice(int from, int to, size_t count, int more);
/* The bytes at the head of a pipe are in the other one, too. */
ssize_t system_tee(int from, int to, size_t count);
/* read(2) and write(2), again when interrupted. Bytes, or -errno. */
ssize_t system_read(int fd, void *memory, size_t count);
ssize_t system_write(int fd, const void *bytes, size_t count);
/* Sends without waiting, and says that more follows at once. Bytes taken, or -errno. */
ssize_t system_send_more(int fd, const struct iovec *iovecs, size_t count);
/* The next connection of a non-blocking listener: a non-blocking, close-on-exec descriptor, or -errno. */
int system_accept(int listener);
/* Bytes of a TCP socket that its peer has not acknowledged, or -errno. */
int system_unacknowledged(int fd);
/* Bytes that a TCP socket was given and has not sent, or -errno. */
int system_unsent(int fd);
/* Bytes that have arrived and were not received, or -errno. */
int system_unread(int fd);
/* No program that this process starts has more privileges than it. 0 or -errno. */
int system_no_new_privileges(void);
/* No core file, and no other process of this user reads its memory. 0 or -errno. */
int system_forbid_dumps(void);

/* Code that only the start needs leaves this process's memory. What is needed again comes back by itself. */
void system_forget_start(void);

enum { SYSTEM_STREAM = SOCK_STREAM, SYSTEM_RAW = SOCK_RAW, SYSTEM_DATAGRAM = SOCK_DGRAM, SYSTEM_DONTWAIT = MSG_DONTWAIT };

#endif
