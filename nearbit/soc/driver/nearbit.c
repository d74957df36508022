/* SPDX-License-Identifier: Apache-2.0 */

#include "nearbit.h"

#include "nearbit_registers.h"

#define FIELD(word, name) (((word) & NEARBIT_REG_##name##_MASK) >> NEARBIT_REG_##name##_SHIFT)

/* NUMBER has room for as many batches with any configuration, and for as many as keys. */
#define MOST_BATCHES 255u

/* --- Registers ------------------------------------------------------------------------------ */

static uint32_t read32(const struct nearbit *device, uint32_t offset)
{
    const struct nearbit_port *port = device->port;
    return port->registers ? port->registers[offset / 4] : port->read32(port->context, offset);
}

static void write32(const struct nearbit *device, uint32_t offset, uint32_t value)
{
    const struct nearbit_port *port = device->port;
    if (port->registers)
        port->registers[offset / 4] = value;
    else
        port->write32(port->context, offset, value);
}

static int is_busy(const struct nearbit *device)
{
    return FIELD(read32(device, NEARBIT_REG_STATUS), STATUS_BUSY) != 0;
}

/* --- Bits to bytes, and back ---------------------------------------------------------------- */

struct writer {
    uint8_t *at;
    uint64_t bits;
    unsigned used;
};

/* Append the low bits of a value, 32 of them at most. */
static void put(struct writer *writer, uint32_t value, unsigned bits)
{
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    writer->bits |= (value & mask) << writer->used;
    for (writer->used += bits; writer->used >= 8; writer->used -= 8) {
        *writer->at++ = (uint8_t)(writer->bits & 0xff);
        writer->bits >>= 8;
    }
}

/* Fill up to a whole beat with zeros; `start` is where a beat began. */
static void end_beat(struct writer *writer, const uint8_t *start, size_t beat)
{
    if (writer->used)
        put(writer, 0, 8 - writer->used);
    while ((size_t)(writer->at - start) % beat)
        *writer->at++ = 0;
}

static void put_code(struct writer *writer, const uint8_t *code, uint32_t bits)
{
    for (; bits > 8; bits -= 8)
        put(writer, *code++, 8);
    put(writer, *code, bits);
}

/* Elements in units of some lanes, each from a new beat on; `start` is where a beat began. */
static void put_elements(struct writer *writer, const uint8_t *start, size_t beat,
                         const int16_t *elements, uint32_t number, uint32_t lanes, uint32_t bits)
{
    for (uint32_t i = 0; i < number; i++) {
        if (i % lanes == 0)
            end_beat(writer, start, beat);
        put(writer, (uint16_t)elements[i], bits);
    }
    end_beat(writer, start, beat);
}

static uint32_t get32(const uint8_t *bytes, size_t length)
{
    uint32_t value = 0;
    for (size_t i = 0; i < length; i++)
        value |= (uint32_t)bytes[i] << (8 * i);
    return value;
}

/* The value of the low bits, in two's complement. */
static int32_t sign_extend(uint32_t value, unsigned bits)
{
    const uint32_t sign = (uint32_t)1 << (bits - 1);
    const uint32_t low = (value ^ sign) & (sign | (sign - 1));
    return (int32_t)((int64_t)low - (int64_t)sign);
}

/* --- Packets --------------------------------------------------------------------------------- */

static size_t beat_bytes(const struct nearbit *device)
{
    return device->config.data_bits / 8;
}

/* Bytes of whole beats that hold some bits. */
static size_t whole_beats(const struct nearbit *device, uint32_t bits)
{
    const uint32_t width = device->config.data_bits;
    return (size_t)((bits + width - 1) / width) * beat_bytes(device);
}

/* Elements come in units of some lanes, each of whole beats. */
static size_t unit_bytes(const struct nearbit *device, uint32_t elements, uint32_t lanes,
                           uint32_t bits)
{
    return lanes ? elements / lanes * whole_beats(device, lanes * bits) : 0;
}

static size_t value_bytes(const struct nearbit *device)
{
    const struct nearbit_config *config = &device->config;
    return beat_bytes(device) + unit_bytes(device, config->value_dim, config->value_lanes,
                                             config->value_bits);
}

static size_t rescore_bytes(const struct nearbit *device)
{
    const struct nearbit_config *config = &device->config;
    return unit_bytes(device, config->head_dim, config->rescore_lanes, config->element_bits);
}

static size_t result_bytes(const struct nearbit *device)
{
    const struct nearbit_config *config = &device->config;
    return beat_bytes(device) + whole_beats(device, config->value_dim * config->result_bits);
}

static size_t batch_bytes(const struct nearbit *device, int rescore)
{
    const struct nearbit_config *config = &device->config;
    return config->queries * (whole_beats(device, config->key_bits)
                           + (rescore ? rescore_bytes(device) : 0));
}

size_t nearbit_code_bytes(const struct nearbit *device)
{
    return (device->config.key_bits + 7) / 8;
}

/* A token to be appended: its code, then its row, one beat of the memory's bus after another. */
static size_t token_bytes(const struct nearbit *device)
{
    const struct nearbit_config *config = &device->config;
    if (!config->has_memory)
        return 0;
    return whole_beats(device, config->key_bits)
        + config->row_bytes / (config->bus_bits / 8) * whole_beats(device, config->bus_bits);
}

size_t nearbit_room(const struct nearbit *device)
{
    const size_t sizes[] = {
        token_bytes(device),
        value_bytes(device),
        (device->config.key_bits + 1) * beat_bytes(device),
        batch_bytes(device, device->config.has_rescore),
        result_bytes(device),
        device->config.trace_bits / 8,
    };
    size_t most = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        most = sizes[i] > most ? sizes[i] : most;
    return most;
}

/* --- Operations ------------------------------------------------------------------------------ */

#define ERROR_CODE 15u /* of ERROR; 3 bits in accelerators without a memory */

/* The error of a query is in the query's answer, too, and hinders nothing. */
static enum nearbit_status refusal(const struct nearbit *device)
{
    const uint32_t code = read32(device, NEARBIT_REG_ERROR) & ERROR_CODE;
    return code && code != NEARBIT_REG_ERROR_CODE_QUERY ? NEARBIT_REFUSED : NEARBIT_OK;
}

/* Before the first command field: a bus error answers who writes those of a busy accelerator. */
static enum nearbit_status begin(const struct nearbit *device)
{
    return is_busy(device) ? NEARBIT_IS_BUSY : refusal(device);
}

static enum nearbit_status wait_idle(const struct nearbit *device)
{
    for (uint32_t polls = device->port->polls; is_busy(device); polls--)
        if (polls == 0)
            return NEARBIT_TIMEOUT;
    return NEARBIT_OK;
}

/* Start a command, send its packet, and wait until it has been taken. */
static enum nearbit_status transfer(const struct nearbit *device, uint32_t command, uint32_t number,
                                    const struct writer *writer)
{
    const struct nearbit_port *port = device->port;
    write32(device, NEARBIT_REG_NUMBER, number);
    write32(device, NEARBIT_REG_COMMAND, command);
    /* A packet that no operation takes would never leave. */
    enum nearbit_status status = refusal(device);
    if (status != NEARBIT_OK)
        return status;
    if (port->send(port->context, port->buffer, (size_t)(writer->at - port->buffer)))
        return NEARBIT_TRANSPORT;
    status = wait_idle(device);
    return status == NEARBIT_OK ? refusal(device) : status;
}

/* How many things of a size go into a packet; 0 if the buffer has no room for one. */
static uint32_t at_once(const struct nearbit *device, size_t bytes, uint32_t number)
{
    const size_t room = device->port->buffer_bytes / bytes;
    return room < number ? (uint32_t)room : number;
}

static enum nearbit_status check_tokens(const struct nearbit *device, uint32_t token, uint32_t number)
{
    const uint32_t capacity = device->config.capacity;
    return number && token < capacity && number <= capacity - token ? NEARBIT_OK : NEARBIT_ARGUMENT;
}

/* Load tokens of a kind, in as many packets as the buffer needs. */
struct source {
    uint32_t command;
    size_t bytes;
    const uint8_t *codes;
    const int16_t *elements;
    const uint16_t *scales;
};

static void put_token(const struct nearbit *device, struct writer *writer, struct source *source)
{
    const struct nearbit_config *config = &device->config;
    const uint8_t *start = writer->at;
    const size_t beat = beat_bytes(device);
    switch (source->command) {
    case NEARBIT_REG_COMMAND_LOAD_KEYS:
        put_code(writer, source->codes, config->key_bits);
        source->codes += nearbit_code_bytes(device);
        break;
    case NEARBIT_REG_COMMAND_LOAD_VALUES:
        put(writer, *source->scales++, 16);
        put_elements(writer, start, beat, source->elements, config->value_dim, config->value_lanes,
                     config->value_bits);
        source->elements += config->value_dim;
        break;
    default:
        put_elements(writer, start, beat, source->elements, config->head_dim,
                     config->rescore_lanes, config->element_bits);
        source->elements += config->head_dim;
        break;
    }
    end_beat(writer, start, beat);
}

static enum nearbit_status load_tokens(struct nearbit *device, uint32_t token, uint32_t number,
                                     struct source source)
{
    enum nearbit_status status = device->config.has_memory ? NEARBIT_ARGUMENT
                                                           : check_tokens(device, token, number);
    while (status == NEARBIT_OK && number) {
        const uint32_t count = at_once(device, source.bytes, number);
        if (count == 0)
            return NEARBIT_NO_ROOM;
        status = begin(device);
        if (status != NEARBIT_OK)
            return status;
        struct writer writer = {device->port->buffer, 0, 0};
        for (uint32_t i = 0; i < count; i++)
            put_token(device, &writer, &source);
        write32(device, NEARBIT_REG_TOKEN, token);
        status = transfer(device, source.command, count, &writer);
        token += count;
        number -= count;
    }
    return status;
}

enum nearbit_status nearbit_load_keys(struct nearbit *device, uint32_t token, uint32_t number,
                                      const uint8_t *codes)
{
    const struct source source = {NEARBIT_REG_COMMAND_LOAD_KEYS,
                                  whole_beats(device, device->config.key_bits), codes, NULL, NULL};
    return load_tokens(device, token, number, source);
}

enum nearbit_status nearbit_load_values(struct nearbit *device, uint32_t token, uint32_t number,
                                        const int16_t *elements, const uint16_t *scales)
{
    const struct source source = {NEARBIT_REG_COMMAND_LOAD_VALUES, value_bytes(device), NULL,
                                  elements, scales};
    return load_tokens(device, token, number, source);
}

enum nearbit_status nearbit_load_rescore_keys(struct nearbit *device, uint32_t token, uint32_t number,
                                            const int16_t *elements)
{
    const struct source source = {NEARBIT_REG_COMMAND_LOAD_RESCORE_KEYS, rescore_bytes(device),
                                  NULL, elements, NULL};
    if (!device->config.has_rescore)
        return NEARBIT_ARGUMENT;
    return load_tokens(device, token, number, source);
}

enum nearbit_status nearbit_load_exp_table(struct nearbit *device, uint32_t exp_table,
                                       const uint32_t *weights)
{
    const uint32_t entries = device->config.key_bits + 1;
    const size_t beat = beat_bytes(device);
    if (exp_table >= device->config.exp_tables)
        return NEARBIT_ARGUMENT;
    if (at_once(device, beat, entries) < entries)
        return NEARBIT_NO_ROOM;
    const enum nearbit_status status = begin(device);
    if (status != NEARBIT_OK)
        return status;
    struct writer writer = {device->port->buffer, 0, 0};
    for (uint32_t i = 0; i < entries; i++) {
        put(&writer, weights[i], device->config.weight_bits);
        end_beat(&writer, device->port->buffer, beat);
    }
    write32(device, NEARBIT_REG_EXP_TABLE, exp_table);
    write32(device, NEARBIT_REG_TOKEN, 0);
    return transfer(device, NEARBIT_REG_COMMAND_LOAD_EXP_TABLE, entries, &writer);
}

static enum nearbit_status check_batch(const struct nearbit *device,
                                       const struct nearbit_batch *batch)
{
    const struct nearbit_config *config = &device->config;
    const uint32_t most = config->capacity;
    if (batch->first >= most || batch->n > most || batch->sink > most || batch->recent > most)
        return NEARBIT_ARGUMENT;
    if (config->has_memory
        && (batch->head >= config->heads || batch->sequence >= config->sequences))
        return NEARBIT_ARGUMENT;
    if ((batch->rescore && !config->has_rescore) || (batch->shared && !config->has_shared))
        return NEARBIT_ARGUMENT;
    for (uint32_t query = 0; query < config->queries; query++)
        if (batch->queries[query].count > most || batch->queries[query].exp_table >= config->exp_tables)
            return NEARBIT_ARGUMENT;
    return NEARBIT_OK;
}

static void write_batch(const struct nearbit *device, const struct nearbit_batch *batch)
{
    if (device->config.has_memory) {
        write32(device, NEARBIT_REG_HEAD, batch->head);
        write32(device, NEARBIT_REG_SEQUENCE, batch->sequence);
    }
    write32(device, NEARBIT_REG_FIRST, batch->first);
    write32(device, NEARBIT_REG_N, batch->n);
    write32(device, NEARBIT_REG_SINK, batch->sink);
    write32(device, NEARBIT_REG_RECENT, batch->recent);
    write32(device, NEARBIT_REG_FLAGS, (batch->trace ? NEARBIT_REG_FLAGS_TRACE_MASK : 0)
                                       | (batch->rescore ? NEARBIT_REG_FLAGS_RESCORE_MASK : 0)
                                       | (batch->shared ? NEARBIT_REG_FLAGS_SHARED_MASK : 0));
    for (uint32_t query = 0; query < device->config.queries; query++) {
        const uint32_t offset = query * NEARBIT_REG_QUERY_STRIDE;
        write32(device, NEARBIT_REG_QUERY_COUNT + offset, batch->queries[query].count);
        write32(device, NEARBIT_REG_QUERY_EXP_TABLE + offset, batch->queries[query].exp_table);
        if (device->config.has_rescore)
            write32(device, NEARBIT_REG_QUERY_MULTIPLIER + offset, batch->queries[query].multiplier);
    }
}

enum nearbit_status nearbit_ask(struct nearbit *device, const struct nearbit_batch *batch,
                                uint32_t number, const uint8_t *codes, const int16_t *elements)
{
    const struct nearbit_config *config = &device->config;
    const size_t beat = beat_bytes(device);
    enum nearbit_status status = check_batch(device, batch);
    if (status != NEARBIT_OK)
        return status;
    if (number == 0 || (batch->rescore && elements == NULL))
        return NEARBIT_ARGUMENT;
    status = begin(device);
    if (status != NEARBIT_OK)
        return status;
    write_batch(device, batch);
    while (status == NEARBIT_OK && number) {
        const uint32_t most = config->capacity > MOST_BATCHES ? config->capacity : MOST_BATCHES;
        const uint32_t count = at_once(device, batch_bytes(device, batch->rescore),
                                       number < most ? number : most);
        if (count == 0)
            return NEARBIT_NO_ROOM;
        struct writer writer = {device->port->buffer, 0, 0};
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t query = 0; query < config->queries; query++) {
                put_code(&writer, codes, config->key_bits);
                end_beat(&writer, device->port->buffer, beat);
                codes += nearbit_code_bytes(device);
            }
            for (uint32_t query = 0; batch->rescore && query < config->queries; query++) {
                put_elements(&writer, device->port->buffer, beat, elements, config->head_dim,
                             config->rescore_lanes, config->element_bits);
                elements += config->head_dim;
            }
        }
        status = transfer(device, NEARBIT_REG_COMMAND_QUERY, count, &writer);
        number -= count;
    }
    return status;
}

/* --- Answers --------------------------------------------------------------------------------- */

enum nearbit_status nearbit_take(struct nearbit *device, struct nearbit_result *result,
                                 int32_t *elements)
{
    const struct nearbit_port *port = device->port;
    const struct nearbit_config *config = &device->config;
    size_t length = 0;
    if (port->buffer_bytes < result_bytes(device))
        return NEARBIT_NO_ROOM;
    if (port->receive(port->context, port->buffer, port->buffer_bytes, &length))
        return NEARBIT_TRANSPORT;
    if (length < beat_bytes(device))
        return NEARBIT_PACKET;
    const uint32_t header = get32(port->buffer, 4);
    result->query = (header & NEARBIT_RESULT_QUERY_MASK) >> NEARBIT_RESULT_QUERY_SHIFT;
    result->error = (header & NEARBIT_RESULT_ERROR_MASK) >> NEARBIT_RESULT_ERROR_SHIFT;
    if (length != (result->error ? beat_bytes(device) : result_bytes(device)))
        return NEARBIT_PACKET;
    if (result->error)
        return NEARBIT_OK;
    const size_t bytes = config->result_bits / 8;
    const uint8_t *at = port->buffer + beat_bytes(device);
    for (uint32_t i = 0; i < config->value_dim; i++, at += bytes)
        elements[i] = sign_extend(get32(at, bytes), config->result_bits);
    return NEARBIT_OK;
}

enum nearbit_status nearbit_take_trace(struct nearbit *device, struct nearbit_selected *keys,
                                       size_t room, size_t *number)
{
    const struct nearbit_port *port = device->port;
    const size_t beat = device->config.trace_bits / 8;
    /* A narrow beat has no score, and a weight of 16 bits in place of 32. */
    const int is_wide = beat > 8;
    size_t length = 0;
    if (!port->receive_trace)
        return NEARBIT_NO_PORT;
    if (port->receive_trace(port->context, port->buffer, port->buffer_bytes, &length))
        return NEARBIT_TRANSPORT;
    if (length == 0 || length % beat)
        return NEARBIT_PACKET;
    if (length / beat > room)
        return NEARBIT_NO_ROOM;
    *number = length / beat;
    for (size_t i = 0; i < *number; i++) {
        const uint8_t *at = port->buffer + i * beat;
        keys[i].index = get32(at, 3);
        keys[i].query = get32(at + 3, 1);
        keys[i].distance = get32(at + 4, 2);
        keys[i].weight = is_wide ? get32(at + 12, 4) : get32(at + 6, 2);
        keys[i].score = is_wide ? sign_extend(get32(at + 8, 4), 32) : -(int32_t)keys[i].distance;
    }
    return NEARBIT_OK;
}

enum nearbit_status nearbit_query(struct nearbit *device, const struct nearbit_batch *batch,
                                  uint32_t number, const uint8_t *codes, const int16_t *query_elements,
                                  struct nearbit_result *results, int32_t *elements)
{
    const struct nearbit_config *config = &device->config;
    if (batch->trace)
        return NEARBIT_ARGUMENT;
    for (; number; number--) {
        enum nearbit_status status = nearbit_ask(device, batch, 1, codes, query_elements);
        for (uint32_t query = 0; status == NEARBIT_OK && query < config->queries; query++) {
            status = nearbit_take(device, results++, elements);
            elements += config->value_dim;
        }
        if (status != NEARBIT_OK)
            return status;
        codes += config->queries * nearbit_code_bytes(device);
        query_elements = query_elements ? query_elements + config->queries * config->head_dim : NULL;
    }
    return NEARBIT_OK;
}

/* --- Keys and values in memory ------------------------------------------------------------------ */

#define IS_SET 0x80000000u /* of TABLE_HEAD and TABLE_PAGE */
#define RAISE 8u           /* of FLAGS */

/* Whether some bytes from an address on have addresses of a number of bits. */
static int is_within(uint64_t address, uint64_t bytes, uint32_t bits)
{
    const uint64_t last = bits < 64 ? ((uint64_t)1 << bits) - 1 : UINT64_MAX;
    return address <= last && bytes - 1 <= last - address;
}

static void write_address(const struct nearbit *device, uint32_t low, uint32_t high,
                          uint64_t address)
{
    write32(device, low, (uint32_t)(address & 0xffffffffu));
    if (device->config.address_bits > 32)
        write32(device, high, (uint32_t)(address >> 32));
}

enum nearbit_status nearbit_set_head(struct nearbit *device, uint32_t head,
                                     const struct nearbit_head *place)
{
    const struct nearbit_config *config = &device->config;
    const uint64_t places = (uint64_t)config->pages * config->page_tokens;
    if (!config->has_memory || head >= config->heads)
        return NEARBIT_ARGUMENT;
    if (place->codes % config->code_alignment || place->rows % config->row_alignment
        || place->stride % config->row_alignment)
        return NEARBIT_ARGUMENT;
    if (place->stride < config->row_bytes || place->stride > config->row_stride)
        return NEARBIT_ARGUMENT;
    if (!is_within(place->codes, places * config->code_bytes, config->address_bits)
        || !is_within(place->rows, places * place->stride, config->address_bits))
        return NEARBIT_ARGUMENT;
    write_address(device, NEARBIT_REG_TABLE_CODES_LOW, NEARBIT_REG_TABLE_CODES_HIGH, place->codes);
    write_address(device, NEARBIT_REG_TABLE_ROWS_LOW, NEARBIT_REG_TABLE_ROWS_HIGH, place->rows);
    write32(device, NEARBIT_REG_TABLE_STRIDE, place->stride);
    write32(device, NEARBIT_REG_TABLE_HEAD, head | IS_SET);
    return NEARBIT_OK;
}

enum nearbit_status nearbit_clear_head(struct nearbit *device, uint32_t head)
{
    if (!device->config.has_memory || head >= device->config.heads)
        return NEARBIT_ARGUMENT;
    write32(device, NEARBIT_REG_TABLE_HEAD, head);
    return NEARBIT_OK;
}

static int is_sequence(const struct nearbit *device, const struct nearbit_sequence *sequence)
{
    return device->config.has_memory && sequence->number < device->config.sequences;
}

enum nearbit_status nearbit_set_tokens(struct nearbit *device, struct nearbit_sequence *sequence,
                                       uint32_t tokens)
{
    if (!is_sequence(device, sequence)
        || tokens > (uint64_t)sequence->listed * device->config.page_tokens)
        return NEARBIT_ARGUMENT;
    write32(device, NEARBIT_REG_TABLE_SEQUENCE, sequence->number);
    write32(device, NEARBIT_REG_TABLE_TOKENS, tokens);
    sequence->tokens = tokens;
    return NEARBIT_OK;
}

enum nearbit_status nearbit_open(struct nearbit *device, struct nearbit_sequence *sequence)
{
    sequence->listed = 0;
    return nearbit_set_tokens(device, sequence, 0);
}

/* Set a place of the list, or remove it: `word` is as in TABLE_PAGE. */
static void write_page(const struct nearbit *device, const struct nearbit_sequence *sequence,
                       uint32_t index, uint32_t word)
{
    write32(device, NEARBIT_REG_TABLE_SEQUENCE, sequence->number);
    write32(device, NEARBIT_REG_TABLE_INDEX, index);
    write32(device, NEARBIT_REG_TABLE_PAGE, word);
}

enum nearbit_status nearbit_grow(struct nearbit *device, struct nearbit_sequence *sequence,
                                 uint32_t page)
{
    const struct nearbit_config *config = &device->config;
    if (!is_sequence(device, sequence) || page >= config->pages
        || sequence->listed >= config->capacity / config->page_tokens)
        return NEARBIT_ARGUMENT;
    write_page(device, sequence, sequence->listed, page | IS_SET);
    sequence->pages[sequence->listed++] = page;
    return NEARBIT_OK;
}

enum nearbit_status nearbit_share(struct nearbit *device, struct nearbit_sequence *sequence,
                                  const struct nearbit_sequence *with, uint32_t tokens)
{
    const uint32_t size = device->config.page_tokens;
    if (!is_sequence(device, sequence) || !is_sequence(device, with) || sequence->listed
        || tokens > with->tokens || tokens % size)
        return NEARBIT_ARGUMENT;
    for (uint32_t index = 0; index < tokens / size; index++) {
        const enum nearbit_status status = nearbit_grow(device, sequence, with->pages[index]);
        if (status != NEARBIT_OK)
            return status;
    }
    return nearbit_set_tokens(device, sequence, tokens);
}

enum nearbit_status nearbit_close(struct nearbit *device, struct nearbit_sequence *sequence)
{
    const enum nearbit_status status = nearbit_set_tokens(device, sequence, 0);
    if (status != NEARBIT_OK)
        return status;
    while (sequence->listed)
        write_page(device, sequence, --sequence->listed, 0);
    return NEARBIT_OK;
}

/* Where the processor sees bytes at an address of the buses; NULL if it does not. */
static uint8_t *bytes_at(const struct nearbit *device, uint64_t address, uint32_t bytes)
{
    const struct nearbit_port *port = device->port;
    if (address < port->memory_address || bytes > port->memory_bytes
        || address - port->memory_address > port->memory_bytes - bytes)
        return NULL;
    return port->memory + (address - port->memory_address);
}

/* Pack elements from the next byte on, after zeros up to an offset of the row. */
static void put_field(struct writer *writer, const uint8_t *row, uint32_t offset,
                      const int16_t *elements, uint32_t number, uint32_t bits)
{
    while ((size_t)(writer->at - row) < offset)
        put(writer, 0, 8);
    for (uint32_t i = 0; i < number; i++)
        put(writer, (uint16_t)elements[i], bits);
    end_beat(writer, row, 1);
}

static void put_row(const struct nearbit_config *config, uint8_t *row, const int16_t *key,
                    const int16_t *values, uint16_t scale)
{
    struct writer writer = {row, 0, 0};
    if (config->has_rescore)
        put_field(&writer, row, 0, key, config->head_dim, config->element_bits);
    put_field(&writer, row, config->row_values, values, config->value_dim, config->value_bits);
    put_field(&writer, row, config->row_scale, NULL, 0, 0);
    put(&writer, scale, 16);
    end_beat(&writer, row, config->row_bytes);
}

enum nearbit_status nearbit_write_token(struct nearbit *device, const struct nearbit_head *place,
                                        const struct nearbit_sequence *sequence, uint32_t token,
                                        const uint8_t *code, const int16_t *key,
                                        const int16_t *values, uint16_t scale)
{
    const struct nearbit_port *port = device->port;
    const struct nearbit_config *config = &device->config;
    if (!is_sequence(device, sequence) || (config->has_rescore && !key))
        return NEARBIT_ARGUMENT;
    if (!port->memory || !port->flush)
        return NEARBIT_NO_PORT;
    if (token >= (uint64_t)sequence->listed * config->page_tokens)
        return NEARBIT_ARGUMENT;
    const uint64_t at = (uint64_t)sequence->pages[token / config->page_tokens]
                            * config->page_tokens + token % config->page_tokens;
    uint8_t *const code_bytes = bytes_at(device, place->codes + at * config->code_bytes,
                                         config->code_bytes);
    uint8_t *const row = bytes_at(device, place->rows + at * place->stride, config->row_bytes);
    if (!code_bytes || !row)
        return NEARBIT_ARGUMENT;
    struct writer writer = {code_bytes, 0, 0};
    put_code(&writer, code, config->key_bits);
    end_beat(&writer, code_bytes, config->code_bytes);
    put_row(config, row, key, values, scale);
    if (port->flush(port->context, code_bytes, config->code_bytes)
        || port->flush(port->context, row, config->row_bytes))
        return NEARBIT_TRANSPORT;
    return NEARBIT_OK;
}

enum nearbit_status nearbit_append(struct nearbit *device, const struct nearbit_head *places,
                                   uint32_t number, struct nearbit_sequence *sequence,
                                   const uint8_t *codes, const int16_t *keys,
                                   const int16_t *values, const uint16_t *scales)
{
    const struct nearbit_config *config = &device->config;
    /* Queries must not see a token that nobody wrote. */
    if (number == 0)
        return NEARBIT_ARGUMENT;
    for (uint32_t i = 0; i < number; i++) {
        const enum nearbit_status status = nearbit_write_token(
            device, &places[i], sequence, sequence->tokens, codes, keys, values, scales[i]);
        if (status != NEARBIT_OK)
            return status;
        codes += nearbit_code_bytes(device);
        keys = keys ? keys + config->head_dim : NULL;
        values += config->value_dim;
    }
    return nearbit_set_tokens(device, sequence, sequence->tokens + 1);
}

/* Give each beat of a row, which are one after another, whole beats of the stream. */
static void spread_row(const struct nearbit *device, uint8_t *row)
{
    const size_t beat = device->config.bus_bits / 8;
    const size_t room = whole_beats(device, device->config.bus_bits);
    for (size_t index = device->config.row_bytes / beat; room > beat && index--;) {
        for (size_t i = beat; i--;)
            row[index * room + i] = row[index * beat + i];
        for (size_t i = beat; i < room; i++)
            row[index * room + i] = 0;
    }
}

enum nearbit_status nearbit_send_token(struct nearbit *device, const uint32_t *heads,
                                       uint32_t number, struct nearbit_sequence *sequence,
                                       const uint8_t *codes, const int16_t *keys,
                                       const int16_t *values, const uint16_t *scales)
{
    const struct nearbit_config *config = &device->config;
    uint8_t *const buffer = device->port->buffer;
    if (!is_sequence(device, sequence) || number == 0 || (config->has_rescore && !keys)
        || sequence->tokens >= (uint64_t)sequence->listed * config->page_tokens)
        return NEARBIT_ARGUMENT;
    for (uint32_t i = 0; i < number; i++)
        if (heads[i] >= config->heads)
            return NEARBIT_ARGUMENT;
    for (uint32_t i = 0; i < number; i++) {
        enum nearbit_status status = begin(device);
        if (status != NEARBIT_OK)
            return status;
        struct writer writer = {buffer, 0, 0};
        put_code(&writer, codes, config->key_bits);
        end_beat(&writer, buffer, beat_bytes(device));
        put_row(config, writer.at, keys, values, scales[i]);
        spread_row(device, writer.at);
        writer.at = buffer + token_bytes(device);
        write32(device, NEARBIT_REG_HEAD, heads[i]);
        write32(device, NEARBIT_REG_SEQUENCE, sequence->number);
        write32(device, NEARBIT_REG_TOKEN, sequence->tokens);
        /* All heads have the token when the last one has it. */
        write32(device, NEARBIT_REG_FLAGS, i == number - 1 ? RAISE : 0);
        status = transfer(device, NEARBIT_REG_COMMAND_APPEND, 1, &writer);
        if (status != NEARBIT_OK)
            return status;
        codes += nearbit_code_bytes(device);
        keys = keys ? keys + config->head_dim : NULL;
        values += config->value_dim;
    }
    sequence->tokens++;
    return NEARBIT_OK;
}

enum nearbit_status nearbit_set_timeout(struct nearbit *device, uint32_t cycles)
{
    const struct nearbit_config *config = &device->config;
    if (!config->has_memory || (config->timeout_bits < 32 && cycles >> config->timeout_bits))
        return NEARBIT_ARGUMENT;
    write32(device, NEARBIT_REG_MEMORY_TIMEOUT, cycles);
    return NEARBIT_OK;
}

uint32_t nearbit_faults(const struct nearbit *device)
{
    return device->config.has_memory ? read32(device, NEARBIT_REG_MEMORY_FAULT) : 0;
}

void nearbit_clear_faults(struct nearbit *device, uint32_t bits)
{
    if (device->config.has_memory)
        write32(device, NEARBIT_REG_MEMORY_FAULT, bits & 7);
}

/* --- The device -------------------------------------------------------------------------------- */

#define IDENTITY 0x4e454152u /* "NEAR" */
#define REVISION 1u
#define MEMORY_REVISION 3u

static void read_memory_config(struct nearbit *device)
{
    /* Numbers that share a register have 16 bits each, or 8. */
    struct nearbit_config *config = &device->config;
    const uint32_t memory = read32(device, NEARBIT_REG_MEMORY);
    const uint32_t code = read32(device, NEARBIT_REG_CODE);
    const uint32_t row = read32(device, NEARBIT_REG_ROW);
    const uint32_t fields = read32(device, NEARBIT_REG_ROW_FIELDS);
    config->heads = read32(device, NEARBIT_REG_HEADS);
    config->sequences = read32(device, NEARBIT_REG_SEQUENCES);
    config->page_tokens = read32(device, NEARBIT_REG_PAGE_TOKENS);
    config->pages = read32(device, NEARBIT_REG_PAGES);
    config->bus_bits = memory & 0xffff;
    config->address_bits = memory >> 16 & 0xff;
    config->timeout_bits = memory >> 24;
    config->code_bytes = code & 0xffff;
    config->code_alignment = code >> 16;
    config->row_bytes = row & 0xffff;
    config->row_alignment = row >> 16;
    config->row_values = fields & 0xffff;
    config->row_scale = fields >> 16;
    config->row_stride = read32(device, NEARBIT_REG_ROW_STRIDE);
}

/* Tables are cleared after a reset. */
static enum nearbit_status wait_ready(const struct nearbit *device)
{
    for (uint32_t polls = device->port->polls; !(read32(device, NEARBIT_REG_MEMORY_STATUS) & 1);
         polls--)
        if (polls == 0)
            return NEARBIT_TIMEOUT;
    return NEARBIT_OK;
}

static void read_config(struct nearbit *device)
{
    static const struct nearbit_config none;
    struct nearbit_config *config = &device->config;
    *config = none;
    const uint32_t capabilities = read32(device, NEARBIT_REG_CAPABILITIES);
    const uint32_t stream = read32(device, NEARBIT_REG_STREAM);
    const uint32_t rescore = read32(device, NEARBIT_REG_RESCORE);
    config->version = read32(device, NEARBIT_REG_VERSION);
    config->revision = FIELD(capabilities, CAPABILITIES_REVISION);
    config->key_bits = read32(device, NEARBIT_REG_KEY_BITS);
    config->value_dim = read32(device, NEARBIT_REG_VALUE_DIM);
    config->capacity = read32(device, NEARBIT_REG_CAPACITY);
    config->value_bits = read32(device, NEARBIT_REG_VALUE_BITS);
    config->queries = read32(device, NEARBIT_REG_QUERIES);
    config->lanes = read32(device, NEARBIT_REG_LANES);
    config->value_lanes = read32(device, NEARBIT_REG_VALUE_LANES);
    config->top_n = read32(device, NEARBIT_REG_TOP_N);
    config->weight_bits = read32(device, NEARBIT_REG_WEIGHT_BITS);
    config->output_fraction_bits = read32(device, NEARBIT_REG_OUTPUT_FRACTION_BITS);
    config->exp_tables = read32(device, NEARBIT_REG_EXP_TABLES);
    config->head_dim = FIELD(rescore, RESCORE_HEAD_DIM);
    config->rescore_lanes = FIELD(rescore, RESCORE_LANES);
    config->element_bits = FIELD(rescore, RESCORE_ELEMENT_BITS);
    config->has_rescore = FIELD(capabilities, CAPABILITIES_RESCORE) != 0;
    config->has_shared = FIELD(capabilities, CAPABILITIES_SHARED) != 0;
    config->data_bits = FIELD(stream, STREAM_DATA_BITS);
    config->result_bits = FIELD(stream, STREAM_RESULT_BITS);
    config->trace_bits = FIELD(stream, STREAM_TRACE_BITS);
    config->has_memory = FIELD(capabilities, CAPABILITIES_MEMORY) != 0;
    if (config->has_memory && config->revision == MEMORY_REVISION)
        read_memory_config(device);
}

enum nearbit_status nearbit_probe(struct nearbit *device, const struct nearbit_port *port)
{
    device->port = port;
    if (!port->registers && (!port->read32 || !port->write32))
        return NEARBIT_NO_PORT;
    if (!port->send || !port->receive || !port->buffer)
        return NEARBIT_NO_PORT;
    if (read32(device, NEARBIT_REG_ID) != IDENTITY)
        return NEARBIT_NO_DEVICE;
    read_config(device);
    if (device->config.revision != (device->config.has_memory ? MEMORY_REVISION : REVISION))
        return NEARBIT_NO_DEVICE;
    if (port->buffer_bytes < nearbit_room(device))
        return NEARBIT_NO_ROOM;
    if (device->config.has_memory) {
        const enum nearbit_status status = wait_ready(device);
        if (status != NEARBIT_OK)
            return status;
    }
    return nearbit_clear(device);
}

struct nearbit_error nearbit_error(const struct nearbit *device)
{
    const uint32_t word = read32(device, NEARBIT_REG_ERROR);
    const uint32_t detail = FIELD(word, ERROR_DETAIL);
    struct nearbit_error error = {word & ERROR_CODE, 0, 0, 0};
    if (error.code == NEARBIT_REG_ERROR_CODE_QUERY) {
        const unsigned bits = device->config.has_memory ? 4 : 3;
        error.query = detail >> bits;
        error.query_error = detail & ((1u << bits) - 1);
    } else {
        error.address = detail;
    }
    return error;
}

enum nearbit_status nearbit_clear(struct nearbit *device)
{
    write32(device, NEARBIT_REG_CONTROL, NEARBIT_REG_CONTROL_CLEAR_MASK);
    return wait_idle(device);
}

enum nearbit_status nearbit_abandon(struct nearbit *device)
{
    write32(device, NEARBIT_REG_CONTROL, NEARBIT_REG_CONTROL_ABANDON_MASK);
    return wait_idle(device);
}

int nearbit_is_active(const struct nearbit *device)
{
    return FIELD(read32(device, NEARBIT_REG_STATUS), STATUS_ACTIVE) != 0;
}

void nearbit_clear_counters(struct nearbit *device)
{
    write32(device, NEARBIT_REG_CONTROL, NEARBIT_REG_CONTROL_CLEAR_COUNTERS_MASK);
}

uint64_t nearbit_counter(const struct nearbit *device, uint32_t address)
{
    /* The high word again until no carry came between. */
    uint32_t high = read32(device, address + 4);
    for (;;) {
        const uint32_t low = read32(device, address);
        const uint32_t again = read32(device, address + 4);
        if (again == high)
            return (uint64_t)high << 32 | low;
        high = again;
    }
}

void nearbit_irq_enable(struct nearbit *device, uint32_t bits)
{
    write32(device, NEARBIT_REG_IRQ_ENABLE, bits);
}

uint32_t nearbit_irq_pending(const struct nearbit *device)
{
    return read32(device, NEARBIT_REG_IRQ_STATUS);
}

void nearbit_irq_clear(struct nearbit *device, uint32_t bits)
{
    write32(device, NEARBIT_REG_IRQ_STATUS, bits);
}

/* --- Words --------------------------------------------------------------------------------------- */

#define COUNT(texts) (sizeof(texts) / sizeof *(texts))

const char *nearbit_text(enum nearbit_status status)
{
    static const char *const texts[] = {
        "no error",
        "the registers are not those of a Nearbit that this driver knows",
        "the port has no register access, no send or receive, or no buffer",
        "an argument is outside of what the accelerator has",
        "the buffer is too small",
        "another operation still takes its packet",
        "the operation did not end in time",
        "sending or receiving failed",
        "the accelerator reports an error",
        "a packet of the accelerator has an impossible length",
    };
    return (size_t)status < COUNT(texts) ? texts[status] : "unknown status";
}

const char *nearbit_error_text(uint32_t code)
{
    static const char *const texts[] = {
        "no error",
        "a command field or COMMAND was written during an operation",
        "a read-only register was written",
        "COMMAND has no such command, or NUMBER is 0, or tokens are beyond the end",
        "a value does not fit its register",
        "the packet ended before the operation did",
        "the packet did not end with the operation",
        "a query of a batch was answered with an error",
        "a token could not be appended: its head or page is not set, or the memory failed",
    };
    return code < COUNT(texts) ? texts[code] : "unknown error";
}

const char *nearbit_query_text(uint32_t error)
{
    static const char *const texts[] = {
        "no error",
        "n is 0",
        "n + sink + recent is more than top_n",
        "the query sees no keys",
        "the query sees keys or value vectors that are not loaded",
        "the query's exp table is not loaded",
        "there is no unit for rescoring, or for a shared selection",
        "a shared selection without rescoring, or of queries that see different keys",
        "the head, or the first page that the query sees, is not set",
        "codes could not be read from memory, or a page is not set",
        "rows could not be read from memory",
    };
    return error < COUNT(texts) ? texts[error] : "unknown error";
}
