/* Shared by the tests of recurrent layers: cases, running one forward and backward, and an oracle: slow, obvious loops
 * over sequences, steps and units written from the formulas in layers.h, in long double.  It shares nothing with the
 * library but the parameters and buffers it reads. */
#ifndef EK_TEST_SUPPORT_RECURRENT_H
#define EK_TEST_SUPPORT_RECURRENT_H

#include "support_layers.h"

typedef enum cell_kind { RNN, LSTM, GRU } cell_kind;
enum { CELLS = 3, MOST_SEQUENCES = 16, MOST_TENSORS = 64 };

typedef struct recurrent_case {
    cell_kind cell;
    int64_t input, hidden, n, steps;
    ek_sequence_layout layout;
    bool states;            /* there are initial states */
    const int64_t *lengths; /* [n], or NULL */
    const bool *mask;       /* [n·steps], or NULL */
    ek_recurrent_opts opts;
} recurrent_case;

/* Input 3, hidden 4, 5 sequences of 6 steps, batch first, default options. */
recurrent_case recurrent_case_of(cell_kind cell);
/* "lstm(3, 4) n=5 …", static storage. */
const char *recurrent_text(const recurrent_case *c);
int recurrent_directions(const recurrent_case *c);
int64_t recurrent_gates(cell_kind cell);

/* The layer; fails the test when there is none. */
ek_module *recurrent_layer(const recurrent_case *c);
/* The layer with all parameters drawn uniformly in ±scale, from streams of their names; gains within 1 ± scale/2. */
ek_module *recurrent_drawn(const recurrent_case *c, ek_dtype dtype, double scale, uint64_t seed);
ek_shape recurrent_shape(const recurrent_case *c, int64_t features); /* (N, T, features) or (T, N, features) */
ek_shape recurrent_state_shape(const recurrent_case *c);             /* (layers·directions, N, hidden) */
/* Writes the case's lengths or mask to x. */
void recurrent_set_lengths(const recurrent_case *c, ek_tensor *x);
/* A normal random input with the lengths of the case, and an initial state in ±1. */
ek_tensor *recurrent_input(const recurrent_case *c, ek_dtype dtype, uint64_t seed);
ek_tensor *recurrent_initial(const recurrent_case *c, ek_dtype dtype, uint64_t seed);

/* ---- one forward and backward ------------------------------------------------------------------------------------ */
/* Clones; what there is not is NULL. */
typedef struct recurrent_run {
    ek_tensor *y, *h, *c, *dx, *dh0, *dc0;
    ek_tensor *gradient[MOST_TENSORS]; /* of the parameters, in the order of ek_module_visit */
    int parameters;
} recurrent_run;
/* Inputs; h0 and c0 may be NULL.  Cotangents of output and final states: random, of a seed that is this one's. */
typedef struct recurrent_inputs {
    ek_tensor *x, *h0, *c0;
} recurrent_inputs;
recurrent_inputs recurrent_draw(const recurrent_case *c, ek_dtype dtype, uint64_t seed);
void recurrent_inputs_free(recurrent_inputs *in);
/* Forward with states, backward of Σ dy·y + Σ dh·h + Σ dc·c where the cotangents are random numbers of (step of the
 * sequence, feature), which do not depend on how far it is padded. */
recurrent_run recurrent_run_of(ek_module *layer, const recurrent_case *c, const recurrent_inputs *in);
/* The same with these cotangents (dc may be NULL). */
recurrent_run recurrent_run_with(ek_module *layer, const recurrent_inputs *in, const ek_tensor *dy,
                                 const ek_tensor *dh, const ek_tensor *dc);
/* Only the forward; gradients are NULL. */
recurrent_run recurrent_forward_of(ek_module *layer, const recurrent_inputs *in);
void recurrent_run_free(recurrent_run *run);
/* The same bits everywhere. */
void assert_same_run(const char *what, const recurrent_run *a, const recurrent_run *b);
/* Every number within `tolerance` of the other's. */
void assert_close_run(const char *what, const recurrent_run *a, const recurrent_run *b, double tolerance);

/* The scalar Σ dy·y + Σ dh·h + Σ dc·c on a tape. */
ek_tensor *recurrent_loss(ek_tape *tape, ek_tensor *y, const ek_recurrent_state *final, const ek_tensor *dy,
                          const ek_tensor *dh, const ek_tensor *dc);

/* ---- the oracle -------------------------------------------------------------------------------------------------- */
typedef struct oracle_buffer {
    char name[80];
    int64_t n;
    double *values;
} oracle_buffer;
typedef struct recurrent_answer {
    ek_tensor *y, *h, *c; /* float64; c of an LSTM alone */
    oracle_buffer buffer[MOST_TENSORS]; /* what BatchNorm's buffers should be after this forward */
    int buffers;
} recurrent_answer;
/* What a forward of `layer`, in the mode it is in, gives for these inputs. */
recurrent_answer recurrent_oracle(const recurrent_case *c, ek_module *layer, const recurrent_inputs *in);
void recurrent_answer_free(recurrent_answer *answer);
/* Output, final states and buffers. */
void assert_answer(const char *what, const recurrent_answer *expected, const recurrent_run *run, ek_module *layer,
                   double tolerance);

/* How far a result may be off.  A step adds up K = max(input, directions·hidden) + hidden products per unit of order 1,
 * each rounded a few times by at most u = 2⁻²⁴ or 2⁻⁵³, which amounts to 4·√K·u·`scale` (support_golden.h).  Such an
 * error is carried on through the steps and layers after it by factors of the recurrence's Jacobian.  The tests take
 * weights for which these are about 1 (‖W_hh‖ ≈ 1; gates and tanh only shrink), so that the errors of all steps and
 * layers add up: `steps`·layers times that.  With a norm each is magnified by up to `condition` ≈ 1/√eps on the way, as
 * x̂ = (v − m)/√(var + eps) has that slope where the variance is small.  Measured, the worst error is a tenth to a
 * fifth of that. */
double recurrent_tolerance(ek_dtype dtype, const recurrent_case *c, double scale, double condition);

#endif
