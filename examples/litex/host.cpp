// SPDX-License-Identifier: Apache-2.0
// The processor and the DMA engine of simulate_memory.py: does the steps of a program, keeps answers.
//
//     Vsoc PROGRAM ANSWERS CYCLES
//
// A step of the program is 16 bytes, as is a beat of the answers. It ends when all steps are done
// and the answers are complete; with status 1 if that takes more than CYCLES.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "Vsoc.h"
#include "verilated.h"

enum Kind : uint32_t { WRITE, POLL, SEND, TAKE, START };

struct Step {
    uint32_t kind;
    uint32_t address; // of a register; of SEND whether the beat is the last one
    uint64_t data;    // of POLL the bits that must be 0; of TAKE the number of packets in all
};

struct Beat {
    uint64_t cycle; // since START; the highest bit: the last beat of its packet
    uint64_t data;
};

template<class Any> static std::vector<Any> read_all(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    std::vector<Any> found;
    Any each;
    while (fread(&each, sizeof each, 1, file) == 1)
        found.push_back(each);
    fclose(file);
    return found;
}

class Host {
public:
    Host(Vsoc &soc, std::vector<Step> steps) : soc(soc), steps(std::move(steps)) {}

    std::vector<Beat> beats;

    bool done() const { return next == steps.size(); }
    size_t step() const { return next; }

    // Set what the SoC sees in this cycle.
    void drive()
    {
        const Step *step = done() ? nullptr : &steps[next];
        uint32_t kind = step ? step->kind : TAKE;
        soc.host_awvalid = kind == WRITE && !has_address;
        soc.host_wvalid = kind == WRITE && !has_data;
        soc.host_bready = kind == WRITE && has_address && has_data;
        soc.host_arvalid = kind == POLL && !has_address;
        soc.host_rready = kind == POLL && has_address;
        soc.packet_valid = kind == SEND;
        soc.result_ready = 1;
        if (!step)
            return;
        soc.host_awaddr = soc.host_araddr = step->address;
        soc.host_wdata = uint32_t(step->data);
        soc.host_wstrb = 15;
        soc.packet_data = step->data;
        soc.packet_last = step->address;
    }

    // See what it answers, before the clock's edge.
    void sample(uint64_t cycle)
    {
        if (soc.result_valid) {
            beats.push_back({(cycle - start) | uint64_t(soc.result_last) << 63, soc.result_data});
            packets += soc.result_last;
        }
        if (done())
            return;
        const Step &step = steps[next];
        bool ends = false;
        switch (step.kind) {
        case WRITE:
            ends = soc.host_bready && soc.host_bvalid;
            if (ends && soc.host_bresp)
                refused(step);
            has_address |= soc.host_awvalid && soc.host_awready;
            has_data |= soc.host_wvalid && soc.host_wready;
            break;
        case POLL:
            if (soc.host_rready && soc.host_rvalid) {
                if (soc.host_rresp)
                    refused(step);
                ends = !(soc.host_rdata & step.data);
                has_address = false;
            }
            has_address |= soc.host_arvalid && soc.host_arready;
            break;
        case SEND:
            ends = soc.packet_ready;
            break;
        case TAKE:
            ends = packets >= step.data;
            break;
        case START:
            start = cycle;
            ends = true;
            break;
        }
        if (ends) {
            has_address = has_data = false;
            next++;
        }
    }

private:
    Vsoc &soc;
    std::vector<Step> steps;
    size_t next = 0;
    uint64_t packets = 0, start = 0;
    bool has_address = false, has_data = false;

    static void refused(const Step &step)
    {
        fprintf(stderr, "the bus refuses register 0x%x\n", unsigned(step.address));
        exit(2);
    }
};

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: %s PROGRAM ANSWERS CYCLES\n", arguments[0]);
        return 2;
    }
    VerilatedContext context;
    Vsoc soc(&context);
    Host host(soc, read_all<Step>(arguments[1]));
    uint64_t limit = strtoull(arguments[3], nullptr, 10), cycle = 0;
    for (int reset = 0; reset < 8; reset++) { // the SoC resets itself in the first cycle
        soc.sys_clk = 0;
        soc.eval();
        soc.sys_clk = 1;
        soc.eval();
    }
    while (!host.done() && cycle < limit) {
        host.drive();
        soc.sys_clk = 0;
        soc.eval();
        host.sample(cycle++);
        soc.sys_clk = 1;
        soc.eval();
    }
    FILE *file = fopen(arguments[2], "wb");
    if (!file || fwrite(host.beats.data(), sizeof(Beat), host.beats.size(), file) !=
                     host.beats.size() || fclose(file)) {
        perror(arguments[2]);
        return 2;
    }
    if (!host.done())
        fprintf(stderr, "step %zu does not end within %llu cycles\n", host.step(),
                (unsigned long long)limit);
    return !host.done();
}
