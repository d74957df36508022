# amaranth: UnusedElaboratable=no
import re
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from nearbit_hw.memory import RowBuffer, RowReader, RowTail
from nearbit_sim.bench import run_bench


HERE = Path(__file__).parent


class Read(wiring.Component):
    """A RowReader with its RowBuffer, which is filled over one port."""

    def __init__(self, given, row_beats, tail):
        self.reader = RowReader(**given)
        self.buffer = RowBuffer(top_n=given["top_n"], row_beats=row_beats,
                                data_bits=given["word_bits"], kept=range(self.reader.words),
                                tail=None if tail is None else RowTail(*tail))
        reader, buffer = self.reader.signature.members, self.buffer.signature.members
        super().__init__({
            **{name: reader[name] for name in ("i_use", "i", "o")},
            **{name: reader[name] for name in ("o_outcome",) if name in reader},
            **{name: buffer[name] for name in ("o_set", "i_write", "i_arrived")},
            **({} if given["releases"] else {"i_release": buffer["i_release"]}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = self.reader
        m.submodules.buffer = buffer = self.buffer
        wiring.connect(m, reader.o_request, buffer.i)
        wiring.connect(m, buffer.o, reader.i_word)
        for name in ("i_use", "i"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(reader, name))
        wiring.connect(m, reader.o, wiring.flipped(self.o))
        wiring.connect(m, buffer.o_set, wiring.flipped(self.o_set))
        for name in ("i_write", "i_arrived"):
            wiring.connect(m, wiring.flipped(getattr(self, name)[0]), getattr(buffer, name)[0])
        if "i_release" in self.signature.members:
            wiring.connect(m, wiring.flipped(self.i_release), buffer.i_release)
        else:
            wiring.connect(m, reader.o_release, buffer.i_release)
            wiring.connect(m, reader.o_outcome, wiring.flipped(self.o_outcome))
        return m


@pytest.mark.parametrize("parameters", [
    {"top_n": 6, "beats": 4, "beat_bits": 16, "word_bits": 16, "tail": [4, 3, 9],
     "row_beats": 5},
    {"top_n": 3, "beats": 6, "beat_bits": 8, "word_bits": 32},
    {"top_n": 1, "beats": 1, "beat_bits": 5, "word_bits": 5, "tail": [0, 4, 1]},
    {"top_n": 5, "beats": 4, "beat_bits": 12, "word_bits": 24, "row_major": True,
     "releases": False},
    {"top_n": 4, "beats": 1, "beat_bits": 8, "word_bits": 8, "row_major": True,
     "releases": False},
], ids=["tail", "narrow", "one", "row-major", "row-major-one"])
def test_bench(parameters):
    given = {"row_major": False, "releases": True, **parameters}
    tail, row_beats = given.pop("tail", None), given.pop("row_beats", None)
    given["tail_bits"] = 0 if tail is None else tail[2]
    per_word = given["word_bits"] // given["beat_bits"]
    row_beats = row_beats or -(-given["beats"] // per_word)
    dut = Read(given, row_beats, tail)
    run_bench(dut, HERE / "row_reader.py", parameters={
        **given, "tail": tail, "row_beats": row_beats, "latency": dut.reader.latency})


@pytest.mark.parametrize("word_bits", [12, 24])
def test_wrong_word(word_bits):
    with pytest.raises(ValueError, match=re.escape(
            f"Word bits must be beat bits (8) times a power of two, not {word_bits}")):
        RowReader(top_n=4, beats=2, beat_bits=8, word_bits=word_bits)
