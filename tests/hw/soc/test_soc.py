# amaranth: UnusedElaboratable=no
from pathlib import Path

import pytest

from nearbit_hw import yosys
from nearbit_hw.core import Core
from nearbit_hw.soc.input_stream import InputStream
from nearbit_hw.soc.register_file import RegisterFile
from nearbit_hw.soc.registers import register_map
from nearbit_hw.soc.result_stream import ResultStream
from nearbit_hw.soc.soc_core import SocCore
from nearbit_hw.soc.table_registers import TableRegisters
from nearbit_hw.verilog import generate
from nearbit_model.config import PRESETS, Config, Memory, Rescore
from nearbit_model.memory import MemoryLayout
from nearbit_sim.bench import run_bench


TINY = Config.preset("tiny")
CONFIGS = [
    (TINY, 64),
    (TINY.replace(queries=1), 32),
    (Config(key_bits=70, value_dim=6, capacity=40, queries=1, lanes=2, value_lanes=3, top_n=7,
            exp_tables=3, refine_lanes=4, normalizer="divider", divider_cycles=2), 64),
    (TINY.replace(queries=3, rescore=Rescore(head_dim=8, lanes=4, element_bits=10, shared=True)),
     32),
    (Config(key_bits=5, value_dim=9, capacity=13, queries=2, lanes=1, value_lanes=9, top_n=3,
            value_bits=16, weight_bits=24, output_fraction_bits=16,
            normalizer="divider", divider_cycles=32), 64),
]
NUMBERS = range(len(CONFIGS))


def bench(module, config, data_bits=64, bus="axi", test_filter=None, **more):
    dut = SocCore(config, bus=bus, data_bits=data_bits)
    parameters = {"config": config.to_dict(), "data_bits": data_bits, "latency": dut.latency}
    run_bench(dut, Path(__file__).with_name(module), parameters={**parameters, **more},
              test_filter=test_filter, timeout=3000)


@pytest.mark.parametrize(("number", "scenarios"), [(0, 20), (2, 12), (3, 8)])
def test_scenarios(number, scenarios):
    config, data_bits = CONFIGS[number]
    bench("scenarios.py", config, data_bits, scenarios=scenarios, first=0)


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_directed(number):
    config, data_bits = CONFIGS[number]
    bench("directed.py", config, data_bits, queries=24)


def test_directed_with_rescoring():
    config = TINY.replace(queries=1, rescore=Rescore(head_dim=8, lanes=4))
    bench("directed.py", config, queries=24,
          test_filter="cycles_are_the_cores|given_up|cut_off|after_another")


@pytest.mark.slow
def test_interval_of_reference():
    bench("directed.py", Config.preset("reference"), queries=16, interval=65,
          test_filter="cycles_are_the_cores")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("number", NUMBERS)
def test_thousand_scenarios(number, part):
    config, data_bits = CONFIGS[number]
    bench("scenarios.py", config, data_bits, scenarios=100, first=1000 + 100 * part)


def test_wishbone():
    bench("wishbone.py", TINY, bus="wishbone", scenarios=6)


CACHED = {
    "plain": (Config(key_bits=8, value_dim=8, capacity=64, lanes=4, value_lanes=8, top_n=16,
                     memory=Memory(heads=3, sequences=2, page_tokens=16, burst_bytes=16,
                                   queue_beats=16)), 64, "axi"),
    "one bus": (Config(key_bits=70, value_dim=8, capacity=32, queries=2, lanes=1, value_lanes=4,
                       top_n=8,
                       memory=Memory(heads=1, sequences=1, page_tokens=8, one_bus=True,
                                     address_bits=40, bus_bits=32, burst_bytes=16,
                                     queue_beats=64)), 64, "axi"),
    "shared": (Config(key_bits=8, value_dim=16, capacity=64, lanes=4, value_lanes=8, top_n=16,
                      queries=2, rescore=Rescore(head_dim=16, lanes=8, element_bits=12,
                                                 shared=True),
                      memory=Memory(heads=2, sequences=3, page_tokens=32, pages=5, bus_bits=32,
                                    row_ports=2)), 32, "axi"),
}


@pytest.mark.parametrize("case", CACHED)
def test_cached(case):
    """A core whose cache lies in memory, with other people's memories behind its buses."""
    config, data_bits, bus = CACHED[case]
    bench("cached.py", config, data_bits, bus,
          "queries|registers|commands|unset|faults|silence|append", steps=12)


def test_cached_after_reset():
    config = Config(key_bits=8, value_dim=4, capacity=32, lanes=1, value_lanes=4, value_bits=16,
                    top_n=4, exp_tables=1,
                    memory=Memory(heads=2, sequences=33, page_tokens=8, pages=200))
    bench("cached.py", config, test_filter="first_write")


READY = {
    "axi": ["m_axis_result_tready", "m_axis_trace_tready", "s_axi_bready", "s_axi_rready"],
    "wishbone": ["m_axis_result_tready", "m_axis_trace_tready"],
}


@pytest.mark.parametrize("bus", ["axi", pytest.param("wishbone", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("rescore", "memory"), [
    (None, None), (Rescore(head_dim=2, lanes=1, element_bits=2), None),
    (None, Memory(heads=2, page_tokens=4, bus_bits=32, burst_bytes=16, queue_beats=8))])
def test_no_path_from_ready(rescore, memory, bus):
    """No output depends on a ready input within a cycle, so no loop can come about outside."""
    config = Config(key_bits=2, value_dim=4, capacity=4, queries=2, lanes=1, value_lanes=2, top_n=2,
                    value_bits=2, weight_bits=2, exp_tables=1, rescore=rescore)
    if memory is not None:
        config = config.replace(key_bits=8, value_bits=16, memory=memory)
    verilog = generate(SocCore(config, bus=bus), "top")
    checks = [f"select -assert-none i:{name} %coe* o:* %i" for name in READY[bus]]
    if config.memory is not None:
        checks += [f"select -assert-none i:m_axi_{bus}_{name} %coe* o:* %i"
                   for bus in ("codes", "rows0") for name in ("arready", "rvalid", "rdata")]
        checks += [f"select -assert-none i:m_axi_append_{name} %coe* o:* %i"
                   for name in ("awready", "wready", "bvalid", "bresp")]
    # To see that it would be found: there is a path to this one.
    checks.append("select -assert-any i:s_axis_tvalid %coe* w:*.take %i")
    if bus == "axi":
        # Only the stream in looks at anything else, and that is registers.
        inputs = ["s_axi_awvalid", "s_axi_wvalid", "s_axi_arvalid", "s_axis_tvalid"]
        checks += [f"select -assert-none i:{name} %coe* o:* %i" for name in inputs]
    yosys.run(["read_verilog <<verilog", verilog, "verilog", "hierarchy -top top", "proc",
               "flatten", "memory_dff", "memory_collect", "memory_map", "opt_clean", *checks])


def test_widths_that_do_not_fit():
    with pytest.raises(ValueError, match=r"^Data bits must be one of 32, .*, not 48$"):
        SocCore(TINY, data_bits=48)
    with pytest.raises(ValueError, match=r"^Data bits must be at least 64 for results of 32 bits, "
                                         r"not 32$"):
        SocCore(CONFIGS[4][0], data_bits=32)
    with pytest.raises(ValueError, match=r"^Distances must be below 65536 .* 65536$"):
        SocCore(TINY.replace(key_bits=1024, queries=64,
                             rescore=Rescore(head_dim=8, lanes=4, shared=True)))
    with pytest.raises(ValueError, match=r"^Scores must be below 2\*\*31 .* 2147483648$"):
        SocCore(TINY.replace(rescore=Rescore(head_dim=2, lanes=1, element_bits=16)))


def test_wrong_parameters():
    with pytest.raises(TypeError, match=r"^Config must be a Config, not 'tiny'$"):
        SocCore("tiny")
    with pytest.raises(ValueError, match=r"^Bus must be one of axi, wishbone, not 'apb'$"):
        SocCore(TINY, bus="apb")
    with pytest.raises(ValueError, match=r"^Version must be three integers from 0 to 255, not "):
        SocCore(TINY, version=(0, 256, 0))
    for part in (RegisterFile, InputStream, ResultStream, TableRegisters):
        with pytest.raises(TypeError, match=r"^Description must be a RegisterMap, not 1$"):
            part(1)


@pytest.mark.parametrize("config", [config for config, _ in CONFIGS] + [*PRESETS.values()] + [
    config for config, *_ in CACHED.values()])
def test_map_has_no_overlaps(config):
    found = register_map(config, 128)
    addresses = [register.address for register in found.registers]
    assert len({*addresses}) == len(addresses)
    assert all(address % 4 == 0 and address < found.window_bytes for address in addresses)
    assert len({register.name for register in found.registers}) == len(addresses)
    for described in (*found.registers, *found.packets):
        ends = 0
        for field in described.fields:
            assert field.lowest >= ends
            ends = field.lowest + field.bits
            assert 0 <= field.reset < 1 << field.bits
        assert ends <= (32 if described in found.registers else described.bits)


# What the C driver reads, and the bits that it reads it from.
PLAIN = ("key_bits", "value_dim", "value_bits", "value_lanes", "capacity", "queries", "lanes",
         "top_n", "weight_bits", "output_fraction_bits", "exp_tables")
OF_UNIT = {"head_dim": "RESCORE", "lanes": "RESCORE", "element_bits": "RESCORE",
           "shared": "CAPABILITIES"}


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_map_has_the_configuration(config):
    """A constant has its field's value and documentation, and room for all of the field's range."""
    found = register_map(config, 128)
    for name in PLAIN:
        register = found.register(name.upper())
        assert (register.reset, register.bits) == (getattr(config, name), 32)
        says = Config.leaf_metadata()[name]["says"]
        assert register.description.lower() == says.replace("``", "").lower()
    for name, inside in OF_UNIT.items():
        field, = (field for field in found.register(inside).fields if field.name == name.upper())
        assert field.reset == (0 if config.rescore is None else getattr(config.rescore, name))
        known = Config.leaf_metadata()[f"rescore.{name}"]
        assert known.get("range", range(2))[-1] < 1 << field.bits


@pytest.mark.parametrize("case", CACHED)
def test_map_has_the_layout(case):
    """What is said of the memory is what the models say; they derive it by their own means."""
    config, data_bits, _ = CACHED[case]
    found, layout = register_map(config, data_bits), MemoryLayout.of(config)
    fields = {(register.name, field.name): field.reset for register in found.registers
              for field in register.fields}
    assert (fields["HEADS", "HEADS"], fields["SEQUENCES", "SEQUENCES"]) == (
        config.memory.heads, config.memory.sequences)
    assert (fields["PAGE_TOKENS", "PAGE_TOKENS"], fields["PAGES", "PAGES"]) == (
        config.memory.page_tokens, config.memory_pages)
    assert [fields["MEMORY", name] for name in ("BUS_BITS", "ADDRESS_BITS", "TIMEOUT_BITS")] == [
        config.memory.bus_bits, config.memory.address_bits, config.memory.timeout_bits]
    assert (fields["CODE", "BYTES"], fields["CODE", "ALIGNMENT"]) == (
        layout.code_bytes, layout.code_unit)
    assert (fields["ROW", "BYTES"], fields["ROW", "ALIGNMENT"]) == (
        layout.row_bytes, layout.row_unit)
    assert (fields["ROW_FIELDS", "VALUES"], fields["ROW_FIELDS", "SCALE"]) == (
        layout.values.offset, layout.scale.offset)
    assert fields["ROW_STRIDE", "ROW_STRIDE"] == layout.most_stride
    assert fields["CAPABILITIES", "MEMORY"] == 1


def test_map_names_registers():
    """Where a description names another constant, it is by the name of its register."""
    found = register_map(PRESETS["tiny"], 128)
    assert found.register("TOP_N").description.endswith("; at most CAPACITY.")
    assert found.register("CAPACITY").description.endswith("; a multiple of refine_lanes.")
    assert found.register("RESCORE").fields[1].description.endswith("; divides HEAD_DIM.")


def test_observing_changes_no_port():
    texts = []
    for observed in (False, True):
        core = Core(TINY)
        if observed:
            assert core.observe() is core.observe()
        texts.append(generate(core, "top").partition(";")[0])
    assert texts[0] == texts[1]
