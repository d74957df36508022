"""Names of a generated core: identifiers in every language that they appear in."""

import re


__all__ = ["LONGEST_NAME", "RESERVED", "check_name", "is_vhdl_identifier"]


LONGEST_NAME = 24
"""Characters of a name: with what is appended to it, C99 still tells its macros apart (63)."""

_VERILOG = """
    always and assign automatic begin buf bufif0 bufif1 case casex casez cell cmos config deassign
    default defparam design disable edge else end endcase endconfig endfunction endgenerate
    endmodule endprimitive endspecify endtable endtask event for force forever fork function
    generate genvar highz0 highz1 if ifnone incdir include initial inout input instance integer join
    large liblist library localparam macromodule medium module nand negedge nmos nor
    noshowcancelled not notif0 notif1 or output parameter pmos posedge primitive pull0 pull1
    pulldown pullup pulsestyle_ondetect pulsestyle_onevent rcmos real realtime reg release repeat
    rnmos rpmos rtran rtranif0 rtranif1 scalared showcancelled signed small specify specparam
    strong0 strong1 supply0 supply1 table task time tran tranif0 tranif1 tri tri0 tri1 triand trior
    trireg unsigned use uwire vectored wait wand weak0 weak1 while wire wor xnor xor"""

_SYSTEMVERILOG = """
    accept_on alias always_comb always_ff always_latch assert assume before bind bins binsof bit
    break byte chandle checker class clocking const constraint context continue cover covergroup
    coverpoint cross dist do endchecker endclass endclocking endgroup endinterface endpackage
    endprogram endproperty endsequence enum eventually expect export extends extern final
    first_match foreach forkjoin global iff ignore_bins illegal_bins implements implies import
    inside int interconnect interface intersect join_any join_none let local logic longint matches
    modport nettype new nexttime null package packed priority program property protected pure rand
    randc randcase randsequence ref reject_on restrict return s_always s_eventually s_nexttime
    s_until s_until_with sequence shortint shortreal soft solve static string strong struct super
    sync_accept_on sync_reject_on tagged this throughout timeprecision timeunit type typedef union
    unique unique0 until until_with untyped var virtual void wait_order weak wildcard with within"""

_VHDL = """
    abs access after alias all and architecture array assert assume assume_guarantee attribute
    begin block body buffer bus case component configuration constant context cover default
    disconnect downto else elsif end entity exit fairness file for force function generate generic
    group guarded if impure in inertial inout is label library linkage literal loop map mod nand new
    next nor not null of on open or others out package parameter port postponed private procedure
    process property protected pure range record register reject release rem report restrict
    restrict_guarantee return rol ror select sequence severity shared signal sla sll sra srl strong
    subtype then to transport type unaffected units until use variable view vmode vprop vunit wait
    when while with xnor xor"""

# What compilers and standard headers define as macros is no better than a keyword.
_C = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
    char32_t class compl complex concept const const_cast consteval constexpr constinit continue
    co_await co_return co_yield decltype default delete do double dynamic_cast else enum errno
    explicit export extern false float for friend goto i386 if imaginary inline int linux long
    mutable namespace new noexcept noreturn not not_eq nullptr operator or or_eq private protected
    public register reinterpret_cast requires restrict return short signed sizeof static
    static_assert static_cast stderr stdin stdout struct switch template this thread_local throw
    true try typedef typeid typename typeof typeof_unqual union unix unsigned using virtual void
    volatile wchar_t while xor xor_eq"""

_SYSTEMRDL = """
    abstract accesstype addressingtype addrmap alias all bit boolean bothedge compact component
    componentwidth constraint default encode enum external false field fullalign hw inside internal
    level longint mem na negedge nonsticky number onreadtype onwritetype posedge property r rclr
    ref reg regalign regfile rset ruser rw rw1 signal string struct sw this true type unsigned w w1
    wclr woclr woset wot wr wset wuser wzc wzs wzt"""

RESERVED = {language: frozenset(words.split()) for language, words in (
    ("Verilog", _VERILOG), ("SystemVerilog", _SYSTEMVERILOG), ("VHDL", _VHDL), ("C or C++", _C),
    ("SystemRDL", _SYSTEMRDL))}
"""Lower-case words that no identifier may be, by language."""


def check_name(name: str) -> None:
    """Raise :class:`ValueError`, with one sentence, unless a name can be that of a core.

    VHDL and some file systems do not tell upper case from lower, and C macros have the name in
    upper case; so a name is in lower case. VHDL has no two underscores in a row, nor one at the
    end.
    """
    if not re.fullmatch(r"[a-z](_?[a-z0-9])*", name) or len(name) > LONGEST_NAME:
        raise ValueError(f"--name must be at most {LONGEST_NAME} lower-case letters, digits and "
                        f"single underscores, with a letter first and no underscore last, not "
                        f"{name!r}")
    for language, words in RESERVED.items():
        if name in words:
            raise ValueError(f"--name {name!r} is a reserved word of {language}; give another")


def is_vhdl_identifier(name: str) -> bool:
    """Tell whether VHDL takes a name as it stands."""
    return re.fullmatch(r"[A-Za-z](_?[A-Za-z0-9])*", name) is not None \
        and name.lower() not in RESERVED["VHDL"]
