"""What a method costs a network: losses of a decoder, embeddings and retrieval of an encoder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_nets.errors import NetworkError
from nearbit_nets.golden import GoldenAttention, Method
from nearbit_nets.network import Attend, Network


__all__ = ["Costs", "DecoderReport", "EncoderReport", "evaluate_decoder", "evaluate_encoder",
           "halves"]


Say = Callable[[str], None]
"""Called with what is done now."""


@dataclass(frozen=True)
class Costs:
    """What a method read, over all layers, heads and queries.

    Parameters
    ----------
    keys_touched, keys_dense
        Keys whose values were weighted, and those that exact attention would have.
    bytes_read, bytes_dense
        Bytes of codes, keys, values and scales, and those of keys and values in 16 bits.
    seconds
        Wall time of the network with the method.
    """

    keys_touched: int
    keys_dense: int
    bytes_read: int
    bytes_dense: int
    seconds: float


@dataclass(frozen=True)
class DecoderReport:
    """Losses of the last tokens of a text, in nats.

    Parameters
    ----------
    n, sink, recent
        As asked.
    tokens, scored
        Tokens of the text, and the last of them that were scored.
    loss
        With the method.
    loss_reference
        Of the network as it is.
    loss_topn
        With as many keys of largest q.k: method ``topn``. None with method ``dense``.
    costs
        Of the method.
    """

    n: int
    sink: int
    recent: int
    tokens: int
    scored: int
    loss: float
    loss_reference: float
    loss_topn: float | None
    costs: Costs

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return float(np.exp(self.loss))

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        found = _flat(self)
        found["perplexity"] = self.perplexity
        found["perplexity_reference"] = float(np.exp(self.loss_reference))
        return found


@dataclass(frozen=True)
class EncoderReport:
    """Embeddings of passages, beside those of the network as it is.

    Parameters
    ----------
    n, sink, recent
        As asked.
    passages, tokens
        Passages, and their tokens in all.
    cosine, cosine_topn
        Mean cosine of a passage's embedding with that of the network as it is: with the method,
        and with as many keys of largest q.k (None with method ``dense``).
    retrieval, retrieval_reference, retrieval_topn
        Share of the passages' first halves whose nearest second half is their own: with the
        method, of the network as it is, and with method ``topn``.
    costs
        Of the method.
    """

    n: int
    sink: int
    recent: int
    passages: int
    tokens: int
    cosine: float
    cosine_topn: float | None
    retrieval: float
    retrieval_reference: float
    retrieval_topn: float | None
    costs: Costs

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return _flat(self)


def _flat(report: DecoderReport | EncoderReport) -> dict[str, Any]:
    found = dict(vars(report))
    costs = found.pop("costs")
    return {**found, **vars(costs)}


def evaluate_decoder(network: Network, method: Method, ids: Sequence[int], *,
                     scored: int | None = None, sweep: Sequence[int] = (),
                     say: Say = lambda doing: None) -> list[DecoderReport]:
    """Run a text through a decoder as it is, with a method, and with the true nearest keys.

    Parameters
    ----------
    network
        The decoder.
    method
        What stands in place of its attention, in all layers.
    ids
        Tokens of the text.
    scored
        How many of the last are scored; None is half of them.
    sweep
        Further ``n`` to report on.
    say
        Called with what is done now.

    Returns
    -------
    list of DecoderReport
        Of the method as it is, then of each ``n`` of the sweep.
    """
    count = len(ids) // 2 if scored is None else scored

    def loss(attend: Attend | None) -> float:
        return float(network.losses(ids, attend, scored=count).mean())

    say("the unmodified model")
    reference = loss(None)
    reports = []
    for each in (method, *(replace(method, n=n) for n in sweep)):
        (found, costs), topn = _both(network, each, loss, say)
        reports.append(DecoderReport(each.n, each.sink, each.recent, len(ids), count, found,
                                     reference,
                                     topn, costs))
    return reports


def evaluate_encoder(network: Network, method: Method, texts: Sequence[Sequence[int]], *,
                     sweep: Sequence[int] = (), say: Say = lambda doing: None
                     ) -> list[EncoderReport]:
    """Embed passages and their halves with an encoder as it is, and with a method.

    Parameters
    ----------
    network
        The encoder.
    method, sweep, say
        As for :func:`evaluate_decoder`.
    texts
        Tokens of passages (:func:`nearbit_nets.texts.passages`), at least two.

    Returns
    -------
    list of EncoderReport
    """
    if len(texts) < 2:
        raise NetworkError("retrieval needs at least 2 passages; take a longer text or fewer "
                           "tokens per passage")
    pairs = [halves(ids) for ids in texts]
    parts = [*texts, *(first for first, _ in pairs), *(second for _, second in pairs)]

    def embed(attend: Attend | None) -> NDArray[np.float32]:
        return network.embed(parts, attend).reshape(3, len(texts), -1)

    say("the unmodified model")
    reference = embed(None)
    reports = []
    for each in (method, *(replace(method, n=n) for n in sweep)):
        (found, costs), topn = _both(network, each, embed, say)
        reports.append(EncoderReport(
            each.n, each.sink, each.recent, len(texts), sum(map(len, texts)),
            _cosine(found, reference), None if topn is None else _cosine(topn, reference),
            _retrieval(found), _retrieval(reference), None if topn is None else _retrieval(topn),
            costs))
    return reports


def _both(network: Network, method: Method, run: Callable[[Attend | None], Any],
          say: Say) -> tuple[tuple[Any, Costs], Any]:
    """Run with a method, and with the true nearest keys instead."""
    found = _timed(network, method, run, say)
    if method.name == "dense":
        return found, None
    if method.name == "topn":
        return found, found[0]
    best = Method(name="topn", n=method.n, sink=method.sink, recent=method.recent)
    return found, _timed(network, best, run, say)[0]


def _timed(network: Network, method: Method, run: Callable[[Attend | None], Any],
           say: Say) -> tuple[Any, Costs]:
    attend = GoldenAttention(network, method, lambda layer: say(
        f"method {method.name}, n {method.n}: layer {layer} of {network.layers}"))
    started = time.perf_counter()
    found = run(attend)
    if not attend.keys_touched:
        raise NetworkError(f"method {method.name} answered no query of {network.name}, so "
                           f"its cost is unknown; take another model")
    return found, Costs(attend.keys_touched, attend.keys_dense, attend.bytes_read,
                        attend.bytes_dense, time.perf_counter() - started)


def _cosine(found: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Mean cosine of the whole passages' embeddings, which are unit vectors."""
    return float((found[0].astype(np.float64) * reference[0]).sum(axis=1).mean())


def _retrieval(found: NDArray[np.float32]) -> float:
    """How often the nearest second half is a first half's own."""
    return float((np.argmax(found[1] @ found[2].T, axis=1) == np.arange(found.shape[1])).mean())


def halves(ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Both halves of a passage, each with the tokens that a text begins and ends with."""
    middle = len(ids) // 2
    return [*ids[:middle], ids[-1]], [ids[0], *ids[middle:]]
