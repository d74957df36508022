"""Area and energy in standard cells of any liberty file; see docs/area-energy.md."""
