/*
 * The keeper: a process that holds the descriptors of another one, its worker, and starts the next worker when that dies
 * (docs/internals/outliving.md).
 *
 *     keeper ──clone(CLONE_FILES)──▶ worker ──dies by a signal, or hangs──▶ the next worker, which finds the descriptors
 *                                      ├──exits──▶ the keeper exits with its status (where it took over from a dead one and has not begun:
 *                                      │           another one tries)
 *                                      └──asks──▶ the keeper becomes another program, in the same process
 *
 * It is single-threaded and does nothing else: it passes signals on, and to the service manager what the worker has to say; waits, and looks
 * whether the worker shows signs of life.
 */
#ifndef CKEEPER_H
#define CKEEPER_H

#include <stdbool.h>
#include <stdint.h>

/* So many deaths in such a time that are the program's own fault, and there is no next worker; nor where none could begin for so long. A
 * number of attempts would say nothing: on a busy machine many pass in a moment. */
enum { KEEPER_PATH_MAXIMUM = 4096, KEEPER_FAULTS_MAXIMUM = 5, KEEPER_FAULTS_SECONDS = 60, KEEPER_UNBORN_SECONDS = 60 };

/* What keeper and workers share. Written by workers, but for what is said of the last death, and `failed`. */
typedef struct {
    _Atomic uint64_t heartbeats;
    /* The descriptor of what the worker keeps (CSlab.h) + 1, and 0 while there is nothing that a next one could go on from. */
    _Atomic uint64_t kept;
    /* The descriptor of a file with the configuration as it was last read + 1, for a next worker; 0: there is none. */
    _Atomic uint64_t configuration;
    _Atomic uint32_t confirmed;                  /* Signals that this worker took, and whose effect is recorded. */
    uint32_t deaths;                             /* Of workers. */
    _Atomic uint32_t lives;                      /* This one has taken over what there was. */
    int32_t signal;                              /* Which ended the last one, */
    uint64_t died;                               /* and when, in nanoseconds of CLOCK_BOOTTIME. */
    uint32_t crashed;                            /* It was its own fault: a crash or a hang, and no kill from outside. */
    uint64_t attended;                           /* The session that a worker works on; 0: none. */
    uint64_t suspect, suspected;                 /* The session that a worker crashed with, and when; whether it is given up. Workers remember
                                                  * it here. */
    uint32_t gives_up;
    int32_t keeper;                              /* The keeper's process. */
    int32_t failed;                              /* Why the other program could not be run: an errno. */
    char program[KEEPER_PATH_MAXIMUM];           /* To become; empty: none. */
    int32_t state;                               /* The descriptor of the state that it is given. */
    int32_t own[3];                              /* Descriptors of the keeper; -1: none. The last is for the worker: what it sends there, the
                                                  * service manager hears from the keeper. */
} keeper_page;

/* Starts the first worker, and returns in each worker: with the page. The process that called becomes the keeper, and never returns;
 * it exits as its last worker did. NULL with errno in the calling process: there is no keeper, and it goes on by itself. `hang`: seconds
 * without a heartbeat after which a worker is ended; 0: never. `lighten`: lets go of memory that the keeper does not need. Before threads are
 * started. */
keeper_page *keeper_start(char **arguments, unsigned hang, void (*lighten)(void));

/* In a worker: the keeper becomes `page->program`, which is given `page->state`. Does not return. */
_Noreturn void keeper_replace(keeper_page *page);

/* Of a worker; NULL: this process has no keeper. */
keeper_page *keeper_of_this_process(void);
/* The signal by which the keeper passes another one on, as its value. */
int keeper_signal(void);
void keeper_beat(keeper_page *page);
/* So many signals more had their effect; those that had none when the worker dies are sent again to the next. */
void keeper_confirm(keeper_page *page, uint32_t count);
void keeper_set_kept(keeper_page *page, int descriptor);
int  keeper_kept(const keeper_page *page);
void keeper_set_configuration(keeper_page *page, int descriptor);
int  keeper_configuration(const keeper_page *page);

#endif
