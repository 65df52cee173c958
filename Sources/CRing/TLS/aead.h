/* AES-128-GCM with one key, in one direction. */
#ifndef AEAD_H
#define AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { AEAD_KEY_BYTES = 16, AEAD_NONCE_BYTES = 12, AEAD_TAG_BYTES = 16 };

typedef struct aead aead;

/* `seals`: for sealing, else for opening. About 1.2 KiB. NULL: no memory. */
aead *aead_new(bool seals, const uint8_t key[AEAD_KEY_BYTES]);
void aead_free(aead *self);

/* A message begins. The header is authenticated and not encrypted. A nonce is never used twice with one key. */
void aead_begin(aead *self, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *header, size_t count);
/* The next bytes of the message; `out` may be `in`. What was opened must not be used before aead_finish has accepted it. */
void aead_update(aead *self, uint8_t *out, const uint8_t *in, size_t count);
/* Sealing: writes the tag. Opening: whether the tag is right. False also when the cipher failed. */
bool aead_finish(aead *self, uint8_t tag[AEAD_TAG_BYTES]);

#endif
