#include "CSeccomp.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int seccomp_refuse(long call, int error) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((unsigned)error & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = sizeof filter / sizeof *filter, .filter = filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -errno;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 ? -errno : 0;
}

long seccomp_io_uring_setup(void) { return SYS_io_uring_setup; }
long seccomp_io_uring_enter(void) { return SYS_io_uring_enter; }
long seccomp_io_uring_register(void) { return SYS_io_uring_register; }
long seccomp_epoll_pwait2(void) { return SYS_epoll_pwait2; }

int seccomp_try_uring(void) {
    struct io_uring_params parameters = { 0 };
    long fd = syscall(SYS_io_uring_setup, 1, &parameters);
    return fd < 0 ? -errno : (int)fd;
}
