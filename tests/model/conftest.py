from hypothesis import settings


# The same examples on every run and machine; a failing one is printed in full.
settings.register_profile("nearbit", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("nearbit")
