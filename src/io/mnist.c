/* Data sets from IDX files, and from a folder with MNIST's file names. */
#include "dataset.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* images (N, H, W) → float32 (N, 1, H, W) */
static ek_tensor *read_images(const char *who, const char *path)
{
    ek_idx_type type;
    ek_tensor *x = ek_idx_load(who, path, EK_F32, &type);
    if (!x)
        return NULL;
    if (x->shape.ndim != 3) {
        ek_fail(EK_ERR_SHAPE, "%s: expected images (N, H, W) in %s, got %s", who, path, EK_TEXT(x->shape));
    } else if (type != EK_IDX_U8 && type != EK_IDX_F32 && type != EK_IDX_F64) {
        ek_fail(EK_ERR_DTYPE, "%s: expected uint8, float32 or float64 pixels in %s, got int%d", who, path,
                type == EK_IDX_I8 ? 8 : type == EK_IDX_I16 ? 16 : 32);
    } else {
        float *pixel = x->data;
        for (int64_t i = 0; type == EK_IDX_U8 && i < x->numel; i++)
            pixel[i] /= 255;
        x->shape = EK_SHAPE(x->shape.dim[0], 1, x->shape.dim[1], x->shape.dim[2]);
        return x;
    }
    ek_tensor_free(x);
    return NULL;
}

static ek_dataset *from_idx(const char *who, const char *images_path, const char *labels_path, int64_t num_classes)
{
    ek_idx_type type;
    ek_tensor *x = read_images(who, images_path);
    ek_tensor *y = x ? ek_idx_load(who, labels_path, EK_I64, &type) : NULL;
    return ek_dataset_own(who, x, y, num_classes);
}

ek_dataset *ek_dataset_from_idx(const char *images_path, const char *labels_path, int64_t num_classes)
{
    return from_idx("dataset_from_idx", images_path, labels_path, num_classes);
}

/* "folder/name" or "folder/name.gz", whichever is there; to be released.  NULL when neither is. */
static char *find_file(const char *who, const char *folder, const char *name)
{
    size_t bytes = strlen(folder) + strlen(name) + sizeof "/.gz";
    char *path = ek_alloc(bytes);
    if (!path)
        return NULL;
    snprintf(path, bytes, "%s/%s", folder, name);
    if (access(path, F_OK) != 0) {
        snprintf(path, bytes, "%s/%s.gz", folder, name);
        if (access(path, F_OK) != 0) {
            ek_fail(EK_ERR_IO, "%s: expected %s or %s.gz in %s, found neither", who, name, name, folder);
            ek_release(path);
            return NULL;
        }
    }
    return path;
}

ek_dataset *ek_dataset_from_mnist(const char *folder, ek_split split)
{
    const char *who = "dataset_from_mnist";
    if (!folder || (split != EK_TRAIN && split != EK_TEST)) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected a folder and EK_TRAIN or EK_TEST, got %s and %d", who,
                folder ? folder : "NULL", (int)split);
        return NULL;
    }
    bool train = split == EK_TRAIN;
    char *images = find_file(who, folder, train ? "train-images-idx3-ubyte" : "t10k-images-idx3-ubyte");
    char *labels =
        images ? find_file(who, folder, train ? "train-labels-idx1-ubyte" : "t10k-labels-idx1-ubyte") : NULL;
    ek_dataset *data = labels ? from_idx(who, images, labels, 10) : NULL;
    ek_release(images);
    ek_release(labels);
    return data;
}
