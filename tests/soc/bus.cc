// SPDX-License-Identifier: Apache-2.0
//
// The functions of a driver's port, for a design that CXXRTL has compiled: an AXI4-Lite master, an
// AXI4-Stream source and two sinks. All of them pause at random, and go on whenever the clock does.

#include <cstdint>
#include <deque>
#include <vector>

namespace {

template<size_t Bits> const cxxrtl::value<Bits> &now(const cxxrtl::value<Bits> &x) { return x; }
template<size_t Bits> const cxxrtl::value<Bits> &now(const cxxrtl::wire<Bits> &x) { return x.curr; }
template<class Any> uint32_t word(const Any &x) { return now(x).data[0]; }

template<class Any> uint64_t long_word(const Any &x) {
    return word(x) | (now(x).chunks > 1 ? uint64_t(now(x).data[1]) << 32 : 0);
}

template<size_t Bits>
void set(cxxrtl::value<Bits> &to, uint64_t value) {
    to = cxxrtl::value<Bits>{};
    to.data[0] = uint32_t(value);
    if (to.chunks > 1)
        to.data[1] = uint32_t(value >> 32);
}

template<size_t Bits>
void append(std::vector<uint8_t> &bytes, const cxxrtl::value<Bits> &from) {
    for (size_t i = 0; i < Bits / 8; i++)
        bytes.push_back(uint8_t(from.data[i / 4] >> (8 * (i % 4))));
}

constexpr size_t BEAT = NEARBIT_BEAT_BYTES;

struct Beat {
    uint8_t bytes[BEAT];
    bool last;
};

// A memory behind a read port: bursts in order, each some cycles after its address.
struct Reader {
    struct Burst {
        uint64_t address, due;
        uint32_t beats, id;
    };
    std::deque<Burst> bursts;
    bool offered = false;
};

// The same behind a write port: a burst is written when all of it has come.
struct Writer {
    struct Word {
        std::vector<uint8_t> bytes;
        uint64_t strobe;
    };
    struct Answer {
        uint64_t due;
        uint32_t response;
    };
    std::deque<Reader::Burst> bursts;
    std::deque<Word> words;
    std::deque<Answer> answers;
    bool offered = false;
};

struct Bus {
    uint8_t *memory = nullptr;
    uint64_t memory_address = 0, memory_bytes = 0;
    uint64_t fault = ~uint64_t(0); // address of a beat that is answered with an error
    bool silent = false;
    Reader readers[NEARBIT_READ_PORTS + 1];
    Writer writer;
    cxxrtl_design::p_nearbit__axi top;
    uint64_t cycle = 0, random = 0;
    uint32_t pause = 0; // of 256
    uint32_t errors = 0; // responses other than OKAY
    // What the channels have to do.
    bool aw = false, w = false, b = false, ar = false, r = false;
    uint32_t address = 0, data = 0, read = 0, response = 0;
    std::deque<Beat> source;
    bool offered = false;
    std::vector<uint8_t> building[2];
    std::deque<std::vector<uint8_t>> packets[2];

    bool chance() {
        random = random * 6364136223846793005u + 1442695040888963407u;
        return uint32_t(random >> 40) % 256 >= pause;
    }

    uint32_t memory_word(uint64_t address) const {
        uint32_t found = 0;
        for (uint64_t i = 0; i < 4; i++)
            if (address + i - memory_address < memory_bytes)
                found |= uint32_t(memory[address + i - memory_address]) << (8 * i);
        return found;
    }

    template<class Ready, class Valid, class Data, class Id, class Response, class Last>
    void offer(Reader &reader, Ready &ready, Valid &valid, Data &data, Id &id, Response &response,
               Last &last) {
        set(ready, reader.bursts.size() < 8 && chance());
        if (!reader.offered && !silent && !reader.bursts.empty()
            && reader.bursts.front().due <= cycle && chance()) {
            const auto &burst = reader.bursts.front();
            reader.offered = true;
            for (size_t i = 0; i < data.chunks; i++)
                data.data[i] = memory_word(burst.address + 4 * i);
            set(id, burst.id);
            set(response, burst.address == fault ? 2 : 0);
            set(last, burst.beats == 1);
        }
        set(valid, reader.offered);
    }

    template<class Address, class Length, class Id>
    void serve(Reader &reader, bool asked, bool taken, size_t bytes, const Address &address,
               const Length &length, const Id &id) {
        if (taken) {
            auto &burst = reader.bursts.front();
            reader.offered = false;
            burst.address += bytes;
            if (--burst.beats == 0)
                reader.bursts.pop_front();
        }
        if (asked) {
            reader.bursts.push_back({long_word(address), cycle + 1 + (random >> 33) % 16,
                                     word(length) + 1, word(id)});
        }
    }

    template<class Ready, class Valid, class Response>
    void answer(Ready &address_ready, Ready &beat_ready, Valid &valid, Response &response) {
        set(address_ready, !silent && writer.bursts.size() < 4 && chance());
        set(beat_ready, !silent && chance());
        if (!writer.offered && !silent && !writer.answers.empty()
            && writer.answers.front().due <= cycle && chance()) {
            writer.offered = true;
            set(response, writer.answers.front().response);
        }
        set(valid, writer.offered);
    }

    template<class Address, class Length, class Data, class Strobe>
    void write(bool asked, bool given, bool taken, const Address &address, const Length &length,
               const Data &data, const Strobe &strobe) {
        if (taken) {
            writer.answers.pop_front();
            writer.offered = false;
        }
        if (asked)
            writer.bursts.push_back({long_word(address), 0, word(length) + 1, 0});
        if (given) {
            Writer::Word found{{}, long_word(strobe)};
            append(found.bytes, now(data));
            writer.words.push_back(found);
        }
        while (!writer.bursts.empty() && writer.words.size() >= writer.bursts.front().beats) {
            auto burst = writer.bursts.front();
            writer.bursts.pop_front();
            uint32_t response = 0;
            for (; burst.beats; burst.beats--) {
                const auto &found = writer.words.front();
                if (burst.address == fault)
                    response = 2;
                for (size_t i = 0; i < found.bytes.size(); i++)
                    if (found.strobe >> i & 1 && burst.address + i - memory_address < memory_bytes)
                        memory[burst.address + i - memory_address] = found.bytes[i];
                burst.address += found.bytes.size();
                writer.words.pop_front();
            }
            writer.answers.push_back({cycle + 1 + (random >> 33) % 16, response});
        }
    }

    void tick() {
        // What is valid stays so until it is taken.
        set(top.p_s__axi__awaddr, address);
        set(top.p_s__axi__araddr, address);
        set(top.p_s__axi__wdata, data);
        set(top.p_s__axi__wstrb, 15);
        if (aw && !word(top.p_s__axi__awvalid))
            set(top.p_s__axi__awvalid, chance());
        if (w && !word(top.p_s__axi__wvalid))
            set(top.p_s__axi__wvalid, chance());
        if (ar && !word(top.p_s__axi__arvalid))
            set(top.p_s__axi__arvalid, chance());
        set(top.p_s__axi__bready, chance());
        set(top.p_s__axi__rready, chance());
        if (!source.empty() && !offered && chance()) {
            offered = true;
            for (size_t i = 0; i < (BEAT + 3) / 4; i++) {
                uint32_t chunk = 0;
                for (size_t j = 0; j < 4 && 4 * i + j < BEAT; j++)
                    chunk |= uint32_t(source.front().bytes[4 * i + j]) << (8 * j);
                top.p_s__axis__tdata.data[i] = chunk;
            }
            set(top.p_s__axis__tlast, source.front().last);
        }
        set(top.p_s__axis__tvalid, offered);
        set(top.p_m__axis__result__tready, chance());
        set(top.p_m__axis__trace__tready, chance());
#define OFFER(index, pins) \
    offer(readers[index], top.pins##arready, top.pins##rvalid, top.pins##rdata, top.pins##rid, \
          top.pins##rresp, top.pins##rlast)
#define SERVE(index, pins) \
    serve(readers[index], word(top.pins##arvalid) && word(top.pins##arready), \
          word(top.pins##rvalid) && word(top.pins##rready), top.pins##rdata.bits / 8, \
          top.pins##araddr, top.pins##arlen, top.pins##arid)
#if NEARBIT_READ_PORTS > 0
        answer(top.p_m__axi__append__awready, top.p_m__axi__append__wready,
               top.p_m__axi__append__bvalid, top.p_m__axi__append__bresp);
        OFFER(0, p_m__axi__codes__);
#endif
#if NEARBIT_READ_PORTS > 1
        OFFER(1, p_m__axi__rows0__);
#endif
#if NEARBIT_READ_PORTS > 2
        OFFER(2, p_m__axi__rows1__);
#endif
        set(top.p_aclk, 0);
        top.step();

#if NEARBIT_READ_PORTS > 0
#define MOVES(channel) (word(top.p_m__axi__append__##channel##valid) \
                        && word(top.p_m__axi__append__##channel##ready))
        write(MOVES(aw), MOVES(w), MOVES(b), top.p_m__axi__append__awaddr,
              top.p_m__axi__append__awlen, top.p_m__axi__append__wdata,
              top.p_m__axi__append__wstrb);
        SERVE(0, p_m__axi__codes__);
#endif
#if NEARBIT_READ_PORTS > 1
        SERVE(1, p_m__axi__rows0__);
#endif
#if NEARBIT_READ_PORTS > 2
        SERVE(2, p_m__axi__rows1__);
#endif

        if (word(top.p_s__axi__awvalid) && word(top.p_s__axi__awready))
            aw = false;
        if (word(top.p_s__axi__wvalid) && word(top.p_s__axi__wready))
            w = false;
        if (word(top.p_s__axi__arvalid) && word(top.p_s__axi__arready))
            ar = false;
        if (word(top.p_s__axi__bvalid) && word(top.p_s__axi__bready)) {
            b = false;
            response = word(top.p_s__axi__bresp);
        }
        if (word(top.p_s__axi__rvalid) && word(top.p_s__axi__rready)) {
            r = false;
            read = word(top.p_s__axi__rdata);
            response = word(top.p_s__axi__rresp);
        }
        if (offered && word(top.p_s__axis__tready)) {
            source.pop_front();
            offered = false;
        }
        if (word(top.p_m__axis__result__tvalid) && word(top.p_m__axis__result__tready)) {
            append(building[0], now(top.p_m__axis__result__tdata));
            if (word(top.p_m__axis__result__tlast)) {
                packets[0].push_back(building[0]);
                building[0].clear();
            }
        }
        if (word(top.p_m__axis__trace__tvalid) && word(top.p_m__axis__trace__tready)) {
            append(building[1], now(top.p_m__axis__trace__tdata));
            if (word(top.p_m__axis__trace__tlast)) {
                packets[1].push_back(building[1]);
                building[1].clear();
            }
        }
        set(top.p_aclk, 1);
        top.step();
        cycle++;
        if (!aw)
            set(top.p_s__axi__awvalid, 0);
        if (!w)
            set(top.p_s__axi__wvalid, 0);
        if (!ar)
            set(top.p_s__axi__arvalid, 0);
    }

    // Run until a condition, or give up.
    template<class Condition>
    bool until(Condition done, int limit = 100000) {
        for (; limit && !done(); limit--)
            tick();
        return done();
    }
};

}

extern "C" {

Bus *bus_create(uint64_t seed, uint32_t pause) {
    auto *bus = new Bus;
    bus->random = seed;
    bus->pause = pause;
    set(bus->top.p_aresetn, 0);
    for (int i = 0; i < 4; i++)
        bus->tick();
    set(bus->top.p_aresetn, 1);
    return bus;
}

void bus_destroy(Bus *bus) { delete bus; }

// Pull the accelerator's reset, and with `engines` what sends and takes packets, too.
void bus_reset(Bus *bus, int engines) {
    if (engines) {
        bus->source.clear();
        bus->offered = false;
        for (auto &packet : bus->building)
            packet.clear();
    }
    set(bus->top.p_aresetn, 0);
    bus->tick();
    set(bus->top.p_aresetn, 1);
}

// Beats that wait to be sent; they may be sent later.
void bus_offer(Bus *bus, const uint8_t *bytes, size_t length, int last) {
    for (size_t at = 0; at < length; at += BEAT) {
        Beat beat{};
        for (size_t i = 0; i < BEAT; i++)
            beat.bytes[i] = bytes[at + i];
        beat.last = last && at + BEAT >= length;
        bus->source.push_back(beat);
    }
}

// The memory behind the ports, and what of it cannot be read or written.
void bus_memory(Bus *bus, uint8_t *bytes, uint64_t address, uint64_t length) {
    bus->memory = bytes;
    bus->memory_address = address;
    bus->memory_bytes = length;
}

void bus_fault(Bus *bus, uint64_t address) { bus->fault = address; }
void bus_silence(Bus *bus, int silent) { bus->silent = silent; }

uint64_t bus_cycle(Bus *bus) { return bus->cycle; }
uint32_t bus_errors(Bus *bus) { return bus->errors; }
uint32_t bus_irq(Bus *bus) { return word(bus->top.p_irq); }

void bus_run(Bus *bus, uint32_t cycles) {
    while (cycles--)
        bus->tick();
}

// Packets that nobody has taken, and the start of a further one.
uint32_t bus_pending(Bus *bus, uint32_t stream) {
    return uint32_t(bus->packets[stream].size()) + !bus->building[stream].empty();
}

uint32_t bus_read32(void *context, uint32_t offset) {
    auto *bus = static_cast<Bus *>(context);
    bus->address = offset;
    bus->ar = bus->r = true;
    bus->until([&] { return !bus->r; });
    bus->errors += bus->response != 0;
    return bus->read;
}

void bus_write32(void *context, uint32_t offset, uint32_t value) {
    auto *bus = static_cast<Bus *>(context);
    bus->address = offset;
    bus->data = value;
    bus->aw = bus->w = bus->b = true;
    bus->until([&] { return !bus->b; });
    bus->errors += bus->response != 0;
}

// Beats of a packet, or of a part of one; without `last` it goes on.
int bus_beats(void *context, const uint8_t *bytes, size_t length, int last) {
    auto *bus = static_cast<Bus *>(context);
    bus_offer(bus, bytes, length, last);
    return !bus->until([&] { return bus->source.empty(); });
}

int bus_send(void *context, const uint8_t *bytes, size_t length) {
    return bus_beats(context, bytes, length, 1);
}

static int receive(Bus *bus, size_t stream, uint8_t *bytes, size_t room, size_t *length) {
    auto &packets = bus->packets[stream];
    if (!bus->until([&] { return !packets.empty(); }))
        return 1;
    if (packets.front().size() > room)
        return 2;
    *length = packets.front().size();
    for (size_t i = 0; i < *length; i++)
        bytes[i] = packets.front()[i];
    packets.pop_front();
    return 0;
}

int bus_receive(void *context, uint8_t *bytes, size_t room, size_t *length) {
    return receive(static_cast<Bus *>(context), 0, bytes, room, length);
}

int bus_receive_trace(void *context, uint8_t *bytes, size_t room, size_t *length) {
    return receive(static_cast<Bus *>(context), 1, bytes, room, length);
}

}
