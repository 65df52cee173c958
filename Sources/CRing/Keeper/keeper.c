#include "CKeeper.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_REPLACE = 199, LOOK_SECONDS = 5, SIGNALS_KEPT = 64 };

static keeper_page *page_of_worker;

keeper_page *keeper_of_this_process(void) { return page_of_worker; }

void keeper_beat(keeper_page *page) { atomic_fetch_add_explicit(&page->heartbeats, 1, memory_order_relaxed); }

void keeper_confirm(keeper_page *page, uint32_t count) { atomic_fetch_add_explicit(&page->confirmed, count, memory_order_release); }

void keeper_set_kept(keeper_page *page, int descriptor)
{
    atomic_store_explicit(&page->kept, (uint64_t)(descriptor + 1), memory_order_release);
    atomic_store_explicit(&page->lives, 1, memory_order_relaxed);
}

int keeper_kept(const keeper_page *page)
{
    return (int)atomic_load_explicit(&page->kept, memory_order_acquire) - 1;
}

void keeper_set_configuration(keeper_page *page, int descriptor)
{
    atomic_store_explicit(&page->configuration, (uint64_t)(descriptor + 1), memory_order_release);
}

int keeper_configuration(const keeper_page *page)
{
    return (int)atomic_load_explicit(&page->configuration, memory_order_acquire) - 1;
}

void keeper_replace(keeper_page *page)
{
    (void)page;
    _exit(EXIT_REPLACE);
}

static const int PASSED_ON[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 };

/* A signal that is passed on: the number is this one's value. Ordinary signals do not queue: one that a service manager or a terminal sends to both
 * processes would make the keeper's, which counts, come to nothing. */
int keeper_signal(void) { return SIGRTMIN; }

static sigset_t signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof PASSED_ON / sizeof *PASSED_ON; i++) sigaddset(&set, PASSED_ON[i]);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGCONT);
    sigaddset(&set, SIGIO);
    return set;
}

/* The service manager hears only the process that it started, which is the keeper. */

struct notices { int manager, keeper, worker; };   /* Its socket, and the ends of the way from worker to keeper; -1: there is none. */

static void close_notices(struct notices *notices)
{
    if (notices->manager >= 0) close(notices->manager);
    if (notices->keeper >= 0) close(notices->keeper);
    if (notices->worker >= 0) close(notices->worker);
    *notices = (struct notices){ -1, -1, -1 };
}

static struct notices open_notices(void)
{
    struct notices notices = { -1, -1, -1 };
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (name == NULL || (name[0] != '/' && name[0] != '@') || strlen(name) >= sizeof address.sun_path) return notices;
    memcpy(address.sun_path, name, strlen(name));
    if (name[0] == '@') address.sun_path[0] = 0;
    enum { KIND = SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK };
    int ends[2];
    if (socketpair(AF_UNIX, KIND, 0, ends)) return notices;
    notices = (struct notices){ socket(AF_UNIX, KIND, 0), ends[0], ends[1] };
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    bool works = notices.manager >= 0 && connect(notices.manager, (struct sockaddr *)&address, length) == 0
              && fcntl(notices.keeper, F_SETOWN, getpid()) == 0 && fcntl(notices.keeper, F_SETFL, O_ASYNC | O_NONBLOCK) == 0;
    if (!works) close_notices(&notices);
    return notices;
}

static void pass_notices(const struct notices *notices)
{
    char words[4096];
    ssize_t count;
    while (notices->keeper >= 0 && (count = recv(notices->keeper, words, sizeof words, 0)) > 0)
        (void)!send(notices->manager, words, (size_t)count, MSG_NOSIGNAL);
}

/* Memory. */

static const char OUT_OF_MEMORY_SCORE[] = "/proc/self/oom_score_adj";
enum { SCORE_LEAST = -1000, SCORE_OF_KEEPER = -500 };

static int score_of_this_process(void)
{
    int score = 0;
    FILE *file = fopen(OUT_OF_MEMORY_SCORE, "r");
    if (file == NULL) return 0;
    if (fscanf(file, "%d", &score) != 1) score = 0;
    fclose(file);
    return score;
}

/* A lower one than before needs CAP_SYS_RESOURCE: without it the score stays. */
static void set_score(int score)
{
    FILE *file = fopen(OUT_OF_MEMORY_SCORE, "w");
    if (file == NULL) return;
    fprintf(file, "%d", score);
    fclose(file);
}

/* -1 with errno, 0 in the worker. As fork(2), but for the descriptors, which both have. */
static pid_t start(void) { return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL); }

/* The keeper's end is the worker's. */
static void begin_worker(keeper_page *page, const sigset_t *before, int dumpable, int score)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != page->keeper) _exit(1);
    set_score(score);
    /* What is passed on waits until the worker takes it. */
    sigset_t mask = *before;
    for (size_t i = 0; i < sizeof PASSED_ON / sizeof *PASSED_ON; i++) sigaddset(&mask, PASSED_ON[i]);
    sigaddset(&mask, keeper_signal());
    sigprocmask(SIG_SETMASK, &mask, NULL);
    prctl(PR_SET_DUMPABLE, dumpable);
    signal(SIGIO, SIG_DFL);
    page_of_worker = page;
}

/* Signals that were passed on to this worker: the last few. */
struct passed { int numbers[SIGNALS_KEPT]; uint32_t count; };

static void pass_on(struct passed *passed, pid_t worker, int number)
{
    passed->numbers[passed->count++ % SIGNALS_KEPT] = number;
    if (sigqueue(worker, keeper_signal(), (union sigval){ .sival_int = number })) kill(worker, number);
}

/* A worker died with signals that had no effect yet: they are the next one's. */
static void pass_on_again(keeper_page *page, struct passed *passed, pid_t worker)
{
    struct passed before = *passed;
    uint32_t confirmed = atomic_exchange_explicit(&page->confirmed, 0, memory_order_acquire);
    *passed = (struct passed){ .count = 0 };
    uint32_t first = before.count - confirmed > SIGNALS_KEPT ? before.count - SIGNALS_KEPT : confirmed;
    for (uint32_t i = first; i < before.count; i++) pass_on(passed, worker, before.numbers[i % SIGNALS_KEPT]);
}

/* Waits until the worker has ended, and passes signals on meanwhile. Its status. */
static int watch(keeper_page *page, pid_t worker, const sigset_t *set, unsigned hang, const struct notices *notices, struct passed *passed, bool *hung)
{
    *hung = false;
    uint64_t beats = 0;
    unsigned silent = 0;
    for (;;) {
        siginfo_t info;
        struct timespec look = { .tv_sec = LOOK_SECONDS };
        int number = sigtimedwait(set, &info, &look);
        if (number == SIGCONT) kill(worker, SIGCONT);
        else if (number > 0 && number != SIGCHLD && number != SIGIO) pass_on(passed, worker, number);
        pass_notices(notices);
        int status;
        if (waitpid(worker, &status, WNOHANG) == worker) return status;
        if (number > 0 || hang == 0) continue;
        uint64_t now = atomic_load_explicit(&page->heartbeats, memory_order_relaxed);
        silent = now == beats ? silent + LOOK_SECONDS : 0;
        beats = now;
        if (silent < hang) continue;
        *hung = true;
        kill(worker, SIGKILL);
    }
}

static void become(keeper_page *page, char **arguments, const sigset_t *before, int score)
{
    char state[64];
    snprintf(state, sizeof state, "%d:%d", (int)getpid(), (int)page->state);
    setenv("TELE_STATE", state, 1);
    char *first = arguments[0];
    char program[KEEPER_PATH_MAXIMUM];
    memcpy(program, page->program, sizeof program);
    program[sizeof program - 1] = 0;
    arguments[0] = program;
    page->program[0] = 0;
    sigset_t mine;
    sigprocmask(SIG_SETMASK, before, &mine);
    int mine_score = score_of_this_process();
    set_score(score);
    execv(program, arguments);
    page->failed = errno;                        /* The next worker goes on from the same state. */
    set_score(mine_score);
    sigprocmask(SIG_SETMASK, &mine, NULL);
    arguments[0] = first;
}

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);            /* As the worker's clock. */
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

struct faults {
    uint64_t at[KEEPER_FAULTS_MAXIMUM];
    uint32_t count, unborn;                      /* Workers in a row that could not begin; */
    uint64_t unborn_since;                       /* since the first of them ended. */
};

static bool lives(const keeper_page *page) { return atomic_load_explicit(&page->lives, memory_order_relaxed); }

/* A worker did not begin. Whether none has for too long. */
static bool note_unborn(struct faults *faults)
{
    uint64_t now = nanoseconds();
    if (faults->unborn++ == 0) faults->unborn_since = now;
    return now - faults->unborn_since >= (uint64_t)KEEPER_UNBORN_SECONDS * 1000000000;
}

/* Who cannot begin, as when memory is short, is followed ever more slowly: 10 ms, 20, ... 1 s. */
static struct timespec pause_before_next(const struct faults *faults)
{
    long milliseconds = faults->unborn == 0 ? 0 : faults->unborn > 7 ? 1000 : 10L << (faults->unborn - 1);
    return (struct timespec){ .tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000 };
}

/* The next worker. Where the system gives no process, it may do so soon: connections are worth the wait. */
static pid_t start_next(struct faults *faults)
{
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pid_t worker;
    while ((worker = start()) < 0) {
        int error = errno;
        if (note_unborn(faults)) {
            fprintf(stderr, "tele: error: the process ended, and another one cannot be started: %s; its connections are reset\n", strerror(error));
            _exit(1);
        }
        struct timespec pause = pause_before_next(faults);
        if (sigtimedwait(&ends, NULL, &pause) > 0) _exit(0);
    }
    return worker;
}

/* Somebody wants the process to end, and this worker has not heard of it. */
static bool was_told_to_end(keeper_page *page, const struct passed *passed)
{
    for (uint32_t i = atomic_load_explicit(&page->confirmed, memory_order_acquire); i < passed->count; i++) {
        int number = passed->numbers[i % SIGNALS_KEPT];
        if (number == SIGTERM || number == SIGINT) return true;
    }
    return false;
}

/* A worker has died. Whether that was once too often: who is killed from outside, and was well, may be so at any time. */
static bool note_death(keeper_page *page, int signal, bool hung, struct faults *faults)
{
    uint64_t now = nanoseconds();
    page->signal = signal;
    page->died = now;
    page->deaths++;
    page->crashed = signal != SIGKILL || hung;
    bool too_long = !lives(page) && note_unborn(faults);
    if (lives(page)) faults->unborn = 0;
    if (!page->crashed) return too_long;
    faults->at[faults->count++ % KEEPER_FAULTS_MAXIMUM] = now;
    uint64_t oldest = faults->at[faults->count % KEEPER_FAULTS_MAXIMUM];
    return faults->count >= KEEPER_FAULTS_MAXIMUM && now - oldest < (uint64_t)KEEPER_FAULTS_SECONDS * 1000000000;
}

keeper_page *keeper_start(char **arguments, unsigned hang, void (*lighten)(void))
{
    keeper_page *page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return NULL;
    page->keeper = getpid();
    /* Nobody else reads what the shared memory holds, by way of /proc. */
    int dumpable = prctl(PR_GET_DUMPABLE), score = score_of_this_process();
    prctl(PR_SET_DUMPABLE, 0);
    /* The kernel, when memory is short, ends whoever uses the most of it: that must not be the keeper. Now, not when a worker lives: the two have
     * one table of descriptors, and a worker takes all that is open when it begins for its predecessor's. */
    set_score(score + SCORE_OF_KEEPER < SCORE_LEAST ? SCORE_LEAST : score + SCORE_OF_KEEPER);
    sigset_t set = signals(), before;
    sigprocmask(SIG_BLOCK, &set, &before);
    signal(SIGIO, SIG_IGN);                      /* Blocked, it is waited for all the same; and it ends no program that this process becomes. */
    struct notices notices = open_notices();
    page->own[0] = notices.manager;
    page->own[1] = notices.keeper;
    page->own[2] = notices.worker;
    struct faults faults = { .count = 0 };
    struct passed passed = { .count = 0 };
    for (bool is_first = true;; is_first = false) {
        atomic_store_explicit(&page->lives, 0, memory_order_relaxed);
        pid_t worker = is_first ? start() : start_next(&faults);
        if (worker == 0) {
            begin_worker(page, &before, dumpable, score);
            return page;
        }
        if (worker < 0) {
            int error = errno;
            set_score(score);
            close_notices(&notices);
            prctl(PR_SET_DUMPABLE, dumpable);
            sigprocmask(SIG_SETMASK, &before, NULL);
            munmap(page, sizeof *page);
            errno = error;
            return NULL;
        }
        pass_on_again(page, &passed, worker);
        if (is_first) lighten();
        bool hung;
        int status = watch(page, worker, &set, hang, &notices, &passed, &hung);
        if (WIFEXITED(status)) {
            if (WEXITSTATUS(status) == EXIT_REPLACE && page->program[0] != 0) {
                become(page, arguments, &before, score);
                continue;
            }
            /* It said why: a key that cannot be read just now, a lack of memory. What the dead one left is still there. */
            bool may_try_again = page->deaths > 0 && !lives(page) && WEXITSTATUS(status) != 0 && !was_told_to_end(page, &passed);
            if (!may_try_again || note_unborn(&faults)) _exit(WEXITSTATUS(status));
            struct timespec pause = pause_before_next(&faults);
            nanosleep(&pause, NULL);
            continue;
        }
        /* The state of another program is of a time before, once somebody has taken it over. */
        if (lives(page)) unsetenv("TELE_STATE");
        if (note_death(page, WTERMSIG(status), hung, &faults)) {
            if (!page->crashed)
                fprintf(stderr, "tele: error: for %d seconds each process was killed before it could begin (%u of them); their connections are "
                                "reset\ntele: hint: is there enough memory?\n", KEEPER_UNBORN_SECONDS, faults.unborn);
            else
                fprintf(stderr, "tele: error: the process crashed %d times within a minute, the last time by signal %d; its connections are "
                                "reset\ntele: hint: please report this, with the log\n", KEEPER_FAULTS_MAXIMUM, page->signal);
            _exit(1);
        }
        struct timespec pause = pause_before_next(&faults);
        nanosleep(&pause, NULL);
    }
}
