/* SPDX-License-Identifier: Apache-2.0 */

/* Driver of a Nearbit accelerator behind its SoC interface. C99, no allocation, no global state.
 *
 * Registers are read and written in memory, or by functions of yours; packets are sent and taken
 * by functions of yours: a DMA engine, a FIFO, a simulation. The size of the accelerator is read
 * from its registers, so one build of this file drives every configuration.
 *
 * A device is used by one thread at a time. */

#ifndef NEARBIT_H
#define NEARBIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the functions return. nearbit_text() says it in words. */
enum nearbit_status {
    NEARBIT_OK = 0,
    NEARBIT_NO_DEVICE,    /* the registers are not those of a Nearbit that this driver knows */
    NEARBIT_NO_PORT,      /* a function or a buffer of the port is missing */
    NEARBIT_ARGUMENT,     /* an argument that the accelerator has no room or no unit for */
    NEARBIT_NO_ROOM,      /* the buffer of the port, or yours, is too small */
    NEARBIT_IS_BUSY,      /* another operation still takes its packet */
    NEARBIT_TIMEOUT,      /* the operation did not end in the polls of the port */
    NEARBIT_TRANSPORT,    /* a function of the port failed */
    NEARBIT_REFUSED,      /* the accelerator reports an error: nearbit_error() says which */
    NEARBIT_PACKET        /* a packet from the accelerator has a length that it cannot have */
};

/* How to reach the accelerator. It is yours, and stays as long as the device is used. */
struct nearbit_port {
    /* The registers, 4 KiB, if the processor sees them in its memory; else NULL, and: */
    volatile uint32_t *registers;
    /* Read or write the register at an offset in bytes. Not called if `registers` is set. */
    uint32_t (*read32)(void *context, uint32_t offset);
    void (*write32)(void *context, uint32_t offset, uint32_t value);

    /* Send one packet of whole beats, tlast on the last one; return 0 when the bytes have been
     * taken or copied, as the buffer is used again. Anything else is a failure. */
    int (*send)(void *context, const uint8_t *bytes, size_t length);

    /* Take the next packet of the result stream, or of the trace, whole: store its length, and the
     * bytes. Return 0, or anything else if none comes or there is no room for it. The trace may be
     * NULL if it is not used. */
    int (*receive)(void *context, uint8_t *bytes, size_t room, size_t *length);
    int (*receive_trace)(void *context, uint8_t *bytes, size_t room, size_t *length);

    /* Given to all of these. */
    void *context;

    /* Where packets are put together and taken apart. Loads and batches that are longer than this
     * become several packets. nearbit_room() says how much is needed at least. */
    uint8_t *buffer;
    size_t buffer_bytes;

    /* How often the status is read before an operation counts as stuck. */
    uint32_t polls;

    /* Of an accelerator whose keys and values lie in memory; only nearbit_append() and
     * nearbit_write_token() need them.
     * Where the processor sees that memory, the address on the accelerator's buses of the first of
     * these bytes, and how many there are. */
    uint8_t *memory;
    uint64_t memory_address;
    uint64_t memory_bytes;

    /* See to it that bytes which were written have reached the memory before any register is
     * written after: write the data cache back, then a barrier. In uncached memory, the barrier.
     * Return 0; anything else is a failure. */
    int (*flush)(void *context, const uint8_t *bytes, size_t length);
};

/* What the accelerator is, as its registers say. */
struct nearbit_config {
    uint32_t version;               /* major, minor, patch: the bytes 2, 1, 0 */
    uint32_t revision;              /* of the interface */
    uint32_t key_bits;              /* bits of a code */
    uint32_t value_dim;             /* elements of a value vector */
    uint32_t capacity;              /* keys */
    uint32_t value_bits;            /* bits of a value element */
    uint32_t queries;               /* queries of a batch, which see keys from the same first on */
    uint32_t lanes;
    uint32_t value_lanes;
    uint32_t top_n;                 /* the most that n + sink + recent may be */
    uint32_t weight_bits;
    uint32_t output_fraction_bits;
    uint32_t exp_tables;            /* exp tables */
    uint32_t head_dim;              /* elements of a rescore key; 0 without rescoring */
    uint32_t rescore_lanes;         /* of them multiplied in a cycle */
    uint32_t element_bits;          /* bits of such an element; 0 without rescoring */
    int has_rescore;                /* rescoring */
    int has_shared;                 /* one selection for all queries */
    uint32_t data_bits;             /* bits of a beat of the input and of the result stream */
    uint32_t result_bits;           /* bits of an element in a result packet */
    uint32_t trace_bits;            /* bits of a beat of the trace */
    int has_memory;                 /* keys and values lie in memory; 0 in all that follows if not */
    uint32_t heads;                 /* key heads */
    uint32_t sequences;             /* sequences that are open at the same time */
    uint32_t page_tokens;           /* tokens of a page */
    uint32_t pages;                 /* pages of each head */
    uint32_t bus_bits;              /* bits of a beat of the buses to the memory */
    uint32_t address_bits;          /* bits of an address */
    uint32_t timeout_bits;          /* bits of the time-out */
    uint32_t code_bytes;            /* bytes of a code in memory */
    uint32_t code_alignment;        /* of addresses of a head's codes */
    uint32_t row_bytes;             /* bytes of a row in memory */
    uint32_t row_alignment;         /* of addresses of a head's rows, and of strides */
    uint32_t row_values;            /* bytes of a row in front of its values */
    uint32_t row_scale;             /* the same of its scale */
    uint32_t row_stride;            /* bytes from one row to the next, at most */
};

struct nearbit {
    const struct nearbit_port *port;
    struct nearbit_config config;
};

/* One query of a batch. */
struct nearbit_query {
    uint32_t count;                 /* keys that it sees, from the batch's first on; 0: unused */
    uint32_t exp_table;             /* its exp table, without rescoring */
    uint32_t multiplier;            /* scale of its scores, with rescoring */
};

/* What a batch asks. `queries` has as many as the configuration. */
struct nearbit_batch {
    uint32_t first, n, sink, recent;
    int trace, rescore, shared;
    const struct nearbit_query *queries;
    uint32_t head, sequence;        /* of whose keys, if they lie in memory; else not looked at */
};

/* Where a head's codes and rows lie in memory: addresses on the accelerator's buses. */
struct nearbit_head {
    uint64_t codes;                 /* a multiple of code_alignment */
    uint64_t rows;                  /* a multiple of row_alignment */
    uint32_t stride;                /* bytes from one row to the next; a multiple of it, too */
};

/* A text in work. All of it is yours, the list of pages, too; the functions keep it up to date.
 * Which pages are free is for you to know. */
struct nearbit_sequence {
    uint32_t number;                /* below the configuration's sequences */
    uint32_t tokens;                /* tokens that queries can see */
    uint32_t listed;                /* pages in the list */
    uint32_t *pages;                /* their numbers; room for capacity / page_tokens of them */
};

/* The answer to a query. */
struct nearbit_result {
    uint32_t query;
    uint32_t error;                 /* 0, or why there are no elements: nearbit_query_text() */
};

/* A key of the trace. */
struct nearbit_selected {
    uint32_t index;
    uint32_t query;                 /* of the batch */
    uint32_t distance;
    uint32_t weight;
    int32_t score;                  /* the dot-product score; without one, minus the distance */
};

/* What nearbit_error() finds. */
struct nearbit_error {
    uint32_t code;                  /* 0: none. nearbit_error_text() */
    uint32_t address;               /* of the register, if it is one of BUSY to FIELD */
    uint32_t query;                 /* of the batch, if it is QUERY */
    uint32_t query_error;           /* why: nearbit_query_text() */
};

/* Look for an accelerator, read what it is, and clear it. */
enum nearbit_status nearbit_probe(struct nearbit *device, const struct nearbit_port *port);

/* Bytes that the buffer of the port needs at least, to load and to ask; after nearbit_probe(). */
size_t nearbit_room(const struct nearbit *device);

/* Bytes of a code in memory: bit j of a code is bit j % 8 of byte j / 8. */
size_t nearbit_code_bytes(const struct nearbit *device);

/* Load keys from a token on: codes[number][nearbit_code_bytes]. */
enum nearbit_status nearbit_load_keys(struct nearbit *device, uint32_t token, uint32_t number,
                                      const uint8_t *codes);

/* Load value vectors: elements[number][value_dim] and scales[number]. */
enum nearbit_status nearbit_load_values(struct nearbit *device, uint32_t token, uint32_t number,
                                        const int16_t *elements, const uint16_t *scales);

/* Load an exp table: weights[key_bits + 1], that of distance 0 first. */
enum nearbit_status nearbit_load_exp_table(struct nearbit *device, uint32_t exp_table,
                                       const uint32_t *weights);

/* Load the elements of keys for rescoring: elements[number][head_dim]. */
enum nearbit_status nearbit_load_rescore_keys(struct nearbit *device, uint32_t token, uint32_t number,
                                            const int16_t *elements);

/* Ask `number` batches that differ in their codes only: codes[number][queries][nearbit_code_bytes],
 * and with rescoring elements[number][queries][head_dim], else NULL. Returns when the accelerator
 * has taken them. Each gives `queries` answers, in order, which nearbit_take() takes.
 *
 * The accelerator takes a further batch only while there is room for answers: ask no more at once
 * than what receives results, and the trace, can hold. */
enum nearbit_status nearbit_ask(struct nearbit *device, const struct nearbit_batch *batch,
                                uint32_t number, const uint8_t *codes, const int16_t *elements);

/* Take the answer to the next query: elements[value_dim], not written if there is an error. */
enum nearbit_status nearbit_take(struct nearbit *device, struct nearbit_result *result,
                                 int32_t *elements);

/* Take the trace of the next query that asked for it and has no error: its selected keys, by
 * descending index. The buffer of the port needs room for a beat of each. */
enum nearbit_status nearbit_take_trace(struct nearbit *device, struct nearbit_selected *keys,
                                       size_t room, size_t *number);

/* Ask batches one by one, and take the answers of each: results[number][queries] and
 * elements[number][queries][value_dim]. Without a trace. */
enum nearbit_status nearbit_query(struct nearbit *device, const struct nearbit_batch *batch,
                                  uint32_t number, const uint8_t *codes, const int16_t *query_elements,
                                  struct nearbit_result *results, int32_t *elements);

/* --- Keys and values in memory (docs/memory.md) ------------------------------------------------
 *
 * For accelerators with `has_memory`; NEARBIT_ARGUMENT from others. Heads, pages and tokens that a
 * batch in work may read must stay as they are: wait for its answers first. */

/* Say where the codes and rows of a head are, or that it has none any more. */
enum nearbit_status nearbit_set_head(struct nearbit *device, uint32_t head,
                                     const struct nearbit_head *place);
enum nearbit_status nearbit_clear_head(struct nearbit *device, uint32_t head);

/* Begin a sequence without pages or tokens; `number` and `pages` are yours to set before. */
enum nearbit_status nearbit_open(struct nearbit *device, struct nearbit_sequence *sequence);

/* Give a sequence a further page. */
enum nearbit_status nearbit_grow(struct nearbit *device, struct nearbit_sequence *sequence,
                                 uint32_t page);

/* Let an open sequence without pages begin with tokens of another one: full pages, so a multiple
 * of page_tokens, and no more than the other one has. */
enum nearbit_status nearbit_share(struct nearbit *device, struct nearbit_sequence *sequence,
                                  const struct nearbit_sequence *with, uint32_t tokens);

/* End a sequence; its pages can be used again, if no other one shares them. */
enum nearbit_status nearbit_close(struct nearbit *device, struct nearbit_sequence *sequence);

/* Write a token of a head to the memory, and flush it. Queries do not see it yet: the pages must
 * have room for it. `code` has nearbit_code_bytes, `key` head_dim elements, or is NULL without
 * rescoring, `values` value_dim elements. */
enum nearbit_status nearbit_write_token(struct nearbit *device, const struct nearbit_head *place,
                                        const struct nearbit_sequence *sequence, uint32_t token,
                                        const uint8_t *code, const int16_t *key,
                                        const int16_t *values, uint16_t scale);

/* Let queries see this many tokens of a sequence. All heads that are asked must have them. */
enum nearbit_status nearbit_set_tokens(struct nearbit *device, struct nearbit_sequence *sequence,
                                       uint32_t tokens);

/* Append a token to a sequence: write it to one head or more, then let queries see it. The arrays
 * have an element of each head: codes[number][nearbit_code_bytes], keys[number][head_dim] or NULL,
 * values[number][value_dim], scales[number]. */
enum nearbit_status nearbit_append(struct nearbit *device, const struct nearbit_head *places,
                                   uint32_t number, struct nearbit_sequence *sequence,
                                   const uint8_t *codes, const int16_t *keys,
                                   const int16_t *values, const uint16_t *scales);

/* The same, but the accelerator writes the token to memory: neither the processor's view of it nor
 * a flush is needed. The heads are those of the numbers, as they were set. When this returns
 * NEARBIT_OK, queries see the token; else it can be sent again, to the same place. What the
 * processor's cache holds of these bytes is old. */
enum nearbit_status nearbit_send_token(struct nearbit *device, const uint32_t *heads,
                                       uint32_t number, struct nearbit_sequence *sequence,
                                       const uint8_t *codes, const int16_t *keys,
                                       const int16_t *values, const uint16_t *scales);

/* Cycles after which a memory that does not answer is given up; 0 is the longest time. */
enum nearbit_status nearbit_set_timeout(struct nearbit *device, uint32_t cycles);

/* Faults of the memory in queries since they were cleared: bits of MEMORY_FAULT. 0 without memory. */
uint32_t nearbit_faults(const struct nearbit *device);
void nearbit_clear_faults(struct nearbit *device, uint32_t bits);

/* The first error since the last clear. */
struct nearbit_error nearbit_error(const struct nearbit *device);

/* Clear the error, and end the operation: the rest of a packet of which some has come is dropped,
 * so it must still be sent. What was loaded stays, and so do the batches that were taken. */
enum nearbit_status nearbit_clear(struct nearbit *device);

/* The same if no rest will come, because what sends was reset. */
enum nearbit_status nearbit_abandon(struct nearbit *device);

/* Whether batches are in work, or answers wait to be taken. */
int nearbit_is_active(const struct nearbit *device);

/* Start all counters from 0. */
void nearbit_clear_counters(struct nearbit *device);

/* A counter of 64 bits, by the address of its low word, as in nearbit_registers.h. */
uint64_t nearbit_counter(const struct nearbit *device, uint32_t address);

/* Interrupts: which may rise, which have risen, and to put them down. Bits of IRQ_STATUS. */
void nearbit_irq_enable(struct nearbit *device, uint32_t bits);
uint32_t nearbit_irq_pending(const struct nearbit *device);
void nearbit_irq_clear(struct nearbit *device, uint32_t bits);

/* In words: what a function returned, the code of nearbit_error(), the error of a query. */
const char *nearbit_text(enum nearbit_status status);
const char *nearbit_error_text(uint32_t code);
const char *nearbit_query_text(uint32_t error);

#ifdef __cplusplus
}
#endif

#endif
