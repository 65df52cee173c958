/*
 * The records of TLS 1.3 behind the handshake (RFC 8446, section 5), as a kernel with TLS has them: OpenSSL shakes hands, then its
 * object, of 15 KiB, is given up, and what is left are the two directions' keys. Bytes are encrypted and decrypted where they lie,
 * without the copies between OpenSSL's buffers and ours.
 */
#include "internal.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

enum {
    HEADER_BYTES = 5,
    INNER_MAXIMUM = TLS_RECORD_BYTES + 1,                  /* Content, its type; padding only instead of content. */
    CIPHERTEXT_MAXIMUM = TLS_RECORD_BYTES + 256,
    ALERT = 21, HANDSHAKE = 22, APPLICATION_DATA = 23,
    NEW_SESSION_TICKET = 4, KEY_UPDATE = 24, CLOSE_NOTIFY = 0,
    EMPTY_MAXIMUM = 32,              /* Records in a row that bring the application nothing: each costs as much as one with bytes. */
    GATHERED_BYTES = 1024,           /* Pieces below are copied together, others encrypted where they are. */
    UPDATE_BIT = 36,                 /* A new key each 64 GiB, */
    UPDATE_RECORDS_BIT = 23          /* and each 2^23 records (RFC 8446, 5.5: at most 2^24.5). */
};

/* HKDF-Expand-Label (7.1) with an empty context; at most a hash long. */
static bool expand(const uint8_t secret[SECRET_BYTES], const char *label, uint8_t *out, size_t count)
{
    uint8_t info[32] = {0, (uint8_t)count}, hash[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    size_t label_bytes = strlen(label);
    info[2] = (uint8_t)(6 + label_bytes);
    memcpy(info + 3, "tls13 ", 6);
    memcpy(info + 9, label, label_bytes);
    info[9 + label_bytes] = 0;       /* The context's length. */
    info[10 + label_bytes] = 1;      /* HKDF-Expand's counter. */
    bool holds = HMAC(EVP_sha256(), secret, SECRET_BYTES, info, 11 + label_bytes, hash, &length) && count <= length;
    if (holds) memcpy(out, hash, count);
    OPENSSL_cleanse(hash, sizeof hash);
    return holds;
}

/* Key and IV of the secret (7.3). */
static bool use_secret(record_keys *keys)
{
    aead_free(keys->cipher);
    keys->cipher = NULL;
    keys->sequence = 0;
    return expand(keys->secret, "key", keys->key, sizeof keys->key) && expand(keys->secret, "iv", keys->iv, sizeof keys->iv);
}

/* The next secret (7.2). */
static bool next_secret(record_keys *keys)
{
    uint8_t next[SECRET_BYTES];
    bool holds = expand(keys->secret, "traffic upd", next, sizeof next);
    if (holds) memcpy(keys->secret, next, sizeof next);
    OPENSSL_cleanse(next, sizeof next);
    return holds && use_secret(keys);
}

/* "LABEL random secret", the last two in hexadecimal digits. */
void tls_note_secret(const SSL *ssl, const char *line)
{
    static const char of_client[] = "CLIENT_TRAFFIC_SECRET_0 ", of_server[] = "SERVER_TRAFFIC_SECRET_0 ";
    tls_channel *channel = SSL_get_app_data(ssl);
    bool is_clients = strncmp(line, of_client, sizeof of_client - 1) == 0;
    if (!is_clients && strncmp(line, of_server, sizeof of_server - 1) != 0) return;
    record_keys *keys = is_clients != channel->context->is_server ? &channel->sends : &channel->receives;
    const char *digits = strrchr(line, ' ') + 1;
    if (strlen(digits) != 2 * SECRET_BYTES) return;
    for (size_t index = 0; index < SECRET_BYTES; index++) {
        int high = OPENSSL_hexchar2int((unsigned char)digits[2 * index]), low = OPENSSL_hexchar2int((unsigned char)digits[2 * index + 1]);
        if (high < 0 || low < 0) return;
        keys->secret[index] = (uint8_t)(high << 4 | low);
    }
    keys->has_secret = true;
}

bool tls_begin_records(tls_channel *channel)
{
    return channel->sends.has_secret && channel->receives.has_secret && use_secret(&channel->sends) && use_secret(&channel->receives);
}

/* What can be made again. */
static void rest(tls_channel *channel)
{
    aead_free(channel->sends.cipher);
    aead_free(channel->receives.cipher);
    channel->sends.cipher = channel->receives.cipher = NULL;
}

static void drop(uint8_t **bytes, size_t count)
{
    if (*bytes) OPENSSL_cleanse(*bytes, count);
    free(*bytes);
    *bytes = NULL;
}

void tls_end_records(tls_channel *channel)
{
    rest(channel);
    OPENSSL_cleanse(&channel->sends, sizeof channel->sends);
    OPENSSL_cleanse(&channel->receives, sizeof channel->receives);
    free(channel->held);
    channel->held = NULL;
    drop(&channel->plain, CIPHERTEXT_MAXIMUM);
}

void tls_keep_buffers(tls_channel *channel, bool keeps) { channel->keeps_buffers = keeps; }

/* A record begins. False: no memory. */
static bool begin(record_keys *keys, bool seals, const uint8_t header[HEADER_BYTES])
{
    if (!keys->cipher) keys->cipher = aead_new(seals, keys->key);
    if (!keys->cipher) return false;
    uint8_t nonce[AEAD_NONCE_BYTES];
    memcpy(nonce, keys->iv, sizeof nonce);
    for (int index = 0; index < 8; index++) nonce[AEAD_NONCE_BYTES - 1 - index] ^= (uint8_t)(keys->sequence >> (8 * index));
    keys->sequence++;
    aead_begin(keys->cipher, nonce, header, HEADER_BYTES);
    return true;
}

/* ---- What arrives ---- */

/* The next whole record; NULL: more must come, or *fault is set. `count`: all of it, with its header. */
static const uint8_t *next_record(tls_channel *channel, size_t *count, const char **fault)
{
    for (;;) {
        const uint8_t *record = channel->held ? channel->held : channel->in;
        size_t there = channel->held ? channel->held_count : channel->in_count;
        size_t wanted = HEADER_BYTES;
        if (there >= HEADER_BYTES) {
            size_t length = (size_t)record[3] << 8 | record[4];
            /* Its version says nothing (5.1). */
            if (record[0] != APPLICATION_DATA || length <= AEAD_TAG_BYTES || length > CIPHERTEXT_MAXIMUM) {
                *fault = "what came is no record of TLS";
                return NULL;
            }
            wanted += length;
        }
        if (there >= wanted && wanted > HEADER_BYTES) {
            *count = wanted;
            if (!channel->held) {
                channel->in += wanted;
                channel->in_count -= wanted;
            }
            return record;
        }
        if (channel->in_count == 0) return NULL;
        if (!channel->held) {
            channel->held = malloc(HEADER_BYTES + CIPHERTEXT_MAXIMUM);
            channel->held_count = 0;
            there = 0;
        }
        if (!channel->held) {
            *fault = "no memory for a record";
            return NULL;
        }
        size_t part = wanted - there < channel->in_count ? wanted - there : channel->in_count;
        memcpy(channel->held + there, channel->in, part);
        channel->held_count = there + part;
        channel->in += part;
        channel->in_count -= part;
    }
}

/* The peer's handshake goes on: tickets, which nobody uses, and key updates. NULL: all is well. */
static const char *read_handshake(tls_channel *channel, const uint8_t *bytes, size_t count)
{
    static const char fault[] = "a message of the handshake that cannot be";
    while (count > 0) {
        size_t length = count >= 4 ? (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3] : 0;
        if (count < 4 || length > count - 4) return fault;
        if (bytes[0] == KEY_UPDATE) {
            /* It is the last under its key: nothing follows in its record (5.1). */
            if (length != 1 || bytes[4] > 1 || count != 5) return fault;
            if (!next_secret(&channel->receives)) return "the next key could not be made";
            if (bytes[4] == 1) channel->owes_update = true;
        } else if (bytes[0] != NEW_SESSION_TICKET || channel->context->is_server) {
            return fault;
        }
        bytes += 4 + length;
        count -= 4 + length;
    }
    return NULL;
}

static const char *words_of_alert(const uint8_t *bytes, size_t count)
{
    const char *words = count == 2 ? ERR_reason_error_string(ERR_PACK(ERR_LIB_SSL, 0, SSL_AD_REASON_OFFSET + bytes[1])) : NULL;
    return words ? words : "an alert of TLS that nobody knows";
}

/* Opens a record into `out`, which has room for all of it. Returns the bytes of the application, -1: failed, -2: the peer ended the
 * connection. */
static ssize_t open_record(tls_channel *channel, const uint8_t *record, size_t count, uint8_t *out)
{
    size_t inner = count - HEADER_BYTES - AEAD_TAG_BYTES;
    uint8_t tag[AEAD_TAG_BYTES];
    if (!begin(&channel->receives, false, record)) return tls_fail(channel, "no memory for a key");
    memcpy(tag, record + HEADER_BYTES + inner, sizeof tag);
    aead_update(channel->receives.cipher, out, record + HEADER_BYTES, inner);
    if (!aead_finish(channel->receives.cipher, tag)) return tls_fail(channel, "a record was changed on the way");
    while (inner > 0 && out[inner - 1] == 0) inner--;
    if (inner == 0 || inner > INNER_MAXIMUM) return tls_fail(channel, "a record without a type");
    inner--;
    channel->empty_in_row = out[inner] == APPLICATION_DATA && inner > 0 ? 0 : channel->empty_in_row + 1;
    if (channel->empty_in_row > EMPTY_MAXIMUM) return tls_fail(channel, "too many records without bytes");
    const char *fault = NULL;
    switch (out[inner]) {
    case APPLICATION_DATA: return (ssize_t)inner;
    case HANDSHAKE: fault = inner > 0 ? read_handshake(channel, out, inner) : "an empty message of the handshake"; break;
    case ALERT:
        if (inner == 2 && out[1] == CLOSE_NOTIFY) return -2;
        fault = words_of_alert(out, inner);
        break;
    default: fault = "a record of an unknown type";
    }
    return fault ? tls_fail(channel, fault) : 0;
}

/* What was opened earlier, into `room`. */
static size_t take_plain(tls_channel *channel, uint8_t *room, size_t count)
{
    size_t rest = channel->plain ? channel->plain_end - channel->plain_begin : 0;
    size_t part = rest < count ? rest : count;
    if (part > 0) memcpy(room, channel->plain + channel->plain_begin, part);
    channel->plain_begin += part;
    if (channel->plain && channel->plain_begin == channel->plain_end) drop(&channel->plain, CIPHERTEXT_MAXIMUM);
    return part;
}

ssize_t tls_open(tls_channel *channel, void *room, size_t count)
{
    if (!channel->is_open) return tls_fail(channel, "the handshake is not complete");
    size_t total = take_plain(channel, room, count), length = 0;
    ssize_t opened = channel->end;
    while (total < count && opened >= 0) {
        const char *fault = NULL;
        const uint8_t *record = next_record(channel, &length, &fault);
        if (!record) {
            opened = fault ? tls_fail(channel, fault) : 0;
            break;
        }
        bool has_room = count - total >= length - HEADER_BYTES - AEAD_TAG_BYTES;
        if (!has_room && !(channel->plain = malloc(CIPHERTEXT_MAXIMUM))) {
            opened = tls_fail(channel, "no memory for a record");
            break;
        }
        opened = open_record(channel, record, length, has_room ? (uint8_t *)room + total : channel->plain);
        if (record == channel->held) {
            free(channel->held);
            channel->held = NULL;
        }
        if (has_room) {
            if (opened > 0) total += (size_t)opened;
        } else {
            channel->plain_begin = 0;
            channel->plain_end = opened > 0 ? (size_t)opened : 0;
            total += take_plain(channel, (uint8_t *)room + total, count - total);
        }
    }
    if (!channel->keeps_buffers) rest(channel);
    channel->end = opened < 0 ? opened : 0;
    return total > 0 ? (ssize_t)total : opened;   /* What came before an end is worth reading first. */
}

/* ---- What leaves ---- */

void tls_renew_keys(tls_channel *channel) { channel->sealed |= (uint64_t)1 << UPDATE_BIT; }

typedef struct {
    const struct iovec *iovecs;
    size_t count, index, offset;
} source;

/* Seals up to a record of the bytes at `from`, behind which comes the type, into `out`. Returns the record's bytes, 0: nothing is left,
 * -1: failed. `taken`: plain bytes in it. */
static ssize_t seal_record(tls_channel *channel, source *from, uint8_t type, uint8_t *out, size_t *taken)
{
    size_t length = 0;
    for (size_t index = from->index; index < from->count && length < TLS_RECORD_BYTES; index++) {
        length += from->iovecs[index].iov_len - (index == from->index ? from->offset : 0);
    }
    if (length > TLS_RECORD_BYTES) length = TLS_RECORD_BYTES;
    if (length == 0) return 0;
    size_t inner = length + 1, sealed = inner + AEAD_TAG_BYTES;
    uint8_t header[HEADER_BYTES] = {APPLICATION_DATA, 3, 3, (uint8_t)(sealed >> 8), (uint8_t)sealed};
    memcpy(out, header, sizeof header);
    if (!begin(&channel->sends, true, header)) return tls_fail(channel, "no memory for a key");
    aead *cipher = channel->sends.cipher;
    uint8_t *body = out + HEADER_BYTES;
    size_t done = 0, filled = 0;     /* Encrypted; copied behind them, to be encrypted in place. */
    while (done + filled < length) {
        size_t rest = from->iovecs[from->index].iov_len - from->offset;
        size_t part = rest < length - done - filled ? rest : length - done - filled;
        const uint8_t *bytes = (const uint8_t *)from->iovecs[from->index].iov_base + from->offset;
        if (part < GATHERED_BYTES) {
            memcpy(body + done + filled, bytes, part);
            filled += part;
        } else {
            aead_update(cipher, body + done, body + done, filled);
            done += filled;
            filled = 0;
            aead_update(cipher, body + done, bytes, part);
            done += part;
        }
        from->offset += part;
        if (from->offset == from->iovecs[from->index].iov_len) {
            from->index++;
            from->offset = 0;
        }
    }
    body[length] = type;
    aead_update(cipher, body + done, body + done, filled + 1);
    *taken = length;
    return aead_finish(cipher, body + inner) ? (ssize_t)(HEADER_BYTES + sealed) : tls_fail(channel, "bytes could not be sealed");
}

/* The last record under this key (4.6.3). */
static ssize_t seal_update(tls_channel *channel, bool asks, uint8_t *out)
{
    uint8_t message[] = {KEY_UPDATE, 0, 0, 1, asks};
    struct iovec piece = {message, sizeof message};
    source from = {&piece, 1, 0, 0};
    size_t taken = 0;
    ssize_t bytes = seal_record(channel, &from, HANDSHAKE, out, &taken);
    channel->sealed = 0;
    channel->owes_update = false;
    if (bytes < 0) return bytes;
    return next_secret(&channel->sends) ? bytes : tls_fail(channel, "the next key could not be made");
}

ssize_t tls_seal(tls_channel *channel, const struct iovec *iovecs, size_t count, void *sealed, size_t room, size_t *taken)
{
    uint8_t *out = sealed;
    size_t filled = channel->spill_count;
    *taken = 0;
    if (filled > room || (count > 0 && !channel->is_open)) return tls_fail(channel, "bytes could not be sealed");
    if (filled > 0) memcpy(out, channel->spill, filled);
    free(channel->spill);
    channel->spill = NULL;
    channel->spill_count = 0;
    if (!channel->is_open) return (ssize_t)filled;
    bool is_due = channel->sealed >> UPDATE_BIT != 0 || channel->sends.sequence >> UPDATE_RECORDS_BIT != 0;
    if ((is_due || channel->owes_update) && room - filled >= TLS_RECORD_OVERHEAD) {
        ssize_t bytes = seal_update(channel, is_due, out + filled);
        if (bytes < 0) return bytes;
        filled += (size_t)bytes;
    }
    source from = {iovecs, count, 0, 0};
    while (room - filled >= TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD) {
        size_t plain = 0;
        ssize_t bytes = seal_record(channel, &from, APPLICATION_DATA, out + filled, &plain);
        if (bytes < 0) return bytes;
        if (bytes == 0) break;
        filled += (size_t)bytes;
        *taken += plain;
        channel->sealed += plain;
    }
    if (!channel->keeps_buffers) rest(channel);
    return (ssize_t)filled;
}
