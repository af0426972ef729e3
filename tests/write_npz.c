/* Writes the archives that read_npz.py reads with NumPy: write_npz FOLDER. */
#include <evenkeel/evenkeel.h>

#include "zip.h"

#include <stdio.h>

static ek_status write_one(const char *folder, const char *name, int level, uint64_t zip64_from)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    ek_rng rng = ek_rng_seed(0);
    ek_tensor *tensors[] = {ek_arange(EK_F32, 0, 6, 1), ek_arange(EK_F64, 0, 2, 0.25), ek_full(EK_I64, EK_SCALAR, -7),
                            ek_zeros(EK_F32, EK_SHAPE(0, 3)), ek_uniform(EK_F32, EK_SHAPE(100, 1000), 0, 1, &rng)};
    const char *const names[] = {"0.weight", "f64", "1.num_batches_tracked", "empty", "ünïcode"};
    ek_npz_writer *writer = ek_npz_writer_new(path, level);
    ek_status status = writer ? EK_OK : ek_last_status();
    if (writer && zip64_from)
        ek_npz_writer_zip64_from(writer, zip64_from);
    for (int i = 0; i < 5; i++) {
        if (status == EK_OK)
            status = ek_npz_writer_add(writer, names[i], tensors[i]);
        ek_tensor_free(tensors[i]);
    }
    if (status == EK_OK)
        return ek_npz_writer_close(writer);
    ek_npz_writer_abandon(writer);
    return status;
}

int main(int argc, char **argv)
{
    if (argc == 2 && write_one(argv[1], "stored.npz", 0, 0) == EK_OK &&
        write_one(argv[1], "deflated.npz", 6, 0) == EK_OK && write_one(argv[1], "zip64.npz", 1, 1) == EK_OK)
        return 0;
    fprintf(stderr, "write_npz FOLDER: %s\n", ek_last_error());
    return 1;
}
