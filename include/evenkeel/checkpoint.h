/* Files: .npz archives, saving and loading a module. */
#ifndef EVENKEEL_CHECKPOINT_H
#define EVENKEEL_CHECKPOINT_H

#include "layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- writing .npz ------------------------------------------------------------------------------------------------ */
/* An .npz archive is a zip of .npy arrays: numpy.load reads it by name.  The writer fills a temporary file beside
 * `path`; only ek_npz_writer_close puts it in place, so that `path` holds the old archive or the whole new one, also
 * after a crash. */
typedef struct ek_npz_writer ek_npz_writer;

/* level 0 stores the arrays as they are, 1 (fast) to 9 (small) deflates them. */
EK_API ek_npz_writer *ek_npz_writer_new(const char *path, int level);
/* Adds a tensor under a name (1 to 1024 bytes, no control characters, not there yet: EK_ERR_ARGUMENT, and the writer
 * goes on without).  Any type and shape: float32 → '<f4', float64 → '<f8', int64 → '<i8', C order. */
EK_API ek_status ek_npz_writer_add(ek_npz_writer *writer, const char *name, const ek_tensor *tensor);
/* Writes the directory, syncs, renames to `path`, syncs the folder.  Frees the writer in any case; on failure (here or
 * at an earlier add that could not write) the temporary file is deleted and `path` is as it was, save for a folder that
 * cannot be synced, when the new archive is in place already. */
EK_API ek_status ek_npz_writer_close(ek_npz_writer *writer);
/* Deletes the temporary file and frees the writer; NULL is left alone. */
EK_API void ek_npz_writer_abandon(ek_npz_writer *writer);

/* ---- reading .npz ------------------------------------------------------------------------------------------------ */
typedef struct ek_npz ek_npz;

/* Opens an archive and checks its directory: what numpy.savez and numpy.savez_compressed write, with zip64 fields and
 * data descriptors.  EK_ERR_FORMAT for a file that is truncated, is no zip, holds something that is not .npy, entries
 * that overlap or lie outside the file, or one name twice. */
EK_API ek_npz *ek_npz_open(const char *path);
EK_API int64_t ek_npz_count(const ek_npz *npz);
/* Name of entry i in the archive's order, without ".npy"; NULL with EK_ERR_ARGUMENT when there is no such entry.
 * Belongs to the archive. */
EK_API const char *ek_npz_name(const ek_npz *npz, int64_t i);
/* The entry of that name, −1 (and no error) when there is none. */
EK_API int64_t ek_npz_find(const ek_npz *npz, const char *name);
/* Reads one array; the tensor is the caller's.  '<f4' and '<f8' keep their type; bool, int8 to int64, uint8 to uint32
 * become int64; other types are EK_ERR_DTYPE.  An array in Fortran order comes out in C order.  Sizes are checked
 * before memory is taken, the CRC afterwards (EK_ERR_FORMAT).  The second form by index. */
EK_API ek_tensor *ek_npz_read(const ek_npz *npz, const char *name);
EK_API ek_tensor *ek_npz_read_at(const ek_npz *npz, int64_t i);
EK_API void ek_npz_close(ek_npz *npz);

/* ---- a module's parameters and buffers --------------------------------------------------------------------------- */
/* Writes every parameter and buffer of `module` to an .npz archive, under the names of PyTorch's state_dict
 * ("0.weight", "1.running_mean", "1.num_batches_tracked").  The file at `path` is replaced whole or not at all. */
EK_API ek_status ek_save(ek_module *module, const char *path);
/* Reads them back.  The archive has to hold exactly the module's names, each with its shape and type; a
 * num_batches_tracked that is missing reads as 0.  Otherwise EK_ERR_FORMAT with everything that is missing, unexpected,
 * of another shape or of another type, and the module is as it was.  Gradients are left alone. */
EK_API ek_status ek_load(ek_module *module, const char *path);

#ifdef __cplusplus
}
#endif
#endif
