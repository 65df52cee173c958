/* Kernel calls and constants that the Swift overlay of the C library lacks. */
#ifndef CSYSTEM_H
#define CSYSTEM_H

#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Blocks the signals of `set` for the calling thread and those that it starts, and ignores SIGPIPE. A non-blocking, close-on-exec
 * descriptor that delivers them, or -errno. */
int system_signalfd(const sigset_t *set);
/* The next signal number, or 0 when none waits. */
uint32_t system_take_signal(int fd);
/* From now on only those that this process sent, or the process itself; the signal `wrapped` stands for the one that is its value. */
void system_take_signals_of(pid_t process, int wrapped);

/* Nanoseconds since boot, also those in which the machine slept (CLOCK_BOOTTIME). */
uint64_t system_now(void);
/* Of these, the nanoseconds in which it slept; up to a scheduler's pause too many. */
uint64_t system_slept(void);
void system_sleep(uint64_t nanoseconds);
/* Fills at most 256 bytes with cryptographically secure random bytes (getentropy(3)). */
void system_random(void *memory, size_t count);

/* The limit on open descriptors, raised as far as this process may. */
size_t system_raise_descriptor_limit(void);
/* Open descriptors; 0 where /proc cannot be read. */
size_t system_descriptor_count(void);
/* Processors that this process may use, at least 1. */
unsigned system_core_count(void);

/* socket(2) and what follows it, as the manual pages have them, but for errors: -errno. A new socket is non-blocking and close-on-exec. */
int system_socket(int family, int kind, int protocol);
int system_bind(int fd, const struct sockaddr *address, socklen_t length);
int system_listen(int fd, int backlog);
int system_connect(int fd, const struct sockaddr *address, socklen_t length);
int system_shutdown(int fd, int how);
int system_set_option(int fd, int level, int option, const void *value, socklen_t length);
int system_get_option(int fd, int level, int option, void *value, socklen_t *length);
int system_local_name(int fd, struct sockaddr *address, socklen_t *length);
int system_peer_name(int fd, struct sockaddr *address, socklen_t *length);
void system_close(int fd);

/* A network interface by its number. A tunnel: what leaves by it goes on inside something else (IFF_POINTOPOINT: VPNs, PPP). */
typedef struct { uint32_t index; int is_tunnel; } system_interface;
/* Those that are up, have an address of the family, and are not loopback. How many were written: `capacity` at most. */
size_t system_interfaces(int family, system_interface *interfaces, size_t capacity);

/* getaddrinfo(3) and freeaddrinfo(3): 0, or an EAI code. Blocks. */
int system_look_up(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list);
void system_free_addresses(struct addrinfo *list);
/* Nothing blocks, and there are no other threads: a simulation answers this thread (CSystemWorld.h). */
bool system_is_simulated(void);

/* A non-blocking, close-on-exec descriptor that becomes readable when the wall clock jumps, as it does when the machine wakes, or
 * -errno; and again, after it did. */
int system_wake_watch(void);
void system_rearm_wake_watch(int fd);

/* A non-blocking, close-on-exec inotify descriptor, or -errno. */
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
/* Where bytes can be spliced that nobody needs: a descriptor, or -errno. */
int system_sink(void);
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
/* Whether its error is still to be read (POLLERR), as after a reset. */
bool system_has_failed(int fd);
/* A file in memory without a name elsewhere, close-on-exec (memfd_create(2)), or -errno. */
int system_memory_file(const char *name);
/* A non-blocking, close-on-exec descriptor that becomes readable when the child has ended (pidfd_open(2), Linux 5.3), or -errno. */
int system_exit_watch(pid_t pid);
/* No program that this process starts has more privileges than it. 0 or -errno. */
int system_no_new_privileges(void);
/* No core file, and no other process of this user reads its memory. 0 or -errno. */
int system_forbid_dumps(void);

/* Code that only the start needs leaves this process's memory. What is needed again comes back by itself. */
void system_forget_start(void);

enum { SYSTEM_STREAM = SOCK_STREAM, SYSTEM_RAW = SOCK_RAW, SYSTEM_DATAGRAM = SOCK_DGRAM, SYSTEM_DONTWAIT = MSG_DONTWAIT };

#endif
