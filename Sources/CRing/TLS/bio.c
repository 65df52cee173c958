/* The BIO between OpenSSL and the memory of a channel. */
#include "internal.h"

#include <openssl/bio.h>
#include <pthread.h>
#include <string.h>

static int bio_read(BIO *bio, char *bytes, int count)
{
    tls_channel *channel = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (channel->in_count == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t taken = (size_t)count < channel->in_count ? (size_t)count : channel->in_count;
    memcpy(bytes, channel->in, taken);
    channel->in += taken;
    channel->in_count -= taken;
    return (int)taken;
}

static int bio_write(BIO *bio, const char *bytes, int count)
{
    tls_channel *channel = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    /* A handshake or an alert: small, and so is what a peer can make of it. */
    if (channel->spill_count + (size_t)count > SPILL_MAXIMUM) return -1;
    uint8_t *larger = realloc(channel->spill, channel->spill_count + (size_t)count);
    if (!larger) return -1;
    memcpy(larger + channel->spill_count, bytes, (size_t)count);
    channel->spill = larger;
    channel->spill_count += (size_t)count;
    return count;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_PUSH || command == BIO_CTRL_POP;
}

static BIO_METHOD *method;           /* One for the process. NULL: no memory. */

static void make_method(void)
{
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tele");
    if (!method) return;
    BIO_meth_set_read(method, bio_read);
    BIO_meth_set_write(method, bio_write);
    BIO_meth_set_ctrl(method, bio_control);
}

BIO *tls_bio(tls_channel *channel)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_method);
    if (!method) return NULL;
    BIO *bio = BIO_new(method);
    if (!bio) return NULL;
    BIO_set_data(bio, channel);
    BIO_set_init(bio, 1);
    return bio;
}
