/* Files for tests: a folder that is gone afterwards, bytes in and out. */
#ifndef EK_TEST_SUPPORT_FILES_H
#define EK_TEST_SUPPORT_FILES_H

#include "support.h"

/* "<a new folder under $TMPDIR or /tmp>/name"; one folder per test, made on first use.  The text lives as long as the
 * process. */
const char *temp_path(const char *name);
/* Deletes the folder and what is in it; for checked teardown fixtures and the end of a test. */
void remove_temp(void);
/* How many files there are in it. */
int count_temp(void);

void write_file(const char *path, const void *bytes, size_t n);
/* Writes one byte of a file that is there, and cuts one to n bytes: much faster than writing it anew. */
void write_byte(const char *path, size_t at, unsigned char byte);
void cut_file(const char *path, size_t n);
void write_gzip(const char *path, const void *bytes, size_t n);
/* The whole file; to be freed with free(). */
unsigned char *read_file(const char *path, size_t *n);

/* Is there a folder SHARED_DATA_DIR/mnist?  Says so on stdout when there is not: the caller returns. */
bool have_mnist(const char *test);
/* The same for the surnames in SHARED_DATA_DIR/names. */
bool have_names(const char *test);

#endif
