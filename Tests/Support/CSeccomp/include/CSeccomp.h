/*
 * Test support: system calls refused on one thread, as a container's filter refuses them for a process. The
 * filter ends with the thread; programs started from the thread inherit it.
 */
#ifndef CSECCOMP_H
#define CSECCOMP_H

/* From here on the calling thread gets `error` from the call; 0: the call returns 0 and does nothing.
 * Returns 0, or -errno. */
int seccomp_refuse(long call, int error);

/* Numbers of the calls. */
long seccomp_io_uring_setup(void);
long seccomp_io_uring_enter(void);
long seccomp_io_uring_register(void);
long seccomp_epoll_pwait2(void);

/* io_uring_setup(2) with one entry and no flags: a descriptor to close, or -errno. */
int seccomp_try_uring(void);

#endif
