#ifndef CTLS_INTERNAL_H
#define CTLS_INTERNAL_H

#include "CTLS.h"
#include "aead.h"

#include <openssl/ssl.h>

enum { REASON_BYTES = 160, SPILL_MAXIMUM = 64 << 10, SECRET_BYTES = 32 };

struct tls_context {
    SSL_CTX *ssl;
    bool is_server;
    tls_key *keys;                   /* NULL with certificates. */
    size_t count;
    _Atomic size_t references;       /* A channel may be closed by another thread than the one that opened it. */
};

/* The records of one direction (RFC 8446, 5.2 and 7.2). */
typedef struct {
    uint8_t secret[SECRET_BYTES];    /* From which the next key is made. */
    uint8_t key[AEAD_KEY_BYTES], iv[AEAD_NONCE_BYTES];
    bool has_secret;
    uint64_t sequence;               /* Records under this key. */
    aead *cipher;                    /* The expanded key; NULL while the channel is idle. */
} record_keys;

struct tls_channel {
    SSL *ssl;                        /* NULL when the handshake is complete. */
    tls_context *context;
    const uint8_t *in;               /* What was fed and is not taken. */
    size_t in_count;
    uint8_t *spill;                  /* What the handshake has to send. */
    size_t spill_count;

    record_keys sends, receives;
    uint8_t *held;                   /* The beginning of a record whose end has not arrived. NULL: nothing. */
    size_t held_count;
    uint8_t *plain;                  /* What was opened and had no room. NULL: nothing. */
    size_t plain_begin, plain_end;
    ssize_t end;                     /* What tls_open says when nothing is left to take; 0: more may come. */
    uint64_t sealed;                 /* Plain bytes under the key of `sends`. */
    unsigned empty_in_row;           /* Records that brought nothing. */
    bool is_open, keeps_buffers, owes_update;

    uint8_t exporter[TLS_EXPORTER_BYTES];
    char *host;                      /* Whom a client expects. NULL: with keys, and on a server. */
    uint8_t *chain;                  /* The peer's certificates, its own first, as DER. NULL with keys. */
    size_t chain_bytes;
    char *peer;                      /* NULL: nobody yet. */
    char *reason;                    /* Why the last call failed. NULL: none did. */
};

/* The BIO that reads what was fed and writes to `spill`. NULL: no memory. */
BIO *tls_bio(tls_channel *channel);
/* For OpenSSL: takes note of the secrets of the records when the handshake makes them. */
void tls_note_secret(const SSL *ssl, const char *line);
/* After the handshake: the first keys of both directions. False: a secret is missing. */
bool tls_begin_records(tls_channel *channel);
void tls_end_records(tls_channel *channel);

/* OpenSSL's last error as words; `otherwise` when it has none. */
void tls_explain(char *why, size_t why_bytes, const char *otherwise);
/* Says why a call failed. Returns -1. */
int tls_fail(tls_channel *channel, const char *reason);

#endif
