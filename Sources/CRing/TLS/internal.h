#ifndef CTLS_INTERNAL_H
#define CTLS_INTERNAL_H

#include "CTLS.h"

#include <openssl/ssl.h>

enum { REASON_BYTES = 160, SPILL_MAXIMUM = 64 << 10 };

struct tls_context {
    SSL_CTX *ssl;
    bool is_server;
    tls_key *keys;                   /* NULL with certificates. */
    size_t count;
    size_t references;
};

struct tls_channel {
    SSL *ssl;
    tls_context *context;
    const uint8_t *in;
    size_t in_count;
    uint8_t *out;                    /* Where records go while sealing; else NULL. */
    size_t out_count, out_room;
    uint8_t *spill;                  /* What OpenSSL had to say at other times. */
    size_t spill_count;
    uint64_t sealed;                 /* Plain bytes since the last key update. */
    bool is_open;
    char peer[TLS_IDENTITY_MAXIMUM];
    char reason[REASON_BYTES];
};

/* The BIO that reads what was fed and writes to `out` or `spill`. NULL: no memory. */
BIO *tls_bio(tls_channel *channel);
/* Where OpenSSL looks for its ciphers: NULL for its own. */
const char *gcm_properties(void);
/* OpenSSL's last error as words; `otherwise` when it has none. */
void tls_explain(char *why, size_t why_bytes, const char *otherwise);

#endif
