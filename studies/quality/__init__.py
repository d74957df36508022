"""What real models lose by selecting keys; see docs/quality.md."""
