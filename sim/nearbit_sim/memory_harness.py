"""The memory at the other end of a component's AXI4 buses, in C++: for the ``compiled`` engine.

What :class:`nearbit_model.memory_timing.MemoryTiming` describes, cycle by cycle, with the same
draws as :mod:`nearbit_sim.memory`; the tests compare both.
"""

import ctypes
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.transfers.buses import Bus
from nearbit_model.transfers.program import Traffic
from nearbit_sim.memory import first_state, threshold


__all__ = ["MEMORY_HARNESS", "MEMORY_INTERFACE", "CompiledMemory", "bus_glue"]


# In front of the harness: it drives `memory.drive(cycle)` before each cycle, and samples after.
MEMORY_HARNESS = r"""
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace {

// 64-bit words of the widest payload: 1,024 bits of data, an ID and flags, or as many strobes.
constexpr size_t kWords = 20;

struct Timing {
    uint8_t *contents;
    int64_t size, latency, latest, grows, beat, outstanding, silent_from, silent_to;
    const uint64_t *faults, *silent, *states;
    int64_t fault_count, silent_count;
    uint64_t ar_pause, r_pause, aw_pause, w_pause, b_pause;
    int32_t shared, reorder, log;

    bool is_silent(int64_t cycle) const {
        return silent_from >= 0 && cycle >= silent_from && (silent_to < 0 || cycle < silent_to);
    }
};

struct Report {
    int64_t bursts, beats, failed;
    const uint64_t *addresses;
    const int64_t *lengths, *numbers, *shown, *asked, *cycles, *beat_numbers;
};

// Bits of the payloads: where fields begin, and how wide they are.
struct Shape {
    const char *name;
    unsigned bytes, id_bits, address_bits;
    unsigned id, address, length;    // of ar or aw
    unsigned r_id, r_data, r_resp, r_last;
    unsigned w_data, w_strb, w_last, b_id, b_resp;
};

uint64_t get(const uint64_t *words, unsigned at, unsigned bits) {
    if (!bits)
        return 0;
    uint64_t found = words[at / 64] >> (at % 64);
    if (at % 64 + bits > 64)
        found |= words[at / 64 + 1] << (64 - at % 64);
    return bits < 64 ? found & ((uint64_t(1) << bits) - 1) : found;
}

// Into words that are 0 there.
void put(uint64_t *words, unsigned at, uint64_t number) {
    words[at / 64] |= number << (at % 64);
    if (at % 64)
        words[at / 64 + 1] |= number >> (64 - at % 64);
}

struct Draws {
    uint64_t state = 0;

    uint64_t draw() {
        state += 0x9E3779B97F4A7C15u;
        uint64_t mixed = state;
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
        return (mixed ^ (mixed >> 31)) >> 32;
    }

    int64_t below(uint64_t count) { return count > 1 ? int64_t(draw() * count >> 32) : 0; }

    bool pauses(uint64_t probability) { return probability > 0 && draw() < probability; }
};

struct Credit {
    int64_t grows = 1, beat = 1, credit = 0;

    void grow() { credit = std::min(credit + grows, beat + grows - 1); }
    bool suffices() const { return credit >= beat; }
    void take() { credit -= beat; }
};

struct Burst {
    uint64_t number, address;
    int64_t beats, due;
};

struct Held {
    bool offered = false;
    uint64_t words[kWords] = {};
};

struct BusBase {
    Shape shape;
    const Timing *timing = nullptr;
    std::string *broken = nullptr;
    Draws draws;
    Credit own, *credit = &own;
    std::unordered_map<uint64_t, int> faults;
    std::unordered_set<uint64_t> silent;
    std::vector<uint64_t> addresses;
    std::vector<int64_t> lengths, numbers, shown, asked, cycles, beat_numbers;
    int64_t bursts_asked = 0, beats_moved = 0, failed = 0, since = 0, last = 0;

    void begin_run(const Timing *given, std::string *message, Credit *shared, uint64_t state) {
        timing = given;
        broken = message;
        draws.state = state;
        own.grows = given->grows;
        own.beat = given->beat;
        if (given->shared)
            credit = shared;
        for (int64_t i = 0; i < given->fault_count; i++)
            faults[given->faults[2 * i] / shape.bytes] = int(given->faults[2 * i + 1]);
        for (int64_t i = 0; i < given->silent_count; i++)
            silent.insert(given->silent[i] / shape.bytes);
    }

    void fail(int64_t cycle, const std::string &what) {
        if (broken->empty())
            *broken = "the hardware breaks a rule of AXI4 on " + std::string(shape.name)
                + " in cycle " + std::to_string(cycle) + ": " + what;
    }

    static std::string hex(uint64_t number) {
        char text[32];
        snprintf(text, sizeof text, "0x%llx", (unsigned long long)number);
        return text;
    }

    void check(Held &held, int64_t cycle, const char *channel, bool valid, const uint64_t *words,
               size_t count, bool ready) {
        if (held.offered) {
            if (!valid)
                fail(cycle, std::string(channel) + "valid falls before a transfer");
            else if (memcmp(held.words, words, count * sizeof *words))
                fail(cycle, std::string("the payload of ") + channel
                     + " changes before a transfer");
        }
        held.offered = valid && !ready;
        if (held.offered)
            memcpy(held.words, words, count * sizeof *words);
    }

    // Of the channel of addresses; `since` is when what it shows was first presented.
    void check_address(Held &held, int64_t cycle, const char *channel, bool valid,
                       const uint64_t *words, size_t count, bool ready) {
        if (!held.offered)
            since = cycle;
        check(held, cycle, channel, valid, words, count, ready);
    }

    Burst take_address(int64_t cycle, const uint64_t *words) {
        uint64_t number = get(words, shape.id, shape.id_bits);
        uint64_t address = get(words, shape.address, shape.address_bits);
        int64_t beats = int64_t(get(words, shape.length, 8)) + 1;
        if (address % shape.bytes)
            fail(cycle, "the address " + hex(address) + " is not that of a beat of "
                 + std::to_string(shape.bytes) + " bytes");
        else if (address % 4096 + beats * shape.bytes > 4096)
            fail(cycle, std::to_string(beats) + " beats from " + hex(address)
                 + " on cross 4 KiB");
        bursts_asked++;
        last = cycle;
        if (timing->log) {
            addresses.push_back(address);
            lengths.push_back(beats);
            numbers.push_back(int64_t(number));
            shown.push_back(since);
            asked.push_back(cycle);
        }
        return {number, address, beats, 0};
    }

    void moved(int64_t cycle) {
        beats_moved++;
        last = cycle;
        if (timing->log)
            cycles.push_back(cycle);
    }

    int64_t latency() {
        return timing->latency + draws.below(uint64_t(timing->latest - timing->latency + 1));
    }

    bool waits(const Burst &burst, int64_t cycle) const {
        if (silent.empty() || (timing->silent_to >= 0 && cycle >= timing->silent_to))
            return false;
        for (int64_t beat = 0; beat < burst.beats; beat++)
            if (silent.count(burst.address / shape.bytes + beat))
                return true;
        return false;
    }

    bool is_inside(uint64_t address) const {
        return uint64_t(timing->size) >= shape.bytes && address <= timing->size - shape.bytes;
    }

    int fault(uint64_t address) const {
        if (faults.empty())
            return 0;
        auto found = faults.find(address / shape.bytes);
        return found == faults.end() ? 0 : found->second;
    }
};

struct ReadBus : BusBase {
    bool ready = false, has_beat = false, offered = false;
    uint64_t beat[kWords] = {};
    std::deque<Burst> bursts;
    std::vector<size_t> candidates;
    std::vector<uint8_t> seen;
    Held held;

    void begin() {
        bool pauses = draws.pauses(timing->ar_pause);
        ready = !pauses && int64_t(bursts.size()) < timing->outstanding;
    }

    bool give(int64_t cycle) {
        if (has_beat)
            return false;
        if (!timing->shared)
            own.grow();
        if (timing->is_silent(cycle) || !credit->suffices())
            return false;
        size_t index = choose(cycle);
        if (index == bursts.size())
            return false;
        credit->take();
        Burst &burst = bursts[index];
        uint64_t address = burst.address;
        burst.address += shape.bytes;
        burst.beats--;
        memset(beat, 0, sizeof beat);
        put(beat, shape.r_id, burst.number);
        put(beat, shape.r_last, burst.beats == 0);
        if (is_inside(address)) {
            put(beat, shape.r_resp, uint64_t(fault(address)));
            for (unsigned at = 0; at < shape.bytes; at += 8) {
                uint64_t word = 0;
                memcpy(&word, timing->contents + address + at, std::min(8u, shape.bytes - at));
                put(beat, shape.r_data + 8 * at, word);
            }
        } else {
            put(beat, shape.r_resp, 3);
        }
        if (burst.beats == 0)
            bursts.erase(bursts.begin() + index);
        return has_beat = true;
    }

    // The burst that gives a beat, or as many as there are for none.
    size_t choose(int64_t cycle) {
        candidates.clear();
        auto consider = [&](size_t index) {
            if (bursts[index].due <= cycle && !waits(bursts[index], cycle))
                candidates.push_back(index);
        };
        if (!timing->reorder) {
            if (!bursts.empty())
                consider(0);
        } else {
            seen.assign(size_t(1) << shape.id_bits, 0);
            for (size_t index = 0; index < bursts.size(); index++)
                if (!seen[bursts[index].number]) {
                    seen[bursts[index].number] = 1;
                    consider(index);
                }
        }
        if (candidates.empty())
            return bursts.size();
        return candidates[draws.below(candidates.size())];
    }

    void end() {
        if (has_beat && !offered)
            offered = !draws.pauses(timing->r_pause);
    }

    void sample(int64_t cycle, bool valid, const uint64_t *words, size_t count, bool r_ready) {
        check_address(held, cycle, "ar", valid, words, count, ready);
        if (valid && ready) {
            Burst burst = take_address(cycle, words);
            burst.due = cycle + latency();
            bursts.push_back(burst);
        }
        if (offered && r_ready) {
            has_beat = offered = false;
            moved(cycle);
            failed += get(beat, shape.r_resp, 2) > 1;
            if (timing->log)
                beat_numbers.push_back(int64_t(get(beat, shape.r_id, shape.id_bits)));
        }
    }
};

struct WriteBus : BusBase {
    struct Word {
        uint64_t words[kWords];
    };
    struct Due {
        Burst burst;
        int response;
    };

    bool address_ready = false, beat_ready = false, has_answer = false, offered = false;
    uint64_t answer[kWords] = {};
    int64_t unanswered = 0;
    std::deque<Burst> bursts;
    std::deque<Word> words;
    std::deque<Due> due;
    Held held_address, held_beat;

    void begin(int64_t cycle) {
        bool pauses = draws.pauses(timing->aw_pause);
        address_ready = !pauses && unanswered < timing->outstanding && !timing->is_silent(cycle);
    }

    void end(int64_t cycle) {
        if (!timing->shared)
            own.grow();
        bool pauses = draws.pauses(timing->w_pause), silent = timing->is_silent(cycle);
        beat_ready = !pauses && !silent && credit->suffices();
        if (!has_answer && !due.empty() && !silent && due.front().burst.due <= cycle
            && !waits(due.front().burst, cycle)) {
            memset(answer, 0, sizeof answer);
            put(answer, shape.b_id, due.front().burst.number);
            put(answer, shape.b_resp, uint64_t(due.front().response));
            due.pop_front();
            unanswered--;
            has_answer = true;
        }
        if (has_answer && !offered)
            offered = !draws.pauses(timing->b_pause);
    }

    void sample(int64_t cycle, bool aw_valid, const uint64_t *aw, size_t aw_count, bool w_valid,
                const uint64_t *w, size_t w_count, bool b_ready) {
        check_address(held_address, cycle, "aw", aw_valid, aw, aw_count, address_ready);
        check(held_beat, cycle, "w", w_valid, w, w_count, beat_ready);
        if (offered && b_ready) {
            has_answer = offered = false;
            failed += get(answer, shape.b_resp, 2) > 1;
        }
        if (aw_valid && address_ready) {
            bursts.push_back(take_address(cycle, aw));
            unanswered++;
        }
        if (w_valid && beat_ready) {
            credit->take();
            Word word = {};
            memcpy(word.words, w, w_count * sizeof *w);
            words.push_back(word);
            moved(cycle);
        }
        while (!bursts.empty() && int64_t(words.size()) >= bursts.front().beats) {
            write(bursts.front(), cycle);
            bursts.pop_front();
        }
    }

    void write(Burst burst, int64_t cycle) {
        int response = 0;
        for (int64_t beat = 0; beat < burst.beats; beat++) {
            Word word = words.front();
            words.pop_front();
            unsigned last = unsigned(get(word.words, shape.w_last, 1));
            if (last != (beat == burst.beats - 1))
                fail(cycle, "wlast is " + std::to_string(last) + " with beat "
                     + std::to_string(beat + 1) + " of " + std::to_string(burst.beats)
                     + " of the burst at " + hex(burst.address));
            uint64_t address = burst.address + beat * shape.bytes;
            if (!is_inside(address)) {
                response = response ? response : 3;
                continue;
            }
            response = response ? response : fault(address);
            for (unsigned byte = 0; byte < shape.bytes; byte++)
                if (get(word.words, shape.w_strb + byte, 1))
                    timing->contents[address + byte] =
                        uint8_t(get(word.words, shape.w_data + 8 * byte, 8));
        }
        burst.due = cycle + latency();
        due.push_back({burst, response});
    }
};

struct Memory {
    Timing timing = {};
    Credit shared;
    std::string broken;
    ReadBus reads[NEARBIT_READS + 1];
    WriteBus writes[NEARBIT_WRITES + 1];
    size_t turn = 0;

    // Buses in the order of the component's streams.
    BusBase *buses[NEARBIT_READS + NEARBIT_WRITES] = {NEARBIT_BUSES};

    Memory() {
        const Shape shapes[] = {NEARBIT_SHAPES};
        for (size_t i = 0; i < NEARBIT_READS + NEARBIT_WRITES; i++)
            buses[i]->shape = shapes[i];
    }

    void begin_run(const Timing &given) {
        timing = given;
        shared.grows = given.grows;
        shared.beat = given.beat;
        for (size_t i = 0; i < NEARBIT_READS + NEARBIT_WRITES; i++)
            buses[i]->begin_run(&timing, &broken, &shared, given.states[i]);
    }

    void drive(int64_t cycle) {
        for (size_t i = 0; i < NEARBIT_READS; i++)
            reads[i].begin();
        for (size_t i = 0; i < NEARBIT_WRITES; i++)
            writes[i].begin(cycle);
        if (timing.shared)
            shared.grow();
        size_t first = turn;
        for (size_t step = 0; step < NEARBIT_READS; step++) {
            size_t index = (first + step) % NEARBIT_READS;
            if (reads[index].give(cycle))
                turn = (index + 1) % NEARBIT_READS;
        }
        for (size_t i = 0; i < NEARBIT_READS; i++)
            reads[i].end();
        for (size_t i = 0; i < NEARBIT_WRITES; i++)
            writes[i].end(cycle);
    }
};

}
"""

# Behind the harness.
MEMORY_INTERFACE = r"""
extern "C" {

void nearbit_begin_memory(Simulation *sim, const Timing *timing) {
    sim->memory.begin_run(*timing);
}

const char *nearbit_broken(Simulation *sim) { return sim->memory.broken.c_str(); }

// Cycle of the last transfer on any bus.
int64_t nearbit_last(Simulation *sim) {
    int64_t last = 0;
    for (const BusBase *bus : sim->memory.buses)
        last = std::max(last, bus->last);
    return last;
}

void nearbit_report(Simulation *sim, int index, Report *report) {
    const BusBase &bus = *sim->memory.buses[index];
    *report = {bus.bursts_asked, bus.beats_moved, bus.failed, bus.addresses.data(),
               bus.lengths.data(), bus.numbers.data(), bus.shown.data(), bus.asked.data(),
               bus.cycles.data(), bus.beat_numbers.data()};
}

}
"""


class _Timing(ctypes.Structure):
    _fields_ = (
        ("contents", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("size", "latency", "latest", "grows", "beat",
                                              "outstanding", "silent_from", "silent_to")),
        *((name, ctypes.c_void_p) for name in ("faults", "silent", "states")),
        *((name, ctypes.c_int64) for name in ("fault_count", "silent_count")),
        *((name, ctypes.c_uint64) for name in ("ar_pause", "r_pause", "aw_pause", "w_pause",
                                               "b_pause")),
        *((name, ctypes.c_int32) for name in ("shared", "reorder", "log")))


class _Report(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_int64) for name in ("bursts", "beats", "failed")),
                ("addresses", ctypes.POINTER(ctypes.c_uint64)),
                *((name, ctypes.POINTER(ctypes.c_int64)) for name in (
                    "lengths", "numbers", "shown", "asked", "cycles", "beat_numbers")))


class CompiledMemory:
    """The memory of a run in a native library.

    Parameters
    ----------
    library, handle
        The library and its simulation.
    buses
        The component's buses.
    timing
        When it answers.
    contents
        Its bytes, uint8 [bytes]; they are written to.
    log
        Whether every burst and beat is recorded.
    """

    def __init__(self, library: ctypes.CDLL, handle: int, buses: list[Bus], timing: MemoryTiming,
                 contents: NDArray[np.uint8], *, log: bool) -> None:
        """Hand it to the simulation, before its first cycle."""
        self._library, self._handle, self._buses, self._log = library, handle, buses, log
        library.nearbit_begin_memory.restype = None
        library.nearbit_begin_memory.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Timing))
        library.nearbit_broken.restype = ctypes.c_char_p
        library.nearbit_broken.argtypes = (ctypes.c_void_p,)
        library.nearbit_last.restype = ctypes.c_int64
        library.nearbit_last.argtypes = (ctypes.c_void_p,)
        library.nearbit_report.restype = None
        library.nearbit_report.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Report))
        self._contents = contents
        grows, beat = timing.beats_of_cycles
        # The lowest of several addresses of a beat comes last, and counts.
        faults = np.array(sorted(timing.faults.items(), reverse=True), dtype=np.uint64)
        silent = np.array(timing.silent_at, dtype=np.uint64)
        states = np.array([first_state(timing.seed, index) for index in range(len(buses))],
                          dtype=np.uint64)
        # The library copies all but the contents.
        library.nearbit_begin_memory(handle, ctypes.byref(_Timing(
            contents=contents.ctypes.data, size=len(contents), latency=timing.latency,
            latest=timing.latest, grows=grows, beat=beat, outstanding=timing.outstanding,
            silent_from=-1 if timing.silent_from is None else timing.silent_from,
            silent_to=-1 if timing.silent_to is None else timing.silent_to,
            faults=faults.ctypes.data, silent=silent.ctypes.data, states=states.ctypes.data,
            fault_count=len(timing.faults), silent_count=len(silent),
            **{name: threshold(getattr(timing, name))
               for name in ("ar_pause", "r_pause", "aw_pause", "w_pause", "b_pause")},
            shared=int(timing.shared_pace), reorder=int(timing.reorder), log=int(log))))

    @property
    def broken(self) -> str:
        """The rule that was broken, in one sentence; empty if none was."""
        said: bytes = self._library.nearbit_broken(self._handle)
        return said.decode()

    @property
    def last(self) -> int:
        """Cycle of the last transfer on any bus, 0 before the first."""
        cycle: int = self._library.nearbit_last(self._handle)
        return cycle

    def traffic(self) -> list[Traffic]:
        """Say what was transferred on each bus so far."""
        return [self._traffic(index, bus) for index, bus in enumerate(self._buses)]

    def _traffic(self, index: int, bus: Bus) -> Traffic:
        report = _Report()
        self._library.nearbit_report(self._handle, index, ctypes.byref(report))

        def array(pointer: "ctypes._Pointer[ctypes.c_int64] | ctypes._Pointer[ctypes.c_uint64]",
                  count: int) -> NDArray[np.int64]:
            if not self._log or not count:
                return np.zeros(0, dtype=np.int64)
            return np.ctypeslib.as_array(pointer, (count,)).astype(np.int64)

        return Traffic(bus.name, bus.is_read, bus.beat_bytes, report.bursts, report.beats,
                       report.failed,
                       **{name: array(getattr(report, name), report.bursts) for name in (
                           "addresses", "lengths", "numbers", "shown", "asked")},
                       cycles=array(report.cycles, report.beats),
                       beat_numbers=array(report.beat_numbers, report.beats if bus.is_read else 0))


def bus_glue(buses: list[Bus], signals: Iterable[str]) -> dict[str, str]:
    """Write the part of the harness that depends on the buses: macros by name, and their text.

    ``signals`` are the C++ names of the streams of all buses' channels, in order.
    """
    if not buses:
        return {}
    names = iter(signals)
    listed: list[str] = []
    shapes: list[str] = []
    drive = ["sim->memory.drive(sim->cycle);"]
    sample: list[str] = []
    counts = {True: 0, False: 0}
    for bus in buses:
        number = counts[bus.is_read]
        counts[bus.is_read] += 1
        field = f"{'reads' if bus.is_read else 'writes'}[{number}]"
        listed.append(f"&{field}")
        shapes.append(_shape(bus))
        at = f"sim->memory.{field}"
        channels = {channel: next(names) for channel in bus.channels}
        if bus.is_read:
            drive += [_level(channels["ar"], "ready", f"{at}.ready"),
                      _offer(channels["r"], f"{at}.offered", f"{at}.beat")]
            sample.append(f"{{ {_read('ar', channels['ar'])} {at}.sample(sim->cycle, "
                          f"ar_valid, ar, ar_count, bit({channels['r']}__ready)); }}")
        else:
            drive += [_level(channels["aw"], "ready", f"{at}.address_ready"),
                      _level(channels["w"], "ready", f"{at}.beat_ready"),
                      _offer(channels["b"], f"{at}.offered", f"{at}.answer")]
            sample.append(f"{{ {_read('aw', channels['aw'])} {_read('w', channels['w'])} "
                          f"{at}.sample(sim->cycle, aw_valid, aw, aw_count, w_valid, w, w_count, "
                          f"bit({channels['b']}__ready)); }}")
    return {"NEARBIT_READS": str(counts[True]), "NEARBIT_WRITES": str(counts[False]),
            "NEARBIT_BUSES": ", ".join(listed), "NEARBIT_SHAPES": ", ".join(shapes),
            "NEARBIT_DRIVE_BUSES": " ".join(drive),
            "NEARBIT_SAMPLE_BUSES": " ".join(sample)}


def _level(stream: str, port: str, value: str) -> str:
    return f"{stream}__{port} = cxxrtl::value<1>{{uint32_t({value})}};"


def _offer(stream: str, valid: str, words: str) -> str:
    return f"{_level(stream, 'valid', valid)} if ({valid}) load({stream}__payload, {words});"


def _read(name: str, stream: str) -> str:
    """Declare what a channel of the manager shows."""
    return (f"uint64_t {name}[kWords]; bool {name}_valid = bit({stream}__valid); "
            f"size_t {name}_count = words_of(now({stream}__payload)); "
            f"if ({name}_valid) store({name}, now({stream}__payload));")


def _shape(bus: Bus) -> str:
    """Write the initializer of a Shape."""
    def at(channel: str, field: str) -> int:
        return bus.offset(channel, field) if channel in bus.channels else 0

    address = "ar" if bus.is_read else "aw"
    numbers = [bus.beat_bytes, bus.id_bits, bus.address_bits,
               *(at(address, field) for field in ("id", "addr", "len")),
               *(at("r", field) for field in ("id", "data", "resp", "last")),
               *(at("w", field) for field in ("data", "strb", "last")),
               *(at("b", field) for field in ("id", "resp"))]
    return f'{{"{bus.name}", {", ".join(map(str, numbers))}}}'
