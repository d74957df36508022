"""The host side of the link: identify, load and query a device."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_boards.exchange import Exchange, Incomplete
from nearbit_boards.protocol import (
    STREAMS,
    Block,
    Identity,
    Layout,
    Message,
    ProtocolError,
    Reply,
    State,
)
from nearbit_boards.transport import DeviceError, SerialTransport, Transport
from nearbit_model.config import Config
from nearbit_model.golden import check_command
from nearbit_model.prepare import Prepared, prepare
from nearbit_model.quantize import RescoreOperands, Values
from nearbit_model.structure import Error
from nearbit_model.transfers.attention import HardwareAttention
from nearbit_model.transfers.payload import Words
from nearbit_model.transfers.plan import Plan, exp_table_loads, token_loads
from nearbit_model.transfers.program import Beats, Cycles, Outcome, Phase, Program, Progress


__all__ = ["Device", "Info", "Run"]


# Most loads in flight. USB adapters forward bytes every 1 to 16 ms, in which some hundred loads
# pass at 1 Mbaud.
_LOADS = 128

# The device holds one request while it answers another.
_QUERIES = 2

# Seconds of silence, or most bytes, after which replies to an earlier host count as over.
_SETTLE_SECONDS = 0.05
_SETTLE_BYTES = 1 << 20

_KINDS = {name: kind for kind, name in STREAMS.items()}


@dataclass(frozen=True)
class Info:
    """Identity and state of a device.

    Parameters
    ----------
    identity
        Its configuration, release and clock.
    state
        What is loaded, and the device's error counts.
    """

    identity: Identity
    state: State


@dataclass(frozen=True)
class Run:
    """A device's answers, and how long they took.

    Parameters
    ----------
    result
        As from a simulation. ``cycles`` counts the cycles in which the core worked on commands, as
        measured by the device, one command at a time, and one cycle per load; cycles in which the
        core waited for the link are excluded.
    seconds
        Wall time.
    compute_seconds
        Time of all commands' cycles at the device's clock.
    sent, received
        Bytes.
    repeated
        Requests that had to be sent again.
    """

    result: HardwareAttention
    seconds: float
    compute_seconds: float
    sent: int
    received: int
    repeated: int

    @property
    def transfer_seconds(self) -> float:
        """Wall time without the time of computing."""
        return max(0.0, self.seconds - self.compute_seconds)


class Device:
    """An accelerator behind a host link.

    ::

        with Device.open("/dev/ttyUSB0") as device:
            run = device.attention(q, k, v, n=32)

    Use :meth:`open`. Integers are those of the numeric contract (docs/numerics.md), as for the
    golden model: call :meth:`load` and :meth:`append` once for a head's keys and values, and
    :meth:`attend` as often as there are queries. :meth:`run` and :meth:`attention` do all of this
    for a whole problem.

    Every failure raises :class:`DeviceError` with one sentence. A request that is lost or
    damaged on its way is repeated.
    """

    def __init__(self, exchange: Exchange, identity: Identity) -> None:
        """Use an exchange with a device that has been identified."""
        self._exchange = exchange
        self._identity = identity
        self._layout: Layout = exchange.parser.layout or Layout(identity.config)
        self._loaded: Prepared | None = None

    @classmethod
    def open(cls, target: str | Transport, *, config: Config | None = None, baud: int = 1_000_000,
             timeout: float = 0.5, retries: int = 3) -> "Device":
        """Open a port and identify the device there.

        Parameters
        ----------
        target
            Name or URL of a serial port, as for :class:`SerialTransport
            <nearbit_boards.transport.SerialTransport>`; or a transport.
        config
            Configuration that the device must have; None accepts any.
        baud
            Bits per second of a serial port.
        timeout
            Seconds of silence after which a request is repeated.
        retries
            How often a request is repeated, at most.

        Raises
        ------
        DeviceError
            The port does not exist or is in use, nothing answers, or the device has another
            configuration.
        """
        transport = SerialTransport(target, baud) if isinstance(target, str) else target
        try:
            exchange = Exchange(transport, timeout=timeout, retries=retries)
            exchange.settle(_SETTLE_SECONDS, _SETTLE_BYTES)
            reply = exchange.one(Message.IDENTIFY)
            try:
                identity = Identity.from_bytes(reply.only(Block.IDENTITY))
                exchange.use(Layout(identity.config))
            except ProtocolError as error:
                raise DeviceError(f"{transport.name} cannot be used: {error}") from None
            if config is not None:
                _check_config(transport.name, identity.config, config)
            return cls(exchange, identity)
        except BaseException:
            transport.close()
            raise

    def __enter__(self) -> Self:
        """Return the device."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        """Close the transport."""
        self.close()

    def close(self) -> None:
        """Close the transport."""
        self._exchange.transport.close()

    @property
    def config(self) -> Config:
        """The device's configuration."""
        return self._identity.config

    @property
    def identity(self) -> Identity:
        """The device's identity when it was opened."""
        return self._identity

    def info(self) -> Info:
        """Read the device's identity and state."""
        identity = Identity.from_bytes(self._exchange.one(Message.IDENTIFY).only(Block.IDENTITY))
        if identity != self._identity:
            raise DeviceError(f"{self._exchange.transport.name} is another device than the one "
                              f"that was opened; open it again")
        return Info(identity, self._state())

    def _state(self) -> State:
        return self._layout.state(self._exchange.one(Message.STATUS).only(Block.STATE))

    def reset(self) -> None:
        """Discard everything loaded, and clear the device's error counts."""
        self._loaded = None
        self._exchange.one(Message.RESET)

    def load(self, k_codes: NDArray[np.uint64], values: Values, exp_tables: ArrayLike, *,
             rescore_keys: NDArray[Any] | None = None, progress: Progress | None = None) -> None:
        """Load the keys and values of one key head from token 0 on, replacing those loaded before.

        Parameters
        ----------
        k_codes
            uint64 [tokens, words], tokens at most ``capacity``.
        values
            Elements [tokens, value_dim], scales [tokens], unit [] (:func:`quantize.values
            <nearbit_model.quantize.values>` of one head).
        exp_tables
            Exp tables of the heads that will send queries, integers [heads, key_bits + 1], heads at
            most ``exp_tables``; not used for rescoring.
        rescore_keys
            Elements for rescoring [tokens, head_dim]; None for no rescoring.
        progress
            Called now and then with the number of cycles computed, of requests answered, and of
            all requests.

        Raises
        ------
        ValueError
            The arrays do not fit each other or the device.
        DeviceError
            The device does not answer.
        """
        config = self.config
        exp_table = np.asarray(exp_tables)
        if exp_table.ndim != 2 or exp_table.shape[1] != config.key_bits + 1 \
                or not 1 <= len(exp_table) <= config.exp_tables:
            raise ValueError(f"exp_tables must be [heads, {config.key_bits + 1}] with 1 to "
                             f"{config.exp_tables} heads, not shape {exp_table.shape}")
        _check_tokens(config, 0, k_codes, values, rescore_keys)
        prepared = _problem(config, k_codes, values, exp_table.astype(np.uint32), rescore_keys)
        loads = token_loads(config, k_codes, values.elements, values.scales, rescore_keys)
        self.reset()
        self._load(loads if rescore_keys is not None else {**loads,
                                                           **exp_table_loads(prepared.exp_tables)},
                   progress)
        self._loaded = prepared

    def append(self, k_codes: NDArray[np.uint64], values: Values, *,
               rescore_keys: NDArray[Any] | None = None, progress: Progress | None = None) -> None:
        """Load more keys and values after those already loaded.

        Parameters
        ----------
        k_codes, values, rescore_keys, progress
            As for :meth:`load`; ``values.unit`` must be that of the tokens before.

        Raises
        ------
        ValueError
            The arrays do not fit, there are more tokens than there is room for, or the unit
            differs.
        DeviceError
            The device does not answer, or nothing is loaded yet.
        """
        before = self._need_loaded()
        tokens = before.tokens
        _check_tokens(self.config, tokens, k_codes, values, rescore_keys)
        if (rescore_keys is None) != (before.rescore is None):
            raise ValueError("rescore_keys must be given for all tokens or for none")
        if not np.array_equal(values.unit, before.values.unit[0]) \
                or values.rotated != before.values.rotated:
            raise ValueError(f"values must have the unit and rotation of those that are loaded "
                             f"({before.values.unit[0]}), not {values.unit}")
        joined = Values(np.concatenate([before.values.elements[0], values.elements]),
                        np.concatenate([before.values.scales[0], values.scales]), values.unit,
                        values.saturated, values.rotated)
        rescore = None if before.rescore is None or rescore_keys is None else \
            np.concatenate([before.rescore.keys[0], rescore_keys])
        prepared = _problem(self.config, np.concatenate([before.k_codes[0], k_codes]), joined,
                            before.exp_tables, rescore)
        self._load(token_loads(self.config, k_codes, values.elements, values.scales, rescore_keys,
                               first=tokens), progress)
        self._loaded = prepared

    def attend(self, q_codes: NDArray[np.uint64], *, counts: ArrayLike | None = None,
               first: int = 0, n: int, sink: int = 0, recent: int = 0, trace: bool = True,
               rescore_queries: NDArray[Any] | None = None,
               multipliers: NDArray[np.uint32] | None = None, shared: bool = False,
               progress: Progress | None = None) -> Run:
        """Send queries of the heads that share the loaded key head.

        Equals :func:`nearbit_model.golden.attend` with the same arguments and the loaded head.

        Parameters
        ----------
        q_codes
            uint64 [heads, queries, words]; head h uses exp table h.
        counts
            Number of keys that each query sees from ``first`` on, integers [queries]; None for all.
        first, n, sink, recent
            First key of the range; number of nearest, first and last keys to select.
        trace
            Whether to request the selected keys, their distances and weights.
        rescore_queries, multipliers
            For rescoring: elements [heads, queries, head_dim], uint32 [heads, queries].
        shared
            Whether the heads share a selection.
        progress
            As for :meth:`load`.

        Raises
        ------
        ValueError
            The arguments do not fit each other or the device.
        DeviceError
            The device does not answer, or nothing is loaded.
        """
        config, loaded = self.config, self._need_loaded()
        if q_codes.ndim != 3 or 0 in q_codes.shape or q_codes.shape[2] != -(-config.key_bits // 64):
            raise ValueError(f"q_codes must be [heads, queries, {-(-config.key_bits // 64)}] with "
                             f"no axis empty, not shape {q_codes.shape}")
        heads, queries, _ = q_codes.shape
        check_command(n=n, sink=sink, recent=recent, top_n=config.top_n)
        each = np.full(queries, loaded.tokens - first) if counts is None else np.asarray(counts)
        if each.shape != (queries,) or each.dtype.kind not in "iu":
            raise ValueError(f"counts must be {queries} integers, not {each.dtype} of shape "
                             f"{each.shape}")
        if first < 0 or each.min() < 1 or first + each.max() > loaded.tokens:
            raise ValueError(f"counts must be from 1 to {loaded.tokens - first}, the keys that are "
                             f"loaded from first ({first}) on, not {each.min()} to {each.max()}")
        rescore = None
        if loaded.rescore is not None:
            if rescore_queries is None or multipliers is None:
                raise ValueError("rescore_queries and multipliers are needed: rescore keys are "
                                 "loaded")
            rescore = RescoreOperands(rescore_queries, loaded.rescore.keys, multipliers)
        elif rescore_queries is not None or shared:
            raise ValueError("rescoring needs rescore keys, and none are loaded")
        elif heads > len(loaded.exp_tables):
            raise ValueError(f"q_codes must have at most as many heads as exp_tables are loaded "
                             f"({len(loaded.exp_tables)}), not {heads}")
        prepared = dataclasses.replace(
            loaded, q_codes=q_codes, counts=each.astype(np.int64), first=first, n=n, sink=sink,
            recent=recent, exp_tables=np.resize(loaded.exp_tables, (heads, config.key_bits + 1)),
            logit_scale=np.zeros(heads), rescore=rescore, shared=shared)
        return self._run(prepared, trace, progress, loads=False)

    def run(self, prepared: Prepared, *, trace: bool = True,
            progress: Progress | None = None) -> Run:
        """Load a prepared problem and send its queries, as :func:`nearbit_sim.simulation.run` does.

        Raises
        ------
        DeviceError
            The device's configuration is not the problem's, or it does not answer.
        """
        _check_config(self._exchange.transport.name, self.config, prepared.config)
        self.reset()
        return self._run(prepared, trace, progress)

    def attention(self, q: ArrayLike, k: ArrayLike, v: ArrayLike, *, trace: bool = True,
                  progress: Progress | None = None, **options: Any) -> Run:
        """Compute attention on float tensors with the device.

        Parameters
        ----------
        q, k, v, options
            As for :func:`nearbit_model.prepare.prepare`.
        trace
            Whether to request the selected keys, their distances and weights.
        progress
            As for :meth:`load`.

        Raises
        ------
        TensorError
            The tensors do not fit each other or the device.
        DeviceError
            The device does not answer.
        """
        return self.run(prepare(q, k, v, self.config, **options), trace=trace, progress=progress)

    def _need_loaded(self) -> Prepared:
        if self._loaded is None:
            raise DeviceError("nothing is loaded into the device yet; load keys and values first")
        return self._loaded

    def _run(self, prepared: Prepared, trace: bool, progress: Progress | None, *,
             loads: bool = True) -> Run:
        if loads:
            self._loaded = None
        plan = Plan(prepared, trace=trace, loads=loads)
        before = self._exchange.sent, self._exchange.received, self._exchange.repeated
        started = time.perf_counter()
        recorder = _Recorder(self, plan.program, progress)
        outcome = recorder.run()
        seconds = time.perf_counter() - started
        outcome = dataclasses.replace(outcome, seconds=seconds)
        sent, received, repeated = (now - then for now, then in zip(
            (self._exchange.sent, self._exchange.received, self._exchange.repeated), before,
            strict=True))
        return Run(plan.read(outcome), seconds, recorder.computed / self._identity.clock, sent,
                   received, repeated)

    def _load(self, loads: dict[str, Any], progress: Progress | None) -> None:
        """Pack and load tokens and exp tables."""
        program = Program(self._layout.ports)
        program.add(loads)
        self._push(program.phases[0], None if progress is None else
                   lambda done: progress(0, done, program.transfers))

    def _push(self, phase: Phase, answered: Callable[[int], None] | None) -> None:
        """Send all loads of a phase."""
        requests = [(_KINDS[name], payload) for name, words in phase.inputs.items()
                    for payload in self._payloads(_KINDS[name], words)]
        self._exchange.run(requests, window=_LOADS, answered=answered)

    def _payloads(self, kind: Message, words: Words) -> list[bytes]:
        """Convert packed payloads of a stream to payloads of messages."""
        octets = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
        length = self._layout.length(kind)
        return [row[:length].tobytes() for row in octets]

    def _ask(self, phase: Phase, answered: Callable[[int], None]) -> list[Reply]:
        """Send all commands of a phase."""
        commands = self._payloads(Message.COMMAND, phase.inputs["i_command"])
        if "i_rescore_query" not in phase.inputs:
            return self._exchange.run([(Message.COMMAND, payload) for payload in commands],
                                      window=_QUERIES, answered=answered)
        replies: list[Reply] = []
        beats = phase.inputs["i_rescore_query"]
        each = len(beats) // len(commands)
        for index, payload in enumerate(commands):
            replies.append(self._ask_rescored(beats[index * each:(index + 1) * each], payload))
            answered((index + 1) * (each + 1))
        return replies

    def _ask_rescored(self, beats: Words, command: bytes) -> Reply:
        """Send one command with its rescore queries, which the device accepts once and in order.

        After a failure, sending resumes after the beats that the device reports to have.
        """
        shape = self._layout.shapes[Message.RESCORE_QUERY]
        place = shape.width - self._elements_width
        requests = []
        for number, beat in enumerate(beats):
            bits = int.from_bytes(beat.astype("<u8").tobytes(), "little") << place | number
            requests.append((Message.RESCORE_QUERY,
                             bits.to_bytes(self._layout.length(Message.RESCORE_QUERY), "little")))
        requests.append((Message.COMMAND, command))
        start = 0
        for _ in range(self._exchange.retries + 1):
            try:
                return self._exchange.run(requests[start:], window=_LOADS, once=True)[-1]
            except Incomplete:
                self._exchange.repeated += 1
                start = min(self._state().rescore_beats, len(beats))
        raise DeviceError(f"{self._exchange.transport.name} does not answer a command that "
                          f"rescores, though it was sent {self._exchange.retries + 1} times")

    @property
    def _elements_width(self) -> int:
        unit = self.config.rescore
        return 0 if unit is None else unit.lanes * unit.element_bits


def _check_config(name: str, has: Config, wanted: Config) -> None:
    """Refuse a device of another configuration; ``cell`` makes no difference to the host."""
    theirs, ours = has.replace(cell=wanted.cell).to_dict(), wanted.to_dict()
    differing = [f"{key} {theirs.get(key)} instead of {ours.get(key)}"
                 for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    if differing:
        raise DeviceError(f"{name} was built from another configuration, with "
                          f"{', '.join(differing)}; build and flash your configuration, or prepare "
                          f"the problem for the device's")


def _check_tokens(config: Config, before: int, k_codes: NDArray[np.uint64], values: Values,
                  rescore_keys: NDArray[Any] | None) -> None:
    """Refuse tokens that do not match each other or do not fit the device after those loaded."""
    words = -(-config.key_bits // 64)
    if k_codes.ndim != 2 or k_codes.shape[1] != words or len(k_codes) == 0:
        raise ValueError(f"k_codes must be [tokens, {words}] with at least one token, not shape "
                         f"{k_codes.shape}")
    tokens = len(k_codes)
    if values.elements.shape != (tokens, config.value_dim) or values.scales.shape != (tokens,):
        raise ValueError(f"values must have elements of shape {(tokens, config.value_dim)} and "
                         f"scales of shape {(tokens,)}, not {values.elements.shape} and "
                         f"{values.scales.shape}")
    if before + tokens > config.capacity:
        raise ValueError(f"k_codes must have at most {config.capacity - before} tokens, as the "
                         f"device's capacity is {config.capacity}"
                         + (f" and {before} are loaded" if before else "") + f", not {tokens}")
    if rescore_keys is not None:
        if config.rescore is None:
            raise ValueError("rescore_keys cannot be loaded: the device has no rescoring unit")
        if rescore_keys.shape != (tokens, config.rescore.head_dim):
            raise ValueError(f"rescore_keys must have shape {(tokens, config.rescore.head_dim)}, "
                             f"not "
                             f"{rescore_keys.shape}")


def _problem(config: Config, k_codes: NDArray[np.uint64], values: Values,
             exp_tables: NDArray[np.uint32], rescore_keys: NDArray[Any] | None) -> Prepared:
    """Make a problem from tokens, with a query for each exp table that is never sent."""
    heads = len(exp_tables)
    stacked = Values(values.elements[None], values.scales[None], np.reshape(values.unit, 1),
                     np.reshape(values.saturated, 1), values.rotated)
    rescore = None
    if rescore_keys is not None:
        rescore = RescoreOperands(np.zeros((heads, 1, rescore_keys.shape[1]), rescore_keys.dtype),
                                  rescore_keys[None], np.zeros((heads, 1), np.uint32))
    return Prepared(config, np.zeros((heads, 1, k_codes.shape[1]), np.uint64), k_codes[None],
                    stacked, np.zeros(heads), exp_tables, np.array([len(k_codes)]), 0, 1, 0, 0,
                    rescore)


@dataclass
class _Recorder:
    """Runs a program on a device, and records an outcome like that of a simulation.

    Its clock counts one cycle for each load and, for each command, the cycles that the device
    reports.
    """

    device: Device
    program: Program
    progress: Progress | None
    computed: int = 0
    _now: int = 0
    _done: int = 0
    _results: list[dict[str, NDArray[np.int64]]] = field(default_factory=list)
    _traces: list[bytes] = field(default_factory=list)
    _result_cycles: list[int] = field(default_factory=list)
    _trace_cycles: list[int] = field(default_factory=list)

    def run(self) -> Outcome:
        """Run all phases."""
        accepted = []
        for phase in self.program.phases:
            accepted.append(self._ask(phase) if "i_command" in phase.inputs else self._load(phase))
            self._done += sum(map(len, phase.inputs.values()))
        layout = self.device._layout
        ports = {port.name: port for port in layout.ports}
        fields = {name: np.concatenate([part[name] for part in self._results])
                  for name in ("query", "error", "output", "last")}
        words = ports["o_result"].pack(fields, len(fields["query"]))
        traces = np.zeros((len(self._traces), ports["o_trace"].words * 8), np.uint8)
        if self._traces:
            traces[:, :layout.trace_bytes] = np.frombuffer(
                b"".join(self._traces), np.uint8).reshape(len(traces), -1)
        outputs = {
            "o_result": Beats(ports["o_result"], words, np.array(self._result_cycles, np.int64)),
            "o_trace": Beats(ports["o_trace"], traces.view("<u8").astype(np.uint64),
                             np.array(self._trace_cycles, np.int64)),
        }
        return Outcome(accepted, outputs, self._now, "device", 0.0, 0.0)

    def _answered(self, count: int) -> None:
        if self.progress is not None:
            requests = sum(len(words) for phase in self.program.phases
                           for words in phase.inputs.values())
            self.progress(self.computed, self._done + count, requests)

    def _load(self, phase: Phase) -> dict[str, Cycles]:
        self.device._push(phase, self._answered)
        accepted = {name: self._now + np.arange(len(words), dtype=np.int64)
                    for name, words in phase.inputs.items()}
        self._now += max(map(len, phase.inputs.values()))
        return accepted

    def _ask(self, phase: Phase) -> dict[str, Cycles]:
        started: list[int] = []
        for reply in self.device._ask(phase, self._answered):
            started.append(self._now)
            self._read(reply)
        each = {name: len(words) // len(started) for name, words in phase.inputs.items()}
        return {name: np.repeat(np.array(started, np.int64), count)
                for name, count in each.items()}

    def _read(self, reply: Reply) -> None:
        """Record the beats in a command's reply, and count its cycles."""
        layout = self.device._layout
        config = layout.config
        query, cycles, traces = 0, 0, 0
        size = layout.element_bytes
        for tag, octets in reply.blocks:
            if tag == Block.TRACE:
                self._traces.append(octets)
                traces += 1
            elif tag == Block.CYCLES:
                cycles = int.from_bytes(octets, "little")
            elif tag == Block.RESULT or tag > Block.ERROR:
                output = np.zeros(1, np.int64)
                if tag == Block.RESULT:
                    raw = np.frombuffer(octets, np.uint8).reshape(-1, size).astype(np.int64)
                    output = (raw << 8 * np.arange(size)).sum(axis=1)
                    output -= (output >> 8 * size - 1) << 8 * size
                error = Error.OK.value if tag == Block.RESULT else tag - Block.ERROR
                last = np.zeros(len(output), np.int64)
                last[-1] = 1
                self._results.append({"query": np.full(len(output), query),
                                      "error": np.full(len(output), error), "output": output,
                                      "last": last})
                query += 1
        if query != config.queries or cycles == 0:
            raise DeviceError(f"{self.device._exchange.transport.name} answers a command of "
                              f"{config.queries} queries with {query}; its bitstream is broken")
        self.computed += cycles
        self._now += cycles
        ended = self._now - 1
        answers = self._results[len(self._results) - query:]
        self._result_cycles += [ended] * sum(len(part["query"]) for part in answers)
        self._trace_cycles += [ended] * traces
