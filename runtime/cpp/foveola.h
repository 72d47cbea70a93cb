/* The C interface: open a bundle, answer about images, test it, close it.
 *
 * Laws:
 * - No exception crosses it, and nothing is kept outside a handle but the calling thread's last error.
 * - A function returns 0, or the exit code of the agreement (runtime/errors.py): 1 refused, 2 usage, 4 an engine is
 *   missing, 5 not vouched for. After any code but 0 there is no answer, and no part of one.
 * - Text goes into the caller's buffer. `needed` tells its length with the zero at its end; where the buffer is too
 *   small nothing is written and the code is FOVEOLA_BUFFER.
 * - Several threads may use a handle; answers are given one after the other.
 */
#ifndef FOVEOLA_H
#define FOVEOLA_H
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FOVEOLA_BUFFER (-1)

typedef struct foveola_handle foveola_handle;

/* Open a bundle that the key's holder vouches for. `key` is a PEM file; NULL takes FOVEOLA_KEY, else NAME.pub beside.
 */
int foveola_open(const char* bundle, const char* key, foveola_handle** handle);

/* Answer about the bytes of one image file, as JSON: the object `prediction` of `foveola predict --json`. */
int foveola_infer(foveola_handle* handle, const void* image, size_t size, char* json, size_t capacity, size_t* needed);

/* Run the golden images, as JSON. Code 1 where the test fails; the JSON then says why. */
int foveola_selftest(foveola_handle* handle, char* json, size_t capacity, size_t* needed);

/* The calling thread's last error, one line; empty where there was none. Good until its next call. */
const char* foveola_last_error(void);

void foveola_close(foveola_handle* handle);

#ifdef __cplusplus
}
#endif
#endif
