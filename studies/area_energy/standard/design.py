"""Standard attention in hardware: every key scored by its dot product, every value vector weighted.

The same memories, streams, exponential, accumulation and division as Nearbit's core, but nothing is
selected: in each cycle :py:`lanes` keys are multiplied with the query, and :py:`lanes` value
vectors with their weights. It leaves out what Nearbit's core has for its host (checks, errors,
traces, several rows), which makes it smaller.
"""

# ruff: noqa: F403, F405, D102, D107 (the language as it is meant to be used, as in hw)

from amaranth import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from nearbit_hw.attend.dividing_normalizer import DividingNormalizer
from nearbit_hw.ram import block_ram
from nearbit_hw.score.key_store import KeyStore


__all__ = ["Exponential", "ProductSum", "ScaledWeight", "StandardAttention", "WeightedSum"]


OCTAVE_BITS = 8
"""A weight halves in so many bits' worth of steps."""

MULTIPLIER_BITS = 16
"""Bits of a query's logit scale. Nearbit's has 32, for operands of any size."""

FAN_IN = 8
"""Products added before a register: one level of registers for some 20 levels of logic."""

QUERIES_IN_FLIGHT = 4
"""Queries between their first word and the last reading of their scores. Three overlap: one is
scored, one has its best score found, one is weighted."""


def product_sum(a, b, count, width):
    """Sum of products, modulo 2**width; the carry-save adders of all products are one tree.

    The rows of partial products are those of Baugh and Wooley (IEEE Transactions on Computers C-22,
    1973): a row of a signed operand's sign bit is inverted, and so is the sign bit of every other
    row, so that no row needs to be extended; what that adds is one constant for all products.
    """
    products, correction = [], 0
    for i in range(count):
        rows = []
        a_sign = 1 << len(a[i]) - 1 if a[i].shape().signed else 0
        for place, bit in enumerate(b[i]):
            inverted = a_sign
            if b[i].shape().signed and place == len(b[i]) - 1:
                inverted ^= (1 << len(a[i])) - 1
            row = (a[i].as_unsigned() & bit.replicate(len(a[i]))) ^ Const(inverted, len(a[i]))
            rows.append(Cat(Const(0, place), row))
            correction -= inverted << place # -x is ~x - 1, for each single bit
        # Product by product: Amaranth's time grows with the depth of an expression.
        products.append(sum(tokens[1:], tokens[0]))
    return sum(products[1:], products[0]) + Const(correction % (1 << width), width)


class ProductSum(wiring.Component):
    """Registered sum of products.

    Latency is a cycle. With :py:`stalls` there is an input :py:`advance`, without which the
    register holds.

    Parameters
    ----------
    count : :class:`int`
        Products.
    a_shape, b_shape : shape-like
        Of the operands.
    stalls : :class:`bool`
        Whether there is :py:`advance`.
    """

    def __init__(self, *, count, a_shape, b_shape, stalls):
        self._count = count
        a, b = Shape.cast(a_shape), Shape.cast(b_shape)
        # The largest magnitude of a product is that of its most negative operands.
        largest = count * (1 << a.width - a.signed) * (1 << b.width - b.signed)
        self._stalls = stalls
        super().__init__({
            "a": In(data.ArrayLayout(a_shape, count)),
            "b": In(data.ArrayLayout(b_shape, count)),
            "o": Out(range(-largest, largest + (a.signed and b.signed))),
            **({"advance": In(1)} if stalls else {}),
        })

    @property
    def latency(self):
        """Cycles from operands to their sum."""
        return 1

    def elaborate(self, platform):
        m = Module()

        total = Signal(self.o.shape(), reset_less=True)
        m.d.comb += self.o.eq(total)
        with m.If(self.advance if self._stalls else Const(1)):
            m.d.sync += total.eq(product_sum(self.a, self.b, self._count, len(total)))

        return m


class DotProduct(wiring.Component):
    """Score of a key: the dot product with the query, in every cycle.

    Parameters
    ----------
    head_dim, element_bits : :class:`int`
        Of query and key.
    """

    def __init__(self, *, head_dim, element_bits):
        self._head_dim = head_dim
        self._element_bits = element_bits
        largest = head_dim << 2 * (element_bits - 1)
        elements = data.ArrayLayout(signed(element_bits), head_dim)
        super().__init__({
            "query": In(elements),
            "key": In(elements),
            "score": Out(range(-largest, largest + 1)),
        })

    @property
    def latency(self):
        """Cycles from operands to the score: sums of products, and their sum."""
        return 2

    def elaborate(self, platform):
        m = Module()

        terms = []
        for start in range(0, self._head_dim, FAN_IN):
            count = min(FAN_IN, self._head_dim - start)
            m.submodules[f"products_{start // FAN_IN}"] = products = ProductSum(
                count=count, a_shape=signed(self._element_bits),
                b_shape=signed(self._element_bits), stalls=False)
            for i in range(count):
                m.d.comb += [products.a[i].eq(self.query[start + i]),
                             products.b[i].eq(self.key[start + i])]
            terms.append(products.o)
        score = Signal(self.score.shape(), reset_less=True)
        m.d.sync += score.eq(sum(terms))
        m.d.comb += self.score.eq(score)

        return m


class Best(wiring.Component):
    """Largest of a word's scores, those of lanes above :py:`top` left out.

    Parameters
    ----------
    lanes : :class:`int`
        Scores of a word.
    score_max : :class:`int`
        Largest absolute value of a score.
    """

    def __init__(self, *, lanes, score_max):
        self._lanes = lanes
        self._score_max = score_max
        score = range(-score_max, score_max + 1)
        super().__init__({
            "scores": In(data.ArrayLayout(Shape.cast(score), lanes)),
            "top": In(range(max(2, lanes))),
            "best": Out(score),
        })

    @property
    def latency(self):
        """Cycles from a word to its best score: a register for two levels of comparisons."""
        return max(1, -(-exact_log2(self._lanes) // 2))

    def elaborate(self, platform):
        m = Module()

        shape = self.best.shape()
        # Lane 0 is always used, and stands in for those that are not.
        terms = [self.scores[0], *(
            Mux(self.top >= lane, self.scores[lane], self.scores[0])
            for lane in range(1, self._lanes))]
        for level in range(self.latency):
            for _ in range(2):
                pairs = list(zip(terms[::2], terms[1::2], strict=True)) if len(terms) > 1 else []
                terms = [Mux(a > b, a, b) for a, b in pairs] or terms
            stage = [Signal(shape, name=f"best_{level}_{i}", reset_less=True)
                     for i in range(len(terms))]
            m.d.sync += [register.eq(term) for register, term in zip(stage, terms, strict=True)]
            terms = stage
        m.d.comb += self.best.eq(terms[0])

        return m


class Exponential(wiring.Component):
    """Weight of a score by how far it is below the best, as far as the table and the shift.

    :py:`fraction` is for a table of an octave's weights, :py:`shift` for what comes out of it a
    cycle later; all shifts that leave nothing are one.

    Parameters
    ----------
    score_max : :class:`int`
        Largest absolute value of a score.
    shift_bits : :class:`int`
        Fraction bits of the multiplier.
    weight_bits : :class:`int`
        Bits of a weight.
    """

    def __init__(self, *, score_max, shift_bits, weight_bits):
        self._score_max = score_max
        self._shift_bits = shift_bits
        self._weight_bits = weight_bits
        score = range(-score_max, score_max + 1)
        super().__init__({
            "advance": In(1),
            "best": In(score),
            "score": In(score),
            "multiplier": In(MULTIPLIER_BITS),
            "fraction": Out(OCTAVE_BITS),
            "shift": Out(range(weight_bits + 1)),
        })

    @property
    def latency(self):
        """Cycles from a score to its place in the table: a difference and a product."""
        return 2

    def elaborate(self, platform):
        m = Module()

        excess = Signal(range(2 * self._score_max + 1), reset_less=True)
        octaves = (excess * self.multiplier) >> self._shift_bits
        whole = octaves[OCTAVE_BITS:]
        fraction = Signal(OCTAVE_BITS, reset_less=True)
        shift = Signal(range(self._weight_bits + 1), reset_less=True)
        with m.If(self.advance):
            m.d.sync += [
                excess.eq(self.best - self.score),
                fraction.eq(octaves),
                shift.eq(Mux(whole < self._weight_bits, whole, self._weight_bits)),
            ]
        m.d.comb += [self.fraction.eq(fraction), self.shift.eq(shift)]

        return m


class ScaledWeight(wiring.Component):
    """A key's weight, and the weight with its value vector's scale.

    :py:`weight` is :py:`entry >> shift`, or 0 for a lane that is not used; a cycle later,
    :py:`scaled` is that by :py:`scale`, rounded.

    Parameters
    ----------
    weight_bits, scale_bits : :class:`int`
        Bits of a weight and of a scale.
    """

    def __init__(self, *, weight_bits, scale_bits):
        self._weight_bits = weight_bits
        self._scale_bits = scale_bits
        super().__init__({
            "advance": In(1),
            "entry": In(weight_bits),
            "shift": In(range(weight_bits + 1)),
            "used": In(1),
            "scale": In(scale_bits),
            "weight": Out(weight_bits),
            "scaled": Out(weight_bits),
        })

    @property
    def latency(self):
        """Cycles from a table's entry to the scaled weight."""
        return 2

    def elaborate(self, platform):
        m = Module()

        weight = Signal(self._weight_bits, reset_less=True)
        scaled = Signal(self._weight_bits, reset_less=True)
        half = 1 << self._scale_bits - 1
        with m.If(self.advance):
            m.d.sync += [
                weight.eq(Mux(self.used, self.entry >> self.shift, 0)),
                scaled.eq((weight * self.scale + half) >> self._scale_bits),
            ]
        m.d.comb += [self.weight.eq(weight), self.scaled.eq(scaled)]

        return m


class WeightedSum(wiring.Component):
    """Weighted sum of one element of all value vectors.

    Parameters
    ----------
    lanes : :class:`int`
        Tokens per cycle.
    weight_bits, value_bits : :class:`int`
        Bits of a scaled weight and of an element.
    sum_bits : :class:`int`
        Bits of the sum.
    """

    def __init__(self, *, lanes, weight_bits, value_bits, sum_bits):
        self._lanes = lanes
        self._weight_bits = weight_bits
        self._value_bits = value_bits
        self._sum_bits = sum_bits
        super().__init__({
            "advance": In(1),
            "weights": In(data.ArrayLayout(weight_bits, lanes)),
            "elements": In(data.ArrayLayout(signed(value_bits), lanes)),
            "add": In(1),
            "complete": In(1),
            "sum": Out(signed(sum_bits)),
        })

    @property
    def latency(self):
        """Cycles from the last operands to the whole sum.

        A few products go straight into the sum, many have a register before.
        """
        return 1 + (self._lanes > FAN_IN)

    def elaborate(self, platform):
        m = Module()

        terms = []
        if self._lanes <= FAN_IN:
            terms.append(product_sum(self.weights, self.elements, self._lanes, self._sum_bits))
        for start in range(0, self._lanes if self._lanes > FAN_IN else 0, FAN_IN):
            count = min(FAN_IN, self._lanes - start)
            m.submodules[f"products_{start // FAN_IN}"] = products = ProductSum(
                count=count, a_shape=unsigned(self._weight_bits),
                b_shape=signed(self._value_bits), stalls=True)
            m.d.comb += products.advance.eq(self.advance)
            for i in range(count):
                m.d.comb += [products.a[i].eq(self.weights[start + i]),
                             products.b[i].eq(self.elements[start + i])]
            terms.append(products.o)

        # The last terms go with the sum into the output while the sum is cleared.
        total = Signal(signed(self._sum_bits))
        output = Signal(signed(self._sum_bits), reset_less=True)
        next_total = Signal(signed(self._sum_bits))
        # Modulo 2**sum_bits, without signs, so that it is one tree of adders.
        m.d.comb += [next_total.eq(total.as_unsigned() + sum(terms[1:], terms[0])),
                     self.sum.eq(output)]
        with m.If(self.add & self.advance):
            m.d.sync += total.eq(Mux(self.complete, 0, next_total))
        with m.If(self.complete & self.advance):
            m.d.sync += output.eq(next_total)

        return m


class StandardAttention(wiring.Component):
    """Attention of each query to all its keys: scores, softmax, weighted mean of the values.

    Two passes over a query's keys: one makes the scores, which go into a buffer while the best one
    is found; the other weights them and sums the value vectors. Consecutive queries overlap, so
    that a query of m keys, eight words or more, follows the one before after :py:`ceil(m / lanes)`
    cycles, or :py:`value_dim * divider_cycles` if that is more. A stalled output stops the second
    pass, and the first when the buffer is full.

    Keys and values are written a token at a time, while no query that reads them is in work. A
    query attends to the keys 0 to :py:`last_key`.

    Reference: :func:`studies.area_energy.standard.golden.attend`.

    Parameters
    ----------
    capacity : :class:`int`
        Keys held, a multiple of :py:`lanes`.
    lanes : :class:`int`
        Keys per cycle, a power of two.
    head_dim, value_dim : :class:`int`
        Elements of a key and of a value vector.
    element_bits, value_bits : :class:`int`
        Bits of an element of a key and of a value vector, two's complement.
    weight_bits, scale_bits : :class:`int`
        Bits of a weight and of a value vector's scale.
    output_fraction_bits : :class:`int`
        Fraction bits of an output.
    divider_cycles : :class:`int`
        Cycles per output of the divider; divides the bits of an output.

    Members
    -------
    i_key : :py:`In(stream.Signature(...))`
        Loads :py:`elements` as key number :py:`token`.
    i_value : :py:`In(stream.Signature(...))`
        Loads :py:`elements` and :py:`scale` as value vector number :py:`token`.
    i_query : :py:`In(stream.Signature(...))`
        Queries: :py:`elements`, :py:`last_key`, :py:`multiplier`.
    o_result : :py:`Out(stream.Signature(...))`
        For each query its :py:`output` elements, :py:`last` with the last one.
    """

    i_key: stream.Interface
    i_value: stream.Interface
    i_query: stream.Interface
    o_result: stream.Interface

    def __init__(self, *, capacity=1024, lanes=16, head_dim=64, value_dim=64, element_bits=8,
                 value_bits=8, weight_bits=16, scale_bits=16, output_fraction_bits=8,
                 divider_cycles=1):
        for name, value in [("Capacity", capacity), ("Lanes", lanes),
                            ("Head dimension", head_dim), ("Value dimension", value_dim),
                            ("Element bits", element_bits), ("Value bits", value_bits),
                            ("Weight bits", weight_bits), ("Scale bits", scale_bits)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if lanes & (lanes - 1):
            raise ValueError(f"Lanes must be a power of two, not {lanes!r}")
        if capacity % lanes or capacity < 2:
            raise ValueError(f"Capacity must be a multiple of lanes and at least 2, "
                             f"not {capacity!r}")
        self._capacity = capacity
        self._lanes = lanes
        self._head_dim = head_dim
        self._value_dim = value_dim
        self._element_bits = element_bits
        self._value_bits = value_bits
        self._weight_bits = weight_bits
        self._scale_bits = scale_bits
        self._output_fraction_bits = output_fraction_bits
        self._divider_cycles = divider_cycles

        super().__init__({
            "i_key": In(stream.Signature(data.StructLayout({
                "token": range(capacity),
                "elements": data.ArrayLayout(signed(element_bits), head_dim),
            }), always_ready=True)),
            "i_value": In(stream.Signature(data.StructLayout({
                "token": range(capacity),
                "elements": data.ArrayLayout(signed(value_bits), value_dim),
                "scale": scale_bits,
            }), always_ready=True)),
            "i_query": In(stream.Signature(data.StructLayout({
                "elements": data.ArrayLayout(signed(element_bits), head_dim),
                "last_key": range(capacity),
                "multiplier": MULTIPLIER_BITS,
            }))),
            "o_result": Out(stream.Signature(data.StructLayout({
                "output": signed(value_bits + output_fraction_bits),
                "last": 1,
            }))),
        })

    @property
    def lanes(self):
        return self._lanes

    @property
    def score_max(self):
        """Largest absolute value of a score."""
        return self._head_dim << 2 * (self._element_bits - 1)

    @property
    def shift_bits(self):
        """Fraction bits of a multiplier, beside those of an octave."""
        return 2 * self._element_bits + 2

    @property
    def total_max(self):
        """Largest sum of weights."""
        return self._capacity * ((1 << self._weight_bits) - 1)

    @property
    def sum_bits(self):
        """Bits of a weighted sum of elements."""
        most_negative = self.total_max << self._value_bits - 1
        return len(Signal(range(-most_negative, most_negative)))

    def elaborate(self, platform):
        m = Module()

        lanes, lane_bits = self._lanes, exact_log2(self._lanes)
        words = self._capacity // lanes
        top_shape = range(max(2, lanes))

        # ---- Stores, in words of `lanes` tokens.
        m.submodules.key_store = key_store = KeyStore(
            capacity=self._capacity, lanes=lanes, key_bits=self._head_dim * self._element_bits)
        m.submodules.value_store = value_store = KeyStore(
            capacity=self._capacity, lanes=lanes, key_bits=self._value_dim * self._value_bits)
        m.submodules.scale_store = scale_store = KeyStore(
            capacity=self._capacity, lanes=lanes, key_bits=self._scale_bits)
        m.d.comb += [
            key_store.i_write.valid.eq(self.i_key.valid),
            key_store.i_write.p.token.eq(self.i_key.p.token),
            key_store.i_write.p.code.eq(self.i_key.p.elements.as_value()),
            value_store.i_write.valid.eq(self.i_value.valid),
            value_store.i_write.p.token.eq(self.i_value.p.token),
            value_store.i_write.p.code.eq(self.i_value.p.elements.as_value()),
            scale_store.i_write.valid.eq(self.i_value.valid),
            scale_store.i_write.p.token.eq(self.i_value.p.token),
            scale_store.i_write.p.code.eq(self.i_value.p.scale),
        ]

        # ---- First pass, which nothing stalls: a word is asked for when the buffer has room for
        # its scores. The query goes into its register when its first word is asked for, and so is
        # there with that word.
        m.submodules.best_of_word = best_of_word = Best(lanes=lanes, score_max=self.score_max)
        dot_latency = 2
        depth = words + dot_latency + best_of_word.latency + 6
        occupied = Signal(range(depth + 1)) # words asked for and not yet read again
        in_flight = Signal(range(QUERIES_IN_FLIGHT + 1))
        starts, issues, reads, ends = Signal(), Signal(), Signal(), Signal()
        busy = Signal() # words of the query remain to be asked for
        has_room = Signal()
        word = Signal(range(words))
        last_word = Signal(range(words), reset_less=True)
        last_top = Signal(top_shape, reset_less=True)
        query = Signal(self.i_query.p.elements.shape(), reset_less=True)
        asked_word, asked_last_word = Signal(range(words)), Signal(range(words))
        asked_top = Signal(top_shape)
        is_last = Signal()
        m.d.comb += [
            has_room.eq(occupied != depth),
            self.i_query.ready.eq(~busy & has_room & (in_flight != QUERIES_IN_FLIGHT)),
            starts.eq(self.i_query.valid & self.i_query.ready),
            issues.eq(starts | (busy & has_room)),
            asked_word.eq(Mux(busy, word, 0)),
            asked_last_word.eq(Mux(busy, last_word, self.i_query.p.last_key[lane_bits:])),
            is_last.eq(asked_word == asked_last_word),
            asked_top.eq(lanes - 1),
            key_store.i.valid.eq(issues),
            key_store.i.p.word.eq(asked_word),
            key_store.o.ready.eq(1),
        ]
        with m.If(is_last):
            m.d.comb += asked_top.eq(
                Mux(busy, last_top, self.i_query.p.last_key[:lane_bits]))
        with m.If(starts):
            m.d.sync += [
                query.eq(self.i_query.p.elements),
                last_word.eq(self.i_query.p.last_key[lane_bits:]),
                last_top.eq(self.i_query.p.last_key[:lane_bits]),
            ]
        with m.If(issues):
            m.d.sync += [word.eq(asked_word + 1), busy.eq(~is_last)]
        m.d.sync += [
            occupied.eq(occupied + issues - reads),
            in_flight.eq(in_flight + starts - ends),
        ]

        valid, last, top = issues, is_last, asked_top
        for stage in range(1 + dot_latency):
            next_valid = Signal(name=f"scored_valid_{stage}")
            next_last = Signal(name=f"scored_last_{stage}", reset_less=True)
            next_top = Signal(top_shape, name=f"scored_top_{stage}", reset_less=True)
            m.d.sync += [next_valid.eq(valid), next_last.eq(last), next_top.eq(top)]
            valid, last, top = next_valid, next_last, next_top

        score_shape = Shape.cast(range(-self.score_max, self.score_max + 1))
        buffer_shape = data.StructLayout({
            "scores": data.ArrayLayout(score_shape, lanes), "top": top_shape, "last": 1})
        m.submodules.buffer = buffer = block_ram(shape=buffer_shape, depth=depth)
        write, read = buffer.write_port(), buffer.read_port()
        write_place, read_place = Signal(range(depth)), Signal(range(depth))
        m.d.comb += [
            write.addr.eq(write_place),
            write.en.eq(valid),
            write.data.top.eq(top),
            write.data.last.eq(last),
            best_of_word.top.eq(top),
        ]
        for lane in range(lanes):
            m.submodules[f"dot_product_{lane}"] = dot_product = DotProduct(
                head_dim=self._head_dim, element_bits=self._element_bits)
            m.d.comb += [
                dot_product.query.eq(query),
                dot_product.key.eq(key_store.o.p.codes[lane]),
                write.data.scores[lane].eq(dot_product.score),
                best_of_word.scores[lane].eq(dot_product.score),
            ]
        with m.If(valid):
            m.d.sync += write_place.eq(Mux(write_place == depth - 1, 0, write_place + 1))

        # ---- The best score of each query. `available` counts the words of queries whose best one
        # is known.
        for stage in range(best_of_word.latency):
            next_valid = Signal(name=f"best_valid_{stage}")
            next_last = Signal(name=f"best_last_{stage}", reset_less=True)
            m.d.sync += [next_valid.eq(valid), next_last.eq(last)]
            valid, last = next_valid, next_last
        m.submodules.bests = bests = fifo.SyncFIFO(
            width=score_shape.width, depth=QUERIES_IN_FLIGHT)
        best = Signal(score_shape, reset_less=True)
        best_so_far = Signal(score_shape)
        is_first = Signal(init=1)
        word_count = Signal(range(words + 1), init=1) # with the word that is here
        available = Signal(range(depth + 1))
        m.d.comb += [
            best_so_far.eq(Mux(is_first | (best_of_word.best > best), best_of_word.best, best)),
            bests.w_data.eq(best_so_far),
            bests.w_en.eq(valid & last),
        ]
        with m.If(valid):
            m.d.sync += [best.eq(best_so_far), is_first.eq(last),
                         word_count.eq(Mux(last, 1, word_count + 1))]
        m.d.sync += available.eq(available + Mux(bests.w_en, word_count, 0) - reads)

        # ---- Second pass, which moves as a whole. A word's stages: 1, out of the buffer; 2,
        # excess; 3, place in the table; 4, out of the table; 5, weight; 6, scaled weight, with the
        # value vectors; 7, if there are many lanes, products; then the sums.
        advance = Signal()
        m.d.comb += [
            reads.eq(advance & (available != 0)),
            read.addr.eq(read_place),
            read.en.eq(reads),
        ]
        with m.If(reads):
            m.d.sync += read_place.eq(Mux(read_place == depth - 1, 0, read_place + 1))

        valids, lasts, tops = [Const(0), Signal(name="valid_1")], [Const(0), read.data.last], \
            [Const(0), read.data.top]
        with m.If(advance):
            m.d.sync += valids[1].eq(reads)
            for stage in range(2, 7 + (lanes > FAN_IN)):
                valids.append(Signal(name=f"valid_{stage}"))
                lasts.append(Signal(name=f"last_{stage}", reset_less=True))
                m.d.sync += [valids[stage].eq(valids[stage - 1]),
                             lasts[stage].eq(lasts[stage - 1])]
                if stage <= 4:
                    tops.append(Signal(top_shape, name=f"top_{stage}", reset_less=True))
                    m.d.sync += tops[stage].eq(tops[stage - 1])

        m.submodules.multipliers = multipliers = fifo.SyncFIFO(
            width=MULTIPLIER_BITS, depth=QUERIES_IN_FLIGHT)
        m.d.comb += [
            multipliers.w_data.eq(self.i_query.p.multiplier),
            multipliers.w_en.eq(starts),
            bests.r_en.eq(advance & valids[1] & lasts[1]),
            multipliers.r_en.eq(advance & valids[2] & lasts[2]),
            ends.eq(multipliers.r_en),
        ]

        # Value vectors are asked for in the order of the words, scales a cycle before.
        value_word, token_word = Signal(range(words)), Signal(range(words), reset_less=True)
        with m.If(advance & valids[4]):
            m.d.sync += [value_word.eq(Mux(lasts[4], 0, value_word + 1)), token_word.eq(value_word)]
        m.d.comb += [
            scale_store.i.valid.eq(valids[4]),
            scale_store.i.p.word.eq(value_word),
            scale_store.o.ready.eq(advance),
            value_store.i.valid.eq(valids[5]),
            value_store.i.p.word.eq(token_word),
            value_store.o.ready.eq(advance),
        ]

        # Lanes share tables in pairs, as a memory has two ports.
        table_ports = []
        largest = (1 << self._weight_bits) - 1
        steps = 1 << OCTAVE_BITS
        for pair in range(-(-lanes // 2)):
            m.submodules[f"exp2_{pair}"] = table = block_ram(
                shape=self._weight_bits, depth=steps,
                init=[round(largest * 2 ** (-step / steps)) for step in range(steps)])
            table_ports += [table.read_port() for _ in range(min(2, lanes))]
        weights, scaled = [], []
        for lane, table_port in enumerate(table_ports):
            m.submodules[f"exponential_{lane}"] = exponential = Exponential(
                score_max=self.score_max, shift_bits=self.shift_bits,
                weight_bits=self._weight_bits)
            m.submodules[f"scaled_weight_{lane}"] = scaled_weight = ScaledWeight(
                weight_bits=self._weight_bits, scale_bits=self._scale_bits)
            shift = Signal(exponential.shift.shape(), name=f"shift_{lane}", reset_less=True)
            with m.If(advance):
                m.d.sync += shift.eq(exponential.shift)
            m.d.comb += [
                exponential.advance.eq(advance),
                exponential.best.eq(bests.r_data.as_signed()),
                exponential.score.eq(read.data.scores[lane]),
                exponential.multiplier.eq(multipliers.r_data),
                table_port.addr.eq(exponential.fraction),
                table_port.en.eq(advance),
                scaled_weight.advance.eq(advance),
                scaled_weight.entry.eq(table_port.data),
                scaled_weight.shift.eq(shift),
                scaled_weight.used.eq(tops[4] >= lane),
                scaled_weight.scale.eq(scale_store.o.p.codes[lane]),
            ]
            weights.append(scaled_weight.weight)
            scaled.append(scaled_weight.scaled)

        # ---- Sums.
        complete = Signal()
        adding = 6 + (lanes > FAN_IN)
        m.d.comb += complete.eq(valids[adding] & lasts[adding])
        word_total = Signal(range(lanes * largest + 1), reset_less=True)
        total = Signal(range(self.total_max + 1))
        o_total = Signal.like(total, reset_less=True)
        o_valid = Signal()
        with m.If(advance):
            m.d.sync += word_total.eq(sum(weights))
        if lanes > FAN_IN:
            added_total = Signal.like(word_total)
            with m.If(advance):
                m.d.sync += added_total.eq(word_total)
            word_total = added_total
        with m.If(advance):
            with m.If(valids[adding]):
                m.d.sync += total.eq(total + word_total)
            with m.If(complete):
                m.d.sync += [total.eq(0), o_total.eq(total + word_total)]

        m.submodules.normalizer = normalizer = DividingNormalizer(
            value_lanes=self._value_dim, value_bits=self._value_bits, sum_bits=self.sum_bits,
            total_max=self.total_max, output_fraction_bits=self._output_fraction_bits,
            divider_cycles=self._divider_cycles)
        for element in range(self._value_dim):
            m.submodules[f"weighted_sum_{element}"] = weighted_sum = WeightedSum(
                lanes=lanes, weight_bits=self._weight_bits, value_bits=self._value_bits,
                sum_bits=self.sum_bits)
            m.d.comb += [
                weighted_sum.advance.eq(advance),
                weighted_sum.add.eq(valids[adding]),
                weighted_sum.complete.eq(complete),
                normalizer.i.p.sums[element].eq(weighted_sum.sum),
            ]
            for lane in range(lanes):
                vector = value_store.o.p.codes[lane]
                m.d.comb += [
                    weighted_sum.weights[lane].eq(scaled[lane]),
                    weighted_sum.elements[lane].eq(
                        vector[element * self._value_bits:(element + 1) * self._value_bits]),
                ]
        with m.If(complete & advance):
            m.d.sync += o_valid.eq(1)
        with m.Elif(normalizer.i.ready):
            m.d.sync += o_valid.eq(0)
        m.d.comb += [
            normalizer.i.valid.eq(o_valid),
            normalizer.i.p.total.eq(o_total),
            advance.eq(~complete | ~o_valid | normalizer.i.ready),
        ]
        wiring.connect(m, normalizer.o, wiring.flipped(self.o_result))

        return m
