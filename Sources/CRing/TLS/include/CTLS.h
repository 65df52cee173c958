/*
 * TLS 1.3 between two pieces of memory: no sockets, no files but those that are named, no read-ahead. OpenSSL shakes hands and
 * proves who is there; the records behind the handshake are our own (record.c), so that an idle connection costs half a KiB.
 *
 * A context is what a process authenticates with: a set of pre-shared keys, or a certificate and the authority that must
 * have signed the peer's. A channel is one connection. Ciphertext that arrived is fed to it, plain bytes are taken from
 * it; plain bytes are sealed into memory of the caller, which sends it. One thread owns a context and its channels; a
 * channel keeps its context alive.
 *
 * With keys there is never a certificate, and both sides insist that a key was used: a server that has some certificate
 * but not the key is refused. AES-128-GCM with SHA-256 and a fresh Diffie-Hellman exchange; no tickets, no early data.
 */
#ifndef CTLS_H
#define CTLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
    TLS_KEY_BYTES = 32,
    TLS_IDENTITY_MAXIMUM = 128,      /* With its final zero. */
    TLS_EXPORTER_BYTES = 32,
    TLS_RECORD_BYTES = 16384,        /* Plain bytes of a full record. */
    TLS_RECORD_OVERHEAD = 64         /* More than a record adds to them. */
};

typedef struct {
    char identity[TLS_IDENTITY_MAXIMUM];
    uint8_t key[TLS_KEY_BYTES];
} tls_key;

typedef struct tls_context tls_context;
typedef struct tls_channel tls_channel;

/* A context that authenticates by pre-shared keys: of a client the first one, of a server all. The keys are copied. NULL:
 * OpenSSL failed, `why` says how. */
tls_context *tls_context_keys(bool is_server, const tls_key *keys, size_t count, char *why, size_t why_bytes);
/* A context that authenticates by certificates, in PEM files: its own chain, its private key, and the authorities that it
 * trusts. */
tls_context *tls_context_certificates(bool is_server, const char *chain, const char *key, const char *authorities,
                                      char *why, size_t why_bytes);
void tls_context_release(tls_context *context);
/* Seconds since 1970 when the first certificate of its own chain expires, or the last of the authorities, if that is earlier. 0 with
 * keys. */
int64_t tls_context_expiry(const tls_context *context);

/* A connection. `host`: with certificates the name or numeric address that a client expects its server to have; else NULL. */
tls_channel *tls_channel_open(tls_context *context, const char *host);
void tls_channel_close(tls_channel *channel);

/* Ciphertext that arrived: stays valid until all of it has been taken by the calls below. */
void tls_feed(tls_channel *channel, const void *bytes, size_t count);
/* Bytes that were fed and not taken yet, as ciphertext or, where the room was too small for a record, as plain bytes. */
size_t tls_fed(const tls_channel *channel);

/* One step of the handshake. 1: it is complete, and the peer is who it must be. 0: more bytes must come. -1: failed. */
int tls_handshake(tls_channel *channel);
/* Plain bytes into `room`: how many; 0: more must come; -1: failed; -2: the peer ended the connection in order. */
ssize_t tls_open(tls_channel *channel, void *room, size_t count);
/* Seals the plain bytes of the iovecs, whole records as far as `room` reaches, behind what the channel itself has to say
 * (handshake, key update), into `sealed`. Returns the bytes to send, or -1; `taken` receives how many plain bytes are in
 * them. Without iovecs: only the channel's own. */
ssize_t tls_seal(tls_channel *channel, const struct iovec *iovecs, size_t count, void *sealed, size_t room, size_t *taken);
/* Whether the channel keeps its expanded keys (2.4 KiB) between calls: a busy one should, an idle one should not. */
void tls_keep_buffers(tls_channel *channel, bool keeps);
/* Whether the channel itself has something to say: about how many bytes, or 0. */
size_t tls_owed(const tls_channel *channel);

/* The next call of tls_seal begins with a key update, as it does by itself each 64 GiB. */
void tls_renew_keys(tls_channel *channel);

/* Whether the peer's certificate, apart from its age, would be accepted by another context of the same side: the one that was read
 * again. */
bool tls_is_trusted(const tls_channel *channel, const tls_context *context);

/* Who the peer proved to be: the identity of its key, or a name of its certificate. Empty before the handshake. */
const char *tls_peer(const tls_channel *channel);
/* Keying material that only the two ends of this connection share. 0, or -1. */
int tls_exporter(const tls_channel *channel, uint8_t material[TLS_EXPORTER_BYTES]);
/* Why the last call failed, as the rest of a sentence. */
const char *tls_reason(const tls_channel *channel);

/* Whether AES runs on the processor's vectors (VAES, AVX-512), by intel-ipsec-mb; else on AES-NI, by OpenSSL. */
bool tls_has_vectors(void);
/* For tests: whether both seal so many bytes alike, up to a record and a little, and the former refuses a changed bit. */
bool tls_vectors_agree(size_t count);

/* Random bytes for a key; the first bytes of a key's SHA-256, for its identity. 0, or -1. */
int tls_random(uint8_t *bytes, size_t count);
int tls_fingerprint(const uint8_t key[TLS_KEY_BYTES], uint8_t *bytes, size_t count);
/* Overwrites bytes in a way that no compiler leaves out. */
void tls_forget(void *bytes, size_t count);

#endif
