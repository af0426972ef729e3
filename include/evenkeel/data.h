/* Data sets (IDX files, tensors, the embedded glyphs), labelled texts, and the shuffling mini-batch loaders. */
#ifndef EVENKEEL_DATA_H
#define EVENKEEL_DATA_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- IDX files --------------------------------------------------------------------------------------------------- */
/* Reads an IDX file, the format of MNIST and its successors (yann.lecun.com/exdb/mnist): bytes 0 0 type rank, `rank`
 * big-endian 32-bit dimensions, then the elements, big-endian, row-major.  Types: uint8, int8, int16, int32, float32,
 * float64.  A file that starts with gzip's magic is inflated on the way.  Values are converted to `dtype` as they are;
 * float values cannot become int64 (EK_ERR_DTYPE).  Sizes are checked against the file's length before memory is taken:
 * EK_ERR_FORMAT for a wrong magic, a truncated file, trailing bytes, corrupt compressed data; EK_ERR_IO for a file that
 * cannot be read.  The tensor is the caller's. */
EK_API ek_tensor *ek_idx_read(const char *path, ek_dtype dtype);

/* ---- data sets --------------------------------------------------------------------------------------------------- */
/* N samples: x (N, …) of any type, and y, either class labels, int64 (N), or float targets (N, …). */
typedef struct ek_dataset ek_dataset;

typedef enum ek_split { EK_TRAIN = 0, EK_TEST = 1 } ek_split;

/* From tensors, of which the data set becomes an owner beside the caller.  Labels have to be in 0 … num_classes−1
 * (EK_ERR_ARGUMENT); num_classes = 0 takes one more than the largest label.  With float targets num_classes is 0.
 * No samples is EK_ERR_ARGUMENT, another number of targets than of samples EK_ERR_SHAPE. */
EK_API ek_dataset *ek_dataset_from_tensors(ek_tensor *x, ek_tensor *y, int64_t num_classes);
/* From two IDX files: images (N, H, W) become float32 (N, 1, H, W), of uint8 divided by 255, of float32 and float64 as
 * they are; labels (N) of an integer type.  num_classes as above. */
EK_API ek_dataset *ek_dataset_from_idx(const char *images_path, const char *labels_path, int64_t num_classes);
/* From a folder that holds files named as MNIST's (Fashion-MNIST's, KMNIST's) are: train-images-idx3-ubyte,
 * train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each as it is or with .gz.  Ten classes. */
EK_API ek_dataset *ek_dataset_from_mnist(const char *folder, ek_split split);

/* The embedded data set: n grayscale images, float32 (n, 1, 28, 28) with values in [0, 1], of ten hand-drawn signs
 * (ring, square, triangle, plus, cross, zigzag, eight, open ring with a bar, arch, fork), each at random shifted,
 * turned, scaled, sheared, bent, drawn thin or thick, bright or faint on a varying ground, partly covered and noisy.
 * Image i is a function of (seed, split, i) alone, so a larger set begins with the smaller one; every ten consecutive
 * images hold every class once.  n ≥ 1. */
EK_API ek_dataset *ek_dataset_glyphs(int64_t n, uint64_t seed, ek_split split);

/* Copies of samples start … stop−1, and of the samples with the given indices (any order, repeats allowed).  Both know
 * as many classes as `data`. */
EK_API ek_dataset *ek_dataset_slice(const ek_dataset *data, int64_t start, int64_t stop);
EK_API ek_dataset *ek_dataset_subset(const ek_dataset *data, const int64_t *indices, int64_t n);
/* Mean and (population) standard deviation over all elements of x, which has to be float (EK_ERR_DTYPE) and
 * to have some (EK_ERR_SHAPE). */
EK_API ek_status ek_dataset_moments(const ek_dataset *data, double *mean, double *std);
/* x ← (x − mean)/std.  Test data take the training data's numbers.  In place where the data set is the only owner of x;
 * else x gets memory of its own first, so that tensors that others own too keep their values.  std > 0; x has to be
 * float.  Make loaders afterwards. */
EK_API ek_status ek_dataset_normalize(ek_dataset *data, double mean, double std);

EK_API int64_t ek_dataset_size(const ek_dataset *data);
EK_API int64_t ek_dataset_num_classes(const ek_dataset *data);
/* All samples and targets; they belong to the data set. */
EK_API ek_tensor *ek_dataset_x(const ek_dataset *data);
EK_API ek_tensor *ek_dataset_y(const ek_dataset *data);
EK_API void ek_dataset_free(ek_dataset *data);

/* ---- labelled texts ---------------------------------------------------------------------------------------------- */
/* N texts, none of them empty, each with the label of its class; classes have names.  All strings are UTF-8 and end
 * with a NUL.  Invalid UTF-8 (overlong forms, surrogates, code points above U+10FFFF and NUL bytes included) is
 * EK_ERR_FORMAT; for files the message names file, line and column, which counts characters.
 *
 * Files: a byte order mark at the start is skipped; a line ends with LF, CR LF or the file; blanks (space, tab, CR, VT,
 * FF) around a text are no part of it; blank lines are skipped.  EK_ERR_IO for what the system refuses. */
typedef struct ek_text ek_text;

/* A folder with one file per class, CLASS.txt, one text per line.  Classes are in the order of their names' bytes;
 * other files and hidden ones are passed over.  No such file, or one without a text, is EK_ERR_FORMAT. */
EK_API ek_text *ek_text_from_folder(const char *folder);
/* A file of lines LABEL separator TEXT, cut at the first separator (printable ASCII or a tab).  Classes are the labels,
 * in the order of their bytes.  A line without a separator, a label or a text, and a file without lines, are
 * EK_ERR_FORMAT. */
EK_API ek_text *ek_text_from_lines(const char *path, char separator);
/* Copies n ≥ 1 texts, their labels, 0 … num_classes−1, and the names of the classes, no two the same. */
EK_API ek_text *ek_text_from_arrays(const char *const *texts, const int64_t *labels, int64_t n,
                                    const char *const *class_names, int64_t num_classes);

/* The embedded sequence set: n whole numbers below a million, spelled out in UTF-8; the class is the language (Dutch,
 * English, French, German, Italian, Portuguese, Spanish, Swedish).  One to six digits are equally likely, so texts have
 * from 2 ("un") to 71 characters.  Text i is a function of (seed, split, i) alone, so a larger set begins with
 * the smaller one; every eight consecutive texts hold every class once.  No number is in both splits, whatever the
 * seeds; within one, short ones come often, and a few are spelled alike in two languages.  n ≥ 1. */
EK_API ek_text *ek_text_numerals(int64_t n, uint64_t seed, ek_split split);

/* Both are 0 for NULL. */
EK_API int64_t ek_text_size(const ek_text *text);
EK_API int64_t ek_text_num_classes(const ek_text *text);
/* Text i, its label, the name of a class.  NULL, or −1, with EK_ERR_ARGUMENT where there is none. */
EK_API const char *ek_text_at(const ek_text *text, int64_t i);
EK_API int64_t ek_text_label(const ek_text *text, int64_t i);
EK_API const char *ek_text_class_name(const ek_text *text, int64_t label);
EK_API void ek_text_free(ek_text *text);

/* Splits at random into two new sets that know the same classes and keep the order of the texts.  Stratified: of a
 * class of n texts, floor(test_fraction·n + ½) come into the test set, at least 1 and at most n−1.  Texts of a class
 * that are equal stay together, so that no text is tested that was trained on: they go where they fit, and the test set
 * gets fewer than that where they do not (and more than that only where the rarest text of a class alone is more).
 * Equal texts of different classes may be parted.  A class without texts stays without; one whose texts are all equal
 * is EK_ERR_ARGUMENT.
 *
 * Who goes where is a function of the seed, the class's name and its texts, whatever other classes there are and in
 * whichever order the texts stand. */
EK_API ek_status ek_text_split(const ek_text *text, double test_fraction, uint64_t seed, ek_text **train,
                               ek_text **test);

/* ---- mini-batches ------------------------------------------------------------------------------------------------ */
typedef struct ek_loader ek_loader;

typedef struct ek_loader_opts {
    bool shuffle;    /* a new order each epoch; default true */
    uint64_t seed;   /* of that order, which is a function of (seed, epoch) alone; default 0 */
    bool drop_last;  /* leave out a last batch that is smaller than the others; default false */
    bool merge_last; /* a last batch of one sample joins the batch before it, which then has batch_size + 1 samples:
                        BatchNorm cannot train on one.  Moot with drop_last, which leaves it out.  Default false */
} ek_loader_opts;
EK_API ek_loader_opts ek_loader_opts_default(void);

/* One mini-batch.  All of it belongs to the loader and holds until its next call; clone what has to last.  An
 * ek_loader's smaller (or merged) last batch is another pair of tensors; an ek_sequence_loader has one pair of tensors,
 * whose shape changes. */
typedef struct ek_batch {
    ek_tensor *x; /* (size, …) */
    ek_tensor *y; /* (size) labels or (size, …) targets */
    int64_t size;
    const int64_t *indices; /* [size] which samples of the data these are */
    const int64_t *lengths; /* [size] of sequences, which x carries too; else NULL */
    int64_t steps;          /* of sequences: to how many they are padded; else 0 */
} ek_batch;

/* Walks over `data` in mini-batches of `batch_size` ≥ 1 samples; more than there are is EK_ERR_ARGUMENT.  The tensors
 * of `data` are kept alive, so the data set may be freed first. */
EK_API ek_loader *ek_loader_new(ek_dataset *data, int64_t batch_size, const ek_loader_opts *opts);
/* The next mini-batch: EK_OK, or EK_DONE at the end of the epoch (batch is zeroed); the call after that starts the next
 * epoch.  Takes no memory. */
EK_API ek_status ek_loader_next(ek_loader *loader, ek_batch *batch);
/* Mini-batches per epoch. */
EK_API int64_t ek_loader_num_batches(const ek_loader *loader);
/* Back to the start of epoch 0, as after ek_loader_new. */
EK_API void ek_loader_reset(ek_loader *loader);
EK_API void ek_loader_free(ek_loader *loader);

/* Where a loader stands: all it needs to go on exactly there, over the same data with the same options. */
typedef struct ek_loader_state {
    uint64_t seed;
    int64_t epoch;
    int64_t batch; /* how many mini-batches of this epoch have been given out; num_batches: EK_DONE is next */
} ek_loader_state;
EK_API ek_loader_state ek_loader_get_state(const ek_loader *loader);
/* EK_ERR_ARGUMENT, and nothing moves, for an epoch below 0 or a batch outside 0 … num_batches. */
EK_API ek_status ek_loader_set_state(ek_loader *loader, ek_loader_state state);

/* ---- vocabularies ------------------------------------------------------------------------------------------------ */
/* The distinct characters (Unicode code points) of texts as numbers: 0 is padding, 1 any unknown character, and from 2
 * on come those that are known, by code point. */
typedef struct ek_vocabulary ek_vocabulary;

enum { EK_PADDING = 0, EK_UNKNOWN = 1 };

/* Of all texts; for training and test data alike it is made from the training data. */
EK_API ek_vocabulary *ek_vocabulary_from_text(const ek_text *text);
/* Of one string, in any order: decoding symbols 2 … size−1 gives a string that makes the same vocabulary again. */
EK_API ek_vocabulary *ek_vocabulary_from_characters(const char *utf8);
/* Number of symbols, padding and unknown included. */
EK_API int64_t ek_vocabulary_size(const ek_vocabulary *vocabulary);
/* The symbols of a string's characters: writes at most `capacity` of them and returns how many there are, so a call
 * with capacity 0 (and out NULL) asks for their number.  −1 with EK_ERR_FORMAT for a string that is not UTF-8, and with
 * EK_ERR_ARGUMENT for NULL. */
EK_API int64_t ek_vocabulary_encode(const ek_vocabulary *vocabulary, const char *utf8, int64_t *out, int64_t capacity);
/* Back to UTF-8: writes as many whole characters as `capacity` bytes hold, and a NUL, and returns how many bytes all of
 * them take without the NUL.  Padding is left out, unknown becomes U+FFFD.  −1 with EK_ERR_ARGUMENT for a symbol
 * outside 0 … size−1. */
EK_API int64_t ek_vocabulary_decode(const ek_vocabulary *vocabulary, const int64_t *symbols, int64_t n, char *out,
                                    int64_t capacity);
EK_API void ek_vocabulary_free(ek_vocabulary *vocabulary);

/* ---- mini-batches of sequences ----------------------------------------------------------------------------------- */
typedef struct ek_sequence_loader ek_sequence_loader;

typedef enum ek_unknown {
    EK_UNKNOWN_MAP = 0, /* a character the vocabulary does not know becomes EK_UNKNOWN */
    EK_UNKNOWN_REFUSE   /* … is EK_ERR_ARGUMENT, and the message names it, its text and its class */
} ek_unknown;

typedef struct ek_sequence_loader_opts {
    bool shuffle; /* these four as in ek_loader_opts */
    uint64_t seed;
    bool drop_last;
    bool merge_last;
    int64_t bucket;    /* k > 0: batches of similar length.  The full batches are made so: each k·batch_size (shuffled)
                          samples in a row are sorted by length and cut into batches, then all these batches are put in
                          random order (with shuffle).  An epoch's smaller or merged last batch, and what drop_last
                          leaves out, are not sorted.  All a function of (seed, epoch).  Default 0: none */
    int64_t pad_to;    /* pad to at least so many steps, 0: to the longest of the batch; default 0 */
    int64_t max_steps; /* a text of more characters is EK_ERR_ARGUMENT, or is cut; 0: no limit; default 0 */
    bool truncate;     /* keep the first max_steps characters of longer texts; default false */
    ek_unknown unknown; /* default EK_UNKNOWN_MAP */
} ek_sequence_loader_opts;
EK_API ek_sequence_loader_opts ek_sequence_loader_opts_default(void);

/* Walks over `text` in mini-batches of `batch_size` texts, at most as many as there are: x is int64 (size, steps), the
 * symbols of each text and then EK_PADDING, and carries the lengths (axes 0 and 1); y is int64 (size), the labels.
 * Texts are encoded here, once; neither they nor the vocabulary are needed afterwards. */
EK_API ek_sequence_loader *ek_sequence_loader_new(const ek_text *text, const ek_vocabulary *vocabulary,
                                                  int64_t batch_size, const ek_sequence_loader_opts *opts);
/* All as for an ek_loader. */
EK_API ek_status ek_sequence_loader_next(ek_sequence_loader *loader, ek_batch *batch);
EK_API int64_t ek_sequence_loader_num_batches(const ek_sequence_loader *loader);
EK_API void ek_sequence_loader_reset(ek_sequence_loader *loader);
EK_API void ek_sequence_loader_free(ek_sequence_loader *loader);
EK_API ek_loader_state ek_sequence_loader_get_state(const ek_sequence_loader *loader);
EK_API ek_status ek_sequence_loader_set_state(ek_sequence_loader *loader, ek_loader_state state);

#ifdef __cplusplus
}
#endif
#endif
