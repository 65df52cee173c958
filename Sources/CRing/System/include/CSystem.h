/* Kernel calls and constants that the Swift overlay of the C library lacks. */
#ifndef CSYSTEM_H
#define CSYSTEM_H

#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
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

/* Bytes of a TCP socket that its peer has not acknowledged, or -errno. */
int system_unacknowledged(int fd);
/* No program that this process starts has more privileges than it. 0 or -errno. */
int system_no_new_privileges(void);
/* No core file, and no other process of this user reads its memory. 0 or -errno. */
int system_forbid_dumps(void);

enum { SYSTEM_STREAM = SOCK_STREAM, SYSTEM_RAW = SOCK_RAW, SYSTEM_DONTWAIT = MSG_DONTWAIT };

#endif
