"""NumPy: configuration, golden model, quantization."""

from nearbit_model.config import PRESETS, Config, ConfigError
from nearbit_model.golden import Result, attend
from nearbit_model.quantize import Values


__all__ = ["PRESETS", "Config", "ConfigError", "Result", "Values", "attend"]
