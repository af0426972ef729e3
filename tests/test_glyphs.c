/* The embedded data set. */
#include "support.h"

static const float *image(const ek_dataset *data, int64_t i)
{
    return (const float *)ek_tensor_const_data(ek_dataset_x(data)) + i * 784;
}

START_TEST(shapes_and_ranges)
{
    ek_dataset *data = ek_dataset_glyphs(200, 3, EK_TRAIN);
    ck_made(data);
    char text[200];
    ck_assert_str_eq(ek_shape_text(ek_tensor_shape(ek_dataset_x(data)), text, sizeof text), "(200, 1, 28, 28)");
    ck_assert_int_eq(ek_tensor_dtype(ek_dataset_x(data)), EK_F32);
    ck_assert_int_eq(ek_dataset_num_classes(data), 10);
    for (int64_t i = 0; i < 200; i++) {
        float low = 1, high = 0;
        for (int64_t j = 0; j < 784; j++) {
            low = fminf(low, image(data, i)[j]);
            high = fmaxf(high, image(data, i)[j]);
        }
        ck_assert(low >= 0 && high <= 1);
        ck_assert_msg(high - low > 0.25f, "image %lld shows nothing", (long long)i);
    }
    ek_dataset_free(data);
}
END_TEST

/* Every ten consecutive images hold every class once, not always in the same order. */
START_TEST(balanced_classes)
{
    ek_dataset *data = ek_dataset_glyphs(1000, 0, EK_TRAIN);
    const int64_t *label = ek_data_i64(ek_dataset_y(data));
    int64_t in_order = 0;
    for (int64_t i = 0; i < 1000; i += 10) {
        int seen = 0;
        for (int64_t j = i; j < i + 10; j++) {
            seen |= 1 << label[j];
            in_order += label[j] == label[j - i];
        }
        ck_assert_int_eq(seen, 1023);
    }
    ck_assert_int_lt(in_order, 200);
    ek_dataset_free(data);
}
END_TEST

START_TEST(function_of_seed_split_and_index)
{
    ek_dataset *a = ek_dataset_glyphs(300, 5, EK_TRAIN), *same = ek_dataset_glyphs(40, 5, EK_TRAIN);
    ck_ok(ek_set_num_threads(3));
    ek_dataset *threads = ek_dataset_glyphs(300, 5, EK_TRAIN);
    ek_dataset *other[] = {ek_dataset_glyphs(40, 5, EK_TEST), ek_dataset_glyphs(40, 6, EK_TRAIN)};
    ek_dataset *first = ek_dataset_slice(a, 0, 40);
    ck_assert(ek_tensor_equal(ek_dataset_x(first), ek_dataset_x(same)));
    ck_assert(ek_tensor_equal(ek_dataset_y(first), ek_dataset_y(same)));
    ck_assert(ek_tensor_equal(ek_dataset_x(a), ek_dataset_x(threads)));
    for (int o = 0; o < 2; o++)
        for (int64_t i = 0; i < 40; i++)
            for (int64_t j = 0; j < 40; j++)
                ck_assert(memcmp(image(other[o], i), image(a, j), 784 * sizeof(float)) != 0);
    ek_dataset *all[] = {a, same, threads, other[0], other[1], first};
    for (int i = 0; i < 6; i++)
        ek_dataset_free(all[i]);
}
END_TEST

/* Softmax regression by hand, with momentum: its accuracy on held-out images must stay under 85 %, and far above
 * chance. */
START_TEST(too_hard_for_a_linear_model)
{
    enum { TRAIN = 4096, TEST = 1000, BATCH = 32, EPOCHS = 12, FEATURES = 785 };
    static float w[10][FEATURES], velocity[10][FEATURES];
    ek_dataset *train = ek_dataset_glyphs(TRAIN, 0, EK_TRAIN), *test = ek_dataset_glyphs(TEST, 0, EK_TEST);
    ek_loader *loader = ek_loader_new(train, BATCH, NULL);
    ek_batch batch;
    for (int epoch = 0; epoch < EPOCHS; epoch++)
        while (ek_loader_next(loader, &batch) == EK_OK) {
            static float gradient[10][FEATURES];
            memset(gradient, 0, sizeof gradient);
            for (int64_t i = 0; i < BATCH; i++) {
                const float *x = ek_data_f32(batch.x) + i * 784;
                double p[10], sum = 0;
                for (int c = 0; c < 10; c++) {
                    float z = w[c][784];
                    for (int j = 0; j < 784; j++)
                        z += w[c][j] * x[j];
                    sum += p[c] = exp(z);
                }
                for (int c = 0; c < 10; c++) {
                    float d = (float)(p[c] / sum - (c == ek_data_i64(batch.y)[i])) / BATCH;
                    for (int j = 0; j < 784; j++)
                        gradient[c][j] += d * x[j];
                    gradient[c][784] += d;
                }
            }
            for (int c = 0; c < 10; c++)
                for (int j = 0; j < FEATURES; j++) {
                    velocity[c][j] = 0.9f * velocity[c][j] + gradient[c][j];
                    w[c][j] -= 0.01f * velocity[c][j];
                }
        }
    int correct = 0;
    for (int64_t i = 0; i < TEST; i++) {
        const float *x = image(test, i);
        float best = -INFINITY;
        int answer = 0;
        for (int c = 0; c < 10; c++) {
            float z = w[c][784];
            for (int j = 0; j < 784; j++)
                z += w[c][j] * x[j];
            answer = z > best ? c : answer;
            best = fmaxf(best, z);
        }
        correct += answer == ek_data_i64(ek_dataset_y(test))[i];
    }
    double accuracy = (double)correct / TEST;
    printf("linear model on glyphs: %.1f %% right\n", 100 * accuracy);
    ck_assert_double_lt(accuracy, 0.85);
    ck_assert_double_gt(accuracy, 0.5);
    ek_loader_free(loader);
    ek_dataset_free(train);
    ek_dataset_free(test);
}
END_TEST

/* … and a small convolutional net with BatchNorm passes 95 %. */
START_TEST(easy_for_a_small_convolutional_net)
{
    ek_dataset *train = ek_dataset_glyphs(4096, 0, EK_TRAIN), *test = ek_dataset_glyphs(1000, 0, EK_TEST);
    ek_conv_layer_opts half = ek_conv_layer_opts_default();
    half.stride[0] = half.stride[1] = 2;
    half.padding[0] = half.padding[1] = 1;
    ek_module *net = ek_sequential(
        ek_conv2d_layer(1, 8, 3, &half), ek_batch_norm2d(8, NULL), ek_relu_layer(),
        ek_conv2d_layer(8, 16, 3, &half), ek_batch_norm2d(16, NULL), ek_relu_layer(), ek_flatten_layer(),
        ek_linear(784, 64, NULL), ek_batch_norm1d(64, NULL), ek_relu_layer(), ek_linear(64, 10, NULL));
    ck_made(net);
    ck_ok(ek_module_init(net, 0));
    ek_sgd_opts sgd = ek_sgd_opts_default();
    sgd.momentum = 0.9;
    ek_optimizer *optimizer = ek_sgd(net, 0.05, &sgd);
    ek_loader *loader = ek_loader_new(train, 32, NULL);
    ek_tape *tape = ek_tape_new();
    ek_batch batch;
    for (int epoch = 0; epoch < 6; epoch++) {
        if (epoch == 4)
            ck_ok(ek_optimizer_set_lr(optimizer, 0.01));
        while (ek_loader_next(loader, &batch) == EK_OK) {
            ek_tensor *loss = ek_cross_entropy(tape, ek_forward(net, tape, batch.x), batch.y, NULL);
            ck_ok(ek_backward(tape, loss));
            ck_ok(ek_optimizer_step(optimizer));
            ek_optimizer_zero_grad(optimizer);
            ek_tape_reset(tape);
        }
    }
    ek_module_eval(net);
    int64_t correct = ek_count_correct(ek_forward(net, tape, ek_dataset_x(test)), ek_dataset_y(test));
    printf("small convolutional net on glyphs: %.1f %% right\n", (double)correct / 10);
    ck_assert_int_gt(correct, 950);
    ek_tape_free(tape);
    ek_loader_free(loader);
    ek_optimizer_free(optimizer);
    ek_module_free(net);
    ek_dataset_free(train);
    ek_dataset_free(test);
}
END_TEST

START_TEST(errors)
{
    ck_assert_ptr_null(ek_dataset_glyphs(0, 0, EK_TRAIN));
    ck_error(EK_ERR_ARGUMENT, "dataset_glyphs: expected at least one image and EK_TRAIN or EK_TEST, got 0 and 0");
    ck_assert_ptr_null(ek_dataset_glyphs(1, 0, (ek_split)2));
    ck_error(EK_ERR_ARGUMENT, "got 1 and 2");
    ck_assert_ptr_null(ek_dataset_glyphs(INT64_MAX / 8, 0, EK_TRAIN));
    ck_assert_int_eq(ek_last_status(), EK_ERR_SHAPE);
}
END_TEST

int main(void)
{
    return RUN_TESTS("glyphs", shapes_and_ranges, balanced_classes, function_of_seed_split_and_index,
                     too_hard_for_a_linear_model, easy_for_a_small_convolutional_net, errors);
}
