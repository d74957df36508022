"""Standard attention: what Nearbit is compared with in docs/area-energy.md."""
