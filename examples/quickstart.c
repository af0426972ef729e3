/* Trains a small classifier with BatchNorm on the embedded images; then BatchNorm on four numbers, to check by hand. */
#include <evenkeel/evenkeel.h>
#include <stdio.h>

int main(void)
{
    ek_dataset *train = ek_dataset_glyphs(4000, 1, EK_TRAIN), *test = ek_dataset_glyphs(1000, 1, EK_TEST);
    ek_loader *loader = ek_loader_new(train, 50, NULL);
    ek_module *net = ek_sequential(ek_flatten_layer(), ek_linear(784, 128, NULL), ek_batch_norm1d(128, NULL),
                                   ek_relu_layer(), ek_linear(128, 10, NULL));
    ek_optimizer *optimizer = ek_adam(net, 1e-3, NULL);
    ek_tape *tape = ek_tape_new();

    for (int epoch = 1; epoch <= 3; epoch++) {
        ek_batch batch;
        double total = 0;
        while (ek_loader_next(loader, &batch) == EK_OK) {
            ek_tensor *loss = ek_cross_entropy(tape, ek_forward(net, tape, batch.x), batch.y, NULL);
            if (ek_backward(tape, loss) != EK_OK) {
                fprintf(stderr, "%s\n", ek_last_error());
                return 1;
            }
            total += ek_item(loss);
            ek_optimizer_step(optimizer);
            ek_optimizer_zero_grad(optimizer);
            ek_tape_reset(tape);
        }
        printf("epoch %d: mean loss %.2f\n", epoch, total / (double)ek_loader_num_batches(loader));
    }
    ek_module_eval(net); /* running statistics from here on */
    int64_t correct = ek_count_correct(ek_forward(net, tape, ek_dataset_x(test)), ek_dataset_y(test));
    printf("%lld of %lld test images right\n\n", (long long)correct, (long long)ek_dataset_size(test));

    /* By hand: the mean of 1, 2, 3, 6 is 3 and the variance 14/4 = 3.5, so y = (x − 3)/√3.5; the running statistics
     * move a tenth of the way from 0 to 3 and from 1 to the unbiased 14/3. */
    const float numbers[4] = {1, 2, 3, 6};
    ek_tensor *x = ek_from_array(EK_F32, EK_SHAPE(4, 1), numbers);
    ek_module *norm = ek_batch_norm1d(1, NULL);
    ek_tensor *y = ek_forward(norm, tape, x);
    printf("BatchNorm of 1, 2, 3, 6: %.4f %.4f %.4f %.4f\n", ek_tensor_at(y, 0), ek_tensor_at(y, 1),
           ek_tensor_at(y, 2), ek_tensor_at(y, 3));
    printf("running_mean %.4f, running_var %.4f\n", ek_item(ek_module_buffer(norm, "running_mean")),
           ek_item(ek_module_buffer(norm, "running_var")));

    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(norm);
    ek_optimizer_free(optimizer);
    ek_module_free(net);
    ek_loader_free(loader);
    ek_dataset_free(train);
    ek_dataset_free(test);
    return 0;
}
