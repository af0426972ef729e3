/* What peer_onednn.c and onednn_conv.c share. */
#ifndef BENCH_ONEDNN_H
#define BENCH_ONEDNN_H

#include <dnnl.h>

#include "worker.h"

typedef struct onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool blocked; /* tensors are in oneDNN's own layouts before and after a step */
} onednn;
extern onednn onednn_state;

/* Leaves, and says `what`, where this has not been done. */
void onednn_need(dnnl_status_t status, const char *what);
void onednn_execute(dnnl_primitive_t primitive, int n, const dnnl_exec_arg_t *args);
/* Memory as described, zeroed. */
dnnl_memory_t onednn_memory(const dnnl_memory_desc_t *md);
float *onednn_data(dnnl_memory_t memory);
dnnl_primitive_t onednn_reorder_primitive(dnnl_memory_t from, dnnl_memory_t to);
void onednn_reorder(dnnl_memory_t from, dnnl_memory_t to);

/* 3×3 convolutions, as worker.h says. */
bool onednn_conv_prepare(const bench_case *c);
void onednn_conv_step(void);
void onednn_conv_check(double *a, double *b);
void onednn_conv_discard(void);

#endif
