#include "CSystem.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/sockios.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>

/* Swift reads /proc/self/cmdline, and finds nothing where /proc is not mounted. glibc tells constructors what main is told. */
static int argument_count;
static char **arguments;

#ifdef __GLIBC__
__attribute__((constructor)) static void take_arguments(int count, char **words)
{
    argument_count = count;
    arguments = words;
}
#endif

int system_argument_count(void) { return argument_count; }
const char *system_argument(int index) { return index >= 0 && index < argument_count ? arguments[index] : NULL; }

void system_rearm_wake_watch(int fd) {
    uint64_t nothing;
    (void)!read(fd, &nothing, sizeof nothing);
    /* It never fires by itself: in a hundred years. */
    struct itimerspec far = { .it_value.tv_sec = time(NULL) + 3153600000 };
    timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL);
}

int system_wake_watch(void) {
    int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fd >= 0) system_rearm_wake_watch(fd);
    return fd;
}

int system_file_events(void) { return inotify_init1(IN_NONBLOCK | IN_CLOEXEC); }

void system_watch_folder(int fd, const char *path) {
    inotify_add_watch(fd, path, IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR);
}

int system_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno; }

int system_unacknowledged(int fd) {
    int count = 0;
    return ioctl(fd, SIOCOUTQ, &count) == 0 ? count : -errno;
}

int system_unsent(int fd) {
    int count = 0;
    return ioctl(fd, SIOCOUTQNSD, &count) == 0 ? count : -errno;
}

int system_unread(int fd) {
    int count = 0;
    return ioctl(fd, SIOCINQ, &count) == 0 ? count : -errno;
}

int system_accept(int listener) {
    int fd;
    do fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    return fd >= 0 ? fd : -errno;
}

int system_forbid_dumps(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 ? 0 : -errno; }

/* Pages of a file that nobody may write are the file's: they are read again when they are touched. */
static int forget_pages(struct dl_phdr_info *object, size_t size, void *nothing) {
    (void)size, (void)nothing;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || segment->p_flags & PF_W) continue;
        uintptr_t start = (object->dlpi_addr + segment->p_vaddr) & ~(page - 1);
        uintptr_t end = (object->dlpi_addr + segment->p_vaddr + segment->p_memsz + page - 1) & ~(page - 1);
        madvise((void *)start, end - start, MADV_DONTNEED);
    }
    return 0;
}

void system_forget_start(void) { dl_iterate_phdr(forget_pages, NULL); }

int system_pipe(int ends[2], int bytes) {
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return -errno;
    if (fcntl(ends[1], F_SETPIPE_SZ, bytes) >= bytes) return 0;
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    return -error;
}

ssize_t system_splice(int from, int to, size_t count, int more) {
    ssize_t moved;
    unsigned flags = SPLICE_F_NONBLOCK | SPLICE_F_MOVE | (more ? SPLICE_F_MORE : 0);
    do moved = splice(from, NULL, to, NULL, count, flags); while (moved < 0 && errno == EINTR);
    return moved >= 0 ? moved : -errno;
}

ssize_t system_tee(int from, int to, size_t count) {
    ssize_t copied;
    do copied = tee(from, to, count, SPLICE_F_NONBLOCK); while (copied < 0 && errno == EINTR);
    return copied >= 0 ? copied : -errno;
}

ssize_t system_send_more(int fd, const struct iovec *iovecs, size_t count) {
    struct msghdr header = { .msg_iov = (struct iovec *)iovecs, .msg_iovlen = count };
    ssize_t sent;
    do sent = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE); while (sent < 0 && errno == EINTR);
    return sent >= 0 ? sent : -errno;
}

ssize_t system_read(int fd, void *memory, size_t count) {
    ssize_t moved;
    do moved = read(fd, memory, count); while (moved < 0 && errno == EINTR);
    return moved >= 0 ? moved : -errno;
}

ssize_t system_write(int fd, const void *bytes, size_t count) {
    ssize_t moved;
    do moved = write(fd, bytes, count); while (moved < 0 && errno == EINTR);
    return moved >= 0 ? moved : -errno;
}
