/*
 * AES-128-GCM: by intel-ipsec-mb where the processor has AES for vectors (VAES, AVX-512), else by OpenSSL. OpenSSL 3.0 knows
 * AES-NI only, which is four times slower there.
 *
 * Before intel-ipsec-mb is used it must agree with OpenSSL on what it seals, and refuse what was changed.
 */
#include "aead.h"
#include "CTLS.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__

#include <intel-ipsec-mb.h>

/* What an IMB_MGR points to. Its table of them would bring in every algorithm of the library: 13 MiB. That they still do what
 * they did is found out before they are used. */
#define FUNCTION(type, name) extern __typeof__(*(type)0) name
FUNCTION(keyexp_t, aes_keyexp_128_avx2);
FUNCTION(aes_gcm_precomp_t, aes_gcm_precomp_128_vaes_avx512);
FUNCTION(aes_gcm_init_t, aes_gcm_init_128_vaes_avx512);
FUNCTION(aes_gcm_enc_dec_update_t, aes_gcm_enc_128_update_vaes_avx512);
FUNCTION(aes_gcm_enc_dec_update_t, aes_gcm_dec_128_update_vaes_avx512);
FUNCTION(aes_gcm_enc_dec_finalize_t, aes_gcm_enc_128_finalize_vaes_avx512);
FUNCTION(aes_gcm_enc_dec_finalize_t, aes_gcm_dec_128_finalize_vaes_avx512);

typedef struct {
    struct gcm_key_data key;         /* First: it wants alignment. */
    struct gcm_context_data state;
} vectors;

static vectors *vectors_new(const uint8_t key[AEAD_KEY_BYTES])
{
    vectors *self = aligned_alloc(64, (sizeof *self + 63) & ~(size_t)63);
    if (!self) return NULL;
    uint8_t for_decryption[sizeof self->key.expanded_keys];      /* GCM has no use for these. */
    aes_keyexp_128_avx2(key, self->key.expanded_keys, for_decryption);
    OPENSSL_cleanse(for_decryption, sizeof for_decryption);
    aes_gcm_precomp_128_vaes_avx512(&self->key);
    return self;
}

static void vectors_free(vectors *self)
{
    OPENSSL_cleanse(self, sizeof *self);
    free(self);
}

static void vectors_begin(vectors *self, const uint8_t *nonce, const uint8_t *header, size_t count)
{
    aes_gcm_init_128_vaes_avx512(&self->key, &self->state, nonce, header, count);
}

static void vectors_update(vectors *self, bool seals, void *out, const void *in, size_t count)
{
    if (seals) aes_gcm_enc_128_update_vaes_avx512(&self->key, &self->state, out, in, count);
    else aes_gcm_dec_128_update_vaes_avx512(&self->key, &self->state, out, in, count);
}

static void vectors_finish(vectors *self, bool seals, uint8_t tag[AEAD_TAG_BYTES])
{
    if (seals) aes_gcm_enc_128_finalize_vaes_avx512(&self->key, &self->state, tag, AEAD_TAG_BYTES);
    else aes_gcm_dec_128_finalize_vaes_avx512(&self->key, &self->state, tag, AEAD_TAG_BYTES);
}

/* What the library asks for before it takes these functions (IMB_CPUFLAGS_AVX512_T2). */
static bool processor_has_vectors(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512ifma")
        && __builtin_cpu_supports("vaes") && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("gfni")
        && __builtin_cpu_supports("bmi2");
}

#else

typedef struct { char nothing; } vectors;

static vectors *vectors_new(const uint8_t key[AEAD_KEY_BYTES]) { return (void)key, NULL; }
static void vectors_free(vectors *self) { (void)self; }
static void vectors_begin(vectors *self, const uint8_t *nonce, const uint8_t *header, size_t count) { (void)self, (void)nonce, (void)header, (void)count; }
static void vectors_update(vectors *self, bool seals, void *out, const void *in, size_t count) { (void)self, (void)seals, (void)out, (void)in, (void)count; }
static void vectors_finish(vectors *self, bool seals, uint8_t tag[AEAD_TAG_BYTES]) { (void)self, (void)seals, (void)tag; }
static bool processor_has_vectors(void) { return false; }

#endif

struct aead {
    bool seals, holds;
    vectors *vectors;                /* One of these two is set. */
    EVP_CIPHER_CTX *openssl;
};

static aead *new_by(bool by_vectors, bool seals, const uint8_t key[AEAD_KEY_BYTES])
{
    aead *self = calloc(1, sizeof *self);
    if (!self) return NULL;
    self->seals = seals;
    if (by_vectors) {
        self->vectors = vectors_new(key);
        if (self->vectors) return self;
    } else {
        self->openssl = EVP_CIPHER_CTX_new();
        if (self->openssl && EVP_CipherInit_ex(self->openssl, EVP_aes_128_gcm(), NULL, key, NULL, seals) == 1) return self;
    }
    aead_free(self);
    return NULL;
}

static bool has_vectors(void);

aead *aead_new(bool seals, const uint8_t key[AEAD_KEY_BYTES]) { return new_by(has_vectors(), seals, key); }

void aead_free(aead *self)
{
    if (!self) return;
    if (self->vectors) vectors_free(self->vectors);
    EVP_CIPHER_CTX_free(self->openssl);
    free(self);
}

void aead_begin(aead *self, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *header, size_t count)
{
    int length = 0;
    self->holds = true;
    if (self->vectors) vectors_begin(self->vectors, nonce, header, count);
    else self->holds = EVP_CipherInit_ex(self->openssl, NULL, NULL, NULL, nonce, -1) == 1
                       && EVP_CipherUpdate(self->openssl, NULL, &length, header, (int)count) == 1;
}

void aead_update(aead *self, uint8_t *out, const uint8_t *in, size_t count)
{
    int length = 0;
    if (count == 0) return;
    if (self->vectors) vectors_update(self->vectors, self->seals, out, in, count);
    else self->holds = self->holds && EVP_CipherUpdate(self->openssl, out, &length, in, (int)count) == 1 && (size_t)length == count;
}

bool aead_finish(aead *self, uint8_t tag[AEAD_TAG_BYTES])
{
    uint8_t found[AEAD_TAG_BYTES];
    int length = 0;
    if (self->vectors) {
        vectors_finish(self->vectors, self->seals, self->seals ? tag : found);
        return self->seals || CRYPTO_memcmp(tag, found, AEAD_TAG_BYTES) == 0;
    }
    if (self->seals) {
        return self->holds && EVP_CipherFinal_ex(self->openssl, found, &length) == 1
               && EVP_CIPHER_CTX_ctrl(self->openssl, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES, tag) > 0;
    }
    return self->holds && EVP_CIPHER_CTX_ctrl(self->openssl, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_BYTES, tag) > 0
           && EVP_CipherFinal_ex(self->openssl, found, &length) == 1;
}

/* Seals or opens `count` bytes in place, in two pieces. */
static bool run(bool by_vectors, bool seals, uint8_t *bytes, size_t count, uint8_t tag[AEAD_TAG_BYTES])
{
    uint8_t key[AEAD_KEY_BYTES], nonce[AEAD_NONCE_BYTES], header[5] = {23, 3, 3, (uint8_t)(count >> 8), (uint8_t)count};
    for (int index = 0; index < AEAD_KEY_BYTES; index++) key[index] = (uint8_t)(count + 7 * (size_t)index);
    for (int index = 0; index < AEAD_NONCE_BYTES; index++) nonce[index] = (uint8_t)(count * 3 + (size_t)index);
    aead *cipher = new_by(by_vectors, seals, key);
    if (!cipher) return false;
    size_t first = count / 3;
    aead_begin(cipher, nonce, header, sizeof header);
    aead_update(cipher, bytes, bytes, first);
    aead_update(cipher, bytes + first, bytes + first, count - first);
    bool holds = aead_finish(cipher, tag);
    aead_free(cipher);
    return holds;
}

bool tls_vectors_agree(size_t count)
{
    static const size_t room = TLS_RECORD_BYTES + 64;
    uint8_t *plain = malloc(3 * room), tag[AEAD_TAG_BYTES], same[AEAD_TAG_BYTES];
    bool holds = plain && count <= room && processor_has_vectors();
    if (holds) {
        uint8_t *one = plain + room, *other = one + room;
        for (size_t index = 0; index < count; index++) plain[index] = (uint8_t)(index * 31 + (index >> 8));
        memcpy(one, plain, count);
        memcpy(other, plain, count);
        holds = run(true, true, one, count, tag) && run(false, true, other, count, same) && memcmp(one, other, count) == 0
            && memcmp(tag, same, AEAD_TAG_BYTES) == 0 && run(true, false, one, count, tag) && memcmp(one, plain, count) == 0;
        if (holds && count > 0) {
            other[count / 2] ^= 1;
            holds = !run(true, false, other, count, tag);
        }
    }
    free(plain);
    return holds;
}

static bool vectors_are_right;

static void check_vectors(void)
{
    static const size_t sizes[] = {1, 17, 255, 1500, TLS_RECORD_BYTES + 1};
    vectors_are_right = true;
    for (size_t index = 0; index < sizeof sizes / sizeof *sizes; index++) vectors_are_right &= tls_vectors_agree(sizes[index]);
}

static bool has_vectors(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, check_vectors);
    return vectors_are_right;
}

bool tls_has_vectors(void) { return has_vectors(); }
