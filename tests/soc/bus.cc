// SPDX-License-Identifier: Apache-2.0
//
// The functions of a driver's port, for a design that Verilator has compiled: an AXI4-Lite master, an
// AXI4-Stream source and two sinks. All of them pause at random, and go on whenever the clock does.

#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

namespace {

// Ports of up to 64 bits are integers, wider ones arrays of 32-bit words.
template<class Port> uint64_t long_word(const Port &x) { return x; }
template<size_t Count> uint64_t long_word(const VlWide<Count> &x) {
    return x[0] | uint64_t(x[1]) << 32;
}
template<class Port> uint32_t word(const Port &x) { return uint32_t(long_word(x)); }

template<class Port> void set(Port &to, uint64_t value) { to = Port(value); }

// Ports of data are powers of two wide, like their types.
template<class Port> void set_bytes(Port &to, const uint8_t *bytes) {
    memcpy(&to, bytes, sizeof to);
}

template<class Port> void append(std::vector<uint8_t> &bytes, const Port &from) {
    const auto *first = reinterpret_cast<const uint8_t *>(&from);
    bytes.insert(bytes.end(), first, first + sizeof from);
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
    VerilatedContext context;
    Design top{&context, ""};
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

    template<class Ready, class Valid, class Data, class Id, class Response, class Last>
    void offer(Reader &reader, Ready &ready, Valid &valid, Data &data, Id &id, Response &response,
               Last &last) {
        set(ready, reader.bursts.size() < 8 && chance());
        if (!reader.offered && !silent && !reader.bursts.empty()
            && reader.bursts.front().due <= cycle && chance()) {
            const auto &burst = reader.bursts.front();
            reader.offered = true;
            uint8_t bytes[sizeof data];
            for (size_t i = 0; i < sizeof data; i++) {
                uint64_t at = burst.address + i - memory_address;
                bytes[i] = at < memory_bytes ? memory[at] : 0;
            }
            set_bytes(data, bytes);
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
            append(found.bytes, data);
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
        set(top.s_axi_awaddr, address);
        set(top.s_axi_araddr, address);
        set(top.s_axi_wdata, data);
        set(top.s_axi_wstrb, 15);
        if (aw && !word(top.s_axi_awvalid))
            set(top.s_axi_awvalid, chance());
        if (w && !word(top.s_axi_wvalid))
            set(top.s_axi_wvalid, chance());
        if (ar && !word(top.s_axi_arvalid))
            set(top.s_axi_arvalid, chance());
        set(top.s_axi_bready, chance());
        set(top.s_axi_rready, chance());
        if (!source.empty() && !offered && chance()) {
            offered = true;
            set_bytes(top.s_axis_tdata, source.front().bytes);
            set(top.s_axis_tlast, source.front().last);
        }
        set(top.s_axis_tvalid, offered);
        set(top.m_axis_result_tready, chance());
        set(top.m_axis_trace_tready, chance());
#define OFFER(index, pins) \
    offer(readers[index], top.pins##arready, top.pins##rvalid, top.pins##rdata, top.pins##rid, \
          top.pins##rresp, top.pins##rlast)
#define SERVE(index, pins) \
    serve(readers[index], word(top.pins##arvalid) && word(top.pins##arready), \
          word(top.pins##rvalid) && word(top.pins##rready), sizeof top.pins##rdata, \
          top.pins##araddr, top.pins##arlen, top.pins##arid)
#if NEARBIT_READ_PORTS > 0
        answer(top.m_axi_append_awready, top.m_axi_append_wready,
               top.m_axi_append_bvalid, top.m_axi_append_bresp);
        OFFER(0, m_axi_codes_);
#endif
#if NEARBIT_READ_PORTS > 1
        OFFER(1, m_axi_rows0_);
#endif
#if NEARBIT_READ_PORTS > 2
        OFFER(2, m_axi_rows1_);
#endif
        set(top.aclk, 0);
        top.eval();

#if NEARBIT_READ_PORTS > 0
#define MOVES(channel) (word(top.m_axi_append_##channel##valid) \
                        && word(top.m_axi_append_##channel##ready))
        write(MOVES(aw), MOVES(w), MOVES(b), top.m_axi_append_awaddr,
              top.m_axi_append_awlen, top.m_axi_append_wdata,
              top.m_axi_append_wstrb);
        SERVE(0, m_axi_codes_);
#endif
#if NEARBIT_READ_PORTS > 1
        SERVE(1, m_axi_rows0_);
#endif
#if NEARBIT_READ_PORTS > 2
        SERVE(2, m_axi_rows1_);
#endif

        if (word(top.s_axi_awvalid) && word(top.s_axi_awready))
            aw = false;
        if (word(top.s_axi_wvalid) && word(top.s_axi_wready))
            w = false;
        if (word(top.s_axi_arvalid) && word(top.s_axi_arready))
            ar = false;
        if (word(top.s_axi_bvalid) && word(top.s_axi_bready)) {
            b = false;
            response = word(top.s_axi_bresp);
        }
        if (word(top.s_axi_rvalid) && word(top.s_axi_rready)) {
            r = false;
            read = word(top.s_axi_rdata);
            response = word(top.s_axi_rresp);
        }
        if (offered && word(top.s_axis_tready)) {
            source.pop_front();
            offered = false;
        }
        if (word(top.m_axis_result_tvalid) && word(top.m_axis_result_tready)) {
            append(building[0], top.m_axis_result_tdata);
            if (word(top.m_axis_result_tlast)) {
                packets[0].push_back(building[0]);
                building[0].clear();
            }
        }
        if (word(top.m_axis_trace_tvalid) && word(top.m_axis_trace_tready)) {
            append(building[1], top.m_axis_trace_tdata);
            if (word(top.m_axis_trace_tlast)) {
                packets[1].push_back(building[1]);
                building[1].clear();
            }
        }
        set(top.aclk, 1);
        top.eval();
        cycle++;
        if (!aw)
            set(top.s_axi_awvalid, 0);
        if (!w)
            set(top.s_axi_wvalid, 0);
        if (!ar)
            set(top.s_axi_arvalid, 0);
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

#define PUBLIC __attribute__((visibility("default")))

extern "C" {

PUBLIC Bus *bus_create(uint64_t seed, uint32_t pause) {
    auto *bus = new Bus;
    bus->random = seed;
    bus->pause = pause;
    set(bus->top.aresetn, 0);
    for (int i = 0; i < 4; i++)
        bus->tick();
    set(bus->top.aresetn, 1);
    return bus;
}

PUBLIC void bus_destroy(Bus *bus) { delete bus; }

// Pull the accelerator's reset, and with `engines` what sends and takes packets, too.
PUBLIC void bus_reset(Bus *bus, int engines) {
    if (engines) {
        bus->source.clear();
        bus->offered = false;
        for (auto &packet : bus->building)
            packet.clear();
    }
    set(bus->top.aresetn, 0);
    bus->tick();
    set(bus->top.aresetn, 1);
}

// Beats that wait to be sent; they may be sent later.
PUBLIC void bus_offer(Bus *bus, const uint8_t *bytes, size_t length, int last) {
    for (size_t at = 0; at < length; at += BEAT) {
        Beat beat{};
        for (size_t i = 0; i < BEAT; i++)
            beat.bytes[i] = bytes[at + i];
        beat.last = last && at + BEAT >= length;
        bus->source.push_back(beat);
    }
}

// The memory behind the ports, and what of it cannot be read or written.
PUBLIC void bus_memory(Bus *bus, uint8_t *bytes, uint64_t address, uint64_t length) {
    bus->memory = bytes;
    bus->memory_address = address;
    bus->memory_bytes = length;
}

PUBLIC void bus_fault(Bus *bus, uint64_t address) { bus->fault = address; }
PUBLIC void bus_silence(Bus *bus, int silent) { bus->silent = silent; }

PUBLIC uint64_t bus_cycle(Bus *bus) { return bus->cycle; }
PUBLIC uint32_t bus_errors(Bus *bus) { return bus->errors; }
PUBLIC uint32_t bus_irq(Bus *bus) { return word(bus->top.irq); }

PUBLIC void bus_run(Bus *bus, uint32_t cycles) {
    while (cycles--)
        bus->tick();
}

// Packets that nobody has taken, and the start of a further one.
PUBLIC uint32_t bus_pending(Bus *bus, uint32_t stream) {
    return uint32_t(bus->packets[stream].size()) + !bus->building[stream].empty();
}

PUBLIC uint32_t bus_read32(void *context, uint32_t offset) {
    auto *bus = static_cast<Bus *>(context);
    bus->address = offset;
    bus->ar = bus->r = true;
    bus->until([&] { return !bus->r; });
    bus->errors += bus->response != 0;
    return bus->read;
}

PUBLIC void bus_write32(void *context, uint32_t offset, uint32_t value) {
    auto *bus = static_cast<Bus *>(context);
    bus->address = offset;
    bus->data = value;
    bus->aw = bus->w = bus->b = true;
    bus->until([&] { return !bus->b; });
    bus->errors += bus->response != 0;
}

// Beats of a packet, or of a part of one; without `last` it goes on.
PUBLIC int bus_beats(void *context, const uint8_t *bytes, size_t length, int last) {
    auto *bus = static_cast<Bus *>(context);
    bus_offer(bus, bytes, length, last);
    return !bus->until([&] { return bus->source.empty(); });
}

PUBLIC int bus_send(void *context, const uint8_t *bytes, size_t length) {
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

PUBLIC int bus_receive(void *context, uint8_t *bytes, size_t room, size_t *length) {
    return receive(static_cast<Bus *>(context), 0, bytes, room, length);
}

PUBLIC int bus_receive_trace(void *context, uint8_t *bytes, size_t room, size_t *length) {
    return receive(static_cast<Bus *>(context), 1, bytes, room, length);
}

}
