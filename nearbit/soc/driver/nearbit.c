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

size_t nearbit_room(const struct nearbit *device)
{
    const size_t sizes[] = {
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

/* The error of a query is in the query's answer, too, and hinders nothing. */
static enum nearbit_status refusal(const struct nearbit *device)
{
    const uint32_t code = FIELD(read32(device, NEARBIT_REG_ERROR), ERROR_CODE);
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
    enum nearbit_status status = check_tokens(device, token, number);
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
    if ((batch->rescore && !config->has_rescore) || (batch->shared && !config->has_shared))
        return NEARBIT_ARGUMENT;
    for (uint32_t query = 0; query < config->queries; query++)
        if (batch->queries[query].count > most || batch->queries[query].exp_table >= config->exp_tables)
            return NEARBIT_ARGUMENT;
    return NEARBIT_OK;
}

static void write_batch(const struct nearbit *device, const struct nearbit_batch *batch)
{
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

/* --- The device -------------------------------------------------------------------------------- */

#define IDENTITY 0x4e454152u /* "NEAR" */
#define REVISION 1u

static void read_config(struct nearbit *device)
{
    struct nearbit_config *config = &device->config;
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
    if (device->config.revision != REVISION)
        return NEARBIT_NO_DEVICE;
    if (port->buffer_bytes < nearbit_room(device))
        return NEARBIT_NO_ROOM;
    return nearbit_clear(device);
}

struct nearbit_error nearbit_error(const struct nearbit *device)
{
    const uint32_t word = read32(device, NEARBIT_REG_ERROR);
    const uint32_t detail = FIELD(word, ERROR_DETAIL);
    struct nearbit_error error = {FIELD(word, ERROR_CODE), 0, 0, 0};
    if (error.code == NEARBIT_REG_ERROR_CODE_QUERY) {
        error.query = detail >> 3;
        error.query_error = detail & 7;
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
    };
    return error < COUNT(texts) ? texts[error] : "unknown error";
}
