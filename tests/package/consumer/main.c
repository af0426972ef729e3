/* Both C and C++.  Reaches into the parts of the library that link something else: zlib, OpenMP, OpenBLAS. */
#include <evenkeel/evenkeel.h>

#include <stdio.h>

int main(void)
{
    ek_tensor *t = ek_zeros(EK_F32, EK_SHAPE(2, 3));
    if (t == NULL || ek_tensor_numel(t) != 6)
        return 1;
    ek_tensor_free(t);
    if (ek_idx_read("no such file", EK_F32) != NULL || ek_last_status() != EK_ERR_IO)
        return 2;
    if (ek_set_num_threads(2) != EK_OK || ek_build_info()[0] == '\0')
        return 3;
    printf("evenkeel %s\n", ek_version());
    return 0;
}
