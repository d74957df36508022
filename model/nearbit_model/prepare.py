"""Preparing float tensors as a problem, the common input of golden model and hardware."""

# Help shows `ArrayLike`, not all that it stands for.
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model import quantize
from nearbit_model.config import Config, fitting_preset
from nearbit_model.errors import NearbitError
from nearbit_model.golden import check_command
from nearbit_model.mapping import Mapping, MappingError
from nearbit_model.quantize import RescoreOperands, Values


__all__ = ["DEFAULT_N", "METHODS", "Prepared", "TensorError", "prepare"]


METHODS = ("had", "hash")
"""Binary attention (HAD, arXiv 2502.01770), and codes that only rank, with exact attention on the
selected keys (HashAttention, arXiv 2412.14468)."""


DEFAULT_N = 32
"""Default number of keys selected, within the 30 to 120 of arXiv 2502.01770."""


_AXES = {"q": "[heads, queries, head_dim]",
         "k": "[kv_heads, tokens, head_dim]",
         "v": "[kv_heads, tokens, value_dim]"}


class TensorError(NearbitError, ValueError):
    """Tensors or options that do not fit; the message is one sentence."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Integers of an attention problem, as held by the stores, exp tables and commands.

    Parameters
    ----------
    config
        The accelerator.
    q_codes
        uint64 [heads, queries, words].
    k_codes
        uint64 [kv_heads, tokens, words]; head h uses key head h // (heads // kv_heads).
    values
        Elements [kv_heads, tokens, value_dim], scales [kv_heads, tokens], unit [kv_heads].
    logit_scale
        float64 [heads], from which the exp tables were computed.
    exp_tables
        uint32 [heads, key_bits + 1].
    counts
        Number of keys that each query sees, from ``first`` on: int64 [queries], the same for all
        heads.
    first
        First key of the range; always 0 here.
    n, sink, recent
        Number of nearest, first and last keys to select.
    rescore
        Operands of rescoring; None with method "had".
    shared
        Whether the heads of a group share a selection.
    tensors
        The q, k and v that it was made of, with a key head for each set of codes; None if it was
        made of integers.
    """

    config: Config
    q_codes: NDArray[np.uint64]
    k_codes: NDArray[np.uint64]
    values: Values
    logit_scale: NDArray[np.float64]
    exp_tables: NDArray[np.uint32]
    counts: NDArray[np.int64]
    first: int
    n: int
    sink: int
    recent: int
    rescore: RescoreOperands | None = None
    shared: bool = False
    tensors: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = field(
        default=None, repr=False)

    @property
    def method(self) -> str:
        """One of :data:`METHODS`."""
        return "had" if self.rescore is None else "hash"

    @property
    def heads(self) -> int:
        """Query heads."""
        return int(self.q_codes.shape[0])

    @property
    def kv_heads(self) -> int:
        """Key heads."""
        return int(self.k_codes.shape[0])

    @property
    def queries(self) -> int:
        """Queries of each head."""
        return int(self.q_codes.shape[1])

    @property
    def tokens(self) -> int:
        """Keys of each key head."""
        return int(self.k_codes.shape[1])

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.heads // self.kv_heads

    @property
    def unit(self) -> NDArray[np.float64]:
        """Unit of each query head's outputs, float64 [heads]."""
        return np.repeat(self.values.unit, self.group)

    def outputs(self, output_int: NDArray[np.int32]) -> NDArray[np.float32]:
        """Dequantize outputs, int32 [heads, queries, value_dim] to float32."""
        return quantize.outputs(output_int, self.unit, self.config.output_fraction_bits,
                                rotated=self.values.rotated)


def prepare(q: ArrayLike, k: ArrayLike, v: ArrayLike, config: Config | str, *, n: int | None = None,
            sink: int = 0, recent: int = 0, causal: bool = False,
            qpos: ArrayLike | None = None, logit_scale: ArrayLike | None = None,
            rotate: bool = True, method: str = "had", mapping: Mapping | None = None,
            shared: bool = False) -> Prepared:
    """Check float tensors and turn them into the integers of the numeric contract.

    Parameters
    ----------
    q
        Queries, real numbers [heads, queries, head_dim]; head_dim is the configuration's
        ``key_bits``, or with method "hash" its ``rescore.head_dim``. Like k and v, it may have
        another axis of 1 before, a batch, which answers do not have.
    k
        Keys, real numbers [kv_heads, tokens, head_dim]; kv_heads divides heads, tokens is at most
        ``capacity``.
    v
        Values, real numbers [kv_heads, tokens, value_dim].
    config
        The accelerator, or the name of a preset.
    n
        Number of nearest keys to select, at least 1. None is :data:`DEFAULT_N`, or what ``top_n``
        leaves after ``sink`` and ``recent`` if that is less.
    sink, recent
        Number of first and last keys of the range that are always selected, at least 0.
    causal
        Whether a query sees only the keys up to its own position.
    qpos
        Each query's position, integers [queries], 0 to tokens - 1; ignored unless ``causal``. None:
        the queries are the last tokens.
    logit_scale
        Real numbers, one per head [heads] or one for all, finite and at least 0. None is
        :func:`nearbit_model.quantize.logit_scale` of all of q and k as given.
    rotate
        Whether value vectors are stored in the basis of :func:`nearbit_model.quantize.rotate`,
        which lowers the largest error on real heads. Integer outputs are then in that basis, too;
        :meth:`Prepared.outputs` returns them in the basis of v. Queries and keys for rescoring are
        rotated likewise.
    method
        One of :data:`METHODS`; "hash" needs a configuration with ``rescore``.
    mapping
        With method "hash", the mapping to codes; None is the sign of each element.
    shared
        With method "hash", whether the heads of a group select together, by the sum of their
        distances; the configuration's ``queries`` must be as many.

    Returns
    -------
    Prepared

    Raises
    ------
    TensorError
        The inputs do not fit; the message names the array, its shape, and the remedy.
    ConfigError
        No preset has this name.
    """
    if isinstance(config, str):
        config = Config.preset(config)
    q_array, k_array, v_array = _tensor("q", q), _tensor("k", k), _tensor("v", v)
    heads, queries, head_dim = q_array.shape
    kv_heads, tokens, _ = k_array.shape
    if k_array.shape[2] != head_dim:
        raise TensorError(f"q and k must have the same head_dim, not shapes {q_array.shape} and "
                          f"{k_array.shape}")
    if v_array.shape[:2] != (kv_heads, tokens):
        raise TensorError(f"k and v must have the same heads and tokens, not shapes "
                          f"{k_array.shape} and {v_array.shape}")
    if heads % kv_heads:
        raise TensorError(f"the heads of q must be a multiple of those of k and v, not shapes "
                          f"{q_array.shape} and {k_array.shape}")

    nearest = max(1, min(DEFAULT_N, config.top_n - sink - recent)) if n is None else n
    try:
        # top_n is checked below, where the message can name a preset.
        check_command(n=nearest, sink=sink, recent=recent, top_n=nearest + sink + recent)
    except ValueError as error:
        raise TensorError(str(error)) from None
    if method not in METHODS:
        raise TensorError(f"method must be {' or '.join(METHODS)}, not {method!r}")
    if method == "had":
        if mapping is not None or shared:
            raise TensorError(f"{'shared' if shared else 'mapping'} needs method hash: with method "
                              f"had the weights follow from the distances of sign codes")
        _check_fit(q_array.shape, v_array.shape, config, nearest + sink + recent)
        q_codes, k_codes, operands = quantize.codes(q_array), quantize.codes(k_array), None
    else:
        codes = Mapping.sign(head_dim, heads=heads, kv_heads=kv_heads) if mapping is None \
            else mapping
        _check_hash_fit(q_array.shape, v_array.shape, config, nearest + sink + recent, codes.bits,
                        heads // kv_heads if shared else 0)
        try:
            q_codes, k_codes = codes.query_codes(q_array), codes.key_codes(k_array)
        except MappingError as error:
            raise TensorError(str(error)) from None
        if len(k_codes) > kv_heads:
            if shared:
                raise TensorError("heads cannot share a selection with a mapping that gives a key "
                                  "another code for each of them")
            # Each head has its own codes, and so its own store.
            k_array, v_array = (np.repeat(x, heads // kv_heads, axis=0)
                                for x in (k_array, v_array))
        try:
            operands = quantize.rescore_operands(q_array, k_array, _element_bits(config),
                                                 rotated=rotate)
        except ValueError as error:
            raise TensorError(str(error)) from None

    counts = (_positions(qpos, queries, tokens) + 1 if causal
              else np.full(queries, tokens, np.int64))
    scale = (quantize.logit_scale(q_array, k_array) if logit_scale is None
             else _logit_scale(logit_scale, heads))
    return Prepared(
        config, q_codes, k_codes,
        quantize.values(v_array, config.value_bits, rotated=rotate), scale,
        quantize.exp_table(scale, config.key_bits, config.weight_bits),
        counts, 0, nearest, sink, recent, operands, shared, (q_array, k_array, v_array))


def _tensor(name: str, x: ArrayLike) -> NDArray[Any]:
    try:
        array = quantize.real_array(x, name)
    except ValueError as error:
        raise TensorError(str(error)) from None
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3:
        raise TensorError(f"{name} must have three axes {_AXES[name]}, not shape {array.shape}")
    if 0 in array.shape:
        raise TensorError(f"{name} must have at least one element on each axis {_AXES[name]}, "
                          f"not shape {array.shape}")
    return array


def _element_bits(config: Config) -> int:
    return 8 if config.rescore is None else config.rescore.element_bits


def _check_hash_fit(q_shape: tuple[int, ...], v_shape: tuple[int, ...], config: Config, most: int,
                    bits: int, shared: int) -> None:
    """Check sizes for rescoring; ``shared`` is the number of heads sharing a selection, or 0."""
    head_dim, value_dim, tokens = q_shape[2], v_shape[2], v_shape[1]
    preset = fitting_preset(head_dim, value_dim, tokens, most, key_bits=bits, rescore=True,
                            shared=shared)
    remedy = f"the preset {preset} fits" if preset else "no preset fits, so give a configuration"
    unit = config.rescore
    if unit is None:
        raise TensorError(f"method hash needs a configuration with rescoring; set rescore, with "
                          f"head_dim {head_dim}; {remedy}")
    if head_dim != unit.head_dim:
        raise TensorError(f"head_dim of q, shape {q_shape}, must equal the configuration's "
                          f"rescore.head_dim ({unit.head_dim}), not {head_dim}; {remedy}")
    if bits != config.key_bits:
        raise TensorError(f"codes of {bits} bits do not fit the configuration's key_bits "
                          f"({config.key_bits}); {remedy}, or take a mapping to {config.key_bits} "
                          f"bits")
    if shared and not unit.shared:
        raise TensorError(f"a shared selection needs rescore.shared in the configuration; {remedy}")
    if shared and config.queries != shared:
        raise TensorError(f"a shared selection needs the configuration's queries "
                          f"({config.queries}) to "
                          f"equal the heads of a group ({shared}); {remedy}")
    _check_room(v_shape, config, most, remedy)


def _check_fit(q_shape: tuple[int, ...], v_shape: tuple[int, ...], config: Config,
               most: int) -> None:
    head_dim, value_dim, tokens = q_shape[2], v_shape[2], v_shape[1]
    preset = fitting_preset(head_dim, value_dim, tokens, most)
    remedy = f"the preset {preset} fits" if preset else "no preset fits, so give a configuration"
    if head_dim != config.key_bits:
        raise TensorError(f"head_dim of q, shape {q_shape}, must equal the configuration's "
                          f"key_bits ({config.key_bits}), not {head_dim}; {remedy}")
    _check_room(v_shape, config, most, remedy)


def _check_room(v_shape: tuple[int, ...], config: Config, most: int, remedy: str) -> None:
    value_dim, tokens = v_shape[2], v_shape[1]
    for what, value, name, room, fits in (
            (f"value_dim of v, shape {v_shape},", value_dim, "value_dim", config.value_dim,
             value_dim == config.value_dim),
            (f"tokens of k and v, shape {v_shape},", tokens, "capacity", config.capacity,
             tokens <= config.capacity),
            ("n + sink + recent", most, "top_n", config.top_n, most <= config.top_n)):
        if not fits:
            relation = "equal" if name == "value_dim" else "be at most"
            raise TensorError(f"{what} must {relation} the configuration's {name} ({room}), "
                              f"not {value}; {remedy}")


def _positions(qpos: ArrayLike | None, queries: int, tokens: int) -> NDArray[np.int64]:
    if qpos is None:
        if queries > tokens:
            raise TensorError(f"q has more queries ({queries}) than k has tokens ({tokens}), so "
                              f"give qpos, each query's position")
        return np.arange(tokens - queries, tokens)
    array = np.asarray(qpos)
    if array.dtype.kind not in "iu":
        raise TensorError(f"qpos must be integers, not {array.dtype}")
    if array.shape != (queries,):
        raise TensorError(f"qpos must have shape ({queries},), one position for each query of q, "
                          f"not {array.shape}")
    for position in (array.min(), array.max()):
        if not 0 <= position < tokens:
            raise TensorError(f"qpos must be from 0 to {tokens - 1}, the positions of k, "
                              f"not {position}")
    return array.astype(np.int64)


def _logit_scale(logit_scale: ArrayLike, heads: int) -> NDArray[np.float64]:
    try:
        array = quantize.real_array(logit_scale, "logit_scale")
    except ValueError as error:
        raise TensorError(str(error)) from None
    if array.shape not in ((), (heads,)):
        raise TensorError(f"logit_scale must be one number or have shape ({heads},), one for "
                          f"each head of q, not {array.shape}")
    if array.min() < 0:
        raise TensorError(f"logit_scale must be at least 0, not {array.min()}")
    return np.broadcast_to(array, (heads,)).astype(np.float64)
