/* Both C and C++. */
#include <evenkeel/evenkeel.h>

#include <stdio.h>

int main(void)
{
    ek_tensor *t = ek_zeros(EK_F32, EK_SHAPE(2, 3));
    if (t == NULL || ek_tensor_numel(t) != 6)
        return 1;
    ek_tensor_free(t);
    printf("evenkeel %s\n", ek_version());
    return 0;
}
