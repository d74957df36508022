"""Models of the ECP5's block RAM and multiplier, which are black boxes in Yosys.

Lattice describes the cells in FPGA-TN-02204 (memory usage guide) and FPGA-TN-02205 (sysDSP usage
guide). The models cover what Yosys makes of memories and products: no output registers, no
cascades, no chip selects. A cell with any of those is refused: it instantiates a module that does
not exist.
"""

__all__ = ["models"]


def _bus(name: str, bits: int) -> str:
    """Join the scalar ports of a bus, highest first."""
    return "{" + ", ".join(f"{name}{bit}" for bit in reversed(range(bits))) + "}"


def _ports(name: str, bits: int) -> list[str]:
    return [f"{name}{bit}" for bit in range(bits)]


def _block_ram() -> str:
    """DP16KD: 2,048 units of 9 bits; each port accesses words of 1 to 36 bits.

    A port of 36 bits takes the data pins of both; Yosys writes and reads its lower half at port A.
    What is read where the other port writes in the same cycle is unknown, because the hardware does
    not promise it.
    """
    blocks = [f"INITVAL_{block:02X}" for block in range(64)]
    pins = [f"{bus}{side}" for side in "AB" for bus in ("CLK", "CE", "OCE", "RST", "WE")]
    inputs = [port for side in "AB" for bus, bits in (("DI", 18), ("AD", 14), ("CS", 3))
              for port in _ports(f"{bus}{side}", bits)]
    outputs = [port for side in "AB" for port in _ports(f"DO{side}", 18)]
    sides = "\n".join(f"""
  wire [13:0] ad{side} = {_bus(f"AD{side}", 14)};
  wire write_{side} = CE{side} & WE{side} & ({_bus(f"CS{side}", 3)} == 3'b000);
  reg [17:0] do{side};
  assign {_bus(f"DO{side}", 18)} = do{side};""" for side in "AB")
    return f"""
module DP16KD({", ".join([*pins, *inputs, *outputs])});
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
  parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "DISABLED", WID = 0;
  parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG";
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC";
  parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
  parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000";
{"".join(f"  parameter [319:0] {block} = 320'h0;{chr(10)}" for block in blocks)}
  input {", ".join([*pins, *inputs])};
  output {", ".join(outputs)};

  generate
    if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB"
        || CSDECODE_A != "0b000" || CSDECODE_B != "0b000"
        || WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH")
      DP16KD_is_used_in_a_way_without_a_model refused();
  endgenerate

  // 16 words of 18 bits stand in 320 bits, each in 20.
  wire [20479:0] initial_bits = {{{", ".join(reversed(blocks))}}};
  reg [8:0] units [0:2047];
  integer unit;
  initial
    for (unit = 0; unit < 2048; unit = unit + 1)
      units[unit] = initial_bits >> (unit / 2 * 20 + unit % 2 * 9);
{sides}
  wire [35:0] data = {{{_bus("DIB", 18)}, {_bus("DIA", 18)}}};
  // The first unit of a port's word, how many it spans, and which are written.
  localparam SPAN_A = DATA_WIDTH_A == 36 ? 4 : DATA_WIDTH_A == 18 ? 2 : 1;
  localparam SPAN_B = DATA_WIDTH_B == 36 ? 4 : DATA_WIDTH_B == 18 ? 2 : 1;
  wire [10:0] firstA = adA[13:3] & ~(SPAN_A - 1);
  wire [10:0] firstB = adB[13:3] & ~(SPAN_B - 1);
  wire [3:0] writesA = SPAN_A == 1 ? 4'b0001 : SPAN_A == 2 ? {{2'b00, adA[1:0]}} : adA[3:0];
  wire [3:0] writesB = SPAN_B == 1 ? 4'b0001 : SPAN_B == 2 ? {{2'b00, adB[1:0]}} : adB[3:0];
{_port("A", "B")}{_port("B", "A")}endmodule
"""


def _port(side: str, other: str) -> str:
    """One port: narrow ones change some bits of a unit, the others whole units."""
    # A port of 36 bits writes what both sides' pins bring; its outputs are shared likewise.
    shift = "0" if side == "A" else f"(DATA_WIDTH_{side} == 36 ? 0 : 18)"
    return f"""
  // Port {side}.
  wire [35:0] data{side} = data >> {shift};
  wire [8:0] mask{side} = DATA_WIDTH_{side} == 4 ? 9'h00f << {{ad{side}[2], 2'b00}}
                      : DATA_WIDTH_{side} == 2 ? 9'h003 << {{ad{side}[2:1], 1'b0}}
                      : DATA_WIDTH_{side} == 1 ? 9'h001 << ad{side}[2:0] : 9'h1ff;
  wire [2:0] lowest{side} = DATA_WIDTH_{side} == 4 ? {{ad{side}[2], 2'b00}}
                        : DATA_WIDTH_{side} == 2 ? {{ad{side}[2:1], 1'b0}}
                        : DATA_WIDTH_{side} == 1 ? ad{side}[2:0] : 3'd0;
  integer unit{side};
  always @(posedge CLK{side})
    if (write_{side})
      for (unit{side} = 0; unit{side} < SPAN_{side}; unit{side} = unit{side} + 1)
        if (writes{side}[unit{side}])
          units[first{side} + unit{side}] <= (units[first{side} + unit{side}] & ~mask{side})
              | (((data{side} >> (9 * unit{side})) << lowest{side}) & mask{side});
  wire [35:0] read{side};
  genvar place{side};
  generate
    for (place{side} = 0; place{side} < 4; place{side} = place{side} + 1) begin
      wire [10:0] here = first{side} + place{side};
      // Whether the other port writes this unit.
      wire clash = write_{other} & ((here ^ first{other}) < SPAN_{other})
          & writes{other}[(here ^ first{other}) & 2'b11];
      assign read{side}[9 * place{side} +: 9] = place{side} >= SPAN_{side} ? 9'h000
          : (clash ? units[here] & ~mask{other} | 9'hxxx & mask{other} : units[here])
          >> lowest{side};
    end
    if (RESETMODE == "ASYNC") begin
      always @(posedge clock{side} or posedge reset{side})
        if (reset{side}) do{side} <= 18'h0;
        else if (takes{side}) do{side} <= next{side};
    end else begin
      always @(posedge clock{side})
        if (reset{side}) do{side} <= 18'h0;
        else if (takes{side}) do{side} <= next{side};
    end
  endgenerate
{_output(side)}"""


def _output(side: str) -> str:
    """When and what a port's output register takes."""
    # Of a word of 36 bits, read at port B with B's clock, the lower half leaves at port A.
    half = {"A": "17:0", "B": "35:18"}[side]
    return f"""  wire clock{side} = DATA_WIDTH_B == 36 ? CLKB : CLK{side};
  wire reset{side} = DATA_WIDTH_B == 36 ? RSTB : RST{side};
  wire takes{side} = DATA_WIDTH_B == 36 ? CEB
      : CE{side} & (WRITEMODE_{side} == "READBEFOREWRITE" | ~WE{side});
  wire [17:0] next{side} = DATA_WIDTH_B == 36 ? readB[{half}] : read{side}[17:0];
"""


def _multiplier() -> str:
    """MULT18X18D without registers."""
    registers = [f"REG_{name}_{kind}" for name in ("INPUTA", "INPUTB", "INPUTC", "PIPELINE",
                                                   "OUTPUT") for kind in ("CLK", "CE", "RST")]
    inputs = [*_ports("A", 18), *_ports("B", 18), *_ports("C", 18), "SIGNEDA", "SIGNEDB", "SOURCEA",
              "SOURCEB"]
    outputs = _ports("P", 36)
    used = " || ".join(f'{name} != "NONE"' for name in registers if name.endswith("CLK"))
    return f"""
module MULT18X18D({", ".join([*inputs, *outputs])});
{"".join(f'  parameter {name} = "NONE";{chr(10)}' for name in registers)}
  input {", ".join(inputs)};
  output {", ".join(outputs)};
  generate
    if ({used}) MULT18X18D_is_used_in_a_way_without_a_model refused();
  endgenerate
  wire signed [18:0] a = {{SIGNEDA & A17, {_bus("A", 18)}}};
  wire signed [18:0] b = {{SIGNEDB & B17, {_bus("B", 18)}}};
  wire signed [37:0] product = a * b;
  assign {_bus("P", 36)} = product;
endmodule
"""


def models() -> str:
    """Return the models as Verilog."""
    return _block_ram() + _multiplier()
