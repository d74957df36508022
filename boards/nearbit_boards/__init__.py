"""Board tops, build, flash, host driver."""
