"""NumPy: configuration, golden model, quantization."""

from nearbit_model.config import PRESETS, Config, ConfigError


__all__ = ["PRESETS", "Config", "ConfigError"]
