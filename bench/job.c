/* Our side of bench/compare.sh job: the small-batch experiment (examples/small_batch.c) with BatchNorm.
 *
 *   job export FILE [DIR]   writes what a peer needs to do the same: data, their order, the first weights
 *   job [DIR]               answers the driver (worker.h): `job bB` trains at batch size B, `job -` at 2, 4, 8 and 32;
 *                           each time for two epochs, and then measures the error on the held-out images
 *
 * DIR: MNIST's files; without it the embedded glyphs.
 */
#include <stdlib.h>
#include <string.h>

#include "small_net.h"
#include "worker.h"

enum { IMAGES = 4096, TEST_IMAGES = 2000, EPOCHS = 2, SEED = 1, N_BATCHES = 4, FEW_STEPS = 4 };

static const int64_t batches[N_BATCHES] = {2, 4, 8, 32};
static image_sets data;
/* The first images, for FEW_STEPS steps whose result everyone has to find.  After thirty at batch size 2 a difference
 * in the last bits of the weights has become one of several per cent of the loss, in PyTorch alone as well. */
static ek_dataset *few[N_BATCHES];
static int64_t wanted;  /* one batch size, or 0: all */

static void need(bool done)
{
    if (!done)
        bench_die("job", ek_last_error());
}

static void load(const char *folder)
{
    need(load_images(folder, IMAGES, TEST_IMAGES, &data) == EK_OK);
    for (int i = 0; i < N_BATCHES; i++) {
        few[i] = ek_dataset_slice(data.train, 0, FEW_STEPS * batches[i]);
        need(few[i] != NULL);
    }
}

/* ---- export ------------------------------------------------------------------------------------------------------ */

static ek_status add(void *writer, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    char full[128];
    (void)kind;
    snprintf(full, sizeof full, "net.%s", name);
    return ek_npz_writer_add(writer, full, tensor);
}

/* [EPOCHS, N]: which sample train_small_net() takes when. */
static void add_order(ek_npz_writer *writer, const char *name, ek_dataset *set)
{
    const int64_t n = ek_dataset_size(set);
    ek_loader_opts shuffled = ek_loader_opts_default();
    shuffled.seed = SEED;
    ek_loader *loader = ek_loader_new(set, 1, &shuffled);
    ek_tensor *order = ek_zeros(EK_I64, EK_SHAPE(EPOCHS, n));
    need(loader && order);
    for (int64_t i = 0; i < EPOCHS * n; i++) {
        ek_batch batch;
        if (i > 0 && i % n == 0)
            need(ek_loader_next(loader, &batch) == EK_DONE);
        need(ek_loader_next(loader, &batch) == EK_OK);
        ek_data_i64(order)[i] = batch.indices[0];
    }
    need(ek_npz_writer_add(writer, name, order) == EK_OK);
    ek_tensor_free(order);
    ek_loader_free(loader);
}

static void export_all(const char *path)
{
    ek_npz_writer *writer = ek_npz_writer_new(path, 0);
    ek_module *net = small_net("BN");
    need(writer && net && ek_module_init(net, SEED) == EK_OK && ek_module_visit(net, add, writer) == EK_OK);
    need(ek_npz_writer_add(writer, "train.x", ek_dataset_x(data.train)) == EK_OK &&
         ek_npz_writer_add(writer, "train.y", ek_dataset_y(data.train)) == EK_OK &&
         ek_npz_writer_add(writer, "test.x", ek_dataset_x(data.test)) == EK_OK &&
         ek_npz_writer_add(writer, "test.y", ek_dataset_y(data.test)) == EK_OK);
    add_order(writer, "order", data.train);
    for (int i = 0; i < N_BATCHES; i++) {
        char name[32];
        snprintf(name, sizeof name, "few.order.%d", (int)batches[i]);
        add_order(writer, name, few[i]);
    }
    need(ek_npz_writer_close(writer) == EK_OK);
    ek_module_free(net);
}

/* ---- worker ------------------------------------------------------------------------------------------------------ */

static evaluation train_and_test(ek_dataset *train, int64_t batch, int64_t epochs)
{
    evaluation figures = {0};
    ek_module *net = small_net("BN");
    need(net && ek_module_init(net, SEED) == EK_OK && train_small_net(net, train, batch, epochs, SEED) == EK_OK &&
         evaluate(net, data.test, &figures) == EK_OK);
    ek_module_free(net);
    return figures;
}

/* The held-out loss, summed over the batch sizes that are asked for. */
static double loss_of(bool short_training)
{
    double loss = 0;
    for (int i = 0; i < N_BATCHES; i++)
        if (wanted == 0 || wanted == batches[i])
            loss += train_and_test(short_training ? few[i] : data.train, batches[i], short_training ? 1 : EPOCHS).loss;
    return loss;
}

static const char *about(void)
{
    return ek_build_info();
}

static bool prepare(const bench_case *c)
{
    if (strcmp(c->kind, "job") != 0)
        return false;
    wanted = bench_size(c, 'b', 0);
    need(ek_set_num_threads(c->threads) == EK_OK);
    return true;
}

static void step(void)
{
    loss_of(false);
}

static void check(double *a, double *b)
{
    *a = loss_of(true);
    *b = 0;
}

int main(int argc, char **argv)
{
    int status = EXIT_SUCCESS;
    if (argc > 2 && !strcmp(argv[1], "export")) {
        load(argc > 3 ? argv[3] : NULL);
        export_all(argv[2]);
    } else {
        load(argc > 1 ? argv[1] : NULL);
        status = bench_serve(&(bench_worker){about, prepare, step, check, NULL});
    }
    for (int i = 0; i < N_BATCHES; i++)
        ek_dataset_free(few[i]);
    free_images(&data);
    return status;
}
