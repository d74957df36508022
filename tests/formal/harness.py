# amaranth: UnusedElaboratable=no
"""Proofs about components: claims in Amaranth, decided by ABC, replayed in Amaranth's simulator.

A claim is a module around a component. It gives the component free inputs, assumes what the
neighbours promise, checks what the component promises, and has covers: what must be possible for
the checks to mean anything. Assumptions are logic of the claim: a check fails, and a cover is
reached, only in a cycle up to which all of them held.

Yosys makes it an AIG, of which every check and every cover is an output. Registers and memories
begin as Amaranth says, but for the output registers of block RAMs, which begin with anything; words
beyond a memory are anything. ABC
is the program that pyosys's wheel has beside its library, because Yosys's own command `abc` maps
logic and proves nothing.
"""

import importlib.util
import inspect
import json
import os
import re
import resource
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.sim import Simulator

from nearbit_hw import yosys


__all__ = ["Claim", "Mutation", "Proof", "Refuted", "Undecided", "Vacuous", "mutate", "needs_abc",
           "prove"]


def _abc() -> Path | None:
    found = importlib.util.find_spec("pyosys")
    if found is None or found.origin is None:
        return None
    program = Path(found.origin).with_name("yosys-abc")
    return program if program.exists() else None


needs_abc = pytest.mark.skipif(_abc() is None, reason="ABC comes with pyosys, which has no wheel")


class Refuted(AssertionError):
    """A check fails: in which cycle, and in which file the trace is."""

    def __init__(self, proof: str, check: str, cycle: int, trace: Path):
        super().__init__(f"{proof}: {check!r} fails in cycle {cycle}; the trace is {trace}")
        self.check = check
        self.cycle = cycle
        self.trace = trace


class Undecided(AssertionError):
    """The time was not enough."""


class Vacuous(AssertionError):
    """What is proved would mean nothing."""


# ---- Claims.

def _flat(value: Any) -> Value:
    return Value.cast(value)


class Claim(Elaboratable):
    """A component with free inputs, and what is claimed of it.

    Registers of the claim go into :py:`m.d.sync`; like those of the component they are reset with
    :py:`rst`, which is free in every cycle.

    Attributes
    ----------
    m : :class:`amaranth.hdl.Module`
        Where the claim's own logic goes.
    rst : :class:`amaranth.hdl.Signal`
        The reset.
    inside : :class:`amaranth.hdl.Module`
        The component, elaborated; its submodules have names.
    outputs : :class:`dict`
        Output streams that may be stalled, by name.
    """

    def __init__(self, dut: Any):
        self.m = Module()
        self.inside = dut.elaborate(None)
        self.m.submodules.dut = self.inside
        self.m.domains.sync = domain = ClockDomain("sync")
        self.clk, self.rst = domain.clk, domain.rst
        self.inputs: dict[str, Signal] = {"rst": self.rst}
        self.outputs: dict[str, Any] = {}
        self.assumptions: dict[str, Signal] = {}
        self.checks: dict[str, Signal] = {}
        self.covers: dict[str, Signal] = {}

    def free(self, name: str, width: int = 1) -> Signal:
        """An input that is anything in each cycle."""
        if name in self.inputs:
            raise ValueError(f"there are two inputs {name!r}")
        self.inputs[name] = Signal(width, name=name)
        return self.inputs[name]

    def constant(self, name: str, width: int = 1) -> Signal:
        """Anything, but the same in all cycles, through resets."""
        first = Signal(name=f"{name}_first", init=1, reset_less=True)
        kept = Signal(width, name=f"{name}_kept", reset_less=True)
        value = Signal(width, name=f"{name}_constant")
        self.m.d.comb += value.eq(Mux(first, self.free(name, width), kept))
        self.m.d.sync += [first.eq(0), kept.eq(value)]
        return value

    def past(self, value: Any, name: str) -> Signal:
        """The value in the cycle before; 0 in the first one and after a reset."""
        register = Signal(len(_flat(value)), name=f"{name}_past")
        self.m.d.sync += register.eq(value)
        return register

    def assume(self, name: str, condition: Any) -> None:
        """Let the condition hold in each cycle."""
        self._add(self.assumptions, "assume", name, condition)

    def check(self, name: str, condition: Any) -> None:
        """Claim that the condition holds in each cycle."""
        self._add(self.checks, "check", name, condition)

    def cover(self, name: str, condition: Any) -> None:
        """Claim that there is a cycle in which the condition holds."""
        self._add(self.covers, "cover", name, condition)

    def _add(self, kind: dict[str, Signal], prefix: str, name: str, condition: Any) -> None:
        if name in kind:
            raise ValueError(f"there are two of {prefix} {name!r}")
        kind[name] = Signal(name=re.sub(r"\W+", "_", f"{prefix} {name}"))
        self.m.d.comb += kind[name].eq(_flat(condition).any())

    def holds(self, port: Any, name: str) -> Value:
        """Whether what a stream offered and nobody took is offered still."""
        stalled = self.past(port.valid & ~port.ready, f"{name}_stalled")
        payload = self.past(port.payload, f"{name}_payload")
        return ~stalled | (port.valid & (_flat(port.payload) == payload))

    def drive(self, port: Any, name: str) -> None:
        """Offer anything on an input stream of the component, by the rules of streams."""
        self.m.d.comb += [
            port.valid.eq(self.free(f"{name}_valid")),
            _flat(port.payload).eq(self.free(f"{name}_payload", len(_flat(port.payload)))),
        ]
        self.assume(f"{name} holds", self.holds(port, f"{name}_in"))

    def sink(self, port: Any, name: str) -> None:
        """Take an output stream of the component at any time; claims the rules of streams."""
        if not port.signature.always_ready:
            self.m.d.comb += port.ready.eq(self.free(f"{name}_ready"))
            self.outputs[name] = port
            self.check(f"{name} holds", self.holds(port, f"{name}_out"))

    def attach(self, interface: Any, *, prefix: str = "", skip: tuple[str, ...] = ()) -> None:
        """Drive all inputs of a component, and sink all its output streams, but those named."""
        for member_name, member in interface.signature.members.items():
            value = getattr(interface, member_name)
            many = range(member.dimensions[0]) if member.dimensions else [None]
            for index in many:
                name = f"{prefix}{member_name}{'' if index is None else index}"
                port = value if index is None else value[index]
                if name in skip:
                    continue
                if member.is_port:
                    if member.flow is wiring.In:
                        self.m.d.comb += _flat(port).eq(self.free(name, len(_flat(port))))
                elif isinstance(member.signature, stream.Signature):
                    (self.drive if member.flow is wiring.In else self.sink)(port, name)
                else:
                    self.attach(port, prefix=f"{name}_", skip=skip)

    def elaborate(self, platform) -> Module:
        return self.m


class _Outputs(Elaboratable):
    """A claim with an output for each check that fails, and each cover that is reached."""

    def __init__(self, claim: Claim):
        self.claim = claim
        self.names = {f"check_{number}": name for number, name in enumerate(claim.checks)}
        self.names |= {f"cover_{number}": name for number, name in enumerate(claim.covers)}
        self._outputs = {port: Signal(name=port) for port in self.names}

    def elaborate(self, platform) -> Module:
        m = self.claim.m
        held, fair = Signal(init=1, reset_less=True), Signal()
        m.d.comb += fair.eq(held & Cat(self.claim.assumptions.values(), 1).all())
        m.d.sync += held.eq(fair)
        conditions = [*(~check for check in self.claim.checks.values()),
                      *self.claim.covers.values()]
        for output, condition in zip(self._outputs.values(), conditions, strict=True):
            m.d.comb += output.eq(fair & condition)
        return m

    def ports(self) -> list[Signal]:
        return [self.claim.clk, *self.claim.inputs.values(), *self._outputs.values()]


# ---- Proofs.

@contextmanager
def mutate(function: Any, old: str, new: str) -> Iterator[None]:
    """Change a line of a function, of which it has just one, for a while."""
    assert isinstance(function, FunctionType)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        raise ValueError(f"{function.__qualname__} must have {old!r} once, "
                         f"not {source.count(old)} times")
    scope: dict[str, Any] = {}
    exec(source.replace(old, new), function.__globals__, scope)
    code, function.__code__ = function.__code__, scope[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = code


@dataclass(frozen=True)
class Mutation:
    """A fault that the proof must find."""

    function: Any
    old: str
    new: str


@dataclass(frozen=True)
class Proof:
    """What is to be proved.

    Parameters
    ----------
    name
        What is proved, of what.
    size
        Parameters of the component.
    claim
        Makes the claim.
    covers
        For each cover of the claim, the first cycle in which it can be reached.
    mutation
        A fault of the component that refutes the claim.
    cycles
        Cycles for which it is proved; None is all that there are.
    seconds
        Processor time that each step may take.
    """

    name: str
    size: str
    claim: Callable[[], Claim]
    covers: dict[str, int] = field(default_factory=dict)
    mutation: Mutation | None = None
    cycles: int | None = None
    seconds: int = 60


_FOUND = re.compile(r"Output (\d+) of miter .* was asserted in frame (\d+)")


class _Solver:
    """A claim as AIGs in a directory: `check` with all checks, `cover_0` and so on with one."""

    def __init__(self, proof: Proof, directory: Path):
        self._proof = proof
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.claim = proof.claim()
        self._outputs = outputs = _Outputs(self.claim)
        (directory / "claim.il").write_text(rtlil.convert(
            outputs, name="claim", ports=outputs.ports(), emit_src=False))
        script = ["read_rtlil claim.il", "hierarchy -top claim", "proc", "flatten", "memory_map",
                  "setundef -anyseq", "opt -full", "techmap", "setundef -anyseq", "opt",
                  "dffunmap", "simplemap", "aigmap", "opt_clean", "design -save whole"]
        covers = [port for port in outputs.names if port.startswith("cover")]
        for kept in ("check_*", *covers):
            name = kept.removesuffix("_*")
            script += ["design -load whole", f"delete -output claim/o:* claim/{kept} %d",
                       "opt_clean", f"write_aiger -zinit -map {name}.map {name}.aig"]
        (directory / "claim.ys").write_text("\n".join(script) + "\n")
        self._run([*yosys.command(), "-q", "claim.ys"], "Yosys")
        self._inputs("check")

    def _run(self, command: list[str], program: str) -> str:
        seconds = self._proof.seconds

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

        result = subprocess.run(command, cwd=self._directory, capture_output=True, text=True,
                                check=False, preexec_fn=limit)
        if result.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise Undecided(f"{self._proof.name}: {program} takes more than {seconds} s of "
                            f"processor time")
        if result.returncode:
            raise RuntimeError(f"{self._proof.name}: {program} failed: "
                               f"{(result.stderr or result.stdout)[-500:]}")
        return result.stdout

    def _inputs(self, name: str) -> dict[int, tuple[str, int]]:
        """Name and bit of each input of an AIG that is one of the claim."""
        found: dict[int, tuple[str, int]] = {}
        for line in (self._directory / f"{name}.map").read_text().splitlines():
            if line.startswith("input "):
                number, bit, port = line.split()[1:]
                found[int(number)] = port, int(bit)
        expected = {(name, bit) for name, value in self.claim.inputs.items()
                    for bit in range(len(value))}
        if set(found.values()) != expected | {("clk", 0)}:
            raise Vacuous(f"{self._proof.name}: the inputs of the AIG are not those of the claim")
        return found

    def prove(self, engine: str) -> None:
        """Prove all checks; raises Refuted by one that fails."""
        found = self._solve("check", engine)
        if found is not None:
            check, cycle = list(self.claim.checks)[found[0]], found[1]
            raise Refuted(self._proof.name, check, cycle, self.replay("check", check, cycle))

    def reach(self, cover: str, cycles: int) -> int | None:
        """Find the first cycle in which a cover is reached."""
        found = self._solve(self._port("cover", cover), f"bmc3 -F {cycles}")
        return found and found[1]

    def _port(self, kind: str, name: str) -> str:
        return next(port for port, named in self._outputs.names.items()
                    if named == name and port.startswith(kind))

    def _solve(self, name: str, engine: str) -> tuple[int, int] | None:
        """Ask ABC for an output that can be 1, and in which cycle."""
        commands = f"read_aiger {name}.aig; strash; {engine}; write_cex -n -f trace"
        text = self._run([str(_abc()), "-c", commands], engine)
        found = _FOUND.search(text)
        if found:
            return int(found[1]), int(found[2])
        if "Does not work for combinational networks" in text:
            raise Vacuous(f"{self._proof.name}: no register has to do with what is asked of {name}")
        # The last is bounded, but no state is left.
        proved = ("Property proved" if engine == "pdr" else
                  f"No output asserted in {engine.split()[-1]} frames",
                  "Explored all reachable states")
        if not any(sentence in text for sentence in proved):
            raise Undecided(f"{self._proof.name}: {engine} has no answer: {text[-500:]}")
        return None

    def replay(self, kind: str, name: str, cycle: int) -> Path:
        """Run the trace that was found last in Amaranth's simulator, and give its file.

        What it shows is whether a check fails, or a cover is reached, in that cycle, and the
        assumptions hold until then.
        """
        inputs = self._inputs("check" if kind == "check" else self._port(kind, name))
        frames = [dict.fromkeys(self.claim.inputs, 0) for _ in range(cycle + 1)]
        text = (self._directory / "trace").read_text()
        for number, frame, value in re.findall(r"pi(\d+)@(\d+)=([01])", text):
            # Others are what the claim leaves open, as the contents of a register at power-up.
            port, bit = inputs.get(int(number), ("clk", 0))
            if port != "clk":
                frames[int(frame)][port] |= int(value) << bit

        claim = self._proof.claim()
        shown = []

        async def testbench(ctx: Any) -> None:
            for frame in frames:
                for port, value in frame.items():
                    ctx.set(claim.inputs[port], value)
                shown.append((all(ctx.get(holds) for holds in claim.assumptions.values()),
                              {"check": lambda: not ctx.get(claim.checks[name]),
                               "cover": lambda: bool(ctx.get(claim.covers[name]))}[kind]()))
                await ctx.tick()

        simulator = Simulator(claim)
        simulator.add_clock(1e-6)
        simulator.add_testbench(testbench)
        trace = self._directory / f"{kind}.vcd"
        with simulator.write_vcd(str(trace)):
            simulator.run()
        if not all(fair for fair, _ in shown) or not shown[-1][1]:
            raise RuntimeError(f"{self._proof.name}: Amaranth's simulator does not show {kind} "
                               f"{name!r} in cycle {cycle}; its trace is {trace}")
        return trace


def prove(proof: Proof, directory: Path) -> None:
    """Prove all checks of a claim, and that this means something.

    Each of its covers must be reached in the cycle that the proof says and not before, and the
    mutation must be found. What was proved is added to the file that NEARBIT_PROOFS names, as a
    line of JSON.

    Raises
    ------
    Refuted
        If a check fails. The trace is in the directory.
    Vacuous
        If there is no check, a cover is not reached in its cycle, or the mutation is not found.
    Undecided
        If a step takes too long.
    """
    if proof.mutation is None:
        raise Vacuous(f"{proof.name}: no mutation shows that the proof can fail")
    before = _processor_seconds()
    bounded = f"bmc3 -F {proof.cycles}"
    engine = "pdr" if proof.cycles is None else bounded
    solver = _Solver(proof, directory / "claim")
    claim = solver.claim
    if not claim.checks or not claim.covers or set(claim.covers) != set(proof.covers):
        raise Vacuous(f"{proof.name}: the claim must have checks, and the proof's covers "
                      f"{sorted(proof.covers)}, not {sorted(claim.covers)}")
    for cover, cycle in proof.covers.items():
        reached = solver.reach(cover, cycle + _SEARCH_CYCLES)
        if reached != cycle:
            raise Vacuous(f"{proof.name}: cover {cover!r} is not reached in cycle {cycle} but "
                          f"{'much later or never' if reached is None else f'in {reached}'}")
        solver.replay("cover", cover, cycle)
    solver.prove(engine)
    seconds = _processor_seconds() - before

    mutation = proof.mutation
    with mutate(mutation.function, mutation.old, mutation.new):
        try:
            _Solver(proof, directory / "mutation").prove(
                f"bmc3 -F {_MUTATION_CYCLES}" if proof.cycles is None else bounded)
        except Refuted as refuted:
            found = refuted
        else:
            raise Vacuous(f"{proof.name}: {mutation.new!r} instead of {mutation.old!r} refutes "
                          f"nothing")
    _record(proof, claim, engine, seconds, found)


_SEARCH_CYCLES = 10
"""Cycles beyond the expected one in which a cover is looked for, to say more in the message."""

_MUTATION_CYCLES = 40
"""Cycles in which a mutation must show itself."""


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _record(proof: Proof, claim: Claim, engine: str, seconds: float, found: Refuted) -> None:
    file = os.environ.get("NEARBIT_PROOFS")
    if file:
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({
                "name": proof.name, "size": proof.size, "checks": len(claim.checks),
                "engine": engine.split()[0], "cycles": proof.cycles,
                "seconds": round(seconds, 1), "covers": proof.covers,
                "mutation": proof.mutation and proof.mutation.new,
                "refuted": {"check": found.check, "cycle": found.cycle}}) + "\n")
