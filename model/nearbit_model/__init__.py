"""NumPy models: configuration, golden model, quantization."""

from nearbit_model.attention import Attention, attention
from nearbit_model.config import PRESETS, Config, ConfigError, fitting_preset
from nearbit_model.golden import Result
from nearbit_model.prepare import DEFAULT_N, Prepared, TensorError, prepare
from nearbit_model.quantize import Values


__all__ = ["DEFAULT_N", "PRESETS", "Attention", "Config", "ConfigError", "Prepared", "Result",
           "TensorError", "Values", "attention", "fitting_preset", "prepare"]
