/* One connection. */
#include "internal.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UPDATE_BIT = 36 };            /* A key update each 64 GiB. */

tls_channel *tls_channel_open(tls_context *context, const char *host)
{
    tls_channel *channel = calloc(1, sizeof *channel);
    if (!channel) return NULL;
    channel->context = context;
    context->references++;
    channel->ssl = SSL_new(context->ssl);
    BIO *bio = channel->ssl ? tls_bio(channel) : NULL;
    if (!bio) {
        tls_channel_close(channel);
        return NULL;
    }
    SSL_set_bio(channel->ssl, bio, bio);
    SSL_set_app_data(channel->ssl, channel);
    if (context->is_server) {
        SSL_set_accept_state(channel->ssl);
        return channel;
    }
    SSL_set_connect_state(channel->ssl);
    if (!context->keys && host) {
        unsigned char number[16];
        bool is_number = inet_pton(AF_INET, host, number) == 1 || inet_pton(AF_INET6, host, number) == 1;
        int failed = is_number ? !X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(channel->ssl), host)
                               : !SSL_set1_host(channel->ssl, host) || !SSL_set_tlsext_host_name(channel->ssl, host);
        if (failed) {
            tls_channel_close(channel);
            return NULL;
        }
    }
    return channel;
}

void tls_channel_close(tls_channel *channel)
{
    if (!channel) return;
    SSL_free(channel->ssl);
    ERR_clear_error();
    free(channel->spill);
    tls_context_release(channel->context);
    free(channel);
}

void tls_feed(tls_channel *channel, const void *bytes, size_t count)
{
    channel->in = bytes;
    channel->in_count = count;
}

void tls_keep_buffers(tls_channel *channel, bool keeps)
{
    if (keeps) SSL_clear_mode(channel->ssl, SSL_MODE_RELEASE_BUFFERS);
    else SSL_set_mode(channel->ssl, SSL_MODE_RELEASE_BUFFERS);
}

size_t tls_fed(const tls_channel *channel) { return channel->in_count; }
size_t tls_owed(const tls_channel *channel) { return channel->spill_count; }
const char *tls_peer(const tls_channel *channel) { return channel->is_open ? channel->peer : ""; }
const char *tls_reason(const tls_channel *channel) { return channel->reason; }

static int failed(tls_channel *channel, const char *otherwise)
{
    long verified = SSL_get_verify_result(channel->ssl);
    if (!channel->is_open && verified != X509_V_OK) {
        snprintf(channel->reason, sizeof channel->reason, "its certificate: %s", X509_verify_cert_error_string(verified));
        ERR_clear_error();
    } else {
        tls_explain(channel->reason, sizeof channel->reason, otherwise);
    }
    return -1;
}

/* The first DNS name of the peer's certificate, else its common name. */
static bool name_of_certificate(tls_channel *channel)
{
    X509 *certificate = SSL_get1_peer_certificate(channel->ssl);
    if (!certificate) return false;
    bool found = false;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    for (int index = 0; names && index < sk_GENERAL_NAME_num(names) && !found; index++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, index);
        if (name->type != GEN_DNS) continue;
        int count = ASN1_STRING_length(name->d.dNSName);
        if (count <= 0 || count >= TLS_IDENTITY_MAXIMUM) continue;
        memcpy(channel->peer, ASN1_STRING_get0_data(name->d.dNSName), (size_t)count);
        channel->peer[count] = 0;
        found = strlen(channel->peer) == (size_t)count;
    }
    GENERAL_NAMES_free(names);
    if (!found) {
        int count = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, channel->peer, TLS_IDENTITY_MAXIMUM);
        found = count > 0 && strlen(channel->peer) == (size_t)count;   /* "good\0evil" is nobody's name. */
    }
    X509_free(certificate);
    return found;
}

bool tls_is_trusted(const tls_channel *channel, const tls_context *context)
{
    X509 *certificate = SSL_get0_peer_certificate(channel->ssl);
    X509_STORE_CTX *check = certificate ? X509_STORE_CTX_new() : NULL;
    bool holds = check && X509_STORE_CTX_init(check, SSL_CTX_get_cert_store(context->ssl), certificate, SSL_get_peer_cert_chain(channel->ssl)) == 1
                 && X509_STORE_CTX_set_default(check, context->is_server ? "ssl_client" : "ssl_server") == 1
                 && X509_VERIFY_PARAM_set1(X509_STORE_CTX_get0_param(check), SSL_get0_param(channel->ssl)) == 1;
    if (holds) {
        X509_STORE_CTX_set_flags(check, X509_V_FLAG_NO_CHECK_TIME);
        holds = X509_verify_cert(check) == 1;
    }
    X509_STORE_CTX_free(check);
    ERR_clear_error();
    return holds;
}

/* OpenSSL is content; are we? */
static int judge(tls_channel *channel)
{
    const char *complaint = NULL;
    if (SSL_version(channel->ssl) != TLS1_3_VERSION) {
        complaint = "it speaks an older TLS";
    } else if (channel->context->keys) {
        /* A server with some certificate and without the key gets this far. */
        if (SSL_session_reused(channel->ssl) != 1) complaint = "it does not have the key";
        else if (!channel->context->is_server) strcpy(channel->peer, channel->context->keys[0].identity);
        else if (!channel->peer[0]) complaint = "it does not have the key";
    } else if (SSL_get_verify_result(channel->ssl) != X509_V_OK || !name_of_certificate(channel)) {
        complaint = "it has no certificate with a name";
    }
    if (!complaint) {
        channel->is_open = true;
        return 1;
    }
    snprintf(channel->reason, sizeof channel->reason, "%s", complaint);
    return -1;
}

int tls_handshake(tls_channel *channel)
{
    ERR_clear_error();
    int result = SSL_do_handshake(channel->ssl);
    if (result == 1) return judge(channel);
    return SSL_get_error(channel->ssl, result) == SSL_ERROR_WANT_READ ? 0 : failed(channel, "the handshake failed");
}

ssize_t tls_open(tls_channel *channel, void *room, size_t count)
{
    size_t total = 0;
    ERR_clear_error();
    while (total < count) {
        size_t taken = 0;
        if (SSL_read_ex(channel->ssl, (uint8_t *)room + total, count - total, &taken) == 1) {
            total += taken;
            continue;
        }
        int error = SSL_get_error(channel->ssl, 0);
        if (error == SSL_ERROR_WANT_READ || total > 0) break;   /* What came before an end is worth reading first. */
        if (error == SSL_ERROR_ZERO_RETURN) return -2;
        return failed(channel, "a record was changed on the way");
    }
    return (ssize_t)total;
}

/* Up to a record of plain bytes from the iovecs at (*index, *offset): where they are, if they are together, else gathered in
 * `record`. */
static size_t gather(const struct iovec *iovecs, size_t count, size_t *index, size_t *offset, uint8_t *record,
                     const uint8_t **plain)
{
    size_t filled = 0;
    if (*index < count && iovecs[*index].iov_len - *offset >= TLS_RECORD_BYTES) {
        *plain = (const uint8_t *)iovecs[*index].iov_base + *offset;
        *offset += TLS_RECORD_BYTES;
        return TLS_RECORD_BYTES;
    }
    *plain = record;
    while (*index < count && filled < TLS_RECORD_BYTES) {
        size_t rest = iovecs[*index].iov_len - *offset;
        size_t part = rest < TLS_RECORD_BYTES - filled ? rest : TLS_RECORD_BYTES - filled;
        memcpy(record + filled, (const uint8_t *)iovecs[*index].iov_base + *offset, part);
        filled += part;
        *offset += part;
        if (*offset == iovecs[*index].iov_len) {
            *index += 1;
            *offset = 0;
        }
    }
    return filled;
}

ssize_t tls_seal(tls_channel *channel, const struct iovec *iovecs, size_t count, void *sealed, size_t room, size_t *taken)
{
    uint8_t record[TLS_RECORD_BYTES];
    size_t index = 0, offset = 0;
    *taken = 0;
    if (channel->spill_count > room) return -1;
    if (channel->spill_count > 0) memcpy(sealed, channel->spill, channel->spill_count);
    channel->out = sealed;
    channel->out_room = room;
    channel->out_count = channel->spill_count;
    free(channel->spill);
    channel->spill = NULL;
    channel->spill_count = 0;
    ERR_clear_error();
    if (channel->sealed >> UPDATE_BIT != 0) {
        if (SSL_key_update(channel->ssl, SSL_KEY_UPDATE_REQUESTED) == 1) channel->sealed = 0;
    }
    bool holds = true;
    /* Room for the record, and for a key update before it. */
    while (holds && index < count && room - channel->out_count >= TLS_RECORD_BYTES + 2 * TLS_RECORD_OVERHEAD) {
        const uint8_t *plain;
        size_t bytes = gather(iovecs, count, &index, &offset, record, &plain), written = 0;
        if (bytes == 0) break;
        holds = SSL_write_ex(channel->ssl, plain, bytes, &written) == 1 && written == bytes;
        if (!holds) break;
        *taken += bytes;
        channel->sealed += bytes;
    }
    channel->out = NULL;
    return holds ? (ssize_t)channel->out_count : failed(channel, "bytes could not be sealed");
}

int tls_exporter(tls_channel *channel, uint8_t material[TLS_EXPORTER_BYTES])
{
    static const char label[] = "EXPORTER-tele-resume";
    return SSL_export_keying_material(channel->ssl, material, TLS_EXPORTER_BYTES, label, sizeof label - 1, NULL, 0, 0) == 1
               ? 0 : -1;
}
